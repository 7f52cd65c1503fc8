//! The relocations of a module. A module is an ELF64 file that P-SEAMLDR places at a random address, so it
//! relocates it (SEAMLDR.INSTALL row 25).
//!
//! P-SEAMLDR 1.5 finds relocations by the *section headers* (every SHT_RELA section), not by the dynamic
//! segment: `DT_RELASZ` is 0 in the modules published up to 2026-02, though each has 49 to 76 relocations.

use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::reason::reason_enum;

/// Magic, 64-bit class, little endian, version 1.
pub(crate) const ELF_IDENT: [u8; 7] = [0x7F, b'E', b'L', b'F', 2, 1, 1];
pub(crate) const SHT_RELA: u32 = 4;
pub(crate) const PT_NOTE: u32 = 4;
/// `r_info` of R_X86_64_RELATIVE with symbol 0.
pub(crate) const R_X86_64_RELATIVE: u64 = 8;
/// Bytes that a relocation writes.
const TARGET_SIZE: u64 = 8;

/// Elf64_Ehdr.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct FileHeader {
    pub(crate) ident: [u8; 7],
    pub(crate) abi_and_padding: [u8; 9],
    pub(crate) file_type: U16,
    pub(crate) machine: U16,
    pub(crate) version: U32,
    pub(crate) entry: U64,
    pub(crate) program_headers: U64,
    pub(crate) section_headers: U64,
    pub(crate) flags: U32,
    pub(crate) header_size: U16,
    pub(crate) program_header_size: U16,
    pub(crate) program_header_count: U16,
    pub(crate) section_header_size: U16,
    pub(crate) section_header_count: U16,
    pub(crate) section_names: U16,
}

/// Elf64_Phdr.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct ProgramHeader {
    pub(crate) segment_type: U32,
    pub(crate) flags: U32,
    pub(crate) offset: U64,
    pub(crate) virtual_address: U64,
    pub(crate) physical_address: U64,
    pub(crate) file_size: U64,
    pub(crate) memory_size: U64,
    pub(crate) align: U64,
}

/// Elf64_Shdr.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct SectionHeader {
    pub(crate) name: U32,
    pub(crate) section_type: U32,
    pub(crate) flags: U64,
    pub(crate) address: U64,
    pub(crate) offset: U64,
    pub(crate) size: U64,
    pub(crate) link: U32,
    pub(crate) info: U32,
    pub(crate) align: U64,
    pub(crate) entry_size: U64,
}

/// Elf64_Rela.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Relocation {
    pub(crate) offset: U64,
    pub(crate) info: U64,
    pub(crate) addend: U64,
}

const _: () = {
    assert!(size_of::<FileHeader>() == 64);
    assert!(offset_of!(FileHeader, section_headers) == 40);
    assert!(offset_of!(FileHeader, section_header_count) == 60);
    assert!(size_of::<ProgramHeader>() == 56);
    assert!(size_of::<SectionHeader>() == 64);
    assert!(offset_of!(SectionHeader, entry_size) == 56);
    assert!(size_of::<Relocation>() == 24);
};

reason_enum! {
    /// Why P-SEAMLDR cannot relocate a module (EBADPARAM).
    pub enum RelocationError {
        /// The module is not an ELF64 file of a little-endian machine.
        NotElf64 = "module-not-elf64",
            "the module does not begin as a little-endian ELF64 file of version 1",
            "take the module itself (.bin), not an archive or a part of it";
        /// A section header lies behind the end of the module.
        SectionHeaderOutside {
            /// Number of the section.
            section: u16,
        } = "module-section-header-outside",
            "header of section {section} lies outside the module",
            "the module is cut off, or was built wrong";
        /// The entries of a relocation section have another size than a relocation.
        EntrySize {
            /// Number of the section.
            section: u16,
            /// Bytes of an entry.
            size: u64,
        } = "module-relocation-entry-size",
            "relocations of section {section} have entries of {size} bytes, not of 24",
            "the module was built wrong";
        /// A relocation entry lies behind the end of the module.
        EntryOutside {
            /// Address of the entry.
            address: u64,
        } = "module-relocation-entry-outside",
            "the relocation entry at {address:#x} lies outside the module",
            "the module is cut off, or was built wrong";
        /// Tables overlap so that there are more entries than the module has room for.
        TooMany = "module-relocations-overlap",
            "the relocation tables have more entries than the module has room for",
            "the module was built wrong: its relocation sections overlap";
        /// Another relocation than R_X86_64_RELATIVE.
        Type {
            /// `r_info` of the entry.
            info: u64,
        } = "module-relocation-type",
            "a relocation has type and symbol {info:#x}; only R_X86_64_RELATIVE (0x8) is taken",
            "link the module as a static position-independent executable";
        /// A relocation writes outside the module.
        TargetOutside {
            /// Address of the target.
            target: u64,
        } = "module-relocation-target-outside",
            "a relocation writes to {target:#x}, outside the module",
            "the module was built wrong";
        /// A relocation points outside the module.
        AddendOutside {
            /// What it points to.
            addend: u64,
        } = "module-relocation-addend-outside",
            "a relocation points to {addend:#x}, outside the module",
            "the module was built wrong";
    }
}

/// Whether P-SEAMLDR can relocate the module: every relocation is R_X86_64_RELATIVE and stays inside.
///
/// Strides other than the sizes of a header and of an entry, which P-SEAMLDR would follow, are refused: no
/// linker makes them.
pub fn check_relocations(module: &[u8]) -> Result<(), RelocationError> {
    let len = module.len() as u64;
    let header = file_header(module).ok_or(RelocationError::NotElf64)?;
    let mut room = len / size_of::<Relocation>() as u64;
    for section in 0..header.section_header_count.get() {
        let at = u64::from(section)
            .checked_mul(size_of::<SectionHeader>() as u64)
            .and_then(|at| at.checked_add(header.section_headers.get()));
        let section_header: &SectionHeader = at
            .and_then(|at| read(module, at))
            .filter(|_| usize::from(header.section_header_size.get()) == size_of::<SectionHeader>())
            .ok_or(RelocationError::SectionHeaderOutside { section })?;
        if section_header.section_type.get() == SHT_RELA {
            check_section(module, section, section_header, &mut room)?;
        }
    }
    Ok(())
}

fn check_section(
    module: &[u8],
    section: u16,
    header: &SectionHeader,
    room: &mut u64,
) -> Result<(), RelocationError> {
    let len = module.len() as u64;
    let size = header.entry_size.get();
    let entry_size = size_of::<Relocation>() as u64;
    if size != entry_size {
        return Err(RelocationError::EntrySize { section, size });
    }
    let mut address = header.address.get();
    for _ in 0..header.size.get() / entry_size {
        let relocation: &Relocation =
            read(module, address).ok_or(RelocationError::EntryOutside { address })?;
        *room = room.checked_sub(1).ok_or(RelocationError::TooMany)?;
        let info = relocation.info.get();
        if info != R_X86_64_RELATIVE {
            return Err(RelocationError::Type { info });
        }
        let target = relocation.offset.get();
        if target.checked_add(TARGET_SIZE).is_none_or(|end| end > len) {
            return Err(RelocationError::TargetOutside { target });
        }
        let addend = relocation.addend.get();
        if addend >= len {
            return Err(RelocationError::AddendOutside { addend });
        }
        // Below the module's length, so no overflow.
        address = address.saturating_add(entry_size);
    }
    Ok(())
}

/// The file header of a module that begins as one.
pub(crate) fn file_header(module: &[u8]) -> Option<&FileHeader> {
    let (header, _) = FileHeader::ref_from_prefix(module).ok()?;
    (header.ident == ELF_IDENT).then_some(header)
}

/// A structure at an offset.
fn read<T: FromBytes + Immutable + KnownLayout + Unaligned>(bytes: &[u8], at: u64) -> Option<&T> {
    let (value, _) = T::ref_from_prefix(bytes.get(usize::try_from(at).ok()?..)?).ok()?;
    Some(value)
}

/// Program headers that are looked at: more than any module has.
const MAX_PROGRAM_HEADERS: u16 = 16;

/// The contents of a module's PT_NOTE segments.
pub(crate) fn note_segments(module: &[u8]) -> impl Iterator<Item = &[u8]> {
    let header = file_header(module);
    let count = header.map_or(0, |header| header.program_header_count.get().min(MAX_PROGRAM_HEADERS));
    let first = header.map_or(0, |header| header.program_headers.get());
    (0..u64::from(count)).filter_map(move |index| {
        let at = first.checked_add(index * size_of::<ProgramHeader>() as u64)?;
        let program_header: &ProgramHeader = read(module, at)?;
        if program_header.segment_type.get() != PT_NOTE {
            return None;
        }
        let start = program_header.offset.get();
        let end = start.checked_add(program_header.file_size.get())?;
        module.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    })
}
