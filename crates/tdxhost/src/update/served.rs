//! What a served machine tells of an update that failed: the reason that Linux has no place for.

use std::path::Path;

use serde_json::Value;

use crate::api::{self, UpdateFacts};

/// The last update of the machine behind `socket`, if it failed; `None` as well if the machine does not tell.
pub fn failure(socket: &Path) -> Option<UpdateFacts> {
    let answers = api::get(socket, &["/v1/host"]).ok()?;
    let mut host: Value = answers.into_iter().next()?.ok()?;
    let update: UpdateFacts = serde_json::from_value(host.get_mut("update")?.take()).ok()?;
    update.error.is_some().then_some(update)
}
