//! SEAMLDR.INSTALL: who calls when, and what is left.

use proptest::prelude::*;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::seamldr::SCENARIO_LOAD;
use tdx_abi::status::SeamldrStatus as S;
use tdx_abi::{PhysAddr, Registers};
use tdx_module::{LockName, LpIndex, ModuleState, NoAnswer, RandomUse, profile};
use zerocopy::IntoBytes;

use crate::common::install::{DONE, Flaw, PARAMS, Setup, info, install, reaches_a_module, state, status};
use crate::common::{Bench, LPS, Moment, Stage, TDMRS};

#[test]
fn the_first_lp_makes_the_module_unreachable_and_the_last_one_replaces_it() {
    let setup = Setup::update();
    let bench = setup.bench();
    assert!(reaches_a_module(&bench));
    let before = info(&bench);
    for lp in 0..LPS {
        assert_eq!(status(setup.call(&bench, lp)), DONE, "SEAMLDR.INSTALL-7");
        let inspection = bench.software.inspect();
        let seen = info(&bench);
        if lp < LPS - 1 {
            assert!(!reaches_a_module(&bench), "SEAMLDR.INSTALL-5");
            assert_eq!((seen[160], seen[162]), (0, 1), "SEAMLDR.INSTALL-5: SEAM_READY, P_SEAM_READY");
            assert_eq!(seen[..160], before[..160], "SEAMLDR.INSTALL-5: nothing else changes");
            assert_eq!(inspection.loader.session_lps, Some(lp + 1));
            assert_eq!(inspection.loader.session_vmcs_cleared, lp + 1, "SEAMLDR.INSTALL-6");
            assert_eq!(inspection.module.map(|module| module.profile.name), Some("1.5.05"));
        } else {
            assert_eq!(inspection.loader.session_lps, None);
            assert_eq!(inspection.module.map(|module| module.profile.name), Some("1.5.09"));
        }
    }
    let seen = info(&bench);
    assert!(reaches_a_module(&bench), "SEAMLDR.INSTALL-27");
    assert_eq!(seen[160], 1, "SEAMLDR.INSTALL-27: SEAM_READY");
    assert_eq!(seen[32..40], 0x1FFu64.to_le_bytes(), "SEAMLDR.INSTALL-27");
    assert_eq!(seen[40..42], [9, 1], "SEAMLDR.INSTALL-27: SVN");
    let hash = tdx_image::verify::seamhash(&setup.module);
    assert_eq!(seen[56..104], hash, "SEAMLDR.INSTALL-27: MRSEAM");
    assert_eq!(seen[104..160], [0; 56], "SEAMLDR.INSTALL-27: signer");
}

#[test]
fn a_seam_vmcs_is_cleared_only_where_a_module_ever_was() {
    let setup = Setup::load();
    let bench = setup.bench();
    setup.call(&bench, 0);
    assert_eq!(bench.software.inspect().loader.session_vmcs_cleared, 0, "SEAMLDR.INSTALL-6");
    for lp in 1..LPS {
        setup.call(&bench, lp);
    }
    setup.call(&bench, 0);
    assert_eq!(bench.software.inspect().loader.session_vmcs_cleared, 1, "SEAMLDR.INSTALL-6");
}

#[test]
fn an_lp_calls_once_in_a_session_in_any_order() {
    let setup = Setup::update();
    let bench = setup.bench();
    for lp in [2, 0, 3] {
        assert_eq!(status(setup.call(&bench, lp)), DONE);
        let before = state(&bench);
        // With parameters that the last LP would refuse: "SEAMLDR.INSTALL-4 before SEAMLDR.INSTALL-8".
        for rcx in [PARAMS, 1] {
            let again = bench.raw(lp, install(rcx)).expect("an answer");
            assert_eq!(status(again), (S::EBADCALL, 0), "SEAMLDR.INSTALL-4");
        }
        assert_eq!(state(&bench), before, "SEAMLDR.INSTALL-4");
    }
    assert_eq!(status(setup.call(&bench, 1)), DONE, "the last one, whichever it is");
    assert_eq!(bench.state().profile.name, "1.5.09");
    assert_eq!(status(setup.call(&bench, 1)), DONE, "a new session");
}

#[test]
fn only_the_last_lp_looks_at_its_operand() {
    let setup = Setup::update();
    let bench = setup.bench();
    for lp in 0..LPS - 1 {
        let regs = bench.raw(lp, install(0xFFFF_FFFF_FFFF_FFFF)).expect("an answer");
        assert_eq!(status(regs), DONE, "SEAMLDR.INSTALL-7");
    }
    assert_eq!(status(setup.call(&bench, LPS - 1)), DONE);
}

#[test]
fn an_x2apic_id_at_the_limit_is_refused_and_opens_no_session() {
    for (id, limit, refused) in [(1023, 1024, false), (1024, 1024, true), (1024, 8192, false), (3, 3, true)] {
        let mut setup = Setup::update();
        setup.facts.x2apic_ids[3] = id;
        setup.loader.x2apic_limit = limit;
        let bench = setup.bench();
        let before = state(&bench);
        let first = setup.call(&bench, 3);
        assert_eq!(status(first), if refused { (S::EUNSPECERR, 0) } else { DONE }, "SEAMLDR.INSTALL-1: {id}");
        assert_eq!(state(&bench) == before, refused, "SEAMLDR.INSTALL-1: {id}");
    }
}

#[test]
fn with_one_lp_beyond_the_limit_the_last_lp_never_comes() {
    let mut setup = Setup::update();
    setup.facts.x2apic_ids[1] = 4096;
    let bench = setup.bench();
    for lp in [0, 2, 3] {
        assert_eq!(status(setup.call(&bench, lp)), DONE);
    }
    for (lp, answer) in [(1, S::EUNSPECERR), (0, S::EBADCALL), (1, S::EUNSPECERR), (3, S::EBADCALL)] {
        // "SEAMLDR.INSTALL-1 before SEAMLDR.INSTALL-4"
        assert_eq!(status(setup.call(&bench, lp)), (answer, 0), "SEAMLDR.INSTALL-1");
    }
    assert!(!reaches_a_module(&bench), "all TDs are lost until a reset");
    assert_eq!(info(&bench)[160], 0);
}

#[test]
fn lps_are_known_by_their_x2apic_id() {
    let mut setup = Setup::update();
    setup.facts.x2apic_ids = vec![0, 70, 70, 900];
    let bench = setup.bench();
    assert_eq!(status(setup.call(&bench, 1)), DONE);
    assert_eq!(status(setup.call(&bench, 2)), (S::EBADCALL, 0), "SEAMLDR.INSTALL-4: the same id");
    // The missing LP of a machine whose MCHECK counted one more than there are.
    let mut setup = Setup::update();
    setup.facts.mcheck(|mcheck| mcheck.total_lps = LPS + 1);
    let bench = setup.bench();
    for lp in 0..LPS {
        assert_eq!(status(setup.call(&bench, lp)), DONE, "SEAMLDR.INSTALL-7");
    }
    assert!(!reaches_a_module(&bench), "LPs that are offline count");
}

#[test]
fn before_row_23_the_old_module_comes_back_and_behind_it_none_is_left() {
    let mut early = Setup::update();
    early.facts.no_random_for = vec![RandomUse::AddressOffset];
    let (bench, last) = early.run();
    assert_eq!(status(last), (S::ENOENTROPY, 0), "SEAMLDR.INSTALL-23");
    assert_eq!(bench.state().profile.name, "1.5.05", "SEAMLDR.INSTALL-23");
    assert!(reaches_a_module(&bench));

    let mut late = Setup::update();
    late.facts.no_random_for = vec![RandomUse::LogEntry];
    let (bench, last) = late.run();
    assert_eq!(status(last), (S::ENOENTROPY, 1), "SEAMLDR.INSTALL-23");
    assert!(bench.software.inspect().module.is_none() && !reaches_a_module(&bench));
    let again = Setup::update();
    again.place(&bench);
    assert_eq!(status(again.call_all(&bench)), (S::EBADPARAM, 0), "SEAMLDR.INSTALL-9g: nothing to update");
    assert!(!reaches_a_module(&bench), "SEAM_READY of a machine without a module stays 0");
    let load = Setup::load();
    load.place(&bench);
    assert_eq!(status(load.call_all(&bench)), DONE);
    assert!(reaches_a_module(&bench));
}

#[test]
fn a_new_module_is_fresh_and_has_the_bytes_of_the_old_ones_hand_off_only() {
    let setup = Setup::update();
    let bench = Bench::with_loader(Some(crate::common::config("1.5.05")), setup.loader);
    bench.advance(Stage::Ready);
    let shutdown = u64::from(SeamcallLeaf::SYS_SHUTDOWN.0);
    assert_eq!(
        bench.raw(0, Registers { rax: shutdown, ..Registers::default() }).map(|regs| regs.rax),
        Some(0)
    );
    let old = bench.software.handoff_area();
    let facts = bench.hw.facts();
    let mut setup = setup;
    setup.facts = facts;
    // place() would overwrite the header that SYS.SHUTDOWN wrote: give it the same one.
    let size = u32::from_le_bytes(old[4..8].try_into().expect("4 bytes"));
    setup.handoff = (old[0] == 1, 0, size);
    setup.place(&bench);
    assert_eq!(bench.software.handoff_area(), old);
    assert_eq!(status(setup.call_all(&bench)), DONE, "SEAMLDR.INSTALL-23");
    let fresh = bench.state();
    assert_eq!(fresh.state, ModuleState::SysInitPending);
    assert!(fresh.initialised_lps.is_empty() && fresh.tdmrs.is_empty() && fresh.global_key.is_none());
    let total = size as usize + 8;
    assert_eq!(bench.software.handoff_area()[..total], old[..total], "SEAMLDR.INSTALL-23");
    bench.advance(Stage::LpsInitialised);
    let update = u64::from(SeamcallLeaf::SYS_UPDATE.0);
    assert_eq!(bench.raw(0, Registers { rax: update, ..Registers::default() }).map(|regs| regs.rax), Some(0));
    assert_eq!(bench.state().state, ModuleState::SysReady);
    assert_eq!(bench.state().tdmrs.len(), crate::common::TDMRS.len());

    // A LOAD takes nothing over.
    let load = setup.clone().scenario(SCENARIO_LOAD);
    load.place(&bench);
    assert_eq!(status(load.call_all(&bench)), DONE);
    assert!(bench.software.handoff_area().iter().all(|&byte| byte == 0), "SEAMLDR.INSTALL-23");
}

#[test]
fn what_an_install_left_dirty_stays_so_when_its_module_is_gone() {
    let older = || {
        let mut setup = Setup::load();
        setup.sigstruct.minor_svn = 4;
        setup
    };
    let bench = older().bench();
    assert_eq!(status(older().call_all(&bench)), DONE, "nothing is dirty yet");
    let newer = Setup::load();
    newer.place(&bench);
    assert_eq!(status(newer.call_all(&bench)), DONE);
    older().place(&bench);
    assert_eq!(status(older().call_all(&bench)), (S::ECLEANUPREQ, 0), "SEAMLDR.INSTALL-15");
    let mut broken = Setup::load();
    broken.spoil(Flaw::WrongHash);
    broken.place(&bench);
    assert_eq!(status(broken.call_all(&bench)), (S::EBADHASH, 1));
    older().place(&bench);
    assert_eq!(status(older().call_all(&bench)), (S::ECLEANUPREQ, 0), "SEAMLDR.INSTALL-15");
    newer.place(&bench);
    assert_eq!(status(newer.call_all(&bench)), DONE);
}

#[test]
fn every_install_takes_one_update_and_a_load_refills_the_log_first() {
    let left = |bench: &Bench| u32::from_le_bytes(info(bench)[28..32].try_into().expect("4 bytes"));
    let mut setup = Setup::update();
    setup.loader.remaining_updates = 2;
    let bench = setup.bench();
    assert_eq!(left(&bench), 2);
    for expected in [1, 0] {
        setup.place(&bench);
        assert_eq!(status(setup.call_all(&bench)), DONE);
        assert_eq!(left(&bench), expected, "SEAMLDR.INSTALL-27");
    }
    setup.place(&bench);
    assert_eq!(status(setup.call_all(&bench)), (S::EBADCALL, 0), "SEAMLDR.INSTALL-21");
    assert!(reaches_a_module(&bench));
    let load = setup.clone().scenario(SCENARIO_LOAD);
    load.place(&bench);
    assert_eq!(status(load.call_all(&bench)), DONE, "a LOAD is not refused at 0");
    assert_eq!(left(&bench), 2, "SEAMLDR.INSTALL-27: the LOAD takes one as well");

    // What fails takes nothing.
    let mut failing = setup.clone();
    failing.spoil(Flaw::WrongHash);
    failing.place(&bench);
    assert_eq!(status(failing.call_all(&bench)), (S::EBADHASH, 1));
    assert_eq!(left(&bench), 2);

    // Where the firmware loaded no module, the log is empty.
    let mut empty = Setup::load();
    empty.loader.remaining_updates = 2;
    let bench = empty.bench();
    assert_eq!(left(&bench), 3);
    assert_eq!(status(empty.call_all(&bench)), DONE);
    assert_eq!(left(&bench), 2);
}

#[test]
fn a_second_lp_gets_vmfailinvalid_while_one_is_inside() {
    let setup = Setup::update();
    let bench = setup.bench();
    for lp in 0..LPS - 1 {
        setup.call(&bench, lp);
    }
    let before = bench.software.inspect();
    bench.hw.intrude(Moment::Read(PARAMS), &bench.software, LpIndex(0), install(PARAMS));
    assert_eq!(status(setup.call(&bench, LPS - 1)), DONE);
    assert_eq!(bench.hw.intrusion(), Err(NoAnswer::VmFailInvalid), "SEAMLDR-1");
    assert_eq!(bench.software.inspect().loader.calls, before.loader.calls + 1, "one call ran");
    assert_eq!(bench.software.inspect().loader.session_lps, None, "the intruder is in no session");

    bench.hw.set(|facts| facts.contended.push(LockName::Seamldr));
    assert!(bench.raw(0, install(PARAMS)).is_none(), "SEAMLDR-1");
    assert_eq!(bench.software.inspect().loader.session_lps, None);
}

#[test]
fn no_module_is_reached_while_the_last_lp_works() {
    for moment in [Moment::Read(PARAMS), Moment::Random] {
        let setup = Setup::update();
        let bench = setup.bench();
        for lp in 0..LPS - 1 {
            setup.call(&bench, lp);
        }
        bench.hw.intrude(moment, &bench.software, LpIndex(1), sys_rd());
        assert_eq!(status(setup.call(&bench, LPS - 1)), DONE);
        assert_eq!(bench.hw.intrusion(), Err(NoAnswer::VmFailInvalid), "{moment:?}: SEAM_READY is 0");
    }
}

#[test]
fn an_lp_inside_the_module_ends_its_call_while_others_install() {
    let setup = Setup::update();
    let bench = Bench::with_loader(Some(crate::common::config("1.5.05")), setup.loader);
    bench.advance(Stage::Ready);
    setup.place(&bench);
    bench.hw.intrude(Moment::Initialise, &bench.software, LpIndex(1), install(PARAMS));
    bench.ok(0, SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: TDMRS[0].0, ..Registers::default() });
    assert_eq!(bench.hw.intrusion().map(status), Ok(DONE), "the first of the session");
    assert_eq!(bench.state().tdmrs[0].initialised_bytes, 4 << 20, "the call that was under way did its work");
    assert!(bench.raw(0, sys_rd()).is_none(), "the next one reaches nothing");
    assert_eq!(bench.software.inspect().loader.session_lps, Some(1));
}

fn sys_rd() -> Registers {
    Registers { rax: u64::from(SeamcallLeaf::SYS_RD.0), rdx: u64::MAX, ..Registers::default() }
}

#[test]
fn info_does_not_get_in_while_install_runs() {
    let setup = Setup::update();
    let bench = setup.bench();
    for lp in 0..LPS - 1 {
        setup.call(&bench, lp);
    }
    let rax = LeafWord::seamldr(SeamldrLeaf::INFO).raw();
    let regs = Registers { rax, rcx: crate::common::install::INFO, ..Registers::default() };
    bench.hw.intrude(Moment::Random, &bench.software, LpIndex(1), regs);
    assert_eq!(status(setup.call(&bench, LPS - 1)), DONE);
    assert_eq!(bench.hw.intrusion(), Err(NoAnswer::VmFailInvalid), "SEAMLDR-1");
}

#[test]
fn poison_in_the_image_is_a_machine_check_and_ends_all() {
    let mut setup = Setup::update();
    setup.facts.poison = Some(PARAMS + 64);
    let bench = setup.bench();
    for lp in 0..LPS - 1 {
        setup.call(&bench, lp);
    }
    let mut regs = install(PARAMS);
    let result = bench.software.seamcall(&bench.hw, LpIndex(LPS - 1), &mut regs);
    assert!(matches!(result, Err(NoAnswer::MachineCheck(_))));
    assert_eq!(bench.software.inspect().machine_check, Some(PhysAddr::new(PARAMS + 64)));
    assert!(bench.raw(0, install(PARAMS)).is_none());
}

#[test]
fn deviations_of_the_platform_hold_for_the_next_module() {
    let setup = Setup::update();
    let mut config = crate::common::config("1.5.05");
    config.real_features = true;
    config.build_num = 4711;
    let bench = Bench::with_loader(Some(config), setup.loader);
    setup.place(&bench);
    assert_eq!(status(setup.call_all(&bench)), DONE);
    let real = profile::find("1.5.09").expect("a profile").features0;
    assert_eq!(bench.state().features0, real);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Call(u32),
    Place { scenario: u32, wrong_hash: bool, valid: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..LPS).prop_map(Step::Call),
        1 => (0u32..3, any::<bool>(), any::<bool>())
            .prop_map(|(scenario, wrong_hash, valid)| Step::Place { scenario, wrong_hash, valid }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sequence_of_calls_keeps_the_session(steps in prop::collection::vec(step(), 1..60)) {
        let mut setup = Setup::update();
        setup.loader.remaining_updates = 2;
        let bench = setup.bench();
        let mut called = std::collections::BTreeSet::new();
        let mut ready = true;
        let mut left = 2;
        for step in steps {
            match step {
                Step::Place { scenario, wrong_hash, valid } => {
                    setup.params.scenario.set(scenario);
                    setup.flaws = wrong_hash.then_some(Flaw::WrongHash).into_iter().collect();
                    setup.handoff.0 = valid;
                    setup.place(&bench);
                }
                Step::Call(lp) => {
                    let regs = setup.call(&bench, lp);
                    let answer = status(regs);
                    if !called.insert(lp) {
                        prop_assert_eq!(answer, (S::EBADCALL, 0));
                    } else if called.len() < LPS as usize {
                        prop_assert_eq!(answer, DONE);
                    } else {
                        called.clear();
                        let scenario = setup.params.scenario.get();
                        match answer {
                            DONE => {
                                left = if scenario == SCENARIO_LOAD { 2 } else { left - 1 };
                                ready = true;
                            }
                            (_, 1) => ready = false,
                            (refusal, _) => prop_assert!(refusal != S::SUCCESS),
                        }
                    }
                    let seen = bench.software.inspect();
                    let open = !called.is_empty();
                    let lps = seen.loader.session_lps.map(|lps| lps as usize);
                    prop_assert_eq!(lps, open.then_some(called.len()));
                    prop_assert_eq!(seen.loader.seam_ready, ready && !open);
                    prop_assert_eq!(reaches_a_module(&bench), ready && !open);
                    prop_assert_eq!(seen.module.is_some(), ready);
                    prop_assert_eq!(seen.loader.config.remaining_updates, left);
                }
            }
        }
    }

    #[test]
    fn any_parameters_and_any_sigstruct_are_answered(
        words in prop::collection::vec((0usize..512, word()), 0..4),
        bytes in prop::collection::vec((0usize..2048, any::<u8>()), 0..4),
        pages in prop::collection::vec((0usize..20480, any::<u8>()), 0..8),
        rcx in prop_oneof![4 => Just(PARAMS), 1 => any::<u64>()],
        checks in any::<bool>(),
    ) {
        let mut setup = Setup::update();
        setup.loader.check_signatures = checks;
        setup.rcx = rcx;
        for (index, word) in words {
            setup.params.as_mut_bytes()[8 * index..][..8].copy_from_slice(&word.to_le_bytes());
        }
        for (index, byte) in bytes {
            setup.sigstruct.as_mut_bytes()[index] = byte;
        }
        for (index, byte) in pages {
            setup.module[index] = byte;
        }
        let (bench, last) = setup.run();
        let seen = bench.software.inspect();
        prop_assert_eq!(seen.loader.session_lps, None);
        prop_assert_eq!(seen.module.is_some(), last.rdx == 0);
        prop_assert_eq!(reaches_a_module(&bench), last.rdx == 0);
    }
}

/// Values near the borders that INSTALL looks at.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0u64..600, Just(u64::MAX), Just(PARAMS), (0u32..64).prop_map(|bit| 1 << bit)]
}
