//! `gen`: writes the tables of `tdx-abi` from its spec files; `gen --check` compares.

use crate::tables;
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

const CRATE: &str = "crates/tdx-abi";

/// Writes every generated file.
pub(crate) fn write(root: &Path) -> Result<()> {
    let directory = root.join(CRATE).join("src/generated");
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    for (name, text) in outputs(root)? {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Fails with the name of the first file that differs from what [`write`] would write.
pub(crate) fn check(root: &Path) -> Result<()> {
    let directory = root.join(CRATE).join("src/generated");
    for (name, text) in outputs(root)? {
        let path = directory.join(name);
        if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
            bail!("{CRATE}/src/generated/{name} is stale: run `cargo xtask gen`");
        }
    }
    Ok(())
}

fn outputs(root: &Path) -> Result<Vec<(&'static str, String)>> {
    let spec = root.join(CRATE).join("spec");
    tables::all(&spec)?
        .into_iter()
        .map(|(name, text)| Ok((name, rustfmt(root, &text).with_context(|| name)?)))
        .collect()
}

fn rustfmt(root: &Path, text: &str) -> Result<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--emit", "stdout"])
        // The repository's own rustfmt.toml decides, wherever the caller stands.
        .arg("--config-path")
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start rustfmt")?;
    child.stdin.take().context("rustfmt has no input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("rustfmt refused the generated text: {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
