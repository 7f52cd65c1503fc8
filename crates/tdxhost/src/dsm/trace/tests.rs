//! Conversations as they are told.

use std::time::Duration;

use pcie::FuncId;
use serde_json::{Value, json};
use spdm::Kind;
use spdm::ide_km::{IdeKey, Ifv, KeyProg, KeySelector, KpAck, KpStatus, PortIndex, StreamId, Target};
use spdm::ids::SessionId;
use spdm::key_schedule::Direction;
use spdm::msg::{self, VendorDefined};
use spdm::tdisp::{
    Body, GetReport, InterfaceId, InterfaceInfo, Message, MmioRange, Nonce, RangeAttributes, Report,
    ReportPortion, StartInterface,
};
use spdm::wire::{NoSpace, Writer};

use super::super::record::Sender;
use super::{Decoder, Secrets, Trace};

const SESSION: SessionId = SessionId(0xfffe_fffd);

fn written(write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>) -> Vec<u8> {
    let mut buffer = [0; 1024];
    msg::encode(&mut buffer, write).unwrap().to_vec()
}

/// `start` and zeros up to `size`, with some bytes changed.
fn sparse(start: &[u8], size: usize, some: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.resize(size, 0);
    for (place, value) in some {
        bytes[*place] = *value;
    }
    bytes
}

/// GET_CAPABILITIES and CAPABILITIES of 1.2.
fn capabilities(decoder: &mut Decoder, flags: [(usize, u8); 3]) -> [Value; 2] {
    let sizes = [(13, 0x10), (17, 0x10)];
    let request = sparse(&[0x12, 0xe1], 20, &[&flags[..], &sizes].concat());
    let response = sparse(&[0x12, 0x61], 20, &[&flags[..], &sizes].concat());
    [decoder.message(Sender::Requester, None, &request), decoder.message(Sender::Responder, None, &response)]
}

/// ALGORITHMS with that hash; P-384, secp384r1, AES-256-GCM.
fn algorithms(hash: u8) -> Vec<u8> {
    let tables = [2, 0x20, 0x10, 0, 3, 0x20, 2, 0, 5, 0x20, 1, 0];
    let fields = [(6, 1), (7, 2), (8, hash << 1), (12, 0x80), (16, hash)];
    [&sparse(&[0x12, 0x63, 3, 0, 48], 36, &fields)[..], &tables].concat()
}

/// A decoder behind ALGORITHMS.
fn agreed(secrets: Secrets, flags: [(usize, u8); 3]) -> Decoder {
    let mut decoder = Decoder::new(secrets);
    capabilities(&mut decoder, flags);
    decoder.message(Sender::Responder, None, &algorithms(2));
    decoder
}

/// CERT_CAP, ENCRYPT_CAP, MAC_CAP, KEY_EX_CAP, CHUNK_CAP.
const FLAGS: [(usize, u8); 3] = [(8, 0xc2), (9, 0x02), (10, 0x02)];
/// And HANDSHAKE_IN_THE_CLEAR_CAP.
const IN_CLEAR: [(usize, u8); 3] = [(8, 0xc2), (9, 0x82), (10, 0x02)];

fn without_error(value: &Value) {
    assert_eq!(value.get("error"), None, "{value}");
}

#[test]
fn bits_are_told_by_name_and_unknown_ones_by_value() {
    let mut decoder = Decoder::new(Secrets::Hidden);
    let [request, response] = capabilities(&mut decoder, FLAGS);
    let flags = json!(["CERT_CAP", "ENCRYPT_CAP", "MAC_CAP", "KEY_EX_CAP", "CHUNK_CAP"]);
    assert_eq!((&request["name"], &request["flags"]), (&json!("GET_CAPABILITIES"), &flags));
    assert_eq!((&response["name"], &response["flags"]), (&json!("CAPABILITIES"), &flags));
    let chosen = decoder.message(Sender::Responder, None, &algorithms(2));
    assert_eq!(chosen["hash"], json!(["SHA_384"]));
    assert_eq!(chosen["tables"]["DHE"], json!(["SECP_384_R1"]));
    assert_eq!(chosen["tables"]["requester's asymmetric"], Value::Null);
    assert_eq!(super::names::bits(0x12_u8, &["", "", "", "", "four"]), json!(["0x2", "four"]));
}

#[test]
fn messages_whose_size_depends_on_the_algorithms_decode_behind_them() {
    let digests = sparse(&[0x12, 0x01, 0, 1], 4 + 48, &[]);
    let mut decoder = Decoder::new(Secrets::Hidden);
    let refused = decoder.message(Sender::Responder, None, &digests);
    assert_eq!(refused["error"], json!("message code 0x1 before algorithms are agreed on"));
    assert_eq!(refused["name"], json!("DIGESTS"));
    let mut decoder = agreed(Secrets::Hidden, FLAGS);
    let told = decoder.message(Sender::Responder, None, &digests);
    assert_eq!(told["digests"], json!({ "0": "00".repeat(48) }));
    // Digests of SHA-256 are shorter.
    let told = decoder.message(Sender::Responder, None, &algorithms(1));
    without_error(&told);
    assert_eq!(
        decoder.message(Sender::Responder, None, &digests)["error"],
        json!("16 bytes follow behind the message")
    );
}

#[test]
fn a_new_connection_forgets_what_the_last_one_agreed_on() {
    let mut decoder = agreed(Secrets::Hidden, FLAGS);
    let digests = sparse(&[0x12, 0x01, 0, 1], 4 + 48, &[]);
    without_error(&decoder.message(Sender::Responder, None, &digests));
    without_error(&decoder.message(Sender::Requester, None, &[0x10, 0x84, 0, 0]));
    assert!(decoder.message(Sender::Responder, None, &digests)["error"].is_string());
}

#[test]
fn get_version_inside_a_session_is_told_and_nothing_is_forgotten() {
    let mut decoder = agreed(Secrets::Hidden, FLAGS);
    let told = decoder.message(Sender::Requester, Some(SESSION), &[0x10, 0x84, 0, 0]);
    assert_eq!(told["name"], "GET_VERSION");
    let digests = sparse(&[0x12, 0x01, 0, 1], 4 + 48, &[]);
    without_error(&decoder.message(Sender::Responder, None, &digests));
}

#[test]
fn a_response_has_the_fields_that_its_request_has_asked_for() {
    let mut decoder = agreed(Secrets::Hidden, FLAGS);
    for (asked, size) in [(0, 0), (0xff, 48)] {
        let opaque = [1, 0, 0, 0, 0, 0, 7, 0, 1, 1, 2, 0, 0x11, 0, 0x12, 0];
        let request = [&sparse(&[0x12, 0xe4, asked, 0], 40 + 96 + 2, &[(136, 16)])[..], &opaque].concat();
        let request = decoder.message(Sender::Requester, None, &request);
        assert_eq!(request["opaque"]["secured message versions"], json!(["1.1.0.0", "1.2.0.0"]));
        let response = sparse(&[0x12, 0x64], 40 + 96 + size + 2 + 96 + 48, &[]);
        let told = decoder.message(Sender::Responder, None, &response);
        without_error(&told);
        assert_eq!(told["measurement summary"].is_string(), size != 0);
        assert!(told["verify data"].is_string());
        // ResponseNotReady and RESPOND_IF_READY in between change nothing.
        let not_ready = [0x12, 0x7f, 0x42, 0, 1, 0xe4, 9, 1];
        assert_eq!(decoder.message(Sender::Responder, None, &not_ready)["not ready"]["token"], json!(9));
        without_error(&decoder.message(Sender::Requester, None, &[0x12, 0xff, 0xe4, 9]));
        assert_eq!(decoder.message(Sender::Responder, None, &response), told);
    }
    let request = sparse(&[0x12, 0xe0, 1, 0xff], 37, &[]);
    without_error(&decoder.message(Sender::Requester, Some(SESSION), &request));
    let block = [1, 1, 4, 0, 0x87, 1, 0, 9];
    let head = sparse(&[0x12, 0x60, 0, 0x20, 1, 8], 8, &[]);
    let response = [&head[..], &block, &[0; 32 + 2 + 96]].concat();
    let told = decoder.message(Sender::Responder, Some(SESSION), &response);
    assert_eq!(told["blocks"], json!([{ "index": 1, "kind": "secure version number", "raw": "09" }]));
    assert_eq!(told["content"], json!("unchanged"));
}

#[test]
fn a_handshake_in_the_clear_ends_with_the_responders_verification_data() {
    for (flags, size) in [(FLAGS, 4), (IN_CLEAR, 52)] {
        let mut decoder = agreed(Secrets::Hidden, flags);
        let told = decoder.message(Sender::Responder, None, &sparse(&[0x12, 0x65], size, &[]));
        without_error(&told);
    }
}

#[test]
fn undecodable_bytes_are_shown_with_the_reason() {
    let mut decoder = agreed(Secrets::Hidden, FLAGS);
    let told = decoder.message(Sender::Requester, None, &[0x12, 0xe9, 9, 7]);
    let expected =
        json!({ "name": "KEY_UPDATE", "error": "KeyOperation must not be 0x9", "bytes": "12e90907" });
    assert_eq!(told, expected);
    let told = decoder.message(Sender::Responder, None, &[0x12, 0x55, 0, 0]);
    assert_eq!(told, json!({ "error": "message code 0x55 is not known", "bytes": "12550000" }));
    let told = decoder.message(Sender::Responder, None, &[]);
    assert_eq!(told["bytes"], json!(""));
}

#[test]
fn large_messages_are_put_together_from_their_chunks() {
    let mut decoder = agreed(Secrets::Shown, FLAGS);
    let chunk = |code: u8, last: u8, sequence: u8, bytes: &[u8]| {
        let size = u8::try_from(bytes.len()).unwrap();
        let mut message = vec![0x12, code, last, 1, sequence, 0, 0, 0, size, 0, 0, 0];
        if sequence == 0 {
            message.extend([200, 0, 0, 0]);
        }
        message.extend(bytes);
        message
    };
    let large = sparse(&[0x12, 0x02, 3, 0, 52], 60, &[]);
    let told = decoder.message(Sender::Responder, None, &chunk(0x06, 0, 0, &large[..40]));
    assert_eq!(told.get("large message"), None);
    let told = decoder.message(Sender::Responder, None, &chunk(0x06, 1, 1, &large[40..]));
    assert_eq!(told["large message"]["name"], json!("CERTIFICATE"));
    assert_eq!(told["large message"]["portion length"], json!(52));
    // What is put together is no chunk of something larger.
    let nested = chunk(0x85, 1, 0, &chunk(0x85, 1, 0, &large));
    let told = decoder.message(Sender::Requester, None, &nested);
    assert_eq!(told["large message"]["name"], json!("CHUNK_SEND"));
    assert_eq!(told["large message"].get("large message"), None);
    let ack = [0x12, 0x05, 1, 1, 0, 0, 0x12, 0x7f, 1, 0];
    let told = decoder.message(Sender::Responder, None, &ack);
    assert_eq!(told["response"]["code"], json!("InvalidRequest"));
}

fn key_prog() -> Vec<u8> {
    let target = Target { stream: StreamId(5), key: KeySelector(0x23), port: PortIndex(0) };
    let message = KeyProg { target, key: IdeKey::new([0xab; 32]), ifv: Ifv::INITIAL };
    let payload = [&[0][..], &written(|writer| message.write(writer))].concat();
    written(|writer| VendorDefined::pci_sig(spdm::ids::Version::V1_2, &payload).write_request(writer))
}

#[test]
fn keys_are_shown_of_modelled_devices_only() {
    let key = "ab".repeat(32);
    for secrets in [Secrets::Shown, Secrets::Hidden] {
        let mut decoder = agreed(secrets, FLAGS);
        let told = decoder.message(Sender::Requester, Some(SESSION), &key_prog());
        let payload = &told["payload"];
        assert_eq!((&payload["protocol"], &payload["name"]), (&json!("IDE_KM"), &json!("KEY_PROG")));
        assert_eq!(payload["slot"], json!("K1|Tx|CPL"));
        assert_eq!(payload["ifv"], json!("0x1"));
        // Neither does a message that is cut or bent give the key away.
        let mut bent = key_prog();
        bent[13] = 1;
        let cut = &key_prog()[..50];
        for bytes in [&key_prog(), &bent, cut] {
            let text = decoder.message(Sender::Requester, Some(SESSION), bytes).to_string();
            assert_eq!(text.contains(&key[..40]), secrets == Secrets::Shown, "{text}");
        }
        let mut chunk = vec![0x12, 0x85, 1, 1, 0, 0, 0, 0, 59, 0, 0, 0, 59, 0, 0, 0];
        chunk.extend(key_prog());
        let text = decoder.message(Sender::Requester, Some(SESSION), &chunk).to_string();
        assert!(text.contains("KEY_PROG"), "{text}");
        assert_eq!(text.contains(&key[..40]), secrets == Secrets::Shown, "{text}");
    }
}

#[test]
fn acknowledgements_of_keys_tell_their_status() {
    let target = Target { stream: StreamId(5), key: KeySelector(0x30), port: PortIndex(0) };
    let message = KpAck { target, status: KpStatus::UNSUPPORTED_VALUE };
    let payload = [&[0][..], &written(|writer| message.write(writer))].concat();
    let bytes =
        written(|writer| VendorDefined::pci_sig(spdm::ids::Version::V1_2, &payload).write_response(writer));
    let told = agreed(Secrets::Hidden, FLAGS).message(Sender::Responder, Some(SESSION), &bytes);
    assert_eq!(told["payload"]["slot"], json!("0x30"));
    assert_eq!(told["payload"]["status"], json!("unsupported value in another field"));
}

fn tdisp(decoder: &mut Decoder, sender: Sender, body: Body<'_>) -> Value {
    let message = Message { interface: InterfaceId(FuncId(0x3b00)), body };
    let payload = [&[1][..], &written(|writer| message.write(writer))].concat();
    let vendor = VendorDefined::pci_sig(spdm::ids::Version::V1_2, &payload);
    let bytes = written(|writer| match sender {
        Sender::Requester => vendor.write_request(writer),
        Sender::Responder => vendor.write_response(writer),
    });
    decoder.message(sender, Some(SESSION), &bytes)["payload"].clone()
}

#[test]
fn a_report_is_told_once_its_portions_are_there() {
    let attributes = RangeAttributes::MSIX_TABLE.union(RangeAttributes::NON_TEE);
    let report = Report {
        info: InterfaceInfo::DMA_WITHOUT_PASID,
        ranges: vec![MmioRange { first_page: 0x8000_1000, pages: 4, attributes, id: 2 }],
        ..Report::default()
    };
    let bytes = report.to_bytes().unwrap();
    let (first, second) = bytes.split_at(20);
    let mut decoder = agreed(Secrets::Hidden, FLAGS);
    let portion = |offset: u16, bytes, remainder, decoder: &mut Decoder| {
        tdisp(decoder, Sender::Requester, Body::GetReport(GetReport { offset, length: 20 }));
        tdisp(decoder, Sender::Responder, Body::Report(ReportPortion { remainder, bytes }))
    };
    let told = portion(0, first, 16, &mut decoder);
    assert_eq!(told.get("report"), None);
    let told = portion(20, second, 0, &mut decoder);
    assert_eq!(told["report"]["info"], json!(["DMA_WITHOUT_PASID"]));
    let range = json!({
        "first page": "0x80001000",
        "pages": 4,
        "attributes": ["MSI_X_TABLE", "IS_NON_TEE_MEM"],
        "id": 2,
    });
    assert_eq!(told["report"]["ranges"], json!([range]));
    // A portion from somewhere else is no end of it.
    portion(0, first, 16, &mut decoder);
    assert_eq!(portion(16, second, 0, &mut decoder).get("report"), None);
}

#[test]
fn nonces_of_interfaces_are_as_secret_as_keys() {
    for secrets in [Secrets::Shown, Secrets::Hidden] {
        let mut decoder = agreed(secrets, FLAGS);
        let body = Body::Start(StartInterface { nonce: Nonce::new([0xcd; 32]) });
        let told = tdisp(&mut decoder, Sender::Requester, body);
        assert_eq!(told["interface"], json!("0000:3b:00.0"));
        let expected = if secrets == Secrets::Shown { "cd".repeat(32) } else { "hidden".into() };
        assert_eq!(told["nonce"], json!(expected));
    }
}

#[test]
fn a_trace_is_a_line_of_json_per_message() {
    let mut file = Vec::new();
    let mut trace = Trace::new(&mut file, Secrets::Hidden);
    let time = Duration::from_millis(1500);
    trace.message(time, Sender::Requester, Kind::Clear, &[0x10, 0x84, 0, 0]).unwrap();
    let sealed = [0xfd, 0xff, 0xfe, 0xff, 2, 0, 0xaa, 0xbb];
    trace.message(time, Sender::Requester, Kind::Secured, &sealed).unwrap();
    trace.message(time, Sender::Responder, Kind::Secured, &[1, 2, 3]).unwrap();
    trace.secured(time, Direction::Response, SESSION, 3, &[0x12, 0x68, 0, 0]).unwrap();
    trace.other(time, Sender::Responder, &[1, 0, 0, 0]).unwrap();
    let text = String::from_utf8(file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [
        json!({ "time": 1.5, "from": "requester", "size": 4,
            "message": { "name": "GET_VERSION", "version": "1.0" } }),
        json!({ "time": 1.5, "from": "requester", "size": 8,
            "sealed": { "session": "0xfffefffd", "length": 2, "bytes": "aabb" } }),
        json!({ "time": 1.5, "from": "responder", "size": 3,
            "sealed": { "error": "the message ends in session id: 4 bytes needed, 3 left", "bytes": "010203" } }),
        json!({ "time": 1.5, "from": "responder", "size": 4, "session": "0xfffefffd", "sequence": 3,
            "message": { "name": "HEARTBEAT_ACK", "version": "1.2" } }),
        json!({ "time": 1.5, "from": "responder", "size": 4, "object": "01000000" }),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn any_bytes_are_told_somehow() {
    let mut decoder = agreed(Secrets::Hidden, FLAGS);
    let mut seed = 1_u64;
    for _ in 0..20_000 {
        let mut bytes = [0; 64];
        for byte in &mut bytes {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *byte = if seed >> 62 == 0 { 0 } else { seed.to_be_bytes()[0] };
        }
        bytes[0] = 0x12;
        let size = usize::from(bytes[63] % 64);
        let session = (bytes[62] & 1 == 1).then_some(SESSION);
        for sender in [Sender::Requester, Sender::Responder] {
            assert!(decoder.message(sender, session, &bytes[..size]).is_object());
        }
    }
}
