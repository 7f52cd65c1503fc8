//! What stands inside the records of messages: opaque data.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::opaque::{write_selected_version, write_supported_versions};
use super::super::*;
use super::{changed, length, reserved, value, written};
use crate::ids::Version;

const SUPPORTED: [u8; 16] = [1, 0, 0, 0, 0, 0, 7, 0, 1, 1, 2, 0, 0x11, 0, 0x12, 0];
const SELECTED: [u8; 12] = [1, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0x12];

#[test]
fn versions_of_secured_messages_are_told_in_opaque_data() {
    let versions = VersionList::released(&[Version::V1_1, Version::V1_2]).unwrap();
    assert_eq!(written(|writer| write_supported_versions(writer, &versions)), SUPPORTED);
    let selected = VersionNumber::released(Version::V1_2);
    assert_eq!(written(|writer| write_selected_version(writer, selected)), SELECTED);

    let opaque = OpaqueData::parse(&SUPPORTED).unwrap();
    assert_eq!((opaque.supported_versions(), opaque.selected_version()), (Ok(Some(versions)), Ok(None)));
    let opaque = OpaqueData::parse(&SELECTED).unwrap();
    assert_eq!((opaque.supported_versions(), opaque.selected_version()), (Ok(None), Ok(Some(selected))));
}

#[test]
fn elements_of_others_are_no_versions() {
    // Another version of the element, and the same bytes of another registry.
    let other = changed(&SUPPORTED, &[(8, 2)]);
    assert_eq!(OpaqueData::parse(&other).unwrap().supported_versions(), Ok(None));
    let vesa = changed(&SUPPORTED, &[(4, 9)]);
    assert_eq!(OpaqueData::parse(&vesa).unwrap().supported_versions(), Ok(None));
}

#[test]
fn opaque_data_refuse_whatever_does_not_add_up() {
    let rows: [(&[(usize, u8)], DecodeError); 9] = [
        (&[(0, 0)], value("TotalElements", 0)),
        (&[(2, 1)], reserved("bytes 1 to 3 of opaque data", 1)),
        (&[(4, 12)], value("the ID of an opaque element", 12)),
        (&[(5, 1)], length("VendorID", 1, 0)),
        (&[(4, 1)], length("VendorID", 0, 2)),
        (&[(6, 9)], DecodeError::Truncated { field: "OpaqueElementData", needed: 9, left: 8 }),
        (&[(15, 1)], reserved("AlignPadding", 1)),
        (&[(6, 4)], DecodeError::Trailing { extra: 4 }),
        (&[(0, 2)], DecodeError::Truncated { field: "the ID of an opaque element", needed: 1, left: 0 }),
    ];
    for (changes, refused) in rows {
        assert_eq!(OpaqueData::parse(&changed(&SUPPORTED, changes)), Err(refused), "{changes:?}");
    }
    let truncated = DecodeError::Truncated { field: "the header of opaque data", needed: 4, left: 3 };
    assert_eq!(OpaqueData::parse(&SUPPORTED[..3]), Err(truncated));
    let unpadded = DecodeError::Truncated { field: "AlignPadding", needed: 1, left: 0 };
    assert_eq!(OpaqueData::parse(&SUPPORTED[..15]), Err(unpadded));
    assert_eq!(OpaqueData::parse(&[0; 1025]), Err(length("OpaqueData", 1025, 1024)));
}

#[test]
fn versions_of_secured_messages_refuse_whatever_does_not_add_up() {
    let supported = |changes: &[(usize, u8)]| {
        OpaqueData::parse(&changed(&SUPPORTED, changes)).unwrap().supported_versions()
    };
    assert_eq!(supported(&[(10, 0)]), Err(value("VersionNumberEntryCount", 0)));
    assert_eq!(supported(&[(10, 1)]), Err(DecodeError::Trailing { extra: 2 }));
    assert_eq!(supported(&[(14, 0x11)]), Err(value("a second VersionNumberEntry", 0x1100)));
    let twice: Vec<u8> = [&[2, 0, 0, 0], &SELECTED[4..], &SELECTED[4..]].concat();
    let refused = value("the SMDataID of a second element", 0);
    assert_eq!(OpaqueData::parse(&twice).unwrap().selected_version(), Err(refused));
    let short = [1, 0, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0];
    let truncated = DecodeError::Truncated { field: "SelectedVersion", needed: 2, left: 1 };
    assert_eq!(OpaqueData::parse(&short).unwrap().selected_version(), Err(truncated));
    let empty = [1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0];
    let truncated = DecodeError::Truncated { field: "SMDataID", needed: 1, left: 0 };
    assert_eq!(OpaqueData::parse(&empty).unwrap().selected_version(), Err(truncated));
}

#[test]
fn the_blocks_of_a_record_end_behind_the_first_that_is_refused() {
    let record = [1, 1, 4, 0, 0x85, 1, 0, 9, 2, 1];
    let mut blocks = MeasurementBlocks::new(&record);
    let block =
        MeasurementBlock { index: 1, kind: MeasurementKind::DEVICE_MODE, value: MeasurementValue::Raw(&[9]) };
    assert_eq!(blocks.next(), Some(Ok(block)));
    assert_eq!(block.size(), 8);
    assert!(matches!(blocks.next(), Some(Err(DecodeError::Truncated { .. }))));
    assert_eq!(blocks.next(), None);
}

proptest! {
    #[test]
    fn opaque_data_are_refused_or_canonical(
        bytes in prop::collection::vec(prop_oneof![Just(0), 0_u8..12], 0..64),
        count in 0_u8..4,
    ) {
        let mut opaque = alloc::vec![count, 0, 0, 0];
        opaque.extend(bytes);
        if let Ok(read) = OpaqueData::parse(&opaque) {
            let elements: Vec<_> = read.elements().collect();
            prop_assert_eq!(elements.len(), usize::from(count));
            prop_assert_eq!(written(|writer| OpaqueData::write(writer, &elements)), opaque.clone());
            // Told or refused, but never a panic.
            let _ = (read.supported_versions(), read.selected_version());
        }
    }

    #[test]
    fn elements_read_back_as_they_were_written(
        parts in prop::collection::vec((0_u16..12, prop::collection::vec(any::<u8>(), 0..40)), 1..8),
        vendor in any::<[u8; 4]>(),
    ) {
        let elements: Vec<_> = parts
            .iter()
            .map(|(registry, data)| {
                let registry = StandardId(*registry);
                let vendor_id = &vendor[..registry.vendor_id_size().unwrap_or(3)];
                OpaqueElement { registry, vendor_id, data }
            })
            .collect();
        let bytes = written(|writer| OpaqueData::write(writer, &elements));
        prop_assert_eq!(bytes.len() % 4, 0);
        let read: Vec<_> = OpaqueData::parse(&bytes).unwrap().elements().collect();
        prop_assert_eq!(read, elements);
    }
}
