//! Bring-up: its order, its failures and how they are taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::metadata::sys;
use tdx_abi::msr::MsrIndex;
use tdx_abi::seamldr::Version;
use tdx_abi::status::{OperandId, StatusCode};
use tdx_host::error::CpuidSubleaf;
use tdx_host::traits::{CpuNumber, CpuidLeaf, LogLevel, NodeId, SeamcallFault};
use tdx_host::{BringUpOptions, HostError, Lifecycle, Phase, Progress, TdmrRules};

use crate::fake::{Bench, BendFake, Event, FEATURES, Fake, GIB, MIB, Outcome, range};

#[test]
fn a_machine_comes_up() {
    let mut bench = Bench::new(Fake::new(2));
    let report = bench.bring_up().unwrap();
    assert_eq!(bench.host.lifecycle(), Lifecycle::Ready);
    assert_eq!(report.version, Version::new(1, 5, 6));
    assert_eq!((report.cpus, report.packages, report.tdmrs), (4, 2, 2));
    assert_eq!(report.pamt_kb(), 4104 * 4 + 4 * 2);
    assert_eq!(report.memory_bytes, 4 * GIB - MIB);
    assert_eq!(report.tdmr_init_calls, bench.fake.calls_of(SeamcallLeaf::SYS_TDMR_INIT) as u64);
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_INIT), 1);
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_LP_INIT), 4);
    assert_eq!(bench.fake.cpus_in_vmx(), 4);
    let line = "TDX module 1.5.06 initialized: 16424 KB allocated for PAMT";
    assert_eq!(bench.fake.state().lines, [(LogLevel::Info, line.to_owned())]);
}

#[test]
fn calls_come_in_the_order_of_the_module() {
    let bench = Bench::up(Fake::new(2));
    let state = bench.fake.state();
    let mut order: Vec<u16> = state.calls.iter().map(|(_, word, _)| word.leaf()).collect();
    order.dedup();
    let leaf = |leaf: SeamcallLeaf| leaf.0;
    assert_eq!(
        order,
        [
            leaf(SeamcallLeaf::SYS_INIT),
            leaf(SeamcallLeaf::SYS_LP_INIT),
            leaf(SeamcallLeaf::SYS_RD),
            leaf(SeamcallLeaf::SYS_CONFIG),
            leaf(SeamcallLeaf::SYS_RD),
            leaf(SeamcallLeaf::SYS_KEY_CONFIG),
            leaf(SeamcallLeaf::SYS_TDMR_INIT),
        ]
    );
    let config = state.calls.iter().find(|call| call.1.leaf() == SeamcallLeaf::SYS_CONFIG.0).unwrap();
    assert_eq!((config.1.version(), config.2.r8, config.2.r9, config.2.r11), (0, 32, 0, 0));
    let keys: Vec<_> =
        state.calls.iter().filter(|call| call.1.leaf() == SeamcallLeaf::SYS_KEY_CONFIG.0).collect();
    assert_eq!([keys[0].0, keys[1].0], [CpuNumber(0), CpuNumber(2)]);
    // Caches went back once, between CONFIG and the first key.
    assert_eq!(state.wbinvd, [1; 4]);
}

#[test]
fn tdmrs_are_shared_out_over_the_cpus_the_same_way_each_time() {
    let run = || {
        let fake = Fake::new(1);
        let memory = (0..5).map(|i| (range(GIB + i * 4 * GIB, 2 * GIB + i * 4 * GIB), NodeId(0)));
        fake.set_memory(memory.collect());
        let bench = Bench::up(fake);
        let state = bench.fake.state();
        let mut seen: Vec<(u32, u64)> = state
            .calls
            .iter()
            .filter(|call| call.1.leaf() == SeamcallLeaf::SYS_TDMR_INIT.0)
            .map(|(cpu, _, registers)| (cpu.0, registers.rcx / GIB))
            .collect();
        seen.dedup();
        seen
    };
    assert_eq!(run(), [(0, 1), (0, 9), (0, 17), (1, 5), (1, 13)]);
    assert_eq!(run(), run());
}

#[test]
fn a_cpu_is_given_back_after_a_few_milliseconds_of_tdmr_init() {
    let fake = Fake::new(2);
    fake.state().step = 4 * MIB;
    let mut bench = Bench::new(fake);
    let report = bench.bring_up().unwrap();
    assert_eq!(report.tdmr_init_calls, 4 * 256);
    assert_eq!(bench.fake.state().longest_init_visit, 64);
}

#[test]
fn cpus_that_run_at_the_same_time_bring_the_same_machine_up() {
    let mut bench = Bench::new(Fake::new(4).threaded());
    let report = bench.bring_up().unwrap();
    assert_eq!((report.cpus, report.packages, report.tdmrs), (8, 4, 4));
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_INIT), 1);
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_LP_INIT), 8);
}

/// A leaf, the call of it that fails, how, and the name of what comes out.
type Step = (SeamcallLeaf, u64, Outcome, &'static str);

fn failing_steps() -> Vec<Step> {
    let status = |code: StatusCode| Outcome::Status(code.plain());
    let operand = |id| Outcome::Status(StatusCode::OPERAND_INVALID.with_operand(id));
    let fault = Outcome::Fault;
    vec![
        (SeamcallLeaf::SYS_INIT, 0, fault(SeamcallFault::VmFailInvalid), "module-not-loaded"),
        (SeamcallLeaf::SYS_INIT, 0, fault(SeamcallFault::GeneralProtection), "seam-disabled"),
        (SeamcallLeaf::SYS_INIT, 0, fault(SeamcallFault::InvalidOpcode), "not-in-vmx-operation"),
        (
            SeamcallLeaf::SYS_INIT,
            0,
            StatusCode::INCORRECT_MSR_VALUE.with_detail(0x122).into(),
            "incorrect-msr",
        ),
        (SeamcallLeaf::SYS_INIT, 0, status(StatusCode::INCORRECT_CPUID_VALUE), "incorrect-cpuid"),
        (SeamcallLeaf::SYS_INIT, 0, status(StatusCode::CMR_LIST_INVALID), "sys-init-failed"),
        (
            SeamcallLeaf::SYS_LP_INIT,
            3,
            StatusCode::INCONSISTENT_MSR.with_detail(0x87).into(),
            "inconsistent-msr",
        ),
        (SeamcallLeaf::SYS_LP_INIT, 2, status(StatusCode::INCONSISTENT_CPUID_FIELD), "inconsistent-cpuid"),
        (SeamcallLeaf::SYS_LP_INIT, 1, status(StatusCode::RND_NO_ENTROPY), "lp-init-failed"),
        (SeamcallLeaf::SYS_RD, 0, status(StatusCode::SYS_NOT_READY), "module-too-old"),
        (SeamcallLeaf::SYS_RD, 0, operand(OperandId::RAX), "module-too-old"),
        (SeamcallLeaf::SYS_RD, 2, status(StatusCode::METADATA_FIELD_ID_INCORRECT), "metadata-read-failed"),
        (SeamcallLeaf::SYS_RD, 30, status(StatusCode::SYS_NOT_READY), "metadata-read-failed"),
        (SeamcallLeaf::SYS_CONFIG, 0, status(StatusCode::SYS_CONFIG_NOT_PENDING), "lp-not-initialised"),
        (SeamcallLeaf::SYS_CONFIG, 0, status(StatusCode::TDMR_OUTSIDE_CMRS), "config-failed"),
        (SeamcallLeaf::SYS_CONFIG, 0, operand(OperandId::R8), "config-failed"),
        (SeamcallLeaf::SYS_RD, 40, status(StatusCode::SYS_SHUTDOWN), "metadata-read-failed"),
        (SeamcallLeaf::SYS_KEY_CONFIG, 0, status(StatusCode::KEY_GENERATION_FAILED), "key-config-failed"),
        (SeamcallLeaf::SYS_KEY_CONFIG, 1, status(StatusCode::KEY_GENERATION_FAILED), "key-config-failed"),
        (SeamcallLeaf::SYS_TDMR_INIT, 0, status(StatusCode::SYS_NOT_READY), "tdmr-init-failed"),
        (SeamcallLeaf::SYS_TDMR_INIT, 40, operand(OperandId::RCX), "tdmr-init-failed"),
        (SeamcallLeaf::SYS_TDMR_INIT, 40, fault(SeamcallFault::VmFailInvalid), "module-not-loaded"),
    ]
}

#[test]
fn every_failing_call_ends_in_its_name_with_all_taken_back() {
    for threads in [false, true] {
        for (leaf, call, outcome, name) in failing_steps() {
            let what = format!("{leaf} call {call} {outcome:?}");
            let fake = if threads { Fake::new(2).threaded() } else { Fake::new(2) };
            fake.state().erratum = true;
            fake.script(leaf, call, u64::MAX, outcome);
            let mut bench = Bench::new(fake);
            let error = bench.bring_up().unwrap_err();
            assert_eq!(error.name(), name, "{what}: {error}");
            bench.assert_unwound(&what);
            assert_eq!(bench.host.lifecycle(), Lifecycle::Failed, "{what}");
            assert_eq!(bench.bring_up(), Err(HostError::AlreadyTried), "{what}");
            assert!(bench.fake.state().lines.iter().any(|line| line.0 == LogLevel::Error), "{what}");
        }
    }
}

#[test]
fn a_seamcall_that_reaches_nobody_is_explained_by_the_seam_range_register() {
    const LOCKED: u64 = 1 << 10;
    const ENABLED: u64 = 1 << 11;
    let (gp, vmfail) = (SeamcallFault::GeneralProtection, SeamcallFault::VmFailInvalid);
    for (mask, fault, name) in [
        (Some(LOCKED), gp, "seamrr-not-enabled"),
        (Some(LOCKED), vmfail, "seamrr-not-enabled"),
        (Some(ENABLED), gp, "seamrr-not-locked"),
        (Some(ENABLED), vmfail, "seamrr-not-locked"),
        (Some(ENABLED | LOCKED), gp, "seam-disabled"),
        (Some(ENABLED | LOCKED), vmfail, "module-not-loaded"),
        (None, gp, "seam-disabled"),
        (None, vmfail, "module-not-loaded"),
    ] {
        let fake = Fake::new(1);
        fake.state().msrs.insert(MsrIndex::IA32_SEAMRR_PHYS_MASK.0, mask);
        fake.script(SeamcallLeaf::SYS_INIT, 0, u64::MAX, Outcome::Fault(fault));
        let error = Bench::new(fake).bring_up().unwrap_err();
        assert_eq!(error.name(), name, "{mask:?} {fault:?}: {error}");
    }
}

#[test]
fn refusals_of_the_module_name_the_cpu_and_the_register() {
    let fake = Fake::new(2);
    let word = LeafWord::module(SeamcallLeaf::SYS_LP_INIT, 0);
    fake.script_word(word, 2, 1, StatusCode::INCONSISTENT_CPUID_FIELD, 7 | 1 << 32);
    let error = Bench::new(fake).bring_up().unwrap_err();
    let HostError::InconsistentCpuid { leaf: 7, subleaf: CpuidSubleaf(1), cpu: CpuNumber(2), .. } = error
    else {
        panic!("{error}");
    };
    assert!(error.to_string().starts_with("CPUID leaf 0x7 sub-leaf 0x1 of CPU 2 "), "{error}");

    let fake = Fake::new(1);
    let word = LeafWord::module(SeamcallLeaf::SYS_INIT, 0);
    fake.script_word(word, 0, 9, StatusCode::INCORRECT_CPUID_VALUE, 0x15 | 0xFFFF_FFFF << 32);
    let error = Bench::new(fake).bring_up().unwrap_err();
    assert!(error.to_string().starts_with("the module refuses CPUID leaf 0x15 (TDH.SYS.INIT"), "{error}");

    let fake = Fake::new(1);
    fake.script(SeamcallLeaf::SYS_INIT, 0, 9, StatusCode::INCORRECT_MSR_VALUE.with_detail(0x122));
    let error = Bench::new(fake).bring_up().unwrap_err();
    let HostError::IncorrectMsr { msr: MsrIndex::IA32_TSX_CTRL, cpu: CpuNumber(0), error: call } = error
    else {
        panic!("{error}");
    };
    assert_eq!(call.status().unwrap().raw(), 0xc000_0921_0000_0122);
    assert!(error.to_string().contains("IA32_TSX_CTRL"), "{error}");
}

#[test]
fn the_result_of_sys_init_is_everybodys() {
    let fake = Fake::new(3).threaded();
    fake.script(SeamcallLeaf::SYS_INIT, 0, 1, StatusCode::CMR_LIST_INVALID);
    let mut bench = Bench::new(fake);
    assert_eq!(bench.bring_up().unwrap_err().name(), "sys-init-failed");
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_INIT), 1);
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_LP_INIT), 0);
    bench.assert_unwound("SYS.INIT");
}

#[test]
fn what_fails_before_the_first_call_can_be_tried_again() {
    let mut bench = Bench::new(Fake::new(2));
    bench.fake.state().vmxe[3] = true;
    bench.fake.state().cpuid.get_mut(&7).unwrap().ecx = 0;
    let error = bench.bring_up().unwrap_err();
    assert_eq!(error.name(), "cpu-feature-missing");
    bench.assert_unwound("MOVDIR64B");
    bench.fake.state().cpuid.get_mut(&7).unwrap().ecx = 1 << 28;
    assert_eq!(bench.bring_up(), Err(HostError::VmxeInUse { cpu: CpuNumber(3) }));
    assert_eq!(bench.fake.cpus_in_vmx(), 0);
    // The module has been started meanwhile: no second attempt.
    assert_eq!(bench.bring_up(), Err(HostError::AlreadyTried));

    let mut bench = Bench::new(Fake::new(1));
    bench.fake.state().vmxe[0] = true;
    assert_eq!(bench.bring_up(), Err(HostError::VmxeInUse { cpu: CpuNumber(0) }));
    assert_eq!(bench.host.lifecycle(), Lifecycle::Checked);
    bench.fake.state().vmxe[0] = false;
    assert!(bench.bring_up().is_ok());
}

/// Something that takes a feature away.
type Bend<T> = fn(&mut T);

#[test]
fn each_missing_cpu_feature_is_named() {
    let cases: [(Bend<CpuidLeaf>, u32, &str); 3] = [
        (|leaf| leaf.ecx &= !(1 << 26), 1, "XSAVE"),
        (|leaf| leaf.edx &= !(1 << 27), 1, "self-snoop"),
        (|leaf| leaf.ecx &= !(1 << 28), 7, "MOVDIR64B"),
    ];
    for (bend, leaf, feature) in cases {
        let fake = Fake::new(1);
        bend(fake.state().cpuid.get_mut(&leaf).unwrap());
        let mut bench = Bench::new(fake);
        let error = bench.bring_up().unwrap_err();
        assert_eq!(error.name(), "cpu-feature-missing");
        assert!(error.to_string().contains(feature), "{error}");
        assert!(bench.fake.state().calls.is_empty());
    }
}

#[test]
fn platforms_that_cannot_be_hosts_are_told_apart_before_any_call() {
    let cases: [(BendFake, &str); 6] = [
        (|fake| _ = fake.state().msrs.insert(0x87, None), "no-tdx"),
        (|fake| _ = fake.state().msrs.insert(0x87, Some(63)), "too-few-keyids"),
        (|fake| _ = fake.state().msrs.insert(0x87, Some(0x1_0000_003E)), "too-few-keyids"),
        (|fake| _ = fake.state().msrs.insert(0x87, Some(0x3E8_0000_FDE8)), "keyids-out-of-range"),
        (|fake| fake.state().hibernation = true, "hibernation-possible"),
        (|fake| fake.state().online.fill(false), "no-cpu-online"),
    ];
    for (bend, name) in cases {
        let fake = Fake::new(1);
        bend(&fake);
        let mut bench = Bench::new(fake);
        assert_eq!(bench.bring_up().unwrap_err().name(), name);
        assert_eq!(bench.host.lifecycle(), Lifecycle::Off);
        assert!(bench.fake.state().calls.is_empty());
    }
}

#[test]
fn bring_up_needs_the_early_checks() {
    let mut bench = Bench::new(Fake::new(1));
    let options = BringUpOptions::default();
    let result = bench.host.bring_up(&*bench.fake, &mut bench.memory, &options, &());
    assert_eq!(result, Err(HostError::EarlyInitMissing));
    assert!(bench.bring_up().is_ok());
    assert_eq!(bench.bring_up(), Err(HostError::AlreadyTried));
}

#[test]
fn a_module_without_no_rbp_mod_is_refused() {
    let fake = Fake::new(1);
    fake.set_field(sys::TDX_FEATURES0, FEATURES.difference(Features0::NO_RBP_MOD).bits());
    let mut bench = Bench::new(fake);
    let error = bench.bring_up().unwrap_err();
    assert_eq!(error, HostError::NoRbpMod { features0: 0xB_0FBF });
    bench.assert_unwound("NO_RBP_MOD");
}

#[test]
fn metadata_that_makes_no_sense_is_refused() {
    let cases = [
        (sys::MAX_TDMRS, 0),
        (sys::MAX_TDMRS, 65),
        (sys::MAX_RESERVED_PER_TDMR, 17),
        (sys::PAMT_4K_ENTRY_SIZE, 0),
        (sys::NUM_CPUID_CONFIG, 33),
        (sys::NUM_CMRS, 33),
        (sys::CMR_SIZE, u64::MAX - 1),
    ];
    for (field, value) in cases {
        let fake = Fake::new(1);
        fake.set_field(field, value);
        fake.set_field(sys::CMR_BASE, 4096);
        let mut bench = Bench::new(fake);
        assert_eq!(bench.bring_up().unwrap_err(), HostError::MetadataInvalid { field, value });
        bench.assert_unwound("metadata");
    }
}

#[test]
fn fields_that_newer_modules_have_may_be_missing() {
    let bench = Bench::up(Fake::new(1));
    let info = bench.host.sysinfo().unwrap();
    assert_eq!(info.max_vcpus_per_td(), None);
    assert_eq!(info.build_num(), Some(744));
    let configs: Vec<_> = info.cpuid_configs().collect();
    assert_eq!((configs.len(), configs[0].leaf, configs[0].subleaf), (1, 1, u32::MAX));
    assert_eq!((configs[0].eax_ebx, configs[0].ecx_edx), (0x10, 0x20));

    let fake = Fake::new(1);
    fake.set_field(sys::MAX_VCPUS_PER_TD, 576);
    assert_eq!(Bench::up(fake).host.sysinfo().unwrap().max_vcpus_per_td(), Some(576));
}

#[test]
fn ram_outside_the_cmrs_is_named_before_config() {
    for rules in [TdmrRules::Tdxhost, TdmrRules::Linux73] {
        let fake = Fake::new(1);
        fake.set_cmrs(vec![range(0, GIB + 512 * MIB)]);
        let mut bench = Bench::new(fake);
        let options = BringUpOptions { tdmr_rules: rules, ..BringUpOptions::default() };
        let error = bench.bring_up_with(&options).unwrap_err();
        assert_eq!(error, HostError::RamOutsideCmrs { range: range(GIB + 512 * MIB, 2 * GIB) });
        assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_CONFIG), 0);
        bench.assert_unwound("CMRs");
    }
}

#[test]
fn only_the_default_rules_look_at_the_cmrs_before_they_allocate() {
    for (rules, name) in
        [(TdmrRules::Tdxhost, "ram-outside-cmrs"), (TdmrRules::Linux73, "no-contiguous-pamt")]
    {
        let fake = Fake::new(1);
        fake.set_cmrs(vec![range(0, GIB)]);
        fake.state().allocations_left = 0;
        let options = BringUpOptions { tdmr_rules: rules, ..BringUpOptions::default() };
        assert_eq!(Bench::new(fake).bring_up_with(&options).unwrap_err().name(), name);
    }
}

#[test]
fn memory_that_runs_out_is_named_and_taken_back() {
    // One allocation is the PAMT of the only TDMR, the second one the tables of CONFIG.
    for (allocations, name) in [(1, "no-memory"), (0, "no-contiguous-pamt")] {
        let fake = Fake::new(1);
        fake.state().allocations_left = allocations;
        let mut bench = Bench::new(fake);
        assert_eq!(bench.bring_up().unwrap_err().name(), name);
        bench.assert_unwound(name);
    }
}

#[test]
fn key_generation_that_recovers_is_not_noticed() {
    let fake = Fake::new(2);
    fake.script(SeamcallLeaf::SYS_KEY_CONFIG, 0, 9, StatusCode::KEY_GENERATION_FAILED);
    let mut bench = Bench::new(fake);
    assert!(bench.bring_up().is_ok());
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_KEY_CONFIG), 11);
}

#[test]
fn a_package_without_a_cpu_cannot_have_its_key() {
    let fake = Fake::new(2);
    fake.state().online[2] = false;
    fake.state().online[3] = false;
    let mut bench = Bench::new(fake);
    assert_eq!(bench.bring_up().unwrap_err().name(), "package-offline");
    bench.assert_unwound("package 1");
}

#[test]
fn a_module_without_progress_is_given_up() {
    let fake = Fake::new(1);
    // Success that goes nowhere: the fake clears RDX.
    fake.script(SeamcallLeaf::SYS_TDMR_INIT, 0, u64::MAX, StatusCode::SUCCESS);
    fake.set_memory(vec![(range(0, GIB), NodeId(0))]);
    let mut bench = Bench::new(fake);
    let error = bench.bring_up().unwrap_err();
    assert_eq!(error.name(), "tdmr-init-stuck");
    assert_eq!(bench.host.lifecycle(), Lifecycle::Failed);
    bench.assert_unwound("TDMR.INIT");
}

#[test]
fn pamts_are_cleared_on_erratum_machines_only_and_only_where_the_module_wrote() {
    for erratum in [false, true] {
        let fake = Fake::new(2);
        fake.state().erratum = erratum;
        // The first TDMR is half done, the second one is never begun.
        fake.script(SeamcallLeaf::SYS_TDMR_INIT, 8, 99, StatusCode::SYS_NOT_READY);
        let mut bench = Bench::new(fake);
        assert_eq!(bench.bring_up().unwrap_err().name(), "tdmr-init-failed");
        let cleared: u64 = bench.fake.state().cleared.iter().map(|range| range.size()).sum();
        // One GiB was begun: 4 MiB + 8 KiB + a page for the 1G level.
        assert_eq!(cleared, if erratum { 4 * MIB + 8192 + 4096 } else { 0 });
        // Once before the keys, once in unwinding.
        assert_eq!(bench.fake.state().wbinvd, [2; 4]);
        bench.assert_unwound("erratum");
    }
}

#[test]
fn a_pamt_is_reclaimed_after_every_cpu_wrote_its_caches_back() {
    let fake = Fake::new(2);
    fake.state().erratum = true;
    fake.script(SeamcallLeaf::SYS_TDMR_INIT, 8, 99, StatusCode::SYS_NOT_READY);
    let mut bench = Bench::new(fake);
    assert!(bench.bring_up().is_err());
    let state = bench.fake.state();
    let last_call = state.events.iter().rposition(|event| matches!(event, Event::Seamcall(_))).unwrap();
    let (written_back, rest) = state.events[last_call + 1..].split_at(4);
    assert_eq!(written_back, [0, 1, 2, 3].map(|cpu| Event::WriteBack(CpuNumber(cpu))));
    assert_eq!(rest.first(), Some(&Event::Reclaim));
}

#[test]
fn config_has_version_0_unless_something_is_opted_into() {
    let wanted = Features0::UPDATE_COMPATIBILITY.union(Features0::EXT);
    let offered = FEATURES.union(wanted);
    let cases = [
        (FEATURES, wanted, 0, Features0::default()),
        (offered, Features0::default(), 0, Features0::default()),
        // EXT as such has no effect.
        (offered, Features0::EXT, 0, Features0::default()),
        (offered, wanted, 1, Features0::UPDATE_COMPATIBILITY),
    ];
    for (features, opt_in, version, on) in cases {
        let fake = Fake::new(1);
        fake.set_field(sys::TDX_FEATURES0, features.bits());
        let mut bench = Bench::new(fake);
        let options = BringUpOptions { opt_in, ..BringUpOptions::default() };
        let report = bench.bring_up_with(&options).unwrap();
        assert_eq!((report.opted_in, report.opt_in_refused), (on, Features0::default()));
        let state = bench.fake.state();
        let calls: Vec<_> =
            state.calls.iter().filter(|call| call.1.leaf() == SeamcallLeaf::SYS_CONFIG.0).collect();
        assert_eq!(calls.len(), 1);
        assert_eq!((calls[0].1.version(), calls[0].2.r9, calls[0].2.r11), (version, on.bits(), 0));
    }
}

#[test]
fn a_refused_opt_in_falls_back_once_with_the_same_keyid() {
    let wanted = Features0::UPDATE_COMPATIBILITY;
    let word = LeafWord::module(SeamcallLeaf::SYS_CONFIG, 1);
    let cases = [
        (OperandId::R9, true),
        (OperandId::R11, true),
        (OperandId::RAX, true),
        (OperandId::RCX, false),
        (OperandId::R8, false),
    ];
    for (operand, falls_back) in cases {
        let fake = Fake::new(1);
        fake.set_field(sys::TDX_FEATURES0, FEATURES.union(wanted).bits());
        fake.script_word(word, 0, 1, StatusCode::OPERAND_INVALID.with_operand(operand), 0);
        let mut bench = Bench::new(fake);
        let result = bench.bring_up_with(&BringUpOptions { opt_in: wanted, ..BringUpOptions::default() });
        {
            let state = bench.fake.state();
            let config = |call: &&(CpuNumber, LeafWord, tdx_abi::Registers)| {
                call.1.leaf() == SeamcallLeaf::SYS_CONFIG.0
            };
            let calls: Vec<_> = state.calls.iter().filter(config).collect();
            assert_eq!(calls.len(), if falls_back { 2 } else { 1 });
            assert!(calls.iter().all(|call| call.2.r8 == 32));
            assert_eq!(calls.last().unwrap().1.version(), u8::from(!falls_back));
        }
        if falls_back {
            let report = result.unwrap();
            assert_eq!((report.opted_in, report.opt_in_refused), (Features0::default(), wanted));
            let loud = bench
                .fake
                .state()
                .lines
                .iter()
                .any(|(level, line)| *level == LogLevel::Error && line.contains("UPDATE_COMPATIBILITY"));
            assert!(loud);
        } else {
            assert_eq!(result.unwrap_err().name(), "config-failed");
            bench.assert_unwound("CONFIG");
        }
    }
}

#[test]
fn the_fallback_is_tried_once() {
    let wanted = Features0::UPDATE_COMPATIBILITY;
    let fake = Fake::new(1);
    fake.set_field(sys::TDX_FEATURES0, FEATURES.union(wanted).bits());
    for version in [0, 1] {
        let word = LeafWord::module(SeamcallLeaf::SYS_CONFIG, version);
        fake.script_word(word, 0, 9, StatusCode::OPERAND_INVALID.with_operand(OperandId::R9), 0);
    }
    let mut bench = Bench::new(fake);
    let error = bench.bring_up_with(&BringUpOptions { opt_in: wanted, ..BringUpOptions::default() });
    assert_eq!(error.unwrap_err().name(), "config-failed");
    assert_eq!(bench.fake.calls_of(SeamcallLeaf::SYS_CONFIG), 2);
    bench.assert_unwound("fallback");
}

#[test]
fn what_config_may_change_is_read_again() {
    let fake = Fake::new(1);
    let mut bench = Bench::new(fake);
    let other = Arc::clone(&bench.fake);
    bench.fake.in_call(LeafWord::module(SeamcallLeaf::SYS_CONFIG, 0), move || {
        other.set_field(sys::TDCS_BASE_SIZE, 8 * 4096);
        other.set_field(sys::MAX_VCPUS_PER_TD, 1376);
        other.set_field(sys::MAJOR_VERSION, 9);
    });
    bench.bring_up().unwrap();
    let info = bench.host.sysinfo().unwrap();
    assert_eq!(info.field(sys::TDCS_BASE_SIZE), Some(8 * 4096));
    assert_eq!(info.max_vcpus_per_td(), Some(1376));
    // A version does not change in CONFIG, and is not asked for again.
    assert_eq!(info.version().major, 1);
}

#[test]
fn a_crash_in_the_middle_ends_bring_up_with_no_further_call() {
    for leaf in [
        SeamcallLeaf::SYS_INIT,
        SeamcallLeaf::SYS_LP_INIT,
        SeamcallLeaf::SYS_RD,
        SeamcallLeaf::SYS_CONFIG,
        SeamcallLeaf::SYS_KEY_CONFIG,
        SeamcallLeaf::SYS_TDMR_INIT,
    ] {
        let mut bench = Bench::new(Fake::new(2));
        let (host, fake) = (Arc::clone(&bench.host), Arc::clone(&bench.fake));
        bench.fake.crash_in(leaf, move || host.crash_everywhere(&*fake));
        assert_eq!(bench.bring_up(), Err(HostError::GoingDown), "{leaf}");
        assert_eq!(bench.host.lifecycle(), Lifecycle::Crashed);
        assert_eq!(bench.fake.state().calls.last().unwrap().1.leaf(), leaf.0, "{leaf} was the last call");
        bench.assert_unwound(&leaf.to_string());
        assert_eq!(bench.bring_up(), Err(HostError::GoingDown));
    }
}

#[derive(Default)]
struct Count {
    started: [AtomicU64; 8],
    advanced: [AtomicU64; 8],
    done: [AtomicU64; 8],
}

impl Progress for Count {
    fn phase_started(&self, phase: Phase, _total: u64) {
        self.started[phase as usize].fetch_add(1, Ordering::Relaxed);
    }
    fn advanced(&self, phase: Phase, steps: u64) {
        self.advanced[phase as usize].fetch_add(steps, Ordering::Relaxed);
    }
    fn phase_done(&self, phase: Phase, count: u64) {
        self.done[phase as usize].fetch_add(count, Ordering::Relaxed);
    }
}

#[test]
fn progress_tells_of_each_phase_once() {
    let mut bench = Bench::new(Fake::new(2));
    bench.host.early_init(&*bench.fake).unwrap();
    let count = Count::default();
    let options = BringUpOptions::default();
    bench.host.bring_up(&*bench.fake, &mut bench.memory, &options, &count).unwrap();
    for phase in Phase::ALL {
        assert_eq!(count.started[phase as usize].load(Ordering::Relaxed), 1, "{}", phase.name());
    }
    let done: Vec<u64> = count.done.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(done, [4, 4, 2, 2, 2, 1, 2, 4]);
    assert_eq!(count.advanced[Phase::TdmrInit as usize].load(Ordering::Relaxed), 4);
}
