//! Global metadata: the fields of a module, their values, and how they are found.

mod values;

pub(crate) use values::{Facts, offers};

use tdx_abi::features::Features0;
use tdx_abi::metadata::{Context, FieldId, FieldInfo, sys};

use crate::handoff::HandoffHeader;
use crate::module::Rules;
use crate::platform::Platform;

/// A field whose value does not depend on release or platform.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Constant {
    pub(crate) name: &'static str,
    pub(crate) value: u64,
    /// Without the bits that are not modelled.
    pub(crate) reported: u64,
}

/// A field and its values.
#[derive(Debug)]
struct Entry {
    info: &'static FieldInfo,
    /// Only there once TDX Connect was opted into.
    opt_in: bool,
    values: Box<[u64]>,
}

impl Entry {
    fn is_open(&self, opted_in: Features0) -> bool {
        !self.opt_in || opted_in.contains(Features0::TDX_CONNECT)
    }
}

/// All fields of a module in table order, which is that of class and field code. Made by SYS.INIT;
/// read without a lock afterwards.
#[derive(Debug, Default)]
pub(crate) struct MetadataTable {
    /// Class and field code of each entry, see [`key`]: what a look-up searches.
    keys: Box<[u32]>,
    entries: Box<[Entry]>,
}

/// A field that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Value of the element.
    pub(crate) value: u64,
    /// The element after it; all ones if it is the last.
    pub(crate) next: FieldId,
}

/// A run of values for a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    /// Header of the sequence.
    pub(crate) header: FieldId,
    pub(crate) values: &'a [u64],
}

/// What a look-up compares: class in bits 29:24, field code in 23:0.
const fn key(id: FieldId) -> u32 {
    (id.class() as u32) << 24 | id.field_code()
}

/// The fields that change while the module runs: the header of the hand-off area and the pages that the
/// memory pool still needs. Those of the table are 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveFields([u64; 4]);

/// Place of the memory pool among them.
const POOL: usize = 3;

impl LiveFields {
    pub(crate) fn new(header: HandoffHeader, pool_pages_missing: u32) -> Self {
        let handoff = [u64::from(header.valid), u64::from(header.version), u64::from(header.size)];
        let [valid, version, size] = handoff;
        Self([valid, version, size, u64::from(pool_pages_missing)])
    }

    /// Place of `id` among them: those of the hand-off follow each other.
    fn place(id: FieldId) -> Option<usize> {
        if key(id) == key(sys::MEMORY_POOL_REQUIRED_PAGES) {
            return Some(POOL);
        }
        let place = key(id).checked_sub(key(sys::HANDOFF_DATA_VALID))?;
        usize::try_from(place).ok().filter(|&place| place < POOL)
    }

    /// True if `id` is one of them.
    pub(crate) fn contain(id: FieldId) -> bool {
        Self::place(id).is_some()
    }

    /// Value of one of them.
    pub(crate) fn get(&self, id: FieldId) -> Option<&u64> {
        self.0.get(Self::place(id)?)
    }
}

const _: () = {
    assert!(key(sys::HANDOFF_DATA_HV) == key(sys::HANDOFF_DATA_VALID) + 1);
    assert!(key(sys::HANDOFF_DATA_SIZE) == key(sys::HANDOFF_DATA_VALID) + 2);
};

impl MetadataTable {
    /// The table of a module on a platform whose other facts are sampled.
    pub(crate) fn new(rules: &Rules, facts: &Facts<'_>) -> Self {
        let entries: Box<[Entry]> = values::fields(rules)
            .map(|info| Entry {
                info,
                opt_in: values::needs_opt_in(info, rules),
                values: values::of(info, rules, facts),
            })
            .collect();
        Self { keys: entries.iter().map(|entry| key(entry.info.id)).collect(), entries }
    }

    /// Index of the entry that holds the element, and its place in it.
    fn find(&self, id: FieldId, opted_in: Features0) -> Option<(usize, usize)> {
        let key = key(id);
        let index = self.keys.partition_point(|&first| first <= key).checked_sub(1)?;
        let entry = self.entries.get(index)?;
        let element = usize::try_from(key.checked_sub(*self.keys.get(index)?)?).ok()?;
        (element < entry.values.len() && entry.is_open(opted_in)).then_some((index, element))
    }

    /// The first field at or behind `index`.
    fn first_from(&self, index: usize, opted_in: Features0) -> FieldId {
        self.entries
            .iter()
            .skip(index)
            .find(|entry| entry.is_open(opted_in))
            .map_or(FieldId::NULL, |entry| entry.info.id)
    }

    /// The first field.
    pub(crate) fn first(&self, opted_in: Features0) -> FieldId {
        self.first_from(0, opted_in)
    }

    /// Looks one element up. Size bits, bit 63 and the context of the identifier do not matter.
    pub(crate) fn read(&self, id: FieldId, opted_in: Features0) -> Option<Found> {
        let (index, element) = self.find(id, opted_in)?;
        let entry = self.entries.get(index)?;
        let value = *entry.values.get(element)?;
        let next = if element + 1 < entry.values.len() {
            entry.info.id.element(u32::try_from(element + 1).ok()?)
        } else {
            self.first_from(index + 1, opted_in)
        };
        Some(Found { value, next })
    }

    /// The sequences from `id` (all ones: from the start) to the end of the table; `None` if no
    /// field starts there. The first one may begin inside its table row, at a field border.
    pub(crate) fn runs_from(
        &self,
        id: FieldId,
        opted_in: Features0,
    ) -> Option<impl Iterator<Item = Run<'_>>> {
        let (start, element) = if id.is_null() {
            (0, 0)
        } else {
            let (index, element) = self.find(id.with_context(Context::SYS), opted_in)?;
            let elements = usize::try_from(self.entries.get(index)?.info.elements).ok()?;
            (index, Some(element).filter(|element| element % elements == 0)?)
        };
        let entries =
            self.entries.iter().enumerate().skip(start).filter(move |(_, entry)| entry.is_open(opted_in));
        Some(entries.filter_map(move |(index, entry)| {
            let skipped = if index == start { element } else { 0 };
            let values = entry.values.get(skipped..)?;
            let fields = u32::try_from(values.len()).ok()? / entry.info.elements;
            let first = entry.info.id.element(u32::try_from(skipped).ok()?);
            Some(Run { header: first.sequence(entry.info.elements, fields)?, values })
        }))
    }
}

impl Platform {
    /// Value of a field by name, 0 if the module does not have it: what TDH.SYS.INFO shows.
    pub(crate) fn field(&self, id: FieldId) -> u64 {
        self.metadata.read(id, Features0::EMPTY).map_or(0, |found| found.value)
    }
}
