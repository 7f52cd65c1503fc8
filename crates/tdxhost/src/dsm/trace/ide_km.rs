//! The fields of IDE_KM.

use serde_json::{Map, Value, json};
use spdm::ide_km::{Message, Target};

use super::Secrets;
use super::names::number;

/// Describes a message behind its protocol id.
pub(super) fn describe(bytes: &[u8], secrets: Secrets) -> Value {
    let message = match Message::read(bytes) {
        Ok(message) => message,
        // It may be a KEY_PROG that is not quite one.
        Err(error) => {
            let shown = secrets.show(bytes);
            return json!({ "protocol": "IDE_KM", "error": error.to_string(), "bytes": shown });
        }
    };
    let mut described = Map::new();
    described.insert("protocol".into(), "IDE_KM".into());
    described.insert("name".into(), message.object().to_string().into());
    let fields = match &message {
        Message::Query(query) => json!({ "port": query.port.0 }),
        Message::QueryResp(response) => json!({
            "port": response.port.0,
            "location": response.location.to_string(),
            "max port": response.max_port.0,
            "registers": response.registers.dwords().map(number).collect::<Vec<_>>(),
        }),
        Message::KeyProg(request) => {
            let mut fields = target(request.target);
            fields["key"] = secrets.show(request.key.bytes());
            fields["ifv"] = number(request.ifv.0);
            fields
        }
        Message::KpAck(response) => {
            let mut fields = target(response.target);
            fields["status"] = response.status.to_string().into();
            fields
        }
        Message::KSetGo(request) => target(request.target),
        Message::KSetStop(request) => target(request.target),
        Message::KGoStopAck(response) => target(response.target),
    };
    if let Value::Object(fields) = fields {
        described.extend(fields);
    }
    described.into()
}

fn target(target: Target) -> Value {
    json!({ "stream": target.stream.0, "slot": target.key.to_string(), "port": target.port.0 })
}
