//! TDH.SPDM.CREATE: makes the SPDM session object of a device.

use pcie::{FuncId, FunctionId};
use tdx_abi::Registers;
use tdx_abi::connect::pages::HpaArray;
use tdx_abi::status::{OperandId, Status, StatusCode};

use crate::call::{Call, Exit, invalid};
use crate::connect::Owner;
use crate::connect::Unit;
use crate::connect::root_port::RootPort;
use crate::connect::session::Session;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let connect = call.connect()?;
    // TDH.SPDM.CREATE-1
    let function = function(regs.rcx).ok_or_else(|| invalid(OperandId::RCX))?;
    let id = FuncId::new(function).map_err(|_| invalid(OperandId::RCX))?;
    // TDH.SPDM.CREATE-2
    let wanted = usize::from(connect.sizes.spdm_mt_pages);
    HpaArray::from_raw(regs.rdx)
        .filter(|array| array.count() == wanted)
        .ok_or_else(|| invalid(OperandId::RDX))?;
    let pages = call.page_array(regs.rdx, OperandId::RDX)?;
    let unit = admit(call, function, id)?;
    let session = connect.sessions.next_id(id);
    // TDH.SPDM.CREATE-6
    call.claim(&pages, Owner::Session(session))
        .map_err(|_| StatusCode::PAGE_METADATA_INCORRECT.with_operand(OperandId::RDX))?;
    // TDH.SPDM.CREATE-7
    let made = call.lock_unit(unit, OperandId::RCX).and_then(|_lock| {
        // Another LP may have been here between the first look and the lock.
        admit(call, function, id)?;
        let port = RootPort::above(call.io()?, unit.facts(), function);
        if !unit.add_session() {
            return Err(StatusCode::CONNECT_INVALID_STATE.into());
        }
        connect.sessions.insert(Session::new(session, id, unit.index(), pages.clone(), port));
        Ok(())
    });
    made.inspect_err(|_| call.release(&pages))?;
    regs.rcx = session.0;
    Ok(Status::SUCCESS)
}

/// A function id as TDISP has it. A segment that is not said to be valid must be 0; one that is may be.
fn function(raw: u64) -> Option<FunctionId> {
    let id = FuncId(u32::try_from(raw).ok()?);
    let segment = id.0 >> 16 & 0xFF;
    (id.reserved() == 0 && (id.segment().is_some() || segment == 0)).then(|| id.function())
}

fn admit<'a>(call: &Call<'a>, function: FunctionId, id: FuncId) -> Result<&'a Unit, Exit> {
    let connect = call.connect()?;
    // TDH.SPDM.CREATE-3
    let unit = connect.units.configured_above(function).ok_or(StatusCode::IOMMU_INVALID_STATE)?;
    // TDH.SPDM.CREATE-4
    if connect.sessions.of_function(id).is_some() {
        return Err(StatusCode::SPDM_ENTRY_ALREADY_PRESENT.into());
    }
    // TDH.SPDM.CREATE-5
    if unit.is_full() {
        return Err(StatusCode::CONNECT_INVALID_STATE.into());
    }
    Ok(unit)
}
