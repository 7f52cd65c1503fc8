//! What Linux 7.3 checks of an image before it hands it to P-SEAMLDR, in its order
//! (`init_seamldr_params` of `arch/x86/virt/vmx/tdx/seamldr.c`).
//!
//! Linux knows only header 0x200, leaves the checksum and the SIGSTRUCT alone, and answers every failure with
//! the same -EINVAL. It computes the bytes of both parts in 32 bits *before* it looks at the page limits, so
//! page numbers that wrap pass the size check and fail at the limits.

use tdx_abi::seamldr::MAX_MODULE_PAGES;
use zerocopy::FromBytes;

use crate::container::{Header0x200, HeaderVersion, MAX_SIGSTRUCT_PAGES, PAGE, SIGNATURE_WORD};
use crate::reason::reason_enum;

reason_enum! {
    /// Why Linux 7.3 refuses an image. In the kernel each of them is -EINVAL.
    pub enum Linux73Refusal {
        /// No room for a header.
        TooShort {
            /// Bytes of the file.
            len: u64,
        } = "linux-image-too-short",
            "Linux 7.3: {len} bytes are less than a header of 4096",
            "take the whole image file";
        /// Header and pages do not add up to the file.
        Size {
            /// Bytes by the header, as Linux computes them.
            computed: u64,
            /// Bytes of the file.
            len: u64,
        } = "linux-image-size",
            "Linux 7.3: the header, read as 0x200, tells {computed} bytes, but the file has {len}",
            "`module convert --to 0x200` if the image has header 0x100, else get it again";
        /// Another header than 0x200.
        Version {
            /// First two bytes.
            version: u16,
        } = "linux-image-version",
            "Linux 7.3: header version {version:#06x} is not 0x200",
            "`module convert --to 0x200`";
        /// More pages than SEAMLDR_PARAMS has room for.
        PageLimits {
            /// SIGSTRUCT pages.
            sigstruct_pages: u32,
            /// Module pages.
            module_pages: u32,
        } = "linux-image-page-limits",
            "Linux 7.3: {sigstruct_pages} SIGSTRUCT and {module_pages} module pages, at most 1 and 496 are taken",
            "the header is damaged: get the image again";
        /// The signature word is not `TDX-BLOB`.
        SignatureWord {
            /// The word as a little-endian number.
            word: u64,
        } = "linux-image-signature-word",
            "Linux 7.3: the signature word is {word:#018x}, not TDX-BLOB",
            "the header is damaged: get the image again";
        /// A reserved byte of the header is not zero.
        Reserved = "linux-image-reserved",
            "Linux 7.3: a reserved byte of the header is not zero",
            "the header is damaged or has fields of the future";
    }
}

/// Whether Linux 7.3 would hand the image to P-SEAMLDR.
pub fn linux73(bytes: &[u8]) -> Result<(), Linux73Refusal> {
    let len = bytes.len() as u64;
    let Ok((header, _)) = Header0x200::ref_from_prefix(bytes) else {
        return Err(Linux73Refusal::TooShort { len });
    };
    let sigstruct_pages = header.sigstruct_pages.get();
    let module_pages = header.module_pages.get();

    // The two lengths are u32 in Linux; only their sum with the header's size is wider.
    let sigstruct_len = sigstruct_pages.wrapping_mul(4096);
    let module_len = module_pages.wrapping_mul(4096);
    let computed = PAGE as u64 + u64::from(sigstruct_len) + u64::from(module_len);
    if computed != len {
        return Err(Linux73Refusal::Size { computed, len });
    }
    let version = header.version.get();
    if version != HeaderVersion::V0x200.raw() {
        return Err(Linux73Refusal::Version { version });
    }
    if sigstruct_pages > MAX_SIGSTRUCT_PAGES || u64::from(module_pages) > MAX_MODULE_PAGES as u64 {
        return Err(Linux73Refusal::PageLimits { sigstruct_pages, module_pages });
    }
    if header.signature != SIGNATURE_WORD {
        return Err(Linux73Refusal::SignatureWord { word: u64::from_le_bytes(header.signature) });
    }
    if header.reserved.iter().any(|&byte| byte != 0) {
        return Err(Linux73Refusal::Reserved);
    }
    Ok(())
}
