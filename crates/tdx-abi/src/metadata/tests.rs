extern crate std;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::{format, vec, vec::Vec};

#[test]
fn the_parts_of_an_identifier_are_where_the_encoding_says() {
    let id = sys::CPUID_CONFIG_VALUES;
    assert_eq!((id.field_code(), id.class(), id.context()), (0x500, 25, Context::SYS));
    assert_eq!((id.element_size_code(), id.element_bytes()), (3, 8));
    assert!(id.non_arch() && !id.inc_size() && !id.write_mask_valid());
    assert!(id.is_single_element());
    let header = id.sequence(2, 32).expect("fits");
    assert_eq!((header.last_element_in_field(), header.last_field_in_sequence()), (1, 31));
    assert_eq!(header.element_count(), 64);
    assert!(!header.is_single_element());
    assert!(!FieldId(1 << 51).is_single_element());
}

#[test]
fn reserved_bits_are_those_of_the_encoding() {
    for bit in 0..64 {
        let reserved = (24..32).contains(&bit) || (47..50).contains(&bit) || bit == 55 || bit == 62;
        assert_eq!(FieldId(1 << bit).has_reserved_bits(), reserved, "bit {bit}");
    }
}

#[test]
fn a_look_up_compares_context_class_and_code_only() {
    let short = FieldId(0x9100000000000010);
    let long = FieldId(0x9110000300000010);
    assert!(!short.same_field(long));
    assert!(short.with_context(Context::TD).same_field(long));
    assert_eq!(lookup(long).map(|(info, _)| info.name), Some("NOTIFY_ENABLES"));
    assert_eq!(lookup(short).map(|(info, _)| info.name), Some("PAMT_4K_ENTRY_SIZE"));
    assert!(FieldId(0x3100000100000000).same_field(sys::MEMORY_POOL_REQUIRED_PAGES));
}

#[test]
fn the_null_identifier_ignores_its_context() {
    assert!(FieldId::NULL.is_null());
    assert!(FieldId::NULL.with_context(Context::TD).is_null());
    assert!(!FieldId(!(1 << 62)).is_null());
}

#[test]
fn elements_are_found_with_their_place() {
    let third = sys::CMR_BASE.element(3);
    assert_eq!(third.raw(), 0x9000000300000083);
    let (info, index) = lookup(third).expect("known");
    assert_eq!((info.name, index), ("CMR_BASE", 3));
    assert_eq!(format!("{third}"), "CMR_BASE[3] (0x9000000300000083)");
    assert_eq!(lookup(sys::CMR_BASE.element(32)).map(|(info, _)| info.name), None);
    assert_eq!(FieldId(1 << 50).element(3).field_code(), 6);
    assert_eq!(FieldId(0xFF_FFFF).element(1).raw(), 0);
}

#[test]
fn fields_of_td_and_vp_are_named() {
    for (raw, name) in [
        (0x1110000300000000, "ATTRIBUTES"),
        (0x9410000300000123, "CPUID_VALUES"),
        (0x202000000000000B, "PEND_NMI"),
        (0x0020000000002016, "VMCS Posted-interrupt descriptor address"),
        (0x2420000000006800, "L2_VMCS_1"),
    ] {
        assert_eq!(lookup(FieldId(raw)).map(|(info, _)| info.name), Some(name), "{raw:#x}");
    }
    assert!(lookup(FieldId(0x0F00000000000000)).is_none());
    assert!(lookup(FieldId(0x0F70000000000000)).is_none());
    assert_eq!(format!("{}", FieldId(0x0F00000000000000)), "0x0f00000000000000");
}

#[test]
fn names_find_their_field() {
    let info = lookup_name("minor_version").expect("known");
    assert_eq!((info.id, info.element_bytes), (sys::MINOR_VERSION, 2));
    assert_eq!(sys::MINOR_VERSION.raw(), 0x0800000100000003);
    assert_eq!(sys::TDX_FEATURES0.raw(), 0x0A00000300000008);
    assert!(info.linux_reads);
    assert!(lookup_name("NO_SUCH_FIELD").is_none());
}

#[test]
fn tables_are_in_order_without_overlap_and_agree_with_their_identifiers() {
    for (table, context) in [
        (SYS_FIELDS, Context::SYS),
        (TD_FIELDS, Context::TD),
        (VP_FIELDS, Context::VP),
        (VMCS_FIELDS, Context::VP),
    ] {
        let mut seen = BTreeSet::new();
        let mut last = None;
        for info in table {
            assert_eq!(info.id.context(), context, "{}", info.name);
            assert_eq!(info.id.element_bytes(), info.element_bytes, "{}", info.name);
            assert!(info.id.is_single_element(), "{}", info.name);
            let place = (info.id.class(), info.id.field_code());
            assert!(last < Some(place), "{} is out of order", info.name);
            last = Some(place);
            if info.form == FieldForm::Plain {
                for k in 0..info.element_count() {
                    let id = info.id.element(k);
                    assert!(seen.insert((id.class(), id.field_code())), "{} {k}", info.name);
                    assert_eq!(lookup(id).map(|(found, at)| (found.name, at)), Some((info.name, k)));
                }
            }
            for id in info.other_ids {
                assert!(id.same_field(info.id), "{}", info.name);
            }
            assert!(info.meaning.ends_with('.'), "{}: {}", info.name, info.meaning);
        }
    }
}

#[test]
fn sequence_counts_must_fit_their_bits() {
    let id = sys::CMR_BASE;
    assert!(id.sequence(16, 512).is_some());
    for (elements, fields) in [(0, 1), (1, 0), (17, 1), (1, 513)] {
        assert_eq!(id.sequence(elements, fields), None, "{elements} {fields}");
    }
}

fn list(sequences: &[(FieldId, &[u64])]) -> Vec<u8> {
    let mut page = vec![0xAA; 4096];
    let mut writer = ListWriter::new(&mut page).expect("room for a header");
    for (id, values) in sequences {
        assert!(writer.push(*id, values.iter().copied()));
    }
    writer.finish();
    page
}

#[test]
fn a_written_list_is_read_back() {
    let masked = FieldId(sys::MAX_TDMRS.raw() | 1 << 51);
    let page = list(&[
        (sys::MINOR_VERSION, &[5]),
        (sys::CMR_BASE.sequence(1, 3).expect("fits"), &[1, 2, 3]),
        (masked, &[0xFFFF, 64]),
    ]);
    let read: Vec<_> = ListReader::new(&page)
        .expect("a list")
        .map(|sequence| {
            let sequence = sequence.expect("a sequence");
            (sequence.id.field_code(), sequence.write_mask, sequence.values.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(read, [(3, None, vec![5]), (0x80, None, vec![1, 2, 3]), (8, Some(0xFFFF), vec![64])]);
}

#[test]
fn each_flaw_of_a_list_has_its_error() {
    let good = list(&[(sys::MINOR_VERSION, &[5])]);
    let with = |at: usize, bytes: &[u8]| {
        let mut page = good.clone();
        page[at..at + bytes.len()].copy_from_slice(bytes);
        page
    };
    assert_eq!(ListReader::new(&[0; 7]).err(), Some(ListError::NoHeader { have: 7 }));
    for (page, error) in [
        (with(4, &[1]), ListError::Reserved { reserved: 1 }),
        (with(2, &[0, 0]), ListError::Empty),
        (with(0, &[7, 0]), ListError::TooSmall { size: 7 }),
        (with(0, &[1, 0x10]), ListError::BeyondBuffer { size: 0x1001, have: 4096 }),
    ] {
        assert_eq!(ListReader::new(&page).err(), Some(error));
    }
    for (page, error) in [
        (with(2, &[2]), ListError::Truncated { sequence: 1, offset: 24, need: 8, have: 0 }),
        (with(0, &[23]), ListError::Truncated { sequence: 0, offset: 8, need: 16, have: 15 }),
        (with(11, &[1]), ListError::ReservedInSequence { sequence: 0, id: 0x0800000101000003 }),
        (with(0, &[25]), ListError::Trailing { bytes: 1 }),
    ] {
        let mut reader = ListReader::new(&page).expect("a good header");
        assert_eq!(reader.find_map(Result::err), Some(error));
        assert!(reader.next().is_none(), "an error ends the list");
    }
}

#[test]
fn a_sequence_that_does_not_fit_leaves_the_list_as_it_was() {
    assert!(ListWriter::new(&mut [0; 7]).is_none());
    let mut buffer = [0; 31];
    let mut writer = ListWriter::new(&mut buffer).expect("room for a header");
    assert!(writer.push(sys::MINOR_VERSION, [5]));
    assert!(!writer.push(sys::MAJOR_VERSION, [1]), "no room");
    assert_eq!(writer.finish(), ListHeader { size: 24, sequences: 1 });
    assert_eq!(ListReader::new(&buffer).expect("a list").count(), 1);
    let mut page = [0; 64];
    let mut writer = ListWriter::new(&mut page).expect("room for a header");
    assert!(!writer.push(sys::MINOR_VERSION, []), "a value too few");
    assert!(!writer.push(sys::MINOR_VERSION, [1, 2]), "a value too many");
    assert_eq!(writer.finish(), ListHeader { size: 8, sequences: 0 });
}

proptest! {
    #[test]
    fn an_identifier_is_the_sum_of_its_parts(raw: u64) {
        let id = FieldId(raw);
        let whole = u64::from(id.field_code())
            | u64::from(id.element_size_code()) << 32
            | u64::from(id.last_element_in_field()) << 34
            | u64::from(id.last_field_in_sequence()) << 38
            | u64::from(id.inc_size()) << 50
            | u64::from(id.write_mask_valid()) << 51
            | u64::from(id.context().code()) << 52
            | u64::from(id.class()) << 56
            | u64::from(id.non_arch()) << 63;
        prop_assert_eq!(whole | raw & FieldId::RESERVED, raw);
        prop_assert!(id.same_field(id));
        let _ = lookup(id);
    }

    #[test]
    fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(reader) = ListReader::new(&bytes) {
            let size: usize = reader
                .map_while(Result::ok)
                .map(|sequence| {
                    8 + 8 * (usize::from(sequence.write_mask.is_some()) + sequence.values.count())
                })
                .sum();
            prop_assert!(size + LIST_HEADER_BYTES <= bytes.len());
        }
    }

    #[test]
    fn lists_come_back_as_written(
        rows in proptest::collection::vec((any::<u16>(), 1_u32..4, 1_u32..4, any::<u64>()), 1..12),
    ) {
        let mut page = vec![0; 4096];
        let mut writer = ListWriter::new(&mut page).expect("room for a header");
        let mut written = Vec::new();
        for (code, elements, fields, seed) in rows {
            let id = FieldId(u64::from(code)).sequence(elements, fields).expect("fits");
            let values: Vec<u64> =
                (0..u64::from(id.element_count())).map(|k| seed.wrapping_add(k)).collect();
            prop_assert!(writer.push(id, values.iter().copied()));
            written.push((id, values));
        }
        writer.finish();
        let read: Result<Vec<_>, _> = ListReader::new(&page)
            .expect("a list")
            .map(|sequence| sequence.map(|found| (found.id, found.values.collect::<Vec<_>>())))
            .collect();
        prop_assert_eq!(read, Ok(written));
    }
}
