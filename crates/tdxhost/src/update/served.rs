//! What a served machine tells of an update that failed: the reason that Linux has no place for.

use std::path::Path;

use serde_json::Value;

use crate::api::{self, ErrorFacts};

/// The error of the last update of the machine behind `socket`; `None` if there was none, or it does not
/// tell.
pub fn failure(socket: &Path) -> Option<ErrorFacts> {
    let answers = api::get(socket, &["/v1/host"]).ok()?;
    let host: Value = answers.into_iter().next()?.ok()?;
    serde_json::from_value(host.get("update")?.get("error")?.clone()).ok()
}
