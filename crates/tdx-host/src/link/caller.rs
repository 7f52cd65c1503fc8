//! Calls for one device: through the gate, under the lock of the extension, with failures in its name.

use core::fmt;

use pcie::FunctionId;
use tdx_abi::connect::pages::HpaArray;
use tdx_abi::connect::refusal::Refusal;
use tdx_abi::status::StatusCode;

use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{HostState, write_caches_back};
use crate::page_list::{DonatedList, PageList, RootPage};
use crate::seamcall::{Marshalled, SeamPort, SeamcallCause, SeamcallError, VisitError};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{RawLock, SeqCell, with_lock};
use crate::sysinfo::ConnectSizes;
use crate::traits::{
    CpuNumber, CpuPin, LogLevel, MemoryFault, NodeId, PciBus, PerCpu, Platform, Uevents, first_online,
};
use crate::tsm::TsmError;

/// What connecting needs of the system: a platform with PCIe and events.
pub trait TsmPlatform: Platform + PciBus + Uevents {}

impl<P: Platform + PciBus + Uevents> TsmPlatform for P {}

/// Which lock a call stands under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// None: an ordinary leaf.
    Free,
    /// The one of the module's extension, which takes one call at a time.
    Extension,
}

/// Whoever calls the module for a device.
pub(crate) struct Caller<'a, C, K, P: ?Sized, E> {
    pub(crate) host: &'a HostState<C, K>,
    pub(crate) platform: &'a P,
    /// Held over a group of calls of an extension leaf.
    pub(crate) extension: &'a E,
    /// Counts pages that the module kept.
    pub(crate) kept: &'a AtomicU64,
    pub(crate) sizes: ConnectSizes,
    pub(crate) device: FunctionId,
}

/// A call on a CPU, with two words of output.
type CallFn<'a> = dyn Fn(&CpuPin<'_>) -> Result<[u64; 2], SeamcallError> + Sync + 'a;

/// A call that may want a message exchanged.
pub(crate) type MarshalledFn<'a, P> =
    dyn Fn(&SeamPort<'_, P>, &CpuPin<'_>) -> Result<Marshalled, SeamcallError> + Sync + 'a;

impl<C, K, P, E> Caller<'_, C, K, P, E>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: Sync,
    P: TsmPlatform + ?Sized,
    E: RawLock + Sync,
{
    /// Calls until the module is not interrupted any more.
    fn run(&self, slot: Slot, call: &CallFn<'_>) -> Result<[u64; 2], VisitError> {
        let _no_update = self.host.connect_gate().enter(self.platform).map_err(VisitError::Host)?;
        let cell = SeqCell::<6>::new();
        let visit = |pin: &CpuPin<'_>| {
            cell.publish(&match call(pin) {
                Ok([rcx, rdx]) => [0, rcx, rdx, 0, 0, 0],
                Err(error) => {
                    let [cause, value, leaf, rcx, rdx] = error.to_words();
                    [1, cause, value, leaf, rcx, rdx]
                }
            });
            Ok(())
        };
        match slot {
            Slot::Free => self.visit_a_cpu(&visit),
            Slot::Extension => with_lock(self.extension, || self.visit_a_cpu(&visit)),
        }
        .map_err(VisitError::Host)?;
        match cell.read() {
            Some([0, rcx, rdx, ..]) => Ok([rcx, rdx]),
            Some([_, error @ ..]) => Err(VisitError::Call(SeamcallError::from_words(error))),
            None => Err(VisitError::Host(HostError::NoCpuOnline)),
        }
    }

    /// Runs on a CPU that the device's place picks, so that devices share the CPUs out.
    fn visit_a_cpu(&self, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        for _ in 0..self.platform.possible() {
            let cpu = self.cpu().ok_or(HostError::NoCpuOnline)?;
            match self.platform.on_cpu(cpu, visitor) {
                Err(HostError::CpuOffline { cpu: gone }) if gone == cpu => {}
                done => return done,
            }
        }
        Err(HostError::NoCpuOnline)
    }

    fn cpu(&self) -> Option<CpuNumber> {
        let from = u32::from(self.device.bdf.routing_id()) % self.platform.possible().max(1);
        first_online(self.platform, |cpu| cpu.0 >= from).or_else(|| first_online(self.platform, |_| true))
    }

    /// A call; its RCX and RDX.
    pub(crate) fn call(
        &self,
        call: impl Fn(&SeamPort<'_, P>, &CpuPin<'_>) -> Result<[u64; 2], SeamcallError> + Sync,
    ) -> Result<[u64; 2], VisitError> {
        let port = self.host.port(self.platform);
        self.run(Slot::Free, &|pin| call(&port, pin))
    }

    /// A call that may want a message exchanged.
    pub(crate) fn marshalled(
        &self,
        slot: Slot,
        call: &MarshalledFn<'_, P>,
    ) -> Result<Marshalled, VisitError> {
        let port = self.host.port(self.platform);
        let words = self.run(slot, &|pin| {
            Ok(match call(&port, pin)? {
                Marshalled::Done { bytes } => [0, bytes],
                Marshalled::Send { bytes } => [1, bytes],
                Marshalled::KeysUsedUp => [2, 0],
            })
        })?;
        Ok(match words {
            [0, bytes] => Marshalled::Done { bytes },
            [1, bytes] => Marshalled::Send { bytes },
            _ => Marshalled::KeysUsedUp,
        })
    }

    /// A failure in the device's name.
    pub(crate) fn failed(&self, failure: VisitError) -> TsmError {
        let device = self.device;
        let error = match failure {
            VisitError::Host(HostError::GoingDown) => return TsmError::GoingDown { device },
            VisitError::Host(error) => return TsmError::HostFailed { device, error },
            VisitError::Call(error) => error,
        };
        let SeamcallCause::Status(status) = error.cause else {
            return match error.cause {
                SeamcallCause::GoingDown => TsmError::GoingDown { device },
                SeamcallCause::Down => TsmError::ModuleDown { device },
                _ => TsmError::CallFailed { device, error },
            };
        };
        let refusal = Refusal::from_detail(status.detail());
        match status.code() {
            StatusCode::SPDM_INVALID_MESSAGE => TsmError::DeviceRefused { device, error, refusal },
            StatusCode::SPDM_AUTH_FAILED => TsmError::NotAuthentic { device, error, refusal },
            StatusCode::IDE_STREAM_IDEKM_INVALID_RESPONSE => TsmError::KeysRefused { device, error, refusal },
            StatusCode::IDE_STREAM_IDEKM_KEYS_NOT_READY => TsmError::KeysNotReady { device, error },
            _ => TsmError::CallFailed { device, error },
        }
    }

    /// A failure of the host in the device's name.
    pub(crate) fn host_failed(&self, error: HostError, pages: usize) -> TsmError {
        let device = self.device;
        match error {
            HostError::NoMemory { .. } => TsmError::NoMemory { device, pages },
            HostError::MemoryAccessFailed { fault } => TsmError::PageAccess { device, fault },
            HostError::GoingDown => TsmError::GoingDown { device },
            error => TsmError::HostFailed { device, error },
        }
    }

    /// A failed access to a page.
    pub(crate) fn access(&self) -> impl Fn(MemoryFault) -> TsmError + use<C, K, P, E> {
        let device = self.device;
        move |fault| TsmError::PageAccess { device, fault }
    }

    /// Says something about the device.
    pub(crate) fn warn(&self, what: &str, error: &TsmError) {
        self.platform.log(LogLevel::Warning, format_args!("{what}: {error}"));
    }

    /// The node on which pages for the device's objects are looked for.
    pub(crate) fn node(&self) -> NodeId {
        self.cpu().map_or_else(NodeId::default, |cpu| self.platform.node_of(cpu))
    }

    /// Pages for an object that the module is to make, and the operand that names them.
    pub(crate) fn give(
        &self,
        root: &RootPage<P::Leaks>,
        count: usize,
    ) -> Result<(DonatedList<P::Leaks>, HpaArray), TsmError> {
        let pages = PageList::alloc(self.platform, count, self.node());
        let pages: PageList<P::Leaks> = pages.map_err(|error| self.host_failed(error, count))?;
        match root.hpa_array(self.platform, &pages) {
            Ok(array) => Ok((pages.donate(self.platform), array)),
            Err(error) => {
                pages.free(self.platform);
                Err(self.host_failed(error, count))
            }
        }
    }

    /// Pages of `what`, behind the call that was to delete it. A failure is told in the log.
    pub(crate) fn take_deleted(
        &self,
        what: &str,
        pages: DonatedList<P::Leaks>,
        root: &RootPage<P::Leaks>,
        deleted: Result<[u64; 2], VisitError>,
    ) {
        let warn = |line: fmt::Arguments<'_>| self.platform.log(LogLevel::Warning, line);
        match deleted {
            Ok([rcx, _]) => {
                let returned = root.released(self.platform, rcx);
                if let Err(error) = self.take_back(pages, |page| returned.names(page)) {
                    warn(format_args!("pages of a {what} are lost: {error}"));
                }
            }
            Err(failure) if module_is_gone(&failure) => self.take_from_the_dead(pages),
            Err(failure) => {
                let error = self.failed(failure);
                warn(format_args!("a {what} was not deleted, its pages are lost: {error}"));
            }
        }
    }

    /// Pages that a failed call named: the module owns none of them.
    pub(crate) fn take_untouched(&self, pages: DonatedList<P::Leaks>) {
        write_caches_back(self.platform);
        pages.never_taken().free(self.platform);
    }

    /// Pages of an object that the module deleted: those that `returned` names are the host's again. An
    /// error if the module kept some, which are then lost.
    fn take_back(
        &self,
        pages: DonatedList<P::Leaks>,
        returned: impl Fn(tdx_abi::PhysAddr) -> bool,
    ) -> Result<(), TsmError> {
        write_caches_back(self.platform);
        let back = pages.take_back(returned);
        // The module initialised them under its own key.
        back.pages.into_owned(self.platform).free(self.platform);
        if back.missing == 0 {
            return Ok(());
        }
        self.kept.fetch_add(back.missing as u64, Ordering::AcqRel);
        Err(TsmError::PagesMissing { device: self.device, pages: back.missing })
    }

    /// Pages of a module that is gone for good.
    fn take_from_the_dead(&self, pages: DonatedList<P::Leaks>) {
        write_caches_back(self.platform);
        pages.reclaim().into_owned(self.platform).free(self.platform);
    }
}

/// True if the module answered with `code`.
pub(super) fn answered(failure: &VisitError, code: StatusCode) -> bool {
    matches!(failure, VisitError::Call(error) if error.is(code))
}

/// True if no module is left in this boot.
fn module_is_gone(failure: &VisitError) -> bool {
    matches!(failure, VisitError::Call(error) if error.cause == SeamcallCause::Gone)
}
