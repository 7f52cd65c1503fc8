//! What Linux 7.3 takes and refuses.

use tdx_image::container::PAGE;
use tdx_image::{HeaderVersion, Image, ImageError, Linux73Refusal, linux73};

use crate::{assert_all_reached, built, put};

type Row = (&'static str, fn(&mut Vec<u8>), Linux73Refusal);

const LEN: u64 = 7 * 4096;

/// Each adds to those before, from the last check to the first.
const STEPS: &[Row] = &[
    ("a reserved byte", |file| file[4095] = 1, Linux73Refusal::Reserved),
    (
        "the word",
        |file| file[11] = 0,
        Linux73Refusal::SignatureWord { word: u64::from_le_bytes(*b"TDX-BLO\0") },
    ),
    (
        "two SIGSTRUCT pages",
        |file| {
            put(file, 12, 2_u32.to_le_bytes());
            put(file, 16, 4_u32.to_le_bytes());
        },
        Linux73Refusal::PageLimits { sigstruct_pages: 2, module_pages: 4 },
    ),
    ("the version", |file| file[0] = 1, Linux73Refusal::Version { version: 0x201 }),
    ("a byte more", |file| file.push(0), Linux73Refusal::Size { computed: LEN, len: LEN + 1 }),
    ("no header", |file| file.truncate(4095), Linux73Refusal::TooShort { len: 4095 }),
];

#[test]
fn linux_looks_at_size_version_limits_word_and_reserved_bytes_in_this_order() {
    let mut file = built(HeaderVersion::V0x200);
    assert_eq!(linux73(&file), Ok(()));
    let mut reached = Vec::new();
    for &(what, change, expected) in STEPS {
        change(&mut file);
        assert_eq!(linux73(&file), Err(expected), "{what} on top of those before");
        reached.push(expected.name());
    }
    assert_all_reached(Linux73Refusal::REASONS, &reached);
}

#[test]
fn linux_refuses_497_module_pages_and_takes_496() {
    for (pages, expected) in
        [(496, Ok(())), (497, Err(Linux73Refusal::PageLimits { sigstruct_pages: 1, module_pages: 497 }))]
    {
        let mut file = built(HeaderVersion::V0x200);
        file.resize((pages as usize + 2) * PAGE, 0);
        put(&mut file, 16, u32::to_le_bytes(pages));
        assert_eq!(linux73(&file), expected, "{pages} pages");
    }
}

#[test]
fn linux_multiplies_pages_in_32_bits_and_so_refuses_a_wrapped_number_at_the_limit() {
    let mut file = built(HeaderVersion::V0x200);
    put(&mut file, 16, 0x0010_0005_u32.to_le_bytes());
    let refusal = Linux73Refusal::PageLimits { sigstruct_pages: 1, module_pages: 0x0010_0005 };
    assert_eq!(linux73(&file), Err(refusal));
    assert!(matches!(Image::parse(&file), Err(ImageError::LengthMismatch { .. })));
}

#[test]
fn linux_refuses_header_0x100_on_its_size() {
    let file = built(HeaderVersion::V0x100);
    assert!(matches!(linux73(&file), Err(Linux73Refusal::Size { .. })));
}

#[test]
fn linux_takes_what_only_this_crate_refuses() {
    let mut wrong_checksum = built(HeaderVersion::V0x200);
    wrong_checksum[2] ^= 1;
    let mut padding = built(HeaderVersion::V0x200);
    padding[0x1800] = 1;
    let mut no_pages = built(HeaderVersion::V0x200);
    no_pages.truncate(PAGE);
    no_pages[12..20].fill(0);
    for (file, name) in [
        (wrong_checksum, "image-checksum-wrong"),
        (padding, "image-sigstruct-padding-not-zero"),
        (no_pages, "image-no-sigstruct-pages"),
    ] {
        assert_eq!(linux73(&file), Ok(()), "{name}");
        assert_eq!(Image::parse(&file).map_err(|error| error.name()).err(), Some(name));
    }
}
