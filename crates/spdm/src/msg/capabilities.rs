//! `GET_CAPABILITIES` and `CAPABILITIES`: 20 bytes each.

use bitfield_struct::bitfield;

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{Header, RequestCode, ResponseCode, zero};

/// Smallest `DataTransferSize`.
pub const MIN_DATA_TRANSFER_SIZE: u32 = 42;
/// Largest `CTExponent` that is believed: 2^31 µs are 36 minutes.
pub const MAX_CT_EXPONENT: u8 = 31;

/// What a requester can do.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct RequesterFlags {
    #[bits(1)]
    __: u8,
    /// CERT_CAP: has certificates.
    pub cert: bool,
    /// CHAL_CAP: answers `CHALLENGE`.
    pub chal: bool,
    #[bits(3)]
    __: u8,
    /// ENCRYPT_CAP: encrypts secured messages.
    pub encrypt: bool,
    /// MAC_CAP: authenticates secured messages.
    pub mac: bool,
    /// MUT_AUTH_CAP: mutual authentication.
    pub mut_auth: bool,
    /// KEY_EX_CAP: `KEY_EXCHANGE`.
    pub key_ex: bool,
    /// PSK_CAP: 0 or 1.
    #[bits(2)]
    pub psk: u8,
    /// ENCAP_CAP: encapsulated requests.
    pub encap: bool,
    /// HBEAT_CAP: `HEARTBEAT`.
    pub hbeat: bool,
    /// KEY_UPD_CAP: `KEY_UPDATE`.
    pub key_upd: bool,
    /// HANDSHAKE_IN_THE_CLEAR_CAP.
    pub handshake_in_clear: bool,
    /// PUB_KEY_ID_CAP: its public key was provisioned.
    pub pub_key_id: bool,
    /// CHUNK_CAP: large messages in chunks.
    pub chunk: bool,
    #[bits(4)]
    __: u8,
    /// EP_INFO_CAP: 0, 1 unsigned or 2 signed. 1.3.
    #[bits(2)]
    pub ep_info: u8,
    #[bits(1)]
    __: u8,
    /// EVENT_CAP. 1.3.
    pub event: bool,
    /// MULTI_KEY_CAP: 0, 1 only or 2 negotiable. 1.3.
    #[bits(2)]
    pub multi_key: u8,
    #[bits(4)]
    __: u8,
}

impl RequesterFlags {
    const KNOWN_1_2: u32 = 0x0003_ffc6;
    const KNOWN_1_3: u32 = Self::KNOWN_1_2 | 0x0ec0_0000;

    /// Bits that have a meaning in that version.
    pub const fn known(version: Version) -> u32 {
        if version.0 >= Version::V1_3.0 { Self::KNOWN_1_3 } else { Self::KNOWN_1_2 }
    }

    /// The flags without those that the version does not know.
    #[must_use]
    pub fn of(self, version: Version) -> Self {
        Self::from(u32::from(self) & Self::known(version))
    }

    fn check(self) -> Result<(), DecodeError> {
        let keys = self.key_ex() || self.psk() != 0;
        let session = self.mac() || self.encrypt();
        let needs_keys =
            session || self.handshake_in_clear() || self.hbeat() || self.key_upd() || self.event();
        let identity = self.cert() || self.pub_key_id();
        let uses_identity = self.chal() || self.key_ex() || self.ep_info() == 2;
        let needs_identity = self.chal() || self.mut_auth() || self.ep_info() == 2;
        first_true(
            self.into(),
            &[
                (self.psk() > 1, "Flags with a reserved PSK_CAP"),
                (self.ep_info() == 3, "Flags with a reserved EP_INFO_CAP"),
                (self.multi_key() == 3, "Flags with a reserved MULTI_KEY_CAP"),
                (keys && !session, "Flags with KEY_EX_CAP or PSK_CAP but neither MAC_CAP nor ENCRYPT_CAP"),
                (!keys && needs_keys, "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
                (
                    self.handshake_in_clear() && !self.key_ex(),
                    "Flags with HANDSHAKE_IN_THE_CLEAR_CAP but without KEY_EX_CAP",
                ),
                (self.cert() && self.pub_key_id(), "Flags with both CERT_CAP and PUB_KEY_ID_CAP"),
                (identity && !uses_identity, "Flags with a key that nothing uses"),
                (!identity && needs_identity, "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
                (
                    self.mut_auth() && !self.key_ex() && !self.chal(),
                    "Flags with MUT_AUTH_CAP but neither KEY_EX_CAP nor CHAL_CAP",
                ),
                (
                    self.multi_key() != 0 && (self.pub_key_id() || !self.cert()),
                    "Flags with MULTI_KEY_CAP but without CERT_CAP",
                ),
            ],
        )
    }
}

/// What a responder can do.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ResponderFlags {
    /// CACHE_CAP: keeps what was negotiated across a reset.
    pub cache: bool,
    /// CERT_CAP: `GET_DIGESTS` and `GET_CERTIFICATE`.
    pub cert: bool,
    /// CHAL_CAP: `CHALLENGE`.
    pub chal: bool,
    /// MEAS_CAP: 0, 1 unsigned or 2 signed.
    #[bits(2)]
    pub meas: u8,
    /// MEAS_FRESH_CAP: measures when asked.
    pub meas_fresh: bool,
    /// ENCRYPT_CAP: encrypts secured messages.
    pub encrypt: bool,
    /// MAC_CAP: authenticates secured messages.
    pub mac: bool,
    /// MUT_AUTH_CAP: mutual authentication.
    pub mut_auth: bool,
    /// KEY_EX_CAP: `KEY_EXCHANGE`.
    pub key_ex: bool,
    /// PSK_CAP: 0, 1 without or 2 with context.
    #[bits(2)]
    pub psk: u8,
    /// ENCAP_CAP: encapsulated requests.
    pub encap: bool,
    /// HBEAT_CAP: `HEARTBEAT`.
    pub hbeat: bool,
    /// KEY_UPD_CAP: `KEY_UPDATE`.
    pub key_upd: bool,
    /// HANDSHAKE_IN_THE_CLEAR_CAP.
    pub handshake_in_clear: bool,
    /// PUB_KEY_ID_CAP: its public key was provisioned.
    pub pub_key_id: bool,
    /// CHUNK_CAP: large messages in chunks.
    pub chunk: bool,
    /// ALIAS_CERT_CAP: the chain ends in an alias certificate.
    pub alias_cert: bool,
    /// SET_CERT_CAP: `SET_CERTIFICATE`.
    pub cert_provisioning: bool,
    /// CSR_CAP.
    pub csr: bool,
    /// CERT_INSTALL_RESET_CAP.
    pub cert_install_reset: bool,
    /// EP_INFO_CAP: 0, 1 unsigned or 2 signed. 1.3.
    #[bits(2)]
    pub ep_info: u8,
    /// MEL_CAP: measurement extension log. 1.3.
    pub mel: bool,
    /// EVENT_CAP. 1.3.
    pub event: bool,
    /// MULTI_KEY_CAP: 0, 1 only or 2 negotiable. 1.3.
    #[bits(2)]
    pub multi_key: u8,
    /// GET_KEY_PAIR_INFO_CAP. 1.3.
    pub key_pair_info: bool,
    /// SET_KEY_PAIR_INFO_CAP. 1.3.
    pub key_pair_provisioning: bool,
    #[bits(2)]
    __: u8,
}

impl ResponderFlags {
    const KNOWN_1_2: u32 = 0x003f_ffff;
    const KNOWN_1_3: u32 = 0x3fff_ffff;

    /// Bits that have a meaning in that version.
    pub const fn known(version: Version) -> u32 {
        if version.0 >= Version::V1_3.0 { Self::KNOWN_1_3 } else { Self::KNOWN_1_2 }
    }

    /// The flags without those that the version does not know.
    #[must_use]
    pub fn of(self, version: Version) -> Self {
        Self::from(u32::from(self) & Self::known(version))
    }

    fn check(self) -> Result<(), DecodeError> {
        let keys = self.key_ex() || self.psk() != 0;
        let session = self.mac() || self.encrypt();
        let needs_keys =
            session || self.handshake_in_clear() || self.hbeat() || self.key_upd() || self.event();
        let identity = self.cert() || self.pub_key_id();
        let uses_identity = self.chal() || self.key_ex() || self.meas() == 2 || self.ep_info() == 2;
        let needs_identity = uses_identity || self.mut_auth();
        let key_pairs = self.multi_key() != 0 || self.key_pair_info() || self.key_pair_provisioning();
        first_true(
            self.into(),
            &[
                (self.meas() == 3, "Flags with a reserved MEAS_CAP"),
                (self.psk() == 3, "Flags with a reserved PSK_CAP"),
                (self.ep_info() == 3, "Flags with a reserved EP_INFO_CAP"),
                (self.multi_key() == 3, "Flags with a reserved MULTI_KEY_CAP"),
                (self.meas_fresh() && self.meas() == 0, "Flags with MEAS_FRESH_CAP but without MEAS_CAP"),
                (keys && !session, "Flags with KEY_EX_CAP or PSK_CAP but neither MAC_CAP nor ENCRYPT_CAP"),
                (!keys && needs_keys, "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
                (
                    self.handshake_in_clear() && !self.key_ex(),
                    "Flags with HANDSHAKE_IN_THE_CLEAR_CAP but without KEY_EX_CAP",
                ),
                (self.cert() && self.pub_key_id(), "Flags with both CERT_CAP and PUB_KEY_ID_CAP"),
                (identity && !uses_identity, "Flags with a key that nothing uses"),
                (!identity && needs_identity, "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
                (
                    self.mut_auth() && !self.key_ex() && !self.chal(),
                    "Flags with MUT_AUTH_CAP but neither KEY_EX_CAP nor CHAL_CAP",
                ),
                (
                    !self.cert() && (self.alias_cert() || self.cert_provisioning()),
                    "Flags with ALIAS_CERT_CAP or SET_CERT_CAP but without CERT_CAP",
                ),
                (self.csr() && !self.cert_provisioning(), "Flags with CSR_CAP but without SET_CERT_CAP"),
                (
                    self.cert_install_reset() && !self.csr() && !self.cert_provisioning(),
                    "Flags with CERT_INSTALL_RESET_CAP but nothing to install",
                ),
                (
                    self.multi_key() != 0 && !(self.key_pair_info() && self.cert()),
                    "Flags with MULTI_KEY_CAP but without GET_KEY_PAIR_INFO_CAP and CERT_CAP",
                ),
                (self.pub_key_id() && key_pairs, "Flags with PUB_KEY_ID_CAP and several key pairs"),
            ],
        )
    }
}

/// Refuses the flags for the first contradiction that holds.
fn first_true(flags: u32, contradictions: &[(bool, &'static str)]) -> Result<(), DecodeError> {
    match contradictions.iter().find(|(holds, _)| *holds) {
        Some((_, field)) => Err(DecodeError::Value { field, value: flags.into() }),
        None => Ok(()),
    }
}

/// The sizes that both messages end with.
pub(crate) fn check_sizes(
    data_transfer_size: u32,
    max_message_size: u32,
    chunk: bool,
) -> Result<(), DecodeError> {
    let field = "DataTransferSize";
    if data_transfer_size < MIN_DATA_TRANSFER_SIZE {
        return Err(DecodeError::Value { field, value: data_transfer_size.into() });
    }
    // Without chunks, a larger message could not be transferred.
    if max_message_size < data_transfer_size || (!chunk && max_message_size != data_transfer_size) {
        return Err(DecodeError::Value { field: "MaxSPDMmsgSize", value: max_message_size.into() });
    }
    Ok(())
}

pub(crate) fn read_ct_exponent(reader: &mut Reader<'_>) -> Result<u8, DecodeError> {
    let ct_exponent = reader.u8("CTExponent")?;
    if ct_exponent > MAX_CT_EXPONENT {
        return Err(DecodeError::Value { field: "CTExponent", value: ct_exponent.into() });
    }
    Ok(ct_exponent)
}

/// `GET_CAPABILITIES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetCapabilities {
    /// Version of the message: with it, the requester chooses the one of the connection.
    pub version: Version,
    /// Asks for the responder's algorithms behind `CAPABILITIES`, which a responder need not have.
    /// 1.3, and only with `CHUNK_CAP`.
    pub wants_algorithms: bool,
    /// Time for cryptography: 2^n µs.
    pub ct_exponent: u8,
    /// What the requester can do. Bits that the version reserves are kept as they came: a requester may
    /// tell of capabilities of later versions, which [`RequesterFlags::of`] leaves out.
    pub flags: RequesterFlags,
    /// Largest message that the requester takes in one piece, in bytes.
    pub data_transfer_size: u32,
    /// Largest message that the requester takes in chunks, in bytes.
    pub max_message_size: u32,
}

impl GetCapabilities {
    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let header = Header::expect(reader, version, RequestCode::GET_CAPABILITIES.0)?;
        zero(header.param1 & !u8::from(version >= Version::V1_3), "Param1")?;
        header.param2_reserved()?;
        reader.reserved(1, "byte 4")?;
        let ct_exponent = read_ct_exponent(reader)?;
        reader.reserved(2, "bytes 6 and 7")?;
        let flags = RequesterFlags::from(reader.u32("Flags")?);
        flags.of(version).check()?;
        let data_transfer_size = reader.u32("DataTransferSize")?;
        let max_message_size = reader.u32("MaxSPDMmsgSize")?;
        check_sizes(data_transfer_size, max_message_size, flags.chunk())?;
        let wants_algorithms = header.param1 != 0;
        if wants_algorithms && !flags.chunk() {
            return Err(DecodeError::Value { field: "Param1 without CHUNK_CAP", value: 1 });
        }
        Ok(Self { version, wants_algorithms, ct_exponent, flags, data_transfer_size, max_message_size })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        let code = RequestCode::GET_CAPABILITIES.0;
        Header::write(writer, self.version, code, self.wants_algorithms.into(), 0)?;
        writer.bytes(&[0, self.ct_exponent, 0, 0])?;
        writer.u32(self.flags.into())?;
        writer.u32(self.data_transfer_size)?;
        writer.u32(self.max_message_size)
    }
}

/// `CAPABILITIES`, without the block of algorithms that `GET_CAPABILITIES` can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Version of the message.
    pub version: Version,
    /// Time for cryptography: 2^n µs.
    pub ct_exponent: u8,
    /// What the responder can do. Bits that the version reserves are kept as they came: a responder may
    /// tell of capabilities of later versions, which [`ResponderFlags::of`] leaves out.
    pub flags: ResponderFlags,
    /// Largest message that the responder takes in one piece, in bytes.
    pub data_transfer_size: u32,
    /// Largest message that the responder takes in chunks, in bytes.
    pub max_message_size: u32,
}

impl Capabilities {
    /// Reads the message, which must be of that version.
    pub fn read(reader: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        Header::expect_bare(reader, version, ResponseCode::CAPABILITIES.0)?;
        reader.reserved(1, "byte 4")?;
        let ct_exponent = read_ct_exponent(reader)?;
        reader.reserved(2, "bytes 6 and 7")?;
        let flags = ResponderFlags::from(reader.u32("Flags")?);
        flags.of(version).check()?;
        let data_transfer_size = reader.u32("DataTransferSize")?;
        let max_message_size = reader.u32("MaxSPDMmsgSize")?;
        check_sizes(data_transfer_size, max_message_size, flags.chunk())?;
        Ok(Self { version, ct_exponent, flags, data_transfer_size, max_message_size })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, ResponseCode::CAPABILITIES.0, 0, 0)?;
        writer.bytes(&[0, self.ct_exponent, 0, 0])?;
        writer.u32(self.flags.into())?;
        writer.u32(self.data_transfer_size)?;
        writer.u32(self.max_message_size)
    }
}
