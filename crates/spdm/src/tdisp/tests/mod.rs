//! Both sides against each other, and the device against what a validator asks of it.

mod codec;
mod device;
mod events;
mod flow;
mod model;

use alloc::vec;
use alloc::vec::Vec;

use pcie::FuncId;

use super::*;
use crate::crypto::CryptoError;
use crate::ide_km::{KeyGeneration, StreamId};
use crate::ids::SessionId;

const SESSION: SessionId = SessionId(0x0001_0002);
const OTHER_SESSION: SessionId = SessionId(0x0003_0004);
const STREAM: StreamId = StreamId(0);
const PEER: StreamId = StreamId(5);
const PF: InterfaceId = InterfaceId(FuncId(0x3b00));
const VF: InterfaceId = InterfaceId(FuncId(0x3b08));
const NOWHERE: InterfaceId = InterfaceId(FuncId(0xbeef));
const OFFSET: u64 = 0xd000_0000;

/// A device around its interfaces, as a test wants it.
struct Platform {
    streams: Vec<(StreamId, u64)>,
    /// The session that brought their keys.
    key_session: SessionId,
    entropy: Option<u8>,
    configured: bool,
    report: Report,
    entered: Vec<(InterfaceId, TdiState, TdiState)>,
    attributes: Vec<(MmioRange, bool)>,
}

impl Default for Platform {
    fn default() -> Self {
        let range = |first_page, pages, attributes, id| MmioRange { first_page, pages, attributes, id };
        Self {
            streams: vec![(STREAM, 1), (PEER, 2)],
            key_session: SESSION,
            entropy: Some(1),
            configured: true,
            report: Report {
                info: InterfaceInfo::DMA_WITHOUT_PASID,
                ranges: vec![
                    range(0x10_0000, 16, RangeAttributes::UPDATABLE, 0),
                    range(0x20_0000, 1, RangeAttributes::MSIX_TABLE, 2),
                ],
                device_specific: b"model".to_vec(),
                ..Report::default()
            },
            entered: Vec::new(),
            attributes: Vec::new(),
        }
    }
}

impl TdiPlatform for Platform {
    fn keyed(&self, _: InterfaceId, stream: StreamId, session: SessionId) -> Option<KeyGeneration> {
        let keyed = self.streams.iter().find(|keyed| keyed.0 == stream && self.key_session == session);
        keyed.map(|keyed| KeyGeneration(keyed.1))
    }

    fn random(&mut self, out: &mut [u8; 32]) -> Result<(), CryptoError> {
        let seed = self.entropy.as_mut().ok_or(CryptoError::Entropy)?;
        *seed += 1;
        out.fill(*seed);
        Ok(())
    }

    fn check(&mut self, _: InterfaceId, _: &LockInterface) -> Result<(), NotConfigured> {
        if self.configured { Ok(()) } else { Err(NotConfigured) }
    }

    fn report(&mut self, _: InterfaceId, _: &LockInterface) -> Report {
        self.report.clone()
    }

    fn entered(&mut self, interface: InterfaceId, from: TdiState, to: TdiState) {
        self.entered.push((interface, from, to));
    }

    fn set_mmio_attribute(
        &mut self,
        _: InterfaceId,
        range: MmioRange,
        non_tee: bool,
    ) -> Result<(), NotConfigured> {
        self.check(PF, &LockInterface::default())?;
        self.attributes.push((range, non_tee));
        Ok(())
    }

    fn vdm(&mut self, _: InterfaceId, request: &Vdm<'_>, out: &mut Vec<u8>) -> Result<(), VdmRefused> {
        match (request.vendor, request.data) {
            ([0x86, 0x80], [0]) => Err(VdmRefused::Malformed),
            ([0x86, 0x80], [1]) => Err(VdmRefused::State),
            ([0x86, 0x80], data) => {
                out.extend(data.iter().rev());
                Ok(())
            }
            _ => Err(VdmRefused::Vendor),
        }
    }
}

/// A device with a function and a virtual function.
struct Device {
    set: TdiSet,
    platform: Platform,
}

impl Default for Device {
    fn default() -> Self {
        Self::with(TdiConfig::default())
    }
}

impl Device {
    fn with(config: TdiConfig) -> Self {
        let mut set = TdiSet::new(config);
        set.add(PF);
        set.add(VF);
        Self { set, platform: Platform::default() }
    }

    fn ask_bytes(&mut self, session: SessionId, payload: &[u8]) -> Result<Vec<u8>, TdispError> {
        let mut out = Vec::new();
        self.set.handle(session, payload, &mut self.platform, &mut out)?;
        Ok(out)
    }

    /// The answer's bytes behind the protocol id; what they say of the interface is checked.
    fn ask_in(&mut self, session: SessionId, interface: InterfaceId, body: Body<'_>) -> Vec<u8> {
        let answer = self.ask_bytes(session, &payload(interface, body)).unwrap();
        assert_eq!((answer[0], answer[1]), (PROTOCOL, TDISP_1_0));
        assert_eq!(Message::read(&answer[1..]).unwrap().interface, interface);
        answer[1..].to_vec()
    }

    /// Type of the answer, or the error code and its data.
    fn result_in(
        &mut self,
        session: SessionId,
        interface: InterfaceId,
        body: Body<'_>,
    ) -> Result<MessageType, (ErrorCode, u32)> {
        let answer = self.ask_in(session, interface, body);
        match Message::read(&answer).unwrap().body {
            Body::Error(error) => {
                assert_eq!(answer.len(), 24);
                Err((error.code, error.data))
            }
            body => Ok(body.message_type()),
        }
    }

    fn result(&mut self, body: Body<'_>) -> Result<MessageType, ErrorCode> {
        self.result_in(SESSION, PF, body).map_err(|(code, _)| code)
    }

    fn state(&self) -> TdiState {
        self.set.state(PF).unwrap()
    }

    /// Locks an interface; the nonce.
    fn lock_in(&mut self, session: SessionId, interface: InterfaceId, lock: LockInterface) -> Nonce {
        let answer = self.ask_in(session, interface, Body::Lock(lock));
        match Message::read(&answer).unwrap().body {
            Body::Locked(response) => response.nonce,
            other => panic!("{other:?}"),
        }
    }

    fn lock(&mut self) -> Nonce {
        self.lock_in(SESSION, PF, lock())
    }

    fn run(&mut self) {
        self.run_with(lock());
    }

    fn run_with(&mut self, lock: LockInterface) {
        let nonce = self.lock_in(SESSION, PF, lock);
        assert_eq!(
            self.result(Body::Start(StartInterface { nonce })),
            Ok(MessageType::START_INTERFACE_RESPONSE)
        );
    }

    /// Takes the interface to a state.
    fn to(&mut self, state: TdiState) {
        match state {
            TdiState::UNLOCKED => {}
            TdiState::LOCKED => drop(self.lock()),
            TdiState::RUN => self.run(),
            TdiState::ERROR => {
                self.run();
                self.event(TdiEvent::BusMasterCleared(PF));
            }
            other => panic!("{other}"),
        }
        assert_eq!(self.state(), state);
    }

    fn event(&mut self, event: TdiEvent) {
        self.set.event(event, &mut self.platform);
    }
}

fn lock() -> LockInterface {
    LockInterface { default_stream: STREAM, mmio_reporting_offset: OFFSET, ..LockInterface::default() }
}

fn start(nonce: &Nonce) -> Body<'static> {
    Body::Start(StartInterface { nonce: nonce.clone() })
}

fn get_report(offset: u16, length: u16) -> Body<'static> {
    Body::GetReport(GetReport { offset, length })
}

fn payload(interface: InterfaceId, body: Body<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    tdi::append(&mut out, &Message { interface, body });
    out
}

/// Every state.
const STATES: [TdiState; 4] = [TdiState::UNLOCKED, TdiState::LOCKED, TdiState::RUN, TdiState::ERROR];
