//! The device information blob: what was read of a device, as records.

use spdm::algo::HashAlgo;
use spdm::crypto::Crypto;
use spdm::crypto::aws_lc::AwsLc;
use spdm::requester::Requester;
use tdx_abi::connect::dev_info::{RecordHeader, RecordType};
use tdx_abi::{KeyId, PAGE_SIZE, PhysAddr};
use zerocopy::IntoBytes;

use crate::call::Call;

/// Bytes of a page.
const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// The records of a device: negotiation, chains, signed measurements if there are any, and the answers of
/// TDISP and IDE_KM.
pub(crate) fn blob(requester: &Requester, answers: &[Vec<u8>]) -> Vec<u8> {
    let evidence = requester.evidence();
    let mut blob = Vec::new();
    append(&mut blob, RecordType::VCA, 0, evidence.negotiation);
    for (slot, chain) in evidence.chains {
        append(&mut blob, RecordType::CERTIFICATE_CHAIN, slot.number().into(), chain);
    }
    if let Some(measurements) = evidence.measurements {
        append(&mut blob, RecordType::MEASUREMENTS, 0, measurements);
    }
    for answer in answers {
        append(&mut blob, RecordType::CAPABILITIES, 0, answer);
    }
    blob
}

/// By which the module knows a blob again.
pub(crate) fn digest(blob: &[u8]) -> [u8; 48] {
    let digest = AwsLc.digest(HashAlgo::Sha384, blob);
    // SHA-384 has 48 bytes.
    digest.first_chunk().copied().unwrap_or([0; 48])
}

fn append(blob: &mut Vec<u8>, kind: RecordType, index: u16, bytes: &[u8]) {
    // What came through pages of 4 KiB, and chains that a 16-bit length describes, is far below 4 GiB.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let header = RecordHeader { kind: kind.0.into(), index: index.into(), length: length.into() };
    blob.extend_from_slice(header.as_bytes());
    blob.extend_from_slice(bytes);
    blob.resize(blob.len().next_multiple_of(4), 0);
}

/// Writes a blob to pages of the host, the rest of the last one as zeros; `None` if they are too few.
pub(crate) fn write(call: &Call<'_>, blob: &[u8], pages: &[PhysAddr]) -> Option<u64> {
    if blob.len().div_ceil(PAGE) > pages.len() {
        return None;
    }
    for (bytes, &page) in blob.chunks(PAGE).zip(pages) {
        let mut whole = [0; PAGE];
        whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
        call.hw.write(page, KeyId::TME, &whole);
    }
    u64::try_from(blob.len()).ok()
}
