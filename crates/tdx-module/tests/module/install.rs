//! SEAMLDR.INSTALL: each row alone, repaired, and before its neighbour.

use tdx_abi::seamldr::{SCENARIO_LOAD, SCENARIO_UPDATE, Version};
use tdx_abi::status::SeamldrStatus;
use tdx_module::{RandomUse, checks};

use crate::common::SEAMRR;
use crate::common::install::{Flaw, Setup, info, reaches_a_module, state};

/// One thing that INSTALL refuses.
#[derive(Clone, Copy)]
struct Case {
    row: &'static str,
    /// Makes the row, and no row above it, answer.
    spoil: fn(&mut Setup),
    status: SeamldrStatus,
    rdx: u64,
}

const fn case(row: &'static str, status: SeamldrStatus, spoil: fn(&mut Setup)) -> Case {
    Case { row, spoil, status, rdx: 0 }
}

const fn fatal(row: &'static str, status: SeamldrStatus, spoil: fn(&mut Setup)) -> Case {
    Case { row, spoil, status, rdx: 1 }
}

use SeamldrStatus as S;

/// What an UPDATE by a P-SEAMLDR 1.5.02 refuses.
const CASES: &[Case] = &[
    case("SEAMLDR.INSTALL-8", S::EBADPARAM, |setup| setup.rcx |= 0x800),
    case("SEAMLDR.INSTALL-9a", S::EBADPARAM, |setup| setup.params.version.set(1)),
    case("SEAMLDR.INSTALL-9b", S::EBADPARAM, |setup| setup.params.reserved_16[103] = 1),
    case("SEAMLDR.INSTALL-9c", S::EBADPARAM, |setup| setup.params.scenario.set(2)),
    case("SEAMLDR.INSTALL-9d", S::EBADPARAM, |setup| setup.params.num_module_pages.set(497)),
    case("SEAMLDR.INSTALL-9e", S::EBADPARAM, |setup| setup.params.module_pages[1].set(SEAMRR)),
    case("SEAMLDR.INSTALL-9f", S::EBADPARAM, |setup| setup.params.sigstruct_pa.set(0x4000_1800)),
    case("SEAMLDR.INSTALL-9g", S::EBADPARAM, |setup| setup.running = None),
    case("SEAMLDR.INSTALL-10", S::EBADSIG, |setup| setup.sigstruct.vendor.set(0x8087)),
    case("SEAMLDR.INSTALL-11", S::EBADSIG, |setup| setup.spoil(Flaw::ForeignKey)),
    case("SEAMLDR.INSTALL-12", S::EBADSIG, |setup| setup.sigstruct.module_type.set(1 << 31)),
    case("SEAMLDR.INSTALL-13", S::EUNSUPPORTED, |setup| setup.sigstruct.major_svn = 0),
    case("SEAMLDR.INSTALL-14a", S::EUNSUPPORTED, |setup| setup.sigstruct.major_svn = 2),
    case("SEAMLDR.INSTALL-14b", S::EBADSIG, |setup| setup.sigstruct.minor_svn = 4),
    case("SEAMLDR.INSTALL-15", S::ECLEANUPREQ, |setup| {
        setup.params.scenario.set(SCENARIO_LOAD);
        setup.sigstruct.minor_svn = 4;
    }),
    case("SEAMLDR.INSTALL-16", S::EBADSIG, |setup| setup.sigstruct.gdt_idt_offset.set(5 << 12)),
    case("SEAMLDR.INSTALL-17a", S::EBADSIG, |setup| setup.sigstruct.cpu_count.set(0)),
    case("SEAMLDR.INSTALL-17b", S::EUNSUPCPU, |setup| {
        setup.facts.mcheck(|mcheck| mcheck.package_fms[1] = 0xA06E1);
    }),
    case("SEAMLDR.INSTALL-18", S::EBADSIG, |setup| setup.spoil(Flaw::WrongSignature)),
    case("SEAMLDR.INSTALL-19", S::ENOENTROPY, |setup| {
        setup.facts.no_random_for.push(RandomUse::AddressOffset);
    }),
    case("SEAMLDR.INSTALL-20", S::ENOMEM, |setup| setup.sigstruct.global_data_pages_less_1.set(u16::MAX)),
    case("SEAMLDR.INSTALL-21", S::EBADCALL, |setup| setup.loader.remaining_updates = 0),
    case("SEAMLDR.INSTALL-22a", S::EBADHANDOFF, |setup| setup.handoff.0 = false),
    case("SEAMLDR.INSTALL-22b", S::EBADHANDOFF, |setup| setup.handoff.2 = 14 * 4096 - 7),
    case("SEAMLDR.INSTALL-22c", S::EBADHANDOFF, |setup| setup.handoff.1 = 1),
    fatal("SEAMLDR.INSTALL-24", S::EBADHASH, |setup| setup.spoil(Flaw::WrongHash)),
    // Section headers outside the image; the record is found by the program headers.
    fatal("SEAMLDR.INSTALL-25", S::EBADPARAM, |setup| setup.module[0x28..0x30].fill(0xEE)),
    fatal("SEAMLDR.INSTALL-29", S::EBADPARAM, |setup| {
        let owner = setup.module.windows(8).position(|bytes| bytes == b"tdxhost\0");
        setup.module[owner.expect("a note")] = b'T';
    }),
    fatal("SEAMLDR.INSTALL-26", S::ENOENTROPY, |setup| setup.facts.no_random_for.push(RandomUse::LogEntry)),
];

/// SEAMLDR_INFO from SEAMEXTEND on where no module is: P_SEAM_READY, and CLEANUP in FEATURES0.
fn nothing_but_the_loader() -> [u8; 224] {
    let mut bytes = [0; 224];
    (bytes[130], bytes[136]) = (1, 2);
    bytes
}

fn find(row: &str) -> Case {
    *CASES.iter().find(|case| case.row == row).unwrap_or_else(|| panic!("{row} has no case"))
}

#[test]
fn the_good_update_goes_well() {
    let (bench, last) = Setup::update().run();
    assert_eq!((S(last.rax), last.rdx), (S::SUCCESS, 0));
    let module = bench.state();
    assert_eq!((module.profile.name, module.version), ("1.5.09", Version::new(1, 5, 9)));
}

#[test]
fn each_row_answers_alone_changes_nothing_or_leaves_nothing_and_can_be_repaired() {
    for case in CASES {
        let row = case.row;
        assert!(checks::find(row).is_some(), "{row} is no row");
        let mut setup = Setup::update();
        (case.spoil)(&mut setup);
        let bench = setup.bench();
        let before = state(&bench);
        let last = setup.call_all(&bench);
        assert_eq!((S(last.rax), last.rdx), (case.status, case.rdx), "{row}");
        if case.rdx == 0 {
            assert_eq!(state(&bench), before, "{row}");
            assert_eq!(reaches_a_module(&bench), setup.running.is_some(), "{row}");
        } else {
            assert!(bench.software.inspect().module.is_none(), "{row}");
            assert!(!reaches_a_module(&bench), "{row}");
            assert_eq!(info(&bench)[32..], nothing_but_the_loader(), "{row}: no module");
        }
        let scenario = if case.rdx == 0 && setup.running.is_some() { SCENARIO_UPDATE } else { SCENARIO_LOAD };
        // What the loader is cannot be repaired, but a LOAD does not mind.
        let scenario = if setup.loader.remaining_updates == 0 { SCENARIO_LOAD } else { scenario };
        let repaired = Setup::update().scenario(scenario);
        repaired.place(&bench);
        let last = repaired.call_all(&bench);
        assert_eq!((S(last.rax), last.rdx), (S::SUCCESS, 0), "{row} repaired");
        assert!(reaches_a_module(&bench), "{row} repaired");
    }
}

#[test]
fn of_two_rows_the_upper_one_answers() {
    const PAIRS: &[&str] = &[
        "SEAMLDR.INSTALL-8 before SEAMLDR.INSTALL-9a",
        "SEAMLDR.INSTALL-9g before SEAMLDR.INSTALL-10",
        "SEAMLDR.INSTALL-9f before SEAMLDR.INSTALL-10",
        "SEAMLDR.INSTALL-10 before SEAMLDR.INSTALL-11",
        "SEAMLDR.INSTALL-11 before SEAMLDR.INSTALL-13",
        "SEAMLDR.INSTALL-12 before SEAMLDR.INSTALL-13",
        "SEAMLDR.INSTALL-13 before SEAMLDR.INSTALL-14b",
        "SEAMLDR.INSTALL-13 before SEAMLDR.INSTALL-15",
        "SEAMLDR.INSTALL-14a before SEAMLDR.INSTALL-14b",
        "SEAMLDR.INSTALL-14a before SEAMLDR.INSTALL-16",
        "SEAMLDR.INSTALL-15 before SEAMLDR.INSTALL-16",
        "SEAMLDR.INSTALL-16 before SEAMLDR.INSTALL-17b",
        "SEAMLDR.INSTALL-17b before SEAMLDR.INSTALL-18",
        "SEAMLDR.INSTALL-18 before SEAMLDR.INSTALL-19",
        "SEAMLDR.INSTALL-19 before SEAMLDR.INSTALL-20",
        "SEAMLDR.INSTALL-20 before SEAMLDR.INSTALL-21",
        "SEAMLDR.INSTALL-21 before SEAMLDR.INSTALL-22a",
        "SEAMLDR.INSTALL-22a before SEAMLDR.INSTALL-24",
        "SEAMLDR.INSTALL-24 before SEAMLDR.INSTALL-25",
        "SEAMLDR.INSTALL-25 before SEAMLDR.INSTALL-26",
        "SEAMLDR.INSTALL-29 before SEAMLDR.INSTALL-26",
    ];
    for pair in PAIRS {
        let (upper, lower) = pair.split_once(" before ").expect("a pair");
        let (upper, lower) = (find(upper), find(lower));
        let spoiled = |first: Case, second: Case| {
            let mut setup = Setup::update();
            (first.spoil)(&mut setup);
            (second.spoil)(&mut setup);
            setup
        };
        let setup = spoiled(upper, lower);
        assert_eq!(setup, spoiled(lower, upper), "{pair}: the cases change the same thing");
        let (_, last) = setup.run();
        assert_eq!((S(last.rax), last.rdx), (upper.status, upper.rdx), "{pair}");
    }
}
