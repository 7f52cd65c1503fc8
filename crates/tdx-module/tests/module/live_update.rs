//! A whole update: SYS.SHUTDOWN, SEAMLDR.INSTALL on all LPs, SYS.INIT, SYS.LP.INIT, SYS.UPDATE.

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::metadata::{FieldId, sys};
use tdx_abi::seamldr::{SCENARIO_LOAD, Version};
use tdx_abi::status::{SeamldrStatus, Status, StatusCode};
use tdx_module::{LoaderConfig, LoaderGeneration, LockName, ModuleState, profile};

use crate::common::connect::{TDX_CONNECT, opted_in_below};
use crate::common::install::{Setup, spec};
use crate::common::{Bench, LPS, Stage, TDMRS, config, config_regs};
use crate::handoff::update;
use crate::sys_shutdown::{COMPATIBILITY, shutdown};

/// An image of the test key with the version and the hand-off values of a release.
fn image(running: &'static str, release: &str) -> Setup {
    let profile = profile::find(release).expect("a profile");
    let mut spec = spec(profile.version, release);
    spec.svn = tdx_image::Svn { major: profile.svn.major, minor: profile.svn.minor };
    spec.module_handoff_version = profile.handoff.module_hv;
    spec.min_update_handoff_version = profile.handoff.min_update_hv;
    spec.handoff_pages = u32::from(profile.handoff.pages) + 1;
    let mut setup = Setup::to(running, &spec).generation(LoaderGeneration::V2_0);
    setup.handoff = (false, 0, 0);
    setup
}

fn ready(release: &str) -> Bench {
    let loader = LoaderConfig { generation: LoaderGeneration::V2_0, ..LoaderConfig::default() };
    let bench = Bench::with_loader(Some(config(release)), loader);
    bench.advance(Stage::Ready);
    bench
}

fn answer(bench: &Bench, regs: Registers) -> Status {
    Status::from_raw(bench.raw(0, regs).expect("an answer").rax)
}

fn read(bench: &Bench, id: FieldId) -> u64 {
    bench.ok(1, SeamcallLeaf::SYS_RD, Registers { rdx: id.raw(), ..Registers::default() }).r8
}

fn version(bench: &Bench) -> [u64; 3] {
    [sys::MAJOR_VERSION, sys::MINOR_VERSION, sys::UPDATE_VERSION].map(|id| read(bench, id))
}

fn tdmr_init(bench: &Bench, calls: usize) {
    for _ in 0..calls {
        bench.ok(2, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: TDMRS[1].0, ..Registers::default() });
    }
}

#[test]
fn the_module_is_replaced_under_its_keys_and_tdmrs() {
    for (old, new, handoff, numbers) in [
        ("1.5.01", "1.5.05", 0, [1, 5, 5]),
        ("1.5.05", "1.5.34", 0, [1, 5, 34]),
        ("2.0.08", "2.0.18", 0, [2, 0, 18]),
        ("2.0.14", "2.0.18", 1, [2, 0, 18]),
        ("2.0.18", "2.0.18", 1, [2, 0, 18]),
    ] {
        let bench = ready(old);
        let setup = image(old, new);
        setup.place(&bench);
        tdmr_init(&bench, 300);
        let left = bench.state();
        assert_eq!(answer(&bench, shutdown(handoff)), Status::SUCCESS);
        let last = setup.call_all(&bench);
        assert_eq!((SeamldrStatus(last.rax), last.rdx), (SeamldrStatus::SUCCESS, 0), "{old} to {new}");
        bench.advance(Stage::LpsInitialised);
        assert_eq!(read(&bench, sys::HANDOFF_DATA_VALID), 1);
        assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS, "{old} to {new}");
        let state = bench.state();
        assert_eq!((state.state, state.profile.name), (ModuleState::SysReady, new));
        assert_eq!(version(&bench), numbers);
        assert_eq!(
            (state.key_ids, state.global_key, state.configured_packages, state.tdmrs),
            (left.key_ids, left.global_key, left.configured_packages, left.tdmrs)
        );
        assert_eq!(bench.hw.programmed().len(), 2, "no key was programmed again");
        // The TDMR is finished by the new module: 212 of its 512 steps were left.
        tdmr_init(&bench, 212);
        let next = Registers { rcx: TDMRS[1].0, ..Registers::default() };
        let done = bench.status(2, SeamcallLeaf::SYS_TDMR_INIT, next);
        assert_eq!(done, StatusCode::TDMR_ALREADY_INITIALIZED.plain());
    }
}

#[test]
fn updates_follow_each_other_and_count_down() {
    let bench = ready("2.0.02");
    let left = |bench: &Bench| bench.software.inspect().loader.config.remaining_updates;
    let first = left(&bench);
    for (count, release) in (1..).zip(["2.0.04", "2.0.05", "2.0.08", "2.0.12", "2.0.14", "2.0.16", "2.0.18"])
    {
        let setup = image("2.0.02", release);
        setup.place(&bench);
        let hv = read(&bench, sys::MODULE_HV);
        assert_eq!(answer(&bench, shutdown(hv)), Status::SUCCESS, "{release}");
        assert_eq!(SeamldrStatus(setup.call_all(&bench).rax), SeamldrStatus::SUCCESS, "{release}");
        bench.advance(Stage::LpsInitialised);
        assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS, "{release}");
        assert_eq!(left(&bench), first - count, "{release}");
        assert_eq!(bench.state().tdmrs.len(), TDMRS.len());
    }
    assert_eq!(version(&bench), [2, 0, 18]);
}

#[test]
fn a_recoverable_refusal_leaves_the_data_for_another_image() {
    let bench = ready("2.0.14");
    let setup = image("2.0.14", "2.0.18");
    setup.place(&bench);
    assert_eq!(answer(&bench, shutdown(0)), Status::SUCCESS);
    let area = bench.software.handoff_area();
    // An image that wants version 1 of the data.
    let profile = profile::find("2.0.18").expect("a profile");
    let mut spec = spec(profile.version, "2.0.18");
    (spec.module_handoff_version, spec.min_update_handoff_version) = (1, 1);
    let mut picky = Setup::to("2.0.14", &spec).generation(LoaderGeneration::V2_0);
    picky.handoff = (true, 0, 0xD08A);
    picky.place(&bench);
    let last = picky.call_all(&bench);
    assert_eq!((SeamldrStatus(last.rax), last.rdx), (SeamldrStatus::EBADHANDOFF, 0));
    assert_eq!(bench.state().state, ModuleState::SysShutdown);
    assert_eq!(bench.software.handoff_area(), area);
    let reading = Registers { rdx: sys::MODULE_HV.raw(), ..Registers::default() };
    assert_eq!(bench.status(0, SeamcallLeaf::SYS_RD, reading), StatusCode::SYS_SHUTDOWN.plain());

    let mut good = setup;
    good.handoff = (true, 0, 0xD08A);
    good.place(&bench);
    assert_eq!(SeamldrStatus(good.call_all(&bench).rax), SeamldrStatus::SUCCESS);
    bench.advance(Stage::LpsInitialised);
    assert_eq!(answer(&bench, update(0, 0)), Status::SUCCESS);
    assert_eq!(version(&bench), [2, 0, 18]);
}

#[test]
fn an_lp_that_did_not_come_keeps_the_new_module_from_taking_over() {
    let bench = ready("1.5.05");
    let setup = image("1.5.05", "1.5.34");
    setup.place(&bench);
    assert_eq!(answer(&bench, shutdown(0)), Status::SUCCESS);
    assert_eq!(SeamldrStatus(setup.call_all(&bench).rax), SeamldrStatus::SUCCESS);
    // A fresh module knows of no LP.
    assert_eq!(answer(&bench, update(0, 0)), StatusCode::SYS_STATE_INCORRECT.plain());
    bench.ok(0, SeamcallLeaf::SYS_INIT, Registers::default());
    for lp in 0..LPS {
        assert_eq!(answer(&bench, update(1, COMPATIBILITY)), StatusCode::SYS_STATE_INCORRECT.plain());
        bench.ok(lp, SeamcallLeaf::SYS_LP_INIT, Registers::default());
    }
    assert_eq!(answer(&bench, update(1, COMPATIBILITY)), Status::SUCCESS);
    assert_eq!(bench.state().opted_in.bits(), COMPATIBILITY);
}

#[test]
fn a_load_starts_from_nothing() {
    let bench = ready("1.5.05");
    let setup = image("1.5.05", "1.5.34").scenario(SCENARIO_LOAD);
    setup.place(&bench);
    assert_eq!(answer(&bench, shutdown(0)), Status::SUCCESS);
    assert_eq!(SeamldrStatus(setup.call_all(&bench).rax), SeamldrStatus::SUCCESS);
    bench.advance(Stage::LpsInitialised);
    assert_eq!(answer(&bench, update(0, 0)), StatusCode::SYS_INVALID_HANDOFF.plain());
    bench.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
    assert_eq!(bench.state().state, ModuleState::SysConfigDone);
}

#[test]
fn a_module_that_cannot_write_its_own_version_hands_nothing_over_and_stays_ready() {
    // A hand-off version that nobody knows, and an area that is too small.
    for (hv, pages) in [(2, 25), (0, 13)] {
        let mut spec = spec(Version::new(1, 5, 9), "");
        (spec.module_handoff_version, spec.handoff_pages) = (hv, pages);
        let setup = Setup::to("1.5.05", &spec);
        let bench = Bench::with_loader(Some(config("1.5.05")), setup.loader);
        setup.place(&bench);
        bench.advance(Stage::Ready);
        assert_eq!(answer(&bench, shutdown(0)), Status::SUCCESS);
        assert_eq!(SeamldrStatus(setup.call_all(&bench).rax), SeamldrStatus::SUCCESS);
        bench.advance(Stage::LpsInitialised);
        let taken = if pages == 25 { Status::SUCCESS } else { StatusCode::SYS_INVALID_HANDOFF.plain() };
        assert_eq!(answer(&bench, update(0, 0)), taken, "what does not fit is cut off");
        if taken != Status::SUCCESS {
            bench.advance_from_lps();
        }
        let before = bench.state();
        let refused = StatusCode::SYS_INVALID_HANDOFF.plain();
        assert_eq!(answer(&bench, shutdown(hv.into())), refused, "TDH.SYS.SHUTDOWN-6: {hv}");
        assert_eq!(bench.state(), before);
        bench.hw.set(|facts| facts.contended.push(LockName::Global));
        // "TDH.SYS.SHUTDOWN-2 before TDH.SYS.SHUTDOWN-6"
        assert_eq!(answer(&bench, shutdown(hv.into())), StatusCode::SYS_BUSY.plain());
        assert_eq!(before.state, ModuleState::SysReady);
    }
}

#[test]
fn an_image_may_say_that_it_wants_a_larger_pool() {
    let profile = profile::find("connect").expect("a profile");
    let mut larger = spec(Version::new(2, 1, 5), "connect");
    larger.svn = tdx_image::Svn { major: profile.svn.major, minor: profile.svn.minor };
    (larger.module_handoff_version, larger.handoff_pages) = (2, u32::from(profile.handoff.pages) + 1);
    larger.pool_pages = Some(80);
    let mut setup = Setup::to("connect", &larger).generation(LoaderGeneration::V2_0);
    setup.handoff = (false, 0, 0);
    let mut module = config("connect");
    module.connect.spdm_mt_pages = 1;
    let loader = LoaderConfig { generation: LoaderGeneration::V2_0, ..LoaderConfig::default() };
    let bench = opted_in_below(module, loader);
    bench.fill_pool();
    setup.place(&bench);
    assert_eq!(answer(&bench, shutdown(2)), Status::SUCCESS);
    assert_eq!(SeamldrStatus(setup.call_all(&bench).rax), SeamldrStatus::SUCCESS);
    bench.advance(Stage::LpsInitialised);
    assert_eq!(answer(&bench, update(1, TDX_CONNECT)), Status::SUCCESS);
    assert_eq!(read(&bench, sys::MEMORY_POOL_REQUIRED_PAGES), 16);
    assert_eq!(read(&bench, sys::SPDM_MT_PAGE_COUNT), 1, "what the platform asked for goes on to hold");
    let start = bench.status(0, SeamcallLeaf::EXT_INIT, Registers::default());
    assert_eq!(start, StatusCode::SYS_STATE_INCORRECT.plain(), "TDH.EXT.INIT-2");
}
