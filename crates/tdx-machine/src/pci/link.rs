//! The link between a root port and a device, and who may sit on it.

use std::collections::VecDeque;

use spdm::ide_km::SubStream;

use crate::ide::{Packet, Sealed, Tlp, TlpHeader};

/// Packets that somebody who looks at a link keeps.
const WATCHED: usize = 4096;

/// Which way a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkDirection {
    /// From the root port to the device.
    Down,
    /// From the device to the root port.
    Up,
}

/// What somebody on the link does to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkMove {
    /// It does not arrive.
    Drop,
    /// It arrives twice.
    Replay,
    /// It arrives behind the next one of its direction and its kind (posted, non-posted, completion): that one
    /// kind overtakes the other shows only in counters of posted requests, which are not modelled.
    Reorder,
    /// One bit of it arrives changed: of all bytes of a sealed one; in the clear, of the payload, or of the
    /// address where there is none. Bits are counted modulo its size.
    Flip {
        /// Which bit.
        bit: u32,
    },
    /// Another packet arrives in front of it.
    Inject(Box<Packet>),
}

/// Something that will be done on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAttack {
    /// To packets that travel this way. Fail messages are left alone.
    pub direction: LinkDirection,
    /// So many of them pass before it is done, once.
    pub after: u32,
    /// What is done.
    pub action: LinkMove,
}

/// Packets that a link has carried since power-on, by [`LinkDirection`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkTraffic {
    /// Those of a secure stream.
    pub sealed: [u64; 2],
    /// Those in the clear.
    pub clear: [u64; 2],
}

/// The wires.
#[derive(Debug, Default)]
pub(super) struct Link {
    attacks: Vec<LinkAttack>,
    /// What arrives behind the next packet of its kind, by direction.
    held: [Option<Packet>; 2],
    pub(super) traffic: LinkTraffic,
    /// What passes, while somebody looks.
    watched: Option<VecDeque<(LinkDirection, Packet)>>,
}

impl Link {
    pub(super) fn attack(&mut self, attack: LinkAttack) {
        self.attacks.push(attack);
    }

    /// The link went down: what was on its way is lost.
    pub(super) fn down(&mut self) {
        self.held = [None, None];
    }

    pub(super) fn watch(&mut self, on: bool) {
        self.watched = on.then(VecDeque::new);
    }

    pub(super) fn watched(&mut self) -> Vec<(LinkDirection, Packet)> {
        self.watched.as_mut().map(|seen| seen.drain(..).collect()).unwrap_or_default()
    }

    /// Carries a packet; what arrives at the other end.
    pub(super) fn carry(&mut self, direction: LinkDirection, packet: Packet) -> Vec<Packet> {
        let way = direction as usize;
        match &packet {
            Packet::Sealed(_) => self.traffic.sealed[way] += 1,
            Packet::Clear(_) => self.traffic.clear[way] += 1,
            Packet::FailMessage(_) => {}
        }
        if let Some(watched) = &mut self.watched {
            if watched.len() == WATCHED {
                watched.pop_front();
            }
            watched.push_back((direction, packet.clone()));
        }
        if matches!(packet, Packet::FailMessage(_)) {
            return vec![packet];
        }
        let held = self.held[way].take_if(|held| kind(held) == kind(&packet));
        let mut arriving = match self.due(direction) {
            None => vec![packet],
            Some(LinkMove::Drop) => Vec::new(),
            Some(LinkMove::Replay) => vec![packet.clone(), packet],
            Some(LinkMove::Flip { bit }) => flip(packet, bit).into_iter().collect(),
            Some(LinkMove::Inject(other)) => vec![*other, packet],
            // What was held before is on its way again.
            Some(LinkMove::Reorder) => self.held[way].replace(packet).into_iter().collect(),
        };
        arriving.extend(held);
        arriving
    }

    /// What is done to the next packet of a direction.
    fn due(&mut self, direction: LinkDirection) -> Option<LinkMove> {
        let due = self.attacks.iter().position(|attack| attack.direction == direction && attack.after == 0);
        for attack in self.attacks.iter_mut().filter(|attack| attack.direction == direction) {
            attack.after = attack.after.saturating_sub(1);
        }
        due.map(|index| self.attacks.remove(index).action)
    }
}

/// Whose order it is in.
fn kind(packet: &Packet) -> Option<SubStream> {
    match packet {
        Packet::Clear(tlp) => Some(tlp.sub_stream()),
        Packet::Sealed(sealed) => Some(sealed.sub_stream()),
        Packet::FailMessage(_) => None,
    }
}

/// A packet with one other bit; `None` if no port would take it for one.
fn flip(packet: Packet, bit: u32) -> Option<Packet> {
    let in_bytes = |bytes: &mut [u8]| {
        let at = bit as usize % (bytes.len() * 8).max(1);
        if let Some(byte) = bytes.get_mut(at / 8) {
            *byte ^= 1 << (at % 8);
        }
    };
    match packet {
        Packet::Sealed(sealed) => {
            let mut bytes = sealed.to_bytes();
            in_bytes(&mut bytes);
            Sealed::from_bytes(&bytes).ok().map(Packet::Sealed)
        }
        Packet::Clear(mut tlp) => {
            if tlp.payload.is_empty() {
                tlp.header = with_address_bit(tlp.header, bit);
            } else {
                in_bytes(&mut tlp.payload);
            }
            Some(Packet::Clear(Tlp { trusted: false, ..tlp }))
        }
        message @ Packet::FailMessage(_) => Some(message),
    }
}

/// A request for another address: bits 2 to 11, so that it stays a request.
fn with_address_bit(header: TlpHeader, bit: u32) -> TlpHeader {
    let flipped = |address: u64| address ^ 4 << (bit % 10);
    match header {
        TlpHeader::Read { requester, tag, address, dwords } => {
            TlpHeader::Read { requester, tag, address: flipped(address), dwords }
        }
        other => other,
    }
}
