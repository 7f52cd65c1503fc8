//! TDSYSINFO_STRUCT: what TDH.SYS.INFO tells of a module (1024 bytes, 1024-byte aligned).

use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes and alignment of the structure.
pub const TDSYSINFO_SIZE: u64 = 1024;
/// CPUID_CONFIG entries that fit behind the fixed part.
pub const TDSYSINFO_CPUID_CONFIGS: usize = 37;

/// One configurable CPUID leaf: which bits of it a TD may be given.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
#[allow(missing_docs)] // Register names are the hardware's own.
pub struct CpuidConfig {
    /// Leaf.
    pub leaf: U32,
    /// Sub-leaf, all ones if the leaf has none.
    pub subleaf: U32,
    pub eax: U32,
    pub ebx: U32,
    pub ecx: U32,
    pub edx: U32,
}

/// The TDSYSINFO_STRUCT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct TdSysInfo {
    /// Bit 31: debug module.
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
    /// 1 if the module has TDH.SYS.RD; 0 in TDX 1.0.
    pub sys_rd_supported: u8,
    /// 0.
    pub reserved_19: [u8; 13],
    /// Most TDMRs.
    pub max_tdmrs: U16,
    /// Reserved areas per TDMR.
    pub max_reserved_per_tdmr: U16,
    /// Bytes of a PAMT entry.
    pub pamt_entry_size: U16,
    /// 0.
    pub reserved_38: [u8; 10],
    /// Bytes of a TDCS without L2 VMs.
    pub tdcs_base_size: U16,
    /// 0.
    pub reserved_50: [u8; 2],
    /// Bytes of a TDVPS without L2 VMs.
    pub tdvps_base_size: U16,
    /// 1 if the size of a TDVPS depends on XFAM.
    pub tdvps_xfam_dependent: u8,
    /// 0.
    pub reserved_55: [u8; 9],
    /// ATTRIBUTES bits a TD may set.
    pub attributes_fixed0: U64,
    /// ATTRIBUTES bits a TD must set.
    pub attributes_fixed1: U64,
    /// XFAM bits a TD may set.
    pub xfam_fixed0: U64,
    /// XFAM bits a TD must set.
    pub xfam_fixed1: U64,
    /// 0.
    pub reserved_96: [u8; 32],
    /// Entries used in `cpuid_config`.
    pub num_cpuid_config: U32,
    /// Configurable CPUID leaves.
    pub cpuid_config: [CpuidConfig; TDSYSINFO_CPUID_CONFIGS],
    /// 0.
    pub reserved_1020: [u8; 4],
}

const _: () = {
    assert!(size_of::<CpuidConfig>() == 24);
    assert!(size_of::<TdSysInfo>() == 1024);
    assert!(offset_of!(TdSysInfo, sys_rd_supported) == 18);
    assert!(offset_of!(TdSysInfo, max_tdmrs) == 32);
    assert!(offset_of!(TdSysInfo, tdcs_base_size) == 48);
    assert!(offset_of!(TdSysInfo, tdvps_base_size) == 52);
    assert!(offset_of!(TdSysInfo, attributes_fixed0) == 64);
    assert!(offset_of!(TdSysInfo, num_cpuid_config) == 128);
    assert!(offset_of!(TdSysInfo, cpuid_config) == 132);
};
