//! MSR values of a healthy TDX platform, by CPU kind.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::firmware::layout;
use crate::spec::{CpuKind, PlatformSpec};

pub(super) const KEYID_PARTITIONING: u32 = 0x87;
pub(super) const MCHECK_STATUS: u32 = 0xA0;
pub(crate) const TSX_CTRL: u32 = 0x122;
pub(super) const SEAMRR_BASE: u32 = 0x1400;
pub(super) const SEAMRR_MASK: u32 = 0x1401;
pub(super) const SEAMRR_LOCK: u64 = 1 << 10;
pub(super) const SEAMRR_VALID: u64 = 1 << 11;
pub(super) const VMX_CAPABILITIES: RangeInclusive<u32> = 0x480..=0x492;

/// RTM disabled and hidden from CPUID: what `tsx=off` leaves behind.
pub(super) const TSX_DISABLED: u64 = 3;

const SEAMRR_CONFIGURED: u64 = 1 << 3;
/// Address bits of the SEAMRR registers.
const SEAMRR_ADDRESS: u64 = ((1 << 52) - 1) & !((1 << 25) - 1);
/// VMX_BASIC: SEAMRET keeps the current VMCS.
const BASIC_SEAMRET_KEEPS_VMCS: u64 = 1 << 60;

/// Each SMRR has 16 MiB.
const SMRR_SIZE: u64 = 16 << 20;
/// Base registers: write-back.
const SMRR_TYPE: u64 = 6;
const SMRR_MASK: u64 = 0xFF00_0000 | 1 << 11 | 1 << 10;

pub(super) fn healthy(spec: &PlatformSpec) -> BTreeMap<u32, u64> {
    let smram = layout::smram(spec);
    let mut msrs = BTreeMap::from([
        // Feature control: locked, VMX outside SMX, LMCE.
        (0x3A, 1 << 20 | 0b101),
        (0x3B, 0),
        (MCHECK_STATUS, 0),
        // Platform info: maximum ratios; bit 27 (pre-production) is 0.
        (0xCE, 8 << 40 | 20 << 8),
        (0xCF, 1 << 5),
        // MTRR capabilities: 10 variable ranges, fixed ones, WC, SMRR, SMRR2, SMRR lock, SEAMRR.
        (0xFE, 0xED0A),
        (0x1A0, 0x85_0089),
        (0x1F2, smram | SMRR_TYPE),
        (0x1F3, SMRR_MASK),
        (0x1F6, (smram + SMRR_SIZE) | SMRR_TYPE),
        (0x1F7, SMRR_MASK),
        // Perf capabilities: freeze while SMM (12), full-width writes (13).
        (0x345, 0x75C0),
    ]);
    vmx(spec, &mut msrs);
    if spec.cpu.kind == CpuKind::Laptop {
        return msrs;
    }
    msrs.extend([
        // WBINVDP and WBNOINVDP work through as many blocks as each other.
        (0x98, 1),
        (0x99, 1),
        // Energy filtering.
        (0xBC, 1),
        // Legacy xAPIC disabled.
        (0xBD, 1),
        (0x10A, arch_capabilities()),
        (TSX_CTRL, 0),
    ]);
    encryption(spec, &mut msrs);
    if !spec.cpu.kind.has_tsx_ctrl() {
        msrs.remove(&TSX_CTRL);
        msrs.entry(0x10A).and_modify(|value| *value &= !(1 << 7));
    }
    let seamrr = &spec.seamrr;
    let mut mask = !(seamrr.size.0 - 1) & SEAMRR_ADDRESS;
    if seamrr.enabled {
        mask |= SEAMRR_VALID;
    }
    if seamrr.locked {
        mask |= SEAMRR_LOCK;
    } else {
        msrs.insert(MCHECK_STATUS, 1);
    }
    msrs.insert(SEAMRR_BASE, seamrr.base.0 & SEAMRR_ADDRESS | SEAMRR_CONFIGURED);
    msrs.insert(SEAMRR_MASK, mask);
    msrs
}

/// Not vulnerable to what a module insists on (bits 0, 1, 3, 5, 6, 8, 10 to 15, 21), TSX_CTRL
/// exists (7); RSBA (2) and FB_CLEAR_CTRL (18) are 0.
fn arch_capabilities() -> u64 {
    [0, 1, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 17, 19, 21].into_iter().fold(0, |all, bit| all | 1 << bit)
}

fn encryption(spec: &PlatformSpec, msrs: &mut BTreeMap<u32, u64>) {
    let keys = &spec.keyids;
    let long_keys = spec.cpu.kind == CpuKind::GraniteRapids || spec.cpu.kind == CpuKind::SierraForest;
    // Bits: AES-128, AES-128 with integrity, AES-256, AES-256 with integrity.
    let plain: u64 = if long_keys { 0b0101 } else { 0b0001 };
    let algorithms = if keys.integrity { plain | plain << 1 } else { plain };
    let all_keys = (1u64 << keys.bits) - 1;
    msrs.insert(0x981, algorithms | 1 << 31 | u64::from(keys.bits) << 32 | all_keys << 36);
    // The split is by address bits: `mktme` + 1 is a power of two.
    let shared_bits = u64::from((keys.mktme + 1).trailing_zeros());
    let tdx_bits = if keys.tdx == 0 { 0 } else { u64::from(keys.bits).saturating_sub(shared_bits) };
    let policy: u64 = if long_keys { 2 } else { 0 };
    msrs.insert(0x982, 0b11 | policy << 4 | u64::from(keys.bits) << 32 | tdx_bits << 36 | algorithms << 48);
    msrs.insert(KEYID_PARTITIONING, keys.partitioning().to_msr());
}

/// A capability MSR of controls: must-be-one bits low, may-be-one bits high.
const fn controls(must: u32, may: u32) -> u64 {
    must as u64 | (may as u64) << 32
}

/// VMX capabilities: the fixed bits of real CPUs, and every control that a module wants to use.
fn vmx(spec: &PlatformSpec, msrs: &mut BTreeMap<u32, u64>) {
    const PIN: u64 = controls(0x16, 0xFF);
    const PROC_MUST: u32 = 0x0400_6172;
    const EXIT_MUST: u32 = 0x0003_6DFB;
    const ENTRY_MUST: u32 = 0x11FB;
    // Revision 0x13, VMCS of 1 KiB in write-back memory, INS/OUTS information, true controls.
    let basic = 0x00DA_0400_0000_0013;
    let keeps_vmcs = if spec.errata().seamret_invd_vmcs { 0 } else { BASIC_SEAMRET_KEEPS_VMCS };
    msrs.extend([
        (0x480, basic | keeps_vmcs),
        (0x481, PIN),
        (0x482, controls(PROC_MUST | 0x0401_E172, 0xFFFF_FFFE)),
        (0x483, controls(EXIT_MUST | 0x0003_6DFF, 0x7FFF_FFFF)),
        (0x484, controls(ENTRY_MUST | 0x11FF, 0x007F_FFFF)),
        (0x485, 0x7004_C1E7),
        (0x486, 0x8000_0021),
        (0x487, 0xFFFF_FFFF),
        (0x488, 0x2000),
        (0x489, 0x01F7_7FFF),
        (0x48A, 0x2E),
        (0x48B, controls(0, 0xDF7F_FFFE | 0x1000_0000)),
        (0x48C, 0x0000_0F01_06F3_4141),
        (0x48D, PIN),
        (0x48E, controls(PROC_MUST, 0xFFFF_FFFE)),
        (0x48F, controls(EXIT_MUST, 0x7FFF_FFFF)),
        (0x490, controls(ENTRY_MUST, 0x007F_FFFF)),
        (0x491, 1),
        // 64 allowed-1 bits: LOADIWKEY, paging-write, guest paging, IPI virtualisation,
        // SPEC_CTRL virtualisation.
        (0x492, 0xBF),
    ]);
}
