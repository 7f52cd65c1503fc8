//! CPUs: their numbers, the token of running on one, and ways to get there.

use core::fmt;
use core::marker::PhantomData;

use super::NodeId;
use crate::error::HostError;

/// Number of a CPU as the operating system counts, 0-based and dense over the possible CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CpuNumber(pub u32);

/// Number of a CPU package, 0-based and dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PackageId(pub u32);

impl fmt::Display for CpuNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}", self.0)
    }
}

impl fmt::Display for PackageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "package {}", self.0)
    }
}

/// Proof that the code runs on one CPU and will not be moved.
///
/// It cannot leave the thread that got it, nor outlive the visit:
///
/// ```compile_fail
/// use tdx_host::traits::{CpuNumber, CpuPin};
/// CpuPin::enter(CpuNumber(0), |pin| {
///     std::thread::scope(|scope| {
///         scope.spawn(|| pin.cpu());
///     });
/// });
/// ```
///
/// ```compile_fail
/// use tdx_host::traits::{CpuNumber, CpuPin};
/// let kept = CpuPin::enter(CpuNumber(0), |pin| pin);
/// ```
#[derive(Debug)]
pub struct CpuPin<'visit> {
    cpu: CpuNumber,
    visit: PhantomData<Visit<'visit>>,
}

/// Neither Send nor Sync, as raw pointers are not, and invariant in the lifetime.
type Visit<'visit> = (*const (), fn(&'visit ()) -> &'visit ());

impl CpuPin<'_> {
    /// Runs `visitor` with the token of `cpu`.
    ///
    /// For implementations of [`Cpus`] alone: the caller already runs on `cpu` and stays there, not
    /// preempted, until `visitor` returns.
    pub fn enter<R>(cpu: CpuNumber, visitor: impl FnOnce(&CpuPin<'_>) -> R) -> R {
        visitor(&CpuPin { cpu, visit: PhantomData })
    }

    /// The CPU.
    pub const fn cpu(&self) -> CpuNumber {
        self.cpu
    }
}

/// What runs on every CPU of a call, maybe on several at the same time.
pub type PerCpu<'a> = dyn Fn(&CpuPin<'_>) -> Result<(), HostError> + Sync + 'a;

/// What every CPU runs in each phase of a lockstep; the number counts phases from 0.
pub type LockstepFn<'a> = dyn Fn(&CpuPin<'_>, u32) -> Result<(), HostError> + Sync + 'a;

/// A lockstep ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockstepError {
    /// The phase in which all CPUs stopped.
    pub phase: u32,
    /// The lowest-numbered CPU that failed in it.
    pub cpu: CpuNumber,
    /// How.
    pub error: HostError,
}

/// The CPUs and ways to run on them.
///
/// While one of the `on_…` methods runs, the set of online CPUs does not change.
pub trait Cpus: Sync {
    /// Number of possible CPUs, online or not.
    fn possible(&self) -> u32;

    /// Number of CPU packages.
    fn packages(&self) -> u32;

    /// True if `cpu` is online.
    fn is_online(&self, cpu: CpuNumber) -> bool;

    /// Package of `cpu`.
    fn package_of(&self, cpu: CpuNumber) -> PackageId;

    /// Memory node of `cpu`.
    fn node_of(&self, cpu: CpuNumber) -> NodeId;

    /// Runs `visitor` on `cpu`; [`HostError::CpuOffline`] if it is not online.
    fn on_cpu(&self, cpu: CpuNumber, visitor: &PerCpu<'_>) -> Result<(), HostError>;

    /// Runs `visitor` on every online CPU, one after the other or together.
    ///
    /// The result is that of the lowest-numbered CPU that failed; CPUs behind it may or may not have run.
    fn on_each_cpu(&self, visitor: &PerCpu<'_>) -> Result<(), HostError>;

    /// As [`Cpus::on_each_cpu`] for the CPUs of a list, each named once.
    fn on_cpus(&self, cpus: &[CpuNumber], visitor: &PerCpu<'_>) -> Result<(), HostError>;

    /// Takes all online CPUs through `phases` phases: none enters a phase before all have ended the one
    /// before it. A failure on any of them stops all at the end of that phase.
    ///
    /// From before the first phase until behind the last no CPU comes or goes and nothing else runs on any
    /// of them; interrupts are off, so that `visitor` neither allocates nor sleeps.
    fn lockstep(&self, phases: u32, visitor: &LockstepFn<'_>) -> Result<(), LockstepError>;
}

/// The lowest-numbered online CPU that `wanted` accepts.
pub(crate) fn first_online<C: Cpus + ?Sized>(
    cpus: &C,
    wanted: impl Fn(CpuNumber) -> bool,
) -> Option<CpuNumber> {
    (0..cpus.possible()).map(CpuNumber).find(|&cpu| cpus.is_online(cpu) && wanted(cpu))
}
