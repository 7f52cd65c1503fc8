//! Both sides against each other, and the device against what a validator asks of it.

mod device;
mod flow;
mod model;

use alloc::vec::Vec;

use super::*;
use crate::ids::SessionId;
use crate::wire::Writer;

const SESSION: SessionId = SessionId(0x0001_0002);
const OTHER_SESSION: SessionId = SessionId(0x0003_0004);
const STREAM: StreamId = StreamId(0);
const PORT: PortIndex = PortIndex(0);

/// Two ports with stream 0 each, and what was asked of them.
#[derive(Default)]
struct Ports {
    keys: Vec<(PortIndex, StreamId, KeySlot, IdeKey)>,
    used: Vec<(PortIndex, StreamId, KeySlot)>,
    changes: Vec<StreamChange>,
    refuses: bool,
    /// The host has cleared the registers of the stream.
    cleared: bool,
}

impl IdePort for Ports {
    fn max_port(&self) -> PortIndex {
        PortIndex(1)
    }

    fn location(&self, port: PortIndex) -> PortLocation {
        PortLocation { segment: 0, bus: 0x3b, device_function: port.0 }
    }

    fn registers(&self, port: PortIndex, out: &mut Vec<u32>) {
        out.extend([0x10_0042, 0, u32::from(port.0)]);
    }

    fn has_stream(&self, _: PortIndex, stream: StreamId) -> bool {
        stream == STREAM && !self.cleared
    }

    fn program(
        &mut self,
        port: PortIndex,
        stream: StreamId,
        slot: KeySlot,
        key: &IdeKey,
        ifv: Ifv,
    ) -> Result<(), KeyRefused> {
        assert_eq!(ifv, Ifv::INITIAL);
        self.stop(port, stream, slot);
        if self.refuses {
            return Err(KeyRefused);
        }
        self.keys.push((port, stream, slot, key.clone()));
        Ok(())
    }

    fn go(&mut self, port: PortIndex, stream: StreamId, slot: KeySlot) -> Result<(), KeyRefused> {
        if self.refuses {
            return Err(KeyRefused);
        }
        assert!(
            self.keys.iter().any(|key| (key.0, key.1, key.2) == (port, stream, slot)),
            "{slot} has no key"
        );
        self.used.push((port, stream, slot));
        Ok(())
    }

    fn stop(&mut self, port: PortIndex, stream: StreamId, slot: KeySlot) {
        self.keys.retain(|key| (key.0, key.1, key.2) != (port, stream, slot));
        self.used.retain(|&used| used != (port, stream, slot));
    }

    fn changed(&mut self, _: PortIndex, _: StreamId, change: StreamChange) {
        self.changes.push(change);
    }
}

fn target(slot: KeySlot) -> Target {
    Target { stream: STREAM, key: slot.into(), port: PORT }
}

fn payload(message: &Message<'_>) -> Vec<u8> {
    let mut buffer = [0; 64];
    let mut writer = Writer::new(&mut buffer);
    writer.u8(PROTOCOL).unwrap();
    message.write(&mut writer).unwrap();
    writer.finish().to_vec()
}

fn key_prog(target: Target) -> Vec<u8> {
    let key = IdeKey::new([target.key.0 ^ 0x5a; 32]);
    payload(&Message::KeyProg(KeyProg { target, key, ifv: Ifv::INITIAL }))
}

fn key_set_go(target: Target) -> Vec<u8> {
    payload(&Message::KSetGo(KSetGo { target }))
}

fn key_set_stop(target: Target) -> Vec<u8> {
    payload(&Message::KSetStop(KSetStop { target }))
}

/// A device that is asked in [`SESSION`].
#[derive(Default)]
struct Device {
    manager: KeyManager,
    ports: Ports,
}

impl Device {
    fn ask_in(&mut self, session: SessionId, request: &[u8]) -> Result<Vec<u8>, IdeKmError> {
        let mut out = Vec::new();
        self.manager.handle(session, request, &mut self.ports, &mut out)?;
        Ok(out)
    }

    fn ask(&mut self, request: &[u8]) -> Result<Vec<u8>, IdeKmError> {
        self.ask_in(SESSION, request)
    }

    /// The status of the acknowledgement, which must echo the request.
    fn key_prog_status(&mut self, request: &[u8]) -> KpStatus {
        let ack = self.ask(request).unwrap();
        let Ok(Message::KpAck(KpAck { status, .. })) = Message::read(&ack[1..]) else {
            panic!("no KP_ACK: {ack:02x?}")
        };
        assert_eq!((ack[4], &ack[6..]), (request[4], &request[6..8]), "stream, key and port are echoed");
        status
    }

    /// `KEY_PROG` and `K_SET_GO` for all slots of a set.
    fn key(&mut self, set: KeySet) {
        for slot in KeySlot::of_set(set) {
            assert_eq!(self.key_prog_status(&key_prog(target(slot))), KpStatus::SUCCESS);
        }
        for slot in KeySlot::of_set(set) {
            assert_eq!(self.ask(&key_set_go(target(slot))), Ok(ack(slot)));
        }
    }
}

fn ack(slot: KeySlot) -> Vec<u8> {
    payload(&Message::KGoStopAck(KGoStopAck { target: target(slot) }))
}
