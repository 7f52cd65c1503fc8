//! Bodies for what comes to a TEE-IO device inside a session, and over an encrypted link.

use pcie::{Bdf, FuncId};
use spdm::crypto::CryptoError;
use spdm::ide_km::{
    self, IdeKey, IdePort, Ifv, KeyGeneration, KeyManager, KeyRefused, KeySet, KeySlot, PortIndex,
    PortLocation, StreamChange, StreamId,
};
use spdm::ids::SessionId;
use spdm::tdisp::{
    self, InterfaceId, LockFlags, LockInterface, MessageType, NotConfigured, Report, RequestSet, TdiConfig,
    TdiEvent, TdiPlatform, TdiSet, TdiState,
};
use spdm::wire::Writer;
use tdx_machine::ide::{
    Association, ByteEnables, MaxPayload, OpenError, Port, Sealed, StreamSettings, StreamState, Tlp,
    TlpHeader,
};

use super::bytes::Choices;

const STREAM: StreamId = StreamId(0);
const SESSION: SessionId = SessionId(1);

/// A port of a device: what the key manager believes must be what the stream says.
struct OnePort(Port);

impl OnePort {
    fn new() -> Self {
        let mut port = Port::new(MaxPayload::MAX);
        port.add(StreamSettings { id: STREAM, association: Association::EVERYBODY }).set_enabled(true);
        Self(port)
    }

    fn is_keyed(&self) -> bool {
        self.0.stream(STREAM).is_some_and(tdx_machine::ide::Stream::is_keyed)
    }
}

impl IdePort for OnePort {
    fn max_port(&self) -> PortIndex {
        PortIndex(0)
    }

    fn location(&self, _: PortIndex) -> PortLocation {
        PortLocation { segment: 0, bus: 0x3b, device_function: 0 }
    }

    fn registers(&self, _: PortIndex, out: &mut Vec<u32>) {
        out.extend([0x42, 0]);
    }

    fn has_stream(&self, _: PortIndex, stream: StreamId) -> bool {
        stream == STREAM
    }

    fn program(
        &mut self,
        _: PortIndex,
        stream: StreamId,
        slot: KeySlot,
        key: &IdeKey,
        ifv: Ifv,
    ) -> Result<(), KeyRefused> {
        self.0.program(stream, slot, key, ifv)
    }

    fn go(&mut self, _: PortIndex, stream: StreamId, slot: KeySlot) -> Result<(), KeyRefused> {
        self.0.go(stream, slot)
    }

    fn stop(&mut self, _: PortIndex, stream: StreamId, slot: KeySlot) {
        self.0.stop(stream, slot);
    }

    fn changed(&mut self, _: PortIndex, _: StreamId, _: StreamChange) {}
}

/// The messages in `data`, each with a length byte in front.
fn messages(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = data.split_first()?;
        let (message, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        Some(message)
    })
}

/// `IDE_KM` requests: each is answered with a message or refused with a reason, and the key manager
/// and the stream agree whether there are keys.
pub fn ide_km(data: &[u8]) {
    let mut manager = KeyManager::new();
    let mut port = OnePort::new();
    for message in messages(data) {
        if let Ok(read) = ide_km::Message::read(message) {
            let mut again = vec![0; message.len()];
            let mut writer = Writer::new(&mut again);
            read.write(&mut writer).expect("it fits where it came from");
            assert_eq!(writer.finish(), message);
        }
        let payload = [&[ide_km::PROTOCOL], message].concat();
        let mut out = Vec::new();
        match manager.handle(SESSION, &payload, &mut port, &mut out) {
            Ok(()) => {
                let (&protocol, answer) = out.split_first().expect("an answer has a protocol");
                assert_eq!(protocol, ide_km::PROTOCOL);
                ide_km::Message::read(answer).expect("an answer is a message");
            }
            Err(error) => assert!(out.is_empty() && !error.to_string().contains('\n')),
        }
        assert_eq!(manager.keyed(STREAM).is_some(), port.is_keyed());
        assert_eq!(manager.keyed_in(STREAM, SESSION), manager.keyed(STREAM));
    }
    manager.session_ended(SESSION, &mut port);
    assert!(manager.keyed(STREAM).is_none() && !port.is_keyed(), "nothing outlives its session");
}

struct Platform;

impl TdiPlatform for Platform {
    fn keyed(&self, _: InterfaceId, stream: StreamId, _: SessionId) -> Option<KeyGeneration> {
        (stream == STREAM).then_some(KeyGeneration(1))
    }

    fn random(&mut self, out: &mut [u8; 32]) -> Result<(), CryptoError> {
        out.fill(0x5a);
        Ok(())
    }

    fn check(&mut self, _: InterfaceId, _: &LockInterface) -> Result<(), NotConfigured> {
        Ok(())
    }

    fn report(&mut self, _: InterfaceId, _: &LockInterface) -> Report {
        Report::default()
    }

    fn entered(&mut self, _: InterfaceId, from: TdiState, to: TdiState) {
        let may = match to {
            TdiState::LOCKED => from == TdiState::UNLOCKED,
            TdiState::RUN => from == TdiState::LOCKED,
            TdiState::ERROR => from == TdiState::LOCKED || from == TdiState::RUN,
            _ => true,
        };
        assert!(may, "{from} to {to}");
    }
}

/// TDISP requests and events: each request is answered with a message or refused with a reason, no
/// state is entered but as the table says, and a stop always helps.
pub fn tdisp(data: &[u8]) {
    let function = InterfaceId(FuncId(0));
    let optional =
        RequestSet::P2P.with(MessageType::SET_MMIO_ATTRIBUTE_REQUEST).with(MessageType::VDM_REQUEST);
    let mut set = TdiSet::new(TdiConfig { optional, lock_flags: LockFlags(0x1f), ..TdiConfig::default() });
    set.add(function);
    for message in messages(data) {
        let event = match message {
            [0xf0] => Some(TdiEvent::BusMasterCleared(function)),
            [0xf1] => Some(TdiEvent::StreamLost(STREAM)),
            [0xf2] => Some(TdiEvent::SessionEnded(SESSION)),
            [0xf3] => Some(TdiEvent::FirmwareUpdated),
            [0xf4] => Some(TdiEvent::ConventionalReset),
            _ => None,
        };
        if let Some(event) = event {
            set.event(event, &mut Platform);
        }
        if let Ok(report) = Report::parse(message) {
            assert_eq!(report.to_bytes().as_deref(), Ok(message));
        }
        let payload = [&[tdisp::PROTOCOL], message].concat();
        let mut out = Vec::new();
        match set.handle(SESSION, &payload, &mut Platform, &mut out) {
            Ok(()) => {
                let (&protocol, answer) = out.split_first().expect("an answer has a protocol");
                assert_eq!(protocol, tdisp::PROTOCOL);
                let answer = tdisp::Message::read(answer).expect("an answer is a message");
                assert!(!answer.body.message_type().is_request());
            }
            Err(error) => assert!(out.is_empty() && !error.to_string().contains('\n')),
        }
    }
    let stop = tdisp::Message { interface: function, body: tdisp::Body::Stop };
    let mut bytes = [0; 17];
    bytes[0] = tdisp::PROTOCOL;
    stop.write(&mut Writer::new(&mut bytes[1..])).expect("a stop is a header");
    set.handle(SESSION, &bytes, &mut Platform, &mut Vec::new()).expect("a stop is answered");
    assert_eq!(set.state(function), Some(TdiState::UNLOCKED));
}

/// Sealed TLPs from a link that somebody sits on: good ones with bytes of the input changed, and the
/// input itself. Only what was sent, in its turn, is believed; one that was not ends the stream.
pub fn ide_tlp(data: &[u8]) {
    if let Ok(sealed) = Sealed::from_bytes(data) {
        assert_eq!(sealed.to_bytes(), data);
    }
    let mut ends = [OnePort::new(), OnePort::new()];
    for OnePort(port) in &mut ends {
        for slot in KeySlot::of_set(KeySet::K0) {
            port.program(STREAM, slot, &IdeKey::new([7; 32]), Ifv::INITIAL).expect("a stream takes keys");
            port.go(STREAM, slot).expect("a key is there");
        }
    }
    let [OnePort(device), OnePort(root)] = &mut ends;
    let mut choices = Choices::new(data);
    while !choices.is_empty() {
        let header = TlpHeader::Write {
            requester: Bdf::from_routing_id(0x3b00),
            address: 0,
            enables: ByteEnables::ALL,
        };
        let payload = vec![choices.byte(); usize::from(choices.byte() % 32) * 4 + 4];
        let tlp = Tlp { trusted: choices.flag(), header, payload };
        let sealed = device.seal(STREAM, tlp.clone()).expect("a secure stream sends");
        let good = sealed.to_bytes();
        let mut bytes = good.clone();
        if choices.flag() {
            let at = choices.below(bytes.len());
            bytes[at] = choices.byte();
        }
        let Ok(arrived) = Sealed::from_bytes(&bytes) else { return };
        match root.open(arrived) {
            Ok(tlps) => assert_eq!((tlps, bytes), (vec![tlp], good)),
            Err(OpenError::MisroutedStream(_)) => return,
            Err(error) => {
                assert!(bytes != good && !error.to_string().contains('\n'));
                assert_eq!(root.status(STREAM).map(|status| status.state), Some(StreamState::Insecure));
                return;
            }
        }
    }
}
