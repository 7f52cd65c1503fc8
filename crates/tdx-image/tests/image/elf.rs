//! Relocations: what P-SEAMLDR follows and what it refuses.

use proptest::prelude::*;
use tdx_image::build::{ModuleSpec, module};
use tdx_image::elf::{RelocationError, check_relocations};

use crate::{assert_all_reached, parts, put, spec};

/// Places in the built module of 5 pages.
const TABLE: usize = 0x3000;
const SECTIONS: usize = 0x4000;
const RELA_SECTION: u16 = 4;
const RELA_HEADER: usize = SECTIONS + 64 * RELA_SECTION as usize;
const LEN: u64 = 0x5000;

type Row = (&'static str, fn(&mut Vec<u8>), RelocationError);

const ROWS: &[Row] = &[
    ("no bytes", Vec::clear, RelocationError::NotElf64),
    ("another magic", |module| module[1] = b'e', RelocationError::NotElf64),
    ("a 32-bit file", |module| module[4] = 1, RelocationError::NotElf64),
    ("a big-endian file", |module| module[5] = 2, RelocationError::NotElf64),
    ("a file of version 2", |module| module[6] = 2, RelocationError::NotElf64),
    (
        "section headers behind the end",
        |module| put(module, 40, (LEN - 63).to_le_bytes()),
        RelocationError::SectionHeaderOutside { section: 0 },
    ),
    (
        "section headers that wrap",
        |module| put(module, 40, (u64::MAX - 64).to_le_bytes()),
        RelocationError::SectionHeaderOutside { section: 0 },
    ),
    (
        "more sections than there is room",
        |module| put(module, 60, u16::MAX.to_le_bytes()),
        RelocationError::SectionHeaderOutside { section: 64 },
    ),
    (
        "section headers of another size",
        |module| put(module, 58, 63_u16.to_le_bytes()),
        RelocationError::SectionHeaderOutside { section: 0 },
    ),
    (
        "entries of size 0",
        |module| put(module, RELA_HEADER + 56, 0_u64.to_le_bytes()),
        RelocationError::EntrySize { section: RELA_SECTION, size: 0 },
    ),
    (
        "a table behind the end",
        |module| put(module, RELA_HEADER + 16, (LEN - 23).to_le_bytes()),
        RelocationError::EntryOutside { address: LEN - 23 },
    ),
    (
        "a table at the end of all addresses",
        |module| put(module, RELA_HEADER + 16, u64::MAX.to_le_bytes()),
        RelocationError::EntryOutside { address: u64::MAX },
    ),
    (
        "the same table many times",
        |module| {
            let header = module[RELA_HEADER..RELA_HEADER + 64].to_vec();
            for section in 0..60 {
                let at = SECTIONS + section * 64;
                module[at..at + 64].copy_from_slice(&header);
            }
            put(module, 60, 60_u16.to_le_bytes());
        },
        RelocationError::TooMany,
    ),
    (
        "a relocation of a symbol",
        |module| put(module, TABLE + 8, 0x1_0000_0008_u64.to_le_bytes()),
        RelocationError::Type { info: 0x1_0000_0008 },
    ),
    (
        "an absolute relocation",
        |module| put(module, TABLE + 15 * 24 + 8, 1_u64.to_le_bytes()),
        RelocationError::Type { info: 1 },
    ),
    (
        "a target that leaves the module by a byte",
        |module| put(module, TABLE, (LEN - 7).to_le_bytes()),
        RelocationError::TargetOutside { target: LEN - 7 },
    ),
    (
        "a target that wraps",
        |module| put(module, TABLE, (u64::MAX - 7).to_le_bytes()),
        RelocationError::TargetOutside { target: u64::MAX - 7 },
    ),
    (
        "an addend behind the end",
        |module| put(module, TABLE + 16, LEN.to_le_bytes()),
        RelocationError::AddendOutside { addend: LEN },
    ),
];

#[test]
fn each_bad_relocation_has_its_own_reason() {
    let (_, good) = parts();
    assert_eq!(check_relocations(&good), Ok(()));
    let mut reached = Vec::new();
    for &(what, change, expected) in ROWS {
        let mut bad = good.clone();
        change(&mut bad);
        assert_eq!(check_relocations(&bad), Err(expected), "{what}");
        reached.push(expected.name());
    }
    assert_all_reached(RelocationError::REASONS, &reached);
}

#[test]
fn the_last_places_inside_the_module_are_good() {
    let (_, mut module) = parts();
    put(&mut module, TABLE, (LEN - 8).to_le_bytes());
    put(&mut module, TABLE + 16, (LEN - 1).to_le_bytes());
    assert_eq!(check_relocations(&module), Ok(()));
}

#[test]
fn relocations_are_found_by_section_and_not_by_the_dynamic_segment() {
    let (_, mut module) = parts();
    // DT_RELASZ is 0, as in all of Intel's modules.
    put(&mut module, TABLE + 0x400 + 5 * 16 + 8, 0_u64.to_le_bytes());
    put(&mut module, TABLE + 8, 6_u64.to_le_bytes());
    assert_eq!(check_relocations(&module), Err(RelocationError::Type { info: 6 }));
    put(&mut module, RELA_HEADER + 4, 1_u32.to_le_bytes());
    assert_eq!(check_relocations(&module), Ok(()), "a section of another type is not looked at");
}

#[test]
fn a_module_can_be_built_with_a_relocation_outside() {
    let (_, bad) = module(&ModuleSpec { relocation_outside: true, ..spec() }).expect("possible");
    assert_eq!(check_relocations(&bad), Err(RelocationError::TargetOutside { target: LEN }));
}

proptest! {
    #[test]
    fn any_damage_gives_an_answer(
        damage in proptest::collection::vec(
            (prop_oneof![0_usize..64, SECTIONS..SECTIONS + 640, TABLE..TABLE + 384], any::<u8>()),
            1..8,
        ),
        len in prop_oneof![Just(0x5000_usize), 0..0x5000_usize],
    ) {
        let (_, mut module) = parts();
        for (at, byte) in damage {
            module[at] = byte;
        }
        module.truncate(len);
        if let Err(error) = check_relocations(&module) {
            prop_assert!(RelocationError::REASONS.iter().any(|reason| reason.name == error.name()));
        }
    }
}
