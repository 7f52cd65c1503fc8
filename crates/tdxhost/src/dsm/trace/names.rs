//! Bits by their names, bytes as text.

use std::fmt::Write as _;

use serde_json::Value;
use spdm::msg::VersionNumber;

/// Bytes as hexadecimal text.
pub(super) fn hex(bytes: &[u8]) -> Value {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.into()
}

/// The same where there may be none.
pub(super) fn hex_or_null(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, hex)
}

/// A number that is an address, an id or a mask.
pub(super) fn number(value: impl Into<u64>) -> Value {
    format!("{:#x}", value.into()).into()
}

/// The set bits, lowest first: by name, and by value where a bit has none.
pub(super) fn bits(value: impl Into<u64>, names: &[&str]) -> Value {
    let value = value.into();
    let named = |bit: u32| match names.get(bit as usize) {
        Some(&name) if !name.is_empty() => name.into(),
        _ => number(1_u64 << bit),
    };
    (0..u64::BITS).filter(|bit| value >> bit & 1 == 1).map(named).collect::<Vec<Value>>().into()
}

/// Slots of a mask.
pub(super) fn slots(mask: u8) -> Value {
    (0_u8..8).filter(|slot| mask >> slot & 1 == 1).collect::<Vec<_>>().into()
}

pub(super) fn versions(list: impl Iterator<Item = VersionNumber>) -> Value {
    list.map(|number| number.to_string()).collect::<Vec<_>>().into()
}

pub(super) const REQUESTER_FLAGS: &[&str] = &[
    "",
    "CERT_CAP",
    "CHAL_CAP",
    "",
    "",
    "",
    "ENCRYPT_CAP",
    "MAC_CAP",
    "MUT_AUTH_CAP",
    "KEY_EX_CAP",
    "PSK_CAP",
    "PSK_CAP 2",
    "ENCAP_CAP",
    "HBEAT_CAP",
    "KEY_UPD_CAP",
    "HANDSHAKE_IN_THE_CLEAR_CAP",
    "PUB_KEY_ID_CAP",
    "CHUNK_CAP",
    "",
    "",
    "",
    "",
    "EP_INFO_CAP_NO_SIG",
    "EP_INFO_CAP_SIG",
    "",
    "EVENT_CAP",
    "MULTI_KEY_CAP_ONLY",
    "MULTI_KEY_CAP_NEG",
];

pub(super) const RESPONDER_FLAGS: &[&str] = &[
    "CACHE_CAP",
    "CERT_CAP",
    "CHAL_CAP",
    "MEAS_CAP_NO_SIG",
    "MEAS_CAP_SIG",
    "MEAS_FRESH_CAP",
    "ENCRYPT_CAP",
    "MAC_CAP",
    "MUT_AUTH_CAP",
    "KEY_EX_CAP",
    "PSK_CAP",
    "PSK_CAP_WITH_CONTEXT",
    "ENCAP_CAP",
    "HBEAT_CAP",
    "KEY_UPD_CAP",
    "HANDSHAKE_IN_THE_CLEAR_CAP",
    "PUB_KEY_ID_CAP",
    "CHUNK_CAP",
    "ALIAS_CERT_CAP",
    "SET_CERT_CAP",
    "CSR_CAP",
    "CERT_INSTALL_RESET_CAP",
    "EP_INFO_CAP_NO_SIG",
    "EP_INFO_CAP_SIG",
    "MEL_CAP",
    "EVENT_CAP",
    "MULTI_KEY_CAP_ONLY",
    "MULTI_KEY_CAP_NEG",
    "GET_KEY_PAIR_INFO_CAP",
    "SET_KEY_PAIR_INFO_CAP",
];

pub(super) const ASYM: &[&str] = &[
    "RSASSA_2048",
    "RSAPSS_2048",
    "RSASSA_3072",
    "RSAPSS_3072",
    "ECDSA_P256",
    "RSASSA_4096",
    "RSAPSS_4096",
    "ECDSA_P384",
    "ECDSA_P521",
    "SM2_P256",
    "ED25519",
    "ED448",
];

pub(super) const HASH: &[&str] =
    &["SHA_256", "SHA_384", "SHA_512", "SHA3_256", "SHA3_384", "SHA3_512", "SM3_256"];

pub(super) const MEASUREMENT_HASH: &[&str] =
    &["RAW_BIT_STREAM_ONLY", "SHA_256", "SHA_384", "SHA_512", "SHA3_256", "SHA3_384", "SHA3_512", "SM3_256"];

pub(super) const DHE: &[&str] =
    &["FFDHE_2048", "FFDHE_3072", "FFDHE_4096", "SECP_256_R1", "SECP_384_R1", "SECP_521_R1", "SM2_P256"];

pub(super) const AEAD: &[&str] = &["AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305", "SM4_GCM"];

pub(super) const KEY_SCHEDULE: &[&str] = &["SPDM"];

pub(super) const DMTF: &[&str] = &["DMTF"];

pub(super) const OTHER_PARAMS: &[&str] = &["OpaqueDataFmt0", "OpaqueDataFmt1", "", "", "MULTI_KEY_CONN"];

pub(super) const LOCK_FLAGS: &[&str] =
    &["NO_FW_UPDATE", "SYSTEM_CACHE_LINE_SIZE_128", "LOCK_MSIX", "BIND_P2P", "ALL_REQUEST_REDIRECT"];

pub(super) const INTERFACE_INFO: &[&str] =
    &["NO_FW_UPDATE", "DMA_WITHOUT_PASID", "DMA_WITH_PASID", "ATS_ENABLED", "PRS_ENABLED"];

pub(super) const RANGE_ATTRIBUTES: &[&str] =
    &["MSI_X_TABLE", "MSI_X_PBA", "IS_NON_TEE_MEM", "IS_MEM_ATTR_UPDATABLE"];
