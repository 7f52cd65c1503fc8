//! TDH.SYS.TDMR.INIT: initialises the metadata of the next 4 MiB of a TDMR.

use tdx_abi::addr::{LINE_SIZE, PageLevel, SIZE_1G, SIZE_2M};
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::tdmr::PAMT_ENTRY_SIZE;
use tdx_abi::{KeyId, PAGE_SIZE, PhysRange, Registers};

use crate::call::{Call, Exit, invalid};
use crate::hardware::LockName;
use crate::tdmrs::{STEP_BYTES, STEPS_PER_BLOCK, Tdmr};

/// PAMT of the 4 KiB pages of one step.
const PIECE_4K: u64 = STEP_BYTES / PAGE_SIZE * PAMT_ENTRY_SIZE;
/// PAMT of the 2 MiB ranges of one GiB.
const PIECE_2M: u64 = SIZE_1G / SIZE_2M * PAMT_ENTRY_SIZE;
/// GiBs whose 1G entries share a line, the smallest piece that can be initialised.
const BLOCKS_PER_LINE: u64 = LINE_SIZE / PAMT_ENTRY_SIZE;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    regs.rdx = 0;
    let module = call.module;
    let bad_base = || invalid(OperandId::RCX);
    // TDH.SYS.TDMR.INIT-1
    let base = module
        .platform()?
        .space
        .plain(regs.rcx)
        .filter(|base| base.is_aligned(SIZE_1G))
        .ok_or_else(bad_base)?;
    // TDH.SYS.TDMR.INIT-2
    let tdmr = module.tdmrs.get().and_then(|tdmrs| tdmrs.starting_at(base)).ok_or_else(bad_base)?;
    // TDH.SYS.TDMR.INIT-3
    let busy = || StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX);
    if call.hw.contended(call.lp, LockName::Tdmr) {
        return Err(busy().into());
    }
    let _lock = tdmr.lock.try_lock().ok_or_else(busy)?;
    let step = tdmr.steps_done();
    // TDH.SYS.TDMR.INIT-4
    if step >= tdmr.steps() {
        return Ok(StatusCode::TDMR_ALREADY_INITIALIZED.plain());
    }
    // SYS.CONFIG set the key before the state in which this leaf runs.
    let key = *module.global_key.get().ok_or(StatusCode::SYS_NOT_READY)?;
    initialise(call, tdmr, step, key);
    tdmr.set_steps_done(step + 1);
    let next = base.checked_add((step + 1) * STEP_BYTES).ok_or_else(bad_base)?;
    regs.rdx = next.align_down(SIZE_1G).as_u64();
    Ok(Status::SUCCESS)
}

/// Writes the entries of one step. Those of the 2 MiB ranges come with the first step of their
/// GiB, those of the GiBs with the first GiB that shares their line.
fn initialise(call: &Call<'_>, tdmr: &Tdmr, step: u64, key: KeyId) {
    let pamt = &tdmr.config.pamt;
    let piece = |level: PageLevel, index: u64, size: u64| {
        let start = pamt.get(level).start().checked_add(index * size)?;
        PhysRange::from_size(start, size)
    };
    let write = |range: Option<PhysRange>| {
        // SYS.CONFIG checked that every level is large enough.
        if let Some(range) = range {
            call.hw.initialise(range, key);
        }
    };
    write(piece(PageLevel::Size4K, step, PIECE_4K));
    if step.is_multiple_of(STEPS_PER_BLOCK) {
        let block = step / STEPS_PER_BLOCK;
        write(piece(PageLevel::Size2M, block, PIECE_2M));
        if block.is_multiple_of(BLOCKS_PER_LINE) {
            write(piece(PageLevel::Size1G, block / BLOCKS_PER_LINE, LINE_SIZE));
        }
    }
}
