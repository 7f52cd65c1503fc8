//! Certificate chains: the form that they have in SPDM, and whether they may be believed.
//!
//! | module | holds |
//! |---|---|
//! | [`chain`] | header, root hash and certificates of a chain, taken apart and put together |
//! | [`leaf`] | what DSP0274 asks of the certificate of a responder |
//! | [`trust`] | the check against trusted roots (feature `aws-lc`) |
//! | [`presented`] | the check of a chain by itself, without roots and clock (feature `aws-lc`) |

pub mod chain;
pub mod leaf;
#[cfg(feature = "aws-lc")]
pub mod presented;
#[cfg(all(test, feature = "aws-lc"))]
mod tests;
#[cfg(feature = "aws-lc")]
pub mod trust;

use core::time::Duration;

pub use chain::CertChain;
#[cfg(feature = "aws-lc")]
pub use presented::PresentedChain;
#[cfg(feature = "aws-lc")]
pub use trust::TrustStore;

use crate::algo::AsymAlgo;
use crate::crypto::PublicKey;

/// How a device comes by its leaf certificate (`ALIAS_CERT_CAP`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertModel {
    /// The leaf is the device's own and does not change.
    Device,
    /// The leaf is made by the device's own authority, anew for its firmware.
    Alias,
}

/// What a chain is checked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The signature algorithm of the connection: that of the leaf's key.
    pub asym: AsymAlgo,
    /// How the device comes by its leaf.
    pub model: CertModel,
    /// The time, since 1970-01-01 00:00 UTC.
    pub now: Duration,
}

/// Decides whether a responder's chain is believed.
pub trait Verifier: Send + Sync {
    /// The key of the leaf, if the chain is one for `wanted`.
    fn verify(&self, chain: &CertChain<'_>, wanted: &Wanted) -> Result<PublicKey, ChainError>;
}

/// Why a chain is not believed. `certificate` counts from 0, in the chain's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The header's length is not that of the bytes, or they end early.
    #[error("the chain's header says {said} bytes, there are {found}")]
    Length {
        /// What the header says.
        said: usize,
        /// What there is.
        found: usize,
    },
    /// A reserved field of the header is set.
    #[error("the reserved field of the chain's header is {0:#x}, not 0")]
    Reserved(u16),
    /// There is no certificate in the chain.
    #[error("the chain has no certificate")]
    Empty,
    /// More certificates than are looked at.
    #[error("the chain has more than {0} certificates")]
    TooMany(usize),
    /// The bytes are no DER certificate, or it has an extension twice.
    #[error("certificate {certificate} is malformed")]
    Malformed {
        /// Which.
        certificate: usize,
    },
    /// The certificates do not stand in the order of their issuers.
    #[error("certificate {certificate} is not issued by the one before it")]
    Order {
        /// Which.
        certificate: usize,
    },
    /// The root hash of the header is not that of the root.
    #[error("the chain's root hash is not that of its root certificate")]
    RootHash,
    /// No trusted root has issued the chain.
    #[error("the chain's root is not trusted")]
    UnknownRoot,
    /// The chain begins with its leaf, and its root is left out: nothing of it can be checked.
    #[error("the chain has no issuer of its leaf")]
    NoIssuer,
    /// A certificate's validity has ended.
    #[error("certificate {certificate} has expired")]
    Expired {
        /// Which.
        certificate: usize,
    },
    /// A certificate's validity has not begun.
    #[error("certificate {certificate} is not valid yet")]
    NotYetValid {
        /// Which.
        certificate: usize,
    },
    /// The trusted root stands outside of the chain and is not valid now.
    #[error("the chain's trusted root is not valid at this time")]
    RootValidity,
    /// A signature in the chain is wrong.
    #[error("a signature in the chain does not verify")]
    Signature,
    /// A certificate is no link between the root and the leaf.
    #[error("a certificate in the chain is no link between its root and its leaf")]
    Stray,
    /// A certificate signs others without being an authority, against its key usage, or beyond its path
    /// length.
    #[error("a certificate in the chain must not issue others")]
    NotAuthority,
    /// A critical extension that is not understood.
    #[error("a critical extension in the chain is not understood")]
    CriticalExtension,
    /// The path fails for another reason.
    #[error("the chain is not a valid path")]
    Path,
    /// The leaf is an authority.
    #[error("the leaf certificate is one of an authority")]
    LeafIsAuthority,
    /// The leaf's key usage lacks digital signatures.
    #[error("the leaf certificate is not for digital signatures")]
    KeyUsage,
    /// The leaf is for requesters only.
    #[error("the leaf certificate is one of an SPDM requester")]
    RequesterOnly,
    /// A leaf of an alias model that claims to be the hardware's identity.
    #[error("an alias certificate claims to be the hardware's identity")]
    AliasIsHardware,
    /// The leaf's key is not one of the connection's signature algorithm.
    #[error("the leaf's key is not one of {0:?}")]
    KeyAlgorithm(AsymAlgo),
}
