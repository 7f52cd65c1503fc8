//! The pages of a built module.
//!
//! | pages | content |
//! |---|---|
//! | 0 | file and program headers, the note with the record |
//! | 1 … n − 4 | text: the entry point, the exception entries behind it, int3 to the end |
//! | n − 3 | GDT and IDT: zero |
//! | n − 2 | relocations, dynamic segment, the words that they relocate |
//! | n − 1 | section headers and names, then hlt to the end, as Intel's modules are filled |

use std::vec;
use std::vec::Vec;

use zerocopy::little_endian::U32;
use zerocopy::{FromZeros, IntoBytes};

use super::ModuleSpec;
use crate::container::PAGE;
use crate::elf::{
    ELF_IDENT, FileHeader, PT_NOTE, ProgramHeader, R_X86_64_RELATIVE, Relocation, SHT_RELA, SectionHeader,
};
use crate::record::{NOTE_OWNER, NOTE_TYPE, NoteHeader, RecordHeader};
use crate::sigstruct::{EXCEPTION_ENTRIES, Sigstruct};

pub(super) const MIN_PAGES: u32 = 5;

const PAGE_SIZE: u32 = 4096;
const PROGRAM_HEADERS: u32 = 0x40;
const NOTE: u32 = 0x200;
const TEXT: u32 = PAGE_SIZE;
/// Distance that Intel's modules have as well.
const FAULT_WRAPPER: u32 = TEXT + 0x160;
/// Offsets in page n − 2.
const DYNAMIC_SYMBOLS: u32 = 0x300;
const DYNAMIC_STRINGS: u32 = 0x380;
const DYNAMIC: u32 = 0x400;
const DATA: u32 = 0x800;
/// Words that are relocated.
const WORDS: u32 = 16;
const WORD: u32 = 8;

const FILL: u8 = 0xF4;
const INT3: u8 = 0xCC;
/// hlt; jmp to it.
const ENTRY_CODE: [u8; 3] = [FILL, 0xEB, 0xFD];

const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PF_ALL: u32 = 7;
const PF_READ: u32 = 4;
const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_DYNAMIC: u32 = 6;
const SHT_NOTE: u32 = 7;
const SHT_DYNSYM: u32 = 11;
const SHF_WRITE: u64 = 1;
const SHF_ALLOC: u64 = 2;
const SHF_EXECUTE: u64 = 4;
const DT_NULL: u64 = 0;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_RELAENT: u64 = 9;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_RELACOUNT: u64 = 0x6FFF_FFF9;

/// Sizes of the structures, as the file has them.
const SYMBOL: u32 = 24;
const RELA: u32 = 24;
const PROGRAM_HEADER: u16 = 56;
const SECTION_HEADER: u16 = 64;

/// Where things are in a module of a number of pages.
struct Layout {
    size: u32,
    gdt_idt: u32,
    relocations: u32,
    sections: u32,
}

/// The pages; tells the SIGSTRUCT the offsets in them.
pub(super) fn pages(spec: &ModuleSpec, sigstruct: &mut Sigstruct) -> Vec<u8> {
    let size = spec.pages * PAGE_SIZE;
    let layout = Layout {
        size,
        gdt_idt: size - 3 * PAGE_SIZE,
        relocations: size - 2 * PAGE_SIZE,
        sections: size - PAGE_SIZE,
    };
    sigstruct.entry_offset.set(TEXT);
    if spec.has_handoff_fields() {
        sigstruct.fault_wrapper_offset.set(FAULT_WRAPPER);
        sigstruct.gdt_idt_offset.set(layout.gdt_idt);
    }

    let mut module = Writer { bytes: vec![0; spec.pages as usize * PAGE] };
    let note = note(spec);
    let note_len = len(&note);
    module.put(NOTE, &note);
    module.put(TEXT, &vec![INT3; (layout.gdt_idt - TEXT) as usize]);
    module.put(TEXT, &ENTRY_CODE);
    module.put(FAULT_WRAPPER, &[FILL; EXCEPTION_ENTRIES as usize]);
    module.put(layout.relocations, &relocations(spec, &layout));
    module.put(layout.relocations + DYNAMIC, dynamic(&layout).as_bytes());
    module.put(layout.sections, &vec![FILL; PAGE]);
    let section_count = sections(&layout, note_len, &mut module);
    headers(&layout, note_len, section_count, &mut module);
    module.bytes
}

struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// All offsets come from the layout, inside the pages.
    fn put(&mut self, at: u32, bytes: &[u8]) {
        let at = at as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("parts of a module are small")
}

/// The record as an ELF note.
fn note(spec: &ModuleSpec) -> Vec<u8> {
    let mut record = RecordHeader::new_zeroed();
    record.major.set(spec.version.major);
    record.minor.set(spec.version.minor);
    record.update.set(spec.version.update);
    record.profile_len.set(u16::try_from(spec.profile.len()).expect("the name was checked"));
    let mut header = NoteHeader::new_zeroed();
    header.owner_len.set(len(&NOTE_OWNER));
    let pool_pages = spec.pool_pages.map(U32::new);
    let difference = pool_pages.as_ref().map_or(&[][..], IntoBytes::as_bytes);
    header.content_len.set(len(record.as_bytes()) + len(spec.profile.as_bytes()) + len(difference));
    header.note_type.set(NOTE_TYPE);

    let mut note = Vec::new();
    note.extend_from_slice(header.as_bytes());
    note.extend_from_slice(&NOTE_OWNER);
    note.extend_from_slice(record.as_bytes());
    note.extend_from_slice(spec.profile.as_bytes());
    note.extend_from_slice(difference);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

fn relocations(spec: &ModuleSpec, layout: &Layout) -> Vec<u8> {
    let mut table = Vec::new();
    for word in 0..WORDS {
        let mut relocation = Relocation::new_zeroed();
        let target = if spec.relocation_outside && word == WORDS - 1 {
            layout.size
        } else {
            layout.relocations + DATA + word * WORD
        };
        relocation.offset.set(target.into());
        relocation.info.set(R_X86_64_RELATIVE);
        relocation.addend.set((FAULT_WRAPPER + word * 16).into());
        table.extend_from_slice(relocation.as_bytes());
    }
    table
}

fn dynamic(layout: &Layout) -> [[u64; 2]; 9] {
    let at = |offset: u32| u64::from(layout.relocations + offset);
    let table = [
        [DT_STRTAB, at(DYNAMIC_STRINGS)],
        [DT_SYMTAB, at(DYNAMIC_SYMBOLS)],
        [DT_STRSZ, 1],
        [DT_SYMENT, SYMBOL.into()],
        [DT_RELA, at(0)],
        [DT_RELASZ, (WORDS * RELA).into()],
        [DT_RELAENT, RELA.into()],
        [DT_RELACOUNT, WORDS.into()],
        [DT_NULL, 0],
    ];
    table.map(|entry| entry.map(u64::to_le))
}

/// A row of the section table.
struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    offset: u32,
    size: u32,
    /// Number of the section that this one refers to.
    link: u32,
    /// First symbol that is not local, of a symbol table.
    info: u32,
    entry_size: u32,
    align: u32,
}

/// Writes section headers and names; gives their number.
fn sections(layout: &Layout, note_len: u32, module: &mut Writer) -> u16 {
    let data = |name, kind, offset: u32, size, link, entry_size| Section {
        name,
        kind,
        flags: if matches!(kind, SHT_DYNAMIC | SHT_PROGBITS) { SHF_ALLOC | SHF_WRITE } else { SHF_ALLOC },
        offset: layout.relocations + offset,
        size,
        link,
        info: 0,
        entry_size,
        align: WORD,
    };
    let plain = |name, kind, flags, offset, size, align| Section {
        name,
        kind,
        flags,
        offset,
        size,
        link: 0,
        info: 0,
        entry_size: 0,
        align,
    };
    let dynamic_len = len(dynamic(layout).as_bytes());
    let mut table = vec![
        plain("", 0, 0, 0, 0, 0),
        plain(".note.tdxhost", SHT_NOTE, SHF_ALLOC, NOTE, note_len, 4),
        plain(".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECUTE, TEXT, layout.gdt_idt - TEXT, 16),
        plain(".gdt_idt", SHT_PROGBITS, SHF_ALLOC | SHF_WRITE, layout.gdt_idt, PAGE_SIZE, PAGE_SIZE),
        data(".rela.dyn", SHT_RELA, 0, WORDS * RELA, 5, RELA),
        Section { info: 1, ..data(".dynsym", SHT_DYNSYM, DYNAMIC_SYMBOLS, SYMBOL, 6, SYMBOL) },
        data(".dynstr", SHT_STRTAB, DYNAMIC_STRINGS, 1, 0, 0),
        data(".dynamic", SHT_DYNAMIC, DYNAMIC, dynamic_len, 6, 16),
        data(".data", SHT_PROGBITS, DATA, WORDS * WORD, 0, 0),
    ];
    let names_at = layout.sections + (len_of(&table) + 1) * u32::from(SECTION_HEADER);
    table.push(plain(".shstrtab", SHT_STRTAB, 0, names_at, 0, 1));

    let mut names = Vec::new();
    let count = len_of(&table);
    for (index, section) in (0..count).zip(&mut table) {
        let name = len(&names);
        names.extend_from_slice(section.name.as_bytes());
        names.push(0);
        if index == count - 1 {
            section.size = len(&names);
        }
        let mut header = SectionHeader::new_zeroed();
        header.name.set(name);
        header.section_type.set(section.kind);
        header.flags.set(section.flags);
        // What is not loaded has no address.
        header.address.set(if section.flags & SHF_ALLOC == 0 { 0 } else { section.offset.into() });
        header.offset.set(section.offset.into());
        header.size.set(section.size.into());
        header.link.set(section.link);
        header.info.set(section.info);
        header.align.set(section.align.into());
        header.entry_size.set(section.entry_size.into());
        module.put(layout.sections + index * u32::from(SECTION_HEADER), header.as_bytes());
    }
    module.put(names_at, &names);
    u16::try_from(count).expect("a handful of sections")
}

fn len_of(table: &[Section]) -> u32 {
    u32::try_from(table.len()).expect("a handful of sections")
}

fn headers(layout: &Layout, note_len: u32, section_count: u16, module: &mut Writer) {
    let dynamic_len = len(dynamic(layout).as_bytes());
    let segments = [
        (PT_LOAD, PF_ALL, 0, layout.size, PAGE_SIZE),
        (PT_DYNAMIC, PF_ALL & !1, layout.relocations + DYNAMIC, dynamic_len, WORD),
        (PT_NOTE, PF_READ, NOTE, note_len, 4),
    ];
    let mut at = PROGRAM_HEADERS;
    let mut count = 0;
    for (segment_type, flags, offset, size, align) in segments {
        let mut header = ProgramHeader::new_zeroed();
        header.segment_type.set(segment_type);
        header.flags.set(flags);
        header.offset.set(offset.into());
        header.virtual_address.set(offset.into());
        header.physical_address.set(offset.into());
        header.file_size.set(size.into());
        header.memory_size.set(size.into());
        header.align.set(align.into());
        module.put(at, header.as_bytes());
        at += u32::from(PROGRAM_HEADER);
        count += 1;
    }
    let mut header = FileHeader::new_zeroed();
    header.ident = ELF_IDENT;
    header.file_type.set(ET_DYN);
    header.machine.set(EM_X86_64);
    header.version.set(1);
    header.entry.set(TEXT.into());
    header.program_headers.set(PROGRAM_HEADERS.into());
    header.section_headers.set(layout.sections.into());
    header.header_size.set(64);
    header.program_header_size.set(PROGRAM_HEADER);
    header.program_header_count.set(count);
    header.section_header_size.set(SECTION_HEADER);
    header.section_header_count.set(section_count);
    header.section_names.set(section_count - 1);
    module.put(0, header.as_bytes());
}
