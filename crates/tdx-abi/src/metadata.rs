//! Metadata fields: identifiers, names and the list that TDH.SYS.RDALL writes.

mod list;
#[cfg(test)]
mod tests;

pub use crate::generated::metadata::{SYS_FIELDS, TD_FIELDS, VMCS_FIELDS, VP_FIELDS, sys};
pub use list::{LIST_HEADER_BYTES, ListError, ListHeader, ListReader, ListWriter, Sequence, Values};

use crate::leaf::Basis;
use core::fmt;

/// Whose field an identifier names: bits 54:52.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Context(u8);

impl Context {
    /// The module.
    pub const SYS: Self = Self(0);
    /// A TD (TDR and TDCS).
    pub const TD: Self = Self(1);
    /// A virtual processor (TDVPS).
    pub const VP: Self = Self(2);

    /// The context with this code; `None` beyond three bits.
    pub const fn new(code: u8) -> Option<Self> {
        if code < 8 { Some(Self(code)) } else { None }
    }

    /// The code.
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SYS => f.write_str("SYS"),
            Self::TD => f.write_str("TD"),
            Self::VP => f.write_str("VP"),
            Self(code) => write!(f, "context {code}"),
        }
    }
}

/// Identifier of a metadata field, and header of a sequence in a list.
///
/// Bits 23:0 field code, 33:32 element size, 37:34 last element in the field, 46:38 last field in
/// the sequence, 50 step of two codes, 51 write mask valid, 54:52 context, 61:56 class, 63 field
/// may change between modules. The others are reserved.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct FieldId(pub u64);

impl FieldId {
    /// Asks for the first readable identifier of a context.
    pub const NULL: Self = Self(u64::MAX);

    const CODE: u64 = 0xFF_FFFF;
    const CONTEXT: u64 = 0x7 << 52;
    const CLASS: u64 = 0x3F << 56;
    const RESERVED: u64 = 0xFF << 24 | 0x7 << 47 | 1 << 55 | 1 << 62;
    const LAST: u64 = 0xF << 34 | 0x1FF << 38;

    /// Bits `low..low + width` of the identifier; `width` is at most 32.
    const fn bits(self, low: u32, width: u32) -> u32 {
        let [a, b, c, d, ..] = (self.0 >> low & ((1 << width) - 1)).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// Any identifier.
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Bits 23:0.
    pub const fn field_code(self) -> u32 {
        self.bits(0, 24)
    }

    /// Bits 33:32: 0, 1, 2, 3 for elements of 1, 2, 4, 8 bytes.
    pub const fn element_size_code(self) -> u32 {
        self.bits(32, 2)
    }

    /// Bytes of an element.
    pub const fn element_bytes(self) -> u32 {
        1 << self.element_size_code()
    }

    /// Bits 37:34: elements of a field, minus one.
    pub const fn last_element_in_field(self) -> u32 {
        self.bits(34, 4)
    }

    /// Bits 46:38: fields of the sequence, minus one.
    pub const fn last_field_in_sequence(self) -> u32 {
        self.bits(38, 9)
    }

    /// Bit 50: consecutive elements are two codes apart, as VMCS encodings are.
    pub const fn inc_size(self) -> bool {
        self.bits(50, 1) != 0
    }

    /// Bit 51: the first element of the sequence is a write mask.
    pub const fn write_mask_valid(self) -> bool {
        self.bits(51, 1) != 0
    }

    /// Bits 54:52.
    pub const fn context(self) -> Context {
        let [.., seventh, _] = self.0.to_le_bytes();
        Context(seventh >> 4 & 0x7)
    }

    /// Bits 61:56.
    pub const fn class(self) -> u8 {
        let [.., eighth] = self.0.to_le_bytes();
        eighth & 0x3F
    }

    /// Bit 63: the field may change between modules.
    pub const fn non_arch(self) -> bool {
        self.0 >> 63 != 0
    }

    /// True if a reserved bit is set.
    pub const fn has_reserved_bits(self) -> bool {
        self.0 & Self::RESERVED != 0
    }

    /// True for [`Self::NULL`]; the context bits do not matter.
    pub const fn is_null(self) -> bool {
        self.0 | Self::CONTEXT == u64::MAX
    }

    /// True if the identifier may stand in a call for one element: no reserved bit, no counts and
    /// no write mask.
    pub const fn is_single_element(self) -> bool {
        !self.has_reserved_bits() && self.0 & Self::LAST == 0 && !self.write_mask_valid()
    }

    /// Elements that follow this header in a list, the write mask not counted.
    pub const fn element_count(self) -> u32 {
        (self.last_element_in_field() + 1) * (self.last_field_in_sequence() + 1)
    }

    /// True if a look-up finds the same field: only context, class and field code count.
    pub const fn same_field(self, other: Self) -> bool {
        const MASK: u64 = FieldId::CODE | FieldId::CONTEXT | FieldId::CLASS;
        self.0 & MASK == other.0 & MASK
    }

    /// The identifier with another context, as a call for one element sees it: short identifiers
    /// have context 0 whatever they name.
    #[must_use]
    pub const fn with_context(self, context: Context) -> Self {
        Self(self.0 & !Self::CONTEXT | (context.0 as u64) << 52)
    }

    /// The identifier of the element `k` places on. Field codes wrap within their 24 bits; no
    /// table holds a field near their end.
    #[must_use]
    pub fn element(self, k: u32) -> Self {
        let step = if self.inc_size() { 2 } else { 1 };
        let code = u64::from(self.field_code()) + u64::from(k) * step;
        Self(self.0 & !Self::CODE | code & Self::CODE)
    }

    /// Header of a sequence of `fields` fields of `elements` elements that starts here; `None` if
    /// a count is zero or too large for its bits.
    #[must_use]
    pub fn sequence(self, elements: u32, fields: u32) -> Option<Self> {
        let elements = elements.checked_sub(1).filter(|&last| last <= 0xF)?;
        let fields = fields.checked_sub(1).filter(|&last| last <= 0x1FF)?;
        Some(Self(self.0 & !Self::LAST | u64::from(elements) << 34 | u64::from(fields) << 38))
    }
}

impl fmt::Display for FieldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match lookup(*self) {
            Some((info, 0)) => write!(f, "{} ({:#018x})", info.name, self.0),
            Some((info, index)) => write!(f, "{}[{index}] ({:#018x})", info.name, self.0),
            None => write!(f, "{:#018x}", self.0),
        }
    }
}

impl fmt::Debug for FieldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How the codes of a field's elements are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldForm {
    /// Consecutive.
    Plain,
    /// From CPUID leaf and subleaf; the whole class is one field.
    Cpuid,
    /// VMCS encodings; the whole class is one field, or one encoding.
    Vmcs,
}

/// What is known of a field.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Name.
    pub name: &'static str,
    /// Identifier of the first element.
    pub id: FieldId,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element_bytes: u32,
    /// Elements of a field.
    pub elements: u32,
    /// Fields of the sequence.
    pub fields: u32,
    /// The host may read it (global fields only).
    pub host_read: bool,
    /// A guest may read it (global fields only).
    pub guest_read: bool,
    /// Linux 7.3 reads it while it brings the module up.
    pub linux_reads: bool,
    /// First release line known to have the field.
    pub since: &'static str,
    /// How well size and access are known.
    pub basis: Basis,
    /// Other identifiers of the field that public sources use.
    pub other_ids: &'static [FieldId],
    /// How the codes of the elements are made.
    pub form: FieldForm,
    /// One sentence on what it holds.
    pub meaning: &'static str,
}

impl FieldInfo {
    /// Elements of all fields together.
    pub const fn element_count(&self) -> u32 {
        self.elements * self.fields
    }

    /// Place of the element that `id` names within this field.
    fn index(&self, id: FieldId) -> Option<u32> {
        if id.context() != self.id.context() || id.class() != self.id.class() {
            return None;
        }
        let offset = id.field_code().checked_sub(self.id.field_code())?;
        let step = match self.form {
            FieldForm::Plain if self.id.inc_size() => 2,
            FieldForm::Plain => 1,
            // Encodings of the TD itself; the VMCS of an L2 VM is one field, class and all.
            FieldForm::Vmcs if self.id.class() == 0 => 2,
            FieldForm::Cpuid | FieldForm::Vmcs => return Some(offset),
        };
        (offset % step == 0 && offset / step < self.element_count()).then_some(offset / step)
    }
}

/// The field with this name, without regard to case; global fields win over those of a TD, and
/// those over the fields of a virtual processor.
pub fn lookup_name(name: &str) -> Option<&'static FieldInfo> {
    [SYS_FIELDS, TD_FIELDS, VP_FIELDS, VMCS_FIELDS]
        .into_iter()
        .flatten()
        .find(|info| info.name.eq_ignore_ascii_case(name))
}

/// The field that `id` names in its context, and the place of the element within it.
pub fn lookup(id: FieldId) -> Option<(&'static FieldInfo, u32)> {
    let tables: &[&[FieldInfo]] = match id.context() {
        Context::SYS => &[SYS_FIELDS],
        Context::TD => &[TD_FIELDS],
        Context::VP => &[VP_FIELDS, VMCS_FIELDS],
        _ => &[],
    };
    tables.iter().copied().flatten().find_map(|info| info.index(id).map(|index| (info, index)))
}
