//! Faults inside the responses of SPDM.

use spdm::algo::{AeadAlgo, DheGroup, HashAlgo};
use spdm::msg::{ErrorCode, RequestCode, ResponseCode};

use super::{At, Choice, DeviceFault, Signed};

/// Number of tables, in `NEGOTIATE_ALGORITHMS` and `ALGORITHMS`.
const TABLES_COUNT: usize = 2;
/// Offset in `NEGOTIATE_ALGORITHMS`.
const OFFERED_HASHES: usize = 12;
/// Offsets in `ALGORITHMS`.
const OTHER_PARAMS: usize = 7;
const SIGNATURES: usize = 12;
const HASHES: usize = 16;
/// Where the tables begin in both, without extended algorithms.
const OFFER_TABLES: usize = 32;
const CHOICE_TABLES: usize = 36;
const TABLE: usize = 4;
/// Types of tables.
const DHE: u8 = 2;
const AEAD: u8 = 3;
/// Offset of the flags in `CAPABILITIES`.
const FLAGS: usize = 8;
/// Offset of `MutAuthRequested` in `KEY_EXCHANGE_RSP`, and of the public value.
const MUTUAL_AUTH: usize = 6;
const EXCHANGE: usize = 40;
/// Size of the opaque data in `KEY_EXCHANGE_RSP`, which are the last of what is signed.
const OPAQUE: usize = 12;
/// Size of the requester's context.
const CONTEXT: usize = 8;
/// Bit 7 of `CHALLENGE_AUTH.Param1`, before 1.2 a wish for mutual authentication.
const BASIC_MUTUAL_AUTH: u8 = 0x80;

fn change(bytes: &mut [u8], at: usize, change: impl Fn(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = change(*byte);
    }
}

/// Puts `new` in place of what stands at `at`, if the message goes that far.
pub(super) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(field) = bytes.get_mut(at..at.saturating_add(new.len())) {
        field.copy_from_slice(new);
    }
}

/// The last `count` bytes.
fn tail(bytes: &mut [u8], count: usize) -> &mut [u8] {
    let start = bytes.len().saturating_sub(count);
    bytes.get_mut(start..).unwrap_or_default()
}

/// Where the algorithms of a table of that type stand.
fn table(message: &[u8], first: usize, kind: u8) -> Option<usize> {
    let count = usize::from(*message.get(TABLES_COUNT)?);
    let mut tables = (0..count).map(|index| first + index * TABLE);
    tables.find(|at| message.get(*at) == Some(&kind)).map(|at| at + 2)
}

/// Takes the best out of an offer of algorithms, where something is left then.
pub(super) fn downgrade(offer: &mut [u8]) {
    let best = [
        (Some(OFFERED_HASHES), HashAlgo::Sha384.bit()),
        (table(offer, OFFER_TABLES, DHE), DheGroup::Secp384r1.bit().into()),
        (table(offer, OFFER_TABLES, AEAD), AeadAlgo::Aes256Gcm.bit().into()),
    ];
    for (at, bit) in best {
        // Each of them is one of the lowest eight bits.
        let [bit, ..] = bit.to_le_bytes();
        if let Some(at) = at {
            change(offer, at, |bits| if bits & !bit == 0 { bits } else { bits & !bit });
        }
    }
}

/// Where in `ALGORITHMS` a choice stands, and a bit of an algorithm that this stack never offers.
fn choice(message: &[u8], choice: Choice) -> Option<(usize, u8)> {
    Some(match choice {
        // RSASSA_2048.
        Choice::Signature => (SIGNATURES, 0x01),
        // SHA-512.
        Choice::Hash => (HASHES, 0x04),
        // FFDHE2048.
        Choice::Group => (table(message, CHOICE_TABLES, DHE)?, 0x01),
        // CHACHA20_POLY1305.
        Choice::Cipher => (table(message, CHOICE_TABLES, AEAD)?, 0x04),
        // OpaqueDataFmt0.
        Choice::OtherParams => (OTHER_PARAMS, 0x01),
    })
}

/// Removes the highest version from `VERSION`, if another one is left.
fn roll_back(message: &mut Vec<u8>) {
    let versions = message.get(6..).unwrap_or_default().as_chunks::<2>().0;
    let highest = versions.iter().enumerate().max_by_key(|(_, bytes)| u16::from_le_bytes(**bytes));
    if let Some((index, _)) = highest.filter(|_| versions.len() > 1) {
        message.drain(6 + 2 * index..8 + 2 * index);
        change(message, 5, |count| count.saturating_sub(1));
    }
}

impl Signed {
    const fn code(self) -> ResponseCode {
        match self {
            Self::ChallengeAuth => ResponseCode::CHALLENGE_AUTH,
            Self::Measurements => ResponseCode::MEASUREMENTS,
            Self::KeyExchangeRsp => ResponseCode::KEY_EXCHANGE_RSP,
        }
    }
}

/// Bends a response before it is signed.
pub(super) fn before_signature(fault: DeviceFault, code: ResponseCode, message: &mut [u8]) {
    let key_exchange = code == ResponseCode::KEY_EXCHANGE_RSP;
    match fault {
        DeviceFault::UnaskedMutualAuth if key_exchange => put(message, MUTUAL_AUTH, &[1]),
        DeviceFault::UnaskedHeartbeat if key_exchange => put(message, 2, &[0x20]),
        DeviceFault::BadExchange if key_exchange => change(message, EXCHANGE, |byte| byte ^ 1),
        DeviceFault::GarbageOpaque if key_exchange => tail(message, OPAQUE).fill(0xff),
        DeviceFault::UnofferedSecuredVersion if key_exchange => {
            tail(message, 2).copy_from_slice(&0x1000_u16.to_le_bytes());
        }
        // Behind it stand the length of the opaque data and they themselves.
        DeviceFault::SummaryLies if key_exchange => {
            if let Some(last) = tail(message, OPAQUE + 3).first_mut() {
                *last ^= 1;
            }
        }
        DeviceFault::WrongContext { at } if at.code() == code && !key_exchange => {
            if let Some(first) = tail(message, CONTEXT).first_mut() {
                *first ^= 1;
            }
        }
        _ => {}
    }
}

/// Bends a response that is complete.
pub(super) fn complete(fault: DeviceFault, request: At, portion: u16, message: &mut Vec<u8>) {
    let code = message.get(1).map_or(ResponseCode::ERROR, |code| ResponseCode(*code));
    let version = message.first().copied().unwrap_or(0x10);
    let is = |wanted| code == wanted;
    match fault {
        DeviceFault::Refused { at } if at.covers(request) => {
            *message = vec![version, ResponseCode::ERROR.0, ErrorCode::UNSPECIFIED.0, 0];
        }
        DeviceFault::WrongAnswer { at } if at.covers(request) => {
            let other = if is(ResponseCode::HEARTBEAT_ACK) {
                ResponseCode::END_SESSION_ACK
            } else {
                ResponseCode::HEARTBEAT_ACK
            };
            *message = vec![version, other.0, 0, 0];
        }
        DeviceFault::EncapsulatedRequest { at } if at.covers(request) => {
            // GET_DIGESTS, wrapped.
            let inner = [version, RequestCode::GET_DIGESTS.0, 0, 0];
            *message = [&[version, ResponseCode::ENCAPSULATED_REQUEST.0, 1, 0][..], &inner].concat();
        }
        DeviceFault::WrongVersion { at } if at.covers(request) => change(message, 0, |_| 0x11),
        DeviceFault::WrongChunk if request == At::GET_CERTIFICATE => {
            *message = vec![version, ResponseCode::ERROR.0, ErrorCode::LARGE_RESPONSE.0, 0, 7];
        }
        DeviceFault::WrongChunk if request == At::Spdm(RequestCode::CHUNK_GET) => {
            // Chunk 1 of another large response.
            *message =
                vec![version, ResponseCode::CHUNK_RESPONSE.0, 0, 8, 1, 0, 0, 0, 4, 0, 0, 0, 1, 2, 3, 4];
        }
        DeviceFault::ChainChanges if is(ResponseCode::CERTIFICATE) && portion != 0 => {
            if let Some(last) = message.last_mut() {
                *last ^= 1;
            }
        }
        DeviceFault::ChainSizeChanges if is(ResponseCode::CERTIFICATE) && portion != 0 => {
            change(message, 6, |byte| byte ^ 1);
        }
        DeviceFault::WrongSlot if is(ResponseCode::CERTIFICATE) => change(message, 2, |slot| slot ^ 1),
        DeviceFault::BadVerifyData if is(ResponseCode::KEY_EXCHANGE_RSP) => {
            if let Some(last) = message.last_mut() {
                *last ^= 1;
            }
        }
        DeviceFault::UnofferedAlgorithm { choice: wanted } if is(ResponseCode::ALGORITHMS) => {
            if let Some((at, bit)) = choice(message, wanted) {
                put(message, at, &[bit]);
            }
        }
        DeviceFault::ManyAlgorithms { choice: wanted } if is(ResponseCode::ALGORITHMS) => {
            if let Some((at, bit)) = choice(message, wanted) {
                change(message, at, |bits| bits | bit);
            }
        }
        DeviceFault::VersionRollback if is(ResponseCode::VERSION) => roll_back(message),
        DeviceFault::NoCommonVersion if is(ResponseCode::VERSION) => {
            *message = vec![0x10, ResponseCode::VERSION.0, 0, 0, 0, 1, 0x00, 0x11];
        }
        DeviceFault::CapabilitiesStripped if is(ResponseCode::CAPABILITIES) => {
            // HBEAT_CAP or KEY_UPD_CAP, whichever there is.
            change(message, FLAGS + 1, |bits| bits & !0x60);
        }
        DeviceFault::CapabilitiesInconsistent if is(ResponseCode::CAPABILITIES) => {
            // KEY_EX_CAP without ENCRYPT_CAP and MAC_CAP.
            change(message, FLAGS, |bits| bits & !0xc0);
        }
        DeviceFault::UnaskedBasicMutualAuth if is(ResponseCode::CHALLENGE_AUTH) => {
            change(message, 2, |param| param | BASIC_MUTUAL_AUTH);
        }
        DeviceFault::PskExchange if is(ResponseCode::KEY_EXCHANGE_RSP) => {
            put(message, 1, &[ResponseCode::PSK_EXCHANGE_RSP.0]);
        }
        DeviceFault::PskFinish if is(ResponseCode::FINISH_RSP) => {
            put(message, 1, &[ResponseCode::PSK_FINISH_RSP.0]);
        }
        DeviceFault::WrongUpdateTag if is(ResponseCode::KEY_UPDATE_ACK) => change(message, 3, |tag| !tag),
        // Standard id ×2, length of the vendor id, vendor id.
        DeviceFault::WrongVendor if is(ResponseCode::VENDOR_DEFINED) => change(message, 7, |id| id ^ 2),
        _ => {}
    }
}
