//! Update: another module under running TDs.
//!
//! Everything that can be refused is refused before the running module is touched ([`HostState::preflight`]);
//! everything that needs memory is allocated before the lockstep. Behind TDH.SYS.SHUTDOWN there is no way
//! back: either a module takes over, or the host is [`Lifecycle::Down`], from where another update may still
//! lead back, or [`Lifecycle::Gone`].

mod failure;
mod lockstep;
mod pages;
mod preflight;

use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;
use tdx_image::Image;

use crate::connect::{ConnectError, ConnectState};
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::ext::ExtError;
use crate::host::{HostState, Lifecycle, boot_cpu};
use crate::sync::RawLock;
use crate::sync::atomic::Ordering;
use crate::traits::{LockstepError, LogLevel, PciBus, Platform};

pub use failure::UpdateFailure;
pub use lockstep::INSTALL_TRIES;
pub use preflight::Preflight;

pub(crate) use failure::FailureCell;

use lockstep::{Lockstep, Takeover};
use pages::InstallPages;

/// Ids below it are counted by every published P-SEAMLDR.
pub const X2APIC_ID_LIMIT: u32 = 1024;

/// What the embedder chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateOptions {
    /// Add-on features for the new module, where it offers them; `None`: those that are on.
    pub opt_in: Option<Features0>,
    /// x2APIC ids below it are counted by P-SEAMLDR.
    pub x2apic_limit: u32,
    /// Go on with ids at or above the limit. If P-SEAMLDR does not count them, all TDs are lost.
    pub ignore_x2apic_limit: bool,
    /// Let P-SEAMLDR judge a module that is signed for debugging.
    pub allow_debug: bool,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self { opt_in: None, x2apic_limit: X2APIC_ID_LIMIT, ignore_x2apic_limit: false, allow_debug: false }
    }
}

/// A part of the lockstep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum UpdatePhase {
    /// TDH.SYS.SHUTDOWN on the lead CPU. Left out if the module is down already.
    Shutdown = 0,
    /// SEAMLDR.INSTALL on every CPU, one at a time.
    Install = 1,
    /// TDH.SYS.INIT on the lead CPU, TDH.SYS.LP.INIT on every CPU.
    Init = 2,
    /// TDH.SYS.UPDATE and the version of the new module, on the lead CPU.
    Update = 3,
}

impl UpdatePhase {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Shutdown, Self::Install, Self::Init, Self::Update];

    /// Name for tables and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Install => "install",
            Self::Init => "init",
            Self::Update => "update",
        }
    }
}

/// Told how an update gets on.
///
/// Called on the lead CPU of the lockstep, before any CPU begins the phase: interrupts are off, so that
/// nothing here sleeps, or waits for work on a CPU.
pub trait UpdateObserver: Sync {
    /// A phase begins.
    fn phase_started(&self, phase: UpdatePhase) {
        let _ = phase;
    }
}

/// Nobody wants to know.
impl UpdateObserver for () {}

/// Behind a lockstep no update is under way any more, even if an observer panicked in the middle of it.
struct Settled<'a, C: AsRef<[CpuSlot]>, K>(&'a HostState<C, K>);

impl<C: AsRef<[CpuSlot]>, K> Drop for Settled<'_, C, K> {
    fn drop(&mut self) {
        self.0.settle_update();
    }
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateReport {
    /// Version of the module before.
    pub from: Version,
    /// Version of the module that took over.
    pub to: Version,
    /// CPUs that took part.
    pub cpus: u32,
    /// True if the module was down already, from an update before.
    pub was_down: bool,
    /// Sessions of SEAMLDR.INSTALL; more than one if P-SEAMLDR ran out of entropy.
    pub install_sessions: u32,
    /// Updates that P-SEAMLDR still takes; `None` if it did not tell.
    pub remaining_updates: Option<u32>,
    /// Add-on features that are on.
    pub opted_in: Features0,
    /// Add-on features that were wanted and that the new module did not take.
    pub opt_in_lost: Features0,
}

impl<C, K> HostState<C, K>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: RawLock + Sync,
{
    /// Replaces the module by that of `image`.
    ///
    /// An error of [`Self::preflight`], or one before TDH.SYS.SHUTDOWN succeeded, changed nothing. Otherwise
    /// the module is [`Lifecycle::Down`] or [`Lifecycle::Gone`], and [`Self::update_failure`] tells where
    /// the update stopped. All pages are given back in either case.
    ///
    /// Calls of TDX Connect wait meanwhile ([`Self::connect_gate`]). Its sessions and streams go on with the
    /// new module, unless that wants what it cannot be given: then Connect is dead, and TDX goes on without.
    pub fn update<P>(
        &self,
        platform: &P,
        image: &Image<'_>,
        options: &UpdateOptions,
        observer: &dyn UpdateObserver,
    ) -> Result<UpdateReport, HostError>
    where
        P: Platform + PciBus + ?Sized,
    {
        let _claim = self.claim_update()?;
        let before = self.judge_update(platform, image, options, &mut |_| {})?;
        let lead = boot_cpu(platform)?;
        let pages = InstallPages::new(platform, platform.node_of(lead), image)?;
        let walk = Lockstep::new(self, platform, lead, pages.params(), options.opt_in, observer);
        // Behind everything that takes time: nobody waits longer than for the lockstep.
        let no_connect_calls = match self.connect_gate().close(platform) {
            Ok(guard) => guard,
            Err(error) => {
                pages.free(platform);
                return Err(error);
            }
        };
        let ended = {
            let _settled = Settled(self);
            platform.lockstep(Lockstep::<C, K, P>::STEPS, &|pin, step| walk.step(pin, step))
        };
        let takeover = walk.takeover();
        pages.free(platform);
        let ended = match ended {
            Ok(()) => Ok(self.succeeded(platform, &before, &takeover)),
            Err(error) => Err(self.failed(platform, error)),
        };
        self.carry_connect_over(platform, ended.is_ok());
        drop(no_connect_calls);
        ended
    }

    /// Makes Connect go on behind an update, or says that it is dead.
    fn carry_connect_over<P: Platform + ?Sized>(&self, platform: &P, updated: bool) {
        if !self.connect.usable.load(Ordering::Acquire) {
            return;
        }
        let lost = if updated && self.opted_in().contains(Features0::TDX_CONNECT) {
            match self.restart_extensions(platform) {
                Ok(()) | Err(ExtError::GoingDown) => return,
                Err(ExtError::Off(reason)) => reason,
            }
        } else if updated {
            ConnectError::FeatureLost
        } else if self.lifecycle() == Lifecycle::Gone {
            ConnectError::ModuleGone
        } else {
            // The module goes on as it was, or another image may still take over.
            return;
        };
        self.connect.usable.store(false, Ordering::Release);
        self.connect.state.set(ConnectState::Dead(lost));
        platform.log(
            LogLevel::Error,
            format_args!("TDX Connect is dead, devices that were connected are lost: {lost}"),
        );
    }

    fn succeeded<P>(&self, platform: &P, before: &Preflight, takeover: &Takeover) -> UpdateReport
    where
        P: Platform + ?Sized,
    {
        self.failure_cell().clear();
        let &Takeover { to, opted_in, opt_in_lost, refusal, install_sessions, was_down } = takeover;
        if let Some(error) = refusal {
            platform.log(
                LogLevel::Error,
                format_args!("add-on features {opt_in_lost} are off, the new module refused them: {error}"),
            );
        } else if !opt_in_lost.is_empty() {
            platform.log(
                LogLevel::Warning,
                format_args!("add-on features {opt_in_lost} are off, the new module does not offer them"),
            );
        }
        let from = before.from;
        platform.log(LogLevel::Info, format_args!("TDX module updated from {from} to {to}"));
        let info = self.seamldr().info(platform, &self.port(platform));
        let remaining_updates = info.map(|info| info.num_remaining_updates.get()).ok();
        let cpus = platform.possible();
        UpdateReport { from, to, cpus, was_down, install_sessions, remaining_updates, opted_in, opt_in_lost }
    }

    fn failed<P>(&self, platform: &P, stopped: LockstepError) -> HostError
    where
        P: Platform + ?Sized,
    {
        let LockstepError { phase: step, cpu, error } = stopped;
        let phase = Lockstep::<C, K, P>::phase_of(step);
        let failure = UpdateFailure { phase, cpu, error };
        self.failure_cell().set(&failure);
        let state = match self.lifecycle() {
            Lifecycle::Ready => "the module goes on as it was",
            Lifecycle::Down => "the module is down, only another update is possible",
            Lifecycle::Gone => "the module is gone",
            _ => "the host is going down",
        };
        platform.log(LogLevel::Error, format_args!("TDX module update: {failure}; {state}"));
        error
    }
}
