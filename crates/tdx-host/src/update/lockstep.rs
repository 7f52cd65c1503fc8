//! The phases of an update, on all CPUs together with interrupts off: no allocation, no sleeping lock.

use tdx_abi::PhysAddr;
use tdx_abi::features::Features0;
use tdx_abi::metadata::{FieldId, sys};
use tdx_abi::seamldr::Version;
use tdx_abi::status::SeamldrStatus;

use super::failure::{is_recoverable, judge};
use super::preflight::all_online;
use super::{UpdateObserver, UpdatePhase};
use crate::bringup::{SUPPORTED_ADDONS, addon_features, opt_in_refused};
use crate::cpu::{CpuSlot, slot};
use crate::error::HostError;
use crate::host::{HostState, Lifecycle};
use crate::seamcall::{HandoffVersion, SeamPort, SeamcallCause, SeamcallError};
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::{RawLock, SeqCell};
use crate::sysinfo::{self, SysInfo};
use crate::traits::{CpuNumber, CpuPin, Platform};

/// Sessions of SEAMLDR.INSTALL in one update: P-SEAMLDR ends one without a trace when it finds no entropy.
pub const INSTALL_TRIES: u32 = 5;

/// Steps of the lockstep. The lead CPU's own ones stand alone, so that what it announces comes before the
/// first call of the phase.
const SHUTDOWN: u32 = 0;
const FIRST_INSTALL: u32 = 1;
const LAST_INSTALL: u32 = FIRST_INSTALL + INSTALL_TRIES - 1;
const SYS_INIT: u32 = LAST_INSTALL + 1;
const LP_INIT: u32 = SYS_INIT + 1;
const UPDATE: u32 = LP_INIT + 1;

/// The result of a lockstep that succeeded.
pub(super) struct Takeover {
    pub(super) to: Version,
    pub(super) opted_in: Features0,
    pub(super) opt_in_lost: Features0,
    /// Why the new module took fewer features than it offers.
    pub(super) refusal: Option<SeamcallError>,
    pub(super) install_sessions: u32,
    pub(super) was_down: bool,
}

/// One run of the phases.
pub(super) struct Lockstep<'a, C, K, P: Platform + ?Sized> {
    host: &'a HostState<C, K>,
    platform: &'a P,
    lead: CpuNumber,
    params: PhysAddr,
    observer: &'a dyn UpdateObserver,
    /// The old module was down already, by an update before.
    was_down: AtomicBool,
    /// The step of SEAMLDR.INSTALL that is to run, or ran last.
    install_step: AtomicU32,
    /// Its session. Kept here as well: the running number changes while CPUs are still in the step.
    session: AtomicU32,
    /// Add-on features that are on, and those that are wanted behind.
    before: Features0,
    wanted: Features0,
    /// A refusal of TDH.SYS.UPDATE version 1, version 0 having been taken.
    refusal: SeqCell<5>,
}

impl<'a, C, K, P> Lockstep<'a, C, K, P>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: RawLock + Sync,
    P: Platform + ?Sized,
{
    /// How many there are.
    pub(super) const STEPS: u32 = UPDATE + 1;

    pub(super) fn new(
        host: &'a HostState<C, K>,
        platform: &'a P,
        lead: CpuNumber,
        params: PhysAddr,
        opt_in: Option<Features0>,
        observer: &'a dyn UpdateObserver,
    ) -> Self {
        let before = host.opted_in();
        Self {
            host,
            platform,
            lead,
            params,
            observer,
            was_down: AtomicBool::new(false),
            install_step: AtomicU32::new(FIRST_INSTALL),
            session: AtomicU32::new(host.seamldr().session()),
            before,
            // An update switches nothing on by itself.
            wanted: opt_in.unwrap_or(before).difference(Features0::EXT).difference(host.unfit_addons()),
            refusal: SeqCell::new(),
        }
    }

    /// The phase of a step.
    pub(super) const fn phase_of(step: u32) -> UpdatePhase {
        match step {
            SHUTDOWN => UpdatePhase::Shutdown,
            FIRST_INSTALL..=LAST_INSTALL => UpdatePhase::Install,
            SYS_INIT | LP_INIT => UpdatePhase::Init,
            _ => UpdatePhase::Update,
        }
    }

    /// What the last step left; of meaning if none failed.
    pub(super) fn takeover(&self) -> Takeover {
        let opted_in = self.host.opted_in();
        Takeover {
            to: self.host.last_sysinfo().map_or(Version::default(), |info| info.last_version()),
            opted_in,
            opt_in_lost: self.wanted.difference(opted_in),
            refusal: self.refusal.read().map(SeamcallError::from_words),
            install_sessions: self.install_step.load(Ordering::Acquire) - FIRST_INSTALL + 1,
            was_down: self.was_down.load(Ordering::Acquire),
        }
    }

    /// Step `step` on the CPU of `pin`.
    pub(super) fn step(&self, pin: &CpuPin<'_>, step: u32) -> Result<(), HostError> {
        let lead = pin.cpu() == self.lead;
        match step {
            SHUTDOWN if lead => self.shut_down(pin),
            // The lead CPU went before the set of CPUs was frozen: nobody would shut the module down.
            SHUTDOWN if !self.platform.is_online(self.lead) => all_online(self.platform),
            FIRST_INSTALL..=LAST_INSTALL => self.install(pin, step),
            SYS_INIT if lead => {
                self.observer.phase_started(UpdatePhase::Init);
                let init = self.host.init_new_module(&self.port(), pin);
                init.map_err(|error| self.fail(UpdatePhase::Init, pin, error))
            }
            LP_INIT => self.init_lp(pin),
            UPDATE if lead => self.take_over(pin),
            _ => Ok(()),
        }
    }

    fn port(&self) -> SeamPort<'a, P> {
        self.host.port(self.platform).for_update()
    }

    /// Ends the old module. After an error it goes on as it was.
    fn shut_down(&self, pin: &CpuPin<'_>) -> Result<(), HostError> {
        // Again, as the set of CPUs was not frozen when the image was judged.
        all_online(self.platform)?;
        let kept = self.host.last_sysinfo().ok_or(HostError::NotInitialised)?;
        if self.host.step(Lifecycle::Down, Lifecycle::Updating).is_ok() {
            self.was_down.store(true, Ordering::Release);
        } else {
            self.host.nothing_suspended()?;
            self.host.step(Lifecycle::Ready, Lifecycle::Updating).map_err(|_| HostError::GoingDown)?;
            self.observer.phase_started(UpdatePhase::Shutdown);
            if let Err(error) = self.call_shutdown(pin, &kept) {
                self.host.sysinfo_cell().set(&kept);
                // Refused after a crash, which keeps its own state.
                let _ = self.host.step(Lifecycle::Updating, Lifecycle::Ready);
                return Err(judge(UpdatePhase::Shutdown, pin.cpu(), error));
            }
        }
        self.observer.phase_started(UpdatePhase::Install);
        Ok(())
    }

    fn call_shutdown(&self, pin: &CpuPin<'_>, kept: &SysInfo) -> Result<(), SeamcallError> {
        let port = self.port();
        // Asked anew: what is kept may be that of a module two updates ago.
        let newest = port.sys_rd(pin, sys::MODULE_HV)?;
        let handoff = HandoffVersion(u16::try_from(newest).unwrap_or(u16::MAX));
        let mut withdrawn = *kept;
        // What waits for a successor is of this version, even if it is another image's.
        withdrawn.set_handoff_version(handoff.0);
        // Before the call: a version that is read behind it must not be the old module's.
        withdrawn.withdraw_version();
        self.host.sysinfo_cell().set(&withdrawn);
        let avoid_sensitive = self.before.contains(Features0::UPDATE_COMPATIBILITY);
        port.sys_shutdown(pin, handoff, avoid_sensitive)?;
        self.host.gate().module_down();
        self.host.cpus().iter().for_each(CpuSlot::clear_lp_initialised);
        Ok(())
    }

    fn install(&self, pin: &CpuPin<'_>, step: u32) -> Result<(), HostError> {
        if self.install_step.load(Ordering::Acquire) != step {
            return Ok(());
        }
        let (loader, session) = (self.host.seamldr(), self.session.load(Ordering::Acquire));
        let installed = loader.install(&self.port(), pin, self.host.cpus(), session, self.params);
        let Err(error) = installed else { return Ok(()) };
        let no_entropy = error.cause == SeamcallCause::Loader(SeamldrStatus::ENOENTROPY);
        if no_entropy && is_recoverable(&error) && step < LAST_INSTALL {
            // The session ended on all CPUs: all of them call again.
            self.install_step.store(step + 1, Ordering::Release);
            self.session.store(loader.session(), Ordering::Release);
            return Ok(());
        }
        Err(self.fail(UpdatePhase::Install, pin, error))
    }

    fn init_lp(&self, pin: &CpuPin<'_>) -> Result<(), HostError> {
        let started = self.port().sys_lp_init(pin);
        started.map_err(|error| self.fail(UpdatePhase::Init, pin, error))?;
        slot(self.host.cpus(), pin.cpu())?.set_lp_initialised();
        Ok(())
    }

    fn take_over(&self, pin: &CpuPin<'_>) -> Result<(), HostError> {
        self.observer.phase_started(UpdatePhase::Update);
        let opted_in = self.call_update(pin).map_err(|error| self.fail(UpdatePhase::Update, pin, error))?;
        let mut info = self.host.last_sysinfo().ok_or(HostError::NotInitialised)?;
        let refreshed = sysinfo::refresh_version(&self.port(), pin, &mut info);
        refreshed.map_err(|(field, error)| self.fail_reading(pin, field, error))?;
        self.host.set_opted_in(opted_in);
        self.host.sysinfo_cell().set(&info);
        self.host.gate().module_back();
        self.host.step(Lifecycle::Updating, Lifecycle::Ready).map_err(|_| HostError::GoingDown)
    }

    /// TDH.SYS.UPDATE with the wanted features that the new module offers; those that are on then.
    fn call_update(&self, pin: &CpuPin<'_>) -> Result<Features0, SeamcallError> {
        let port = self.port();
        let none = Features0::default();
        if self.wanted.is_empty() {
            return port.sys_update(pin, none).map(|()| none);
        }
        let offered = Features0::from_bits(port.sys_rd(pin, sys::TDX_FEATURES0)?);
        let unwanted = SUPPORTED_ADDONS.difference(self.wanted);
        let wanted = addon_features(offered, self.wanted, unwanted);
        match port.sys_update(pin, wanted) {
            Ok(()) => Ok(wanted),
            // Refused before it did anything: the state of the old module is still to be had.
            Err(error) if !wanted.is_empty() && opt_in_refused(&error) => {
                self.refusal.publish(&error.to_words());
                port.sys_update(pin, none).map(|()| none)
            }
            Err(error) => Err(error),
        }
    }

    /// Notes what a failure behind TDH.SYS.SHUTDOWN leaves; its name.
    fn fail(&self, phase: UpdatePhase, pin: &CpuPin<'_>, error: SeamcallError) -> HostError {
        let recoverable = phase == UpdatePhase::Install && is_recoverable(&error);
        self.leave(recoverable, &error);
        judge(phase, pin.cpu(), error)
    }

    fn fail_reading(&self, pin: &CpuPin<'_>, field: FieldId, error: SeamcallError) -> HostError {
        match self.fail(UpdatePhase::Update, pin, error) {
            HostError::GoingDown => HostError::GoingDown,
            _ => HostError::MetadataReadFailed { field, error },
        }
    }

    fn leave(&self, recoverable: bool, error: &SeamcallError) {
        if error.cause == SeamcallCause::GoingDown {
            return;
        }
        // Refused after a crash, and to a CPU that comes second with less bad news.
        if recoverable {
            let _ = self.host.step(Lifecycle::Updating, Lifecycle::Down);
        } else {
            self.host.gate().module_gone();
            let _ = self.host.step(Lifecycle::Updating, Lifecycle::Gone);
            let _ = self.host.step(Lifecycle::Down, Lifecycle::Gone);
        }
    }
}
