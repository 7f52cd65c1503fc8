use alloc::vec::Vec;

use super::super::{InterfaceId, LockInterface, MmioRange, Report, TdiState, Vdm};
use crate::crypto::CryptoError;
use crate::ide_km::{KeyGeneration, StreamId};
use crate::ids::SessionId;

/// The device around its interfaces.
pub trait TdiPlatform {
    /// Whether the stream has all its keys in use, every one of them brought in `session`, and carries
    /// the interface's requests; since which generation of keys.
    fn keyed(&self, interface: InterfaceId, stream: StreamId, session: SessionId) -> Option<KeyGeneration>;
    /// Random bytes for a nonce.
    fn random(&mut self, out: &mut [u8; 32]) -> Result<(), CryptoError>;
    /// Whether the function is set up in a way that can be locked as asked: its BARs, for instance, lie
    /// where they may.
    fn check(&mut self, interface: InterfaceId, lock: &LockInterface) -> Result<(), NotConfigured>;
    /// The report, with real addresses.
    fn report(&mut self, interface: InterfaceId, lock: &LockInterface) -> Report;
    /// Is told of every change of state. An interface that leaves `LOCKED` or `RUN` for `UNLOCKED` or
    /// `ERROR` has to have wiped what is trusted when this returns, and neither sends nor answers TLPs
    /// with the T bit any more.
    fn entered(&mut self, interface: InterfaceId, from: TdiState, to: TdiState);
    /// Makes pages TEE memory, or not. `range` has real addresses.
    fn set_mmio_attribute(
        &mut self,
        interface: InterfaceId,
        range: MmioRange,
        non_tee: bool,
    ) -> Result<(), NotConfigured> {
        let _ = (interface, range, non_tee);
        Err(NotConfigured)
    }
    /// Answers a vendor's request: appends the data of the response, which has the vendor of the
    /// request.
    fn vdm(
        &mut self,
        interface: InterfaceId,
        request: &Vdm<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), VdmRefused> {
        let _ = (interface, request, out);
        Err(VdmRefused::Vendor)
    }
}

/// The device is set up in a way that it cannot do what is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device is not set up for that")]
pub struct NotConfigured;

/// Why a vendor's request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VdmRefused {
    /// The vendor is not known.
    #[error("the vendor is not known")]
    Vendor,
    /// The vendor's bytes are wrong.
    #[error("the request of the vendor is malformed")]
    Malformed,
    /// Not in the state that the interface is in.
    #[error("the request is not possible in this state")]
    State,
}
