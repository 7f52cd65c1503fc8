//! TDH.SYS.RD: reads one element of global metadata and names the next one.

use tdx_abi::Registers;
use tdx_abi::metadata::{Context, FieldId};
use tdx_abi::status::{Status, StatusCode};

use crate::call::{Call, Exit};
use crate::metadata::LiveFields;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let id = FieldId::from_raw(regs.rdx);
    (regs.rdx, regs.r8) = (FieldId::NULL.raw(), 0);
    // TDH.SYS.RD-1
    if !call.slot.is_initialised() {
        return Err(StatusCode::SYS_LP_INIT_NOT_DONE.into());
    }
    let platform = call.module.platform()?;
    let opted_in = call.module.opted_in();
    // TDH.SYS.RD-2
    if id.is_null() {
        regs.rdx = platform.metadata.first(opted_in).raw();
        return Ok(StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.plain());
    }
    // TDH.SYS.RD-3
    if !id.is_single_element() {
        return Err(StatusCode::METADATA_FIELD_ID_INCORRECT.into());
    }
    // TDH.SYS.RD-4. TDH.SYS.RD-5 has nothing to refuse: a host may read every field.
    let found = platform
        .metadata
        .read(id.with_context(Context::SYS), opted_in)
        .ok_or(StatusCode::METADATA_FIELD_ID_INCORRECT)?;
    let live = LiveFields::contain(id).then(|| call.module.live_fields());
    let value = live.and_then(|fields| fields.get(id).copied()).unwrap_or(found.value);
    (regs.rdx, regs.r8) = (found.next.raw(), value);
    Ok(Status::SUCCESS)
}
