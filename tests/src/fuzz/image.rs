//! Bodies for module images: the container, and what it carries.

use std::sync::OnceLock;

use tdx_image::build::{self, ModuleSpec};
use tdx_image::elf::check_relocations;
use tdx_image::record::ModuleRecord;
use tdx_image::sigstruct::{SIGSTRUCT_SIZE, Sigstruct};
use tdx_image::{
    Checksum, HeaderVersion, Image, SigstructRules, encode, encoded_len, find_reason, linux73, verify,
};

use super::bytes::Choices;

/// A good image with each header, made once per process.
pub(super) fn good(header: HeaderVersion) -> &'static [u8] {
    static IMAGES: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
    let slot = match header {
        HeaderVersion::V0x100 => &IMAGES[0],
        HeaderVersion::V0x200 => &IMAGES[1],
    };
    slot.get_or_init(|| build::image(&spec(), header).expect("a sound description"))
}

fn spec() -> ModuleSpec {
    ModuleSpec::new(tdx_abi::seamldr::Version::new(2, 0, 8), "")
}

/// Up to eight of the bytes become others, mostly in the fields at the start of header and SIGSTRUCT;
/// then some bytes go from the end, or come.
pub(super) fn spoil(bytes: &mut Vec<u8>, choices: &mut Choices<'_>) {
    for _ in 0..choices.below(9) {
        let start = choices.of(&[0, 0, 4096, 4096, 4096 + 0x3B4, 4096 + 0x800, 8192]);
        let at = start + choices.below(64) * usize::from(choices.of(&[1u8, 1, 16, 64]));
        let value = choices.byte();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
    match choices.below(8) {
        0 => bytes.truncate(choices.below(65536)),
        1 => bytes.extend_from_slice(&[choices.byte(); 16]),
        2 => bytes.resize(bytes.len() + 4096 * choices.below(520), choices.byte()),
        _ => {}
    }
    // Half of them with a checksum that fits, so that what is checked behind it is reached.
    if choices.flag() && bytes.len() >= 4 {
        bytes[2..4].fill(0);
        let sum = tdx_image::container::word_sum(bytes);
        bytes[2..4].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    }
}

/// A file: refused with a reason that is explained, or written again byte by byte.
pub fn image_file(data: &[u8]) {
    container(data);
    let mut choices = Choices::new(data);
    let mut bytes = good(choices.of(&HeaderVersion::ALL)).to_vec();
    spoil(&mut bytes, &mut choices);
    container(&bytes);
}

fn container(bytes: &[u8]) {
    let linux = linux73(bytes);
    let image = match Image::parse(bytes) {
        Ok(image) => image,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
            assert!(find_reason(error.name()).is_some(), "{} is not explained", error.name());
            return;
        }
    };
    assert_eq!(image.module().len(), image.module_pages() as usize * 4096);
    assert_eq!(image.len(), bytes.len() as u64);
    assert_eq!(linux.is_ok(), image.header() == HeaderVersion::V0x200, "{linux:?}");
    for header in HeaderVersion::ALL {
        let len = encoded_len(header, image.module().len()).expect("it is an image already");
        let mut out = vec![0xA5; len];
        assert_eq!(encode(header, image.sigstruct(), image.module(), &mut out), Ok(len));
        let again = Image::parse(&out).expect("what was written is an image");
        assert_eq!((again.header(), again.checksum()), (header, Checksum::Good));
        assert_eq!((again.sigstruct(), again.module()), (image.sigstruct(), image.module()));
        if header == image.header() {
            // Without a checksum, but for the checksum.
            let from = if image.checksum() == Checksum::Good { 0 } else { 4 };
            assert_eq!((&out[..2], &out[from..]), (&bytes[..2], &bytes[from..]));
        }
    }
    let _ = verify::image(&image);
}

/// A SIGSTRUCT and a module of any content: every field can be asked for, every rule set judges, the
/// walk over the module's relocations ends.
pub fn sigstruct_and_relocations(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut bytes = good(HeaderVersion::V0x200).to_vec();
    let mut rest = choices.clone();
    spoil(&mut bytes, &mut choices);
    bytes.resize(bytes.len().max(3 * 4096), 0);
    let (sigstruct, module) = bytes[4096..].split_at(4096);
    let mut fields: [u8; SIGSTRUCT_SIZE] = sigstruct[..SIGSTRUCT_SIZE].try_into().expect("as many bytes");
    signed_fields(&fields);
    // And one of which nothing is good.
    fields.fill_with(|| rest.byte());
    signed_fields(&fields);
    let mut module = module.to_vec();
    spoil_tables(&mut module, &mut choices);
    relocations(&module);
}

/// Words of the ELF header, of the last page (where linkers put section headers) and of what the
/// section headers point at become others.
fn spoil_tables(module: &mut [u8], choices: &mut Choices<'_>) {
    let word = |module: &[u8], at: usize| {
        module.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")))
    };
    for _ in 0..choices.below(9) {
        let sections = usize::try_from(word(module, 40)).unwrap_or(0).min(module.len());
        let table = sections + 64 * choices.below(8) + 16;
        let entry = usize::try_from(word(module, table)).unwrap_or(0).min(module.len());
        let at = match choices.below(4) {
            0 => choices.below(64),
            1 => sections + choices.below(512),
            2 => table + 8 * choices.below(6),
            _ => entry + 8 * choices.below(64),
        };
        let value = match choices.below(4) {
            0 => choices.below(1 << 16) as u64,
            1 => u64::MAX - choices.below(64) as u64,
            2 => module.len() as u64 - choices.below(64) as u64,
            _ => choices.word(),
        };
        if let Some(place) = module.get_mut(at..at + 8) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// The walk ends with a judgement that is explained, and so does the one over the notes.
fn relocations(module: &[u8]) {
    if let Err(error) = check_relocations(module) {
        assert!(find_reason(error.name()).is_some(), "{} is not explained", error.name());
    }
    if let Some(record) = ModuleRecord::find(module) {
        assert!(record.profile.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

fn signed_fields(bytes: &[u8; SIGSTRUCT_SIZE]) {
    let sigstruct = Sigstruct::read(bytes);
    let cpus: Vec<u32> = sigstruct.cpus().collect();
    assert!(cpus.len() <= 255);
    for cpu in &cpus {
        // The stepping does not count.
        assert!((0..16).all(|stepping| sigstruct.covers_cpu(cpu & !0xF | stepping)), "{cpu:#x}");
    }
    let [first, second] = sigstruct.signed_parts();
    assert_eq!(first.len() + second.len(), 1276);
    assert!(!format!("{} {:?} {}", sigstruct.date(), sigstruct.svn(), sigstruct.is_debug()).is_empty());
    for rules in SigstructRules::ALL {
        if let Err(error) = sigstruct.check(rules) {
            assert!(find_reason(error.name()).is_some(), "{} is not explained", error.name());
        }
    }
    let signed = verify::signature(sigstruct);
    assert!(signed.is_err() || verify::signer(sigstruct).is_some(), "nobody's signature is good");
}
