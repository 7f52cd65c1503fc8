//! Two ports that talk to each other.

mod model;
mod refresh;
mod sealing;

use pcie::Bdf;
use spdm::ide_km::{Direction, IdeKey, Ifv, KeySet, KeySlot, StreamId, SubStream};

use super::*;

const ID: StreamId = StreamId(3);

fn root() -> Bdf {
    Bdf::from_routing_id(0x0010)
}

fn device() -> Bdf {
    Bdf::from_routing_id(0x3b00)
}

/// A device's port and the root port above it, with one stream.
struct Link {
    device: Port,
    root: Port,
}

fn key(slot: KeySlot, round: u8) -> IdeKey {
    IdeKey::new([u8::try_from(slot.index()).unwrap() ^ round << 4 ^ 0x5a; 32])
}

impl Link {
    fn bare(max_payload: MaxPayload) -> Self {
        let port = |sender: Bdf| {
            let mut port = Port::new(max_payload);
            let association = Association { senders: sender.routing_id()..=sender.routing_id() + 7 };
            port.add(StreamSettings { id: ID, association }).set_enabled(true);
            port
        };
        Self { device: port(root()), root: port(device()) }
    }

    fn new() -> Self {
        let mut link = Self::bare(MaxPayload::new(512).unwrap());
        link.program(KeySet::K0, 0);
        link.go(KeySet::K0);
        link
    }

    /// Keys for a set, at both ends.
    fn program(&mut self, set: KeySet, round: u8) {
        for slot in KeySlot::of_set(set) {
            self.device.program(ID, slot, &key(slot, round), Ifv::INITIAL).unwrap();
            self.root.program(ID, slot.at_the_other_end(), &key(slot, round), Ifv::INITIAL).unwrap();
        }
    }

    /// Both ends receive with the set, then both send.
    fn go(&mut self, set: KeySet) {
        for direction in Direction::ALL {
            for slot in KeySlot::of_set(set).into_iter().filter(|slot| slot.direction == direction) {
                self.device.go(ID, slot).unwrap();
                self.root.go(ID, slot).unwrap();
            }
        }
    }

    fn secure(&self) -> (bool, bool) {
        let secure = |port: &Port| port.status(ID).unwrap().state == StreamState::Secure;
        (secure(&self.device), secure(&self.root))
    }

    /// Everything that this end of the link sent arrives at the other one.
    fn send_up(&mut self, tlp: Tlp) -> Result<Vec<Tlp>, OpenError> {
        let sealed = self.device.seal(ID, tlp).unwrap();
        self.root.open(sealed)
    }
}

fn write(size: usize, fill: u8) -> Tlp {
    let header = TlpHeader::Write { requester: device(), address: 0x12_3456_7000, enables: ByteEnables::ALL };
    Tlp { trusted: true, header, payload: vec![fill; size] }
}

fn read(tag: u8) -> Tlp {
    let header = TlpHeader::Read { requester: device(), tag, address: 0x1000, dwords: 1024 };
    Tlp { trusted: false, header, payload: vec![] }
}

fn completion(payload: Vec<u8>) -> Tlp {
    let status =
        if payload.is_empty() { CompletionStatus::CompleterAbort } else { CompletionStatus::Success };
    let header = TlpHeader::Completion {
        completer: device(),
        requester: root(),
        tag: 9,
        status,
        byte_count: 4096,
        lower_address: 0x40,
    };
    Tlp { trusted: true, header, payload }
}
