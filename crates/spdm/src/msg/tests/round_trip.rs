//! What is written reads back, and what reads back is written with the same bytes.

use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::*;
use super::samples::{Seed, layout, seeds};
use super::{changed, request_error, response_error, written};
use crate::ids::Version;
use crate::wire::Reader;

/// Whatever `bytes` are: read or refused without a panic, and canonical.
fn request_is_canonical(bytes: &[u8], stage: Stage) {
    let mut reader = Reader::new(bytes);
    if let Ok(message) = Request::read(&mut reader, &stage) {
        let read = &bytes[..bytes.len() - reader.left()];
        assert_eq!(written(|writer| message.write(writer)), read, "{message:?}");
        assert_eq!(message.code().0, bytes[1]);
    }
}

fn response_is_canonical(bytes: &[u8], stage: Stage, asked: Asked) {
    let mut reader = Reader::new(bytes);
    if let Ok(message) = Response::read(&mut reader, &stage, asked) {
        let read = &bytes[..bytes.len() - reader.left()];
        assert_eq!(written(|writer| message.write(writer)), read, "{message:?}");
        assert_eq!(message.code().0, bytes[1]);
    }
}

/// Every message that the numbers give, as bytes; requests have bit 7 of the code set.
fn all_bytes(seed: &Seed) -> Vec<Vec<u8>> {
    let record = seed.record();
    let requests = seed.requests();
    let mut responses = seed.responses(&record);
    responses.extend(seed.open_ended());
    let requests = requests.iter().map(|message| written(|writer| message.write(writer)));
    requests.chain(responses.iter().map(|message| written(|writer| message.write(writer)))).collect()
}

#[test]
fn the_samples_have_every_code_that_is_read() {
    let seed = Seed::plain(Version::V1_3);
    let stage = Stage::Agreed(seed.layout);
    let samples: Vec<u8> = all_bytes(&seed).iter().map(|bytes| bytes[1]).collect();
    for code in 0..=u8::MAX {
        let bytes = [Version::V1_3.0, code, 0, 0];
        let unknown = if RequestCode::is_request(code) {
            request_error(stage, &bytes)
        } else {
            response_error(stage, Asked::default(), &bytes)
        } == Some(DecodeError::UnknownCode(code));
        assert_eq!(unknown, !samples.contains(&code), "{code:#x}");
    }
}

#[test]
fn bytes_without_a_whole_header_are_refused() {
    let stage = Stage::Agreed(layout(Version::V1_3));
    for size in 0..Header::SIZE {
        let bytes = [0x13, 0x81, 0][..size].to_vec();
        let truncated = DecodeError::Truncated { field: "the message header", needed: 4, left: size };
        assert_eq!(request_error(stage, &bytes), Some(truncated));
        assert_eq!(response_error(stage, Asked::default(), &bytes), Some(truncated));
        assert_eq!(Header::peek(&bytes), Err(truncated));
    }
}

#[test]
fn padding_is_at_most_three_zeros() {
    let read = |bytes: &[u8]| padded(bytes, |reader| Heartbeat::read(reader, Version::V1_2));
    let heartbeat = Heartbeat { version: Version::V1_2 };
    for size in 4..=7 {
        assert_eq!(read(&[0x12, 0xe8, 0, 0, 0, 0, 0][..size]), Ok((heartbeat, 4)));
    }
    assert_eq!(read(&[0x12, 0xe8, 0, 0, 0, 0, 0, 0]), Err(DecodeError::Trailing { extra: 4 }));
    let refused = DecodeError::Reserved { field: "padding", value: 0x0100 };
    assert_eq!(read(&[0x12, 0xe8, 0, 0, 0, 1]), Err(refused));
}

#[test]
fn a_message_that_does_not_fit_is_not_written() {
    let seed = Seed::plain(Version::V1_3);
    let record = seed.record();
    for message in seed.requests() {
        let size = written(|writer| message.write(writer)).len();
        let mut buffer = alloc::vec![0; size - 1];
        assert!(encode(&mut buffer, |writer| message.write(writer)).is_err(), "{message:?}");
    }
    for message in seed.responses(&record) {
        let size = written(|writer| message.write(writer)).len();
        let mut buffer = alloc::vec![0; size - 1];
        assert!(encode(&mut buffer, |writer| message.write(writer)).is_err(), "{message:?}");
    }
}

#[test]
fn before_algorithms_are_agreed_on_their_sizes_are_not_guessed() {
    let seed = Seed::plain(Version::V1_2);
    let record = seed.record();
    let early = [Stage::Start, Stage::Version(Version::V1_2)];
    for stage in early {
        for message in seed.requests() {
            let bytes = written(|writer| message.write(writer));
            let needs = matches!(message, Request::KeyExchange(_) | Request::Finish(_));
            let expected = needs.then_some(DecodeError::NoAlgorithms(message.code().0));
            assert_eq!(request_error(stage, &bytes), expected, "{message:?}");
        }
        for message in seed.responses(&record) {
            let bytes = written(|writer| message.write(writer));
            let needs = matches!(
                message,
                Response::Digests(_)
                    | Response::ChallengeAuth(_)
                    | Response::Measurements(_)
                    | Response::KeyExchangeRsp(_)
                    | Response::FinishRsp(_)
            );
            let expected = needs.then_some(DecodeError::NoAlgorithms(message.code().0));
            assert_eq!(response_error(stage, seed.asked(), &bytes), expected, "{message:?}");
        }
    }
    let other = [0x14, 0xe8, 0, 0];
    let refused = DecodeError::Version { found: 0x14, expected: 0x13 };
    assert_eq!(request_error(Stage::Start, &other), Some(refused));
}

proptest! {
    #[test]
    fn a_request_reads_back_as_it_was_written(seed in seeds()) {
        let stage = Stage::Agreed(seed.layout);
        for message in seed.requests() {
            let bytes = written(|writer| message.write(writer));
            prop_assert_eq!(exact(&bytes, |reader| Request::read(reader, &stage)), Ok(message));
            let mut more = bytes.clone();
            more.push(0);
            let read = padded(&more, |reader| Request::read(reader, &stage));
            prop_assert_eq!(read, Ok((message, bytes.len())));
            let trailing = Some(DecodeError::Trailing { extra: 1 });
            prop_assert_eq!(request_error(stage, &more), trailing);
            for end in 0..bytes.len() {
                prop_assert!(request_error(stage, &bytes[..end]).is_some(), "{:?} up to {}", message, end);
            }
        }
    }

    #[test]
    fn a_response_reads_back_as_it_was_written(seed in seeds()) {
        let (stage, asked) = (Stage::Agreed(seed.layout), seed.asked());
        let record = seed.record();
        for message in seed.responses(&record) {
            let bytes = written(|writer| message.write(writer));
            prop_assert_eq!(exact(&bytes, |reader| Response::read(reader, &stage, asked)), Ok(message));
            let mut more = bytes.clone();
            more.push(0);
            let read = padded(&more, |reader| Response::read(reader, &stage, asked));
            prop_assert_eq!(read, Ok((message, bytes.len())));
            let trailing = Some(DecodeError::Trailing { extra: 1 });
            prop_assert_eq!(response_error(stage, asked, &more), trailing);
            for end in 0..bytes.len() {
                let refused = response_error(stage, asked, &bytes[..end]).is_some();
                prop_assert!(refused, "{:?} up to {}", message, end);
            }
        }
        for message in seed.open_ended() {
            let bytes = written(|writer| message.write(writer));
            prop_assert_eq!(exact(&bytes, |reader| Response::read(reader, &stage, asked)), Ok(message));
        }
    }

    #[test]
    fn a_message_of_another_version_is_refused(seed in seeds()) {
        let other = if seed.layout.version == Version::V1_2 { Version::V1_3 } else { Version::V1_2 };
        let stage = Stage::Agreed(Layout { version: other, ..seed.layout });
        for bytes in all_bytes(&seed).iter().filter(|bytes| bytes[0] != Version::V1_0.0) {
            let refused = if RequestCode::is_request(bytes[1]) {
                request_error(stage, bytes)
            } else {
                response_error(stage, seed.asked(), bytes)
            };
            let expected = DecodeError::Version { found: seed.layout.version.0, expected: other.0 };
            prop_assert_eq!(refused, Some(expected));
        }
    }

    #[test]
    fn bent_messages_are_refused_or_canonical(
        seed in seeds(),
        at in any::<Index>(),
        bits in 1..=u8::MAX,
        end in any::<Index>(),
    ) {
        let stage = Stage::Agreed(seed.layout);
        for bytes in all_bytes(&seed) {
            let at = at.index(bytes.len());
            let bent = changed(&bytes, &[(at, bytes[at] ^ bits)]);
            for bent in [&bent[..], &bent[..end.index(bytes.len())]] {
                request_is_canonical(bent, stage);
                response_is_canonical(bent, stage, seed.asked());
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(
        seed in seeds(),
        code in any::<u8>(),
        bytes in prop::collection::vec(prop_oneof![Just(0), any::<u8>()], 0..300),
    ) {
        let stage = Stage::Agreed(seed.layout);
        let mut message = alloc::vec![seed.layout.version.0, code];
        message.extend(bytes);
        request_is_canonical(&message, stage);
        response_is_canonical(&message, stage, seed.asked());
    }
}
