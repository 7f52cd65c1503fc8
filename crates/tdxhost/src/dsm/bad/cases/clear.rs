//! Bounds of what is asked for in the clear.

use spdm::Kind;
use spdm::ids::Version;
use spdm::msg::{self, Certificate, ErrorCode, GetCertificate, RequestCode, ResponseCode};

use super::{Answer, Attempt, Case, Expected, INVALID, Probe, bare, case, written};

fn portion(probe: &mut Probe<'_>, offset: u16, length: u16) -> Result<Vec<u8>, super::Setback> {
    let version = probe.version();
    let request = GetCertificate { version, slot: probe.slot(), slot_size: false, offset, length };
    Ok(written(|writer| request.write(writer))?)
}

/// Asks for a portion, and looks at whether what comes is one of the chain.
fn bounded(probe: &mut Probe<'_>, offset: u16, length: u16) -> Attempt {
    probe.connect()?;
    let request = portion(probe, offset, length)?;
    let (version, size) = (probe.version(), probe.chain_size());
    let (kind, bytes) = match probe.exchange(Kind::Clear, &request) {
        Ok(answer) => answer,
        Err(failure) => return Ok(failure.into()),
    };
    let answer = Answer::of(&bytes, kind);
    if answer != Answer::Granted(ResponseCode::CERTIFICATE) {
        return Ok(answer);
    }
    let read = msg::padded(&bytes, |reader| Certificate::read(reader, version));
    Ok(match read {
        Err(error) => Answer::Malformed(error.to_string()),
        Ok((certificate, _)) => {
            let end = usize::from(offset) + certificate.portion.len() + usize::from(certificate.remainder);
            let more = certificate.portion.len() > length.into();
            if end == size && !more && probe.is_of_chain(offset.into(), certificate.portion) {
                answer
            } else {
                Answer::Broken(format!("bytes to {end} of a chain of {size}"))
            }
        }
    })
}

fn certificate(probe: &mut Probe<'_>, slot: u8, param2: u8) -> Attempt {
    probe.connect()?;
    let version = probe.version();
    Ok(probe.clear(&[bare(version, RequestCode::GET_CERTIFICATE, slot, param2), vec![0, 0, 0, 4]].concat()))
}

fn measurements(probe: &mut Probe<'_>, attributes: u8, index: u8, slot: Option<u8>) -> Attempt {
    probe.connect()?;
    probe.needs(|flags| flags.meas() != 0, "MEAS_CAP")?;
    let version = probe.version();
    let mut message = bare(version, RequestCode::GET_MEASUREMENTS, attributes, index);
    if let Some(slot) = slot {
        probe.needs(|flags| flags.meas() == 2, "MEAS_CAP with signatures")?;
        message.extend([0x5a; 32]);
        message.push(slot);
    }
    if version >= Version::V1_3 {
        message.extend([0; 8]);
    }
    Ok(probe.clear(&message))
}

fn challenge(probe: &mut Probe<'_>, slot: u8, summary: u8) -> Attempt {
    probe.connect()?;
    probe.needs(msg::ResponderFlags::chal, "CHAL_CAP")?;
    let version = probe.version();
    let mut message = bare(version, RequestCode::CHALLENGE, slot, summary);
    message.extend([0x5a; 32]);
    if version >= Version::V1_3 {
        message.extend([0; 8]);
    }
    Ok(probe.clear(&message))
}

pub(super) const CASES: &[Case] = &[
    case("certificate-offset-at-end", "GET_CERTIFICATE with the chain's size as offset", INVALID, |probe| {
        probe.connect()?;
        let size = u16::try_from(probe.chain_size()).unwrap_or(u16::MAX);
        let request = portion(probe, size, 1)?;
        Ok(probe.clear(&request))
    }),
    case("certificate-offset-beyond", "GET_CERTIFICATE with offset 0xffff", INVALID, |probe| {
        probe.connect()?;
        let request = portion(probe, u16::MAX, u16::MAX)?;
        Ok(probe.clear(&request))
    }),
    case(
        "certificate-length-beyond",
        "GET_CERTIFICATE whose offset and length wrap around",
        Expected::Bounded,
        |probe| bounded(probe, 16, u16::MAX),
    ),
    case(
        "certificate-length-last-byte",
        "GET_CERTIFICATE for 0x400 bytes from the last byte on",
        Expected::Bounded,
        |probe| {
            probe.connect()?;
            let last = u16::try_from(probe.chain_size()).unwrap_or(u16::MAX).saturating_sub(1);
            bounded(probe, last, 0x400)
        },
    ),
    case("certificate-empty-slot", "GET_CERTIFICATE of a slot that is empty", INVALID, |probe| {
        probe.connect()?;
        let slot = probe.empty_slot()?.number();
        certificate(probe, slot, 0)
    }),
    case("certificate-slot-9", "GET_CERTIFICATE of slot 9", INVALID, |probe| certificate(probe, 9, 0)),
    case(
        "certificate-reserved-bit",
        "GET_CERTIFICATE with a reserved bit beside the slot",
        Expected::MayIgnore(&[ErrorCode::INVALID_REQUEST]),
        |probe| {
            probe.connect()?;
            let slot = probe.slot().number();
            certificate(probe, 0x80 | slot, 0)
        },
    ),
    case("challenge-empty-slot", "CHALLENGE of a slot that is empty", INVALID, |probe| {
        probe.connect()?;
        let slot = probe.empty_slot()?.number();
        challenge(probe, slot, 0)
    }),
    case("challenge-slot-9", "CHALLENGE of slot 9", INVALID, |probe| challenge(probe, 9, 0)),
    case("challenge-summary-2", "CHALLENGE with the measurement summary type 2", INVALID, |probe| {
        probe.connect()?;
        let slot = probe.slot().number();
        challenge(probe, slot, 2)
    }),
    case(
        "measurement-index-beyond",
        "GET_MEASUREMENTS of index 0xfc, which there is not",
        INVALID,
        |probe| measurements(probe, 0, 0xfc, None),
    ),
    case("measurements-empty-slot", "GET_MEASUREMENTS signed by a slot that is empty", INVALID, |probe| {
        probe.connect()?;
        let slot = probe.empty_slot()?.number();
        measurements(probe, 1, 0xff, Some(slot))
    }),
    case("measurements-slot-9", "GET_MEASUREMENTS signed by slot 9", INVALID, |probe| {
        measurements(probe, 1, 0xff, Some(9))
    }),
    case(
        "measurements-reserved-bit",
        "GET_MEASUREMENTS with a reserved attribute",
        Expected::MayIgnore(&[ErrorCode::INVALID_REQUEST]),
        |probe| measurements(probe, 0x80, 0, None),
    ),
    case(
        "measurements-no-nonce",
        "GET_MEASUREMENTS that asks for a signature without a nonce",
        INVALID,
        |probe| measurements(probe, 1, 0xff, None),
    ),
];
