//! SEAMLDR.INSTALL: who calls when, what the generations do differently, and what is left.

use proptest::prelude::*;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::seamldr::{SCENARIO_LOAD, Version};
use tdx_abi::status::SeamldrStatus as S;
use tdx_abi::{PhysAddr, Registers};
use tdx_module::profile::Svn;
use tdx_module::{LockName, LpIndex, ModuleState, NoAnswer, RandomUse, SeamNote, UnknownRelease, profile};

use crate::common::install::{Flaw, PARAMS, Setup, info, install, reaches_a_module, spec, state};
use crate::common::{Bench, LPS, Moment, Stage};
use tdx_module::LoaderGeneration as Generation;

fn status(regs: Registers) -> (S, u64) {
    (S(regs.rax), regs.rdx)
}

const DONE: (S, u64) = (S::SUCCESS, 0);

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

/// A change to the good update, and what each generation says.
type Difference = (&'static str, fn(&mut Setup), [(S, u64); 4]);

#[test]
fn the_generations_differ_where_their_sources_do() {
    const EBADSIG: (S, u64) = (S::EBADSIG, 0);
    const UNSUPPORTED: (S, u64) = (S::EUNSUPPORTED, 0);
    const NO_HANDOFF: (S, u64) = (S::EBADHANDOFF, 0);
    /// A module of TDX 1.0, as its loader wants it: no hand-off fields.
    fn tdx_1_0(setup: &mut Setup) {
        setup.running = Some("1.0");
        let sigstruct = &mut setup.sigstruct;
        (sigstruct.major_svn, sigstruct.minor_svn) = (0, 9);
        sigstruct.handoff_pages_less_1.set(0);
        sigstruct.gdt_idt_offset.set(0);
        sigstruct.fault_wrapper_offset.set(0);
    }
    /// The same with the offsets that newer loaders want.
    fn svn_0(setup: &mut Setup) {
        setup.running = Some("1.0");
        (setup.sigstruct.major_svn, setup.sigstruct.minor_svn) = (0, 9);
    }
    let table: &[Difference] = &[
        ("SEAMLDR.INSTALL-10: hand-off fields", |_| {}, [EBADSIG, DONE, DONE, DONE]),
        (
            "SEAMLDR.INSTALL-10: version bytes",
            |setup| setup.sigstruct.version_major = 2,
            [EBADSIG, EBADSIG, EBADSIG, DONE],
        ),
        ("SEAMLDR.INSTALL-10: TDX 1.0", tdx_1_0, [DONE, DONE, UNSUPPORTED, UNSUPPORTED]),
        ("SEAMLDR.INSTALL-13", svn_0, [EBADSIG, DONE, UNSUPPORTED, UNSUPPORTED]),
        (
            "SEAMLDR.INSTALL-9d: no pages",
            |setup| setup.params.num_module_pages.set(0),
            [EBADSIG, EBADSIG, (S::EBADPARAM, 0), (S::EBADPARAM, 0)],
        ),
        (
            "SEAMLDR.INSTALL-14a",
            |setup| setup.sigstruct.major_svn = 3,
            [EBADSIG, (S::EBADCALL, 0), UNSUPPORTED, UNSUPPORTED],
        ),
        ("SEAMLDR.INSTALL-14b", |setup| setup.sigstruct.minor_svn = 4, [EBADSIG; 4]),
        (
            "SEAMLDR.INSTALL-14b: one number",
            |setup| {
                tdx_1_0(setup);
                setup.sigstruct.minor_svn = 0;
            },
            [EBADSIG, EBADSIG, UNSUPPORTED, UNSUPPORTED],
        ),
        (
            "SEAMLDR.INSTALL-15: an older module",
            |setup| {
                setup.params.scenario.set(SCENARIO_LOAD);
                setup.sigstruct.minor_svn = 4;
            },
            [EBADSIG, DONE, (S::ECLEANUPREQ, 0), (S::ECLEANUPREQ, 0)],
        ),
        (
            "SEAMLDR.INSTALL-15: the same SVN",
            |setup| {
                setup.params.scenario.set(SCENARIO_LOAD);
                setup.sigstruct.minor_svn = 5;
            },
            [EBADSIG, DONE, DONE, DONE],
        ),
        ("SEAMLDR.INSTALL-17a", |setup| setup.sigstruct.cpu_count.set(0), [EBADSIG; 4]),
        (
            "SEAMLDR.INSTALL-17a: TDX 1.0",
            |setup| {
                tdx_1_0(setup);
                setup.sigstruct.cpu_count.set(0);
            },
            [DONE, EBADSIG, UNSUPPORTED, UNSUPPORTED],
        ),
        (
            "SEAMLDR.INSTALL-21",
            |setup| setup.loader.remaining_updates = 0,
            [EBADSIG, (S::EBADCALL, 0), (S::EBADCALL, 0), (S::EBADCALL, 0)],
        ),
        (
            "SEAMLDR.INSTALL-22a",
            |setup| setup.handoff.0 = false,
            [EBADSIG, NO_HANDOFF, NO_HANDOFF, NO_HANDOFF],
        ),
        (
            "SEAMLDR.INSTALL-22a: TDX 1.0 has no hand-off",
            |setup| {
                tdx_1_0(setup);
                setup.handoff.0 = false;
                setup.loader.remaining_updates = 0;
            },
            [DONE, DONE, UNSUPPORTED, UNSUPPORTED],
        ),
        (
            "SEAMLDR.INSTALL-25",
            |setup| {
                tdx_1_0(setup);
                setup.module[0x28..0x30].fill(0xEE);
            },
            [DONE, (S::EBADPARAM, 1), UNSUPPORTED, UNSUPPORTED],
        ),
        (
            "SEAMLDR.INSTALL-26",
            |setup| {
                tdx_1_0(setup);
                setup.facts.no_random_for = vec![RandomUse::LogEntry];
            },
            [DONE, (S::ENOENTROPY, 1), UNSUPPORTED, UNSUPPORTED],
        ),
    ];
    for &(what, change, answers) in table {
        for (generation, answer) in Generation::ALL.into_iter().zip(answers) {
            let mut setup = Setup::update().generation(generation);
            change(&mut setup);
            let (_, last) = setup.run();
            assert_eq!(status(last), answer, "{what}: {generation:?}");
        }
    }
}

#[test]
fn a_debug_module_needs_an_unlocked_machine_and_no_cpu_table() {
    for (unlocked, cpus, answer) in [(false, 1, (S::EBADSIG, 0)), (true, 1, DONE), (true, 0, DONE)] {
        let mut setup = Setup::update();
        setup.loader.debug_unlocked = unlocked;
        setup.sigstruct.module_type.set(1 << 31);
        setup.sigstruct.cpu_count.set(cpus);
        assert_eq!(status(setup.run().1), answer, "SEAMLDR.INSTALL-12");
    }
}

#[test]
fn the_test_key_is_taken_only_where_it_is_trusted() {
    let mut setup = Setup::update();
    setup.loader.trust_test_key = false;
    assert_eq!(status(setup.run().1), (S::EBADSIG, 0), "SEAMLDR.INSTALL-11");
}

#[test]
fn without_signature_checks_hash_and_signature_are_not_looked_at() {
    let mut setup = Setup::update();
    setup.spoil(Flaw::WrongHash);
    setup.spoil(Flaw::WrongSignature);
    assert_eq!(status(setup.run().1), (S::EBADSIG, 0), "SEAMLDR.INSTALL-18");
    setup.flaws.remove(&Flaw::WrongSignature);
    assert_eq!(status(setup.run().1), (S::EBADHASH, 1), "SEAMLDR.INSTALL-24");
    setup.spoil(Flaw::WrongSignature);
    setup.loader.check_signatures = false;
    assert_eq!(status(setup.run().1), DONE);
}

/// An image that is not signed with the test key, believed: only its SIGSTRUCT tells what it is.
fn claimed(svn: Svn) -> Setup {
    let mut setup = Setup::update();
    setup.loader.check_signatures = false;
    setup.spoil(Flaw::ForeignKey);
    (setup.sigstruct.major_svn, setup.sigstruct.minor_svn) = (svn.major, svn.minor);
    setup
}

#[test]
fn a_release_without_a_profile_is_played_as_the_nearest_one_below_or_refused() {
    let setup = claimed(Svn { major: 1, minor: 9 });
    let (bench, last) = setup.run();
    assert_eq!(status(last), DONE);
    let nearest = profile::find("1.5.09").expect("a profile");
    assert_eq!(bench.state().profile, nearest, "1.5.13 has SVN 1.10");
    let svn = Svn { major: 1, minor: 9 };
    assert_eq!(bench.hw.notes(), [SeamNote::NearestRelease { svn, profile: nearest }]);
    assert_eq!(info(&bench)[40..42], [9, 1], "SVN of the image");

    let mut refusing = setup.clone();
    refusing.loader.unknown_release = UnknownRelease::Refuse;
    let (bench, last) = refusing.run();
    assert_eq!(status(last), (S::EUNSUPPORTED, 0), "SEAMLDR.INSTALL-28");
    assert_eq!((bench.state().profile.name, bench.hw.notes().len()), ("1.5.05", 0), "SEAMLDR.INSTALL-28");
    // "SEAMLDR.INSTALL-28 before SEAMLDR.INSTALL-19"
    refusing.facts.no_random_for = vec![RandomUse::AddressOffset];
    assert_eq!(status(refusing.run().1), (S::EUNSUPPORTED, 0), "SEAMLDR.INSTALL-28");

    let mut other_line = claimed(Svn { major: 2, minor: 9 }).scenario(SCENARIO_LOAD);
    other_line.running = None;
    assert_eq!(status(other_line.run().1), (S::EUNSUPPORTED, 0), "SEAMLDR.INSTALL-28: no profile has SVN 2");
}

#[test]
fn an_image_of_the_test_key_is_what_its_record_says() {
    let mut image = spec(Version::new(1, 5, 77), "1.5.28");
    image.svn.minor = 20;
    image.module_handoff_version = 1;
    image.handoff_pages = 30;
    let (bench, last) = Setup::to("1.5.05", &image).run();
    assert_eq!(status(last), DONE);
    let module = bench.state();
    assert_eq!((module.version, module.profile.name), (Version::new(1, 5, 77), "1.5.28"));
    assert_eq!(info(&bench)[40..42], [20, 1]);
    assert_eq!(bench.software.handoff_area().len(), 30 * 4096);
    bench.advance(Stage::Initialised);

    let unknown = Setup::to("1.5.05", &spec(Version::new(1, 5, 77), ""));
    assert_eq!(status(unknown.run().1), (S::EBADPARAM, 1), "SEAMLDR.INSTALL-29: no release has this version");
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
fn the_state_can_be_looked_at_while_install_runs() {
    let setup = Setup::update();
    let bench = setup.bench();
    for lp in 0..LPS - 1 {
        setup.call(&bench, lp);
    }
    // INFO is a call as well: it does not get in.
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
}
