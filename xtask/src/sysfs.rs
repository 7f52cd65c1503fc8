//! `sysfs`: writes `docs/sysfs.md` from the tables of the files; `sysfs --check` compares.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tdxhost::sysfs::document;

const DOCUMENT: &str = "docs/sysfs.md";

/// Writes the document.
pub(crate) fn write(root: &Path) -> Result<()> {
    let path = root.join(DOCUMENT);
    std::fs::write(&path, document()).with_context(|| format!("write {}", path.display()))
}

/// Fails if the document differs from what [`write()`] would write.
pub(crate) fn check(root: &Path) -> Result<()> {
    if std::fs::read_to_string(root.join(DOCUMENT)).ok().as_deref() != Some(document().as_str()) {
        bail!("{DOCUMENT} is stale: run `cargo xtask sysfs`");
    }
    Ok(())
}
