//! Messages out of order.

use spdm::msg::{
    Challenge, GetMeasurements, KeyOperation, KeyUpdate, MeasurementOperation, RequestCode, SummaryHash,
};

use super::{
    Answer, Attempt, Case, NEEDS_SESSION, NOT_AGREED, Probe, UNEXPECTED, UNSUPPORTED, bare, case, written,
};

/// Behind `VERSION`: a header with that code.
fn behind_version(probe: &mut Probe<'_>, code: RequestCode) -> Attempt {
    probe.negotiate()?;
    let version = probe.version();
    probe.get_version()?;
    Ok(probe.clear(&bare(version, code, 0, 0)))
}

/// Behind `CAPABILITIES`.
fn behind_capabilities(probe: &mut Probe<'_>, message: &[u8]) -> Attempt {
    probe.capabilities()?;
    Ok(probe.clear(message))
}

fn in_clear(probe: &mut Probe<'_>, code: RequestCode, param1: u8) -> Attempt {
    probe.negotiate()?;
    let version = probe.version();
    Ok(probe.clear(&bare(version, code, param1, 0)))
}

fn in_handshake(
    probe: &mut Probe<'_>,
    message: impl Fn(&Probe<'_>) -> Result<Vec<u8>, super::Setback>,
) -> Attempt {
    probe.connect()?;
    probe.handshake()?;
    let message = message(probe)?;
    probe.secured(&message)
}

fn in_session(probe: &mut Probe<'_>, code: RequestCode) -> Attempt {
    probe.session()?;
    let version = probe.version();
    probe.secured(&bare(version, code, 0, 0))
}

fn challenge(probe: &Probe<'_>) -> Result<Vec<u8>, super::Setback> {
    let version = probe.version();
    let context = (version >= spdm::ids::Version::V1_3).then_some([7; 8]);
    let request =
        Challenge { version, slot: probe.slot(), summary: SummaryHash::None, nonce: [5; 32], context };
    Ok(written(|writer| request.write(writer))?)
}

fn measurements(probe: &Probe<'_>) -> Result<Vec<u8>, super::Setback> {
    let version = probe.version();
    let context = (version >= spdm::ids::Version::V1_3).then_some([7; 8]);
    let operation = MeasurementOperation::Total;
    let request = GetMeasurements { version, signature: None, raw: false, new: false, operation, context };
    Ok(written(|writer| request.write(writer))?)
}

fn key_update(probe: &Probe<'_>) -> Result<Vec<u8>, super::Setback> {
    let version = probe.version();
    Ok(written(|writer| KeyUpdate { version, operation: KeyOperation::UpdateKey, tag: 1 }.write(writer))?)
}

pub(super) const CASES: &[Case] = &[
    case("algorithms-before-capabilities", "NEGOTIATE_ALGORITHMS behind VERSION", UNEXPECTED, |probe| {
        let message = probe.algorithms_request()?;
        probe.get_version()?;
        Ok(probe.clear(&message))
    }),
    case("digests-before-capabilities", "GET_DIGESTS behind VERSION", NO_VERSION, |probe| {
        behind_version(probe, RequestCode::GET_DIGESTS)
    }),
    case("measurements-before-algorithms", "GET_MEASUREMENTS behind CAPABILITIES", UNEXPECTED, |probe| {
        probe.needs_flag(|flags| flags.meas() != 0, "MEAS_CAP")?;
        let message = measurements(probe)?;
        behind_capabilities(probe, &message)
    }),
    case("certificate-before-algorithms", "GET_CERTIFICATE behind CAPABILITIES", UNEXPECTED, |probe| {
        probe.negotiate()?;
        let version = probe.version();
        let message = [&bare(version, RequestCode::GET_CERTIFICATE, 0, 0)[..], &[0, 0, 0, 4]].concat();
        behind_capabilities(probe, &message)
    }),
    case("challenge-before-algorithms", "CHALLENGE behind CAPABILITIES", UNEXPECTED, |probe| {
        probe.needs_flag(spdm::msg::ResponderFlags::chal, "CHAL_CAP")?;
        let message = challenge(probe)?;
        behind_capabilities(probe, &message)
    }),
    case("key-exchange-before-algorithms", "KEY_EXCHANGE behind CAPABILITIES", UNEXPECTED, |probe| {
        probe.connect()?;
        let ephemeral = probe.ephemeral()?;
        let (_, message) = probe.key_exchange_request(ephemeral.public())?;
        behind_capabilities(probe, &message)
    }),
    case("other-capabilities", "GET_CAPABILITIES once more, with other flags", UNEXPECTED, |probe| {
        probe.capabilities()?;
        let mut message = probe.capabilities_request()?;
        // CTExponent.
        message[5] ^= 1;
        Ok(probe.clear(&message))
    }),
    case("capabilities-behind-algorithms", "GET_CAPABILITIES behind ALGORITHMS", UNEXPECTED, |probe| {
        probe.negotiate()?;
        let mut message = probe.capabilities_request()?;
        message[5] ^= 1;
        Ok(probe.clear(&message))
    }),
    case("other-algorithms", "NEGOTIATE_ALGORITHMS once more, with one hash less", UNEXPECTED, |probe| {
        let mut message = probe.algorithms_request()?;
        // Leave the other of the two that are spoken.
        if message[12] & 3 == 3 {
            message[12] &= !2;
        } else {
            message[12] ^= 3;
        }
        Ok(probe.clear(&message))
    }),
    case("heartbeat-in-clear", "HEARTBEAT in the clear", NEEDS_SESSION, |probe| {
        probe.needs_flag(spdm::msg::ResponderFlags::hbeat, "HBEAT_CAP")?;
        in_clear(probe, RequestCode::HEARTBEAT, 0)
    }),
    case("key-update-in-clear", "KEY_UPDATE in the clear", NEEDS_SESSION, |probe| {
        probe.needs_flag(spdm::msg::ResponderFlags::key_upd, "KEY_UPD_CAP")?;
        in_clear(probe, RequestCode::KEY_UPDATE, 1)
    }),
    case("end-session-in-clear", "END_SESSION in the clear", NEEDS_SESSION, |probe| {
        in_clear(probe, RequestCode::END_SESSION, 0)
    }),
    case(
        "end-session-in-clear-during-session",
        "END_SESSION in the clear while a session is open",
        NEEDS_SESSION,
        |probe| {
            probe.session()?;
            let version = probe.version();
            let answer = probe.clear(&bare(version, RequestCode::END_SESSION, 0, 0));
            if probe.still_alive() {
                Ok(answer)
            } else {
                Ok(Answer::Broken(format!("{answer}, and the session is gone")))
            }
        },
    ),
    case("heartbeat-in-handshake", "HEARTBEAT before FINISH", UNEXPECTED, |probe| {
        probe.needs_flag(spdm::msg::ResponderFlags::hbeat, "HBEAT_CAP")?;
        in_handshake(probe, |probe| Ok(bare(probe.version(), RequestCode::HEARTBEAT, 0, 0)))
    }),
    case("key-update-in-handshake", "KEY_UPDATE before FINISH", UNEXPECTED, |probe| {
        probe.needs_flag(spdm::msg::ResponderFlags::key_upd, "KEY_UPD_CAP")?;
        in_handshake(probe, key_update)
    }),
    case("end-session-in-handshake", "END_SESSION before FINISH", UNEXPECTED, |probe| {
        in_handshake(probe, |probe| Ok(bare(probe.version(), RequestCode::END_SESSION, 0, 0)))
    }),
    case("measurements-in-handshake", "GET_MEASUREMENTS before FINISH", UNEXPECTED, |probe| {
        probe.needs_flag(|flags| flags.meas() != 0, "MEAS_CAP")?;
        in_handshake(probe, measurements)
    }),
    case("digests-in-handshake", "GET_DIGESTS before FINISH", UNEXPECTED, |probe| {
        in_handshake(probe, |probe| Ok(bare(probe.version(), RequestCode::GET_DIGESTS, 0, 0)))
    }),
    case("version-in-session", "GET_VERSION inside a session", NO_VERSION, |probe| {
        probe.session()?;
        probe.secured(&bare(spdm::ids::Version::V1_0, RequestCode::GET_VERSION, 0, 0))
    }),
    case("capabilities-in-session", "GET_CAPABILITIES inside a session", UNEXPECTED, |probe| {
        probe.session()?;
        let message = probe.capabilities_request()?;
        probe.secured(&message)
    }),
    case("algorithms-in-session", "NEGOTIATE_ALGORITHMS inside a session", UNEXPECTED, |probe| {
        let message = probe.algorithms_request()?;
        probe.session()?;
        probe.secured(&message)
    }),
    case("challenge-in-session", "CHALLENGE inside a session", UNEXPECTED, |probe| {
        probe.needs_flag(spdm::msg::ResponderFlags::chal, "CHAL_CAP")?;
        probe.session()?;
        let message = challenge(probe)?;
        probe.secured(&message)
    }),
    case("key-exchange-in-session", "KEY_EXCHANGE inside a session", UNEXPECTED, |probe| {
        probe.session()?;
        let ephemeral = probe.ephemeral()?;
        let (_, message) = probe.key_exchange_request(ephemeral.public())?;
        probe.secured(&message)
    }),
    case("finish-in-session", "FINISH inside a session that is open", UNEXPECTED, |probe| {
        probe.session()?;
        let version = probe.version();
        let digest = probe.layout()?.digest();
        let message = [bare(version, RequestCode::FINISH, 0, 0), vec![0xa5; digest]].concat();
        probe.secured(&message)
    }),
    case("heartbeat-not-agreed", "HEARTBEAT of a requester without HBEAT_CAP", NOT_AGREED, |probe| {
        probe.offer(|config| config.flags.set_hbeat(false));
        in_session(probe, RequestCode::HEARTBEAT)
    }),
    case("key-update-not-agreed", "KEY_UPDATE of a requester without KEY_UPD_CAP", NOT_AGREED, |probe| {
        probe.offer(|config| config.flags.set_key_upd(false));
        probe.session()?;
        let message = key_update(probe)?;
        probe.secured(&message)
    }),
    case("key-exchange-not-agreed", "KEY_EXCHANGE of a requester without KEY_EX_CAP", NOT_AGREED, |probe| {
        probe.connect()?;
        let ephemeral = probe.ephemeral()?;
        let (_, message) = probe.key_exchange_request(ephemeral.public())?;
        probe.offer(|config| {
            config.flags = config
                .flags
                .with_key_ex(false)
                .with_encrypt(false)
                .with_mac(false)
                .with_hbeat(false)
                .with_key_upd(false);
        });
        probe.negotiate()?;
        Ok(probe.clear(&message))
    }),
    case("psk-exchange", "PSK_EXCHANGE, which nobody has agreed on", NOT_AGREED, |probe| {
        probe.negotiate()?;
        let version = probe.version();
        let message =
            [&bare(version, RequestCode::PSK_EXCHANGE, 0, 0)[..], &[1, 1, 0, 0, 0, 0, 0, 0]].concat();
        Ok(probe.clear(&message))
    }),
    case("unknown-request", "request code 0x90", UNSUPPORTED, |probe| in_clear(probe, RequestCode(0x90), 0)),
    case("response-code", "DIGESTS, which is a response", NOT_AGREED_OR_INVALID, |probe| {
        in_clear(probe, RequestCode(1), 0)
    }),
    case(
        "encapsulated-in-clear",
        "GET_ENCAPSULATED_REQUEST, which nobody has agreed on",
        NOT_AGREED,
        |probe| in_clear(probe, RequestCode::GET_ENCAPSULATED_REQUEST, 0),
    ),
    case("encapsulated-response", "DELIVER_ENCAPSULATED_RESPONSE to no request", NOT_AGREED, |probe| {
        probe.negotiate()?;
        let version = probe.version();
        let mut message = bare(version, RequestCode::DELIVER_ENCAPSULATED_RESPONSE, 1, 0);
        message.extend([version.0, 1, 0, 0]);
        Ok(probe.clear(&message))
    }),
    case("encapsulated-in-session", "GET_ENCAPSULATED_REQUEST inside a session", NOT_AGREED, |probe| {
        in_session(probe, RequestCode::GET_ENCAPSULATED_REQUEST)
    }),
    case("set-certificate", "SET_CERTIFICATE to a responder without SET_CERT_CAP", NOT_AGREED, |probe| {
        probe.negotiate()?;
        probe.needs(|flags| !flags.cert_provisioning(), "a reason to refuse SET_CERTIFICATE")?;
        let version = probe.version();
        Ok(probe.clear(&[bare(version, RequestCode::SET_CERTIFICATE, 1, 0), vec![0; 64]].concat()))
    }),
];

/// Out of order, or of a version that is none here.
const NO_VERSION: super::Expected = super::Expected::Error(&[
    spdm::msg::ErrorCode::UNEXPECTED_REQUEST,
    spdm::msg::ErrorCode::VERSION_MISMATCH,
]);

const NOT_AGREED_OR_INVALID: super::Expected = super::Expected::Error(&[
    spdm::msg::ErrorCode::UNSUPPORTED_REQUEST,
    spdm::msg::ErrorCode::INVALID_REQUEST,
    spdm::msg::ErrorCode::UNEXPECTED_REQUEST,
]);
