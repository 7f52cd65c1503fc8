//! Why a run ends early.

use pcie::doe::ObjectType;
use spdm::crypto::CryptoError;
use spdm::ide_km::IdeKmFailure;
use spdm::ids::SlotId;
use spdm::requester::RequesterError;
use spdm::tdisp::{TdiState, TdispFailure};
use spdm::x509::ChainError;

use super::transport::ExchangeError;
use crate::dsm::socket::{SocketError, TransportType};

/// Why a run ends early.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The responder cannot be reached, or what comes from it is no data object.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The mailbox does not take what is needed.
    #[error("the responder's mailbox does not take data objects of {0}")]
    NoType(ObjectType),
    /// SPDM failed; more is known of the socket, if that is why.
    #[error("{error}{}", .socket.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Spdm {
        /// Why.
        error: RequesterError,
        /// What the socket said.
        socket: Option<ExchangeError>,
    },
    /// The operation ended in something else than it should.
    #[error("the requester reports another outcome than the one of {0}")]
    Outcome(&'static str),
    /// No slot of the device holds a certificate chain.
    #[error("no slot of the device holds a certificate chain")]
    NoSlot,
    /// The slot that was asked for holds no chain.
    #[error("slot {0} of the device holds no certificate chain")]
    EmptySlot(SlotId),
    /// Keys could not be made.
    #[error("cannot make keys for the stream: {0}")]
    Keys(#[from] CryptoError),
    /// IDE_KM failed.
    #[error("IDE_KM: {0}")]
    Ide(#[from] IdeKmFailure),
    /// TDISP failed.
    #[error("TDISP: {0}")]
    Tdisp(#[from] TdispFailure),
    /// The interface is in another state than it should.
    #[error("the interface is in {found}, not in {expected}")]
    State {
        /// As the device says.
        found: TdiState,
        /// As it should be.
        expected: TdiState,
    },
}

impl ConnectError {
    /// What to try, where that is known.
    pub const fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Spdm { error: RequesterError::Chain(ChainError::UnknownRoot), .. } => {
                "give the root of the device's certificates with --root FILE.der (a modelled device writes its \
                 own with --write-root), or try --trust-any-root, which proves nothing of the device"
            }
            Self::Spdm {
                error: RequesterError::Chain(ChainError::Expired { .. } | ChainError::NotYetValid { .. }),
                ..
            } => "check the clock of this machine",
            Self::Spdm { error: RequesterError::UnaskedMutualAuth(_), .. } => {
                "switch mutual authentication off in the responder (spdm_responder_emu: --mut_auth NO --basic_mut_auth NO)"
            }
            Self::Spdm { error: RequesterError::NoCommonVersion(_), .. } => {
                "SPDM 1.2 and 1.3 are spoken: let the responder offer one of them"
            }
            Self::Exchange(ExchangeError::Socket(SocketError::Transport(TransportType::MCTP))) => {
                "for spdm_responder_emu that is --trans PCI_DOE"
            }
            Self::Exchange(ExchangeError::Socket(SocketError::Silent(_))) => {
                "see whether the responder runs with PCI DOE as transport, or give it more time with --timeout"
            }
            Self::EmptySlot(_) => "choose another one with --slot, or none for the lowest that holds one",
            Self::State { .. } => "another requester holds the interface: stop it there, or reset the device",
            _ => return None,
        })
    }
}
