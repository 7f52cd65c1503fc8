//! TDH.EXT.MEM.ADD: takes pages for the memory pool of the extensions, a bounded number per call.
//!
//! The caller goes on with the RCX that came back, in which the first entry has advanced. Assumed: a
//! list that holds more pages than are required is refused as a whole, and the whole rest of the list is
//! looked at before a page of it is taken. The pages never come back.

use tdx_abi::Registers;
use tdx_abi::hpa_list::HpaListInfo;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit, invalid};
use crate::connect::{Owner, PageRefusal};
use crate::hardware::LockName;

/// Pages that one call takes.
const PAGES: usize = 64;
/// The same with an interrupt waiting.
const PAGES_INTERRUPTED: usize = 8;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    // TDH.EXT.MEM.ADD-7
    let busy = || Exit::from(StatusCode::OPERAND_BUSY.with_operand(OperandId::RCX));
    if call.hw.contended(call.lp, LockName::Extension) {
        return Err(busy());
    }
    let _lock = connect.pool.lock.try_lock().ok_or_else(busy)?;
    let missing = call.module.pool_pages_missing();
    // TDH.EXT.MEM.ADD-3
    if missing == 0 {
        return Err(invalid(OperandId::RCX));
    }
    let list = HpaListInfo::from_bits(regs.rcx);
    let (first, last) = (usize::from(list.first_entry()), usize::from(list.last_entry()));
    // TDH.EXT.MEM.ADD-4
    if list.reserved_low() != 0 || list.reserved_high() != 0 || first > last {
        return Err(invalid(OperandId::RCX));
    }
    let root = call.host_page(list.list().as_u64(), OperandId::RCX)?;
    let words = call.read_words(root)?;
    let entries = words.get(first..=last).ok_or_else(|| invalid(OperandId::RCX))?;
    // TDH.EXT.MEM.ADD-5
    let pages: Vec<_> =
        entries.iter().map(|&word| call.listed_page(word, OperandId::RCX)).collect::<Result<_, _>>()?;
    call.check_pages(&pages).map_err(refused)?;
    // TDH.EXT.MEM.ADD-6
    if u32::try_from(pages.len()).is_ok_and(|count| count > missing) {
        return Err(invalid(OperandId::RCX));
    }
    let limit = if call.hw.interrupt_pending(call.lp) { PAGES_INTERRUPTED } else { PAGES };
    let now = pages.get(..limit).unwrap_or(&pages);
    // Another leaf may have taken a page in the meantime.
    call.claim(now, Owner::Pool).map_err(refused)?;
    connect.pool.add(u32::try_from(now.len()).unwrap_or(u32::MAX));
    // TDH.EXT.MEM.ADD-1
    if now.len() < pages.len() {
        let next = u16::try_from(first + now.len()).unwrap_or(u16::MAX);
        regs.rcx = list.with_first_entry(next).into_bits();
        return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
    }
    Ok(Status::SUCCESS)
}

fn refused(refusal: PageRefusal) -> Exit {
    match refusal {
        PageRefusal::Twice => invalid(OperandId::RCX),
        PageRefusal::NotUsable | PageRefusal::InUse => {
            StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::RCX).into()
        }
    }
}
