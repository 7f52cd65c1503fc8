//! Large messages in chunks that are none.

use spdm::msg::{ChunkGet, ChunkSend, ErrorCode, RequestCode, ResponderFlags, ResponseCode};

use super::{Answer, Attempt, Case, Expected, INVALID, NOT_AGREED, Probe, Setback, bare, case, written};

const LARGE: u32 = 400;
/// A refused chunk, or one that stands where none is waited for.
const REFUSED: Expected = Expected::Error(&[ErrorCode::INVALID_REQUEST, ErrorCode::UNEXPECTED_REQUEST]);

struct Chunk {
    last: bool,
    handle: u8,
    sequence: u16,
    large_size: Option<u32>,
    size: usize,
}

const FIRST: Chunk = Chunk { last: false, handle: 3, sequence: 0, large_size: Some(LARGE), size: 100 };
const SECOND: Chunk = Chunk { last: false, handle: 3, sequence: 1, large_size: None, size: 100 };

fn chunk(probe: &Probe<'_>, chunk: &Chunk) -> Result<Vec<u8>, Setback> {
    let Chunk { last, handle, sequence, large_size, size } = *chunk;
    let bytes = vec![0; size];
    let message = ChunkSend { version: probe.version(), last, handle, sequence, large_size, chunk: &bytes };
    Ok(written(|writer| message.write(writer))?)
}

fn ready(probe: &mut Probe<'_>) -> Result<(), Setback> {
    probe.negotiate()?;
    probe.needs(ResponderFlags::chunk, "CHUNK_CAP")
}

fn one(probe: &mut Probe<'_>, bad: &Chunk) -> Attempt {
    ready(probe)?;
    let message = chunk(probe, bad)?;
    Ok(probe.clear(&message))
}

fn begin(probe: &mut Probe<'_>) -> Result<(), Setback> {
    ready(probe)?;
    let message = chunk(probe, &FIRST)?;
    match probe.clear(&message) {
        Answer::Granted(ResponseCode::CHUNK_SEND_ACK) => Ok(()),
        found => Err(Setback::Unexpected { asked: "CHUNK_SEND", found }),
    }
}

fn second(probe: &mut Probe<'_>, bad: &Chunk) -> Attempt {
    begin(probe)?;
    let message = chunk(probe, bad)?;
    Ok(probe.clear(&message))
}

pub(super) const CASES: &[Case] = &[
    case("chunk-first-not-0", "CHUNK_SEND that begins with chunk 1", REFUSED, |probe| one(probe, &SECOND)),
    case(
        "chunk-first-is-last",
        "CHUNK_SEND of one chunk that is smaller than the message",
        INVALID,
        |probe| one(probe, &Chunk { last: true, ..FIRST }),
    ),
    case(
        "chunk-too-large-message",
        "CHUNK_SEND of a message of 4 GiB",
        Expected::Error(&[ErrorCode::REQUEST_TOO_LARGE, ErrorCode::INVALID_REQUEST]),
        |probe| one(probe, &Chunk { large_size: Some(u32::MAX), ..FIRST }),
    ),
    case("chunk-size-beyond", "CHUNK_SEND whose ChunkSize is beyond its end", INVALID, |probe| {
        ready(probe)?;
        let mut message = chunk(probe, &FIRST)?;
        // ChunkSize.
        message[9] = 0x10;
        Ok(probe.clear(&message))
    }),
    case("chunk-wrong-sequence", "CHUNK_SEND with chunk 2 behind chunk 0", INVALID, |probe| {
        second(probe, &Chunk { sequence: 2, ..SECOND })
    }),
    case("chunk-again", "CHUNK_SEND with chunk 0 twice", REFUSED, |probe| second(probe, &FIRST)),
    case("chunk-wrong-handle", "CHUNK_SEND with another handle", INVALID, |probe| {
        second(probe, &Chunk { handle: 4, ..SECOND })
    }),
    case("chunk-overlap", "CHUNK_SEND with more bytes than the message has left", INVALID, |probe| {
        second(probe, &Chunk { size: 301, ..SECOND })
    }),
    case("chunk-last-early", "CHUNK_SEND whose last chunk leaves bytes out", INVALID, |probe| {
        second(probe, &Chunk { last: true, ..SECOND })
    }),
    case("chunk-interrupted", "GET_DIGESTS in the middle of a large request", REFUSED, |probe| {
        begin(probe)?;
        let version = probe.version();
        Ok(probe.clear(&bare(version, RequestCode::GET_DIGESTS, 0, 0)))
    }),
    case("chunk-get-unasked", "CHUNK_GET while no large response waits", REFUSED, |probe| {
        ready(probe)?;
        let version = probe.version();
        let message = written(|writer| ChunkGet { version, handle: 1, sequence: 0 }.write(writer))?;
        Ok(probe.clear(&message))
    }),
    case("chunk-not-agreed", "CHUNK_SEND of a requester without CHUNK_CAP", NOT_AGREED, |probe| {
        probe.offer(|config| {
            config.flags.set_chunk(false);
            config.max_message_size = config.data_transfer_size;
        });
        probe.negotiate()?;
        let message = chunk(probe, &FIRST)?;
        Ok(probe.clear(&message))
    }),
];
