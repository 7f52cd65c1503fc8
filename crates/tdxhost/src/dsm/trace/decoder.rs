//! What a connection has agreed on, as far as decoding needs it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use spdm::ids::SessionId;
use spdm::msg::{
    self, AlgorithmTable, Algorithms, Asked, Header, Layout, Request, RequestCode, RequesterFlags, Response,
    ResponseCode, Stage,
};
use spdm::wire::{DecodeError, Reader};

use super::super::record::Sender;
use super::{Secrets, requests, responses, tdisp, undecoded};

/// Longest large message that is put together from chunks, in bytes.
const MAX_LARGE: usize = 0x10_0000;

/// Follows a connection and describes its messages.
#[derive(Debug)]
pub struct Decoder {
    secrets: Secrets,
    stage: Stage,
    requester: RequesterFlags,
    channels: BTreeMap<Option<SessionId>, Channel>,
    handshake_in_clear: bool,
}

/// A session, or the connection in the clear: one request at a time.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// What the request that waits for its response has asked for.
    asked: Asked,
    /// Chunks of a large message so far.
    large: Vec<u8>,
    /// Portions of an interface report so far.
    pub(super) report: tdisp::Portions,
}

impl Decoder {
    /// At the start of a connection.
    pub const fn new(secrets: Secrets) -> Self {
        Self {
            secrets,
            stage: Stage::Start,
            requester: RequesterFlags::new(),
            channels: BTreeMap::new(),
            handshake_in_clear: false,
        }
    }

    /// Describes a message, in the clear or of a session: its name, its version and its fields; or
    /// why it is none, and its bytes.
    pub fn message(&mut self, sender: Sender, session: Option<SessionId>, bytes: &[u8]) -> Value {
        self.any(sender, session, bytes, false)
    }

    /// `whole`: was put together from chunks, so that chunks in it are not followed.
    fn any(&mut self, sender: Sender, session: Option<SessionId>, bytes: &[u8], whole: bool) -> Value {
        let described = match sender {
            Sender::Requester => self.request(session, bytes, whole),
            Sender::Responder => self.response(session, bytes, whole),
        };
        described.unwrap_or_else(|error| self.refused(sender, bytes, error))
    }

    fn request(
        &mut self,
        session: Option<SessionId>,
        bytes: &[u8],
        whole: bool,
    ) -> Result<Value, DecodeError> {
        let stage = self.stage;
        let request = read(session, bytes, |reader| Request::read(reader, &stage))?;
        match request {
            // Inside a session a device refuses both, and goes on with what was agreed on.
            Request::GetVersion(_) if session.is_none() => *self = Self::new(self.secrets),
            Request::GetCapabilities(request) if session.is_none() => self.requester = request.flags,
            _ => {}
        }
        let channel = self.channels.entry(session).or_default();
        // These ask for the response to an earlier request.
        if !matches!(request, Request::RespondIfReady(_) | Request::ChunkSend(_) | Request::ChunkGet(_)) {
            channel.asked = Asked::by(&request);
        }
        let mut described = begin(request.code(), bytes);
        requests::describe(&request, channel, self.secrets, &mut described);
        if let Request::ChunkSend(chunk) = request
            && !whole
            && let Some(large) = channel.add(chunk.sequence, chunk.last, chunk.chunk)
        {
            let large = self.any(Sender::Requester, session, &large, true);
            described.insert("large message".into(), large);
        }
        Ok(described.into())
    }

    fn response(
        &mut self,
        session: Option<SessionId>,
        bytes: &[u8],
        whole: bool,
    ) -> Result<Value, DecodeError> {
        let channel = self.channels.entry(session).or_default();
        let (stage, asked) = (self.stage, channel.asked);
        let response = read(session, bytes, |reader| Response::read(reader, &stage, asked))?;
        let mut described = begin(response.code(), bytes);
        responses::describe(&response, channel, self.secrets, &mut described);
        match &response {
            Response::Capabilities(response) => {
                self.stage = Stage::Version(response.version);
                self.handshake_in_clear =
                    self.requester.handshake_in_clear() && response.flags.handshake_in_clear();
            }
            Response::Algorithms(response) => {
                if let Some(suite) = suite(response) {
                    let handshake_in_clear = self.handshake_in_clear;
                    self.stage =
                        Stage::Agreed(Layout { version: response.version, suite, handshake_in_clear });
                }
            }
            Response::EndSessionAck(_) => drop(self.channels.remove(&session)),
            Response::ChunkResponse(chunk) if !whole => {
                if let Some(large) = channel.add(chunk.sequence, chunk.last, chunk.chunk) {
                    let large = self.any(Sender::Responder, session, &large, true);
                    described.insert("large message".into(), large);
                }
            }
            Response::ChunkSendAck(response) if !whole && !response.response.is_empty() => {
                let inner = self.any(Sender::Responder, session, response.response, true);
                described.insert("response".into(), inner);
            }
            _ => {}
        }
        Ok(described.into())
    }

    fn refused(&self, sender: Sender, bytes: &[u8], error: DecodeError) -> Value {
        let mut described = Map::new();
        let code = Header::peek(bytes).ok().map(|header| header.code);
        let name = code.and_then(|code| match sender {
            Sender::Requester => RequestCode(code).name(),
            Sender::Responder => ResponseCode(code).name(),
        });
        if let Some(name) = name {
            described.insert("name".into(), name.into());
        }
        let vendor =
            name == RequestCode::VENDOR_DEFINED.name() || name == ResponseCode::VENDOR_DEFINED.name();
        described.insert("error".into(), error.to_string().into());
        // A vendor-defined message may hold a key.
        let shown = if vendor { self.secrets.show(bytes) } else { super::hex(bytes) };
        described.insert("bytes".into(), shown);
        described.into()
    }
}

impl Channel {
    /// Adds a chunk; the large message, once it is whole. Chunk 0 starts one anew.
    fn add(&mut self, sequence: u16, last: bool, chunk: &[u8]) -> Option<Vec<u8>> {
        if sequence == 0 {
            self.large.clear();
        }
        let room = MAX_LARGE - self.large.len();
        self.large.extend(chunk.iter().take(room));
        last.then(|| std::mem::take(&mut self.large))
    }
}

/// In the clear, up to three zeros may follow a message.
fn read<'a, T>(
    session: Option<SessionId>,
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    match session {
        None => msg::padded(bytes, read).map(|(message, _)| message),
        Some(_) => msg::exact(bytes, read),
    }
}

/// Name and version.
fn begin(code: impl std::fmt::Display, bytes: &[u8]) -> Map<String, Value> {
    let mut described = Map::new();
    described.insert("name".into(), code.to_string().into());
    if let Ok(header) = Header::peek(bytes) {
        described.insert("version".into(), header.version.to_string().into());
    }
    described
}

/// The algorithms that were chosen, if all of them are ones whose sizes are known here.
fn suite(chosen: &Algorithms<'_>) -> Option<Suite> {
    let table = |table: Option<AlgorithmTable<'_>>| table.map_or(0, |table| table.algorithms);
    let (dhe, aead) = (table(chosen.tables.dhe), table(chosen.tables.aead));
    let measurement_hash = match chosen.measurement_hash {
        0 => None,
        1 => Some(MeasurementHash::RawOnly),
        bit => {
            let hash = HashAlgo::ALL.into_iter().find(|hash| hash.measurement_bit() == bit)?;
            Some(MeasurementHash::Hash(hash))
        }
    };
    Some(Suite {
        hash: HashAlgo::ALL.into_iter().find(|hash| hash.bit() == chosen.base_hash)?,
        asym: AsymAlgo::ALL.into_iter().find(|asym| asym.bit() == chosen.base_asym)?,
        dhe: DheGroup::ALL.into_iter().find(|group| group.bit() == dhe),
        aead: AeadAlgo::ALL.into_iter().find(|cipher| cipher.bit() == aead),
        measurement_hash,
    })
}

/// The payload of a vendor-defined message: a PCI-SIG protocol, or bytes.
pub(super) fn vendor(message: &msg::VendorDefined<'_>, channel: &mut Channel, secrets: Secrets) -> Value {
    let payload = message.payload;
    match payload.split_first() {
        Some((&spdm::ide_km::PROTOCOL, inner)) if message.is_pci_sig() => {
            super::ide_km::describe(inner, secrets)
        }
        Some((&spdm::tdisp::PROTOCOL, inner)) if message.is_pci_sig() => {
            tdisp::describe(inner, &mut channel.report, secrets)
        }
        Some((protocol, _)) if message.is_pci_sig() => {
            undecoded(payload, &format_args!("PCI-SIG protocol {protocol} is not known"))
        }
        _ => json!({ "bytes": super::hex(payload) }),
    }
}
