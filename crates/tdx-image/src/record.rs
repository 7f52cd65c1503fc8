//! The record that this project's own modules carry: which version and which profile they play, and how they
//! differ from it.
//!
//! It is an ELF note of owner `tdxhost` and type 1, so that `readelf --notes` shows it. Intel's modules carry
//! nothing like it. It is as good as the signature on the image: ask who signed before you believe it.

use core::str;

use tdx_abi::seamldr::Version;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::elf;

/// Owner of the note, with its zero.
pub(crate) const NOTE_OWNER: [u8; 8] = *b"tdxhost\0";
/// Type of the note.
pub(crate) const NOTE_TYPE: u32 = 1;
/// Longest name of a profile in bytes.
pub const MAX_PROFILE_LEN: usize = 64;

/// Head of an ELF note.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct NoteHeader {
    pub(crate) owner_len: U32,
    pub(crate) content_len: U32,
    pub(crate) note_type: U32,
}

/// Head of the note's content; the profile follows, and behind it, where a module differs from its profile
/// in that, the pages of its memory pool (4 bytes).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RecordHeader {
    pub(crate) major: U16,
    pub(crate) minor: U16,
    pub(crate) update: U16,
    pub(crate) profile_len: U16,
}

/// What a module of this project says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ModuleRecord<'a> {
    /// Version that the module reports.
    pub version: Version,
    /// Name of the profile that the software module plays; empty: the one of the version.
    pub profile: &'a str,
    /// Pages that the memory pool of its extensions needs, if not those of the profile.
    pub pool_pages: Option<u32>,
}

impl ModuleRecord<'_> {
    /// The record in a module's pages.
    pub fn find(module: &[u8]) -> Option<ModuleRecord<'_>> {
        elf::note_segments(module).flat_map(|bytes| Notes { bytes }).find_map(read_record)
    }
}

/// The notes of a segment; ends at the first that does not fit.
struct Notes<'a> {
    bytes: &'a [u8],
}

#[derive(Clone, Copy)]
struct Note<'a> {
    owner: &'a [u8],
    kind: u32,
    content: &'a [u8],
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let (header, rest) = NoteHeader::ref_from_prefix(self.bytes).ok()?;
        let (owner, rest) = take_padded(rest, header.owner_len.get())?;
        let (content, rest) = take_padded(rest, header.content_len.get())?;
        self.bytes = rest;
        Some(Note { owner, kind: header.note_type.get(), content })
    }
}

/// `len` bytes, and what follows their padding to 4.
fn take_padded(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    let len = usize::try_from(len).ok()?;
    let taken = bytes.get(..len)?;
    let rest = bytes.get(len.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((taken, rest))
}

fn read_record(note: Note<'_>) -> Option<ModuleRecord<'_>> {
    if note.owner != NOTE_OWNER || note.kind != NOTE_TYPE {
        return None;
    }
    let (header, rest) = RecordHeader::ref_from_prefix(note.content).ok()?;
    let len = usize::from(header.profile_len.get());
    let (profile, rest) = rest.split_at_checked(len)?;
    let profile = str::from_utf8(profile).ok()?;
    let pool_pages = match rest {
        [] => None,
        rest => Some(U32::read_from_bytes(rest).ok()?.get()),
    };
    let printable = profile.bytes().all(|byte| byte.is_ascii_graphic());
    (len <= MAX_PROFILE_LEN && printable).then_some(ModuleRecord {
        version: Version::new(header.major.get(), header.minor.get(), header.update.get()),
        profile,
        pool_pages,
    })
}
