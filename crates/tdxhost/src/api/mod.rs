//! The JSON API over a unix socket: it tells everything, and connects devices.
//!
//! Its contract is `api/openapi.json`, which the server also hands out at `/v1/openapi.json`.

mod actions;
mod client;
mod connect;
mod errors;
mod events;
mod facts;
mod problem;
mod routes;
mod server;
mod socket;
mod update;

pub use client::{ClientError, facts, get, hardware, post};
pub use connect::{
    ConnectMode, ConnectRequest, EventFacts, EventsFacts, FunctionFacts, FunctionsFacts, LinkEndFacts,
    LinkFacts, LinksFacts, RefreshRequest, RefreshWhat, TsmErrorFacts, TsmFacts,
};
pub use facts::{
    CpuFacts, CpusFacts, DeviceAttributeFacts, DeviceFacts, ErrorFacts, HostFacts, HostSource, HostState,
    KeyIdFacts, KeyRangeFacts, LogFacts, LogLine, ModuleFacts, PhaseFacts, PhaseState, PlatformFacts,
    ServiceFacts, StatusFacts, TdmrFacts,
};
pub use problem::Problem;
pub use routes::{ACTIONS, EVENT_STREAM, OPENAPI, ROUTES};
pub use server::{ApiError, ApiServer};
pub use socket::{SocketError, default_socket};
pub use update::{UpdateFacts, UpdateState, UploadFacts};
