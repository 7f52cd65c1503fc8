//! SEAMLDR.INSTALL: which images are taken, by generation and by what the machine is told.

use tdx_abi::seamldr::{SCENARIO_LOAD, Version};
use tdx_abi::status::SeamldrStatus as S;
use tdx_module::LoaderGeneration as Generation;
use tdx_module::profile::Svn;
use tdx_module::{RandomUse, SeamNote, UnknownRelease, profile};

use crate::common::Stage;
use crate::common::install::{DONE, Flaw, Setup, info, spec, status};

/// A change to the good update, and what each generation says.
type Difference = (&'static str, fn(&mut Setup), [(S, u64); 4]);

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

#[test]
fn the_generations_differ_where_their_sources_do() {
    const EBADSIG: (S, u64) = (S::EBADSIG, 0);
    const UNSUPPORTED: (S, u64) = (S::EUNSUPPORTED, 0);
    const NO_HANDOFF: (S, u64) = (S::EBADHANDOFF, 0);
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
        let (bench, last) = setup.run();
        assert_eq!(status(last), answer, "SEAMLDR.INSTALL-12");
        assert_eq!(info(&bench)[161], u8::from(unlocked), "INFO tells that the system is under debug");
    }
}

#[test]
fn hand_off_data_fill_the_pages_of_the_old_module_at_most() {
    // 1.5.05 has 14 pages; the header takes 8 bytes of them.
    const ROOM: u32 = 14 * 4096 - 8;
    for (size, answer) in
        [(0, DONE), (ROOM, DONE), (ROOM + 1, (S::EBADHANDOFF, 0)), (u32::MAX, (S::EBADHANDOFF, 0))]
    {
        let mut setup = Setup::update();
        setup.handoff.2 = size;
        assert_eq!(status(setup.run().1), answer, "SEAMLDR.INSTALL-22b: {size}");
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
