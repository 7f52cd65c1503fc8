//! The way from a fresh module to a disabled one.

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::{FieldId, sys};
use tdx_abi::seamldr::Version;
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{KeyId, PhysAddr, Registers};
use tdx_module::{KeyAlgorithm, LoaderConfig, LpIndex, ModuleState, profile};

use crate::common::{Bench, GIB, LPS, Stage, TDMRS};

fn read(bench: &Bench, id: FieldId) -> u64 {
    bench.ok(0, SeamcallLeaf::SYS_RD, Registers { rdx: id.raw(), ..Registers::default() }).r8
}

#[test]
fn every_profile_comes_up() {
    for profile in profile::all() {
        let bench = Bench::new(profile.name);
        assert_eq!(bench.state().state, ModuleState::SysInitPending, "{profile}");
        // connect-clock only refuses version 1 of SYS.CONFIG.
        bench.advance(Stage::Configured);
        assert_eq!(bench.state().state, ModuleState::SysConfigDone, "{profile}");
        for lp in [0, 2] {
            bench.ok(lp, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
        }
        let state = bench.state();
        assert_eq!(state.state, ModuleState::SysReady, "{profile}");
        assert_eq!(state.initialised_lps.len(), LPS as usize, "{profile}");
        assert_eq!(state.global_key, Some(KeyId::new(32)), "{profile}");
    }
}

#[test]
fn the_global_key_is_programmed_once_per_package_with_integrity() {
    let bench = Bench::at("2.0.08", Stage::Ready);
    let with = |lp| (LpIndex(lp), KeyId::new(32), KeyAlgorithm::AesXts256Integrity);
    assert_eq!(bench.hw.programmed(), [with(0), with(2)]);
}

#[test]
fn tdmr_init_goes_four_mib_per_call_and_writes_every_pamt_byte_once() {
    let bench = Bench::at("1.5.05", Stage::Ready);
    for (base, size) in TDMRS {
        for step in 1..=256 * size / GIB {
            let regs =
                bench.ok(1, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: base, ..Registers::default() });
            assert_eq!(regs.rdx, base + step / 256 * GIB, "step {step}");
        }
        let status =
            bench.status(1, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: base, ..Registers::default() });
        assert_eq!(status, StatusCode::TDMR_ALREADY_INITIALIZED.plain());
    }
    let state = bench.state();
    assert_eq!(
        bench.software.inspect().module.map(|m| m.calls_of(SeamcallLeaf::SYS_TDMR_INIT)),
        Some(3 * 256 + 2)
    );
    let written = bench.hw.initialised();
    assert!(written.iter().all(|(_, key)| *key == KeyId::new(32)));
    for (tdmr, (base, size)) in state.tdmrs.iter().zip(TDMRS) {
        assert_eq!(tdmr.initialised.start(), PhysAddr::new(base));
        assert_eq!((tdmr.initialised.size(), tdmr.initialised_bytes), (size, size));
        let gib = size / GIB;
        for (area, needed) in tdmr.pamt.iter().zip([gib << 22, gib << 13, 64]) {
            let bytes: u64 =
                written.iter().filter(|(range, _)| area.covers(*range)).map(|(range, _)| range.size()).sum();
            assert_eq!(bytes, needed);
        }
    }
    let total: u64 = written.iter().map(|(range, _)| range.size()).sum();
    assert_eq!(total, (3 << 22) + (3 << 13) + 2 * 64);
}

#[test]
fn metadata_tells_release_and_platform() {
    let bench = Bench::at("1.5.06", Stage::LpsInitialised);
    for (id, value) in [
        (sys::MAJOR_VERSION, 1),
        (sys::MINOR_VERSION, 5),
        (sys::UPDATE_VERSION, 6),
        (sys::BUILD_DATE, 0x2024_0407),
        (sys::BUILD_NUM, 744),
        (sys::MODULE_HV, 0),
        (sys::NUM_HANDOFF_PAGES, 13),
        (sys::NUM_PKGS, 2),
        (sys::PKG_FMS.element(1), 0xA06D0),
        (sys::PKG_FMS.element(2), 0),
        (sys::NUM_ALLOWED_FMS, 2),
        (sys::NUM_CMRS, 32),
        (sys::CMR_BASE.element(1), 4 * GIB),
        (sys::CMR_SIZE.element(1), 4 * GIB),
        (sys::CMR_SIZE.element(3), 0),
        (sys::MAX_TDMRS, 64),
        (sys::PAMT_4K_ENTRY_SIZE, 16),
        (sys::TDCS_BASE_SIZE, 24576),
        (sys::MAX_VCPUS_PER_TD, 576),
        (sys::XFAM_FIXED0, 0x6_1BE7),
        (sys::NUM_CPUID_CONFIG, 12),
        (sys::CPUID_CONFIG_LEAVES, 0xFFFF_FFFF << 32 | 1),
        (sys::CPUID_CONFIG_VALUES, 0x00FF_0000 << 32 | 0x0FFF_3FFF),
        (sys::CPUID_CONFIG_LEAVES.element(12), 0),
        (sys::TDX_FEATURES0, 0x14_0002),
        (sys::ATTRIBUTES_FIXED0, 0x5000_0001),
    ] {
        assert_eq!(read(&bench, id), value, "{id}");
    }
}

#[test]
fn real_features_are_those_of_the_release() {
    let mut config = crate::common::config("2.0.18");
    config.real_features = true;
    let bench = Bench::with(Some(config));
    bench.advance(Stage::LpsInitialised);
    assert_eq!(read(&bench, sys::TDX_FEATURES0), 0x015A_D932_6F3F_1FBF);
    assert_eq!(read(&bench, sys::ATTRIBUTES_FIXED0), 0x8000_0000_7000_0001);
    assert_eq!(read(&bench, sys::CONFIG_FLAGS_FIXED0), 7);
}

#[test]
fn a_withheld_feature_is_not_reported() {
    let mut config = crate::common::config("1.5.16");
    config.withheld = tdx_abi::features::Features0::NO_RBP_MOD;
    let bench = Bench::with(Some(config));
    bench.advance(Stage::LpsInitialised);
    assert_eq!(read(&bench, sys::TDX_FEATURES0), 0x10_0002);
}

#[test]
fn disable_stops_with_work_left_locks_others_out_and_ends_in_vmfailinvalid() {
    let bench = Bench::at("connect", Stage::Ready);
    let (base, _) = TDMRS[0];
    bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: base, ..Registers::default() });
    let mut calls = 0;
    loop {
        let status = bench.status(3, SeamcallLeaf::SYS_DISABLE, Registers::default());
        calls += 1;
        if status == Status::SUCCESS {
            break;
        }
        assert_eq!(status, StatusCode::INTERRUPTED_RESUMABLE.plain());
        assert!(bench.state().disabling && !bench.state().disabled);
        for leaf in [SeamcallLeaf::SYS_RD, SeamcallLeaf::SYS_TDMR_INIT, SeamcallLeaf::SYS_LP_SHUTDOWN] {
            assert_eq!(bench.status(0, leaf, Registers::default()), StatusCode::SYS_BUSY.plain(), "{leaf}");
        }
    }
    assert_eq!(calls, 2, "one for the TDMR, one for the KeyIDs");
    let state = bench.state();
    assert!(state.disabled && state.key_ids.is_empty());
    assert!(state.tdmrs.iter().all(|tdmr| tdmr.initialised_bytes == 0));
    for leaf in [SeamcallLeaf::SYS_DISABLE, SeamcallLeaf::SYS_RD] {
        assert!(bench.raw(0, crate::common::with_leaf(leaf, 0, Registers::default())).is_none());
    }
}

#[test]
fn seamldr_info_describes_loader_and_module() {
    let bench = Bench::at("2.0.08", Stage::Ready);
    let rax = LeafWord::seamldr(SeamldrLeaf::INFO).raw();
    let regs = bench.raw(2, Registers { rax, rcx: 0x30_0000, ..Registers::default() }).expect("an answer");
    assert_eq!(regs.rax, 0);
    let info = bench.hw.bytes(0x30_0000, 256);
    assert_eq!(info[18..22], [5, 0, 1, 0], "minor and major version");
    assert_eq!(info[28..32], 31u32.to_le_bytes(), "remaining updates");
    assert_eq!(info[32..40], 0x1FFu64.to_le_bytes());
    assert_eq!(info[40..42], [5, 3], "SVN");
    assert_eq!(info[56..60], [0x47, 0x6a, 0x29, 0x97], "MRSEAM");
    assert_eq!(info[160..163], [1, 0, 1]);
}

#[test]
fn a_loader_of_tdx_1_0_has_no_updates_to_count() {
    let updates = |major, minor| LoaderConfig::new(Version::new(major, minor, 1)).updates_left();
    assert_eq!((updates(1, 0), updates(1, 5), updates(2, 0)), (0, 31, 31));
}

#[test]
fn without_a_module_only_the_loader_answers() {
    let bench = Bench::with(None);
    assert!(bench.raw(0, Registers { rax: 33, ..Registers::default() }).is_none());
    let rax = LeafWord::seamldr(SeamldrLeaf::INFO).raw();
    let regs = bench.raw(0, Registers { rax, rcx: 0x30_0000, ..Registers::default() });
    assert_eq!(regs.map(|regs| regs.rax), Some(0));
    assert_eq!(bench.hw.word(0x30_0000 + 32), 0);
    assert_eq!(bench.hw.word(0x30_0000 + 160), 1 << 16, "only P_SEAM_READY");
}
