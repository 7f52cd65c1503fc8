//! Rows 9 to 24 of TDH.SYS.CONFIG: one TDMR against itself, its predecessors and the CMRs.

use tdx_abi::addr::SIZE_1G;
use tdx_abi::status::StatusCode;
use tdx_abi::tdmr::{PAMT_ENTRY_SIZE, TdmrInfo};
use tdx_abi::{PAGE_SIZE, PageLevel, PhysAddr, PhysRange};

use super::overlap;
use crate::call::Exit;
use crate::hpa::AddressSpace;
use crate::tdmrs::{PamtAreas, TdmrConfig};

/// PAMT sizes and places are checked largest page first.
pub(super) const LARGEST_FIRST: [PageLevel; 3] = [PageLevel::Size1G, PageLevel::Size2M, PageLevel::Size4K];

/// What a TDMR is measured against.
pub(crate) struct TdmrRules<'a> {
    pub(crate) space: &'a AddressSpace,
    /// CMRs, touching ones joined.
    pub(crate) memory: &'a [PhysRange],
    /// TDX 1.0: a gap of no bytes must lie in a CMR too.
    pub(crate) empty_gaps: bool,
}

/// A status that names TDMR `index` and up to two more bytes.
pub(super) fn refusal(code: StatusCode, index: usize, second: usize, third: usize) -> Exit {
    let byte = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    code.with_detail(u32::from_le_bytes([byte(index), byte(second), byte(third), 0])).into()
}

impl TdmrRules<'_> {
    /// Checks the TDMR behind `earlier`.
    pub(crate) fn check(&self, info: &TdmrInfo, earlier: &[TdmrConfig]) -> Result<TdmrConfig, Exit> {
        let index = earlier.len();
        let range = self.range(info, index, earlier.last())?;
        let reserved = reserved(info, index, range)?;
        let pamt = self.pamt(info, index, range)?;
        let config = TdmrConfig { range, reserved, pamt };
        overlap::check(&config, earlier)?;
        // TDH.SYS.CONFIG-23
        for level in LARGEST_FIRST {
            if !self.in_one_cmr(config.pamt.get(level)) {
                let level = usize::from(level.number());
                return Err(refusal(StatusCode::PAMT_OUTSIDE_CMRS, index, level, 0));
            }
        }
        self.in_memory(&config, index)?;
        Ok(config)
    }

    fn range(&self, info: &TdmrInfo, index: usize, previous: Option<&TdmrConfig>) -> Result<PhysRange, Exit> {
        let invalid = || refusal(StatusCode::INVALID_TDMR, index, 0, 0);
        let (base, size) = (info.base.get(), info.size.get());
        // TDH.SYS.CONFIG-9
        let range = PhysRange::from_size(PhysAddr::new(base), size).ok_or_else(invalid)?;
        // TDH.SYS.CONFIG-10
        if previous.is_some_and(|previous| range.start() < previous.range.end()) {
            return Err(refusal(StatusCode::NON_ORDERED_TDMR, index, 0, 0));
        }
        // TDH.SYS.CONFIG-11
        if !range.start().is_aligned(SIZE_1G) || !size.is_multiple_of(SIZE_1G) || size == 0 {
            return Err(invalid());
        }
        // TDH.SYS.CONFIG-12
        if !self.is_plain(range) {
            return Err(invalid());
        }
        Ok(range)
    }

    /// Rows 18: each level large enough, aligned, below the KeyID bits.
    fn pamt(&self, info: &TdmrInfo, index: usize, tdmr: PhysRange) -> Result<PamtAreas, Exit> {
        // TDH.SYS.CONFIG-18
        let area = |level: PageLevel| {
            let (base, size) = info.pamt(level);
            let needed = tdmr.size() / level.size() * PAMT_ENTRY_SIZE;
            PhysRange::from_size(PhysAddr::new(base), size)
                .filter(|area| area.start().is_aligned(PAGE_SIZE) && size.is_multiple_of(PAGE_SIZE))
                .filter(|&area| self.is_plain(area) && size >= needed)
                .ok_or_else(|| refusal(StatusCode::INVALID_PAMT, index, usize::from(level.number()), 0))
        };
        let size_1g = area(PageLevel::Size1G)?;
        let size_2m = area(PageLevel::Size2M)?;
        let size_4k = area(PageLevel::Size4K)?;
        Ok(PamtAreas([size_4k, size_2m, size_1g]))
    }

    fn in_memory(&self, config: &TdmrConfig, index: usize) -> Result<(), Exit> {
        for (number, gap) in config.gaps().enumerate() {
            // TDH.SYS.CONFIG-24@1.0: a gap of no bytes between two areas that touch, or behind one
            // that ends with the TDMR. Nothing is looked up before an area at the very start.
            let looked_up = !gap.is_empty() || (self.empty_gaps && number != 0);
            // TDH.SYS.CONFIG-24
            if looked_up && !self.in_one_cmr(gap) {
                return Err(refusal(StatusCode::TDMR_OUTSIDE_CMRS, index, 0, 0));
            }
        }
        Ok(())
    }

    /// True if a CMR holds both ends of `range`, empty or not.
    fn in_one_cmr(&self, range: PhysRange) -> bool {
        self.memory.iter().any(|cmr| cmr.start() <= range.start() && range.end() <= cmr.end())
    }

    /// True if neither the first nor the last address has KeyID bits or lies beyond MAXPA.
    fn is_plain(&self, range: PhysRange) -> bool {
        let last = range.end().as_u64().saturating_sub(1);
        self.space.plain(range.start().as_u64()).is_some() && self.space.plain(last).is_some()
    }
}

/// The reserved areas as ranges. The first entry of size 0 ends the list.
fn reserved(info: &TdmrInfo, index: usize, tdmr: PhysRange) -> Result<Vec<PhysRange>, Exit> {
    let mut areas: Vec<PhysRange> = Vec::new();
    let entries = info.reserved.iter().enumerate();
    let following = info.reserved.iter().skip(1).map(Some).chain([None]);
    for ((number, entry), next) in entries.zip(following) {
        let non_ordered = || refusal(StatusCode::NON_ORDERED_RESERVED_IN_TDMR, index, number, 0);
        let invalid = || refusal(StatusCode::INVALID_RESERVED_IN_TDMR, index, number, 0);
        let (offset, size) = (entry.offset.get(), entry.size.get());
        if size == 0 {
            // TDH.SYS.CONFIG-13
            if next.is_some_and(|next| next.size.get() != 0) {
                return Err(non_ordered());
            }
            continue;
        }
        // TDH.SYS.CONFIG-14
        let end = offset.checked_add(size).ok_or_else(invalid)?;
        let start = tdmr.start().checked_add(offset);
        // TDH.SYS.CONFIG-15
        let previous_end = areas.last().and_then(|area| area.end().offset_from(tdmr.start()));
        if previous_end.is_some_and(|previous| offset < previous) {
            return Err(non_ordered());
        }
        // TDH.SYS.CONFIG-16
        if !offset.is_multiple_of(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(invalid());
        }
        // TDH.SYS.CONFIG-17
        let area = start.and_then(|start| PhysRange::from_size(start, size));
        areas.push(area.filter(|_| end <= tdmr.size()).ok_or_else(invalid)?);
    }
    Ok(areas)
}
