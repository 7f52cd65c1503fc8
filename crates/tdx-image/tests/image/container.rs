//! The container: each reason by the smallest change to a good file, and what must hold for all bytes.

use proptest::prelude::*;
use tdx_image::container::{PAGE, word_sum};
use tdx_image::{
    Checksum, HeaderVersion, Image, ImageError, Linux73Refusal, Sigstruct, encode, encoded_len, linux73,
};
use zerocopy::IntoBytes;

use crate::{assert_all_reached, built, parts, put};

use HeaderVersion::{V0x100, V0x200};

/// A change to a good file, and the reason that it gives.
type Row = (&'static str, HeaderVersion, fn(&mut Vec<u8>), ImageError);

/// Bytes of the test image: header, SIGSTRUCT and five pages.
const LEN: u64 = 7 * 4096;

const ROWS: &[Row] = &[
    ("an empty file", V0x200, |file| file.clear(), ImageError::TooShort { len: 0 }),
    ("a byte less than a header", V0x100, |file| file.truncate(4095), ImageError::TooShort { len: 4095 }),
    (
        "a module without container",
        V0x200,
        |file| drop(file.drain(..2 * PAGE)),
        ImageError::NotAnImage { version: 0x457F },
    ),
    ("neither version nor word", V0x200, |file| file[..12].fill(0), ImageError::NotAnImage { version: 0 }),
    (
        "0x100 cut off",
        V0x100,
        |file| file.truncate(6 * PAGE),
        ImageError::LengthMismatch { stated: LEN, actual: LEN - 4096 },
    ),
    (
        "0x200 with a byte appended",
        V0x200,
        |file| file.push(0),
        ImageError::LengthMismatch { stated: LEN, actual: LEN + 1 },
    ),
    (
        "0x200 whose pages wrap in 32 bits",
        V0x200,
        |file| put(file, 16, 0x0010_0005_u32.to_le_bytes()),
        ImageError::LengthMismatch { stated: LEN + 0x1_0000_0000, actual: LEN },
    ),
    (
        "a future version in the layout of 0x200",
        V0x200,
        |file| put(file, 0, 0x300_u16.to_le_bytes()),
        ImageError::UnknownVersion { version: 0x300 },
    ),
    (
        "a future version that uses what was reserved",
        V0x200,
        |file| {
            put(file, 0, 0x300_u16.to_le_bytes());
            file[20] = 1;
        },
        ImageError::UnknownVersion { version: 0x300 },
    ),
    (
        "a future version in the layout of 0x100",
        V0x100,
        |file| put(file, 0, 0x101_u16.to_le_bytes()),
        ImageError::UnknownVersion { version: 0x101 },
    ),
    (
        "a module behind the end",
        V0x100,
        |file| put(file, 4, 0x8000_u32.to_le_bytes()),
        ImageError::ModuleOffsetOutside { offset: 0x8000, len: LEN },
    ),
    (
        "a module inside the header",
        V0x100,
        |file| put(file, 4, 0xFFF_u32.to_le_bytes()),
        ImageError::ModuleOffsetOutside { offset: 0xFFF, len: LEN },
    ),
    (
        "a module off its page",
        V0x100,
        |file| put(file, 4, 0x2001_u32.to_le_bytes()),
        ImageError::ModuleOffsetMisaligned { offset: 0x2001 },
    ),
    (
        "a module that ends inside a page",
        V0x100,
        |file| {
            file.truncate(7 * PAGE - 1);
            put(file, 16, (7 * 4096 - 1_u32).to_le_bytes());
        },
        ImageError::ModuleLengthMisaligned { len: 5 * 4096 - 1 },
    ),
    (
        "two SIGSTRUCT pages in 0x100",
        V0x100,
        |file| put(file, 4, 0x3000_u32.to_le_bytes()),
        ImageError::TooManySigstructPages { pages: 2 },
    ),
    (
        "two SIGSTRUCT pages in 0x200",
        V0x200,
        |file| {
            put(file, 12, 2_u32.to_le_bytes());
            put(file, 16, 4_u32.to_le_bytes());
        },
        ImageError::TooManySigstructPages { pages: 2 },
    ),
    (
        "497 module pages in 0x200",
        V0x200,
        |file| {
            file.resize(499 * PAGE, 0);
            put(file, 16, 497_u32.to_le_bytes());
        },
        ImageError::TooManyModulePages { pages: 497 },
    ),
    (
        "497 module pages in 0x100",
        V0x100,
        |file| {
            file.resize(499 * PAGE, 0);
            put(file, 16, (499 * 4096_u32).to_le_bytes());
        },
        ImageError::TooManyModulePages { pages: 497 },
    ),
    (
        "a wrong word in 0x200",
        V0x200,
        |file| file[4] = b'X',
        ImageError::BadSignatureWord { word: u64::from_le_bytes(*b"XDX-BLOB") },
    ),
    (
        "a wrong word in 0x100",
        V0x100,
        |file| file[15] = b'b',
        ImageError::BadSignatureWord { word: u64::from_le_bytes(*b"TDX-BLOb") },
    ),
    ("the first reserved byte", V0x200, |file| file[20] = 1, ImageError::ReservedNotZero { offset: 20 }),
    ("the last reserved byte", V0x100, |file| file[4095] = 1, ImageError::ReservedNotZero { offset: 4095 }),
    (
        "no SIGSTRUCT page in 0x200",
        V0x200,
        |file| {
            drop(file.drain(PAGE..2 * PAGE));
            put(file, 12, 0_u32.to_le_bytes());
        },
        ImageError::NoSigstructPages,
    ),
    (
        "no SIGSTRUCT page in 0x100",
        V0x100,
        |file| put(file, 4, 0x1000_u32.to_le_bytes()),
        ImageError::NoSigstructPages,
    ),
    (
        "a header and nothing else",
        V0x200,
        |file| {
            file.truncate(PAGE);
            file[12..20].fill(0);
        },
        ImageError::NoSigstructPages,
    ),
    (
        "no module page in 0x200",
        V0x200,
        |file| {
            file.truncate(2 * PAGE);
            put(file, 16, 0_u32.to_le_bytes());
        },
        ImageError::NoModulePages,
    ),
    (
        "no module page in 0x100",
        V0x100,
        |file| {
            file.truncate(2 * PAGE);
            put(file, 16, 8192_u32.to_le_bytes());
        },
        ImageError::NoModulePages,
    ),
    (
        "the first byte of the padding",
        V0x100,
        |file| file[0x1800] = 1,
        ImageError::SigstructPaddingNotZero { offset: 0x1800 },
    ),
    (
        "the last byte of the padding",
        V0x200,
        |file| file[0x1FFF] = 1,
        ImageError::SigstructPaddingNotZero { offset: 0x1FFF },
    ),
];

#[test]
fn each_malformation_has_its_own_reason() {
    let mut reached = Vec::new();
    for &(what, header, change, expected) in ROWS {
        let mut file = built(header);
        assert!(Image::parse(&file).is_ok(), "{what}: the file is good before");
        change(&mut file);
        let error = Image::parse(&file).expect_err(what);
        assert_eq!(error, expected, "{what}");
        reached.push(error.name());
    }
    reached.push(checksum_error().name());
    reached.push(buffer_error().name());
    assert_all_reached(ImageError::REASONS, &reached);
}

fn checksum_error() -> ImageError {
    let mut file = built(V0x200);
    let good = u16::from_le_bytes([file[2], file[3]]);
    *file.last_mut().expect("not empty") ^= 1;
    let error = Image::parse(&file).expect_err("a changed byte");
    let ImageError::ChecksumWrong { stated, expected } = error else { panic!("{error}") };
    assert_eq!(stated, good);
    // The told checksum makes the changed file good.
    put(&mut file, 2, expected.to_le_bytes());
    assert_eq!(Image::parse(&file).map(|image| image.checksum()), Ok(Checksum::Good));
    error
}

fn buffer_error() -> ImageError {
    let (sigstruct, module) = parts();
    let needed = encoded_len(V0x100, module.len()).expect("good pages");
    let mut out = vec![0; needed - 1];
    let error = encode(V0x100, &sigstruct, &module, &mut out).expect_err("a byte too little");
    assert_eq!(error, ImageError::BufferTooSmall { needed: LEN, len: LEN - 1 });
    error
}

#[test]
fn of_two_malformations_the_one_that_linux_sees_first_is_told() {
    let steps: &[Row] = &[
        ("padding", V0x200, |file| file[0x1800] = 1, ImageError::SigstructPaddingNotZero { offset: 0x1800 }),
        ("reserved", V0x200, |file| file[20] = 1, ImageError::ReservedNotZero { offset: 20 }),
        ("word", V0x200, |file| file[4] = 0, ImageError::BadSignatureWord { word: 0x424F_4C42_2D58_4400 }),
        (
            "page limit",
            V0x200,
            |file| {
                file.resize(499 * PAGE, 0);
                put(file, 16, 497_u32.to_le_bytes());
            },
            ImageError::TooManyModulePages { pages: 497 },
        ),
        (
            "length",
            V0x200,
            |file| file.push(0),
            ImageError::LengthMismatch { stated: 499 * 4096, actual: 499 * 4096 + 1 },
        ),
        ("header", V0x200, |file| file.truncate(19), ImageError::TooShort { len: 19 }),
    ];
    let mut file = built(V0x200);
    for &(what, _, change, expected) in steps {
        change(&mut file);
        assert_eq!(Image::parse(&file), Err(expected), "{what} on top of those before");
    }
}

#[test]
fn a_missing_checksum_is_told_and_accepted() {
    for header in HeaderVersion::ALL {
        let mut file = built(header);
        assert_eq!(word_sum(&file), 0, "{header}");
        assert_eq!(Checksum::of(&file), Checksum::Good, "{header}");
        file[2..4].fill(0);
        let image = Image::parse(&file).expect("no checksum is no error");
        assert_eq!(image.checksum(), Checksum::Absent, "{header}");
    }
}

#[test]
fn an_odd_last_byte_counts_as_the_low_half_of_a_word() {
    assert_eq!(word_sum(&[]), 0);
    assert_eq!(word_sum(&[1, 2, 3]), 0x0204);
    assert_eq!(word_sum(&[0xFF, 0xFF, 2, 0]), 1);
    assert_eq!(Checksum::of(&[0, 1, 2, 0]), Checksum::Wrong { sum: 0x0102 });
}

#[test]
fn the_accessors_give_the_parts_of_the_file() {
    let (sigstruct, module) = parts();
    for header in HeaderVersion::ALL {
        let file = built(header);
        let image = Image::parse(&file).expect("a good file");
        assert_eq!((image.header(), image.module_pages(), image.len()), (header, 5, LEN));
        assert_eq!(image.sigstruct(), &*sigstruct);
        assert!(image.module() == module && image.bytes() == file);
        assert_eq!(file[..2], header.raw().to_le_bytes());
        assert_eq!(header.to_string().parse(), Ok(header));
    }
    assert!("0x300".parse::<HeaderVersion>().is_err());
    assert_eq!(HeaderVersion::from_raw(0x300), None);
}

/// A file as the steps of Intel's join scripts put it together.
fn joined(header: HeaderVersion, sigstruct: &[u8], module: &[u8]) -> Vec<u8> {
    let le = |number: usize| u32::try_from(number).expect("small").to_le_bytes();
    let mut file = match header {
        V0x100 => {
            let length = 8192 + module.len();
            [&[0x00, 0x01, 0, 0], le(8192).as_slice(), b"TDX-BLOB", &le(length)].concat()
        }
        V0x200 => {
            let pages = module.len().div_ceil(4096);
            [&[0x00, 0x02, 0, 0], b"TDX-BLOB".as_slice(), &le(1), &le(pages)].concat()
        }
    };
    assert_eq!(file.len(), 20);
    file.extend([0; 4076]);
    file.extend(sigstruct);
    file.extend([0; 2048]);
    file.extend(module);
    let sum = file.chunks(2).map(|pair| u32::from(pair[0]) + (u32::from(pair[1]) << 8)).sum::<u32>() & 0xFFFF;
    let checksum = (0x10000 - sum) & 0xFFFF;
    file[2..4].copy_from_slice(&checksum.to_le_bytes()[..2]);
    file
}

#[test]
fn an_image_is_byte_for_byte_what_intels_join_scripts_write() {
    let (sigstruct, module) = parts();
    for header in HeaderVersion::ALL {
        assert!(built(header) == joined(header, sigstruct.as_bytes(), &module), "{header}");
    }
}

#[test]
fn a_module_of_one_page_and_of_496_pages_has_an_image_but_not_of_0_or_497() {
    for header in HeaderVersion::ALL {
        assert_eq!(encoded_len(header, 4096), Ok(3 * 4096));
        assert_eq!(encoded_len(header, 496 * 4096), Ok(498 * 4096));
        assert_eq!(encoded_len(header, 0), Err(ImageError::NoModulePages));
        assert_eq!(encoded_len(header, 497 * 4096), Err(ImageError::TooManyModulePages { pages: 497 }));
        assert_eq!(encoded_len(header, 4097), Err(ImageError::ModuleLengthMisaligned { len: 4097 }));
        assert!(encoded_len(header, usize::MAX & !0xFFF).is_err());
    }
}

/// A file with the given header fields, of no particular sense.
fn nearly_an_image() -> impl Strategy<Value = Vec<u8>> {
    let version = prop_oneof![Just(0x100_u16), Just(0x200), any::<u16>()];
    let word = prop_oneof![Just(4_usize), Just(8), Just(0)];
    let small = prop_oneof![0_u32..4, Just(8192), any::<u32>()];
    (version, word, small.clone(), small.clone(), small, 0_usize..5 * PAGE, any::<bool>()).prop_map(
        |(version, word, at_4, at_12, at_16, len, fits)| {
            let mut file = vec![0; len.max(24)];
            put(&mut file, 4, at_4.to_le_bytes());
            put(&mut file, 12, at_12.to_le_bytes());
            put(&mut file, 16, at_16.to_le_bytes());
            if fits {
                let whole = len / PAGE * PAGE;
                file.truncate(whole.max(24));
                put(&mut file, 16, u32::try_from(whole).expect("small").to_le_bytes());
            }
            put(&mut file, 0, version.to_le_bytes());
            if word != 0 {
                put(&mut file, word, *b"TDX-BLOB");
            }
            file
        },
    )
}

/// What Linux's refusal is called here, for files that begin as 0x200.
fn in_linux_words(error: ImageError) -> Option<&'static str> {
    Some(match error {
        ImageError::TooShort { .. } => "linux-image-too-short",
        ImageError::LengthMismatch { .. } => "linux-image-size",
        ImageError::UnknownVersion { .. } => "linux-image-version",
        ImageError::TooManySigstructPages { .. } | ImageError::TooManyModulePages { .. } => {
            "linux-image-page-limits"
        }
        ImageError::BadSignatureWord { .. } => "linux-image-signature-word",
        ImageError::ReservedNotZero { .. } => "linux-image-reserved",
        _ => return None,
    })
}

fn check_any_bytes(file: &[u8]) {
    let parsed = Image::parse(file);
    let linux = linux73(file);
    match parsed {
        Ok(image) => {
            assert_eq!(linux.is_ok(), image.header() == V0x200);
            let mut again = vec![0; file.len()];
            let len = encode(image.header(), image.sigstruct(), image.module(), &mut again);
            assert_eq!(len, Ok(file.len()));
            if image.checksum() == Checksum::Good {
                assert!(again == file);
            }
        }
        // Linux wraps in 32 bits, so it may see a wrong length as a limit.
        Err(error) if file.get(..2) == Some(&[0, 2]) => match (linux, in_linux_words(error)) {
            (Err(Linux73Refusal::PageLimits { .. }), Some("linux-image-size")) | (Ok(()), None) => {}
            (Err(refusal), Some(name)) => assert_eq!(refusal.name(), name),
            (linux, _) => panic!("{error}, but Linux says {linux:?}"),
        },
        Err(_) => assert!(linux.is_err(), "Linux takes no other header"),
    }
}

proptest! {
    #[test]
    fn any_bytes_give_an_image_or_a_reason(file in proptest::collection::vec(any::<u8>(), 0..3 * PAGE)) {
        check_any_bytes(&file);
    }

    #[test]
    fn any_header_gives_an_image_or_the_reason_that_linux_has(file in nearly_an_image()) {
        check_any_bytes(&file);
    }

    #[test]
    fn a_damaged_image_gives_the_reason_that_linux_has(
        header in prop_oneof![Just(V0x100), Just(V0x200)],
        damage in proptest::collection::vec((0_usize..24, any::<u8>()), 1..4),
        len in prop_oneof![Just(7 * PAGE), 0..7 * PAGE],
    ) {
        let mut file = built(header);
        file.truncate(len);
        for (at, byte) in damage {
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
        }
        check_any_bytes(&file);
    }

    #[test]
    fn what_was_encoded_parses_to_the_same_parts(
        pages in 1_usize..20,
        seed in any::<[u8; 32]>(),
        header in prop_oneof![Just(V0x100), Just(V0x200)],
    ) {
        let module: Vec<u8> = seed.into_iter().cycle().take(pages * PAGE).collect();
        let sigstruct: Vec<u8> = seed.into_iter().rev().cycle().take(2048).collect();
        let sigstruct = Sigstruct::read(sigstruct.as_slice().try_into().expect("2048 bytes"));
        let encode_as = |header| {
            let mut out = vec![0xFF; encoded_len(header, module.len()).expect("whole pages")];
            assert_eq!(encode(header, sigstruct, &module, &mut out), Ok(out.len()));
            out
        };
        let file = encode_as(header);
        prop_assert_eq!(word_sum(&file), 0);
        let image = Image::parse(&file).expect("just encoded");
        prop_assert_eq!(image.header(), header);
        prop_assert!(image.sigstruct().as_bytes() == sigstruct.as_bytes() && image.module() == module);
        // Converted there and back.
        for other in HeaderVersion::ALL {
            let mut converted = vec![0; file.len()];
            encode(other, image.sigstruct(), image.module(), &mut converted).expect("room");
            prop_assert!(converted == encode_as(other));
            let converted = Image::parse(&converted).expect("just converted");
            prop_assert_eq!(converted.sigstruct().as_bytes(), image.sigstruct().as_bytes());
            prop_assert!(converted.module() == image.module());
        }
    }
}
