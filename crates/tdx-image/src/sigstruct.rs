//! The SEAM SIGSTRUCT: what Intel signs of a TDX module (2048 bytes).

mod check;

use core::fmt;
use core::mem::offset_of;

use tdx_abi::seamldr::Version;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, transmute_ref};

#[cfg(feature = "verify")]
pub(crate) use check::EXPONENT;
#[cfg(feature = "build")]
pub(crate) use check::{EXCEPTION_ENTRIES, fixed_fields};
pub use check::{SigstructError, SigstructRules};

/// Bytes of a SIGSTRUCT.
pub const SIGSTRUCT_SIZE: usize = 2048;
/// CPUs that the table has room for.
pub const MAX_CPUS: usize = 255;
/// Bytes of modulus and of signature: RSA-3072.
pub const MODULUS_SIZE: usize = 384;
/// Bytes of the SIGSTRUCT that the signature covers.
pub const SIGNED_SIZE: usize = 1276;
/// Bit of [`Sigstruct::module_type`]: the module runs only on debug-unlocked machines.
pub const MODULE_TYPE_DEBUG: u32 = 1 << 31;
/// Bits of CPUID.1.EAX that a comparison of CPUs leaves out: the stepping.
pub const STEPPING_MASK: u32 = 0xF;

/// SEAM_SIGSTRUCT. Fields named "less one" in their documentation are a page less than the loader gives; the
/// accessors of the same name count whole pages.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Sigstruct {
    /// 6.
    pub header_type: U32,
    /// Bytes up to SEAMHASH in dwords, 0xE1.
    pub header_length: U32,
    /// 0x00010000.
    pub header_version: U32,
    /// Bit 31: [`MODULE_TYPE_DEBUG`]; the others 0.
    pub module_type: U32,
    /// 0x8086.
    pub vendor: U32,
    /// Build date, BCD yyyymmdd.
    pub date: U32,
    /// Bytes of the whole structure in dwords, 0x200.
    pub size: U32,
    /// Bytes of the key in dwords, 0x60.
    pub key_size: U32,
    /// Bytes of the modulus in dwords, 0x60.
    pub modulus_size: U32,
    /// Bytes of the exponent in dwords, 1.
    pub exponent_size: U32,
    /// 0.
    pub reserved_028: [u8; 88],
    /// RSA modulus, little endian. Not signed.
    pub modulus: [u8; MODULUS_SIZE],
    /// 0x10001. Not signed.
    pub exponent: U32,
    /// RSASSA-PKCS1-v1_5 with SHA-384, little endian.
    pub signature: [u8; MODULUS_SIZE],
    /// SHA-384 of the module's pages: MRSEAM.
    pub seamhash: [u8; 48],
    /// Minor SVN.
    pub minor_svn: u8,
    /// Major SVN.
    pub major_svn: u8,
    /// 0.
    pub attributes: U64,
    /// Offset of the entry point in the module.
    pub entry_offset: U32,
    /// Stack pages of an LP less one.
    pub stack_pages_less_1: u8,
    /// Pages of an LP's local data less one.
    pub tls_pages_less_1: u8,
    /// Keyhole pages of an LP less one.
    pub keyhole_pages_less_1: U16,
    /// Global data pages less one.
    pub global_data_pages_less_1: U16,
    /// Most TDMRs, 0 in all releases.
    pub max_tdmrs: U16,
    /// Most reserved areas of a TDMR, 0 in all releases.
    pub max_reserved_areas: U16,
    /// PAMT entry size of 4 KiB, 0 in all releases.
    pub pamt_entry_size_4k: U16,
    /// PAMT entry size of 2 MiB, 0 in all releases.
    pub pamt_entry_size_2m: U16,
    /// PAMT entry size of 1 GiB, 0 in all releases.
    pub pamt_entry_size_1g: U16,
    /// 0.
    pub reserved_3d2: [u8; 6],
    /// Hand-off version that the module writes.
    pub module_handoff_version: U16,
    /// Lowest hand-off version that the module takes over.
    pub min_update_handoff_version: U16,
    /// 1: SYS.SHUTDOWN takes only the module's own hand-off version.
    pub no_downgrade: u8,
    /// 0.
    pub reserved_3dd: u8,
    /// Hand-off pages less one.
    pub handoff_pages_less_1: U16,
    /// Offset of the GDT and IDT page in the module, or 0.
    pub gdt_idt_offset: U32,
    /// Offset of the exception entries in the module, or 0.
    pub fault_wrapper_offset: U32,
    /// 2.0: update version (inferred). Older: reserved, 0.
    pub version_update: U16,
    /// 2.0: minor version (inferred). Older: reserved, 0.
    pub version_minor: u8,
    /// 2.0: major version (inferred). Older: reserved, 0.
    pub version_major: u8,
    /// 2.0: build number (inferred). Older: reserved, 0.
    pub build_number: U16,
    /// 8 and 0 in 2.0.04, else 0; meaning not known.
    pub unknown_3ee: [u8; 2],
    /// 0.
    pub reserved_3f0: [u8; 16],
    /// Entries of the CPU table in use.
    pub cpu_count: U32,
    /// CPUID.1.EAX of the CPUs that the module runs on; the stepping does not count.
    pub cpu_table: [U32; MAX_CPUS],
}

const _: () = {
    assert!(size_of::<Sigstruct>() == SIGSTRUCT_SIZE);
    assert!(offset_of!(Sigstruct, module_type) == 0x00C);
    assert!(offset_of!(Sigstruct, date) == 0x014);
    assert!(offset_of!(Sigstruct, exponent_size) == 0x024);
    assert!(offset_of!(Sigstruct, modulus) == 0x080);
    assert!(offset_of!(Sigstruct, exponent) == 0x200);
    assert!(offset_of!(Sigstruct, signature) == 0x204);
    assert!(offset_of!(Sigstruct, seamhash) == 0x384);
    assert!(offset_of!(Sigstruct, minor_svn) == 0x3B4);
    assert!(offset_of!(Sigstruct, attributes) == 0x3B6);
    assert!(offset_of!(Sigstruct, entry_offset) == 0x3BE);
    assert!(offset_of!(Sigstruct, keyhole_pages_less_1) == 0x3C4);
    assert!(offset_of!(Sigstruct, max_tdmrs) == 0x3C8);
    assert!(offset_of!(Sigstruct, reserved_3d2) == 0x3D2);
    assert!(offset_of!(Sigstruct, module_handoff_version) == 0x3D8);
    assert!(offset_of!(Sigstruct, no_downgrade) == 0x3DC);
    assert!(offset_of!(Sigstruct, handoff_pages_less_1) == 0x3DE);
    assert!(offset_of!(Sigstruct, gdt_idt_offset) == 0x3E0);
    assert!(offset_of!(Sigstruct, version_update) == 0x3E8);
    assert!(offset_of!(Sigstruct, build_number) == 0x3EC);
    assert!(offset_of!(Sigstruct, reserved_3f0) == 0x3F0);
    assert!(offset_of!(Sigstruct, cpu_count) == 0x400);
    assert!(offset_of!(Sigstruct, cpu_table) == 0x404);
    assert!(SIGNED_HEAD + (SIGSTRUCT_SIZE - SIGNED_TAIL) == SIGNED_SIZE);
};

/// The signature covers the bytes before the modulus and those after itself.
const SIGNED_HEAD: usize = offset_of!(Sigstruct, modulus);
const SIGNED_TAIL: usize = offset_of!(Sigstruct, seamhash);

/// Security version of a module. An update keeps the major one and never lowers the minor one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Svn {
    /// Major SVN: 0 TDX 1.0, 1 for 1.5, 3 for 2.0.
    pub major: u8,
    /// Minor SVN.
    pub minor: u8,
}

impl Svn {
    /// As one number, the way SEAMEXTEND and TEE_TCB_SVN hold it.
    pub const fn raw(self) -> u16 {
        u16::from_le_bytes([self.minor, self.major])
    }
}

impl fmt::Display for Svn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A date as BCD yyyymmdd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Date(pub u32);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(raw) = *self;
        write!(f, "{:04x}-{:02x}-{:02x}", raw >> 16, (raw >> 8) & 0xFF, raw & 0xFF)
    }
}

impl Sigstruct {
    /// The SIGSTRUCT in 2048 bytes.
    pub fn read(bytes: &[u8; SIGSTRUCT_SIZE]) -> &Self {
        transmute_ref!(bytes)
    }

    /// The SIGSTRUCT at the start of its page, and the padding.
    pub(crate) fn split(page: &[u8; 4096]) -> (&Self, &[u8; SIGSTRUCT_SIZE]) {
        let halves: &[[u8; SIGSTRUCT_SIZE]; 2] = transmute_ref!(page);
        let [sigstruct, padding] = halves;
        (Self::read(sigstruct), padding)
    }

    /// Build date.
    pub fn date(&self) -> Date {
        Date(self.date.get())
    }

    /// Security version.
    pub const fn svn(&self) -> Svn {
        Svn { major: self.major_svn, minor: self.minor_svn }
    }

    /// Whether the module is signed for debug-unlocked machines only.
    pub fn is_debug(&self) -> bool {
        self.module_type.get() & MODULE_TYPE_DEBUG != 0
    }

    /// CPUID.1.EAX of the CPUs in the table, 255 at most whatever the count says.
    pub fn cpus(&self) -> impl Iterator<Item = u32> {
        let count = usize::try_from(self.cpu_count.get()).unwrap_or(MAX_CPUS);
        self.cpu_table.iter().take(count).map(|cpu| cpu.get())
    }

    /// Whether the table names the CPU, steppings left aside. An empty table names none; only a loader of
    /// TDX 1.0, or a debug module, takes that for "all".
    pub fn covers_cpu(&self, cpuid1_eax: u32) -> bool {
        self.cpus().any(|cpu| cpu & !STEPPING_MASK == cpuid1_eax & !STEPPING_MASK)
    }

    /// SHA-384 of the module's pages: MRSEAM of a running module.
    pub const fn seamhash(&self) -> &[u8; 48] {
        &self.seamhash
    }

    /// Offset of the entry point in the module.
    pub fn entry_offset(&self) -> u32 {
        self.entry_offset.get()
    }

    /// Stack pages of an LP.
    pub fn stack_pages(&self) -> u32 {
        u32::from(self.stack_pages_less_1) + 1
    }

    /// Local data pages of an LP.
    pub fn tls_pages(&self) -> u32 {
        u32::from(self.tls_pages_less_1) + 1
    }

    /// Keyhole pages of an LP.
    pub fn keyhole_pages(&self) -> u32 {
        u32::from(self.keyhole_pages_less_1.get()) + 1
    }

    /// Global data pages.
    pub fn global_data_pages(&self) -> u32 {
        u32::from(self.global_data_pages_less_1.get()) + 1
    }

    /// Pages at the start of the data region that the hand-off has.
    pub fn handoff_pages(&self) -> u32 {
        u32::from(self.handoff_pages_less_1.get()) + 1
    }

    /// Hand-off version that the module writes.
    pub fn module_handoff_version(&self) -> u16 {
        self.module_handoff_version.get()
    }

    /// Lowest hand-off version that the module takes over.
    pub fn min_update_handoff_version(&self) -> u16 {
        self.min_update_handoff_version.get()
    }

    /// Whether the module hands off in its own version only.
    pub const fn no_downgrade(&self) -> bool {
        self.no_downgrade != 0
    }

    /// Offset of the GDT and IDT page in the module, 0 if it has none.
    pub fn gdt_idt_offset(&self) -> u32 {
        self.gdt_idt_offset.get()
    }

    /// Offset of the exception entries in the module, 0 if it has none.
    pub fn fault_wrapper_offset(&self) -> u32 {
        self.fault_wrapper_offset.get()
    }

    /// Version in the bytes that 2.0 modules use for it (inferred); `None` in older modules.
    pub fn recorded_version(&self) -> Option<Version> {
        let version =
            Version::new(self.version_major.into(), self.version_minor.into(), self.version_update.get());
        (version.major != 0).then_some(version)
    }

    /// Build number beside [`Self::recorded_version`] (inferred).
    pub fn recorded_build(&self) -> Option<u16> {
        self.recorded_version().map(|_| self.build_number.get())
    }

    /// The 1,276 bytes under the signature, in two parts: everything but modulus, exponent and signature.
    pub fn signed_parts(&self) -> [&[u8]; 2] {
        let bytes = self.as_bytes();
        [bytes.get(..SIGNED_HEAD).unwrap_or_default(), bytes.get(SIGNED_TAIL..).unwrap_or_default()]
    }
}

impl fmt::Debug for Sigstruct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sigstruct")
            .field("date", &self.date())
            .field("svn", &self.svn())
            .field("debug", &self.is_debug())
            .field("cpus", &self.cpu_count)
            .finish_non_exhaustive()
    }
}
