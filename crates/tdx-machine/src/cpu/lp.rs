//! State of a logical processor: online, CR4.VMXE, VMX operation, MSRs it has written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use crate::chaos::Draws;

/// Why VMXON or VMXOFF did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmxFault {
    /// #UD: CR4.VMXE is 0, or VMXOFF outside VMX operation, or the LP is offline.
    #[error("#UD: CR4.VMXE is clear or the LP is not in VMX operation")]
    InvalidOpcode,
    /// #GP: IA32_FEATURE_CONTROL is not locked or does not allow VMX.
    #[error("#GP: IA32_FEATURE_CONTROL does not allow VMX")]
    GeneralProtection,
    /// VMfailInvalid: the region is misaligned, too high, or carries the wrong revision.
    #[error("VMfailInvalid: bad VMXON region")]
    InvalidRegion,
    /// VMfail: VMXON while in VMX operation already.
    #[error("VMfail: already in VMX operation")]
    AlreadyOn,
}

const ONLINE: u8 = 1;
const VMXE: u8 = 2;
const VMX_ON: u8 = 4;

/// One LP. Aligned to a cache line: other LPs' flags must not move with it.
#[repr(align(64))]
#[derive(Debug)]
pub(crate) struct LpState {
    flags: AtomicU8,
    pub(crate) draws: Draws,
    msrs: Mutex<BTreeMap<u32, u64>>,
}

impl LpState {
    pub(crate) fn new() -> Self {
        Self { flags: AtomicU8::new(ONLINE), draws: Draws::default(), msrs: Mutex::default() }
    }

    /// Power-on: online, nothing set.
    pub(crate) fn reset(&self) {
        self.flags.store(ONLINE, Ordering::Release);
        self.draws.reset();
        self.msrs.lock().clear();
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }

    pub(crate) fn is_online(&self) -> bool {
        self.has(ONLINE)
    }

    pub(crate) fn vmxe(&self) -> bool {
        self.has(VMXE)
    }

    pub(crate) fn in_vmx(&self) -> bool {
        self.has(VMX_ON)
    }

    /// INIT, or an LP that shut down: VMX state and CR4 are lost.
    pub(crate) fn stop(&self) {
        self.flags.store(0, Ordering::Release);
    }

    /// SIPI.
    pub(crate) fn start(&self) {
        self.flags.fetch_or(ONLINE, Ordering::AcqRel);
    }

    /// Writes CR4.VMXE; false if that faults: VMX operation keeps the bit set.
    pub(crate) fn set_vmxe(&self, set: bool) -> bool {
        let change = |flags: u8| match (set, flags & VMX_ON != 0) {
            (true, _) => Some(flags | VMXE),
            (false, false) => Some(flags & !VMXE),
            (false, true) => None,
        };
        self.flags.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }

    /// Enters VMX operation; what the caller cannot see is checked here.
    pub(crate) fn vmxon(&self) -> Result<(), VmxFault> {
        let change = |flags: u8| (flags & (VMXE | VMX_ON) == VMXE).then_some(flags | VMX_ON);
        match self.flags.fetch_update(Ordering::AcqRel, Ordering::Acquire, change) {
            Ok(_) => Ok(()),
            Err(flags) if flags & VMX_ON != 0 => Err(VmxFault::AlreadyOn),
            Err(_) => Err(VmxFault::InvalidOpcode),
        }
    }

    pub(crate) fn vmxoff(&self) -> Result<(), VmxFault> {
        let change = |flags: u8| (flags & VMX_ON != 0).then_some(flags & !VMX_ON);
        self.flags
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, change)
            .map(drop)
            .map_err(|_| VmxFault::InvalidOpcode)
    }

    /// Some other hypervisor got here first.
    pub(crate) fn occupy_vmx(&self) {
        self.flags.fetch_or(VMXE | VMX_ON, Ordering::AcqRel);
    }

    /// Value that this LP has written to an MSR.
    pub(crate) fn written_msr(&self, index: u32) -> Option<u64> {
        self.msrs.lock().get(&index).copied()
    }

    pub(crate) fn write_msr(&self, index: u32, value: u64) {
        self.msrs.lock().insert(index, value);
    }
}
