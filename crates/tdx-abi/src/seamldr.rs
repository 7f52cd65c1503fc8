//! SEAMLDR_INFO and SEAMLDR_PARAMS: what P-SEAMLDR tells of itself and of the module (256 bytes, 256-byte
//! aligned), and what it takes to install one (4096 bytes, page aligned).

use core::fmt;
use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes and alignment of the structure.
pub const SEAMLDR_INFO_SIZE: u64 = 256;
/// Value of [`SeamldrInfo::seamextend_valid`] when a module is present.
pub const SEAMEXTEND_VALID: u64 = 0x1FF;

/// The SEAMLDR_INFO structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SeamldrInfo {
    /// Structure version, 0.
    pub version: U32,
    /// Bit 31: debug build.
    pub attributes: U32,
    /// 0x8086.
    pub vendor_id: U32,
    /// Build date, BCD yyyymmdd.
    pub build_date: U32,
    /// Build counter.
    pub build_num: U16,
    /// Minor version.
    pub minor_version: U16,
    /// Major version.
    pub major_version: U16,
    /// Update version; 0 in all public sources.
    pub update_version: U16,
    /// x2APIC id of the LP that launched the loader's loader.
    pub acm_x2apic_id: U32,
    /// Updates that the log still takes; 0 in loaders of TDX 1.0.
    pub num_remaining_updates: U32,
    /// [`SEAMEXTEND_VALID`] when a module is present.
    pub seamextend_valid: U64,
    /// SVN of the module.
    pub tcb_svn: U16,
    /// SVN of the last late microcode load.
    pub microcode_svn: u8,
    /// 0.
    pub reserved_43: [u8; 13],
    /// SHA-384 of the module image.
    pub mrseam: [u8; 48],
    /// 0 for Intel's signer.
    pub mrsignerseam: [u8; 48],
    /// Attributes of the module, 0.
    pub module_attributes: U64,
    /// 1 if SEAMCALLs reach the module.
    pub seam_ready: u8,
    /// 1 if the system is under debug.
    pub seam_debug: u8,
    /// 1 if SEAMCALLs reach P-SEAMLDR.
    pub p_seam_ready: u8,
    /// 0.
    pub reserved_163: [u8; 5],
    /// Bit 0 S4 migration interface, bit 1 clean-up; reserved in loaders of TDX 1.0.
    pub features0: U64,
    /// 0.
    pub reserved_176: [u8; 80],
}

const _: () = {
    assert!(size_of::<SeamldrInfo>() as u64 == SEAMLDR_INFO_SIZE);
    assert!(offset_of!(SeamldrInfo, build_num) == 16);
    assert!(offset_of!(SeamldrInfo, acm_x2apic_id) == 24);
    assert!(offset_of!(SeamldrInfo, seamextend_valid) == 32);
    assert!(offset_of!(SeamldrInfo, mrseam) == 56);
    assert!(offset_of!(SeamldrInfo, mrsignerseam) == 104);
    assert!(offset_of!(SeamldrInfo, module_attributes) == 152);
    assert!(offset_of!(SeamldrInfo, seam_ready) == 160);
    assert!(offset_of!(SeamldrInfo, features0) == 168);
};

/// A version as users see it: `major.minor.update`, update with two digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Update version.
    pub update: u16,
}

impl Version {
    /// A version from its parts.
    pub const fn new(major: u16, minor: u16, update: u16) -> Self {
        Self { major, minor, update }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:02}", self.major, self.minor, self.update)
    }
}

impl SeamldrInfo {
    /// The loader's version.
    pub fn loader_version(&self) -> Version {
        Version::new(self.major_version.get(), self.minor_version.get(), self.update_version.get())
    }
}

/// Bytes and alignment of SEAMLDR_PARAMS.
pub const SEAMLDR_PARAMS_SIZE: u64 = 4096;
/// Module pages that SEAMLDR_PARAMS has room for, which is the size limit of a module.
pub const MAX_MODULE_PAGES: usize = 496;

/// Value of [`SeamldrParams::scenario`]: start from nothing, all TDs of the module before are lost.
pub const SCENARIO_LOAD: u32 = 0;
/// Value of [`SeamldrParams::scenario`]: take over from the module that was shut down.
pub const SCENARIO_UPDATE: u32 = 1;

/// SEAMLDR_PARAMS, the operand of SEAMLDR.INSTALL (4096 bytes, page aligned).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SeamldrParams {
    /// Structure version, 0.
    pub version: U32,
    /// [`SCENARIO_LOAD`] or [`SCENARIO_UPDATE`].
    pub scenario: U32,
    /// Address of the page that begins with the SIGSTRUCT, page aligned.
    pub sigstruct_pa: U64,
    /// 0.
    pub reserved_16: [u8; 104],
    /// Module pages in use.
    pub num_module_pages: U64,
    /// Addresses of the module pages; those behind the number are not looked at.
    pub module_pages: [U64; MAX_MODULE_PAGES],
}

const _: () = {
    assert!(size_of::<SeamldrParams>() as u64 == SEAMLDR_PARAMS_SIZE);
    assert!(offset_of!(SeamldrParams, sigstruct_pa) == 8);
    assert!(offset_of!(SeamldrParams, num_module_pages) == 120);
    assert!(offset_of!(SeamldrParams, module_pages) == 128);
};
