//! Everything about images that Intel published. They are not part of this project: the directory that holds
//! them (a copy of Intel's repository, or any directory with `.blob` files) is named by `TDXHOST_INTEL_IMAGES`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tdx_image::elf::check_relocations;
use tdx_image::record::ModuleRecord;
use tdx_image::sigstruct::{MODULUS_SIZE, SIGSTRUCT_SIZE};
use tdx_image::verify::{self, Signer, VerifyError};
use tdx_image::{
    Checksum, HeaderVersion, Image, Linux73Refusal, Sigstruct, SigstructError, SigstructRules, build, linux73,
};
use zerocopy::IntoBytes;

static SAY_ONCE: Once = Once::new();

/// The files with an extension, or `None` and a line if there is no directory.
fn files(extension: &str) -> Option<Vec<PathBuf>> {
    let Some(root) = std::env::var_os("TDXHOST_INTEL_IMAGES") else {
        SAY_ONCE.call_once(|| {
            // Not by `println!`, which the test harness swallows.
            let line = "left out: TDXHOST_INTEL_IMAGES names no directory with Intel's images";
            writeln!(std::io::stderr(), "{line}").expect("an open stderr");
        });
        return None;
    };
    let mut found = Vec::new();
    collect(Path::new(&root), extension, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no .{extension} below {}", Path::new(&root).display());
    Some(found)
}

fn collect(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn images() -> Option<Vec<(String, Vec<u8>)>> {
    let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).expect("a readable image"));
    Some(files("blob")?.into_iter().map(read).collect())
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("below a usize")
    }

    fn flip_bit(&mut self, byte: &mut u8) {
        *byte ^= 1 << self.below(8);
    }
}

#[test]
fn every_image_is_intels_and_intact() {
    for (name, bytes) in images().into_iter().flatten() {
        let image = Image::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(image.checksum(), Checksum::Good, "{name}");
        let sigstruct = image.sigstruct();
        let verified = verify::image(&image).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((verified.signer, &verified.seamhash), (Signer::Intel, sigstruct.seamhash()), "{name}");
        assert!(!sigstruct.is_debug() && sigstruct.cpus().count() > 0, "{name}");
        assert_eq!(check_relocations(image.module()), Ok(()), "{name}");
        assert_eq!(ModuleRecord::find(image.module()), None, "{name}");
        assert_eq!(sigstruct.check_offsets(image.module_pages()), Ok(()), "{name}");
    }
}

#[test]
fn every_sigstruct_passes_the_loader_of_its_line_and_names_its_version() {
    for (name, bytes) in images().into_iter().flatten() {
        let image = Image::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let sigstruct = image.sigstruct();
        let is_2 = sigstruct.svn().major == 3;
        for rules in SigstructRules::ALL {
            let expected = match (rules, is_2) {
                // Hand-off and GDT fields are reserved in a loader of TDX 1.0.
                (SigstructRules::Loader1_0, _) => Err(SigstructError::ReservedNotZero { offset: 0x3DE }),
                (SigstructRules::Loader1_5 | SigstructRules::Loader1_5_02, true) => {
                    Err(SigstructError::ReservedNotZero { offset: 0x3E8 })
                }
                _ => Ok(()),
            };
            assert_eq!(sigstruct.check(rules), expected, "{name}, {rules:?}");
        }
        if let Some(version) = sigstruct.recorded_version() {
            assert!(is_2 && name.ends_with(&format!("{version}.blob")), "{name}: {version}");
        } else {
            assert!(!is_2, "{name}");
        }
    }
}

#[test]
fn joining_the_separate_files_gives_the_joined_file_byte_for_byte() {
    let mut compared = 0;
    for (name, joined) in images().into_iter().flatten() {
        let stem = Path::new(&name).file_stem().expect("a file name").to_owned();
        let part = |extension: &str| {
            let mut parts = files(extension).into_iter().flatten();
            parts.find(|path| path.file_stem() == Some(&stem)).map(|path| fs::read(path).expect("readable"))
        };
        let (Some(module), Some(sigstruct)) = (part("bin"), part("sigstruct")) else { continue };
        let sigstruct: [u8; SIGSTRUCT_SIZE] = sigstruct.try_into().expect("a SIGSTRUCT file");
        let sigstruct = Sigstruct::read(&sigstruct);
        let header = Image::parse(&joined).unwrap_or_else(|error| panic!("{name}: {error}")).header();
        assert!(build::wrap(header, sigstruct, &module) == Ok(joined), "{name}");
        compared += 1;
    }
    assert!(compared > 0 || std::env::var_os("TDXHOST_INTEL_IMAGES").is_none(), "nothing to compare");
}

#[test]
fn conversion_makes_linux_take_an_old_image_and_back_gives_the_same_file() {
    for (name, bytes) in images().into_iter().flatten() {
        let image = Image::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let convert = |header| build::wrap(header, image.sigstruct(), image.module()).expect("convertible");
        let new = convert(HeaderVersion::V0x200);
        assert_eq!(linux73(&new), Ok(()), "{name}");
        assert!(verify::image(&Image::parse(&new).expect("well-formed")).is_ok(), "{name}");
        let old = convert(HeaderVersion::V0x100);
        assert!(matches!(linux73(&old), Err(Linux73Refusal::Size { .. })), "{name}");
        assert!(bytes == convert(image.header()), "{name}");
    }
}

#[test]
fn a_flipped_bit_in_any_signed_byte_signature_or_modulus_is_rejected() {
    let mut random = Random(0x5EA3);
    for (name, bytes) in images().into_iter().flatten() {
        let image = Image::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let good = *image.sigstruct();
        let signed_head = 0..0x80;
        let key_and_signature = (0x80..0x80 + MODULUS_SIZE).chain(0x200..0x204 + MODULUS_SIZE);
        let signed_tail = 0x384..SIGSTRUCT_SIZE;
        let mut tried = 0;
        for at in signed_head.chain(key_and_signature).chain(signed_tail) {
            let mut bad = good;
            random.flip_bit(&mut bad.as_mut_bytes()[at]);
            let signer = verify::signer(&bad);
            let result = verify::signature(&bad);
            assert!(signer.is_none() || result.is_err(), "{name}: byte {at:#x} of the SIGSTRUCT");
            tried += 1;
        }
        assert_eq!(tried, SIGSTRUCT_SIZE, "{name}");
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_module_is_rejected() {
    let mut random = Random(0x5EA4);
    for (name, mut bytes) in images().into_iter().flatten() {
        // Without a checksum, so that the hash has to find it.
        bytes[2..4].fill(0);
        for _ in 0..1000 {
            let at = HeaderVersion::V0x200.module_offset();
            let at = at + random.below(bytes.len() - at);
            let good = bytes[at];
            random.flip_bit(&mut bytes[at]);
            let image = Image::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            let result = verify::image(&image);
            assert!(
                matches!(result, Err(VerifyError::ModuleHash { .. })),
                "{name}: byte {at:#x}: {result:?}"
            );
            bytes[at] = good;
        }
    }
}
