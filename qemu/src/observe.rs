//! What CPUID told the guest, and what of it keeps Linux away from TDX.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::Mutex;
use tdx_abi::AddressLayout;
use tdx_machine::{CpuidRegs, LpIndex, Machine};

use crate::spec::smp;

const VENDOR: u32 = 0;
const FEATURES: u32 = 1;
const MORE_FEATURES: u32 = 7;
const TOPOLOGY: u32 = 0xB;
const TOPOLOGY_V2: u32 = 0x1F;
/// Leaves of the topology, ECX bits 15:8: a level above that of threads.
const CORE_LEVEL: u32 = 2;
const ADDRESS_WIDTH: u32 = 0x8000_0008;

/// "GenuineIntel" in EBX, EDX, ECX.
const INTEL: [u32; 3] = [0x756E_6547, 0x4965_6E69, 0x6C65_746E];
/// Leaf 1 ECX.
const VMX: u32 = 1 << 5;
const XSAVE: u32 = 1 << 26;
/// Leaf 1 EDX.
const SELF_SNOOP: u32 = 1 << 27;
/// Leaf 7 ECX.
const MOVDIR64B: u32 = 1 << 28;

/// Models of family 6 with the partial-write erratum: Sapphire Rapids and Emerald Rapids.
const PARTIAL_WRITE_ERRATUM: [u32; 2] = [143, 207];
/// A model that Linux knows no erratum of: Granite Rapids.
const GOOD_MODEL: u32 = 173;

/// What the platform expects of a guest.
#[derive(Clone, Debug)]
struct Expected {
    layout: Option<AddressLayout>,
    x2apic_ids: Vec<u32>,
    /// Bits of an x2APIC id below the package.
    package_shift: u32,
    smp: String,
}

/// Answers of CPUID that the guest got.
#[derive(Debug, Default)]
struct Seen {
    vendor: Option<[u32; 3]>,
    features: Option<CpuidRegs>,
    more_features: Option<CpuidRegs>,
    phys_bits: Option<u8>,
    /// x2APIC id by LP; that of leaf 1 gives way to those of the topology.
    x2apic_ids: Vec<Option<u32>>,
    /// Of the levels of the topology from cores up, the last one.
    package_shift: Option<u32>,
    told: BTreeSet<String>,
}

/// Watches what CPUID tells the guest.
#[derive(Debug)]
pub struct Observe {
    expected: Expected,
    seen: Mutex<Seen>,
    /// The guest has asked for the KeyIDs.
    looked: AtomicBool,
    /// CPUID 0x80000008 EAX bits 7:0; 0 before anybody asked.
    phys_bits: AtomicU8,
}

impl Observe {
    pub(crate) fn new(machine: &Machine) -> Self {
        let spec = machine.spec();
        let expected = Expected {
            layout: AddressLayout::new(spec.cpu.kind.maxpa(), spec.keyids.bits),
            x2apic_ids: machine.lps().iter().map(|lp| lp.x2apic_id).collect(),
            package_shift: spec.cpu.package_shift(),
            smp: smp(spec.cpu.packages, spec.cpu.cores, spec.cpu.threads),
        };
        let seen = Seen { x2apic_ids: vec![None; expected.x2apic_ids.len()], ..Seen::default() };
        Self { expected, seen: Mutex::new(seen), looked: AtomicBool::new(false), phys_bits: AtomicU8::new(0) }
    }

    /// True for a leaf whose answer says something.
    pub fn wants(leaf: u32, subleaf: u32) -> bool {
        match leaf {
            VENDOR | FEATURES | TOPOLOGY | TOPOLOGY_V2 | ADDRESS_WIDTH => true,
            MORE_FEATURES => subleaf == 0,
            _ => false,
        }
    }

    /// CPUID was executed on `lp`.
    pub fn cpuid(&self, lp: LpIndex, leaf: u32, subleaf: u32, answer: CpuidRegs) {
        if !Self::wants(leaf, subleaf) {
            return;
        }
        let mut seen = self.seen.lock();
        match leaf {
            VENDOR => seen.vendor = Some([answer.ebx, answer.edx, answer.ecx]),
            FEATURES => {
                seen.features = Some(answer);
                let index = lp.0 as usize;
                // Of an id that is longer it has the low bits only.
                let short = self.expected.x2apic_ids.get(index).is_some_and(|id| *id <= 0xFF);
                if let Some(id) = seen.x2apic_ids.get_mut(index).filter(|_| short) {
                    id.get_or_insert(answer.ebx >> 24);
                }
            }
            MORE_FEATURES => seen.more_features = Some(answer),
            TOPOLOGY | TOPOLOGY_V2 => {
                // EBX is 0 at a level that is not there.
                if answer.ebx == 0 {
                    return;
                }
                if let Some(id) = seen.x2apic_ids.get_mut(lp.0 as usize) {
                    *id = Some(answer.edx);
                }
                if answer.ecx >> 8 & 0xFF >= CORE_LEVEL {
                    seen.package_shift = seen.package_shift.max(Some(answer.eax & 0x1F));
                }
            }
            _ => {
                let [bits, ..] = answer.eax.to_le_bytes();
                seen.phys_bits = Some(bits);
                self.phys_bits.store(bits, Ordering::Relaxed);
            }
        }
    }

    /// True if physical addresses of the guest end below the KeyID bits.
    pub fn lacks_keyid_bits(&self) -> bool {
        let bits = self.phys_bits.load(Ordering::Relaxed);
        self.expected
            .layout
            .is_some_and(|layout| layout.keyid_bits() != 0 && bits == layout.maxpa() - layout.keyid_bits())
    }

    /// The guest begins to look at TDX. From now on there are complaints.
    pub(crate) fn look(&self) {
        self.looked.store(true, Ordering::Relaxed);
    }

    /// True once the guest has begun to look at TDX.
    pub(crate) fn has_looked(&self) -> bool {
        self.looked.load(Ordering::Relaxed)
    }

    /// The guest starts anew. What was said stays said.
    pub(crate) fn reset(&self) {
        self.looked.store(false, Ordering::Relaxed);
        self.phys_bits.store(0, Ordering::Relaxed);
        let mut seen = self.seen.lock();
        let told = std::mem::take(&mut seen.told);
        *seen = Seen { told, x2apic_ids: vec![None; self.expected.x2apic_ids.len()], ..Seen::default() };
    }

    /// What is wrong with the guest's CPU, one line each, and nothing twice. An answer that the guest
    /// did not ask for is not complained of.
    pub fn complaints(&self) -> Vec<String> {
        let mut seen = self.seen.lock();
        let mut found = Vec::new();
        features(&seen, &mut found);
        self.address_width(&seen, &mut found);
        self.topology(&seen, &mut found);
        found.retain(|line| seen.told.insert(line.clone()));
        found
    }

    fn address_width(&self, seen: &Seen, found: &mut Vec<String>) {
        let (Some(bits), Some(layout)) = (seen.phys_bits, self.expected.layout) else { return };
        let (wide, narrow) = (layout.maxpa(), layout.maxpa() - layout.keyid_bits());
        if bits != wide && bits != narrow {
            found.push(format!(
                "the guest's physical addresses have {bits} bits, the platform's {wide}, {} of them for the KeyID: give QEMU `phys-bits={narrow}` with `-cpu`",
                layout.keyid_bits()
            ));
        }
    }

    fn topology(&self, seen: &Seen, found: &mut Vec<String>) {
        let mut ids = seen.x2apic_ids.iter().zip(&self.expected.x2apic_ids).enumerate();
        let wrong = |(vcpu, (seen, expected)): (usize, (&Option<u32>, &u32))| {
            seen.filter(|seen| seen != expected).map(|seen| (vcpu, seen, *expected))
        };
        // One is enough: with the right topology all are right. The same ids may be split otherwise.
        if let Some((vcpu, seen, expected)) = ids.find_map(wrong) {
            found.push(format!(
                "vCPU {vcpu} has x2APIC id {seen}, the platform's LP {vcpu} has {expected}: give QEMU `{}`",
                self.expected.smp
            ));
        } else if let Some(shift) = seen.package_shift.filter(|shift| *shift != self.expected.package_shift) {
            found.push(format!(
                "the guest's x2APIC ids have {shift} bits below the package, the platform's {}: give QEMU `{}`",
                self.expected.package_shift, self.expected.smp
            ));
        }
    }
}

fn features(seen: &Seen, found: &mut Vec<String>) {
    if let Some(vendor) = seen.vendor
        && vendor != INTEL
    {
        let text: Vec<u8> = vendor.iter().flat_map(|word| word.to_le_bytes()).collect();
        found.push(format!(
            "the guest's CPU says it is of {}, and Linux looks for TDX on Intel's only: give QEMU `vendor=GenuineIntel` with `-cpu`",
            text.escape_ascii()
        ));
    }
    if let Some(features) = seen.features {
        let lacking = |what, flag| {
            format!(
                "the guest's CPU has no {what}, which Linux needs for TDX: give QEMU `{flag}` with `-cpu`"
            )
        };
        for (present, what, flag) in [
            (features.ecx & VMX != 0, "VMX", "+vmx,x-force-features=on"),
            (features.ecx & XSAVE != 0, "XSAVE", "+xsave"),
            (features.edx & SELF_SNOOP != 0, "self-snoop", "+ss,x-force-features=on"),
        ] {
            if !present {
                found.push(lacking(what, flag));
            }
        }
        if seen.more_features.is_some_and(|features| features.ecx & MOVDIR64B == 0) {
            found.push(lacking("MOVDIR64B", "+movdir64b,x-force-features=on"));
        }
        let (family, model) = family_model(features.eax);
        if family == 6 && PARTIAL_WRITE_ERRATUM.contains(&model) {
            found.push(format!(
                "Linux knows the partial-write erratum of family 6 model {model} and clears memory by MOVDIR64B, which TCG lacks: give QEMU `model={GOOD_MODEL}` with `-cpu`"
            ));
        }
    }
}

/// Family and model as software reads CPUID.1 EAX.
const fn family_model(signature: u32) -> (u32, u32) {
    let family = signature >> 8 & 0xF;
    let extended = if family == 6 || family == 0xF { signature >> 16 & 0xF } else { 0 };
    let family = if family == 0xF { family + (signature >> 20 & 0xFF) } else { family };
    (family, extended << 4 | signature >> 4 & 0xF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::host;

    const GRANITE_RAPIDS: u32 = 0xA_06D1;
    const EMERALD_RAPIDS: u32 = 0xC_06F2;
    const SAPPHIRE_RAPIDS: u32 = 0x8_06F8;

    fn answer(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidRegs {
        CpuidRegs { eax, ebx, ecx, edx }
    }

    /// A guest with the recommended CPU on each of its vCPUs.
    fn good(observe: &Observe, vcpus: u32) {
        for lp in 0..vcpus {
            let cpuid = |leaf, answer| observe.cpuid(LpIndex(lp), leaf, 0, answer);
            cpuid(0, answer(0xD, INTEL[0], INTEL[2], INTEL[1]));
            cpuid(1, answer(GRANITE_RAPIDS, lp << 24, VMX | XSAVE, SELF_SNOOP));
            cpuid(7, answer(0, 0, MOVDIR64B, 0));
            cpuid(0xB, answer(0, 1, 0, lp));
            cpuid(0x8000_0008, answer(0x302E, 0, 0, 0));
        }
    }

    #[test]
    fn nothing_is_wrong_with_the_recommended_cpu() {
        let (host, _) = host(&[], 4);
        good(&host.observe, 4);
        assert_eq!(host.observe.complaints(), Vec::<String>::new());
        host.observe.cpuid(LpIndex(0), 0x8000_0008, 0, answer(0x3034, 0, 0, 0));
        assert_eq!(host.observe.complaints(), Vec::<String>::new(), "all 52 bits");
    }

    #[test]
    fn what_the_guest_never_asked_for_is_not_wrong() {
        let (host, _) = host(&[], 2);
        assert_eq!(host.observe.complaints(), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_keeps_linux_from_tdx_is_named_once_with_its_cure() {
        let cases: [(u32, CpuidRegs, &[&str]); 9] = [
            (
                0,
                answer(0xD, 0x6874_7541, 0x444D_4163, 0x6974_6E65),
                &["AuthenticAMD", "`vendor=GenuineIntel`"],
            ),
            (1, answer(GRANITE_RAPIDS, 0, XSAVE, SELF_SNOOP), &["no VMX", "`+vmx,x-force-features=on`"]),
            (1, answer(GRANITE_RAPIDS, 0, VMX, SELF_SNOOP), &["no XSAVE", "`+xsave`"]),
            (1, answer(GRANITE_RAPIDS, 0, VMX | XSAVE, 0), &["no self-snoop", "`+ss,"]),
            (1, answer(SAPPHIRE_RAPIDS, 0, VMX | XSAVE, SELF_SNOOP), &["model 143", "`model=173`"]),
            (1, answer(EMERALD_RAPIDS, 0, VMX | XSAVE, SELF_SNOOP), &["model 207", "`model=173`"]),
            (7, answer(0, 0, !MOVDIR64B, 0), &["no MOVDIR64B", "`+movdir64b,"]),
            (0x8000_0008, answer(0x3028, 0, 0, 0), &["40 bits", "`phys-bits=46`"]),
            (
                0xB,
                answer(0, 1, 0, 2),
                &["vCPU 0 has x2APIC id 2", "LP 0 has 0", "`-smp 2,sockets=1,cores=2,threads=1`"],
            ),
        ];
        for (leaf, regs, words) in cases {
            let (host, _) = host(&[], 2);
            good(&host.observe, 2);
            host.observe.cpuid(LpIndex(0), leaf, 0, regs);
            let complaints = host.observe.complaints();
            let [line] = complaints.as_slice() else { panic!("{leaf:#x}: {complaints:?}") };
            assert!(words.iter().all(|word| line.contains(word)) && !line.contains('\n'), "{line}");
            host.observe.cpuid(LpIndex(0), leaf, 0, regs);
            assert_eq!(host.observe.complaints(), Vec::<String>::new(), "said already");
            host.observe.reset();
            host.observe.cpuid(LpIndex(0), leaf, 0, regs);
            host.observe.cpuid(LpIndex(0), 1, 0, answer(GRANITE_RAPIDS, 0, VMX | XSAVE, SELF_SNOOP));
            assert!(!host.observe.complaints().contains(line), "said already, before the reset");
        }
    }

    #[test]
    fn topologies_in_the_guest_follow_those_of_the_platform() {
        // Two packages of three cores: ids of the second package begin at the next power of two.
        let toml = tdx_machine::presets::find("tiny").expect("a preset").toml;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = toml.replace("packages = 1", "packages = 2").replace("cores = 2", "cores = 3");
        std::fs::write(file.path(), text).expect("written");
        let (host, _) = host(&[&format!("platform={}", file.path().display())], 6);
        for (lp, id) in [0, 1, 2, 4, 5, 6].into_iter().enumerate() {
            let lp = LpIndex(u32::try_from(lp).expect("small"));
            host.observe.cpuid(lp, 0xB, 0, answer(0, 1, 0, id));
            // A level that is not there says nothing.
            host.observe.cpuid(lp, 0xB, 3, answer(0, 0, 3, 0));
        }
        assert_eq!(host.observe.complaints(), Vec::<String>::new());
        host.observe.cpuid(LpIndex(3), 0x1F, 0, answer(0, 1, 0, 3));
        let complaints = host.observe.complaints();
        assert!(complaints[0].ends_with("give QEMU `-smp 6,sockets=2,cores=3,threads=1`"), "{complaints:?}");
    }

    #[test]
    fn packages_are_told_apart_where_the_ids_are_the_same() {
        let toml = tdx_machine::presets::find("tiny").expect("a preset").toml;
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), toml.replace("packages = 1", "packages = 2")).expect("written");
        for (shift, wrong) in [(1, false), (2, true)] {
            let (host, _) = host(&[&format!("platform={}", file.path().display())], 4);
            for lp in 0..4 {
                host.observe.cpuid(LpIndex(lp), 0xB, 0, answer(0, 1, 1 << 8, lp));
                assert_eq!(host.observe.complaints(), Vec::<String>::new(), "threads say nothing");
            }
            host.observe.cpuid(LpIndex(3), 0xB, 1, answer(shift, 2, 2 << 8 | 1, 3));
            let complaints = host.observe.complaints();
            assert_eq!(!complaints.is_empty(), wrong, "{complaints:?}");
            assert!(complaints.iter().all(|line| line.ends_with("`-smp 4,sockets=2,cores=2,threads=1`")));
        }
    }

    #[test]
    fn ids_beyond_eight_bits_are_not_judged_by_leaf_1() {
        let (host, _) = host(&["platform=gnr-2s-connect"], 384);
        let id = host.machine.lps().get(383).expect("there").x2apic_id;
        assert!(id > 0xFF);
        host.observe.cpuid(LpIndex(383), 1, 0, answer(GRANITE_RAPIDS, id << 24, VMX | XSAVE, SELF_SNOOP));
        assert_eq!(host.observe.complaints(), Vec::<String>::new());
        host.observe.cpuid(LpIndex(383), 0xB, 0, answer(0, 1, 0, 383));
        assert_eq!(host.observe.complaints().len(), 1);
    }

    #[test]
    fn only_telling_leaves_are_wanted() {
        for (leaf, subleaf, wanted) in [
            (0, 0, true),
            (7, 0, true),
            (7, 1, false),
            (0xB, 1, true),
            (0x1F, 0, true),
            (2, 0, false),
            (0x8000_0000, 0, false),
        ] {
            assert_eq!(Observe::wants(leaf, subleaf), wanted, "{leaf:#x}.{subleaf}");
        }
        let (host, _) = host(&[], 1);
        host.observe.cpuid(LpIndex(0), 2, 0, answer(46, 0, 0, 0));
        assert!(!host.observe.lacks_keyid_bits());
        host.observe.cpuid(LpIndex(9), 1, 0, answer(GRANITE_RAPIDS, 0, VMX | XSAVE, SELF_SNOOP));
        assert_eq!(host.observe.complaints(), Vec::<String>::new(), "a vCPU that is not there");
    }

    #[test]
    fn family_and_model_are_those_of_software() {
        for (signature, expected) in [
            (GRANITE_RAPIDS, (6, 173)),
            (SAPPHIRE_RAPIDS, (6, 143)),
            (0x0080_0F12, (0x17, 1)),
            (0x543, (5, 4)),
        ] {
            assert_eq!(family_model(signature), expected, "{signature:#x}");
        }
    }
}
