use proptest::prelude::*;

use super::registers::GSTS;
use super::*;

fn unit() -> VtdUnit {
    VtdUnit::new(Behaviour::new(true))
}

fn get(unit: &VtdUnit, offset: u16) -> u64 {
    unit.read(offset, MmioWidth::Qword, Origin::Seam)
}

fn get32(unit: &VtdUnit, offset: u16) -> u32 {
    u32::try_from(unit.read(offset, MmioWidth::Dword, Origin::Seam)).expect("32 bits")
}

fn put(unit: &VtdUnit, offset: u16, value: u64) {
    unit.write(offset, MmioWidth::Qword, value, Origin::Seam);
}

fn put32(unit: &VtdUnit, offset: u16, value: u32) {
    unit.write(offset, MmioWidth::Dword, value.into(), Origin::Seam);
}

/// Runs a command to its end: how many looks it took, and its status.
fn run(unit: &VtdUnit, command: u8) -> (u32, u8) {
    put(unit, ECMD, command.into());
    for looks in 0..100 {
        let response = get(unit, ECRSP);
        if response & ECRSP_IN_PROGRESS == 0 {
            return (looks, u8::try_from(response >> ECRSP_STATUS_SHIFT).expect("7 bits"));
        }
    }
    panic!("the command does not end");
}

fn enter(unit: &VtdUnit) -> u8 {
    put(unit, T_RTADDR, 0x4000 | TTM_SCALABLE);
    put(unit, T_IQA, 0x8000 | IQA_WIDE | 1);
    put(unit, TDX_MODE, TDX_MODE_ON | 6 << 1);
    run(unit, SET_TDX_MODE).1
}

fn in_tdx_mode(unit: &VtdUnit) -> bool {
    get(unit, ESTS0) == ESTS0_TMS
}

#[test]
fn a_unit_is_as_an_operating_system_left_it() {
    let unit = unit();
    assert_eq!(get(&unit, CAP), 6);
    assert_eq!(get(&unit, ECAP), 1 << 50 | 1 << 43);
    let on = TRANSLATION | ROOT_TABLE | QUEUE;
    assert_eq!(get32(&unit, GSTS) & on, on);
    assert_eq!(get(&unit, RTADDR) & TTM, TTM_SCALABLE);
    assert_eq!(get32(&unit, PMEN), 0);
    assert_eq!(get(&unit, IQH), get(&unit, IQT));
    assert_ne!(get(&unit, IQA) & IQA_WIDE, 0);
    assert_eq!((get(&unit, ECRSP), get(&unit, ESTS0)), (0, 0));
    assert_eq!((get(&unit, ECCAP), get(&unit, ECCAP3)), (1 << 1, 1 << 50));
    for offset in [TDX_MODE, T_RTADDR, T_IQH, T_IQT, T_IQA] {
        assert_eq!(get(&unit, offset), 0, "{offset:#x}");
    }
}

#[test]
fn faults_of_the_bring_up_show_in_the_registers() {
    let with = |bend: fn(&mut Behaviour)| {
        let mut behaviour = Behaviour::new(true);
        bend(&mut behaviour);
        VtdUnit::new(behaviour)
    };
    assert_eq!(get(&with(|behaviour| behaviour.tdx = false), ECAP), 1 << 43);
    assert_eq!(get(&with(|behaviour| behaviour.legacy = true), RTADDR) & TTM, 0);
    assert_eq!(get32(&with(|behaviour| behaviour.queue_off = true), GSTS) & QUEUE, 0);
}

#[test]
fn registers_keep_the_bits_that_are_not_reserved() {
    for (offset, kept) in [
        (CAP, None),
        (ECAP, None),
        (RTADDR, Some(0xFFFF_FFFF_FFFF_FC00)),
        (IQH, None),
        (ECRSP, None),
        (ESTS0, None),
        (ECCAP, None),
        (TDX_MODE, Some(0x1F)),
        (T_RTADDR, Some(0xFFFF_FFFF_FFFF_FC00)),
        (T_IQH, None),
        (T_IQT, Some(0x7_FFE0)),
        (T_IQA, Some(0xFFFF_FFFF_FFFF_F807)),
        // No register at all.
        (0x28, None),
        (0x248, None),
        (0x1000, None),
    ] {
        let unit = unit();
        let before = get(&unit, offset);
        put(&unit, offset, u64::MAX);
        assert_eq!(get(&unit, offset), kept.unwrap_or(before), "{offset:#x}");
        put(&unit, offset, 0);
        assert_eq!(get(&unit, offset), kept.map_or(before, |_| 0), "{offset:#x}");
    }
}

#[test]
fn each_half_of_a_register_is_written_by_itself() {
    let unit = unit();
    put(&unit, T_RTADDR, 0x1111_2222_3333_4000);
    put32(&unit, T_RTADDR + 4, 0xAAAA_BBBB);
    assert_eq!(get(&unit, T_RTADDR), 0xAAAA_BBBB_3333_4000);
    put32(&unit, T_RTADDR, 0xCCCC_D000);
    assert_eq!(get(&unit, T_RTADDR), 0xAAAA_BBBB_CCCC_D000);
    assert_eq!((get32(&unit, T_RTADDR), get32(&unit, T_RTADDR + 4)), (0xCCCC_D000, 0xAAAA_BBBB));
}

#[test]
fn the_command_register_switches_and_is_read_as_0() {
    let unit = unit();
    put32(&unit, GCMD, TRANSLATION);
    assert_eq!(get32(&unit, GCMD), 0);
    let pointers = ROOT_TABLE | INTERRUPT_TABLE;
    assert_eq!(get32(&unit, GSTS), TRANSLATION | pointers, "pointers stay set");
    put32(&unit, GCMD, u32::MAX);
    assert_eq!(get32(&unit, GSTS), SWITCHES | POINTERS, "reserved bits and the buffer flush show nothing");
    put32(&unit, GSTS, 0);
    assert_eq!(get32(&unit, GSTS), SWITCHES | POINTERS);
}

#[test]
fn protected_memory_is_in_force_when_it_is_on() {
    let unit = unit();
    put32(&unit, PMEN, u32::MAX);
    assert_eq!(get32(&unit, PMEN), 1 << 31 | 1);
    put32(&unit, PMEN, !(1 << 31));
    assert_eq!(get32(&unit, PMEN), 0);
}

#[test]
fn the_queue_moves_while_it_is_on_and_changes_its_base_while_it_is_off() {
    let unit = unit();
    put(&unit, IQT, u64::MAX);
    assert_eq!((get(&unit, IQT), get(&unit, IQH)), (0x7_FFE0, 0x7_FFE0), "descriptors of 256 bits");
    let base = get(&unit, IQA);
    put(&unit, IQA, 0x9000);
    assert_eq!(get(&unit, IQA), base);
    put32(&unit, GCMD, 0);
    put(&unit, IQA, !IQA_WIDE);
    assert_eq!(get(&unit, IQA), 0xFFFF_FFFF_FFFF_F007);
    put(&unit, IQT, u64::MAX);
    assert_eq!(
        (get(&unit, IQT), get(&unit, IQH)),
        (0x7_FFF0, 0),
        "descriptors of 128 bits, nobody takes them"
    );
    put32(&unit, GCMD, QUEUE);
    assert_eq!((get(&unit, IQT), get(&unit, IQH)), (0, 0));
}

#[test]
fn tdx_mode_begins_and_ends_by_command() {
    let unit = unit();
    let status = get32(&unit, GSTS);
    assert_eq!(enter(&unit), 0);
    assert!(in_tdx_mode(&unit));
    assert_eq!(get32(&unit, GSTS), status);
    assert_eq!(get(&unit, T_IQH), 0);
    put(&unit, T_IQT, 0x40);
    assert_eq!(get(&unit, T_IQH), 0x40);
    put(&unit, TDX_MODE, 0);
    assert!(in_tdx_mode(&unit), "not before the command");
    assert_eq!(run(&unit, SET_TDX_MODE).1, 0);
    assert!(!in_tdx_mode(&unit));
    assert_eq!((get(&unit, T_IQH), get(&unit, T_IQT)), (0, 0));
}

#[test]
fn a_command_takes_several_looks() {
    let unit = unit();
    put(&unit, TDX_MODE, 0);
    assert_eq!(run(&unit, SET_TDX_MODE), (3, 0));
    put(&unit, ECMD, SET_TDX_MODE.into());
    for _ in 0..10 {
        assert_eq!(get32(&unit, ECRSP + 4), 0, "the upper half alone tells nothing");
    }
    assert_eq!(get(&unit, ECRSP), 1);
    put(&unit, ECMD, 0x55);
    assert_eq!(
        (get(&unit, ECRSP), get(&unit, ECRSP), get(&unit, ECRSP)),
        (1, 1, 0),
        "the second command was lost"
    );
}

#[test]
fn unknown_commands_are_refused() {
    for (tdx, command, status) in [
        (true, 0x55, STATUS_UNKNOWN),
        (true, 0, STATUS_UNKNOWN),
        (true, RESET_PERFMON, 0),
        (false, SET_TDX_MODE, STATUS_UNKNOWN),
        (false, RESET_PERFMON, 0),
    ] {
        let unit = VtdUnit::new(Behaviour::new(tdx));
        assert_eq!(run(&unit, command).1, status, "{command}");
        assert!(!in_tdx_mode(&unit));
    }
}

#[test]
fn tdx_mode_needs_a_unit_that_is_set_up() {
    type Change = fn(&VtdUnit);
    let changes: [(&str, Change); 6] = [
        ("translation is off", |unit| put32(unit, GCMD, QUEUE)),
        ("the queue is off", |unit| put32(unit, GCMD, TRANSLATION)),
        ("legacy mode", |unit| put(unit, RTADDR, 0x1000)),
        ("abort mode", |unit| put(unit, RTADDR, 0x1000 | TTM)),
        ("protected memory is on", |unit| put32(unit, PMEN, PMEN_ENABLE)),
        ("the trusted queue has narrow descriptors", |unit| put(unit, T_IQA, 0x8000)),
    ];
    for (what, change) in changes {
        let unit = unit();
        put(&unit, T_IQA, 0x8000 | IQA_WIDE);
        put(&unit, TDX_MODE, TDX_MODE_ON);
        change(&unit);
        assert_eq!(run(&unit, SET_TDX_MODE).1, STATUS_ABORTED, "{what}");
        assert!(!in_tdx_mode(&unit), "{what}");
    }
    assert_eq!(enter(&unit()), 0);
}

#[test]
fn a_unit_that_refuses_stays_as_it_was() {
    let unit = unit();
    unit.bend(|behaviour| behaviour.refuses_with = Some(0x33));
    assert_eq!(enter(&unit), 0x33);
    assert!(!in_tdx_mode(&unit));
    unit.bend(|behaviour| behaviour.refuses_with = None);
    assert_eq!(enter(&unit), 0);
}

#[test]
fn a_slow_command_ends_and_a_hanging_one_does_not() {
    let unit = unit();
    unit.bend(|behaviour| behaviour.polls = Some(70));
    assert_eq!(run(&unit, SET_TDX_MODE), (70, 0));
    unit.bend(|behaviour| behaviour.polls = None);
    put(&unit, ECMD, SET_TDX_MODE.into());
    assert!((0..1000).all(|_| get(&unit, ECRSP) == 1));
    unit.reset(Behaviour::new(true));
    assert_eq!(get(&unit, ECRSP), 0);
}

#[test]
fn trusted_registers_answer_seam_mode_alone() {
    for offset in [TDX_MODE, T_RTADDR, T_IQT, T_IQA] {
        let unit = unit();
        unit.write(offset, MmioWidth::Qword, u64::MAX, Origin::Host);
        assert_eq!(get(&unit, offset), 0, "{offset:#x}");
        put(&unit, offset, u64::MAX);
        let seen = get(&unit, offset);
        assert_ne!(seen, 0, "{offset:#x}");
        assert_eq!(unit.read(offset, MmioWidth::Qword, Origin::Host), 0, "{offset:#x}");
        unit.write(offset, MmioWidth::Dword, 0, Origin::Host);
        assert_eq!(get(&unit, offset), seen, "{offset:#x}");
    }
}

#[test]
fn a_unit_without_tdx_mode_has_no_trusted_registers() {
    let unit = VtdUnit::new(Behaviour::new(false));
    for offset in [TDX_MODE, T_RTADDR, T_IQT, T_IQA] {
        put(&unit, offset, u64::MAX);
        assert_eq!(get(&unit, offset), 0, "{offset:#x}");
    }
    assert_eq!(get(&unit, ECCAP), 0);
}

proptest! {
    /// The host alone never gets a unit into TDX mode, and changes nothing of the trusted set.
    #[test]
    fn no_write_of_the_host_touches_the_trusted_set(
        writes in proptest::collection::vec((0..0x120u16, any::<bool>(), any::<u64>()), 0..200),
    ) {
        let unit = unit();
        put(&unit, T_RTADDR, 0x4000 | TTM_SCALABLE);
        put(&unit, T_IQA, 0x8000 | IQA_WIDE);
        let before = [TDX_MODE, T_RTADDR, T_IQT, T_IQA].map(|offset| get(&unit, offset));
        for (dword, wide, value) in writes {
            let offset = dword * 4;
            let width = if wide && offset % 8 == 0 { MmioWidth::Qword } else { MmioWidth::Dword };
            unit.write(offset, width, value, Origin::Host);
            unit.read(ECRSP, MmioWidth::Qword, Origin::Host);
            prop_assert!(!in_tdx_mode(&unit));
        }
        prop_assert_eq!([TDX_MODE, T_RTADDR, T_IQT, T_IQA].map(|offset| get(&unit, offset)), before);
    }
}
