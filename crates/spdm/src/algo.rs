//! Algorithms: the ones that this stack speaks, with their sizes. DSP0274, "ALGORITHMS".

/// Largest digest of any supported hash, in bytes.
pub const MAX_DIGEST: usize = 48;
/// Largest signature of any supported algorithm, in bytes.
pub const MAX_SIGNATURE: usize = 96;
/// Largest public value of any supported key agreement, in bytes.
pub const MAX_EXCHANGE: usize = 96;

/// Hash of a connection (`BaseHashSel`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashAlgo {
    /// `TPM_ALG_SHA_256`, bit 0.
    Sha256,
    /// `TPM_ALG_SHA_384`, bit 1.
    Sha384,
}

impl HashAlgo {
    /// Every supported hash, weakest first.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha384];

    /// Size of a digest in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// The bit in `BaseHashAlgo` and `BaseHashSel`.
    pub const fn bit(self) -> u32 {
        match self {
            Self::Sha256 => 1 << 0,
            Self::Sha384 => 1 << 1,
        }
    }

    /// The bit in `MeasurementHashAlgo`, where bit 0 means raw bit streams.
    pub const fn measurement_bit(self) -> u32 {
        self.bit() << 1
    }
}

/// Signature algorithm of a connection (`BaseAsymSel`, `ReqBaseAsymAlg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AsymAlgo {
    /// `TPM_ALG_ECDSA_ECC_NIST_P256`, bit 4.
    EcdsaP256,
    /// `TPM_ALG_ECDSA_ECC_NIST_P384`, bit 7.
    EcdsaP384,
}

impl AsymAlgo {
    /// Every supported algorithm, weakest first.
    pub const ALL: [Self; 2] = [Self::EcdsaP256, Self::EcdsaP384];

    /// Size of a signature in bytes: `r` and `s`, big endian.
    pub const fn signature_size(self) -> usize {
        match self {
            Self::EcdsaP256 => 64,
            Self::EcdsaP384 => 96,
        }
    }

    /// The bit in `BaseAsymAlgo` and `BaseAsymSel`.
    pub const fn bit(self) -> u32 {
        match self {
            Self::EcdsaP256 => 1 << 4,
            Self::EcdsaP384 => 1 << 7,
        }
    }
}

/// Group of the key agreement (`DHE` table).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DheGroup {
    /// `secp256r1`, bit 3.
    Secp256r1,
    /// `secp384r1`, bit 4.
    Secp384r1,
}

impl DheGroup {
    /// Every supported group, weakest first.
    pub const ALL: [Self; 2] = [Self::Secp256r1, Self::Secp384r1];

    /// Size of the exchanged value in bytes: `x` and `y`, big endian.
    pub const fn exchange_size(self) -> usize {
        match self {
            Self::Secp256r1 => 64,
            Self::Secp384r1 => 96,
        }
    }

    /// The bit in the table of groups.
    pub const fn bit(self) -> u16 {
        match self {
            Self::Secp256r1 => 1 << 3,
            Self::Secp384r1 => 1 << 4,
        }
    }
}

/// Cipher of secured messages (`AEADCipherSuite` table).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AeadAlgo {
    /// AES-128-GCM, bit 0.
    Aes128Gcm,
    /// AES-256-GCM, bit 1.
    Aes256Gcm,
}

impl AeadAlgo {
    /// Every supported cipher, weakest first.
    pub const ALL: [Self; 2] = [Self::Aes128Gcm, Self::Aes256Gcm];
    /// Size of the initialisation vector in bytes.
    pub const IV_SIZE: usize = 12;
    /// Size of the tag in bytes.
    pub const TAG_SIZE: usize = 16;

    /// Size of a key in bytes.
    pub const fn key_size(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
        }
    }

    /// The bit in the table of ciphers.
    pub const fn bit(self) -> u16 {
        match self {
            Self::Aes128Gcm => 1 << 0,
            Self::Aes256Gcm => 1 << 1,
        }
    }
}

/// How measurements are digested (`MeasurementHashAlgo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MeasurementHash {
    /// Only raw bit streams are reported, bit 0.
    RawOnly,
    /// Digests of this hash.
    Hash(HashAlgo),
}

/// What a connection has agreed on in `ALGORITHMS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Suite {
    /// Hash of transcripts and certificates.
    pub hash: HashAlgo,
    /// Signature of the responder.
    pub asym: AsymAlgo,
    /// Key agreement, if sessions are possible.
    pub dhe: Option<DheGroup>,
    /// Cipher of sessions, if they are possible.
    pub aead: Option<AeadAlgo>,
    /// How measurements are digested, if there are any.
    pub measurement_hash: Option<MeasurementHash>,
}

impl Suite {
    /// Size of a digest in bytes.
    pub const fn digest_size(&self) -> usize {
        self.hash.size()
    }

    /// Size of a signature of the responder in bytes.
    pub const fn signature_size(&self) -> usize {
        self.asym.signature_size()
    }

    /// Size of the exchanged value of the key agreement in bytes; 0 without one.
    pub const fn exchange_size(&self) -> usize {
        match self.dhe {
            Some(group) => group.exchange_size(),
            None => 0,
        }
    }
}
