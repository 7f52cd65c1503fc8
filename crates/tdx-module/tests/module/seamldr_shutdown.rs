//! SEAMLDR.SHUTDOWN: who calls when, and that nothing is left.

use tdx_abi::Registers;
use tdx_abi::leaf::{LeafWord, SeamldrLeaf};
use tdx_abi::status::SeamldrStatus as S;
use tdx_module::{LoaderConfig, LoaderGeneration as Generation, LpIndex, NoAnswer};

use crate::common::install::{DONE, PARAMS, Setup, info, install, leaf, reaches_a_module, state, status};
use crate::common::{Bench, LPS, config};

const BUFFER: u64 = 0x30_0000;

/// Name of another flow, and its first call.
type Beginning = (&'static str, fn(&Bench));

fn loader(generation: Generation) -> LoaderConfig {
    LoaderConfig { generation, ..LoaderConfig::default() }
}

fn shutdown(bench: &Bench, lp: u32) -> S {
    leaf(bench, lp, SeamldrLeaf::SHUTDOWN, u64::MAX)
}

fn cleanup(bench: &Bench, lp: u32) -> S {
    leaf(bench, lp, SeamldrLeaf::CLEANUP, u64::MAX)
}

/// No leaf of either program answers.
fn nobody_answers(bench: &Bench) {
    for leaf in (0..6).map(SeamldrLeaf) {
        for lp in 0..LPS {
            let mut regs =
                Registers { rax: LeafWord::seamldr(leaf).raw(), rcx: BUFFER, ..Registers::default() };
            let result = bench.software.seamcall(&bench.hw, LpIndex(lp), &mut regs);
            assert_eq!(result, Err(NoAnswer::VmFailInvalid), "SEAMLDR-4: {leaf}");
        }
    }
    assert!(!reaches_a_module(bench));
}

#[test]
fn the_first_lp_makes_the_module_unreachable_and_the_last_one_the_loader() {
    for generation in [Generation::V1_0, Generation::V1_5] {
        let loader = LoaderConfig { acm_x2apic_id: 3, ..loader(generation) };
        let bench = Bench::with_loader(Some(config("1.5.05")), loader);
        let before = info(&bench);
        for lp in 0..LPS - 1 {
            assert_eq!(shutdown(&bench, lp), S::SUCCESS, "SEAMLDR.SHUTDOWN-5");
            assert!(!reaches_a_module(&bench), "SEAMLDR.SHUTDOWN-4");
            let seen = info(&bench);
            assert_eq!((seen[160], seen[162]), (0, 1), "SEAMLDR.SHUTDOWN-4: SEAM_READY, P_SEAM_READY");
            assert_eq!(seen[..160], before[..160], "SEAMLDR.SHUTDOWN-4: nothing else changes");
            let loader = bench.software.inspect().loader;
            assert_eq!((loader.shutdown_lps, loader.shut_down), (lp + 1, false));
        }
        let calls = bench.software.inspect().loader.calls;
        assert_eq!(shutdown(&bench, 3), S::SUCCESS);
        let inspection = bench.software.inspect();
        assert!(inspection.loader.shut_down && inspection.module.is_none(), "SEAMLDR.SHUTDOWN-7");
        assert_eq!(
            (inspection.loader.svn, inspection.loader.seam_ready),
            (None, false),
            "SEAMLDR.SHUTDOWN-7"
        );
        nobody_answers(&bench);
        assert_eq!(bench.software.inspect().loader.calls, calls + 1, "SEAMLDR-4: nothing ran");
    }
}

#[test]
fn an_lp_may_call_again_and_counts_once() {
    let bench = Bench::with_loader(Some(config("1.5.05")), loader(Generation::V1_5));
    for lp in [2, 2, 2, 2, 1, 2, 1] {
        assert_eq!(shutdown(&bench, lp), S::SUCCESS, "SEAMLDR.SHUTDOWN-5");
    }
    assert_eq!(bench.software.inspect().loader.shutdown_lps, 2, "SEAMLDR.SHUTDOWN-4");
    assert_eq!(info(&bench)[162], 1, "SEAMLDR.SHUTDOWN-5");
}

#[test]
fn the_last_call_is_that_of_the_lp_with_the_id_of_the_acm() {
    let loader = LoaderConfig { acm_x2apic_id: 70, ..loader(Generation::V1_0) };
    let bench = Bench::with_loader(Some(config("1.0")), loader);
    bench.hw.set(|facts| facts.x2apic_ids = vec![0, 70, 71, 900]);
    for lp in [1, 0, 2] {
        assert_eq!(shutdown(&bench, lp), S::SUCCESS, "SEAMLDR.SHUTDOWN-5");
    }
    for lp in [3, 0, 2, 3] {
        assert_eq!(shutdown(&bench, lp), S::EBADCALL, "SEAMLDR.SHUTDOWN-6: LP {lp}");
        assert!(!bench.software.inspect().loader.shut_down);
        assert_eq!(info(&bench)[162], 1, "SEAMLDR.SHUTDOWN-6: the loader is still there");
    }
    assert_eq!(shutdown(&bench, 1), S::SUCCESS, "SEAMLDR.SHUTDOWN-6: repaired");
    nobody_answers(&bench);
}

#[test]
fn an_x2apic_id_at_the_limit_is_refused_and_not_counted() {
    for (id, limit, refused) in [(1023, 1024, false), (1024, 1024, true), (1024, 8192, false)] {
        let loader = LoaderConfig { x2apic_limit: limit, ..loader(Generation::V1_5) };
        let bench = Bench::with_loader(Some(config("1.5.05")), loader);
        bench.hw.set(|facts| facts.x2apic_ids[0] = id);
        assert_eq!(info(&bench)[160], 1);
        let before = state(&bench);
        let answer = if refused { S::EUNSPECERR } else { S::SUCCESS };
        assert_eq!(shutdown(&bench, 0), answer, "SEAMLDR.SHUTDOWN-1: {id}");
        assert_eq!(state(&bench) == before, refused, "SEAMLDR.SHUTDOWN-1: {id}");
    }
}

#[test]
fn dirty_keys_and_caches_want_a_cleanup_first() {
    let table = [
        (Generation::V1_0, S::SUCCESS),
        (Generation::V1_5, S::SUCCESS),
        (Generation::V1_5_02, S::ECLEANUPREQ),
        (Generation::V2_0, S::ECLEANUPREQ),
    ];
    for (generation, answer) in table {
        let bench = Bench::with_loader(Some(config("1.5.05")), loader(generation));
        assert_eq!(info(&bench)[160], 1);
        let before = state(&bench);
        assert_eq!(shutdown(&bench, 0), answer, "SEAMLDR.SHUTDOWN-3: {generation:?}");
        assert_eq!(state(&bench) == before, answer != S::SUCCESS, "SEAMLDR.SHUTDOWN-3: {generation:?}");
        if answer == S::SUCCESS {
            continue;
        }
        // "SEAMLDR.SHUTDOWN-1 before SEAMLDR.SHUTDOWN-3"
        bench.hw.set(|facts| facts.x2apic_ids[0] = 1024);
        assert_eq!(shutdown(&bench, 0), S::EUNSPECERR, "SEAMLDR.SHUTDOWN-1");
        bench.hw.set(|facts| facts.x2apic_ids[0] = 0);
        for lp in 0..LPS {
            assert_eq!(cleanup(&bench, lp), S::SUCCESS);
        }
        for lp in (0..LPS).rev() {
            assert_eq!(shutdown(&bench, lp), S::SUCCESS, "SEAMLDR.SHUTDOWN-3: repaired");
        }
        nobody_answers(&bench);
    }
    // Where no module ever was, nothing is dirty.
    let bench = Bench::with_loader(None, loader(Generation::V1_5_02));
    assert_eq!(shutdown(&bench, 0), S::SUCCESS, "SEAMLDR.SHUTDOWN-3: nothing dirty");
}

#[test]
fn newer_loaders_do_not_begin_while_another_flow_runs() {
    let others: [Beginning; 2] = [
        ("INSTALL", |bench| assert_eq!(bench.raw(1, install(PARAMS)).map(status), Some(DONE))),
        ("CLEANUP", |bench| assert_eq!(cleanup(bench, 1), S::SUCCESS)),
    ];
    for generation in [Generation::V1_5_02, Generation::V2_0] {
        for (name, begin) in others {
            let bench = Bench::with_loader(Some(config("1.5.05")), loader(generation));
            begin(&bench);
            let before = state(&bench);
            // "SEAMLDR.SHUTDOWN-2 before SEAMLDR.SHUTDOWN-3": keys are dirty as well.
            for lp in 0..LPS {
                assert_eq!(shutdown(&bench, lp), S::EBADCALL, "SEAMLDR.SHUTDOWN-2: {name}");
            }
            // "SEAMLDR.SHUTDOWN-1 before SEAMLDR.SHUTDOWN-2"
            bench.hw.set(|facts| facts.x2apic_ids[2] = 5000);
            assert_eq!(shutdown(&bench, 2), S::EUNSPECERR, "SEAMLDR.SHUTDOWN-1: {name}");
            assert_eq!(state(&bench), before, "SEAMLDR.SHUTDOWN-2: {name}");
        }
    }
}

#[test]
fn older_loaders_begin_in_the_middle_of_an_install_which_is_lost() {
    for generation in [Generation::V1_0, Generation::V1_5] {
        let setup = Setup::update().generation(generation);
        let bench = setup.bench();
        assert_eq!(status(setup.call(&bench, 0)), DONE);
        assert_eq!(shutdown(&bench, 1), S::SUCCESS, "SEAMLDR.SHUTDOWN-5");
        for lp in 0..LPS {
            assert_eq!(status(setup.call(&bench, lp)), (S::EBADCALL, 0), "SEAMLDR.INSTALL-2");
        }
        for lp in (0..LPS).rev() {
            assert_eq!(shutdown(&bench, lp), S::SUCCESS, "SEAMLDR.SHUTDOWN-5");
        }
        nobody_answers(&bench);
    }
}

#[test]
fn no_install_begins_behind_a_shutdown() {
    for generation in Generation::ALL {
        let setup = Setup::load().generation(generation);
        let bench = setup.bench();
        assert_eq!(shutdown(&bench, 0), S::SUCCESS);
        let before = state(&bench);
        for lp in [1, 0, 1, 2, 3] {
            assert_eq!(status(setup.call(&bench, lp)), (S::EBADCALL, 0), "SEAMLDR.INSTALL-2: {generation:?}");
        }
        // "SEAMLDR.INSTALL-1 before SEAMLDR.INSTALL-2"
        bench.hw.set(|facts| facts.x2apic_ids[2] = 5000);
        assert_eq!(status(setup.call(&bench, 2)), (S::EUNSPECERR, 0), "SEAMLDR.INSTALL-1");
        assert_eq!(state(&bench), before, "SEAMLDR.INSTALL-2: {generation:?}");
    }
    // "SEAMLDR.INSTALL-2 before SEAMLDR.INSTALL-4": the LP is in an open session of INSTALL as well.
    let setup = Setup::update().generation(Generation::V1_5);
    let bench = setup.bench();
    assert_eq!(status(setup.call(&bench, 0)), DONE);
    assert_eq!(shutdown(&bench, 0), S::SUCCESS);
    assert_eq!(status(setup.call(&bench, 3)), (S::EBADCALL, 0), "SEAMLDR.INSTALL-2");
    assert_eq!(bench.software.inspect().loader.session_lps, Some(1), "SEAMLDR.INSTALL-2");
}
