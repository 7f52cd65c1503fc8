//! Every preset with a module gets through TDH.SYS.INIT and TDH.SYS.LP.INIT on all LPs.

use crate::common::{self, call, enter_vmx, ready};
use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::StatusCode;
use tdx_abi::{KeyId, KeyIdPartitioning, PhysAddr, Registers};
use tdx_machine::{Fault, LpIndex, Machine, PlatformSpec, presets};

/// Presets whose owners reported a module that refuses the machine.
const REFUSED: [(&str, SeamcallLeaf, u64); 2] = [
    ("canonical-tdx-25", SeamcallLeaf::SYS_INIT, 0xC000_0921_0000_0122),
    ("canonical-tdx-161", SeamcallLeaf::SYS_INIT, 0xC000_0900_0000_0000),
];

#[test]
fn every_tdx_preset_passes_sys_init_and_lp_init_on_all_lps() {
    let refused: Vec<_> = REFUSED.iter().map(|row| row.0).collect();
    for preset in presets::all().filter(|preset| !refused.contains(&preset.name)) {
        let spec = preset.spec().expect(preset.name);
        if !spec.module.present {
            continue;
        }
        let machine = ready(spec);
        for lp in machine.lps() {
            let status = call(&machine, lp.index, SeamcallLeaf::SYS_LP_INIT);
            assert_eq!(status, StatusCode::SUCCESS.plain(), "{} {}", preset.name, lp.index);
        }
    }
}

#[test]
fn every_profile_accepts_a_healthy_machine() {
    for profile in tdx_module::profile::all() {
        let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
        profile.name.clone_into(&mut spec.module.profile);
        let machine = ready(spec);
        for lp in machine.lps() {
            let status = call(&machine, lp.index, SeamcallLeaf::SYS_LP_INIT);
            assert_eq!(status, StatusCode::SUCCESS.plain(), "{} {}", profile.name, lp.index);
        }
    }
}

#[test]
fn every_cpu_kind_with_tdx_is_accepted_in_both_memory_modes() {
    for kind in ["sapphire-rapids", "emerald-rapids", "granite-rapids", "sierra-forest"] {
        for integrity in [true, false] {
            let preset = presets::find("tiny").expect("a preset");
            let text = preset.toml.replace("granite-rapids", kind);
            let mut spec = tdx_machine::PlatformSpec::from_toml(&text).expect(kind);
            spec.keyids.integrity = integrity;
            let machine = ready(spec);
            for lp in machine.lps() {
                let status = call(&machine, lp.index, SeamcallLeaf::SYS_LP_INIT);
                assert_eq!(status, StatusCode::SUCCESS.plain(), "{kind} {integrity}");
            }
        }
    }
}

#[test]
fn reported_refusals_are_reproduced_bit_by_bit() {
    for (name, leaf, raw) in REFUSED {
        let Some(preset) = presets::find(name) else { continue };
        let machine = Machine::power_on(common::quiet(preset.spec().expect(name)), 1).expect(name);
        enter_vmx(&machine);
        assert_eq!(call(&machine, machine.lps()[0].index, leaf).raw(), raw, "{name}");
    }
}

#[test]
fn faults_of_cpu_facts_end_in_the_status_that_the_catalogue_promises() {
    let spec = || common::quiet(presets::find("default").expect("a preset").spec().expect("valid"));
    let last_package_first_lp = |machine: &Machine| machine.lps()[16].index;
    for (fault, code) in [
        (Fault::CpuidMismatch { package: 1 }, StatusCode::INCONSISTENT_CPUID_FIELD),
        (Fault::CpuidIncorrect { package: 1 }, StatusCode::INCONSISTENT_CPUID_FIELD),
        (Fault::MsrMismatch { package: 1, msr: tdx_machine::spec::Hex(0xCF) }, StatusCode::INCONSISTENT_MSR),
    ] {
        let machine = ready(spec());
        machine.inject(fault.clone()).expect("possible");
        let status = call(&machine, last_package_first_lp(&machine), SeamcallLeaf::SYS_LP_INIT);
        assert!(status.is(code), "{}: {status:?}", fault.name());
    }
    for (fault, code) in [
        (Fault::CpuidIncorrect { package: 0 }, StatusCode::INCORRECT_CPUID_VALUE),
        (
            Fault::MsrMismatch { package: 0, msr: tdx_machine::spec::Hex(0x10A) },
            StatusCode::INCORRECT_MSR_VALUE,
        ),
    ] {
        let machine = Machine::power_on(spec(), 1).expect("valid");
        enter_vmx(&machine);
        machine.inject(fault.clone()).expect("possible");
        let status = call(&machine, machine.lps()[0].index, SeamcallLeaf::SYS_INIT);
        assert!(status.is(code), "{}: {status:?}", fault.name());
    }
}

#[test]
fn an_old_module_refuses_tsx_turned_off_and_a_newer_one_does_not() {
    let tsx_off = |profile: &str| {
        let mut spec = common::quiet(presets::find("tiny").expect("a preset").spec().expect("valid"));
        profile.clone_into(&mut spec.module.profile);
        spec.faults = vec![Fault::TsxCtrlDisabled];
        let machine = Machine::power_on(spec, 1).expect("valid");
        enter_vmx(&machine);
        call(&machine, machine.lps()[0].index, SeamcallLeaf::SYS_INIT)
    };
    assert_eq!(tsx_off("1.0").raw(), 0xC000_0921_0000_0122);
    assert_eq!(tsx_off("1.5.05"), StatusCode::SUCCESS.plain());
}

#[test]
fn a_machine_captured_from_its_memory_map_alone_is_accepted() {
    // RAM reaches up to 3 GiB: SEAM range and SMRAM must find another place than usual.
    let log = "BIOS-e820: [mem 0x0-0x9ffff] usable\n\
               BIOS-e820: [mem 0x100000-0xbfffffff] usable\n\
               BIOS-e820: [mem 0x100000000-0x63fffffff] usable\n";
    let (spec, _) = tdx_machine::capture::from_dmesg(log).expect("a machine");
    let machine = ready(spec);
    let status = call(&machine, machine.lps()[1].index, SeamcallLeaf::SYS_LP_INIT);
    assert_eq!(status, StatusCode::SUCCESS.plain());
}

/// A quiet machine on which every LP ran TDH.SYS.LP.INIT.
fn initialised(spec: PlatformSpec) -> Machine {
    let machine = ready(spec);
    for lp in machine.lps() {
        assert_eq!(call(&machine, lp.index, SeamcallLeaf::SYS_LP_INIT), StatusCode::SUCCESS.plain());
    }
    machine
}

#[test]
fn a_missing_lp_keeps_the_module_waiting() {
    let with = |faults: Vec<Fault>| {
        let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
        spec.faults = faults;
        call(&initialised(spec), LpIndex(0), SeamcallLeaf::SYS_CONFIG)
    };
    assert_eq!(with(vec![Fault::LpMissing]), StatusCode::SYS_CONFIG_NOT_PENDING.plain());
    assert!(with(vec![]).is(StatusCode::OPERAND_INVALID), "all LPs are there: the operands are looked at");
}

#[test]
fn old_modules_refuse_metadata_as_their_owners_reported() {
    let mut fault = presets::find("tiny").expect("a preset").spec().expect("valid");
    fault.faults = vec![Fault::Module10];
    let posted = ["canonical-tdx-331", "canonical-tdx-83"]
        .map(|name| presets::find(name).expect(name).spec().expect(name));
    for spec in posted.into_iter().chain([fault]) {
        let machine = initialised(spec);
        assert_eq!(call(&machine, LpIndex(0), SeamcallLeaf::SYS_RD).raw(), 0xC000_0505_0000_0000);
    }
}

/// `N` bytes of memory.
fn bytes<const N: usize>(machine: &Machine, pa: u64) -> [u8; N] {
    let mut bytes = [0; N];
    machine.read(PhysAddr::new(pa), KeyId::TME, &mut bytes).expect("RAM");
    bytes
}

#[test]
fn a_module_shows_the_build_that_its_owner_posted() {
    const INFO: u64 = 0x20_0000;
    for (name, build, date, keys) in [
        ("canonical-tdx-331", 457, 0x2023_0206_u32, None),
        ("canonical-tdx-135", 595, 0x2023_1008, Some((32, 63))),
        ("canonical-tdx-415", 882, 0x2025_0325, Some((32, 63))),
        ("canonical-tdx-83", 0, 0x2022_0801, Some((1, 127))),
    ] {
        let machine = initialised(presets::find(name).expect(name).spec().expect(name));
        let mut regs = Registers {
            rax: u64::from(SeamcallLeaf::SYS_INFO.0),
            rcx: INFO,
            rdx: 1024,
            r8: INFO + 1024,
            r9: 32,
            ..Registers::default()
        };
        machine.seamcall(LpIndex(0), &mut regs).expect("an answer");
        assert_eq!(regs.rax, 0, "{name}");
        assert_eq!(u32::from_le_bytes(bytes(&machine, INFO + 8)), date, "{name}");
        assert_eq!(u16::from_le_bytes(bytes(&machine, INFO + 12)), build, "{name}");
        let split = machine.rdmsr(LpIndex(0), MsrIndex::IA32_MKTME_KEYID_PARTITIONING).expect("TDX");
        let split = KeyIdPartitioning::from_msr(split);
        let range = split.first_private().zip(split.last_private());
        let range = range.map(|(first, last)| (first.number(), last.number()));
        assert!(keys.is_none() || range == keys, "{name}: {range:?}");
    }
}

#[test]
fn seamldr_info_has_the_date_in_bcd_and_counts_no_updates_in_1_0() {
    const INFO: u64 = 0x20_0000;
    let info = |name: &str| {
        let machine = ready(presets::find(name).expect(name).spec().expect(name));
        let rax = LeafWord::seamldr(SeamldrLeaf::INFO).raw();
        let mut regs = Registers { rax, rcx: INFO, ..Registers::default() };
        machine.seamcall(LpIndex(0), &mut regs).expect("an answer");
        assert_eq!(regs.rax, 0);
        let word = |at| u32::from_le_bytes(bytes(&machine, INFO + at));
        (word(12), word(28))
    };
    assert_eq!(info("default"), (0x2025_0101, 15), "16 places, one taken by the LOAD at boot");
    assert_eq!(info("gnr-8s"), (0x2025_0101, 31));
    assert_eq!(info("canonical-tdx-331").1, 0);
}

#[test]
fn a_withheld_feature_is_not_reported() {
    let features = |faults: Vec<Fault>| {
        let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
        spec.faults = faults;
        let machine = initialised(spec);
        let rax = u64::from(SeamcallLeaf::SYS_RD.0);
        let mut regs = Registers { rax, rdx: sys::TDX_FEATURES0.raw(), ..Registers::default() };
        machine.seamcall(LpIndex(0), &mut regs).expect("an answer");
        assert_eq!(regs.rax, 0);
        Features0::from_bits(regs.r8)
    };
    assert!(features(vec![]).contains(Features0::NO_RBP_MOD));
    assert!(!features(vec![Fault::NoRbpModMissing]).contains(Features0::NO_RBP_MOD));
}
