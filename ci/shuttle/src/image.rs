//! Module images that the host accepts and that nobody signed.

use std::sync::OnceLock;

use tdx_abi::seamldr::Version;
use tdx_image::{HeaderVersion, Sigstruct, encode, encoded_len};
use zerocopy::FromZeros;

use crate::platform::CPU_SIGNATURE;
use crate::software::SVN;

const PAGE: usize = 4096;

/// An image of this version with one module page; made once per process.
///
/// Only what the host looks at is filled in: it verifies no signature.
pub fn image(version: Version) -> &'static [u8] {
    static IMAGES: [OnceLock<Vec<u8>>; 64] = [const { OnceLock::new() }; 64];
    let slot = IMAGES.get(usize::from(version.update)).expect("one of the versions that are used here");
    slot.get_or_init(|| make(version))
}

fn make(version: Version) -> Vec<u8> {
    let mut sigstruct = Sigstruct::new_zeroed();
    sigstruct.header_type = 6.into();
    sigstruct.header_length = 0xE1.into();
    sigstruct.header_version = 0x0001_0000.into();
    sigstruct.vendor = 0x8086.into();
    sigstruct.size = 0x200.into();
    sigstruct.key_size = 0x60.into();
    sigstruct.modulus_size = 0x60.into();
    sigstruct.exponent_size = 1.into();
    sigstruct.exponent = 0x10001.into();
    (sigstruct.major_svn, sigstruct.minor_svn) = (SVN.major, SVN.minor);
    sigstruct.module_handoff_version = 1.into();
    sigstruct.min_update_handoff_version = 1.into();
    sigstruct.cpu_count = 1.into();
    sigstruct.cpu_table[0] = CPU_SIGNATURE.into();
    let words = [version.major, version.minor, version.update].map(u16::to_le_bytes);
    let mut module = words.concat();
    module.resize(PAGE, 0);
    let mut out = vec![0; encoded_len(HeaderVersion::V0x200, module.len()).expect("one page")];
    encode(HeaderVersion::V0x200, &sigstruct, &module, &mut out).expect("a buffer of its size");
    out
}
