//! One call while it runs, and the ways in which it can end.

use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{KeyId, PhysAddr};

use crate::hardware::{Hardware, LockName, LpIndex, MachineCheck};
use crate::lock::{ExclusiveGuard, SharedGuard};
use crate::lps::LpSlot;
use crate::module::Module;

/// Why a leaf stops before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The caller gets this status.
    Status(Status),
    /// The module read poison: it is gone for good.
    MachineCheck(MachineCheck),
}

impl From<Status> for Exit {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<StatusCode> for Exit {
    fn from(code: StatusCode) -> Self {
        Self::Status(code.plain())
    }
}

impl From<MachineCheck> for Exit {
    fn from(check: MachineCheck) -> Self {
        Self::MachineCheck(check)
    }
}

/// OPERAND_INVALID that names `operand`.
pub(crate) fn invalid(operand: OperandId) -> Exit {
    Exit::Status(StatusCode::OPERAND_INVALID.with_operand(operand))
}

/// A SEAMCALL inside the module.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) module: &'a Module,
    pub(crate) hw: &'a dyn Hardware,
    pub(crate) lp: LpIndex,
    pub(crate) slot: &'a LpSlot,
    pub(crate) version: u8,
}

impl<'a> Call<'a> {
    /// The global lock for this LP alone, or SYS_BUSY.
    pub(crate) fn global_exclusive(&self) -> Result<ExclusiveGuard<'a>, Exit> {
        if self.hw.contended(self.lp, LockName::Global) {
            return Err(StatusCode::SYS_BUSY.into());
        }
        self.module.global.try_exclusive().ok_or_else(|| StatusCode::SYS_BUSY.into())
    }

    /// The global lock together with other LPs, or SYS_BUSY.
    pub(crate) fn global_shared(&self) -> Result<SharedGuard<'a>, Exit> {
        if self.hw.contended(self.lp, LockName::Global) {
            return Err(StatusCode::SYS_BUSY.into());
        }
        self.module.global.try_shared().ok_or_else(|| StatusCode::SYS_BUSY.into())
    }

    /// Reads a little-endian word.
    pub(crate) fn read_u64(&self, pa: PhysAddr, key: KeyId) -> Result<u64, Exit> {
        let mut bytes = [0; 8];
        self.hw.read(pa, key, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
