//! Bodies for what crosses the boundary as numbers.

use tdx_abi::hpa_list::HpaListInfo;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf, TdcallLeaf};
use tdx_abi::metadata::{self, FieldId};
use tdx_abi::metadata::{ListHeader, ListReader, ListWriter};
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::{AddressLayout, KeyIdPartitioning, PhysAddr};
use tdxhost::explain::{self, CallRegisters};

use super::bytes::Choices;
use super::text::printable;

/// A metadata list: every accepted one is written again byte by byte, and after an error nothing
/// follows.
pub fn metadata_list(data: &[u8]) {
    let Ok(reader) = ListReader::new(data) else {
        assert!(ListHeader::decode(data).is_err());
        return;
    };
    let header = ListHeader::decode(data).expect("the reader took it");
    let mut buffer = vec![0; data.len()];
    let mut writer = ListWriter::new(&mut buffer).expect("as large as what was read");
    let mut count = 0;
    let mut whole = true;
    for sequence in reader {
        assert!(whole, "a sequence after an error");
        match sequence {
            Ok(sequence) => {
                count += 1;
                let values: Vec<u64> =
                    sequence.write_mask.into_iter().chain(sequence.values.clone()).collect();
                assert_eq!(sequence.values.count() as u64, u64::from(sequence.id.element_count()));
                assert!(writer.push(sequence.id, values), "what was read fits");
            }
            Err(error) => {
                assert!(!error.to_string().contains('\n'));
                whole = false;
            }
        }
    }
    if whole {
        assert_eq!(count, usize::from(header.sequences));
        assert_eq!(writer.finish(), header);
        let size = usize::from(header.size);
        assert_eq!(buffer[..size], data[..size]);
    }
}

/// Words of any value: taken apart and put together again, named, explained.
pub fn wire_words(data: &[u8]) {
    let mut choices = Choices::new(data);
    // Each word is printed several times; more of them show nothing new.
    for _ in 0..32 {
        if choices.is_empty() {
            return;
        }
        let kind = choices.byte();
        let word = choices.word();
        match kind % 6 {
            0 => field(FieldId::from_raw(word)),
            1 => status(word, choices.word()),
            2 => leaf(word, choices.word()),
            3 => address(word, choices.byte(), choices.byte()),
            4 => key_ids(KeyIdPartitioning::from_msr(word), word),
            _ => list_info(word, choices.below(600)),
        }
    }
}

fn field(id: FieldId) {
    assert_eq!(FieldId::from_raw(id.raw()), id);
    if let Some((info, index)) = metadata::lookup(id) {
        let named = info.id.element(index);
        assert_eq!((named.context(), named.class()), (id.context(), id.class()), "{id}");
        assert!(id.to_string().starts_with(info.name));
    }
    printable(&explain::explain_field_id(id));
}

fn status(raw: u64, other: u64) {
    let status = Status::from_raw(raw);
    assert_eq!(status.raw(), raw);
    assert_eq!(status.is_error(), raw >> 63 != 0);
    assert_eq!(status.code().with_detail(status.detail()), status, "code and detail make the status");
    assert!(status.is(status.code()));
    if let Some(info) = status.info() {
        assert_eq!(StatusCode::from_name(info.name), Some(status.code()));
    }
    let _ = status.decoded_detail();
    assert!(!status.to_string().is_empty());
    printable(&explain::explain_seamcall(None, raw, &CallRegisters::default()));
    let registers = CallRegisters::in_order(&[other, raw, other]);
    printable(&explain::explain_seamcall(Some(LeafWord::from_raw(other)), raw, &registers));
}

fn leaf(raw: u64, registers: u64) {
    let word = LeafWord::from_raw(raw);
    assert_eq!(word.raw(), raw);
    let sides = [LeafWord::module(SeamcallLeaf(word.leaf()), word.version())]
        .into_iter()
        .chain(word.is_seamldr().then(|| LeafWord::seamldr(SeamldrLeaf(word.leaf()))))
        .chain([LeafWord::guest(TdcallLeaf(word.leaf()), word.version())]);
    for side in sides {
        assert_eq!(side.leaf(), word.leaf());
        assert_eq!(side.reserved(), 0);
    }
    if let Some(info) = SeamcallLeaf(word.leaf()).info() {
        assert_eq!(SeamcallLeaf::from_name(info.name), Some(info.leaf));
    }
    printable(&explain::explain_leaf(word));
    printable(&explain::explain_tdcall_leaf(word));
    let none = CallRegisters::default();
    printable(&explain::explain_tdcall(Some(word), registers, &none));
    printable(&explain::explain_vmcall(None, registers));
}

fn address(raw: u64, maxpa: u8, keyid_bits: u8) {
    let Some(layout) = AddressLayout::new(maxpa, keyid_bits) else { return };
    match layout.split(raw) {
        Some((address, key)) => assert_eq!(layout.join(address, key), Some(raw)),
        None => assert_ne!(raw >> maxpa, 0),
    }
    assert_eq!(layout.keyid_mask() & layout.address_mask(), 0);
}

fn key_ids(split: KeyIdPartitioning, raw: u64) {
    assert_eq!(split.to_msr(), raw);
    if let (Some(first), Some(last)) = (split.first_private(), split.last_private()) {
        assert!(split.is_private(first) && split.is_private(last) && first <= last);
        assert_eq!(u32::from(last.number() - first.number()) + 1, split.tdx_count());
    }
    assert!(!split.is_private(tdx_abi::KeyId::TME));
}

fn list_info(raw: u64, count: usize) {
    let info = HpaListInfo::from_bits(raw);
    assert_eq!(info.into_bits(), raw);
    if let Ok(made) = HpaListInfo::of(PhysAddr::new(raw), count) {
        assert_eq!(made.list(), PhysAddr::new(raw));
        assert_eq!(usize::from(made.last_entry()) + 1, count);
    }
}
