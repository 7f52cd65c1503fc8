//! The device security manager (DSM) of one device, with the connection that it has.

use core::time::Duration;

use pcie::FunctionId;
use pcie::doe::ObjectType;

use super::{FunctionFacts, TsmError};
use crate::doe::Mailbox;
use crate::link::{PortStreams, Session, Stream, Wire};
use crate::traits::LeakCounter;

/// What a connected device has.
#[derive(Debug)]
pub(crate) struct Link<L: LeakCounter> {
    /// Number of the TSM.
    pub(crate) tsm: u32,
    pub(crate) session: Session<L>,
    pub(crate) stream: Stream<L>,
    /// When somebody first looked after the keys that the stream has.
    pub(crate) keys_since: Option<Duration>,
}

/// A DSM. The embedder keeps each behind a lock of its own: messages go to and fro while it is held.
#[derive(Debug)]
pub struct Dsm<L: LeakCounter> {
    facts: FunctionFacts,
    pub(crate) endpoint: PortStreams,
    pub(crate) wire: Option<Wire<L>>,
    pub(crate) link: Option<Link<L>>,
    pub(crate) last_error: Option<TsmError>,
}

impl<L: LeakCounter> Dsm<L> {
    /// The DSM that answers in the function of `facts`, through `mailbox` if one takes SPDM. `endpoint` are
    /// the streams of that function.
    pub const fn new(facts: FunctionFacts, mailbox: Option<Mailbox>, endpoint: PortStreams) -> Self {
        let wire = match mailbox {
            Some(mailbox) => Some(Wire::new(mailbox)),
            None => None,
        };
        Self { facts, endpoint, wire, link: None, last_error: None }
    }

    /// Where it answers.
    pub const fn function(&self) -> FunctionId {
        self.facts.function.id
    }

    /// What its function is.
    pub const fn facts(&self) -> &FunctionFacts {
        &self.facts
    }

    /// Number of the TSM that it is connected to.
    pub fn tsm(&self) -> Option<u32> {
        self.link.as_ref().map(|link| link.tsm)
    }

    /// The session, while it is connected.
    pub fn session(&self) -> Option<&Session<L>> {
        self.link.as_ref().map(|link| &link.session)
    }

    /// The stream, while it is connected.
    pub fn stream(&self) -> Option<&Stream<L>> {
        self.link.as_ref().map(|link| &link.stream)
    }

    /// The way of its messages, if it has a mailbox for SPDM.
    pub const fn wire(&self) -> Option<&Wire<L>> {
        self.wire.as_ref()
    }

    /// Why the last connect or refresh failed, or the connection was lost; none after one that succeeded.
    pub const fn last_error(&self) -> Option<TsmError> {
        self.last_error
    }

    /// 4 KiB pages that its connection takes, those of the module included.
    pub fn page_count(&self) -> usize {
        self.link
            .as_ref()
            .map_or(0, |link| Wire::<L>::PAGES + link.session.page_count() + link.stream.page_count())
    }

    /// True if its mailbox takes SPDM in the clear and secured.
    pub(crate) fn takes_secured(&self) -> bool {
        let both = [ObjectType::SPDM, ObjectType::SECURED_SPDM];
        self.wire.as_ref().is_some_and(|wire| both.iter().all(|&wanted| wire.mailbox().takes(wanted)))
    }
}
