//! Every check of a request, by a message that breaks it alone.

use super::super::*;
use super::samples::{Seed, layout};
use super::{changed, length, request_error, reserved, value, written};
use crate::ids::Version;
use alloc::vec::Vec;

/// The sample with that code.
fn sample(version: Version, code: RequestCode) -> Vec<u8> {
    let seed = Seed::plain(version);
    let requests = seed.requests();
    let message = requests.iter().find(|message| message.code() == code).expect("a sample");
    written(|writer| message.write(writer))
}

/// A sample, what is changed in it, and the refusal.
type Row<'a> = (RequestCode, &'a [(usize, u8)], DecodeError);

/// Every sample is read as it is, and refused when changed.
fn check(version: Version, rows: &[Row<'_>]) {
    let stage = Stage::Agreed(layout(version));
    for (code, changes, expected) in rows {
        let bytes = sample(version, *code);
        assert_eq!(request_error(stage, &bytes), None, "{code} as it is");
        let refused = request_error(stage, &changed(&bytes, changes));
        assert_eq!(refused, Some(*expected), "{code} with {changes:?}");
    }
}

#[test]
fn messages_of_a_header_have_reserved_parameters() {
    for code in [RequestCode::GET_VERSION, RequestCode::GET_DIGESTS, RequestCode::HEARTBEAT] {
        check(
            Version::V1_2,
            &[(code, &[(2, 1)], reserved("Param1", 1)), (code, &[(3, 0x80)], reserved("Param2", 0x80))],
        );
    }
}

#[test]
fn get_version_is_of_version_1_0() {
    let refused = DecodeError::Version { found: 0x12, expected: 0x10 };
    check(Version::V1_2, &[(RequestCode::GET_VERSION, &[(0, 0x12)], refused)]);
}

#[test]
fn get_capabilities_refuses_reserved_fields_and_impossible_sizes() {
    let code = RequestCode::GET_CAPABILITIES;
    check(
        Version::V1_3,
        &[
            (code, &[(2, 2)], reserved("Param1", 2)),
            (code, &[(3, 1)], reserved("Param2", 1)),
            (code, &[(4, 1)], reserved("byte 4", 1)),
            (code, &[(5, 32)], value("CTExponent", 32)),
            (code, &[(7, 1)], reserved("bytes 6 and 7", 0x0100)),
            (code, &[(12, 41), (13, 0)], value("DataTransferSize", 41)),
            (code, &[(16, 0), (17, 0), (18, 0)], value("MaxSPDMmsgSize", 0)),
        ],
    );
    check(Version::V1_2, &[(code, &[(2, 1)], reserved("Param1", 1))]);
}

/// `GET_CAPABILITIES` of 1.3 with those flags.
fn requester_flags(flags: RequesterFlags, wants_algorithms: bool) -> Option<DecodeError> {
    let message = GetCapabilities {
        version: Version::V1_3,
        wants_algorithms,
        ct_exponent: 0,
        flags,
        data_transfer_size: 4096,
        max_message_size: 4096,
    };
    request_error(Stage::Start, &written(|writer| message.write(writer)))
}

#[test]
fn flags_of_a_requester_do_not_contradict_each_other() {
    let none = RequesterFlags::new();
    let session = none.with_key_ex(true).with_mac(true).with_encrypt(true);
    let full = session.with_cert(true).with_chal(true).with_mut_auth(true).with_psk(1).with_multi_key(2);
    for sound in [none, session, full, session.with_handshake_in_clear(true), session.with_pub_key_id(true)] {
        assert_eq!(requester_flags(sound, false), None, "{sound:?}");
    }
    let rows = [
        (full.with_psk(2), "Flags with a reserved PSK_CAP"),
        (full.with_ep_info(3), "Flags with a reserved EP_INFO_CAP"),
        (full.with_multi_key(3), "Flags with a reserved MULTI_KEY_CAP"),
        (none.with_key_ex(true), "Flags with KEY_EX_CAP or PSK_CAP but neither MAC_CAP nor ENCRYPT_CAP"),
        (none.with_psk(1), "Flags with KEY_EX_CAP or PSK_CAP but neither MAC_CAP nor ENCRYPT_CAP"),
        (none.with_mac(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (none.with_encrypt(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (none.with_hbeat(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (none.with_key_upd(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (none.with_event(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (none.with_handshake_in_clear(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (
            none.with_psk(1).with_mac(true).with_handshake_in_clear(true),
            "Flags with HANDSHAKE_IN_THE_CLEAR_CAP but without KEY_EX_CAP",
        ),
        (session.with_cert(true).with_pub_key_id(true), "Flags with both CERT_CAP and PUB_KEY_ID_CAP"),
        (none.with_cert(true), "Flags with a key that nothing uses"),
        (none.with_chal(true), "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
        (session.with_mut_auth(true), "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
        (none.with_ep_info(2), "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
        (
            none.with_cert(true).with_ep_info(2).with_mut_auth(true),
            "Flags with MUT_AUTH_CAP but neither KEY_EX_CAP nor CHAL_CAP",
        ),
        (session.with_multi_key(1), "Flags with MULTI_KEY_CAP but without CERT_CAP"),
        (session.with_pub_key_id(true).with_multi_key(1), "Flags with MULTI_KEY_CAP but without CERT_CAP"),
    ];
    for (flags, field) in rows {
        assert_eq!(requester_flags(flags, false), Some(value(field, u32::from(flags).into())));
    }
    let refused = Some(value("Param1 without CHUNK_CAP", 1));
    assert_eq!(requester_flags(session, true), refused);
    assert_eq!(requester_flags(session.with_chunk(true), true), None);
}

#[test]
fn a_large_message_takes_chunks() {
    let message = GetCapabilities {
        version: Version::V1_2,
        wants_algorithms: false,
        ct_exponent: 0,
        flags: RequesterFlags::new(),
        data_transfer_size: 42,
        max_message_size: 43,
    };
    let error =
        |message: GetCapabilities| request_error(Stage::Start, &written(|writer| message.write(writer)));
    assert_eq!(error(message), Some(value("MaxSPDMmsgSize", 43)));
    assert_eq!(error(GetCapabilities { max_message_size: 42, ..message }), None);
    assert_eq!(error(GetCapabilities { flags: RequesterFlags::new().with_chunk(true), ..message }), None);
}

#[test]
fn negotiate_algorithms_refuses_reserved_bits_and_wrong_tables() {
    let code = RequestCode::NEGOTIATE_ALGORITHMS;
    // The sample has all four tables, of types 2 to 5, from byte 32 on.
    check(
        Version::V1_3,
        &[
            (code, &[(3, 1)], reserved("Param2", 1)),
            (code, &[(4, 47)], length("Length", 47, 48)),
            (code, &[(4, 129)], length("Length", 129, 128)),
            (code, &[(2, 3)], length("Length", 48, 44)),
            (code, &[(6, 3)], reserved("MeasurementSpecification", 2)),
            (code, &[(7, 0x22)], reserved("OtherParamsSupport", 0x20)),
            (code, &[(9, 0x12)], reserved("BaseAsymAlgo", 0x1000)),
            (code, &[(12, 0x82)], reserved("BaseHashAlgo", 0x80)),
            (code, &[(16, 1)], reserved("bytes 16 to 19", 1)),
            (code, &[(27, 1)], reserved("bytes 20 to 27", 1 << 56)),
            (code, &[(30, 1)], reserved("byte 30", 1)),
            (code, &[(31, 2)], reserved("MELspecification", 2)),
            (code, &[(28, 1), (2, 3)], reserved("byte 1 of an extended algorithm", 0x20)),
            (code, &[(29, 1), (2, 3)], reserved("byte 1 of an extended algorithm", 0x20)),
            (code, &[(32, 1)], value("AlgType", 1)),
            (code, &[(44, 6)], value("AlgType", 6)),
            (code, &[(36, 2), (38, 0)], value("AlgType behind one that is not lower", 2)),
            (code, &[(40, 2), (42, 0), (43, 0)], value("AlgType behind one that is not lower", 2)),
            (code, &[(33, 0x10)], value("FixedAlgCount", 1)),
            (code, &[(34, 0x80)], reserved("AlgSupported", 0x80)),
            (code, &[(38, 0x10)], reserved("AlgSupported", 0x10)),
            (code, &[(43, 0x10)], reserved("AlgSupported", 0x1000)),
            (code, &[(46, 2)], reserved("AlgSupported", 2)),
            (code, &[(33, 0x21), (2, 3)], reserved("byte 1 of an extended algorithm", 0x20)),
        ],
    );
    check(
        Version::V1_2,
        &[
            (code, &[(7, 0x12)], reserved("OtherParamsSupport", 0x10)),
            (code, &[(31, 1)], reserved("MELspecification", 1)),
        ],
    );
}

#[test]
fn extended_algorithms_are_kept_and_limited_to_twenty() {
    let request = |asym: u8, hash: u8, table: u8| {
        let size = 32 + 4 * (asym + hash) + 4 + 4 * table;
        let mut bytes = alloc::vec![0x12, RequestCode::NEGOTIATE_ALGORITHMS.0, 1, 0, size, 0];
        bytes.resize(28, 0);
        bytes.extend([asym, hash, 0, 0]);
        let entries = |count: u8| (0..count).flat_map(|number| [1, 0, number, 2]);
        bytes.extend(entries(asym).chain(entries(hash)));
        bytes.extend([3, 0x20 | table, 2, 0]);
        bytes.extend(entries(table));
        bytes
    };
    let read = request(2, 1, 3);
    let message = exact(&read, |reader| NegotiateAlgorithms::read(reader, Version::V1_2)).unwrap();
    assert_eq!(message.extended_asym.iter().collect::<Vec<_>>(), [(1, 0x0200), (1, 0x0201)]);
    assert_eq!(message.extended_hash.count(), 1);
    assert_eq!(message.tables.aead.unwrap().extended.count(), 3);
    assert_eq!(written(|writer| message.write(writer)), read);

    let stage = Stage::Version(Version::V1_2);
    assert_eq!(request_error(stage, &request(8, 8, 4)), None);
    let refused = length("the list of extended algorithms", 84, 80);
    assert_eq!(request_error(stage, &request(8, 8, 5)), Some(refused));
}

#[test]
fn slots_are_eight() {
    for (code, at) in
        [(RequestCode::GET_CERTIFICATE, 2), (RequestCode::CHALLENGE, 2), (RequestCode::KEY_EXCHANGE, 3)]
    {
        check(
            Version::V1_3,
            &[
                (code, &[(at, 8)], value("SlotID", 8)),
                (code, &[(at, 15)], value("SlotID", 15)),
                (code, &[(at, 0x17)], reserved("SlotID", 0x10)),
            ],
        );
    }
    let code = RequestCode::GET_MEASUREMENTS;
    check(
        Version::V1_3,
        &[(code, &[(36, 8)], value("SlotIDParam", 8)), (code, &[(36, 0x11)], reserved("SlotIDParam", 0x10))],
    );
}

#[test]
fn attributes_that_a_version_does_not_have_are_refused() {
    check(
        Version::V1_3,
        &[
            (RequestCode::GET_CERTIFICATE, &[(3, 2)], reserved("Param2", 2)),
            (RequestCode::GET_MEASUREMENTS, &[(2, 0x0f)], reserved("Param1", 8)),
            (RequestCode::KEY_EXCHANGE, &[(6, 4)], reserved("SessionPolicy", 4)),
            (RequestCode::END_SESSION, &[(2, 3)], reserved("Param1", 2)),
            (RequestCode::END_SESSION, &[(3, 1)], reserved("Param2", 1)),
        ],
    );
    check(
        Version::V1_2,
        &[
            (RequestCode::GET_CERTIFICATE, &[(3, 1)], reserved("Param2", 1)),
            (RequestCode::GET_MEASUREMENTS, &[(2, 0x07)], reserved("Param1", 4)),
            (RequestCode::KEY_EXCHANGE, &[(6, 3)], reserved("SessionPolicy", 2)),
        ],
    );
}

#[test]
fn a_summary_is_of_none_of_some_or_of_all_measurements() {
    check(
        Version::V1_2,
        &[
            (RequestCode::CHALLENGE, &[(3, 2)], value("MeasurementSummaryHashType", 2)),
            (RequestCode::KEY_EXCHANGE, &[(2, 0xfe)], value("MeasurementSummaryHashType", 0xfe)),
        ],
    );
}

#[test]
fn key_exchange_refuses_its_reserved_byte_and_too_much_opaque_data() {
    let code = RequestCode::KEY_EXCHANGE;
    let opaque = 40 + layout(Version::V1_2).exchange();
    check(
        Version::V1_2,
        &[
            (code, &[(7, 1)], reserved("byte 7", 1)),
            (code, &[(opaque, 1), (opaque + 1, 4)], length("OpaqueData", 1025, 1024)),
        ],
    );
}

#[test]
fn finish_has_neither_signature_nor_slot() {
    check(
        Version::V1_2,
        &[
            (RequestCode::FINISH, &[(2, 1)], value("SignatureIncluded", 1)),
            (RequestCode::FINISH, &[(3, 1)], reserved("Param2", 1)),
        ],
    );
}

#[test]
fn key_update_knows_three_operations() {
    for operation in [0, 4, 0xff] {
        let refused = value("KeyOperation", operation.into());
        check(Version::V1_2, &[(RequestCode::KEY_UPDATE, &[(2, operation)], refused)]);
    }
}

#[test]
fn vendor_ids_have_the_size_of_their_registry() {
    let code = RequestCode::VENDOR_DEFINED;
    check(
        Version::V1_3,
        &[
            (code, &[(2, 0x80)], reserved("Param1", 0x80)),
            (code, &[(3, 1)], reserved("Param2", 1)),
            (code, &[(6, 3)], length("VendorID", 3, 2)),
            (code, &[(4, 0)], length("VendorID", 2, 0)),
            (code, &[(4, 4)], length("VendorID", 2, 4)),
            (code, &[(9, 0)], DecodeError::Trailing { extra: 1 }),
        ],
    );
    assert_eq!(StandardId::IANA_CBOR.vendor_id_size(), None);
    assert_eq!(StandardId(12).vendor_id_size(), None);
}

#[test]
fn respond_if_ready_names_a_request() {
    let refused = value("RequestCode", 0x7f);
    check(Version::V1_2, &[(RequestCode::RESPOND_IF_READY, &[(2, 0x7f)], refused)]);
}

#[test]
fn chunks_are_not_empty_and_no_larger_than_their_message() {
    let code = RequestCode::CHUNK_SEND;
    check(
        Version::V1_2,
        &[
            (code, &[(2, 2)], reserved("Param1", 2)),
            (code, &[(7, 1)], reserved("bytes 6 and 7", 0x0100)),
            (code, &[(8, 0)], value("ChunkSize", 0)),
            (code, &[(12, 1), (13, 0), (14, 0), (15, 0)], value("LargeMessageSize", 1)),
            (RequestCode::CHUNK_GET, &[(2, 1)], reserved("Param1", 1)),
        ],
    );
}

#[test]
fn capabilities_of_later_versions_are_kept_and_left_out() {
    let later = RequesterFlags::from(0xf03c_0039);
    assert_eq!(requester_flags(later, false), None);
    assert_eq!(later.of(Version::V1_3), RequesterFlags::new());
    // EP_INFO_CAP, EVENT_CAP and MULTI_KEY_CAP of 1.3 contradict themselves there only.
    let flags = RequesterFlags::new().with_ep_info(3).with_event(true).with_multi_key(3);
    assert!(requester_flags(flags, false).is_some());
    let bytes = sample(Version::V1_2, RequestCode::GET_CAPABILITIES);
    let bent = changed(&bytes, &[(11, u32::from(flags).to_le_bytes()[3])]);
    let read = exact(&bent, |reader| GetCapabilities::read(reader, Version::V1_2)).unwrap();
    let plain = exact(&bytes, |reader| GetCapabilities::read(reader, Version::V1_2)).unwrap();
    assert_ne!(read.flags, plain.flags);
    assert_eq!(read.flags.of(Version::V1_2), plain.flags);
    assert_eq!(written(|writer| read.write(writer)), bent);
}
