//! The container: one header page, one page with the SIGSTRUCT, the pages of the module.
//!
//! | offset | 0x100 | 0x200 |
//! |---|---|---|
//! | 0 | u16 0x0100 | u16 0x0200 |
//! | 2 | u16 checksum | u16 checksum |
//! | 4 | u32 offset of the module, 0x2000 | `TDX-BLOB` |
//! | 8 | `TDX-BLOB` | |
//! | 12 | | u32 SIGSTRUCT pages, 1 |
//! | 16 | u32 length of the file | u32 module pages, 1 ..= 496 |
//! | 20 | zero to 4096 | zero to 4096 |
//! | 4096 | SIGSTRUCT (2048 bytes), zero to 8192 | as 0x100 |
//! | 8192 | the module's pages to the end | as 0x100 |
//!
//! The checksum makes the sum of all little-endian 16-bit words of the file zero modulo 65536. Linux looks
//! only at 0x200 and not at the checksum; Intel's UEFI loader takes only 0x100.

use core::fmt;
use core::mem::offset_of;
use core::str::FromStr;

use tdx_abi::seamldr::MAX_MODULE_PAGES;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::reason::reason_enum;
use crate::sigstruct::{SIGSTRUCT_SIZE, Sigstruct};

/// Bytes of a header, of the SIGSTRUCT with its padding, and of a module page.
pub const PAGE: usize = 4096;
/// The word by which a file is known as an image.
pub const SIGNATURE_WORD: [u8; 8] = *b"TDX-BLOB";
/// SIGSTRUCT pages that a container has room for: P-SEAMLDR takes the address of one.
pub const MAX_SIGSTRUCT_PAGES: u32 = 1;

const PAGE_64: u64 = PAGE as u64;
const _: () = assert!(PAGE_64 == tdx_abi::PAGE_SIZE);

/// Which header a container has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HeaderVersion {
    /// Published by Intel until mid-2026; what Intel's UEFI loader reads.
    V0x100,
    /// Published by Intel since mid-2026; what Linux 7.3 takes.
    V0x200,
}

impl HeaderVersion {
    /// Both, oldest first.
    pub const ALL: [Self; 2] = [Self::V0x100, Self::V0x200];

    /// The number in the first two bytes.
    pub const fn raw(self) -> u16 {
        match self {
            Self::V0x100 => 0x100,
            Self::V0x200 => 0x200,
        }
    }

    /// The header with a number.
    pub fn from_raw(raw: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.raw() == raw)
    }

    /// Offset of the module's first page.
    pub const fn module_offset(self) -> usize {
        match self {
            Self::V0x100 | Self::V0x200 => 2 * PAGE,
        }
    }
}

impl fmt::Display for HeaderVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V0x100 => "0x100",
            Self::V0x200 => "0x200",
        })
    }
}

/// The text names no header version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header version is 0x100 or 0x200")]
pub struct UnknownHeaderVersion;

impl FromStr for HeaderVersion {
    type Err = UnknownHeaderVersion;

    fn from_str(text: &str) -> Result<Self, UnknownHeaderVersion> {
        match text {
            "0x100" => Ok(Self::V0x100),
            "0x200" => Ok(Self::V0x200),
            _ => Err(UnknownHeaderVersion),
        }
    }
}

/// Header 0x100 (4096 bytes).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header0x100 {
    version: U16,
    checksum: U16,
    module_offset: U32,
    signature: [u8; 8],
    length: U32,
    reserved: [u8; RESERVED],
}

/// Header 0x200 (4096 bytes).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header0x200 {
    pub(crate) version: U16,
    pub(crate) checksum: U16,
    pub(crate) signature: [u8; 8],
    pub(crate) sigstruct_pages: U32,
    pub(crate) module_pages: U32,
    pub(crate) reserved: [u8; RESERVED],
}

/// Offset and size of the reserved bytes, the same in both headers.
const RESERVED_OFFSET: u32 = 20;
const RESERVED: usize = 4076;

const _: () = {
    assert!(size_of::<Header0x100>() == PAGE);
    assert!(offset_of!(Header0x100, module_offset) == 4);
    assert!(offset_of!(Header0x100, signature) == 8);
    assert!(offset_of!(Header0x100, length) == 16);
    assert!(offset_of!(Header0x100, reserved) == RESERVED_OFFSET as usize);
    assert!(size_of::<Header0x200>() == PAGE);
    assert!(offset_of!(Header0x200, signature) == 4);
    assert!(offset_of!(Header0x200, sigstruct_pages) == 12);
    assert!(offset_of!(Header0x200, module_pages) == 16);
    assert!(offset_of!(Header0x200, reserved) == RESERVED_OFFSET as usize);
};

reason_enum! {
    /// Why a file is not an image, or cannot become one.
    ///
    /// The checks are made in the order of the variants. Those that Linux 7.3 makes too come first and in
    /// Linux's order ([`linux73`](crate::linux73())), then those that it leaves out.
    pub enum ImageError {
        /// No room for a header.
        TooShort {
            /// Bytes of the file.
            len: u64,
        } = "image-too-short",
            "the file has {len} bytes, but the header alone has 4096",
            "take the whole image file; a .sigstruct file is made an image by `module join`";
        /// Neither a known version nor the signature word in any known place.
        NotAnImage {
            /// First two bytes.
            version: u16,
        } = "not-an-image",
            "the file begins with {version:#06x} and has no TDX-BLOB word: it is no image of a TDX module",
            "take an image (.blob); a module (.bin) and its SIGSTRUCT are made an image by `module join`";
        /// The sizes of the header do not add up to the file, in 64-bit arithmetic.
        LengthMismatch {
            /// Bytes that the header tells.
            stated: u64,
            /// Bytes of the file.
            actual: u64,
        } = "image-length-mismatch",
            "the header tells {stated} bytes, but the file has {actual}",
            "the file is cut off or something was appended: get it again and compare its checksum";
        /// A version that nobody has published.
        UnknownVersion {
            /// First two bytes.
            version: u16,
        } = "image-version-unknown",
            "header version {version:#06x} is unknown: images have 0x100 or 0x200",
            "the image is newer than this program or damaged";
        /// The module begins before the end of the header or behind the end of the file (0x100).
        ModuleOffsetOutside {
            /// Offset in the header.
            offset: u32,
            /// Bytes of the file.
            len: u64,
        } = "image-module-offset-outside",
            "the module begins at {offset:#x}, which is not between the header and the end at {len:#x}",
            "the header is damaged: get the image again, or `module join` it from its parts";
        /// The module does not begin on a page (0x100).
        ModuleOffsetMisaligned {
            /// Offset in the header.
            offset: u32,
        } = "image-module-offset-misaligned",
            "the module begins at {offset:#x}, which is not a multiple of 4096",
            "the header is damaged: get the image again, or `module join` it from its parts";
        /// The module is not whole pages.
        ModuleLengthMisaligned {
            /// Bytes of the module.
            len: u64,
        } = "image-module-length-misaligned",
            "the module has {len} bytes, which is not a multiple of 4096",
            "a module is whole pages and its fill is part of its hash: get the file again";
        /// More SIGSTRUCT pages than P-SEAMLDR takes.
        TooManySigstructPages {
            /// Pages in the header.
            pages: u32,
        } = "image-too-many-sigstruct-pages",
            "{pages} SIGSTRUCT pages, but P-SEAMLDR takes one",
            "the header is damaged, or the image is for a loader of the future";
        /// More module pages than P-SEAMLDR takes.
        TooManyModulePages {
            /// Pages in the header.
            pages: u64,
        } = "image-too-many-module-pages",
            "{pages} module pages, but P-SEAMLDR takes at most 496",
            "the header is damaged, or the image is for a loader of the future";
        /// The signature word is not `TDX-BLOB`.
        BadSignatureWord {
            /// The word as a little-endian number.
            word: u64,
        } = "image-signature-word-wrong",
            "the signature word is {word:#018x}, not TDX-BLOB (0x424f4c422d584454)",
            "the header is damaged: get the image again, or `module join` it from its parts";
        /// A reserved byte of the header is not zero.
        ReservedNotZero {
            /// Offset of the first one.
            offset: u32,
        } = "image-reserved-not-zero",
            "byte {offset:#x} of the header is reserved, but not zero",
            "the header is damaged or has fields of the future";
        /// No room for a SIGSTRUCT.
        NoSigstructPages = "image-no-sigstruct-pages",
            "the image has no SIGSTRUCT page",
            "`module join` makes an image from a module and its SIGSTRUCT";
        /// No module. Linux and older loaders do not refuse this.
        NoModulePages = "image-no-module-pages",
            "the image has no module page",
            "`module join` makes an image from a module and its SIGSTRUCT";
        /// Bytes between the SIGSTRUCT and the module are not zero.
        SigstructPaddingNotZero {
            /// Offset in the file of the first one.
            offset: u32,
        } = "image-sigstruct-padding-not-zero",
            "byte {offset:#x}, between SIGSTRUCT and module, is not zero",
            "the image is damaged: get it again";
        /// The file does not sum to zero, and the checksum field is in use.
        ChecksumWrong {
            /// Checksum in the header.
            stated: u16,
            /// Checksum that the file should have.
            expected: u16,
        } = "image-checksum-wrong",
            "the checksum is {stated:#06x}, but the file's content asks for {expected:#06x}",
            "the file is damaged: get it again (Linux itself does not look at the checksum)";
        /// The caller's buffer is too small for the image.
        BufferTooSmall {
            /// Bytes of the image.
            needed: u64,
            /// Bytes of the buffer.
            len: u64,
        } = "image-buffer-too-small",
            "the image has {needed} bytes, but the buffer {len}",
            "ask `encoded_len` for the size first";
    }
}

/// State of an image's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// The file sums to zero.
    Good,
    /// The field is 0 and the file does not sum to zero: made without a checksum.
    Absent,
    /// The field is in use and the file does not sum to zero.
    Wrong {
        /// What the file sums to.
        sum: u16,
    },
}

impl Checksum {
    /// The state of a file's checksum field, whatever else the file is.
    pub fn of(bytes: &[u8]) -> Self {
        let field = bytes.get(2..4).unwrap_or_default();
        match word_sum(bytes) {
            0 => Self::Good,
            _ if field.iter().all(|&byte| byte == 0) => Self::Absent,
            sum => Self::Wrong { sum },
        }
    }
}

/// The sum of all little-endian 16-bit words modulo 65536; an odd last byte is the low half of a word.
pub fn word_sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum = words.iter().fold(0_u16, |sum, &word| sum.wrapping_add(u16::from_le_bytes(word)));
    rest.iter().fold(sum, |sum, &byte| sum.wrapping_add(u16::from(byte)))
}

/// A well-formed image. What its SIGSTRUCT says, and whether anyone signed it, is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    header: HeaderVersion,
    checksum: Checksum,
    bytes: &'a [u8],
    sigstruct: &'a Sigstruct,
    module: &'a [u8],
    module_pages: u32,
}

impl<'a> Image<'a> {
    /// Takes a file apart. A missing checksum is accepted ([`Checksum::Absent`]), a wrong one is not.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let (Ok((old, payload)), Ok((new, _))) =
            (Header0x100::ref_from_prefix(bytes), Header0x200::ref_from_prefix(bytes))
        else {
            return Err(ImageError::TooShort { len: bytes.len() as u64 });
        };
        let version = old.version.get();
        let header = HeaderVersion::from_raw(version);
        let (sigstruct_pages, module_pages) = match header {
            Some(HeaderVersion::V0x100) => old.check(bytes.len() as u64)?,
            Some(HeaderVersion::V0x200) => new.check(bytes.len() as u64)?,
            // Bytes 4..12 say which layout a future version is nearest to; its sizes come first, as in Linux.
            None if new.signature == SIGNATURE_WORD => new.check(bytes.len() as u64)?,
            None if old.signature == SIGNATURE_WORD => return Err(ImageError::UnknownVersion { version }),
            None => return Err(ImageError::NotAnImage { version }),
        };
        let header = header.ok_or(ImageError::UnknownVersion { version })?;

        let area = if sigstruct_pages == 0 { None } else { payload.split_first_chunk::<PAGE>() };
        let (area, module) = area.ok_or(ImageError::NoSigstructPages)?;
        if module.is_empty() {
            return Err(ImageError::NoModulePages);
        }
        let (sigstruct, padding) = Sigstruct::split(area);
        if let Some(at) = first_not_zero(padding) {
            let offset = at.saturating_add(SIGSTRUCT_END);
            return Err(ImageError::SigstructPaddingNotZero { offset });
        }
        let checksum = Checksum::of(bytes);
        if let Checksum::Wrong { sum } = checksum {
            let stated = old.checksum.get();
            return Err(ImageError::ChecksumWrong { stated, expected: stated.wrapping_sub(sum) });
        }
        Ok(Self { header, checksum, bytes, sigstruct, module, module_pages })
    }

    /// Which header the file has.
    pub const fn header(&self) -> HeaderVersion {
        self.header
    }

    /// [`Checksum::Good`] or [`Checksum::Absent`].
    pub const fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// What was signed.
    pub const fn sigstruct(&self) -> &'a Sigstruct {
        self.sigstruct
    }

    /// The module: whole pages of 4096 bytes.
    pub const fn module(&self) -> &'a [u8] {
        self.module
    }

    /// Pages of the module, 1 ..= 496.
    pub const fn module_pages(&self) -> u32 {
        self.module_pages
    }

    /// The whole file.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of the whole file.
    #[expect(clippy::len_without_is_empty, reason = "an image is never empty")]
    pub const fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl Header0x100 {
    /// Everything but the payload; gives SIGSTRUCT and module pages.
    fn check(&self, len: u64) -> Result<(u32, u32), ImageError> {
        let stated = u64::from(self.length.get());
        if stated != len {
            return Err(ImageError::LengthMismatch { stated, actual: len });
        }
        let offset = self.module_offset.get();
        let module_len = len.checked_sub(u64::from(offset));
        let payload_offset = u64::from(offset).checked_sub(PAGE_64);
        let (Some(module_len), Some(sigstruct_len)) = (module_len, payload_offset) else {
            return Err(ImageError::ModuleOffsetOutside { offset, len });
        };
        if !sigstruct_len.is_multiple_of(PAGE_64) {
            return Err(ImageError::ModuleOffsetMisaligned { offset });
        }
        if !module_len.is_multiple_of(PAGE_64) {
            return Err(ImageError::ModuleLengthMisaligned { len: module_len });
        }
        let sigstruct_pages = u32::try_from(sigstruct_len / PAGE_64).unwrap_or(u32::MAX);
        let module_pages = check_limits(sigstruct_pages, module_len / PAGE_64)?;
        check_fixed(self.signature, &self.reserved)?;
        Ok((sigstruct_pages, module_pages))
    }
}

impl Header0x200 {
    /// Everything but the payload; gives SIGSTRUCT and module pages.
    fn check(&self, len: u64) -> Result<(u32, u32), ImageError> {
        let sigstruct_pages = self.sigstruct_pages.get();
        let module_pages = self.module_pages.get();
        // Three factors below 2^33: no overflow in 64 bits.
        let stated = (1 + u64::from(sigstruct_pages) + u64::from(module_pages)) * PAGE_64;
        if stated != len {
            return Err(ImageError::LengthMismatch { stated, actual: len });
        }
        let version = self.version.get();
        if version != HeaderVersion::V0x200.raw() {
            return Err(ImageError::UnknownVersion { version });
        }
        let module_pages = check_limits(sigstruct_pages, u64::from(module_pages))?;
        check_fixed(self.signature, &self.reserved)?;
        Ok((sigstruct_pages, module_pages))
    }
}

fn check_limits(sigstruct_pages: u32, module_pages: u64) -> Result<u32, ImageError> {
    if sigstruct_pages > MAX_SIGSTRUCT_PAGES {
        return Err(ImageError::TooManySigstructPages { pages: sigstruct_pages });
    }
    match u32::try_from(module_pages) {
        Ok(pages) if module_pages <= MAX_MODULE_PAGES as u64 => Ok(pages),
        _ => Err(ImageError::TooManyModulePages { pages: module_pages }),
    }
}

fn check_fixed(signature: [u8; 8], reserved: &[u8; RESERVED]) -> Result<(), ImageError> {
    if signature != SIGNATURE_WORD {
        return Err(ImageError::BadSignatureWord { word: u64::from_le_bytes(signature) });
    }
    match first_not_zero(reserved) {
        Some(at) => Err(ImageError::ReservedNotZero { offset: at.saturating_add(RESERVED_OFFSET) }),
        None => Ok(()),
    }
}

/// Offset of the SIGSTRUCT's end in the file.
const SIGSTRUCT_END: u32 = 0x1800;
const _: () = assert!(SIGSTRUCT_END as usize == PAGE + SIGSTRUCT_SIZE);

fn first_not_zero(bytes: &[u8]) -> Option<u32> {
    let at = bytes.iter().position(|&byte| byte != 0)?;
    u32::try_from(at).ok()
}

/// Bytes of the image of a module, or why there is none.
pub fn encoded_len(header: HeaderVersion, module_len: usize) -> Result<usize, ImageError> {
    let len = module_len as u64;
    if module_len == 0 {
        return Err(ImageError::NoModulePages);
    }
    if !module_len.is_multiple_of(PAGE) {
        return Err(ImageError::ModuleLengthMisaligned { len });
    }
    check_limits(MAX_SIGSTRUCT_PAGES, len / PAGE_64)?;
    Ok(header.module_offset().saturating_add(module_len))
}

/// Writes an image with its checksum to the start of `out`, byte for byte what Intel's `blob_join.sh` of the
/// header's time writes; gives its length.
pub fn encode(
    header: HeaderVersion,
    sigstruct: &Sigstruct,
    module: &[u8],
    out: &mut [u8],
) -> Result<usize, ImageError> {
    let needed = encoded_len(header, module.len())?;
    let len = out.len() as u64;
    let too_small = ImageError::BufferTooSmall { needed: needed as u64, len };
    let out = out.get_mut(..needed).ok_or(too_small)?;
    let (head, body) = out.split_first_chunk_mut::<PAGE>().ok_or(too_small)?;
    let (area, pages) = body.split_first_chunk_mut::<PAGE>().ok_or(too_small)?;

    *head = header_page(header, module.len())?;
    let (place, padding) = area.split_at_mut(SIGSTRUCT_SIZE);
    place.copy_from_slice(sigstruct.as_bytes());
    padding.fill(0);
    pages.copy_from_slice(module);

    let sum = word_sum(out).wrapping_neg();
    if let Some(field) = out.get_mut(2..4) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
    Ok(needed)
}

/// A header without its checksum.
fn header_page(header: HeaderVersion, module_len: usize) -> Result<[u8; PAGE], ImageError> {
    let len = module_len as u64;
    let pages = check_limits(MAX_SIGSTRUCT_PAGES, len / PAGE_64)?;
    Ok(match header {
        HeaderVersion::V0x100 => {
            let mut page = Header0x100::new_zeroed();
            page.version.set(header.raw());
            page.signature = SIGNATURE_WORD;
            // At most 496 pages: both fit.
            page.module_offset.set(u32::try_from(header.module_offset()).unwrap_or(u32::MAX));
            page.length.set((pages + 1 + MAX_SIGSTRUCT_PAGES) * 4096);
            zerocopy::transmute!(page)
        }
        HeaderVersion::V0x200 => {
            let mut page = Header0x200::new_zeroed();
            page.version.set(header.raw());
            page.signature = SIGNATURE_WORD;
            page.sigstruct_pages.set(MAX_SIGSTRUCT_PAGES);
            page.module_pages.set(pages);
            zerocopy::transmute!(page)
        }
    })
}
