//! Every check of a response, by a message that breaks it alone.

use super::super::*;
use super::samples::{Seed, layout};
use super::{changed, length, reserved, response_error, value, written};
use crate::ids::Version;
use alloc::vec::Vec;

/// The first sample with that code.
fn sample(version: Version, code: ResponseCode) -> Vec<u8> {
    let seed = Seed::plain(version);
    let record = seed.record();
    let mut responses = seed.responses(&record);
    responses.extend(seed.open_ended());
    let message = responses.iter().find(|message| message.code() == code).expect("a sample");
    written(|writer| message.write(writer))
}

/// A sample, what is changed in it, and the refusal.
type Row<'a> = (ResponseCode, &'a [(usize, u8)], DecodeError);

/// Every sample is read as it is, and refused when changed.
fn check(version: Version, rows: &[Row<'_>]) {
    let stage = Stage::Agreed(layout(version));
    let asked = Seed::plain(version).asked();
    for (code, changes, expected) in rows {
        let bytes = sample(version, *code);
        assert_eq!(response_error(stage, asked, &bytes), None, "{code} as it is");
        let refused = response_error(stage, asked, &changed(&bytes, changes));
        assert_eq!(refused, Some(*expected), "{code} with {changes:?}");
    }
}

#[test]
fn messages_of_a_header_have_reserved_parameters() {
    for code in [ResponseCode::HEARTBEAT_ACK, ResponseCode::END_SESSION_ACK, ResponseCode::FINISH_RSP] {
        check(
            Version::V1_2,
            &[(code, &[(2, 1)], reserved("Param1", 1)), (code, &[(3, 0x80)], reserved("Param2", 0x80))],
        );
    }
}

#[test]
fn versions_are_listed_once_each() {
    let code = ResponseCode::VERSION;
    check(
        Version::V1_3,
        &[
            (code, &[(0, 0x13)], DecodeError::Version { found: 0x13, expected: 0x10 }),
            (code, &[(2, 1)], reserved("Param1", 1)),
            (code, &[(3, 1)], reserved("Param2", 1)),
            (code, &[(4, 1)], reserved("byte 4", 1)),
            (code, &[(5, 0)], value("VersionNumberEntryCount", 0)),
            (code, &[(5, 1)], DecodeError::Trailing { extra: 2 }),
            (code, &[(9, 0x10)], value("a second VersionNumberEntry", 0x1000)),
        ],
    );
    let list = |count: u8| {
        let mut bytes = alloc::vec![0x10, ResponseCode::VERSION.0, 0, 0, 0, count];
        bytes.extend((0..count).flat_map(|minor| [minor, 0x13]));
        response_error(Stage::Start, Asked::default(), &bytes)
    };
    assert_eq!(list(16), None);
    assert_eq!(list(17), Some(length("VersionNumberEntry list", 17, 16)));
}

#[test]
fn a_version_number_tells_its_parts() {
    let number = VersionNumber(0x1234);
    assert_eq!((number.version(), number.update(), number.alpha()), (Version::V1_2, 3, 4));
    assert_eq!(alloc::format!("{number}"), "1.2.3.4");
    assert_eq!(VersionNumber::released(Version::V1_3), VersionNumber(0x1300));
    let list = VersionList::released(&[Version::V1_2, Version::V1_3]).unwrap();
    assert!(list.has(Version::V1_2) && !list.has(Version::V1_1));
    assert_eq!(VersionList::released(&[Version::V1_2, Version::V1_2]), None);
}

#[test]
fn capabilities_refuse_reserved_fields_and_impossible_sizes() {
    let code = ResponseCode::CAPABILITIES;
    check(
        Version::V1_3,
        &[
            (code, &[(2, 1)], reserved("Param1", 1)),
            (code, &[(3, 1)], reserved("Param2", 1)),
            (code, &[(4, 1)], reserved("byte 4", 1)),
            (code, &[(5, 0xff)], value("CTExponent", 0xff)),
            (code, &[(6, 1)], reserved("bytes 6 and 7", 1)),
            (code, &[(12, 0), (13, 0)], value("DataTransferSize", 0)),
            (code, &[(16, 0), (17, 0), (18, 0)], value("MaxSPDMmsgSize", 0)),
        ],
    );
    // Capabilities of later versions are kept and left out.
    let bytes = changed(&sample(Version::V1_2, code), &[(11, 0xc1)]);
    let read = exact(&bytes, |reader| Capabilities::read(reader, Version::V1_2)).unwrap();
    assert_eq!(u32::from(read.flags) >> 24, 0xc1);
    assert_eq!(u32::from(read.flags.of(Version::V1_2)) >> 24, 0);
    assert_eq!(written(|writer| read.write(writer)), bytes);
}

#[test]
fn flags_of_a_responder_do_not_contradict_each_other() {
    let error = |flags: ResponderFlags| {
        let message = Capabilities {
            version: Version::V1_3,
            ct_exponent: 0,
            flags,
            data_transfer_size: 4096,
            max_message_size: 4096,
        };
        response_error(Stage::Start, Asked::default(), &written(|writer| message.write(writer)))
    };
    let none = ResponderFlags::new();
    let cert = none.with_cert(true).with_chal(true);
    let session = none.with_cert(true).with_key_ex(true).with_mac(true).with_encrypt(true);
    let psk = none.with_psk(2).with_mac(true);
    let provisioning = cert.with_cert_provisioning(true).with_csr(true).with_cert_install_reset(true);
    let keys = cert.with_multi_key(2).with_key_pair_info(true).with_key_pair_provisioning(true);
    let pub_key = none.with_pub_key_id(true).with_meas(2).with_meas_fresh(true);
    for sound in [none, cert, session, psk, provisioning, keys, pub_key, session.with_mut_auth(true)] {
        assert_eq!(error(sound), None, "{sound:?}");
    }
    let rows = [
        (cert.with_meas(3), "Flags with a reserved MEAS_CAP"),
        (psk.with_psk(3), "Flags with a reserved PSK_CAP"),
        (cert.with_ep_info(3), "Flags with a reserved EP_INFO_CAP"),
        (keys.with_multi_key(3), "Flags with a reserved MULTI_KEY_CAP"),
        (none.with_meas_fresh(true), "Flags with MEAS_FRESH_CAP but without MEAS_CAP"),
        (cert.with_key_ex(true), "Flags with KEY_EX_CAP or PSK_CAP but neither MAC_CAP nor ENCRYPT_CAP"),
        (none.with_psk(1), "Flags with KEY_EX_CAP or PSK_CAP but neither MAC_CAP nor ENCRYPT_CAP"),
        (cert.with_mac(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (cert.with_encrypt(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (cert.with_hbeat(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (cert.with_key_upd(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (cert.with_event(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (cert.with_handshake_in_clear(true), "Flags of sessions without KEY_EX_CAP or PSK_CAP"),
        (psk.with_handshake_in_clear(true), "Flags with HANDSHAKE_IN_THE_CLEAR_CAP but without KEY_EX_CAP"),
        (cert.with_pub_key_id(true), "Flags with both CERT_CAP and PUB_KEY_ID_CAP"),
        (none.with_cert(true), "Flags with a key that nothing uses"),
        (none.with_chal(true), "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
        (session.with_cert(false), "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
        (none.with_meas(2), "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
        (none.with_ep_info(2), "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
        (none.with_mut_auth(true), "Flags that need CERT_CAP or PUB_KEY_ID_CAP"),
        (pub_key.with_mut_auth(true), "Flags with MUT_AUTH_CAP but neither KEY_EX_CAP nor CHAL_CAP"),
        (none.with_alias_cert(true), "Flags with ALIAS_CERT_CAP or SET_CERT_CAP but without CERT_CAP"),
        (
            pub_key.with_cert_provisioning(true),
            "Flags with ALIAS_CERT_CAP or SET_CERT_CAP but without CERT_CAP",
        ),
        (cert.with_csr(true), "Flags with CSR_CAP but without SET_CERT_CAP"),
        (cert.with_cert_install_reset(true), "Flags with CERT_INSTALL_RESET_CAP but nothing to install"),
        (
            keys.with_key_pair_info(false),
            "Flags with MULTI_KEY_CAP but without GET_KEY_PAIR_INFO_CAP and CERT_CAP",
        ),
        (pub_key.with_key_pair_info(true), "Flags with PUB_KEY_ID_CAP and several key pairs"),
        (pub_key.with_key_pair_provisioning(true), "Flags with PUB_KEY_ID_CAP and several key pairs"),
    ];
    for (flags, field) in rows {
        assert_eq!(error(flags), Some(value(field, u32::from(flags).into())));
    }
}

#[test]
fn algorithms_are_one_of_each_kind() {
    let code = ResponseCode::ALGORITHMS;
    // The sample has all four tables, of types 2 to 5, from byte 36 on.
    check(
        Version::V1_3,
        &[
            (code, &[(3, 1)], reserved("Param2", 1)),
            (code, &[(4, 48)], length("Length", 48, 52)),
            (code, &[(6, 3)], reserved("MeasurementSpecificationSel", 2)),
            (code, &[(7, 6)], reserved("OtherParamsSelection", 4)),
            (code, &[(7, 3)], value("OtherParamsSelection", 3)),
            (code, &[(9, 1)], reserved("MeasurementHashAlgo", 0x100)),
            (code, &[(8, 6)], value("MeasurementHashAlgo", 6)),
            (code, &[(13, 0x10)], reserved("BaseAsymSel", 0x1000)),
            (code, &[(12, 0x90)], value("BaseAsymSel", 0x90)),
            (code, &[(16, 0x80)], reserved("BaseHashSel", 0x80)),
            (code, &[(16, 3)], value("BaseHashSel", 3)),
            (code, &[(20, 1)], reserved("bytes 20 to 23", 1)),
            (code, &[(24, 1)], reserved("bytes 24 to 30", 1)),
            (code, &[(31, 2)], reserved("MELspecificationSel", 2)),
            (code, &[(32, 1)], value("ExtAsymSelCount", 1)),
            (code, &[(33, 1)], value("ExtHashSelCount", 1)),
            (code, &[(35, 1)], reserved("bytes 34 and 35", 0x0100)),
            (code, &[(38, 0x18)], value("AlgSupported", 0x18)),
            (code, &[(40, 2), (42, 0)], value("AlgType behind one that is not lower", 2)),
            // The second table becomes an extended algorithm of the first.
            (code, &[(2, 3), (37, 0x21), (41, 0)], value("ExtAlgCount", 1)),
        ],
    );
    check(
        Version::V1_2,
        &[
            (code, &[(7, 0x12)], reserved("OtherParamsSelection", 0x10)),
            (code, &[(31, 1)], reserved("MELspecificationSel", 1)),
        ],
    );
}

#[test]
fn digests_are_of_slots_that_exist() {
    let code = ResponseCode::DIGESTS;
    check(
        Version::V1_3,
        &[
            (code, &[(2, 2)], value("ProvisionedSlotMask", 1)),
            (code, &[(3, 0)], DecodeError::Trailing { extra: 48 }),
        ],
    );
    check(Version::V1_2, &[(code, &[(2, 1)], reserved("Param1", 1))]);
}

#[test]
fn digests_belong_to_their_slots_in_order() {
    let digests: Vec<u8> = (0..96).collect();
    let message =
        Digests { version: Version::V1_2, supported: 0, provisioned: 0b1000_0010, digests: &digests };
    let slots: Vec<_> = message.slots().map(|(slot, digest)| (slot.number(), digest)).collect();
    assert_eq!(slots, [(1, &digests[..48]), (7, &digests[48..])]);
    assert_eq!(message.digest(crate::ids::SlotId::ZERO), None);
    let none = Digests { provisioned: 0, digests: &[], ..message };
    assert_eq!(none.slots().count(), 0);
}

#[test]
fn certificate_portions_stay_within_a_chain() {
    let code = ResponseCode::CERTIFICATE;
    check(
        Version::V1_3,
        &[
            (code, &[(2, 8)], value("SlotID", 8)),
            (code, &[(2, 0x11)], reserved("SlotID", 0x10)),
            (code, &[(3, 8)], reserved("Param2", 8)),
            (code, &[(3, 4)], value("CertModel", 4)),
            (code, &[(6, 0xff), (7, 0xff)], length("RemainderLength", 0xffff, 0xfffe)),
        ],
    );
    check(Version::V1_2, &[(code, &[(3, 1)], reserved("Param2", 1))]);
}

#[test]
fn challenge_auth_does_not_ask_for_mutual_authentication() {
    let code = ResponseCode::CHALLENGE_AUTH;
    let opaque = 4 + 48 + 32 + 48;
    check(
        Version::V1_3,
        &[
            (code, &[(2, 0x81)], reserved("SlotID", 0x80)),
            (code, &[(2, 9)], value("SlotID", 9)),
            (code, &[(opaque + 1, 5)], length("OpaqueData", 0x501, 1024)),
        ],
    );
}

#[test]
fn fields_that_were_not_asked_for_are_not_there() {
    for version in Version::SPOKEN {
        let stage = Stage::Agreed(layout(version));
        let neither = Asked::default();
        for (code, asked) in [
            (ResponseCode::CHALLENGE_AUTH, Asked { summary: true, signature: false }),
            (ResponseCode::KEY_EXCHANGE_RSP, Asked { summary: true, signature: false }),
        ] {
            let bytes = sample(version, code);
            assert_eq!(response_error(stage, asked, &bytes), None, "{code}");
            assert!(response_error(stage, neither, &bytes).is_some(), "{code}");
        }
        let bytes = sample(version, ResponseCode::MEASUREMENTS);
        assert_eq!(response_error(stage, neither, &bytes), Some(reserved("Param2", bytes[3].into())));
    }
}

#[test]
fn measurements_have_the_blocks_that_they_count() {
    let code = ResponseCode::MEASUREMENTS;
    // The record: a block of 7 + 32 bytes from 8 on, one of 7 + 1 from 47 on.
    check(
        Version::V1_3,
        &[
            (code, &[(3, 0x48)], reserved("Param2", 0x40)),
            (code, &[(3, 0x08)], value("SlotID", 8)),
            (code, &[(3, 0x31)], value("ContentChanged", 3)),
            (code, &[(2, 1)], reserved("Param1", 1)),
            (code, &[(4, 1)], value("NumberOfBlocks", 1)),
            (code, &[(4, 3)], value("NumberOfBlocks", 3)),
            (code, &[(5, 39)], value("NumberOfBlocks", 2)),
            (code, &[(8, 0)], value("measurement Index", 0)),
            (code, &[(8, 0xff)], value("measurement Index", 0xff)),
            (code, &[(8, 0xfe)], value("the Index of a second block", 0xfe)),
            (code, &[(9, 2)], value("MeasurementSpecification", 2)),
            (code, &[(10, 36)], length("DMTFSpecMeasurementValue", 32, 33)),
            (code, &[(13, 31)], length("DMTFSpecMeasurementValue", 31, 32)),
            (code, &[(51, 5)], length("the digest of a measurement", 1, 32)),
        ],
    );
    let record = Seed::plain(Version::V1_3).record();
    let (raw_only, unknown) = (Some(crate::algo::MeasurementHash::RawOnly), None);
    let refused = length("the digest of a measurement", 32, 0);
    assert_eq!(MeasurementBlocks::check(&record, 2, raw_only), Err(refused));
    assert_eq!(MeasurementBlocks::check(&record[39..], 1, raw_only), Ok(()));
    assert_eq!(MeasurementBlocks::check(&record, 2, unknown), Ok(()));
}

#[test]
fn key_exchange_rsp_asks_for_one_kind_of_mutual_authentication_at_most() {
    let code = ResponseCode::KEY_EXCHANGE_RSP;
    check(
        Version::V1_3,
        &[
            (code, &[(3, 1)], reserved("Param2", 1)),
            (code, &[(6, 8)], reserved("MutAuthRequested", 8)),
            (code, &[(6, 3)], value("MutAuthRequested", 3)),
            (code, &[(7, 0x10)], reserved("ReqSlotIDParam", 0x10)),
            (code, &[(6, 0)], reserved("ReqSlotIDParam", 1)),
        ],
    );
}

#[test]
fn verification_data_of_the_responder_are_in_one_message_only() {
    let layout = layout(Version::V1_2);
    let in_clear = Layout { handshake_in_clear: true, ..layout };
    let asked = Seed::plain(Version::V1_2).asked();
    let bytes = sample(Version::V1_2, ResponseCode::KEY_EXCHANGE_RSP);
    let refused = DecodeError::Trailing { extra: 48 };
    assert_eq!(response_error(Stage::Agreed(in_clear), asked, &bytes), Some(refused));
    let bytes = sample(Version::V1_2, ResponseCode::FINISH_RSP);
    let refused = DecodeError::Truncated { field: "ResponderVerifyData", needed: 48, left: 0 };
    assert_eq!(response_error(Stage::Agreed(in_clear), asked, &bytes), Some(refused));
}

#[test]
fn acknowledgements_know_what_they_acknowledge() {
    check(
        Version::V1_2,
        &[
            (ResponseCode::KEY_UPDATE_ACK, &[(2, 0)], value("KeyOperation", 0)),
            (ResponseCode::CHUNK_SEND_ACK, &[(2, 2)], reserved("Param1", 2)),
            (ResponseCode::CHUNK_RESPONSE, &[(2, 2)], reserved("Param1", 2)),
            (ResponseCode::CHUNK_RESPONSE, &[(6, 1)], reserved("bytes 6 and 7", 1)),
            (ResponseCode::CHUNK_RESPONSE, &[(8, 0)], value("ChunkSize", 0)),
            (ResponseCode::VENDOR_DEFINED, &[(2, 1)], reserved("Param1", 1)),
            (ResponseCode::VENDOR_DEFINED, &[(6, 0)], length("VendorID", 0, 2)),
        ],
    );
}

#[test]
fn errors_have_the_extended_data_of_their_code() {
    let stage = Stage::Version(Version::V1_2);
    let error = |bytes: &[u8]| response_error(stage, Asked::default(), bytes);
    let code = ResponseCode::ERROR.0;
    assert_eq!(error(&[0x12, code, 0x01, 0]), None);
    assert_eq!(error(&[0x12, code, 0x01, 0, 0]), Some(DecodeError::Trailing { extra: 1 }));
    let truncated = DecodeError::Truncated { field: "the data of ResponseNotReady", needed: 4, left: 3 };
    assert_eq!(error(&[0x12, code, 0x42, 0, 1, 0x83, 2]), Some(truncated));
    let truncated = DecodeError::Truncated { field: "Handle", needed: 1, left: 0 };
    assert_eq!(error(&[0x12, code, 0x0f, 0]), Some(truncated));
    let truncated = DecodeError::Truncated { field: "ActualSize", needed: 4, left: 2 };
    assert_eq!(error(&[0x12, code, 0x0d, 0, 0, 0]), Some(truncated));
    let mut vendor = alloc::vec![0x12, code, 0xff, 3];
    vendor.resize(4 + 32, 0);
    assert_eq!(error(&vendor), None);
    vendor.push(0);
    assert_eq!(error(&vendor), Some(length("ExtendedErrorData", 33, 32)));
}

#[test]
fn an_error_is_of_the_version_of_the_connection_or_of_1_0() {
    let error = |version: u8| {
        let bytes = [version, ResponseCode::ERROR.0, 0x41, 0];
        response_error(Stage::Version(Version::V1_3), Asked::default(), &bytes)
    };
    assert_eq!(error(0x13), None);
    assert_eq!(error(0x10), None);
    assert_eq!(error(0x12), Some(DecodeError::Version { found: 0x12, expected: 0x13 }));
}

#[test]
fn the_delay_of_a_response_that_is_not_ready_does_not_wrap() {
    let after =
        |exponent| NotReady { exponent, request: RequestCode::CHALLENGE, token: 0, multiplier: 1 }.delay();
    assert_eq!(after(0).as_micros(), 1);
    assert_eq!(after(20).as_micros(), 1 << 20);
    assert_eq!(after(64).as_micros(), u64::MAX.into());
}
