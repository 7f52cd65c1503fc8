//! `HEARTBEAT` and `HEARTBEAT_ACK`: 4 bytes each.

use super::header::bare_message;
use super::{RequestCode, ResponseCode};

bare_message! {
    /// `HEARTBEAT`.
    Heartbeat, RequestCode::HEARTBEAT
}

bare_message! {
    /// `HEARTBEAT_ACK`.
    HeartbeatAck, ResponseCode::HEARTBEAT_ACK
}
