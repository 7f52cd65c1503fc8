//! Malformed messages in the clear.

use spdm::ids::Version;
use spdm::msg::{ErrorCode, RequestCode};

use super::{Attempt, Case, Expected, INVALID, MISMATCH, Probe, bare, case};

/// `GET_CAPABILITIES` with a change.
fn capabilities(probe: &mut Probe<'_>, change: impl Fn(&mut Vec<u8>)) -> Attempt {
    let mut message = probe.capabilities_request()?;
    change(&mut message);
    probe.get_version()?;
    Ok(probe.clear(&message))
}

/// `NEGOTIATE_ALGORITHMS` with a change.
fn algorithms(probe: &mut Probe<'_>, change: impl Fn(&mut Vec<u8>)) -> Attempt {
    let mut message = probe.algorithms_request()?;
    change(&mut message);
    probe.capabilities()?;
    Ok(probe.clear(&message))
}

const MAY_IGNORE: Expected = Expected::MayIgnore(&[ErrorCode::INVALID_REQUEST]);
/// Offsets in `GET_CAPABILITIES`: flags, transfer size, message size.
const FLAGS: usize = 8;
const TRANSFER: usize = 12;
const MESSAGE: usize = 16;
/// Where the tables of `NEGOTIATE_ALGORITHMS` begin.
const TABLES: usize = 32;

pub(super) const CASES: &[Case] = &[
    case(
        "get-version-1.2",
        "GET_VERSION with the version 1.2",
        Expected::Error(&[ErrorCode::VERSION_MISMATCH, ErrorCode::INVALID_REQUEST]),
        |probe| Ok(probe.clear(&bare(Version::V1_2, RequestCode::GET_VERSION, 0, 0))),
    ),
    case("get-version-trailing", "GET_VERSION and 8 bytes more", MAY_IGNORE, |probe| {
        Ok(probe.clear(&[bare(Version::V1_0, RequestCode::GET_VERSION, 0, 0), vec![0xa5; 8]].concat()))
    }),
    case("capabilities-version", "GET_CAPABILITIES of version 1.9", MISMATCH, |probe| {
        capabilities(probe, |message| message[0] = 0x19)
    }),
    case("capabilities-small-transfer", "GET_CAPABILITIES with DataTransferSize 41", INVALID, |probe| {
        capabilities(probe, |message| message[TRANSFER..MESSAGE].copy_from_slice(&41_u32.to_le_bytes()))
    }),
    case(
        "capabilities-small-message",
        "GET_CAPABILITIES with MaxSPDMmsgSize below DataTransferSize",
        INVALID,
        |probe| {
            capabilities(probe, |message| {
                message[MESSAGE..MESSAGE + 4].copy_from_slice(&64_u32.to_le_bytes());
            })
        },
    ),
    case(
        "capabilities-mac-alone",
        "GET_CAPABILITIES with MAC_CAP but no way to a session",
        INVALID,
        |probe| {
            // KEY_EX_CAP.
            capabilities(probe, |message| message[FLAGS + 1] &= !0x02)
        },
    ),
    case(
        "capabilities-keys-alone",
        "GET_CAPABILITIES with KEY_EX_CAP but neither ENCRYPT_CAP nor MAC_CAP",
        INVALID,
        |probe| capabilities(probe, |message| message[FLAGS] &= !0xc0),
    ),
    case(
        "capabilities-mutual-auth-alone",
        "GET_CAPABILITIES with MUT_AUTH_CAP but no certificate",
        INVALID,
        |probe| capabilities(probe, |message| message[FLAGS + 1] |= 0x01),
    ),
    case("capabilities-reserved-psk", "GET_CAPABILITIES with the reserved PSK_CAP 3", INVALID, |probe| {
        capabilities(probe, |message| message[FLAGS + 1] |= 0x0c)
    }),
    case("capabilities-short", "GET_CAPABILITIES without its last 8 bytes", INVALID, |probe| {
        capabilities(probe, |message| message.truncate(12))
    }),
    case(
        "algorithms-version",
        "NEGOTIATE_ALGORITHMS of another version than the connection",
        MISMATCH,
        |probe| algorithms(probe, |message| message[0] = 0x11),
    ),
    case(
        "algorithms-length-beyond",
        "NEGOTIATE_ALGORITHMS whose Length is beyond its end",
        INVALID,
        |probe| algorithms(probe, |message| message[4] = message[4].wrapping_add(8)),
    ),
    case("algorithms-length-short", "NEGOTIATE_ALGORITHMS whose Length is below its end", INVALID, |probe| {
        algorithms(probe, |message| message[4] = message[4].wrapping_sub(4))
    }),
    case(
        "algorithms-count-beyond",
        "NEGOTIATE_ALGORITHMS with more tables in the count than there are",
        INVALID,
        |probe| algorithms(probe, |message| message[2] = 0xff),
    ),
    case(
        "algorithms-extended-count",
        "NEGOTIATE_ALGORITHMS with 255 extended hashes that are not there",
        INVALID,
        |probe| algorithms(probe, |message| message[29] = 0xff),
    ),
    case("algorithms-table-twice", "NEGOTIATE_ALGORITHMS with the same table twice", INVALID, |probe| {
        algorithms(probe, |message| {
            if let Some(kind) = message.get(TABLES).copied() {
                message[TABLES + 4] = kind;
            }
        })
    }),
    case(
        "algorithms-table-count",
        "NEGOTIATE_ALGORITHMS with a table of another size than it has",
        INVALID,
        |probe| algorithms(probe, |message| message[TABLES + 1] = 0x40),
    ),
    case("digests-version", "GET_DIGESTS of another version than the connection", MISMATCH, |probe| {
        probe.negotiate()?;
        Ok(probe.clear(&bare(Version(0x11), RequestCode::GET_DIGESTS, 0, 0)))
    }),
    case("digests-major-version", "GET_DIGESTS of version 2.0", MISMATCH, |probe| {
        probe.negotiate()?;
        Ok(probe.clear(&bare(Version(0x20), RequestCode::GET_DIGESTS, 0, 0)))
    }),
    case("digests-reserved", "GET_DIGESTS with a reserved parameter", MAY_IGNORE, |probe| {
        probe.negotiate()?;
        let version = probe.version();
        Ok(probe.clear(&bare(version, RequestCode::GET_DIGESTS, 0, 0x55)))
    }),
    case("digests-trailing", "GET_DIGESTS and 8 bytes more", MAY_IGNORE, |probe| {
        probe.negotiate()?;
        let version = probe.version();
        Ok(probe.clear(&[bare(version, RequestCode::GET_DIGESTS, 0, 0), vec![0xa5; 8]].concat()))
    }),
    case(
        "respond-if-ready-unasked",
        "RESPOND_IF_READY for a response that nobody has put off",
        Expected::Error(&[ErrorCode::UNEXPECTED_REQUEST, ErrorCode::INVALID_REQUEST]),
        |probe| {
            probe.negotiate()?;
            let version = probe.version();
            Ok(probe.clear(&bare(version, RequestCode::RESPOND_IF_READY, RequestCode::GET_DIGESTS.0, 1)))
        },
    ),
];
