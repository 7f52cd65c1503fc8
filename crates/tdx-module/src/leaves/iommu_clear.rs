//! TDH.IOMMU.CLEAR: takes a VT-d unit out of TDX mode and gives its pages back in the caller's root page, as
//! entries of an IOMMU_MT.
//!
//! Assumed: rows 6 to 8. A unit that does not leave TDX mode keeps its pages, for it may still use them.

use tdx_abi::connect::ids::TdxIommuId;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PhysAddr, Registers};

use super::iommu_setup::POLLS;
use crate::call::{Call, Exit, invalid};
use crate::connect::{CommandStatus, IommuTable, Unit, UnitRegisters, UnitState};

pub(crate) fn run(call: &Call<'_>, regs: &Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    // TDH.IOMMU.CLEAR-1
    let unit = connect.units.get(TdxIommuId(regs.rcx)).ok_or_else(|| invalid(OperandId::RCX))?;
    // TDH.IOMMU.CLEAR-4
    let _lock = call.lock_unit(unit, OperandId::RCX)?;
    // TDH.IOMMU.CLEAR-2
    if unit.active_sessions() != 0 || unit.streams() != 0 {
        return Err(StatusCode::IOMMU_INVALID_STATE.into());
    }
    // TDH.IOMMU.CLEAR-5
    if unit.sessions() != 0 {
        return Err(StatusCode::SPDM_INVALID_STATE.into());
    }
    let (table, issued) = match unit.state() {
        // A unit that was never set up has nothing to give back.
        UnitState::Free => {
            unit.next_generation();
            return Ok(Status::SUCCESS);
        }
        UnitState::Configured(table) | UnitState::Setup { table, .. } => (table, false),
        UnitState::Clearing { table, issued } => (table, issued),
    };
    // TDH.IOMMU.CLEAR-6
    let root = call.host_page(regs.rdx, OperandId::RDX)?;
    let clear = Clear { call: *call, unit, registers: UnitRegisters::new(call.io()?, unit.facts()), table };
    clear.run(issued, root)
}

/// A unit on its way out of TDX mode.
struct Clear<'a> {
    call: Call<'a>,
    unit: &'a Unit,
    registers: UnitRegisters<'a>,
    table: IommuTable,
}

impl Clear<'_> {
    fn remember(&self, issued: bool) {
        self.unit.set_state(UnitState::Clearing { table: self.table.clone(), issued });
    }

    fn run(&self, issued: bool, root: PhysAddr) -> Result<Status, Exit> {
        if !issued {
            // The command of an unfinished SETUP may still be under way.
            self.remember(false);
            self.wait()?;
            self.registers.unprogram();
            if self.registers.is_in_tdx_mode() {
                self.registers.issue();
            }
            self.remember(true);
            self.interrupted()?;
        }
        self.wait()?;
        if self.registers.is_in_tdx_mode() {
            // The next call issues the command again.
            self.remember(false);
            // TDH.IOMMU.CLEAR-8
            return Err(StatusCode::IOMMU_ECMD_ERROR.into());
        }
        self.registers.wipe();
        self.registers.protect(false);
        self.call.write_words(root, self.table.entries());
        self.call.release(&self.table.pages());
        self.unit.set_state(UnitState::Free);
        self.unit.next_generation();
        Ok(Status::SUCCESS)
    }

    fn interrupted(&self) -> Result<(), Exit> {
        // TDH.IOMMU.CLEAR-3
        if self.call.hw.interrupt_pending(self.call.lp) {
            return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
        }
        Ok(())
    }

    /// Until no command is under way.
    fn wait(&self) -> Result<(), Exit> {
        for _ in 0..POLLS {
            match self.registers.command_status() {
                CommandStatus::InProgress => self.interrupted()?,
                CommandStatus::Done | CommandStatus::Failed => return Ok(()),
            }
        }
        // TDH.IOMMU.CLEAR-7
        Err(StatusCode::IOMMU_ECMD_TIMEOUT.into())
    }
}
