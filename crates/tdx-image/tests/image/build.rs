//! Built images: what is asked is what they carry, and the same question gives the same bytes.

use proptest::prelude::*;
use tdx_abi::seamldr::Version;
use tdx_image::build::{BuildError, ModuleSpec, image, module, resign, seal};
use tdx_image::elf::check_relocations;
use tdx_image::record::ModuleRecord;
use tdx_image::{Date, HeaderVersion, Image, SigstructRules, Svn, verify};

use crate::{assert_all_reached, parts, spec};

#[test]
fn the_same_specification_gives_the_same_bytes() {
    for header in HeaderVersion::ALL {
        assert!(image(&spec(), header) == image(&spec(), header));
    }
    let other = ModuleSpec { profile: "other".into(), ..spec() };
    assert!(image(&spec(), HeaderVersion::V0x200) != image(&other, HeaderVersion::V0x200));
}

#[test]
fn a_built_module_carries_what_was_asked() {
    let asked = ModuleSpec {
        svn: Svn { major: 1, minor: 9 },
        cpus: vec![0xC06F2, 0xA06F3],
        date: Date(0x2025_1231),
        module_handoff_version: 2,
        min_update_handoff_version: 1,
        no_downgrade: true,
        handoff_pages: 3,
        pages: 7,
        debug: true,
        ..spec()
    };
    let (sigstruct, pages) = module(&asked).expect("a good specification");
    assert_eq!(pages.len(), 7 * 4096);
    assert_eq!((sigstruct.svn(), sigstruct.date()), (asked.svn, asked.date));
    assert_eq!(sigstruct.cpus().collect::<Vec<_>>(), asked.cpus);
    assert_eq!((sigstruct.module_handoff_version(), sigstruct.min_update_handoff_version()), (2, 1));
    assert!(sigstruct.no_downgrade() && sigstruct.is_debug());
    assert_eq!(sigstruct.handoff_pages(), 3);
    assert_eq!(sigstruct.recorded_version(), None);
    assert_eq!(sigstruct.check(SigstructRules::Loader1_5_02), Ok(()));
    assert_eq!(sigstruct.check_offsets(7), Ok(()));
    let record = ModuleRecord { version: Version::new(1, 5, 16), profile: "test-profile", pool_pages: None };
    assert_eq!(ModuleRecord::find(&pages), Some(record));
    assert_eq!(verify::signature(&sigstruct), Ok(()));
    // As Intel's: filled with hlt to the end.
    assert!(pages.ends_with(&[0xF4; 64]));
}

#[test]
fn a_module_of_the_2_0_line_has_its_version_in_the_sigstruct_and_needs_a_2_0_loader() {
    let version = Version::new(2, 0, 8);
    let (sigstruct, pages) = module(&ModuleSpec::new(version, "")).expect("a good specification");
    assert_eq!(sigstruct.recorded_version(), Some(version));
    assert_eq!(ModuleRecord::find(&pages), Some(ModuleRecord { version, profile: "", pool_pages: None }));
    assert_eq!(sigstruct.svn().major, 3);
    assert_eq!(sigstruct.check(SigstructRules::Loader2_0), Ok(()));
    assert!(sigstruct.check(SigstructRules::Loader1_5_02).is_err());
}

#[test]
fn a_module_of_tdx_1_0_is_taken_by_every_loader_that_takes_its_line() {
    let asked = ModuleSpec::new(Version::new(1, 0, 3), "");
    assert_eq!(asked.svn, Svn { major: 0, minor: 3 });
    let (sigstruct, pages) = module(&asked).expect("a good specification");
    for rules in SigstructRules::ALL {
        assert_eq!(sigstruct.check(rules), Ok(()), "{rules:?}");
    }
    assert_eq!(check_relocations(&pages), Ok(()));
    let (newer, _) = module(&ModuleSpec::new(Version::new(1, 5, 3), "")).expect("a good specification");
    assert!(newer.check(SigstructRules::Loader1_0).is_err(), "hand-off pages and offsets are in use");
}

#[test]
fn the_smallest_and_the_largest_module_are_good_images() {
    for pages in [5, 496] {
        let file = image(&ModuleSpec { pages, ..spec() }, HeaderVersion::V0x200).expect("possible");
        let image = Image::parse(&file).expect("a good file");
        assert_eq!(image.module_pages(), pages);
        assert!(verify::image(&image).is_ok());
        assert_eq!(check_relocations(image.module()), Ok(()));
        assert_eq!(image.sigstruct().check_offsets(pages), Ok(()));
    }
}

#[test]
fn what_cannot_be_built_has_its_own_reason() {
    let long = "x".repeat(65);
    let rows = [
        (ModuleSpec { pages: 4, ..spec() }, BuildError::Pages { pages: 4 }),
        (ModuleSpec { pages: 497, ..spec() }, BuildError::Pages { pages: 497 }),
        (ModuleSpec { cpus: vec![0; 256], ..spec() }, BuildError::Cpus { count: 256 }),
        (ModuleSpec { profile: long.clone(), ..spec() }, BuildError::Profile { len: 65 }),
        (ModuleSpec { profile: "a b".into(), ..spec() }, BuildError::Profile { len: 3 }),
        (ModuleSpec { handoff_pages: 0, ..spec() }, BuildError::HandoffPages { pages: 0 }),
        (ModuleSpec { handoff_pages: 65537, ..spec() }, BuildError::HandoffPages { pages: 65537 }),
    ];
    for (asked, expected) in &rows {
        assert_eq!(module(asked).err(), Some(*expected));
    }
    assert_all_reached(BuildError::REASONS, &rows.map(|(_, error)| error.name()));
    let largest =
        ModuleSpec { profile: long[..64].into(), cpus: vec![0; 255], handoff_pages: 65536, ..spec() };
    assert!(module(&largest).is_ok());
}

#[test]
fn a_changed_module_or_sigstruct_can_be_signed_again() {
    let (mut sigstruct, mut pages) = parts();
    pages[0x1000] ^= 1;
    sigstruct.minor_svn = 200;
    assert!(verify::signature(&sigstruct).is_err());
    resign(&mut sigstruct);
    assert_eq!(verify::signature(&sigstruct), Ok(()));
    assert_ne!(verify::seamhash(&pages), *sigstruct.seamhash());
    seal(&mut sigstruct, &pages);
    assert_eq!(verify::signature(&sigstruct), Ok(()));
    assert_eq!(verify::seamhash(&pages), *sigstruct.seamhash());
}

/// Offset of the note in a built module, and of its parts.
const NOTE: usize = 0x200;
const OWNER: usize = NOTE + 12;
const PROFILE_LEN: usize = NOTE + 20 + 6;
const PROFILE: usize = NOTE + 20 + 8;

#[test]
fn a_record_that_is_not_whole_is_no_record() {
    let (_, good) = parts();
    let changes: [(&str, usize, u8); 6] = [
        ("no ELF file", 0, 0),
        ("another owner", OWNER, b'T'),
        ("another type of note", NOTE + 8, 2),
        ("a profile longer than the note", PROFILE_LEN, 60),
        ("a profile that is not printable", PROFILE, b' '),
        ("a note longer than its segment", NOTE + 5, 1),
    ];
    for (what, at, value) in changes {
        let mut bad = good.clone();
        assert_ne!(bad[at], value, "{what}");
        bad[at] = value;
        assert_eq!(ModuleRecord::find(&bad), None, "{what}");
    }
    assert_eq!(ModuleRecord::find(&[]), None);
}

proptest! {
    #[test]
    fn any_version_and_profile_are_found_again(
        parts in any::<[u16; 3]>(),
        profile in "[!-~]{0,64}",
        pool_pages in any::<Option<u32>>(),
    ) {
        let version = Version::new(parts[0], parts[1], parts[2]);
        let asked = ModuleSpec { pages: 5, pool_pages, ..ModuleSpec::new(version, &profile) };
        let (_, pages) = module(&asked).expect("a good specification");
        prop_assert_eq!(ModuleRecord::find(&pages), Some(ModuleRecord { version, profile: &profile, pool_pages }));
    }

    #[test]
    fn a_record_is_looked_for_in_any_bytes(
        damage in proptest::collection::vec((0_usize..0x280, any::<u8>()), 1..6),
        len in prop_oneof![Just(5 * 4096_usize), 0..0x300_usize],
    ) {
        let (_, mut pages) = parts();
        for (at, byte) in damage {
            pages[at] = byte;
        }
        pages.truncate(len);
        let found = ModuleRecord::find(&pages);
        prop_assert!(found.is_none_or(|record| record.profile.len() <= 64));
    }
}
