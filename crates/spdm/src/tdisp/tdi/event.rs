use super::super::InterfaceId;
use crate::ide_km::StreamId;
use crate::ids::SessionId;

/// Something that happened to a device. Whatever would change what was attested, or who can see it,
/// takes a locked or running interface to `ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TdiEvent {
    /// Bus Master Enable of the function was cleared.
    BusMasterCleared(InterfaceId),
    /// Memory Space Enable of the function was cleared.
    MemorySpaceCleared(InterfaceId),
    /// A BAR or another tracked register of the function was written.
    ConfigWrite(InterfaceId),
    /// The MSI-X table or control of the function was written: matters if the lock includes it.
    MsixWrite(InterfaceId),
    /// The function was reset.
    FunctionReset(InterfaceId),
    /// The function found itself in a state that it cannot trust.
    InternalError(InterfaceId),
    /// A stream left its secure state.
    StreamLost(StreamId),
    /// Keys of a stream came from another session than before.
    KeysOutsideSession(StreamId),
    /// A session is over.
    SessionEnded(SessionId),
    /// Firmware was updated: matters if the lock forbids it.
    FirmwareUpdated,
    /// Conventional reset: everything begins anew.
    ConventionalReset,
}
