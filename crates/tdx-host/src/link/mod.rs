//! What a connected device has: an SPDM session with the module and a stream over its link.
//!
//! [`Session`] and [`Stream`] are two objects of their own. Each is made by `open` and ended by `close`,
//! which take back exactly what was done; a failed `open` leaves nothing behind.

mod caller;
mod place;
mod pool;
mod port;
mod session;
mod stream;
mod wire;

pub use caller::TsmPlatform;
pub use place::Place;
pub use pool::{BridgeStreams, PortStreams};
pub use session::Session;
pub use stream::{KeySet, Stream};
pub use wire::Wire;

pub(crate) use caller::Caller;
pub(crate) use place::walk_functions;
pub(crate) use pool::Pools;
pub(crate) use session::Ending;
