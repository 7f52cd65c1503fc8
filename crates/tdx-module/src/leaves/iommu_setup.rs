//! TDH.IOMMU.SETUP: takes the pages of a VT-d unit and puts it into TDX mode.
//!
//! The first call looks at everything and takes the pages; what follows are steps that can be done again,
//! with a look for interrupts between them. Assumed: beside `IOMMU_ECMD_TIMEOUT` and `IOMMU_ECMD_ERROR` RCX
//! holds the id of the unit, so that a host which gives up can take unit and pages back with TDH.IOMMU.CLEAR.

use tdx_abi::connect::pages::IommuBlock;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PhysAddr, Registers};

use crate::call::{Call, Exit, invalid};
use crate::connect::{
    CommandStatus, IommuTable, Owner, PageRefusal, Progress, Unit, UnitRegisters, UnitState,
};

/// Looks at ECRSP in one call.
pub(crate) const POLLS: u32 = 64;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    let base = call.listed_page(regs.rcx, OperandId::RCX);
    // TDH.IOMMU.SETUP-1
    let unit = connect.units.at(base?).ok_or_else(|| invalid(OperandId::RCX))?;
    let registers = UnitRegisters::new(call.io()?, unit.facts());
    if !registers.is_tdx_capable() {
        return Err(invalid(OperandId::RCX));
    }
    // TDH.IOMMU.SETUP-9
    let _lock = call.lock_unit(unit, OperandId::RCX)?;
    let root = regs.rdx;
    let (table, root, progress) = match unit.state() {
        UnitState::Free => {
            let (table, root) = take(call, unit, registers, root)?;
            (table, root, Progress::Protect)
        }
        // A call that was interrupted, or timed out, goes on with the operands that it began with.
        UnitState::Setup { table, root: begun, progress } => {
            // TDH.IOMMU.SETUP-3
            if begun.as_u64() != root {
                return Err(invalid(OperandId::RDX));
            }
            (table, begun, progress)
        }
        // TDH.IOMMU.SETUP-2
        UnitState::Configured(_) | UnitState::Clearing { .. } => {
            return Err(StatusCode::IOMMU_INVALID_STATE.into());
        }
    };
    let setup = Setup { call: *call, unit, registers, table, root };
    match setup.run(progress)? {
        Outcome::Configured => {
            regs.rcx = unit.id().0;
            Ok(Status::SUCCESS)
        }
        // TDH.IOMMU.SETUP-6
        Outcome::TimedOut => {
            regs.rcx = unit.id().0;
            Err(StatusCode::IOMMU_ECMD_TIMEOUT.into())
        }
        // TDH.IOMMU.SETUP-7
        Outcome::Failed => {
            setup.undo();
            regs.rcx = unit.id().0;
            Err(StatusCode::IOMMU_ECMD_ERROR.into())
        }
    }
}

/// Rows 3 to 5, and the pages.
fn take(
    call: &Call<'_>,
    unit: &Unit,
    registers: UnitRegisters<'_>,
    root: u64,
) -> Result<(IommuTable, PhysAddr), Exit> {
    let refused = |refusal| match refusal {
        PageRefusal::Twice | PageRefusal::InUse => Exit::from(StatusCode::IOMMU_MT_PAGE_IN_USE),
        PageRefusal::NotUsable => StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::RDX).into(),
    };
    // TDH.IOMMU.SETUP-3
    let root = call.host_page(root, OperandId::RDX)?;
    let table = read_table(call, root)?;
    let pages = table.pages();
    call.check_pages(&pages).map_err(refused)?;
    // TDH.IOMMU.SETUP-4
    if registers.has_enabled_key_unit() {
        return Err(StatusCode::IOMMU_KCB_MUST_BE_DISABLED.into());
    }
    // TDH.IOMMU.SETUP-5
    if !registers.is_ready() {
        return Err(StatusCode::IOMMU_INVALID_STATE.into());
    }
    // Another leaf may have taken a page in the meantime.
    call.claim(&pages, Owner::Unit(unit.index())).map_err(refused)?;
    Ok((table, root))
}

/// The list in the root page.
fn read_table(call: &Call<'_>, root: PhysAddr) -> Result<IommuTable, Exit> {
    let bad = || invalid(OperandId::RDX);
    let words = call.read_words(root)?;
    let block = |index: usize| -> Result<IommuBlock, Exit> {
        let word = words.get(index).copied().filter(|&word| word != 0).ok_or_else(bad)?;
        let block = IommuBlock::from_entry(word).ok_or_else(bad)?;
        call.listed_page(block.start.as_u64(), OperandId::RDX)?;
        Ok(block)
    };
    let (queue, context) = (block(0)?, block(1)?);
    if queue.pages != context.pages {
        return Err(bad());
    }
    let count = usize::from(call.connect()?.sizes.iommu_mt_pages);
    let (singles, rest) = words.get(2..).and_then(|words| words.split_at_checked(count)).ok_or_else(bad)?;
    if singles.contains(&0) || rest.iter().any(|&word| word != 0) {
        return Err(bad());
    }
    let singles =
        singles.iter().map(|&word| call.listed_page(word, OperandId::RDX)).collect::<Result<_, _>>()?;
    Ok(IommuTable { queue, context, singles })
}

enum Outcome {
    Configured,
    TimedOut,
    Failed,
}

/// A unit on its way into TDX mode.
struct Setup<'a> {
    call: Call<'a>,
    unit: &'a Unit,
    registers: UnitRegisters<'a>,
    table: IommuTable,
    root: PhysAddr,
}

impl Setup<'_> {
    fn remember(&self, progress: Progress) {
        self.unit.set_state(UnitState::Setup { table: self.table.clone(), root: self.root, progress });
    }

    /// Goes on from `progress`, one step at least.
    fn run(&self, mut progress: Progress) -> Result<Outcome, Exit> {
        loop {
            progress = match progress {
                Progress::Protect => {
                    self.registers.protect(true);
                    Progress::Program
                }
                Progress::Program => {
                    let module = self.call.module;
                    // A configured module has its key.
                    let key = *module.global_key.get().ok_or(StatusCode::SYS_NOT_READY)?;
                    self.registers.program(&module.platform()?.space, key, &self.table);
                    Progress::Issue
                }
                Progress::Issue => {
                    let status = self.registers.global_status();
                    self.registers.issue();
                    Progress::Poll(status)
                }
                Progress::Poll(status) => return self.poll(status),
            };
            self.remember(progress);
            // TDH.IOMMU.SETUP-8
            if self.call.hw.interrupt_pending(self.call.lp) {
                return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
            }
        }
    }

    fn poll(&self, status_before: u32) -> Result<Outcome, Exit> {
        for _ in 0..POLLS {
            match self.registers.command_status() {
                CommandStatus::Done => return Ok(self.verify(status_before)),
                CommandStatus::Failed => return Ok(Outcome::Failed),
                CommandStatus::InProgress => {}
            }
            // TDH.IOMMU.SETUP-8
            if self.call.hw.interrupt_pending(self.call.lp) {
                return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
            }
        }
        Ok(Outcome::TimedOut)
    }

    fn verify(&self, status_before: u32) -> Outcome {
        let right = self.registers.is_in_tdx_mode()
            && self.registers.head_is_inside(&self.table)
            && self.registers.global_status() == status_before;
        if !right {
            return Outcome::Failed;
        }
        self.unit.set_state(UnitState::Configured(self.table.clone()));
        Outcome::Configured
    }

    /// Gives everything back to the host. A unit that stays in TDX mode all the same keeps its pages until
    /// TDH.IOMMU.CLEAR gets it out.
    fn undo(&self) {
        self.registers.unprogram();
        if self.registers.is_in_tdx_mode() {
            self.registers.issue();
            // The last look counts, and there is no time for more.
            let _ = (0..POLLS).find(|_| self.registers.command_status() != CommandStatus::InProgress);
        }
        if self.registers.is_in_tdx_mode() {
            self.unit.set_state(UnitState::Clearing { table: self.table.clone(), issued: false });
            return;
        }
        self.registers.wipe();
        self.registers.protect(false);
        self.call.release(&self.table.pages());
        self.unit.set_state(UnitState::Free);
    }
}
