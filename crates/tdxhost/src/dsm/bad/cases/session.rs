//! Secured messages that are none, and what does not belong into a session.

use spdm::Kind;
use spdm::ids::Version;
use spdm::msg::{
    ErrorCode, GetDigests, KeyOperation, KeyUpdate, RequestCode, ResponderFlags, StandardId, VendorDefined,
};

use super::{Answer, Attempt, Case, Expected, INVALID, Probe, Setback, UNSUPPORTED, bare, case, written};

/// A sealed message that would be granted as it is.
fn sealed(probe: &mut Probe<'_>) -> Result<Vec<u8>, Setback> {
    let version = probe.version();
    let message = written(|writer| GetDigests { version }.write(writer))?;
    probe.seal(&message)
}

/// The bent object must not be taken, and if something comes back of it, it ends the session.
fn bent(probe: &mut Probe<'_>, bend: impl FnOnce(&mut Vec<u8>)) -> Attempt {
    probe.session()?;
    let mut object = sealed(probe)?;
    bend(&mut object);
    Ok(probe.send(Kind::Secured, &object))
}

fn key_update(probe: &mut Probe<'_>, param1: u8, tag: u8) -> Attempt {
    let version = probe.version();
    probe.secured(&bare(version, RequestCode::KEY_UPDATE, param1, tag))
}

fn updating(probe: &mut Probe<'_>) -> Result<(), Setback> {
    probe.session()?;
    probe.needs(ResponderFlags::key_upd, "KEY_UPD_CAP")
}

/// Not the one that is due, or malformed.
const WRONG_UPDATE: Expected = Expected::Error(&[ErrorCode::INVALID_REQUEST, ErrorCode::UNEXPECTED_REQUEST]);

fn vendor(probe: &mut Probe<'_>, standard: StandardId, vendor_id: &[u8], payload: &[u8]) -> Attempt {
    probe.session()?;
    let request = VendorDefined { version: probe.version(), standard_id: standard, vendor_id, payload };
    let message = written(|writer| request.write_request(writer))?;
    probe.secured(&message)
}

const VENDOR_IN_CLEAR: Expected = Expected::Error(&[
    ErrorCode::SESSION_REQUIRED,
    ErrorCode::UNEXPECTED_REQUEST,
    ErrorCode::UNSUPPORTED_REQUEST,
]);
/// `QUERY` of port 0, with the protocol id.
const QUERY: [u8; 4] = [0, 0, 0, 0];
const NOT_SPOKEN: Expected = Expected::Error(&[ErrorCode::UNSUPPORTED_REQUEST, ErrorCode::INVALID_REQUEST]);

pub(super) const CASES: &[Case] = &[
    case("secured-bad-tag", "a secured message with a wrong tag", Expected::Dropped, |probe| {
        bent(probe, |object| object.last_mut().map_or((), |byte| *byte ^= 1))
    }),
    case("secured-changed-text", "a secured message with a changed byte", Expected::Dropped, |probe| {
        bent(probe, |object| object[8] ^= 1)
    }),
    case("secured-changed-length", "a secured message whose length says less", Expected::Dropped, |probe| {
        bent(probe, |object| object[4] = object[4].wrapping_sub(1))
    }),
    case(
        "secured-length-beyond",
        "a secured message whose length is beyond its end",
        Expected::Dropped,
        |probe| bent(probe, |object| object[5] = 0xff),
    ),
    case("secured-truncated", "a secured message without its last four bytes", Expected::Dropped, |probe| {
        bent(probe, |object| object.truncate(object.len() - 4))
    }),
    case("secured-header-only", "the session id alone", Expected::Dropped, |probe| {
        bent(probe, |object| object.truncate(4))
    }),
    case("secured-no-tag", "a secured message of length 0", Expected::Dropped, |probe| {
        bent(probe, |object| {
            object.truncate(8);
            object[4..].fill(0);
        })
    }),
    case("secured-oversized", "a secured message and 64 bytes more", Expected::DroppedOrIgnored, |probe| {
        bent(probe, |object| object.extend([0xa5; 64]))
    }),
    case(
        "secured-wrong-session",
        "a secured message that names another session",
        Expected::Dropped,
        |probe| bent(probe, |object| object[0] ^= 1),
    ),
    case("secured-no-session", "a secured message without any session", Expected::Dropped, |probe| {
        probe.negotiate()?;
        Ok(probe.send(
            Kind::Secured,
            &[
                1, 0, 1, 0, 24, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21,
                22, 23, 24,
            ],
        ))
    }),
    case("secured-replayed", "a secured message a second time", Expected::Dropped, |probe| {
        probe.session()?;
        let object = sealed(probe)?;
        match probe.send(Kind::Secured, &object) {
            Answer::Granted(_) | Answer::Error(_) => Ok(probe.send(Kind::Secured, &object)),
            found => Err(Setback::Unexpected { asked: "GET_DIGESTS", found }),
        }
    }),
    case("secured-reordered", "the second of two secured messages first", Expected::Dropped, |probe| {
        probe.session()?;
        let first = sealed(probe)?;
        let second = sealed(probe)?;
        let answer = probe.send(Kind::Secured, &second);
        match probe.send(Kind::Secured, &first) {
            Answer::Granted(code) if matches!(answer, Answer::Granted(_)) => {
                Ok(Answer::Broken(format!("{code} to both, in the wrong order")))
            }
            _ => Ok(answer),
        }
    }),
    case(
        "secured-sequence-jump",
        "a secured message behind 100 that were never sent",
        Expected::Dropped,
        |probe| {
            probe.session()?;
            for _ in 0..100 {
                sealed(probe)?;
            }
            let object = sealed(probe)?;
            Ok(probe.send(Kind::Secured, &object))
        },
    ),
    case(
        "secured-as-clear",
        "a secured message as an object of type 1",
        Expected::Error(&[
            ErrorCode::VERSION_MISMATCH,
            ErrorCode::INVALID_REQUEST,
            ErrorCode::UNSUPPORTED_REQUEST,
        ]),
        |probe| {
            probe.session()?;
            let object = sealed(probe)?;
            Ok(probe.clear(&object))
        },
    ),
    case("clear-as-secured", "GET_VERSION as an object of type 2", Expected::Dropped, |probe| {
        probe.session()?;
        Ok(probe.send(Kind::Secured, &bare(Version::V1_0, RequestCode::GET_VERSION, 0, 0)))
    }),
    case(
        "ended-session",
        "a secured message of a session behind its END_SESSION",
        Expected::Dropped,
        |probe| {
            probe.session()?;
            let version = probe.version();
            probe.secured(&bare(version, RequestCode::END_SESSION, 0, 0))?;
            let object = sealed(probe)?;
            Ok(probe.send(Kind::Secured, &object))
        },
    ),
    case(
        "session-behind-new-connection",
        "a secured message of a session behind GET_VERSION",
        Expected::Dropped,
        |probe| {
            probe.session()?;
            probe.get_version()?;
            let object = sealed(probe)?;
            Ok(probe.send(Kind::Secured, &object))
        },
    ),
    case("key-update-verify-alone", "VerifyNewKey without a key update", WRONG_UPDATE, |probe| {
        updating(probe)?;
        key_update(probe, KeyOperation::VerifyNewKey.code(), 1)
    }),
    case("key-update-unknown", "KEY_UPDATE with operation 9", INVALID, |probe| {
        updating(probe)?;
        key_update(probe, 9, 1)
    }),
    case("key-update-operation-0", "KEY_UPDATE with operation 0", INVALID, |probe| {
        updating(probe)?;
        key_update(probe, 0, 1)
    }),
    case(
        "key-update-old-key",
        "a message under the old key behind a key update that is verified",
        Expected::Dropped,
        |probe| {
            updating(probe)?;
            let version = probe.version();
            let update =
                |operation, tag| written(|writer| KeyUpdate { version, operation, tag }.write(writer));
            let message = update(KeyOperation::UpdateKey, 1)?;
            match probe.secured(&message)? {
                Answer::Granted(_) => {}
                found => return Err(Setback::Unexpected { asked: "KEY_UPDATE", found }),
            }
            // Sealed under the old key, kept back until the new one is verified.
            let old = sealed(probe)?;
            probe.update_requests()?;
            let message = update(KeyOperation::VerifyNewKey, 2)?;
            match probe.secured(&message)? {
                Answer::Granted(_) => {}
                found => return Err(Setback::Unexpected { asked: "KEY_UPDATE", found }),
            }
            Ok(probe.send(Kind::Secured, &old))
        },
    ),
    case(
        "vendor-in-clear",
        "VENDOR_DEFINED_REQUEST with IDE_KM QUERY in the clear",
        VENDOR_IN_CLEAR,
        |probe| {
            probe.negotiate()?;
            let version = probe.version();
            let message = written(|writer| VendorDefined::pci_sig(version, &QUERY).write_request(writer))?;
            Ok(probe.clear(&message))
        },
    ),
    case(
        "tdisp-in-clear",
        "VENDOR_DEFINED_REQUEST with GET_TDISP_VERSION in the clear",
        VENDOR_IN_CLEAR,
        |probe| {
            probe.negotiate()?;
            let version = probe.version();
            let payload = [&[1, 0x10, 0x81, 0, 0][..], &[0; 12]].concat();
            let message = written(|writer| VendorDefined::pci_sig(version, &payload).write_request(writer))?;
            Ok(probe.clear(&message))
        },
    ),
    case(
        "vendor-in-clear-during-session",
        "VENDOR_DEFINED_REQUEST in the clear while a session is open",
        VENDOR_IN_CLEAR,
        |probe| {
            probe.session()?;
            let version = probe.version();
            let message = written(|writer| VendorDefined::pci_sig(version, &QUERY).write_request(writer))?;
            Ok(probe.clear(&message))
        },
    ),
    case(
        "vendor-in-handshake",
        "VENDOR_DEFINED_REQUEST before FINISH",
        Expected::Error(&[ErrorCode::UNEXPECTED_REQUEST, ErrorCode::SESSION_REQUIRED]),
        |probe| {
            probe.connect()?;
            probe.handshake()?;
            let version = probe.version();
            let message = written(|writer| VendorDefined::pci_sig(version, &QUERY).write_request(writer))?;
            probe.secured(&message)
        },
    ),
    case("vendor-unknown-standard", "VENDOR_DEFINED_REQUEST of standards body 0x7777", NOT_SPOKEN, |probe| {
        vendor(probe, StandardId(0x7777), &[1, 0], &QUERY)
    }),
    case(
        "vendor-unknown-vendor",
        "VENDOR_DEFINED_REQUEST of a PCI vendor that is not the PCI-SIG",
        NOT_SPOKEN,
        |probe| vendor(probe, StandardId::PCI_SIG, &[0xfe, 0xff], &QUERY),
    ),
    case("vendor-no-payload", "VENDOR_DEFINED_REQUEST without a payload", NOT_SPOKEN, |probe| {
        vendor(probe, StandardId::PCI_SIG, &[1, 0], &[])
    }),
    case(
        "vendor-unknown-protocol",
        "VENDOR_DEFINED_REQUEST of the PCI-SIG with protocol 0x7e",
        NOT_SPOKEN,
        |probe| vendor(probe, StandardId::PCI_SIG, &[1, 0], &[0x7e, 0, 0, 0]),
    ),
    case(
        "vendor-length-beyond",
        "VENDOR_DEFINED_REQUEST whose payload length is beyond its end",
        INVALID,
        |probe| {
            probe.session()?;
            let version = probe.version();
            let mut message =
                written(|writer| VendorDefined::pci_sig(version, &QUERY).write_request(writer))?;
            // Length of the payload, behind standard id, length of the vendor id and vendor id.
            message[9] = 0xff;
            probe.secured(&message)
        },
    ),
    case("unknown-request-in-session", "request code 0x90 inside a session", UNSUPPORTED, |probe| {
        probe.session()?;
        let version = probe.version();
        probe.secured(&bare(version, RequestCode(0x90), 0, 0))
    }),
    case("empty-message", "a secured message that holds no message", INVALID, |probe| {
        probe.session()?;
        probe.secured(&[])
    }),
];
