//! Sessions and streams of the fake module.

use std::collections::{BTreeMap, BTreeSet};

use pcie::doe::{Object, ObjectType};
use tdx_abi::Registers;
use tdx_abi::connect::pages::HpaArray;
use tdx_abi::connect::refusal::{Refusal, RefusalReason};
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{Status, StatusCode};

use super::State;

/// The leaves of this file.
pub(crate) const LEAVES: [SeamcallLeaf; 9] = [
    SeamcallLeaf::SPDM_CREATE,
    SeamcallLeaf::SPDM_DELETE,
    SeamcallLeaf::SPDM_CONNECT,
    SeamcallLeaf::SPDM_DISCONNECT,
    SeamcallLeaf::SPDM_MNG,
    SeamcallLeaf::IDE_STREAM_CREATE,
    SeamcallLeaf::IDE_STREAM_BLOCK,
    SeamcallLeaf::IDE_STREAM_DELETE,
    SeamcallLeaf::IDE_STREAM_KM,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SessionState {
    Created,
    Connected,
}

#[derive(Debug)]
struct Session {
    function: u64,
    pages: Vec<u64>,
    state: SessionState,
}

#[derive(Debug)]
struct Stream {
    session: u64,
    pages: Vec<u64>,
    keyed: bool,
    blocked: bool,
}

/// A leaf whose message is on its way.
#[derive(Debug)]
struct Talk {
    leaf: SeamcallLeaf,
    sent: u8,
}

/// The module's side of connections. Public: tests bend it.
#[derive(Debug, Default)]
pub(crate) struct Links {
    sessions: BTreeMap<u64, Session>,
    streams: BTreeMap<u64, Stream>,
    talk: Option<Talk>,
    /// Pages that the module owns.
    pub(crate) owned: BTreeSet<u64>,
    /// Calls of these leaves.
    pub(crate) calls: u64,
    /// Which of them fails, and how.
    pub(crate) failing: Option<(u64, Status)>,
    /// Messages of each leaf that talks; 2 unless said otherwise.
    pub(crate) messages: BTreeMap<u16, u8>,
    /// Times that the keys of the session are used up before a leaf goes on.
    pub(crate) keys_used_up: u32,
    pub(crate) key_updates: u32,
    /// Pages that DELETE keeps.
    pub(crate) kept: usize,
    pub(crate) stream_id: u64,
    pub(crate) root_port_block: u64,
    /// Bytes that a request has instead of its own.
    pub(crate) request_bytes: Option<u64>,
    pub(crate) request_type: Option<ObjectType>,
    pub(crate) information_bytes: u64,
    /// The session ends only with its device.
    pub(crate) deaf: bool,
    /// Leaves in the order of their first calls in a row.
    pub(crate) order: Vec<SeamcallLeaf>,
    pub(crate) last_create: Registers,
}

impl Links {
    /// Nothing is left of any device.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.streams.is_empty() && self.owned.is_empty()
    }
}

impl State {
    fn pages_of(&self, raw: u64) -> Vec<u64> {
        let array = HpaArray::from_raw(raw).unwrap();
        match array.root() {
            None => vec![array.single().unwrap().as_u64()],
            Some(root) => {
                (0..array.count() as u64).map(|entry| self.word(root.as_u64() + 8 * entry)).collect()
            }
        }
    }

    fn own(&mut self, raw: u64) -> Vec<u64> {
        let pages = self.pages_of(raw);
        for page in &pages {
            assert!(page % 4096 == 0 && self.io.links.owned.insert(*page), "{page:#x}");
        }
        pages
    }

    fn disown(&mut self, mut pages: Vec<u64>, release: u64, registers: &mut Registers) {
        for page in &pages {
            assert!(self.io.links.owned.remove(page), "{page:#x}");
        }
        pages.truncate(pages.len() - self.io.links.kept);
        registers.rcx = match pages[..] {
            [] => u64::MAX,
            [single] => single,
            _ => {
                for (at, page) in (release..).step_by(8).zip(&pages) {
                    self.bytes.extend((at..).zip(page.to_le_bytes()));
                }
                release | (pages.len() as u64 - 1) << 55
            }
        };
    }

    /// One of [`LEAVES`].
    pub(super) fn link_leaf(&mut self, leaf: SeamcallLeaf, registers: &mut Registers) -> Status {
        let links = &mut self.io.links;
        let number = links.calls;
        links.calls += 1;
        if links.order.last() != Some(&leaf) {
            links.order.push(leaf);
        }
        if let Some((_, status)) = links.failing.filter(|(at, _)| *at == number) {
            links.talk = None;
            registers.rcx = 0;
            return status;
        }
        match leaf {
            SeamcallLeaf::SPDM_CREATE => {
                if links.sessions.values().any(|session| session.function == registers.rcx) {
                    return StatusCode::SPDM_ENTRY_ALREADY_PRESENT.plain();
                }
                let pages = self.own(registers.rdx);
                let id = 0x5_0000 + number;
                let session = Session { function: registers.rcx, pages, state: SessionState::Created };
                self.io.links.sessions.insert(id, session);
                registers.rcx = id;
                StatusCode::SUCCESS.plain()
            }
            SeamcallLeaf::SPDM_DELETE => self.delete_session(registers),
            SeamcallLeaf::IDE_STREAM_CREATE => {
                links.last_create = *registers;
                let pages = self.own(registers.r8);
                let session = registers.rdx;
                let links = &mut self.io.links;
                assert_eq!(links.sessions[&session].state, SessionState::Connected);
                let stream = Stream { session, pages, keyed: false, blocked: false };
                links.streams.insert(links.stream_id, stream);
                (registers.rcx, registers.rdx) = (links.stream_id, links.root_port_block);
                StatusCode::SUCCESS.plain()
            }
            SeamcallLeaf::IDE_STREAM_BLOCK => match links.streams.get_mut(&registers.rdx) {
                None => StatusCode::IDE_STREAM_NOT_CONFIGURED.plain(),
                Some(stream) if stream.blocked => StatusCode::IDE_STREAM_BLOCKED.plain(),
                Some(stream) => {
                    (stream.blocked, stream.keyed) = (true, false);
                    self.io.pcie.set_port_end(links.root_port_block, false);
                    StatusCode::SUCCESS.plain()
                }
            },
            SeamcallLeaf::IDE_STREAM_DELETE => match links.streams.get(&registers.rdx) {
                Some(stream) if stream.blocked => {
                    let stream = links.streams.remove(&registers.rdx).unwrap();
                    self.disown(stream.pages, registers.r8, registers);
                    StatusCode::SUCCESS.plain()
                }
                _ => StatusCode::IDE_STREAM_NOT_BLOCKED.plain(),
            },
            _ => self.talk(leaf, registers),
        }
    }

    fn delete_session(&mut self, registers: &mut Registers) -> Status {
        let links = &self.io.links;
        let id = registers.rcx;
        let Some(session) = links.sessions.get(&id) else {
            return StatusCode::SPDM_ENTRY_NOT_PRESENT.plain();
        };
        if links.streams.values().any(|stream| stream.session == id) {
            return StatusCode::SPDM_HAS_ACTIVE_IDE_STREAMS.plain();
        }
        let device_gone = self.io.pcie.gone || self.io.pcie.bus_resets > 0;
        if session.state == SessionState::Connected && !device_gone {
            return StatusCode::SPDM_INVALID_STATE.plain();
        }
        let session = self.io.links.sessions.remove(&id).unwrap();
        self.disown(session.pages, registers.rdx, registers);
        StatusCode::SUCCESS.plain()
    }

    /// A leaf that sends some messages.
    fn talk(&mut self, leaf: SeamcallLeaf, registers: &mut Registers) -> Status {
        let id = registers.rcx;
        let (to_module, to_device) = match leaf {
            SeamcallLeaf::SPDM_CONNECT => (registers.r8, registers.r9),
            SeamcallLeaf::SPDM_DISCONNECT => (registers.rdx, registers.r8),
            _ => (registers.r9, registers.r10),
        };
        let key_update = leaf == SeamcallLeaf::SPDM_MNG && registers.rdx == 1;
        let links = &mut self.io.links;
        let Some(session) = links.sessions.get(&id) else {
            return StatusCode::SPDM_ENTRY_NOT_PRESENT.plain();
        };
        let wanted =
            if leaf == SeamcallLeaf::SPDM_CONNECT { SessionState::Created } else { SessionState::Connected };
        if session.state != wanted {
            return StatusCode::SPDM_INVALID_STATE.plain();
        }
        if links.keys_used_up > 0 && !key_update && leaf != SeamcallLeaf::SPDM_CONNECT {
            links.keys_used_up -= 1;
            return StatusCode::SPDM_SESSION_KEY_REQUIRE_REFRESH.plain();
        }
        let messages = links.messages.get(&leaf.0).copied().unwrap_or(2);
        let sent = match links.talk.take() {
            Some(talk) if talk.leaf == leaf => talk.sent,
            _ => 0,
        };
        if sent > 0 && !self.is_answer(leaf, sent, to_module) {
            if leaf == SeamcallLeaf::SPDM_DISCONNECT && !self.io.links.deaf {
                self.io.links.sessions.get_mut(&id).unwrap().state = SessionState::Created;
            }
            let refusal = Refusal { reason: RefusalReason::MALFORMED, request: 0xE4 }.detail();
            return if leaf == SeamcallLeaf::IDE_STREAM_KM {
                StatusCode::IDE_STREAM_IDEKM_INVALID_RESPONSE.with_detail(refusal)
            } else {
                StatusCode::SPDM_INVALID_MESSAGE.with_detail(refusal)
            };
        }
        if sent < messages {
            let payload = [leaf.0.to_le_bytes()[0], sent, 3];
            let object_type = self.io.links.request_type.unwrap_or(ObjectType::SECURED_SPDM);
            let mut object = [0; 16];
            let bytes = Object { object_type, payload: &payload }.write(&mut object).unwrap();
            self.bytes.extend((to_device..).zip(object[..bytes].iter().copied()));
            self.io.links.talk = Some(Talk { leaf, sent: sent + 1 });
            registers.rcx = self.io.links.request_bytes.unwrap_or(bytes as u64);
            return StatusCode::SPDM_REQUEST.plain();
        }
        self.finish(leaf, key_update, registers);
        StatusCode::SUCCESS.plain()
    }

    fn is_answer(&self, leaf: SeamcallLeaf, sent: u8, page: u64) -> bool {
        let bytes: [u8; 12] =
            std::array::from_fn(|at| self.bytes.get(&(page + at as u64)).copied().unwrap_or(0));
        let expected = [leaf.0.to_le_bytes()[0] ^ 0xff, (sent - 1) ^ 0xff, 3 ^ 0xff, 0xff];
        Object::parse(&bytes).is_ok_and(|object| object.payload == expected)
    }

    fn finish(&mut self, leaf: SeamcallLeaf, key_update: bool, registers: &mut Registers) {
        let (id, links) = (registers.rcx, &mut self.io.links);
        let session = links.sessions.get_mut(&id).unwrap();
        registers.rcx = 0;
        match leaf {
            SeamcallLeaf::SPDM_CONNECT => {
                session.state = SessionState::Connected;
                self.inform(registers.r10, registers);
            }
            SeamcallLeaf::SPDM_DISCONNECT => session.state = SessionState::Created,
            SeamcallLeaf::SPDM_MNG if key_update => links.key_updates += 1,
            SeamcallLeaf::SPDM_MNG => self.inform(registers.r11, registers),
            _ => {
                let stream = links.streams.get_mut(&registers.rdx).unwrap();
                stream.keyed = registers.r8 != 2;
                self.io.pcie.set_port_end(links.root_port_block, stream.keyed);
            }
        }
    }

    /// Writes device information: the number of the call, again and again.
    fn inform(&mut self, array: u64, registers: &mut Registers) {
        let (bytes, value) = (self.io.links.information_bytes, self.io.links.calls.to_le_bytes()[0]);
        for page in self.pages_of(array).into_iter().take(usize::try_from(bytes.div_ceil(4096)).unwrap()) {
            self.bytes.extend((page..page + 4096).map(|at| (at, value)));
        }
        registers.rcx = bytes;
    }
}
