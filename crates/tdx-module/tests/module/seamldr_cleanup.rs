//! SEAMLDR.CLEANUP: its rows in their order, its pauses, and what may follow it.

use tdx_abi::leaf::{SeamcallLeaf, SeamldrLeaf};
use tdx_abi::seamldr::SCENARIO_LOAD;
use tdx_abi::status::SeamldrStatus as S;
use tdx_abi::{KeyId, Registers};
use tdx_module::{KeyAlgorithm, LoaderGeneration as Generation, LpIndex, PconfigError};

use crate::common::install::{DONE, Flaw, Setup, info, leaf, reaches_a_module, state, status};
use crate::common::{Bench, LPS, Stage};

fn cleanup(bench: &Bench, lp: u32) -> S {
    leaf(bench, lp, SeamldrLeaf::CLEANUP, u64::MAX)
}

fn cleanup_everywhere(bench: &Bench) {
    for lp in 0..LPS {
        assert_eq!(cleanup(bench, lp), S::SUCCESS, "LP {lp}");
    }
}

/// A machine with 1.5.05 and INFO read once, so that the canary is in place.
fn bench() -> Bench {
    let bench = Setup::update().bench();
    assert_eq!(info(&bench)[168], 2, "FEATURES0 offers CLEANUP");
    bench
}

/// The private KeyIDs of the fake machine.
fn keys_of(lp: u32) -> Vec<(LpIndex, KeyId, KeyAlgorithm)> {
    (32..64).map(|key| (LpIndex(lp), KeyId::new(key), KeyAlgorithm::AesXts256Integrity)).collect()
}

#[test]
fn older_loaders_neither_have_the_leaf_nor_offer_it() {
    for generation in Generation::ALL {
        let setup = Setup::load().generation(generation);
        let bench = setup.bench();
        let has_leaf = generation >= Generation::V1_5_02;
        assert_eq!(info(&bench)[168..176], [if has_leaf { 2 } else { 0 }, 0, 0, 0, 0, 0, 0, 0]);
        let before = state(&bench);
        let answer = if has_leaf { S::EBADCALL } else { S::EBADPARAM };
        assert_eq!(cleanup(&bench, 0), answer, "SEAMLDR-3: {generation:?}");
        assert_eq!(state(&bench), before);
    }
}

#[test]
fn the_first_lp_ends_the_module_and_the_last_one_all_traces_of_it() {
    let setup = Setup::update();
    let bench = Bench::with_loader(Some(crate::common::config("1.5.05")), setup.loader);
    bench.advance(Stage::Ready);
    let programmed = bench.hw.programmed();
    let rax = u64::from(SeamcallLeaf::SYS_SHUTDOWN.0);
    assert_eq!(bench.raw(0, Registers { rax, ..Registers::default() }).map(|regs| regs.rax), Some(0));
    assert_eq!(bench.software.handoff_area()[0], 1);
    let before = info(&bench);

    assert_eq!(cleanup(&bench, 1), S::SUCCESS);
    let seen = info(&bench);
    assert!(!reaches_a_module(&bench), "SEAMLDR.CLEANUP-6");
    assert_eq!((seen[160], seen[162]), (0, 1), "SEAMLDR.CLEANUP-6: SEAM_READY, P_SEAM_READY");
    assert_eq!((&before[40..42], &seen[40..42]), (&[5u8, 1][..], &[0u8, 0][..]), "SEAMLDR.CLEANUP-6: SVN");
    assert_eq!((&seen[..40], &seen[42..160]), (&before[..40], &before[42..160]), "SEAMLDR.CLEANUP-6");
    assert_eq!(bench.software.handoff_area()[0], 0, "SEAMLDR.CLEANUP-6: hand-off data");
    let loader = bench.software.inspect().loader;
    assert_eq!((loader.cleanup_lps, loader.dirty), (Some(1), true));
    assert_eq!(bench.hw.programmed(), programmed, "a package is the work of its last LP");

    assert_eq!(cleanup(&bench, 2), S::SUCCESS);
    assert_eq!(bench.hw.programmed(), programmed);
    assert_eq!(cleanup(&bench, 0), S::SUCCESS);
    assert_eq!(bench.hw.programmed()[programmed.len()..], keys_of(0), "SEAMLDR.CLEANUP-7: every TDX KeyID");
    assert_eq!(bench.hw.written_back(), [(LpIndex(0), 0), (LpIndex(0), 1)], "SEAMLDR.CLEANUP-8");
    assert_eq!(bench.software.inspect().loader.cleanup_lps, Some(3), "SEAMLDR.CLEANUP-9");

    assert_eq!(cleanup(&bench, 3), S::SUCCESS);
    assert_eq!(bench.hw.programmed()[programmed.len() + 32..], keys_of(3), "SEAMLDR.CLEANUP-7");
    assert_eq!(bench.hw.written_back()[2..], [(LpIndex(3), 0), (LpIndex(3), 1)], "SEAMLDR.CLEANUP-8");
    let inspection = bench.software.inspect();
    assert!(inspection.module.is_none() && !reaches_a_module(&bench), "SEAMLDR.CLEANUP-9");
    assert_eq!((inspection.loader.cleanup_lps, inspection.loader.dirty), (None, false), "SEAMLDR.CLEANUP-9");
    let seen = info(&bench);
    assert_eq!(seen[32..162], [0; 130], "SEAMLDR.CLEANUP-9: SEAMEXTEND");
    assert_eq!(seen[28..32], 32u32.to_le_bytes(), "SEAMLDR.CLEANUP-9: all places of the log are free");
}

#[test]
fn every_row_answers_in_its_turn() {
    let limit = |bench: &Bench| bench.hw.set(|facts| facts.x2apic_ids[1] = 1024);
    let package = |bench: &Bench| bench.hw.set(|facts| facts.packages[1] = 8);
    let repair = |bench: &Bench| {
        bench.hw.set(|facts| {
            facts.x2apic_ids[1] = 1;
            facts.packages[1] = 0;
        });
    };
    let refused = |bench: &Bench, answer: S, row: &str| {
        let before = state(bench);
        assert_eq!(cleanup(bench, 1), answer, "{row}");
        assert_eq!(state(bench), before, "{row}");
    };

    // "SEAMLDR.CLEANUP-4 before SEAMLDR.CLEANUP-5": no LP has called INSTALL, and one package too many.
    let empty = Setup::load().bench();
    info(&empty);
    package(&empty);
    refused(&empty, S::EBADCALL, "SEAMLDR.CLEANUP-4");
    repair(&empty);
    refused(&empty, S::EBADCALL, "SEAMLDR.CLEANUP-4");
    // "SEAMLDR.CLEANUP-1 before SEAMLDR.CLEANUP-4"
    limit(&empty);
    refused(&empty, S::EUNSPECERR, "SEAMLDR.CLEANUP-1");

    let good = bench();
    limit(&good);
    refused(&good, S::EUNSPECERR, "SEAMLDR.CLEANUP-1");
    repair(&good);
    package(&good);
    refused(&good, S::EUNSPECERR, "SEAMLDR.CLEANUP-5");
    repair(&good);
    assert_eq!(cleanup(&good, 1), S::SUCCESS, "SEAMLDR.CLEANUP-5: repaired");
    // "SEAMLDR.CLEANUP-3 before SEAMLDR.CLEANUP-5"
    package(&good);
    refused(&good, S::EBADCALL, "SEAMLDR.CLEANUP-3");
    repair(&good);
    refused(&good, S::EBADCALL, "SEAMLDR.CLEANUP-3");
    for lp in [0, 3, 2] {
        assert_eq!(cleanup(&good, lp), S::SUCCESS);
    }
    assert_eq!(cleanup(&good, 1), S::SUCCESS, "SEAMLDR.CLEANUP-3: repaired: a new session");
}

#[test]
fn one_flow_runs_at_a_time() {
    for generation in [Generation::V1_5_02, Generation::V2_0] {
        // INSTALL has begun.
        let setup = Setup::update().generation(generation);
        let bench = setup.bench();
        assert_eq!(status(setup.call(&bench, 0)), DONE);
        let before = state(&bench);
        for lp in 0..LPS {
            assert_eq!(cleanup(&bench, lp), S::EBADCALL, "SEAMLDR.CLEANUP-2");
        }
        // "SEAMLDR.CLEANUP-1 before SEAMLDR.CLEANUP-2"
        bench.hw.set(|facts| facts.x2apic_ids[1] = 1024);
        assert_eq!(cleanup(&bench, 1), S::EUNSPECERR, "SEAMLDR.CLEANUP-1");
        bench.hw.set(|facts| facts.x2apic_ids[1] = 1);
        assert_eq!(state(&bench), before, "SEAMLDR.CLEANUP-2");
        for lp in 1..LPS {
            assert_eq!(status(setup.call(&bench, lp)), DONE);
        }

        // CLEANUP has begun.
        assert_eq!(cleanup(&bench, 2), S::SUCCESS, "SEAMLDR.CLEANUP-2: repaired");
        let before = state(&bench);
        for lp in [2, 0, 1, 3] {
            assert_eq!(status(setup.call(&bench, lp)), (S::EBADCALL, 0), "SEAMLDR.INSTALL-3");
        }
        // "SEAMLDR.INSTALL-1 before SEAMLDR.INSTALL-3"
        bench.hw.set(|facts| facts.x2apic_ids[1] = 1024);
        assert_eq!(status(setup.call(&bench, 1)), (S::EUNSPECERR, 0), "SEAMLDR.INSTALL-1");
        bench.hw.set(|facts| facts.x2apic_ids[1] = 1);
        assert_eq!(state(&bench), before, "SEAMLDR.INSTALL-3");
        for lp in [0, 1, 3] {
            assert_eq!(cleanup(&bench, lp), S::SUCCESS);
        }
        let load = setup.clone().scenario(SCENARIO_LOAD);
        load.place(&bench);
        assert_eq!(status(load.call_all(&bench)), DONE, "SEAMLDR.INSTALL-3: repaired");

        // SHUTDOWN has begun.
        cleanup_everywhere(&bench);
        assert_eq!(leaf(&bench, 0, SeamldrLeaf::SHUTDOWN, 0), S::SUCCESS);
        assert_eq!(cleanup(&bench, 1), S::EBADCALL, "SEAMLDR.CLEANUP-2");
    }
}

#[test]
fn an_install_that_failed_has_told_the_packages_as_well() {
    let mut setup = Setup::load();
    setup.spoil(Flaw::WrongSignature);
    let bench = setup.bench();
    for lp in 0..LPS - 1 {
        setup.call(&bench, lp);
    }
    assert_eq!(cleanup(&bench, 0), S::EBADCALL, "SEAMLDR.CLEANUP-2: the session is open");
    assert_eq!(status(setup.call(&bench, LPS - 1)), (S::EBADSIG, 0));
    cleanup_everywhere(&bench);
    assert!(bench.hw.programmed().is_empty() && bench.hw.written_back().is_empty(), "nothing was dirty");
}

#[test]
fn an_interrupted_lp_goes_on_where_it_was() {
    let bench = bench();
    assert_eq!(cleanup(&bench, 0), S::SUCCESS);
    bench.hw.set(|facts| facts.interrupt = true);
    let open = state(&bench);
    // One KeyID and one part of the caches with each call.
    for key in 1..=32 {
        assert_eq!(cleanup(&bench, 1), S::EINTERRUPT, "SEAMLDR.CLEANUP-7");
        assert_eq!(bench.hw.programmed(), keys_of(1)[..key], "SEAMLDR.CLEANUP-7");
        assert!(bench.hw.written_back().is_empty(), "keys come first");
        assert_eq!(state(&bench), open, "SEAMLDR.CLEANUP-7: the LP is not through");
    }
    for part in 0..2 {
        assert_eq!(cleanup(&bench, 1), S::EINTERRUPT, "SEAMLDR.CLEANUP-8");
        assert_eq!(bench.hw.written_back().last(), Some(&(LpIndex(1), part)), "SEAMLDR.CLEANUP-8");
        assert_eq!(state(&bench), open, "SEAMLDR.CLEANUP-8: the LP is not through");
    }
    assert_eq!(cleanup(&bench, 1), S::SUCCESS, "nothing is left to be interrupted");
    assert_eq!((bench.hw.programmed(), bench.hw.written_back().len()), (keys_of(1), 2));
    assert_eq!(cleanup(&bench, 1), S::EBADCALL, "SEAMLDR.CLEANUP-3");

    // Packages do not know of each other's progress, and an LP that has no work is not interrupted.
    assert_eq!(cleanup(&bench, 3), S::SUCCESS);
    for _ in 0..5 {
        assert_eq!(cleanup(&bench, 2), S::EINTERRUPT, "SEAMLDR.CLEANUP-7");
    }
    bench.hw.set(|facts| facts.interrupt = false);
    assert_eq!(cleanup(&bench, 2), S::SUCCESS, "SEAMLDR.CLEANUP-7: repaired");
    assert_eq!(bench.hw.programmed()[32..], keys_of(2), "SEAMLDR.CLEANUP-7: each KeyID once");
    assert!(!bench.software.inspect().loader.dirty, "SEAMLDR.CLEANUP-9");
}

#[test]
fn two_packages_are_interrupted_each_for_itself() {
    let bench = bench();
    for lp in [0, 2] {
        assert_eq!(cleanup(&bench, lp), S::SUCCESS);
    }
    bench.hw.set(|facts| facts.interrupt = true);
    for _ in 0..34 {
        for lp in [1, 3] {
            assert_eq!(cleanup(&bench, lp), S::EINTERRUPT);
        }
    }
    for lp in [1, 3] {
        assert_eq!(cleanup(&bench, lp), S::SUCCESS);
    }
    let of =
        |lp| bench.hw.programmed().into_iter().filter(|entry| entry.0 == LpIndex(lp)).collect::<Vec<_>>();
    assert_eq!((of(1), of(3)), (keys_of(1), keys_of(3)));
}

#[test]
fn a_key_that_pconfig_does_not_program_is_tried_again() {
    let table = [
        (PconfigError::Entropy, S::ENOENTROPY, "SEAMLDR.CLEANUP-10"),
        (PconfigError::DeviceBusy, S::EUNSPECERR, "SEAMLDR.CLEANUP-11"),
        (PconfigError::InvalidKeyId, S::EUNSPECERR, "SEAMLDR.CLEANUP-11"),
        (PconfigError::InvalidAlgorithm, S::EUNSPECERR, "SEAMLDR.CLEANUP-11"),
    ];
    for (error, answer, row) in table {
        let bench = bench();
        assert_eq!(cleanup(&bench, 0), S::SUCCESS);
        bench.hw.set(|facts| facts.interrupt = true);
        for _ in 0..7 {
            assert_eq!(cleanup(&bench, 1), S::EINTERRUPT);
        }
        // "SEAMLDR.CLEANUP-10 before SEAMLDR.CLEANUP-7": an interrupt is pending as well.
        bench.hw.set(|facts| facts.pconfig = Some(error));
        let before = state(&bench);
        for _ in 0..3 {
            assert_eq!(cleanup(&bench, 1), answer, "{row}: {error}");
        }
        assert_eq!(state(&bench), before, "{row}");
        bench.hw.set(|facts| (facts.pconfig, facts.interrupt) = (None, false));
        assert_eq!(cleanup(&bench, 1), S::SUCCESS, "{row} repaired");
        assert_eq!(bench.hw.programmed(), keys_of(1), "{row}: no KeyID left out");
    }
    // No algorithm is active: "SEAMLDR.CLEANUP-11 before SEAMLDR.CLEANUP-10".
    let bench = bench();
    let healthy = bench.hw.facts();
    assert_eq!(cleanup(&bench, 0), S::SUCCESS);
    bench.hw.set(|facts| {
        facts.set_msr(0x982, 6 << 32 | 3);
        facts.pconfig = Some(PconfigError::Entropy);
    });
    assert_eq!(cleanup(&bench, 1), S::EUNSPECERR, "SEAMLDR.CLEANUP-11");
    bench.hw.restore(healthy);
    assert_eq!(cleanup(&bench, 1), S::SUCCESS, "SEAMLDR.CLEANUP-11: repaired");
}

#[test]
fn keys_have_integrity_where_memory_has_it() {
    let bench = bench();
    bench.hw.set(|facts| facts.mcheck(|mcheck| mcheck.without_integrity = true));
    cleanup_everywhere(&bench);
    assert!(bench.hw.programmed().iter().all(|entry| entry.2 == KeyAlgorithm::AesXts256));
}

#[test]
fn behind_a_cleanup_any_module_may_follow() {
    let mut older = Setup::update().scenario(SCENARIO_LOAD);
    older.sigstruct.minor_svn = 4;
    for major in [1, 2] {
        older.sigstruct.major_svn = major;
        let bench = older.bench();
        assert_eq!(status(older.call_all(&bench)), (S::ECLEANUPREQ, 0), "SEAMLDR.INSTALL-15: {major}");
        cleanup_everywhere(&bench);
        // Nothing is left that could be updated.
        let update = Setup::update();
        update.place(&bench);
        assert_eq!(status(update.call_all(&bench)), (S::EBADPARAM, 0), "SEAMLDR.INSTALL-9g");
        older.place(&bench);
        assert_eq!(status(older.call_all(&bench)), DONE, "SEAMLDR.INSTALL-15: repaired");
        assert!(reaches_a_module(&bench) && bench.software.inspect().loader.dirty);
        // What the last INSTALL left dirty counts from here on.
        older.sigstruct.minor_svn = 3;
        older.place(&bench);
        assert_eq!(status(older.call_all(&bench)), (S::ECLEANUPREQ, 0), "SEAMLDR.INSTALL-15");
        older.sigstruct.minor_svn = 4;
    }
}

#[test]
fn a_cleanup_of_a_clean_machine_has_no_work() {
    let bench = bench();
    cleanup_everywhere(&bench);
    let keys = bench.hw.programmed().len();
    bench.hw.set(|facts| facts.interrupt = true);
    cleanup_everywhere(&bench);
    assert_eq!(bench.hw.programmed().len(), keys);
    assert_eq!(bench.software.inspect().loader.cleanup_lps, None, "SEAMLDR.CLEANUP-9");
}

#[test]
fn with_one_lp_beyond_the_limit_a_cleanup_never_ends() {
    let mut setup = Setup::update();
    setup.facts.x2apic_ids[1] = 4096;
    let bench = setup.bench();
    for lp in [0, 2, 3] {
        assert_eq!(cleanup(&bench, lp), S::SUCCESS);
    }
    for (lp, answer) in [(1, S::EUNSPECERR), (0, S::EBADCALL), (3, S::EBADCALL)] {
        assert_eq!(cleanup(&bench, lp), answer);
    }
    assert_eq!(status(setup.call(&bench, 0)), (S::EBADCALL, 0), "SEAMLDR.INSTALL-3");
    assert!(!reaches_a_module(&bench), "all TDs are lost until a reset");
}
