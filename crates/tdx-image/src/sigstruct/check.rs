//! What P-SEAMLDR asks of the fields of a SIGSTRUCT before it looks at hash and signature
//! (SEAMLDR.INSTALL rows 10 and 16).

use core::ops::Range;

use zerocopy::IntoBytes;

use super::{MAX_CPUS, MODULE_TYPE_DEBUG, Sigstruct};
use crate::container::PAGE;
use crate::reason::reason_enum;

/// Whose rules apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SigstructRules {
    /// P-SEAMLDR 1.0: everything behind the PAMT entry sizes is reserved, hand-off and GDT fields too.
    Loader1_0,
    /// P-SEAMLDR 1.5 before 1.5.02.
    Loader1_5,
    /// P-SEAMLDR 1.5.02.
    Loader1_5_02,
    /// P-SEAMLDR 2.0. No source is public; assumed to ask what 1.5.02 asks but to let 8 bytes at 0x3E8 be
    /// the version.
    Loader2_0,
}

impl SigstructRules {
    /// All, oldest first.
    pub const ALL: [Self; 4] = [Self::Loader1_0, Self::Loader1_5, Self::Loader1_5_02, Self::Loader2_0];

    /// Byte ranges that must be zero.
    const fn reserved(self) -> &'static [Range<u32>] {
        match self {
            Self::Loader1_0 => &[0x028..0x080, 0x3D2..0x400],
            Self::Loader1_5 | Self::Loader1_5_02 => &[0x028..0x080, 0x3D2..0x3D8, 0x3DD..0x3DE, 0x3E8..0x400],
            Self::Loader2_0 => &[0x028..0x080, 0x3D2..0x3D8, 0x3DD..0x3DE, 0x3F0..0x400],
        }
    }

    /// Whether hand-off versions and the GDT, IDT and exception offsets are fields.
    const fn has_handoff_fields(self) -> bool {
        !matches!(self, Self::Loader1_0)
    }
}

const HEADER_TYPE: u32 = 6;
const HEADER_LENGTH: u32 = 0xE1;
const HEADER_VERSION: u32 = 0x0001_0000;
const KEY_SIZE: u32 = 0x60;
const EXPONENT_SIZE: u32 = 1;
const VENDOR: u32 = 0x8086;
const SIZE: u32 = 0x200;
pub(crate) const EXPONENT: u32 = 0x10001;
/// Bytes of the exception entries: 32 vectors of 16 bytes.
pub(crate) const EXCEPTION_ENTRIES: u32 = 32 * 16;

reason_enum! {
    /// Why P-SEAMLDR refuses a SIGSTRUCT for its fields (EBADSIG), in the order in which it looks.
    pub enum SigstructError {
        /// A reserved byte is not zero.
        ReservedNotZero {
            /// Offset in the SIGSTRUCT of the first one.
            offset: u32,
        } = "sigstruct-reserved-not-zero",
            "byte {offset:#x} of the SIGSTRUCT is reserved for this P-SEAMLDR, but not zero",
            "a 2.0 module needs a 2.0 P-SEAMLDR, and a 1.5 module a 1.5 one; else the file is damaged";
        /// Not a SIGSTRUCT of generic firmware.
        HeaderType {
            /// The field.
            value: u32,
        } = "sigstruct-header-type",
            "header type of the SIGSTRUCT is {value:#x}, not 6",
            "the file is damaged, or no SIGSTRUCT of a TDX module";
        /// Header length.
        HeaderLength {
            /// The field, in dwords.
            value: u32,
        } = "sigstruct-header-length",
            "header length of the SIGSTRUCT is {value:#x} dwords, not 0xe1",
            "the file is damaged, or no SIGSTRUCT of a TDX module";
        /// Header version.
        HeaderVersion {
            /// The field.
            value: u32,
        } = "sigstruct-header-version",
            "header version of the SIGSTRUCT is {value:#x}, not 0x10000",
            "the file is damaged, or no SIGSTRUCT of a TDX module";
        /// Key size.
        KeySize {
            /// The field, in dwords.
            value: u32,
        } = "sigstruct-key-size",
            "key size of the SIGSTRUCT is {value:#x} dwords, not 0x60 (RSA-3072)",
            "the file is damaged, or no SIGSTRUCT of a TDX module";
        /// Exponent size.
        ExponentSize {
            /// The field, in dwords.
            value: u32,
        } = "sigstruct-exponent-size",
            "exponent size of the SIGSTRUCT is {value:#x} dwords, not 1",
            "the file is damaged, or no SIGSTRUCT of a TDX module";
        /// Modulus size.
        ModulusSize {
            /// The field, in dwords.
            value: u32,
        } = "sigstruct-modulus-size",
            "modulus size of the SIGSTRUCT is {value:#x} dwords, not 0x60 (RSA-3072)",
            "the file is damaged, or no SIGSTRUCT of a TDX module";
        /// Vendor.
        Vendor {
            /// The field.
            value: u32,
        } = "sigstruct-vendor",
            "vendor of the SIGSTRUCT is {value:#x}, not 0x8086",
            "the file is damaged, or no SIGSTRUCT of a TDX module";
        /// A bit of the module type that has no meaning.
        ModuleType {
            /// The field.
            value: u32,
        } = "sigstruct-module-type",
            "module type of the SIGSTRUCT is {value:#x}; only bit 31 (debug) has a meaning",
            "the file is damaged, or for a loader of the future";
        /// Attributes are in use.
        Attributes {
            /// The field.
            value: u64,
        } = "sigstruct-attributes",
            "attributes of the SIGSTRUCT are {value:#x}, not 0",
            "the file is damaged, or for a loader of the future";
        /// Total size.
        Size {
            /// The field, in dwords.
            value: u32,
        } = "sigstruct-size",
            "size of the SIGSTRUCT is {value:#x} dwords, not 0x200",
            "the file is damaged, or no SIGSTRUCT of a TDX module";
        /// More CPUs than the table has room for.
        CpuCount {
            /// The field.
            value: u32,
        } = "sigstruct-cpu-count",
            "the SIGSTRUCT counts {value} CPUs, but its table has room for 255",
            "the file is damaged";
        /// Public exponent.
        Exponent {
            /// The field.
            value: u32,
        } = "sigstruct-exponent",
            "exponent of the SIGSTRUCT is {value:#x}, not 0x10001",
            "the file is damaged";
        /// The module would not take over from itself.
        HandoffVersions {
            /// Lowest hand-off version that it takes over.
            min_update: u16,
            /// Hand-off version that it writes.
            module: u16,
        } = "sigstruct-handoff-versions",
            "lowest hand-off version {min_update} is above the module's own, {module}",
            "the module was built wrong: ask who built it";
        /// The GDT and IDT page does not begin on a page.
        GdtIdtMisaligned {
            /// The field.
            offset: u32,
        } = "sigstruct-gdt-idt-misaligned",
            "GDT and IDT of the module are at {offset:#x}, which is not a multiple of 4096",
            "the module was built wrong: ask who built it";
        /// One of both offsets is zero, the other is not.
        ExceptionOffsets {
            /// Offset of GDT and IDT.
            gdt_idt: u32,
            /// Offset of the exception entries.
            fault_wrapper: u32,
        } = "sigstruct-exception-offsets",
            "offsets of GDT and IDT ({gdt_idt:#x}) and of the exception entries ({fault_wrapper:#x}): only one is zero",
            "the module was built wrong: ask who built it";
        /// GDT and IDT lie behind the module's end.
        GdtIdtOutside {
            /// The field.
            offset: u32,
            /// Bytes of the module.
            len: u64,
        } = "sigstruct-gdt-idt-outside",
            "GDT and IDT at {offset:#x} do not fit into a module of {len:#x} bytes",
            "SIGSTRUCT and module do not belong together, or the module was built wrong";
        /// The exception entries lie behind the module's end.
        FaultWrapperOutside {
            /// The field.
            offset: u32,
            /// Bytes of the module.
            len: u64,
        } = "sigstruct-fault-wrapper-outside",
            "512 bytes of exception entries at {offset:#x} do not fit into a module of {len:#x} bytes",
            "SIGSTRUCT and module do not belong together, or the module was built wrong";
    }
}

/// Sets the fields that are the same in every SIGSTRUCT, and the sizes that Intel's have.
#[cfg(feature = "build")]
pub(crate) fn fixed_fields(sigstruct: &mut Sigstruct) {
    sigstruct.header_type.set(HEADER_TYPE);
    sigstruct.header_length.set(HEADER_LENGTH);
    sigstruct.header_version.set(HEADER_VERSION);
    sigstruct.vendor.set(VENDOR);
    sigstruct.size.set(SIZE);
    sigstruct.key_size.set(KEY_SIZE);
    sigstruct.modulus_size.set(KEY_SIZE);
    sigstruct.exponent_size.set(EXPONENT_SIZE);
    sigstruct.stack_pages_less_1 = 1;
    sigstruct.tls_pages_less_1 = 1;
    sigstruct.keyhole_pages_less_1.set(127);
    sigstruct.global_data_pages_less_1.set(21);
}

impl Sigstruct {
    /// What row 10 of SEAMLDR.INSTALL asks of the fields.
    pub fn check(&self, rules: SigstructRules) -> Result<(), SigstructError> {
        self.check_reserved(rules)?;
        expect(self.header_type.get(), HEADER_TYPE, |value| SigstructError::HeaderType { value })?;
        expect(self.header_length.get(), HEADER_LENGTH, |value| SigstructError::HeaderLength { value })?;
        expect(self.header_version.get(), HEADER_VERSION, |value| SigstructError::HeaderVersion { value })?;
        expect(self.key_size.get(), KEY_SIZE, |value| SigstructError::KeySize { value })?;
        expect(self.exponent_size.get(), EXPONENT_SIZE, |value| SigstructError::ExponentSize { value })?;
        expect(self.modulus_size.get(), KEY_SIZE, |value| SigstructError::ModulusSize { value })?;
        expect(self.vendor.get(), VENDOR, |value| SigstructError::Vendor { value })?;
        let value = self.module_type.get();
        if value & !MODULE_TYPE_DEBUG != 0 {
            return Err(SigstructError::ModuleType { value });
        }
        let value = self.attributes.get();
        if value != 0 {
            return Err(SigstructError::Attributes { value });
        }
        expect(self.size.get(), SIZE, |value| SigstructError::Size { value })?;
        let value = self.cpu_count.get();
        if u64::from(value) > MAX_CPUS as u64 {
            return Err(SigstructError::CpuCount { value });
        }
        expect(self.exponent.get(), EXPONENT, |value| SigstructError::Exponent { value })?;
        if rules.has_handoff_fields() { self.check_handoff_fields() } else { Ok(()) }
    }

    /// What row 16 of SEAMLDR.INSTALL asks (1.5 and later): GDT, IDT and exception entries lie in the module.
    pub fn check_offsets(&self, module_pages: u32) -> Result<(), SigstructError> {
        let len = u64::from(module_pages) * PAGE as u64;
        let fits = |offset: u32, size: u64| offset == 0 || u64::from(offset) + size <= len;
        let offset = self.gdt_idt_offset();
        if !fits(offset, PAGE as u64) {
            return Err(SigstructError::GdtIdtOutside { offset, len });
        }
        let offset = self.fault_wrapper_offset();
        if !fits(offset, EXCEPTION_ENTRIES.into()) {
            return Err(SigstructError::FaultWrapperOutside { offset, len });
        }
        Ok(())
    }

    fn check_reserved(&self, rules: SigstructRules) -> Result<(), SigstructError> {
        let reserved = rules.reserved();
        let found = (0_u32..)
            .zip(self.as_bytes())
            .find(|(offset, byte)| **byte != 0 && reserved.iter().any(|range| range.contains(offset)));
        match found {
            Some((offset, _)) => Err(SigstructError::ReservedNotZero { offset }),
            None => Ok(()),
        }
    }

    fn check_handoff_fields(&self) -> Result<(), SigstructError> {
        let (min_update, module) = (self.min_update_handoff_version(), self.module_handoff_version());
        if min_update > module {
            return Err(SigstructError::HandoffVersions { min_update, module });
        }
        let (gdt_idt, fault_wrapper) = (self.gdt_idt_offset(), self.fault_wrapper_offset());
        if u64::from(gdt_idt) % PAGE as u64 != 0 {
            return Err(SigstructError::GdtIdtMisaligned { offset: gdt_idt });
        }
        if (gdt_idt == 0) != (fault_wrapper == 0) {
            return Err(SigstructError::ExceptionOffsets { gdt_idt, fault_wrapper });
        }
        Ok(())
    }
}

fn expect(value: u32, wanted: u32, error: fn(u32) -> SigstructError) -> Result<(), SigstructError> {
    if value == wanted { Ok(()) } else { Err(error(value)) }
}
