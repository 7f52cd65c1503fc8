//! TDH.SYS.INFO, TDH.SYS.RD and TDH.SYS.RDALL.

use std::collections::BTreeMap;

use tdx_abi::Registers;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::metadata::{FieldId, ListReader, SYS_FIELDS, sys};
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_module::profile;

use crate::common::{Bench, CMRS, Case, Facts, SEAMRR, Stage, Trial, config_regs, with_leaf};

const BUFFER: u64 = 0x30_0000;
const CMR_ARRAY: u64 = 0x30_1000;
const NULL: u64 = u64::MAX;

fn bench() -> Bench {
    Bench::at("1.5.05", Stage::LpsInitialised)
}

fn invalid(operand: OperandId) -> Status {
    StatusCode::OPERAND_INVALID.with_operand(operand)
}

fn info_regs() -> Registers {
    let regs = Registers { rcx: BUFFER, rdx: 1024, r8: CMR_ARRAY, r9: 32, ..Registers::default() };
    with_leaf(SeamcallLeaf::SYS_INFO, 0, regs)
}

fn info_cases() -> Vec<Case> {
    let case = |row, operand, spoil: fn(&mut Facts, &mut Registers)| Case {
        row,
        spoil,
        status: invalid(operand),
        outputs: |regs| (regs.rdx, regs.r9) = (0, 0),
    };
    vec![
        case("TDH.SYS.INFO-2", OperandId::RCX, |_, regs| regs.rcx += 512),
        case("TDH.SYS.INFO-2", OperandId::RCX, |_, regs| regs.rcx = SEAMRR),
        case("TDH.SYS.INFO-3", OperandId::RDX, |_, regs| regs.rdx = 1023),
        case("TDH.SYS.INFO-4", OperandId::R8, |_, regs| regs.r8 += 256),
        case("TDH.SYS.INFO-4", OperandId::R8, |_, regs| regs.r8 |= 32 << 46),
        case("TDH.SYS.INFO-5", OperandId::R9, |_, regs| regs.r9 = 31),
    ]
}

#[test]
fn info_refuses_each_bad_operand_in_order() {
    let trial = Trial { bench, lp: 2, good: info_regs };
    trial.refuses(&info_cases(), |_| {});
    trial.orders(
        &info_cases(),
        &[
            "TDH.SYS.INFO-2 before TDH.SYS.INFO-3",
            "TDH.SYS.INFO-3 before TDH.SYS.INFO-4",
            "TDH.SYS.INFO-4 before TDH.SYS.INFO-5",
        ],
    );
}

#[test]
fn info_zeroes_its_buffer_before_it_looks_at_the_cmr_array() {
    for (r8, rdx, word) in [(CMR_ARRAY + 1, 1024, 0), (CMR_ARRAY, 1023, 7)] {
        let bench = bench();
        bench.hw.set(|facts| facts.memory.insert(BUFFER, 7).map_or((), drop));
        let regs = Registers { rcx: BUFFER, rdx, r8, r9: 32, ..Registers::default() };
        bench.call(0, SeamcallLeaf::SYS_INFO, regs);
        assert_eq!(bench.hw.word(BUFFER), word);
    }
}

#[test]
fn info_writes_structure_and_cmrs() {
    let bench = bench();
    let regs = bench.raw(0, info_regs()).expect("an answer");
    assert_eq!((regs.rax, regs.rdx, regs.r9), (0, 1024, 32));
    let info = bench.hw.bytes(BUFFER, 1024);
    assert_eq!(info[4..8], 0x8086u32.to_le_bytes());
    assert_eq!(info[8..12], 0x2024_0129u32.to_le_bytes());
    assert_eq!(info[12..14], 698u16.to_le_bytes());
    assert_eq!(info[14..19], [5, 0, 1, 0, 1], "minor, major, SYS.RD supported");
    assert_eq!(info[32..38], [64, 0, 16, 0, 16, 0]);
    assert_eq!(info[48..50], 24576u16.to_le_bytes());
    assert_eq!(info[52..54], 24576u16.to_le_bytes());
    assert_eq!(info[64..72], 0x5000_0001u64.to_le_bytes());
    assert_eq!(info[88..96], 3u64.to_le_bytes());
    assert_eq!(info[128..132], 12u32.to_le_bytes());
    // CPUID.7.0 EBX: allowed bits that the CPU has.
    let leaf_7 = 132 + 5 * 24;
    assert_eq!(info[leaf_7..leaf_7 + 4], 7u32.to_le_bytes());
    assert_eq!(info[leaf_7 + 12..leaf_7 + 16], (0xDC2B_9B18u32 & 0x2194_24C3).to_le_bytes());
    for (index, (base, size)) in CMRS.into_iter().enumerate() {
        let entry = CMR_ARRAY + 16 * index as u64;
        assert_eq!((bench.hw.word(entry), bench.hw.word(entry + 8)), (base, size));
    }
    assert_eq!(bench.hw.word(CMR_ARRAY + 16 * 31 + 8), 0);
}

#[test]
fn info_of_tdx_1_0_says_that_it_cannot_be_read_otherwise() {
    for (profile, entries) in [("1.0", 6u32), ("1.0.03", 7)] {
        let bench = Bench::at(profile, Stage::LpsInitialised);
        bench.raw(0, info_regs()).expect("an answer");
        let info = bench.hw.bytes(BUFFER, 1024);
        assert_eq!(info[14..19], [0, 0, 1, 0, 0]);
        assert_eq!(info[48..50], 16384u16.to_le_bytes());
        assert_eq!(info[52..54], 24576u16.to_le_bytes());
        assert_eq!(info[128..132], entries.to_le_bytes());
    }
    let mut real = crate::common::config("1.0");
    real.real_features = true;
    let bench = Bench::with(Some(real));
    bench.advance(Stage::LpsInitialised);
    bench.raw(0, info_regs()).expect("an answer");
    assert_eq!(bench.hw.word(BUFFER + 64), 0x8000_0000_5000_0001);
}

#[test]
fn an_lp_reads_nothing_before_it_is_initialised() {
    for (row, leaf, after) in [
        ("TDH.SYS.INFO-1", SeamcallLeaf::SYS_INFO, Registers { r8: 1, ..Registers::default() }),
        ("TDH.SYS.RD-1", SeamcallLeaf::SYS_RD, Registers { rdx: NULL, ..Registers::default() }),
        (
            "TDH.SYS.RDALL-1",
            SeamcallLeaf::SYS_RDALL,
            Registers { rdx: 7, r8: 1, r9: 9, ..Registers::default() },
        ),
    ] {
        let bench = Bench::at("1.5.05", Stage::Initialised);
        // Every operand is bad as well: "TDH.SYS.INFO-1 before TDH.SYS.INFO-2",
        // "TDH.SYS.RD-1 before TDH.SYS.RD-3", "TDH.SYS.RDALL-1 before TDH.SYS.RDALL-2"
        let before = bench.state();
        let regs = bench.call(1, leaf, Registers { rdx: 7, r8: 1, r9: 9, ..Registers::default() });
        let rax = StatusCode::SYS_LP_INIT_NOT_DONE.plain().raw();
        let r9 = if leaf == SeamcallLeaf::SYS_INFO { 0 } else { 9 };
        assert_eq!(regs, Registers { rax, r9, ..after }, "{row}");
        assert_eq!(bench.state(), before, "{row}");
        bench.ok(1, SeamcallLeaf::SYS_LP_INIT, Registers::default());
        let regs = bench.call(1, leaf, Registers { rdx: 7, r8: 1, r9: 9, ..Registers::default() });
        assert_ne!(regs.rax, rax, "{row}");
    }
}

fn rd(bench: &Bench, id: u64) -> (Status, u64, u64) {
    let regs = bench.call(0, SeamcallLeaf::SYS_RD, Registers { rdx: id, r8: 7, ..Registers::default() });
    (Status::from_raw(regs.rax), regs.rdx, regs.r8)
}

#[test]
fn the_null_identifier_asks_for_the_first_field() {
    let bench = bench();
    let first = (StatusCode::METADATA_FIRST_FIELD_ID_IN_CONTEXT.plain(), sys::NUM_PKGS.raw(), 0);
    // "TDH.SYS.RD-2 before TDH.SYS.RD-3": the null identifier has reserved bits.
    assert_eq!(rd(&bench, NULL), first, "TDH.SYS.RD-2");
    assert_eq!(rd(&bench, NULL & !(7 << 52)), first);
}

#[test]
fn malformed_and_unknown_identifiers_are_refused() {
    let bench = bench();
    let refused = (StatusCode::METADATA_FIELD_ID_INCORRECT.plain(), NULL, 0);
    let id = sys::MAX_TDMRS.raw();
    for bad in [1 << 24, 1 << 47, 1 << 55, 1 << 62, 1 << 34, 1 << 38] {
        assert_eq!(rd(&bench, id | bad), refused, "TDH.SYS.RD-3: {bad:#x}");
    }
    // Unknown codes, an element behind the last one, a field of another release, an unknown class.
    let before = bench.state();
    for bad in [
        id + 2,
        sys::CMR_BASE.element(32).raw(),
        sys::MAX_EVENT_FILTERS.raw(),
        0x0F00_0000_0000_0000,
        sys::EXT_REQUIRED.raw(),
    ] {
        assert_eq!(rd(&bench, bad), refused, "TDH.SYS.RD-4: {bad:#x}");
    }
    assert_eq!(bench.state(), before);
    assert_eq!(rd(&bench, id).0, Status::SUCCESS);
}

#[test]
fn size_context_and_bit_63_of_an_identifier_do_not_matter() {
    let bench = bench();
    let id = sys::MAX_TDMRS.raw();
    for same in [id, id & !(1 << 63), id & !(3 << 32), id | 1 << 52, id | 7 << 52] {
        assert_eq!(rd(&bench, same), (Status::SUCCESS, sys::MAX_RESERVED_PER_TDMR.raw(), 64), "{same:#x}");
    }
}

/// All fields by following the next identifier.
fn walk(bench: &Bench) -> BTreeMap<u64, u64> {
    let mut fields = BTreeMap::new();
    let (_, mut id, _) = rd(bench, NULL);
    while id != NULL {
        let (status, next, value) = rd(bench, id);
        assert_eq!(status, Status::SUCCESS, "{}", FieldId::from_raw(id));
        assert_eq!(fields.insert(id, value), None, "{}", FieldId::from_raw(id));
        id = next;
    }
    fields
}

/// All fields by lists.
fn dump(bench: &Bench, from: u64) -> (Status, BTreeMap<u64, u64>) {
    let regs =
        bench.call(0, SeamcallLeaf::SYS_RDALL, Registers { rdx: BUFFER, r8: from, ..Registers::default() });
    let page = bench.hw.bytes(BUFFER, 4096);
    let mut fields = BTreeMap::new();
    for sequence in ListReader::new(&page).expect("a list") {
        let sequence = sequence.expect("a sequence");
        let first = sequence.id.sequence(1, 1).expect("one element");
        for (element, value) in (0..).zip(sequence.values) {
            fields.insert(first.element(element).raw(), value);
        }
    }
    (Status::from_raw(regs.rax), fields)
}

#[test]
fn a_walk_and_a_list_give_the_same_fields_in_every_profile() {
    for profile in profile::all().filter(|profile| profile.version.minor != 0 || profile.version.major > 1) {
        let bench = Bench::at(profile.name, Stage::LpsInitialised);
        let walked = walk(&bench);
        let (status, listed) = dump(&bench, NULL);
        assert_eq!(status, Status::SUCCESS, "{profile}");
        assert_eq!(walked, listed, "{profile}");
        assert!(walked.len() > 350, "{profile}: {}", walked.len());
        assert_eq!(walked.contains_key(&sys::MAX_EVENT_FILTERS.raw()), profile.version.major == 2);
        assert_eq!(walked.contains_key(&sys::MAX_VCPUS_PER_TD.raw()), profile.max_vcpus_per_td.is_some());
    }
}

#[test]
fn a_list_goes_on_from_the_field_it_is_asked_for() {
    let bench = Bench::at("2.0.08", Stage::LpsInitialised);
    let all = walk(&bench);
    for from in
        [sys::MAX_TDMRS.raw(), sys::CPUID_CONFIG_VALUES.element(4).raw(), sys::CMR_SIZE.element(31).raw()]
    {
        let (status, listed) = dump(&bench, from);
        assert_eq!(status, Status::SUCCESS);
        assert_eq!(listed.first_key_value().is_some(), all.contains_key(&from));
        let table: Vec<u64> = SYS_FIELDS
            .iter()
            .flat_map(|info| (0..info.element_count()).map(|k| info.id.element(k).raw()))
            .collect();
        let place = table.iter().position(|id| *id == from).expect("known");
        let rest: BTreeMap<u64, u64> =
            table.iter().skip(place).filter_map(|id| Some((*id, *all.get(id)?))).collect();
        assert_eq!(listed, rest, "{from:#x}");
    }
}

fn rdall_cases() -> Vec<Case> {
    let case =
        |row, status, spoil: fn(&mut Facts, &mut Registers)| Case { row, spoil, status, outputs: |_| {} };
    let incorrect = StatusCode::METADATA_FIELD_ID_INCORRECT.plain();
    vec![
        case("TDH.SYS.RDALL-2", invalid(OperandId::RDX), |_, regs| regs.rdx += 0x800),
        case("TDH.SYS.RDALL-3", incorrect, |_, regs| regs.r8 = sys::CPUID_CONFIG_VALUES.element(1).raw()),
        case("TDH.SYS.RDALL-3", incorrect, |_, regs| regs.r8 = sys::CMR_BASE.element(32).raw()),
    ]
}

#[test]
fn rdall_refuses_a_bad_buffer_and_a_start_inside_a_field() {
    let good =
        || with_leaf(SeamcallLeaf::SYS_RDALL, 0, Registers { rdx: BUFFER, r8: NULL, ..Registers::default() });
    let trial = Trial { bench, lp: 1, good };
    trial.refuses(&rdall_cases(), |_| {});
    trial.orders(&rdall_cases(), &["TDH.SYS.RDALL-2 before TDH.SYS.RDALL-3"]);
    // The context of the start does not matter.
    let (status, _) = dump(&bench(), sys::MAX_TDMRS.raw() | 2 << 52);
    assert_eq!(status, Status::SUCCESS);
}

#[test]
fn fields_of_connect_appear_once_it_was_opted_into() {
    let bench = Bench::at("connect", Stage::LpsInitialised);
    let fields = [
        sys::EXT_REQUIRED,
        sys::MEMORY_POOL_REQUIRED_PAGES,
        sys::IDE_MT_PAGE_COUNT,
        sys::TDX_CONNECT_FEATURES,
    ];
    for id in fields {
        assert_eq!(rd(&bench, id.raw()).0, StatusCode::METADATA_FIELD_ID_INCORRECT.plain(), "{id}");
    }
    let before = walk(&bench);
    let regs = Registers { r9: 1 << 6, ..config_regs() };
    let config = bench.raw(0, with_leaf(SeamcallLeaf::SYS_CONFIG, 1, regs)).expect("an answer");
    assert_eq!(config.rax, 0);
    for (id, value) in fields.into_iter().zip([1, 64, 1, 0x1281]) {
        assert_eq!((rd(&bench, id.raw()).0, rd(&bench, id.raw()).2), (Status::SUCCESS, value), "{id}");
    }
    // Identifiers of older patches name the same fields.
    assert_eq!(rd(&bench, 0x3100_0001_0000_0001).2, 1);
    let after = walk(&bench);
    assert!(before.iter().all(|(id, value)| after.get(id) == Some(value)));
    assert_eq!(after.len(), before.len() + 7);
    assert_eq!(dump(&bench, NULL), (Status::SUCCESS, after));
}

#[test]
fn a_module_without_connect_has_its_feature_word_but_no_feature() {
    let bench = Bench::at("2.0.18", Stage::LpsInitialised);
    assert_eq!(rd(&bench, sys::TDX_CONNECT_FEATURES.raw()).2, 0);
    assert_eq!(rd(&bench, sys::EXT_REQUIRED.raw()).0, StatusCode::METADATA_FIELD_ID_INCORRECT.plain());
}
