//! Which requests belong to which stream, as the registers of a port say.

use pcie::BusAddress;
use pcie::config::ConfigSpace;
use pcie::ide::{AddressAssociation, Ide};
use spdm::ide_km::StreamId;

use super::port::Port;
use super::sealed::Sealed;
use super::stream::StreamState;
use super::tlp::{Tlp, TlpHeader};

/// What travels over a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A TLP that belongs to no secure stream. It is never trusted.
    Clear(Tlp),
    /// TLPs of a stream.
    Sealed(Sealed),
    /// The IDE fail message: an integrity check of the stream failed at the end that sends it.
    FailMessage(StreamId),
}

impl Packet {
    /// The stream that it is protected by.
    pub fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Sealed(sealed) => Some(sealed.stream()),
            Self::Clear(_) | Self::FailMessage(_) => None,
        }
    }
}

/// The selective streams that are enabled in the registers of a port, with what they are associated with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Vec<Route>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    stream: StreamId,
    addresses: Vec<AddressAssociation>,
    default: bool,
    tee_limited: bool,
}

impl Routes {
    /// As a configuration space has them.
    pub fn of(config: &ConfigSpace) -> Self {
        let Some(ide) = Ide::find(config) else { return Self::default() };
        let enabled = ide.streams().filter(|block| block.selective).filter_map(|block| {
            let control = ide.stream_control(&block);
            control.enable().then(|| Route {
                stream: StreamId(control.stream_id()),
                addresses: (0..block.address_blocks)
                    .filter_map(|index| ide.address_association(&block, index))
                    .collect(),
                default: control.default(),
                tee_limited: control.tee_limited(),
            })
        });
        Self(enabled.collect())
    }
}

impl Route {
    fn has(&self, address: BusAddress) -> bool {
        self.addresses.iter().any(|range| range.contains(address))
    }
}

/// The secure stream that a port sends a request over: one that is associated with where it goes, else the
/// default stream. `None`: it travels in the clear. Completions follow their request, limited to TEEs or not,
/// and have no route of their own.
pub fn route(routes: &Routes, port: &Port, tlp: &Tlp) -> Option<StreamId> {
    let address = match tlp.header {
        TlpHeader::Read { address, .. } | TlpHeader::Write { address, .. } => BusAddress(address),
        TlpHeader::Completion { .. } => return None,
    };
    let usable = |route: &&Route| {
        let secure = || port.status(route.stream).is_some_and(|status| status.state == StreamState::Secure);
        (tlp.trusted || !route.tee_limited) && secure()
    };
    let associated = routes.0.iter().filter(|route| route.has(address)).find(usable);
    associated
        .or_else(|| routes.0.iter().filter(|route| route.default).find(usable))
        .map(|route| route.stream)
}
