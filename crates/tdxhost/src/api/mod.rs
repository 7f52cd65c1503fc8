//! The read-only JSON API over a unix socket.
//!
//! Its contract is `api/openapi.json`, which the server also hands out at `/v1/openapi.json`.

mod client;
mod errors;
mod facts;
mod problem;
mod routes;
mod server;
mod socket;
mod update;

pub use client::{ClientError, facts, get, hardware};
pub use facts::{
    CpuFacts, CpusFacts, DeviceAttributeFacts, DeviceFacts, ErrorFacts, HostFacts, HostSource, HostState,
    KeyIdFacts, KeyRangeFacts, LogFacts, LogLine, ModuleFacts, PhaseFacts, PhaseState, PlatformFacts,
    ServiceFacts, StatusFacts, TdmrFacts,
};
pub use problem::Problem;
pub use routes::{OPENAPI, ROUTES};
pub use server::{ApiError, ApiServer};
pub use socket::{SocketError, default_socket};
pub use update::{UpdateFacts, UpdateState, UploadFacts};
