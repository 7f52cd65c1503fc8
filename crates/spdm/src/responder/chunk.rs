use alloc::vec::Vec;

use super::Responder;
use super::channel::Transfer;
use super::dispatch::{Answer, Call, Incoming, Then, encode};
use super::refusal::Refusal;
use crate::crypto::Secret;
use crate::ids::Version;
use crate::msg::capabilities::MIN_DATA_TRANSFER_SIZE;
use crate::msg::{ChunkGet, ChunkResponse, ChunkSend, ChunkSendAck, ErrorCode};

/// Bytes of a chunk's message besides the chunk.
const CHUNK_HEADER: usize = 12;
/// Bytes of the large message's size, in the first chunk.
const LARGE_SIZE: usize = 4;
/// Bytes of `CHUNK_SEND_ACK` besides the response in it.
const ACK_HEADER: usize = 6;
/// What fits every endpoint is no large message, and a chunk but for the last fills at least this much.
const MIN_TRANSFER: usize = MIN_DATA_TRANSFER_SIZE as usize;

/// Where a chunk leaves a large request.
enum Progress {
    More(Transfer),
    Complete(Secret),
}

impl Responder {
    /// `CHUNK_SEND`: a part of a large request; the last one is answered with the response to it.
    pub(super) fn chunk_send(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let version = self.version().ok_or(Refusal::unexpected())?;
        let (chunk, message) = incoming.read(|reader| ChunkSend::read(reader, version))?;
        let large_limit = usize::try_from(self.config.max_message_size).unwrap_or(usize::MAX);
        let transfer = self.channel_mut(call.origin)?.transfer.take();
        let progress = if message.len() > self.receive_size() {
            Err(Refusal::invalid())
        } else {
            match transfer {
                Some(Transfer::Request { handle, next, size, received }) => {
                    continued(&chunk, message.len(), handle, next, size, received)
                }
                Some(Transfer::Response { .. }) | None => first(&chunk, message.len(), large_limit),
            }
        };
        match progress {
            Err(refusal) => ack(version, &chunk, true, &refusal.message(version), Then::Nothing),
            Ok(Progress::More(transfer)) => {
                self.channel_mut(call.origin)?.transfer = Some(transfer);
                ack(version, &chunk, false, &[], Then::Nothing)
            }
            Ok(Progress::Complete(request)) => {
                call.wrapping = ACK_HEADER;
                let Answer { message, then } = self.process_large(call, &request).unwrap_or_else(|refusal| {
                    Answer { message: refusal.message(version), then: refusal.then() }
                });
                ack(version, &chunk, false, &message, then)
            }
        }
    }

    /// `CHUNK_GET`: the next part of a large response.
    pub(super) fn chunk_get(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let version = self.version().ok_or(Refusal::unexpected())?;
        let (asked, _) = incoming.read(|reader| ChunkGet::read(reader, version))?;
        let room = self.transfer_size(call.origin).saturating_sub(CHUNK_HEADER);
        let transfer = &mut self.channel_mut(call.origin)?.transfer;
        let Some(Transfer::Response { handle, next, sent, message }) = transfer else {
            return Err(Refusal::unexpected());
        };
        if asked.handle != *handle || asked.sequence != *next {
            return Err(Refusal::invalid());
        }
        let first = *next == 0;
        let room = if first { room.saturating_sub(LARGE_SIZE) } else { room };
        let rest = message.get(*sent..).unwrap_or_default();
        let (chunk, behind) = rest.split_at_checked(room).unwrap_or((rest, &[]));
        let last = behind.is_empty();
        let large_size = first.then(|| u32::try_from(message.len()).unwrap_or(u32::MAX));
        let response = encode(CHUNK_HEADER + LARGE_SIZE + chunk.len(), |writer| {
            ChunkResponse { version, last, handle: *handle, sequence: *next, large_size, chunk }.write(writer)
        })?;

        if last {
            *transfer = None;
        } else {
            *sent += chunk.len();
            // The handle and number of a chunk beyond all numbers would be those of the first one.
            *next = next.checked_add(1).ok_or(Refusal::new(ErrorCode::UNSPECIFIED))?;
        }
        Ok(response.into())
    }
}

/// The first chunk of a large request.
fn first(chunk: &ChunkSend<'_>, message: usize, limit: usize) -> Result<Progress, Refusal> {
    let size = chunk.large_size.ok_or(Refusal::invalid())?;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(Refusal::new(ErrorCode::REQUEST_TOO_LARGE));
    }
    if size <= MIN_TRANSFER || chunk.last || chunk.chunk.len() >= size || message < MIN_TRANSFER {
        return Err(Refusal::invalid());
    }
    // All of its room at once: what a growing buffer leaves behind is not wiped.
    let mut received = Secret::new(Vec::with_capacity(size));
    received.extend_from_slice(chunk.chunk);
    Ok(Progress::More(Transfer::Request { handle: chunk.handle, next: 1, size, received }))
}

/// A chunk that is not the first.
fn continued(
    chunk: &ChunkSend<'_>,
    message: usize,
    handle: u8,
    next: u16,
    size: usize,
    mut received: Secret,
) -> Result<Progress, Refusal> {
    let left = size.saturating_sub(received.len());
    let fits = if chunk.last {
        chunk.chunk.len() == left
    } else {
        chunk.chunk.len() < left && message >= MIN_TRANSFER
    };
    if chunk.handle != handle || chunk.sequence != next || !fits {
        return Err(Refusal::invalid());
    }
    received.extend_from_slice(chunk.chunk);
    if chunk.last {
        return Ok(Progress::Complete(received));
    }
    let next = next.checked_add(1).ok_or(Refusal::invalid())?;
    Ok(Progress::More(Transfer::Request { handle, next, size, received }))
}

fn ack(
    version: Version,
    chunk: &ChunkSend<'_>,
    early_error: bool,
    response: &[u8],
    then: Then,
) -> Result<Answer, Refusal> {
    let message = encode(ACK_HEADER + response.len(), |writer| {
        ChunkSendAck { version, early_error, handle: chunk.handle, sequence: chunk.sequence, response }
            .write(writer)
    })?;
    Ok(Answer { message, then })
}
