//! CPUID of a healthy TDX platform, by CPU kind.

use std::collections::BTreeMap;

use tdx_module::hardware::CpuidRegs;

use crate::spec::{CpuKind, CpuidSpec, Hex, PlatformSpec};

const EXTENDED: u32 = 0x8000_0000;

/// Leaves that answer by sub-leaf.
const WITH_SUBLEAVES: [u32; 13] = [0x4, 0x7, 0xB, 0xD, 0xF, 0x10, 0x12, 0x14, 0x18, 0x1D, 0x1F, 0x20, 0x23];

const SMT_LEVEL: u32 = 1;
const CORE_LEVEL: u32 = 2;

/// What CPUID answers on one package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuidTable {
    leaves: BTreeMap<(u32, u32), CpuidRegs>,
    max_basic: u32,
    max_extended: u32,
}

const fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidRegs {
    CpuidRegs { eax, ebx, ecx, edx }
}

impl CpuidTable {
    /// Answers that every TDX module accepts.
    pub(super) fn healthy(spec: &PlatformSpec) -> Self {
        let kind = spec.cpu.kind;
        let max_basic = match kind {
            CpuKind::SapphireRapids | CpuKind::EmeraldRapids | CpuKind::Laptop => 0x20,
            CpuKind::GraniteRapids | CpuKind::SierraForest => 0x23,
        };
        let max_extended = EXTENDED + 8;
        let mut leaves = BTreeMap::from([
            ((0, 0), regs(max_basic, 0x756E_6547, 0x6C65_746E, 0x4965_6E69)),
            ((1, 0), regs(family_model_stepping(kind), 0x0800, 0x77FE_FBFF, 0xBFEB_FBFF)),
            // MONITOR line sizes and sub-states.
            ((5, 0), regs(0x40, 0x40, 3, 0x2020)),
            ((6, 0), regs(0xDF_8FF7 & !(1 << 23), 2, 9, 0)),
            // Perfmon 5, 8 counters of 48 bits, 4 fixed ones; no AnyThread.
            ((0xA, 0), regs(0x0830_0805, 0, 0xF, 0x8604)),
            ((0x14, 0), regs(1, 0x5F, 7, 0)),
            ((0x14, 1), regs(0x0249_0002, 0x003F_003F, 0, 0)),
            // TSC at 2 GHz from a 25 MHz crystal.
            ((0x15, 0), regs(2, 160, 25_000_000, 0)),
            ((0x16, 0), regs(2000, 3500, 100, 0)),
            // Last branch records.
            ((0x1C, 0), regs(0x4000_00FF, 7, 7, 0)),
            ((EXTENDED, 0), regs(max_extended, 0, 0, 0)),
            ((EXTENDED + 1, 0), regs(0, 0, 0x121, 0x2C10_0800)),
            ((EXTENDED + 6, 0), regs(0, 0, 0x0800_7040, 0)),
            ((EXTENDED + 7, 0), regs(0, 0, 0, 0x100)),
            ((EXTENDED + 8, 0), regs(0x3900 | u32::from(kind.maxpa()), 0x200, 0, 0)),
        ]);
        leaves.extend(features(kind));
        leaves.extend(extended_state(kind));
        leaves.extend(caches(spec));
        leaves.extend(topology(spec));
        if has_amx(kind) {
            leaves.extend([
                ((0x1D, 0), regs(1, 0, 0, 0)),
                ((0x1D, 1), regs(0x0400_2000, 0x0008_0040, 0x10, 0)),
                ((0x1E, 0), regs(0, 0x4010, 0, 0)),
            ]);
        }
        if max_basic >= 0x23 {
            leaves.extend([((0x23, 0), regs(0xB, 0, 0, 0)), ((0x23, 1), regs(0xFF, 0xF, 0, 0))]);
        }
        Self { leaves, max_basic, max_extended }
    }

    /// The answer on the LP with this x2APIC id. A leaf beyond the last one answers like the
    /// highest basic leaf.
    pub(super) fn query(&self, leaf: u32, subleaf: u32, x2apic_id: u32) -> CpuidRegs {
        let known = if leaf >= EXTENDED { leaf <= self.max_extended } else { leaf <= self.max_basic };
        let leaf = if known { leaf } else { self.max_basic };
        let subleaf_key = if WITH_SUBLEAVES.contains(&leaf) { subleaf } else { 0 };
        let mut answer = self.leaves.get(&(leaf, subleaf_key)).copied().unwrap_or_default();
        match leaf {
            1 => answer.ebx |= (x2apic_id & 0xFF) << 24,
            0xB | 0x1F => {
                answer.ecx |= subleaf & 0xFF;
                answer.edx = x2apic_id;
            }
            _ => {}
        }
        answer
    }

    pub(super) fn change(&mut self, leaf: u32, subleaf: u32, change: impl Fn(&mut CpuidRegs)) {
        change(self.leaves.entry((leaf, subleaf)).or_default());
        match (leaf, self.leaves.get(&(leaf, subleaf))) {
            (0, Some(answer)) => self.max_basic = answer.eax,
            (EXTENDED, Some(answer)) => self.max_extended = answer.eax,
            _ => {}
        }
    }

    pub(super) fn override_leaf(&mut self, spec: &CpuidSpec) {
        let word = |value: Hex| u32::try_from(value.0).ok();
        let (Some(leaf), Some(subleaf)) = (word(spec.leaf), word(spec.subleaf)) else { return };
        self.change(leaf, subleaf, |answer| {
            for (slot, value) in [
                (&mut answer.eax, spec.eax),
                (&mut answer.ebx, spec.ebx),
                (&mut answer.ecx, spec.ecx),
                (&mut answer.edx, spec.edx),
            ] {
                *slot = value.and_then(word).unwrap_or(*slot);
            }
        });
    }
}

/// CPUID.1.EAX. The stepping is one of those sold; loaders and modules ignore it.
fn family_model_stepping(kind: CpuKind) -> u32 {
    match kind {
        CpuKind::SapphireRapids => 0x8_06F8,
        CpuKind::EmeraldRapids => 0xC_06F2,
        CpuKind::GraniteRapids => 0xA_06D1,
        CpuKind::SierraForest => 0xA_06F3,
        CpuKind::Laptop => 0x9_06A4,
    }
}

fn has_avx512(kind: CpuKind) -> bool {
    matches!(kind, CpuKind::SapphireRapids | CpuKind::EmeraldRapids | CpuKind::GraniteRapids)
}

fn has_amx(kind: CpuKind) -> bool {
    has_avx512(kind)
}

/// Leaf 7.
fn features(kind: CpuKind) -> [((u32, u32), CpuidRegs); 3] {
    // FSGSBASE, TSC_ADJUST, BMI1, AVX2, FDP_EXCPTN, SMEP, BMI2, ERMS, INVPCID, RDT-M, FCS/FDS,
    // RDT-A, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, PT, SHA.
    let mut ebx = 0x239C_B7EB & !(1 << 4);
    // UMIP, PKU, WAITPKG, CET_SS, GFNI, VAES, VPCLMULQDQ, TME, LA57, RDPID, BUS_LOCK_DETECT,
    // CLDEMOTE, MOVDIRI, MOVDIR64B, ENQCMD, PKS.
    let mut ecx = 0xBB41_27AC;
    // MD_CLEAR, SERIALIZE, TSXLDTRK, ARCH_LBR, CET_IBT, IBRS, STIBP, L1D_FLUSH, ARCH_CAP,
    // CORE_CAP, SSBD; SRBDS_CTRL (9) and TSX_FORCE_ABORT (13) are 0.
    let mut edx = 0xFC18_4410;
    if has_avx512(kind) {
        // HLE and RTM; AVX-512 F, DQ, IFMA, CD, BW, VL.
        ebx |= 1 << 4 | 1 << 11 | 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31;
        // AVX-512 VBMI, VBMI2, VNNI, BITALG, VPOPCNTDQ.
        ecx |= 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14;
        // AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8.
        edx |= 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25;
    } else {
        ebx &= !(1 << 11 | 1 << 16 | 1 << 17 | 1 << 21);
    }
    // Sub-leaf 1: AVX-VNNI, AVX512-BF16, FZRM, FSRS, FSRCS. Sub-leaf 2: PSFD, IPRED_CTRL, RRSBA_CTRL, BHI_CTRL, MCDT_NO.
    [((7, 0), regs(2, ebx, ecx, edx)), ((7, 1), regs(0x1C30, 0, 0, 0)), ((7, 2), regs(0, 0, 0, 0x37))]
}

/// Leaf 0xD: extended state components, their sizes and offsets.
fn extended_state(kind: CpuKind) -> Vec<((u32, u32), CpuidRegs)> {
    let mut user = 0x207;
    let mut state = vec![
        (2, regs(0x100, 0x240, 0, 0)),
        (8, regs(0x80, 0, 1, 0)),
        (9, regs(8, 0xA80, 0, 0)),
        (10, regs(8, 0, 1, 0)),
        (11, regs(0x10, 0, 1, 0)),
        (12, regs(0x18, 0, 1, 0)),
        (14, regs(0x30, 0, 1, 0)),
        (15, regs(0x328, 0, 1, 0)),
        (16, regs(8, 0, 1, 0)),
    ];
    if has_avx512(kind) {
        user |= 0xE0;
        state.extend([
            (5, regs(0x40, 0x440, 0, 0)),
            (6, regs(0x200, 0x480, 0, 0)),
            (7, regs(0x400, 0x680, 0, 0)),
        ]);
    }
    if has_amx(kind) {
        user |= 0x6_0000;
        state.extend([(17, regs(0x40, 0xAC0, 2, 0)), (18, regs(0x2000, 0xB00, 6, 0))]);
    }
    let size = if has_amx(kind) { 0x2B00 } else { 0xA88 };
    // XSAVEOPT, XSAVEC, XGETBV 1, XSAVES; XFD with AMX. IA32_XSS: PT, PASID, CET, UINTR, LBR, HWP.
    let abilities = if has_amx(kind) { 0x1F } else { 0xF };
    state.extend([(0, regs(user, size, size, 0)), (1, regs(abilities, size, 0x1_DD00, 0))]);
    state.into_iter().map(|(component, regs)| ((0xD, component), regs)).collect()
}

/// Leaf 4: 64-byte lines; one L3 for each package.
fn caches(spec: &PlatformSpec) -> [((u32, u32), CpuidRegs); 4] {
    let cpu = &spec.cpu;
    let threads = (1 << cpu.thread_bits()) - 1;
    let package = (1u32 << cpu.package_shift().min(12)) - 1;
    let cores = (cpu.cores.next_power_of_two() - 1).min(63);
    let eax = |kind: u32, level: u32, sharing: u32| kind | level << 5 | 1 << 8 | sharing << 14 | cores << 26;
    let ebx = |ways: u32| 0x3F | (ways - 1) << 22;
    [
        ((4, 0), regs(eax(1, 1, threads), ebx(12), 63, 0)),
        ((4, 1), regs(eax(2, 1, threads), ebx(8), 63, 0)),
        ((4, 2), regs(eax(3, 2, threads), ebx(16), 2047, 0)),
        ((4, 3), regs(eax(3, 3, package), ebx(15), 0x1_BFFF, 4)),
    ]
}

/// Leaves 0xB and 0x1F: threads, then cores.
fn topology(spec: &PlatformSpec) -> Vec<((u32, u32), CpuidRegs)> {
    let cpu = &spec.cpu;
    let per_package = cpu.cores * cpu.threads;
    [0xB, 0x1F]
        .into_iter()
        .flat_map(|leaf| {
            [
                ((leaf, 0), regs(cpu.thread_bits(), cpu.threads, SMT_LEVEL << 8, 0)),
                ((leaf, 1), regs(cpu.package_shift(), per_package, CORE_LEVEL << 8, 0)),
            ]
        })
        .collect()
}
