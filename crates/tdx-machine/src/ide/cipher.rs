use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use spdm::ide_km::{IdeKey, SubStream};

/// The MAC of a TLP or of several aggregated ones.
///
/// A link carries 96 bits: [`on_the_link`](Self::on_the_link). The model keeps the other 32 bits of
/// the AES-GCM tag beside them, because no published safe interface opens with a shortened tag
/// without going over the data twice. All 128 are checked, so nothing passes that a real port would
/// refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub(super) [u8; 16]);

impl Mac {
    /// Size in bytes, as the model keeps it.
    pub const SIZE: usize = 16;
    /// Size in bytes on a link.
    pub const SIZE_ON_THE_LINK: usize = 12;

    /// The 96 bits that a link carries: the first ones of the tag.
    pub fn on_the_link(&self) -> [u8; Self::SIZE_ON_THE_LINK] {
        std::array::from_fn(|at| self.0[at])
    }
}

/// A key in a cipher. The cipher overwrites it when it is dropped.
#[derive(Debug)]
pub(super) struct Cipher {
    key: LessSafeKey,
    sub_stream: SubStream,
}

/// The cipher failed, or the MAC does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CipherFailed;

impl Cipher {
    pub(super) fn new(key: &IdeKey, sub_stream: SubStream) -> Result<Self, CipherFailed> {
        let key = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| CipherFailed)?;
        Ok(Self { key: LessSafeKey::new(key), sub_stream })
    }

    /// Sub-stream in the top nibble of the fixed field, then the invocation field.
    fn nonce(&self, invocation: u64) -> Nonce {
        let mut iv = [0; 12];
        iv[0] = self.sub_stream.number() << 4;
        iv[4..].copy_from_slice(&invocation.to_be_bytes());
        Nonce::assume_unique_for_key(iv)
    }

    pub(super) fn seal(&self, invocation: u64, heads: &[u8], text: &mut [u8]) -> Result<Mac, CipherFailed> {
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(invocation), Aad::from(heads), text)
            .map_err(|_| CipherFailed)?;
        tag.as_ref().try_into().map(Mac).map_err(|_| CipherFailed)
    }

    pub(super) fn open(
        &self,
        invocation: u64,
        heads: &[u8],
        text: &mut [u8],
        mac: &Mac,
    ) -> Result<(), CipherFailed> {
        self.key
            .open_in_place_separate_tag(self.nonce(invocation), Aad::from(heads), &mac.0, text)
            .map(|_| ())
            .map_err(|_| CipherFailed)
    }
}
