//! TDH.SYS.RDALL: writes all global metadata as a list.

use std::slice;

use tdx_abi::metadata::{FieldId, ListWriter};
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PAGE_SIZE, Registers};

use crate::call::{Call, Exit, invalid};
use crate::metadata::Run;

/// Bytes of the list buffer.
const LIST_BYTES: usize = 4096;
const WORD: usize = 8;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    // TDH.SYS.RDALL-1
    if !call.slot.is_initialised() {
        return Err(StatusCode::SYS_LP_INIT_NOT_DONE.into());
    }
    let platform = call.module.platform()?;
    // TDH.SYS.RDALL-2
    let (list, key) = platform.space.shared(regs.rdx, PAGE_SIZE).ok_or_else(|| invalid(OperandId::RDX))?;
    // TDH.SYS.RDALL-3
    let runs = platform
        .metadata
        .runs_from(FieldId::from_raw(regs.r8), call.module.opted_in())
        .ok_or(StatusCode::METADATA_FIELD_ID_INCORRECT)?;
    let live = call.module.live_fields();
    let runs =
        runs.map(|run| Run { values: live.get(run.header).map_or(run.values, slice::from_ref), ..run });
    let mut page = [0; LIST_BYTES];
    let next = fill(&mut page, runs);
    call.hw.write(list, key, &page);
    regs.r8 = next.unwrap_or(FieldId::NULL).raw();
    // TDH.SYS.RDALL-4
    if next.is_some() {
        return Err(StatusCode::METADATA_LIST_OVERFLOW.into());
    }
    Ok(Status::SUCCESS)
}

/// Writes a list of `runs` and returns the field that found no room. A sequence is cut between
/// fields; a field is never cut.
fn fill<'a>(page: &mut [u8], runs: impl Iterator<Item = Run<'a>>) -> Option<FieldId> {
    let mut room = page.len() / WORD - 1;
    let mut writer = ListWriter::new(page)?;
    let mut next = None;
    for run in runs {
        let elements = run.header.last_element_in_field() + 1;
        let per_field = usize::try_from(elements).unwrap_or(usize::MAX);
        let fits = (room.saturating_sub(1) / per_field * per_field).min(run.values.len());
        let first = run.header.sequence(1, 1)?;
        let (values, rest) = run.values.split_at_checked(fits)?;
        let fields = u32::try_from(values.len() / per_field).ok()?;
        if let Some(header) = first.sequence(elements, fields) {
            writer.push(header, values.iter().copied());
            room -= values.len() + 1;
        }
        if !rest.is_empty() {
            next = Some(first.element(u32::try_from(values.len()).ok()?));
            break;
        }
    }
    writer.finish();
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use tdx_abi::metadata::{ListReader, sys};

    fn read(page: &[u8]) -> Vec<(u32, u32, Vec<u64>)> {
        ListReader::new(page)
            .expect("a list")
            .map(|sequence| {
                let sequence = sequence.expect("a sequence");
                (sequence.id.field_code(), sequence.id.element_count(), sequence.values.collect())
            })
            .collect()
    }

    #[test]
    fn a_list_that_does_not_fit_stops_between_two_fields() {
        let values: Vec<u64> = (0..8).collect();
        let runs = || {
            [
                Run { header: sys::MAX_TDMRS.sequence(1, 1).expect("fits"), values: &[64] },
                Run { header: sys::CPUID_CONFIG_VALUES.sequence(2, 4).expect("fits"), values: &values },
            ]
            .into_iter()
        };
        // List header, two words, sequence header and the eight values.
        let mut page = [0; 8 * 12];
        assert_eq!(fill(&mut page, runs()), None);
        assert_eq!(read(&page), [(8, 1, vec![64]), (0x500, 8, values.clone())]);
        // Room for five values: two whole fields.
        let mut page = [0; 8 * 9];
        assert_eq!(fill(&mut page, runs()), Some(sys::CPUID_CONFIG_VALUES.element(4)));
        assert_eq!(read(&page), [(8, 1, vec![64]), (0x500, 4, vec![0, 1, 2, 3])]);
        // Room for the header of the second sequence only.
        let mut page = [0; 8 * 4];
        assert_eq!(fill(&mut page, runs()), Some(sys::CPUID_CONFIG_VALUES));
        assert_eq!(read(&page), [(8, 1, vec![64])]);
    }
}
