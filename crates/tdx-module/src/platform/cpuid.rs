//! CPUID: what SYS.INIT wants to see, and what SYS.LP.INIT compares.

use tdx_abi::status::{Status, StatusCode};

use crate::checks::Switch;
use crate::generated::cpuid::LOOKUP;
use crate::hardware::{CpuidRegs, Hardware, LpIndex};
use crate::module::Rules;

/// Leaf and sub-leaf with masks, all as \[EAX, EBX, ECX, EDX\].
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuidEntry {
    pub(crate) leaf: u32,
    /// All ones: the leaf has no sub-leaves.
    pub(crate) subleaf: u32,
    pub(crate) verify_mask: [u32; 4],
    pub(crate) verify_value: [u32; 4],
    /// Bits that must be the same on every LP.
    pub(crate) verify_same: [u32; 4],
}

/// A leaf that a host may configure for a TD.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuidOffer {
    pub(crate) leaf: u32,
    pub(crate) subleaf: u32,
    /// Bits that a TD gets as given.
    pub(crate) direct: [u32; 4],
    /// Bits that a TD gets if the CPU has them.
    pub(crate) allow: [u32; 4],
}

const EXTENDED: u32 = 0x8000_0000;
const LAST_BASIC: u32 = 0x1F;
const LAST_EXTENDED: u32 = 0x8000_0008;
/// HLE and RTM in CPUID.7.0 EBX, which IA32_TSX_CTRL can hide.
const TSX: [u32; 4] = [0, 1 << 4 | 1 << 11, 0, 0];

const LEVEL_CORE: u32 = 2;
/// Die: no level above it is known.
const LEVEL_LAST: u32 = 5;

/// Registers in the order of the masks.
pub(crate) const fn words(regs: CpuidRegs) -> [u32; 4] {
    [regs.eax, regs.ebx, regs.ecx, regs.edx]
}

/// Two registers as the calls pass them: the first in the low half.
pub(crate) const fn packed(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl CpuidEntry {
    const fn is(&self, leaf: u32, subleaf: u32) -> bool {
        self.leaf == leaf && (self.subleaf == subleaf || self.subleaf == u32::MAX)
    }

    /// Leaf and sub-leaf as the calls report them.
    pub(crate) const fn packed_id(&self) -> u64 {
        packed(self.leaf, self.subleaf)
    }

    /// Reads the leaf on `lp`. A leaf above the highest one of its range counts as zeros.
    fn read(&self, hw: &dyn Hardware, lp: LpIndex) -> CpuidRegs {
        let range = self.leaf & EXTENDED;
        if self.leaf > hw.cpuid(lp, range, 0).eax {
            return CpuidRegs::default();
        }
        let subleaf = if self.subleaf == u32::MAX { 0 } else { self.subleaf };
        hw.cpuid(lp, self.leaf, subleaf)
    }
}

/// Why SYS.INIT refuses the CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CpuidRefusal {
    /// A status without further output.
    Status(Status),
    /// INCORRECT_CPUID_VALUE, with the entry that the registers describe.
    Value(&'static CpuidEntry),
}

impl From<Status> for CpuidRefusal {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// Entries that the profile checks.
pub(crate) fn entries(count: usize) -> impl Iterator<Item = &'static CpuidEntry> {
    LOOKUP.iter().take(count)
}

/// Rows 10 to 18 of TDH.SYS.INIT, and 1.0:TDH.SYS.INIT-8: samples CPUID and checks it.
pub(crate) fn sample(hw: &dyn Hardware, lp: LpIndex, rules: &Rules) -> Result<Vec<CpuidRegs>, CpuidRefusal> {
    let missing = |leaf| StatusCode::CPUID_LEAF_NOT_SUPPORTED.with_detail(leaf);
    // TDH.SYS.INIT-10
    if hw.cpuid(lp, 0, 0).eax < LAST_BASIC {
        return Err(missing(LAST_BASIC).into());
    }
    // TDH.SYS.INIT-11
    if hw.cpuid(lp, EXTENDED, 0).eax < LAST_EXTENDED {
        return Err(missing(LAST_EXTENDED).into());
    }
    let any_max_subleaf = rules.has(Switch::V10SysInit8At1001);
    let mut sampled = Vec::with_capacity(rules.profile.cpuid_entries);
    let mut topology = Topology::default();
    for entry in entries(rules.profile.cpuid_entries) {
        let regs = entry.read(hw, lp);
        let mut mask = entry.verify_mask;
        if any_max_subleaf && entry.is(7, 0) {
            // A rule of its own follows.
            mask[0] = 0;
        }
        // TDH.SYS.INIT-12
        let differs = words(regs)
            .iter()
            .zip(mask)
            .zip(entry.verify_value)
            .any(|((value, mask), wanted)| value & mask != wanted & mask);
        if differs {
            return Err(CpuidRefusal::Value(entry));
        }
        match entry.leaf {
            4 if entry.subleaf == 3 => topology.l3_sharing = regs.eax >> 14 & 0xFFF,
            // 1.0:TDH.SYS.INIT-8@1.0.01
            7 if any_max_subleaf && entry.is(7, 0) && !(1..=2).contains(&regs.eax) => {
                return Err(StatusCode::CPUID_MAX_SUBLEAVES_UNRECOGNIZED.with_detail(7).into());
            }
            7 if entry.is(7, 0) => topology.la57 = regs.ecx >> 16 & 1 != 0,
            // TDH.SYS.INIT-13
            0xA if regs.eax & 0xFF < 5 || regs.edx & 0x1F > 7 => return Err(CpuidRefusal::Value(entry)),
            // TDH.SYS.INIT-14
            0x15 if regs.ebx == 0 => return Err(missing(0x15).into()),
            0x1F => topology.level(entry.subleaf, regs)?,
            // TDH.SYS.INIT-18
            LAST_EXTENDED if rules.is_1_5() && regs.eax >> 8 & 0xFF != topology.linear_width() => {
                return Err(CpuidRefusal::Value(entry));
            }
            _ => {}
        }
        sampled.push(regs);
    }
    Ok(sampled)
}

/// What the entries of leaves 4, 7 and 0x1F say together.
#[derive(Debug, Default)]
struct Topology {
    /// CPUID.4.3 EAX\[25:14\]: addressable LPs that share the L3, minus one.
    l3_sharing: u32,
    la57: bool,
    last_level: u32,
    core_seen: bool,
    ended: bool,
    /// Bits of the x2APIC id below the package number.
    package_shift: u32,
}

impl Topology {
    const fn linear_width(&self) -> u32 {
        if self.la57 { 57 } else { 48 }
    }

    fn level(&mut self, subleaf: u32, regs: CpuidRegs) -> Result<(), Status> {
        let level = regs.ecx >> 8 & 0xFF;
        if level != 0 {
            // TDH.SYS.INIT-15
            if level <= self.last_level || level > LEVEL_LAST {
                return Err(StatusCode::CPUID_LEAF_1F_FORMAT_UNRECOGNIZED.plain());
            }
            self.last_level = level;
            self.core_seen |= level == LEVEL_CORE;
            self.package_shift = regs.eax & 0x1F;
            return Ok(());
        }
        // TDH.SYS.INIT-16
        if subleaf == 0 || !self.core_seen {
            return Err(StatusCode::CPUID_LEAF_NOT_SUPPORTED.plain());
        }
        if !std::mem::replace(&mut self.ended, true) {
            // The sharing count must fill the bits below the package number, so that write-back
            // by package reaches every cache. A package of one LP has no such bit.
            // TDH.SYS.INIT-17
            let whole = match self.package_shift.checked_sub(1) {
                Some(shift) => self.l3_sharing >> shift == 1,
                None => self.l3_sharing == 0,
            };
            if !whole {
                return Err(StatusCode::INVALID_WBINVD_SCOPE.plain());
            }
        }
        Ok(())
    }
}

/// TDH.SYS.LP.INIT-8: the first entry that `lp` reads differently under the bits that must be the
/// same, with the mask that was compared. While IA32_TSX_CTRL hides them on either LP, HLE and RTM
/// are not compared: the module uncovers them for the comparison.
pub(crate) fn first_difference(
    hw: &dyn Hardware,
    lp: LpIndex,
    sampled: &[CpuidRegs],
    tsx_hidden: bool,
) -> Option<(&'static CpuidEntry, [u32; 4])> {
    sampled.iter().zip(LOOKUP).find_map(|(reference, entry)| {
        let mut mask = entry.verify_same;
        if tsx_hidden && entry.is(7, 0) {
            for (bits, hidden) in mask.iter_mut().zip(TSX) {
                *bits &= !hidden;
            }
        }
        let here = words(entry.read(hw, lp));
        let differs = here.iter().zip(words(*reference)).zip(mask).any(|((a, b), mask)| (a ^ b) & mask != 0);
        differs.then_some((entry, mask))
    })
}

/// The sampled registers of a leaf, zeros if it was not sampled.
pub(crate) fn sampled(cpuid: &[CpuidRegs], leaf: u32, subleaf: u32) -> CpuidRegs {
    cpuid
        .iter()
        .zip(LOOKUP)
        .find(|(_, entry)| entry.is(leaf, subleaf))
        .map_or_else(CpuidRegs::default, |(regs, _)| *regs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_l3_is_shared_by_exactly_one_package() {
        let ends = |package_shift, l3_sharing| {
            let mut topology = Topology { l3_sharing, ..Topology::default() };
            let level = |number: u32, eax| CpuidRegs { eax, ecx: number << 8, ..CpuidRegs::default() };
            topology.level(0, level(1, 0))?;
            topology.level(1, level(LEVEL_CORE, package_shift))?;
            topology.level(2, level(0, 0))
        };
        let refused = Err(StatusCode::INVALID_WBINVD_SCOPE.plain());
        // A package of one LP has no bits below its number.
        for (shift, sharing) in [(0, 0), (1, 1), (7, 127), (7, 64)] {
            assert_eq!(ends(shift, sharing), Ok(()), "TDH.SYS.INIT-17: {shift} {sharing}");
        }
        for (shift, sharing) in [(0, 1), (1, 0), (1, 2), (7, 63), (7, 128)] {
            assert_eq!(ends(shift, sharing), refused, "TDH.SYS.INIT-17: {shift} {sharing}");
        }
    }
}
