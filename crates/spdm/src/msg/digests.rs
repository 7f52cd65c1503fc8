//! `GET_DIGESTS` and `DIGESTS`.

use crate::ids::{SlotId, Version};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::header::bare_message;
use super::{Header, Layout, RequestCode, ResponseCode};

bare_message! {
    /// `GET_DIGESTS`: 4 bytes.
    GetDigests, RequestCode::GET_DIGESTS
}

/// `DIGESTS`: header and a digest per chain. The lists of a connection with several keys (1.3,
/// `MULTI_KEY_CONN`) are not known, since no such connection is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests<'a> {
    /// Version of the message.
    pub version: Version,
    /// One bit per slot that the responder has. 1.3; 0 in 1.2.
    pub supported: u8,
    /// One bit per slot that holds a chain.
    pub provisioned: u8,
    /// One digest per provisioned slot, in ascending order.
    pub digests: &'a [u8],
}

impl<'a> Digests<'a> {
    /// Reads the message. A slot that holds a chain must be one that the responder has.
    pub fn read(reader: &mut Reader<'a>, layout: &Layout) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, layout.version, ResponseCode::DIGESTS.0)?;
        let (supported, provisioned) = (header.param1, header.param2);
        if layout.version >= Version::V1_3 {
            if provisioned & !supported != 0 {
                return Err(DecodeError::Value { field: "ProvisionedSlotMask", value: provisioned.into() });
            }
        } else {
            header.param1_reserved()?;
        }
        let chains = provisioned.count_ones() as usize;
        let digests = reader.take(chains * layout.digest(), "Digest")?;
        Ok(Self { version: layout.version, supported, provisioned, digests })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, ResponseCode::DIGESTS.0, self.supported, self.provisioned)?;
        writer.bytes(self.digests)
    }

    /// Each provisioned slot with the digest of its chain.
    pub fn slots(&self) -> impl Iterator<Item = (SlotId, &'a [u8])> + 'a {
        let provisioned = self.provisioned;
        let size = self.digests.len().checked_div(provisioned.count_ones() as usize).unwrap_or(0);
        (0..8)
            .filter(move |slot| provisioned & 1 << slot != 0)
            .filter_map(SlotId::new)
            .zip(self.digests.chunks_exact(size.max(1)))
    }

    /// The digest of the chain in a slot.
    pub fn digest(&self, slot: SlotId) -> Option<&'a [u8]> {
        self.slots().find(|(number, _)| *number == slot).map(|(_, digest)| digest)
    }
}
