//! TDH.SYS.SHUTDOWN: leaves everything that a successor needs in the hand-off area.
//!
//! Where the release reports UPDATE_COMPATIBILITY, bit 16 of RCX (AVOID_COMPAT_SENSITIVE) is taken.
//! It refuses by what the module counts, and the module counts only for a host that opted in by R9
//! of SYS.CONFIG or SYS.UPDATE version 1. Assumed: without the opt-in the bit is accepted and
//! refuses nothing. 2.0.14 reports the feature and has no version 1 of SYS.CONFIG, so that a
//! refusal of the bit itself would make the feature useless until the first update.

use tdx_abi::Registers;
use tdx_abi::features::Features0;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit, invalid};
use crate::connect::Connect;
use crate::handoff::CONNECT_VERSION;
use crate::module::{ModuleState, Rules};

/// Bit 16 of RCX: refuse while an update could spoil a measurement.
const AVOID_COMPAT_SENSITIVE: u64 = 1 << 16;
/// Reasons of UPDATE_COMPATIBILITY_SENSITIVE.
const TD_BUILDS: u16 = 0;
const INTERRUPTED_MIGRATIONS: u16 = 1;

pub(crate) fn run(call: &Call<'_>, regs: &Registers) -> Result<Status, Exit> {
    let module = call.module;
    let request = Request::new(&module.rules, regs.rcx)?;
    // TDH.SYS.SHUTDOWN-2
    let _lock = call.global_exclusive()?;
    // Before the look at the other LPs: whoever comes later is turned away.
    module.set_state(ModuleState::SysShutdown);
    hand_off(call, request).inspect_err(|_| module.set_state(ModuleState::SysReady))
}

/// RCX.
#[derive(Clone, Copy, Debug)]
struct Request {
    version: u16,
    avoid_sensitive: bool,
}

impl Request {
    /// RCX is compared as a 64-bit number, so that a reserved bit makes the version too high.
    fn new(rules: &Rules, rcx: u64) -> Result<Self, Exit> {
        let taken = if rules.features0.contains(Features0::UPDATE_COMPATIBILITY) {
            AVOID_COMPAT_SENSITIVE
        } else {
            0
        };
        let versions = rules.sigstruct;
        let lowest = if versions.no_downgrade { versions.module_hv } else { versions.min_update_hv };
        // TDH.SYS.SHUTDOWN-1
        let version = u16::try_from(rcx & !taken)
            .ok()
            .filter(|version| (lowest..=versions.module_hv).contains(version))
            .ok_or_else(|| invalid(OperandId::RCX))?;
        Ok(Self { version, avoid_sensitive: rcx & taken != 0 })
    }
}

fn hand_off(call: &Call<'_>, request: Request) -> Result<Status, Exit> {
    let module = call.module;
    // TDH.SYS.SHUTDOWN-3
    if module.lps.get().is_some_and(|lps| lps.other_inside(call.lp)) {
        return Err(StatusCode::SYS_BUSY.into());
    }
    if request.avoid_sensitive {
        let counters = module.counters();
        // TDH.SYS.SHUTDOWN-4
        if counters.td_builds != 0 {
            return Err(sensitive(counters.td_builds, TD_BUILDS));
        }
        // TDH.SYS.SHUTDOWN-5
        if counters.interrupted_migrations != 0 {
            return Err(sensitive(counters.interrupted_migrations, INTERRUPTED_MIGRATIONS));
        }
    }
    let connect = module.connect.get();
    // TDH.SYS.SHUTDOWN-7
    if connect.is_some_and(Connect::is_interrupted) {
        return Err(StatusCode::SYS_BUSY.into());
    }
    // TDH.SYS.SHUTDOWN-8
    if request.version < CONNECT_VERSION && connect.is_some_and(Connect::holds_pages) {
        return Err(invalid(OperandId::RCX));
    }
    // A ready module is configured.
    let estate = module.estate().ok_or(StatusCode::SYS_NOT_READY)?;
    // TDH.SYS.SHUTDOWN-6. No published release: an image of the test key may claim what it likes.
    if !module.rules.knows_handoff(request.version) {
        return Err(StatusCode::SYS_INVALID_HANDOFF.into());
    }
    module.handoff.region().write(request.version, &estate).map_err(|_| StatusCode::SYS_INVALID_HANDOFF)?;
    Ok(Status::SUCCESS)
}

/// UPDATE_COMPATIBILITY_SENSITIVE: count in bits 31:16, reason in bits 15:0.
fn sensitive(count: u16, reason: u16) -> Exit {
    let detail = u32::from(count) << 16 | u32::from(reason);
    StatusCode::UPDATE_COMPATIBILITY_SENSITIVE.with_detail(detail).into()
}
