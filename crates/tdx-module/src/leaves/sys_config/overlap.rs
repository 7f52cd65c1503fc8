//! Rows 19 to 22 of TDH.SYS.CONFIG: PAMTs keep away from each other and from TDX memory.

use tdx_abi::status::StatusCode;
use tdx_abi::{PageLevel, PhysRange};

use super::tdmr::refusal;
use crate::call::Exit;
use crate::tdmrs::TdmrConfig;

/// Pairs of a TDMR's own PAMT levels, in the order of the comparison.
const OWN_PAIRS: [(PageLevel, PageLevel); 3] = [
    (PageLevel::Size4K, PageLevel::Size2M),
    (PageLevel::Size4K, PageLevel::Size1G),
    (PageLevel::Size2M, PageLevel::Size1G),
];

/// Checks the TDMR behind `earlier`.
pub(super) fn check(config: &TdmrConfig, earlier: &[TdmrConfig]) -> Result<(), Exit> {
    let index = earlier.len();
    let overlap = |pamt_of: usize, level: PageLevel, with: usize| {
        refusal(StatusCode::PAMT_OVERLAP, pamt_of, usize::from(level.number()), with)
    };
    // TDH.SYS.CONFIG-19
    for level in PageLevel::ALL {
        let area = config.pamt.get(level);
        for (other, previous) in earlier.iter().enumerate() {
            if PageLevel::ALL.iter().any(|&level| previous.pamt.get(level).overlaps(area)) {
                return Err(overlap(index, level, other));
            }
        }
    }
    // TDH.SYS.CONFIG-20
    for (level, with) in OWN_PAIRS {
        if config.pamt.get(level).overlaps(config.pamt.get(with)) {
            return Err(overlap(index, level, index));
        }
    }
    // TDH.SYS.CONFIG-21
    for (other, tdmr) in earlier.iter().chain([config]).enumerate() {
        for level in PageLevel::ALL {
            if in_use(tdmr, config.pamt.get(level)) {
                return Err(overlap(index, level, other));
            }
        }
    }
    // TDH.SYS.CONFIG-22
    for (other, previous) in earlier.iter().enumerate() {
        for level in PageLevel::ALL {
            if in_use(config, previous.pamt.get(level)) {
                return Err(overlap(other, level, index));
            }
        }
    }
    Ok(())
}

/// True if `area` shares a byte with memory of the TDMR that is not reserved.
fn in_use(tdmr: &TdmrConfig, area: PhysRange) -> bool {
    tdmr.gaps().any(|gap| gap.overlaps(area))
}
