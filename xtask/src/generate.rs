//! `gen`: writes the tables of the crates from their spec files; `gen --check` compares.

use crate::{gen_module, tables};
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// File names and texts, from a directory of spec files.
type Tables = fn(&Path) -> Result<Vec<(&'static str, String)>>;

const CRATES: [(&str, Tables); 2] = [("crates/tdx-abi", tables::all), ("crates/tdx-module", gen_module::all)];

/// Writes every generated file.
pub(crate) fn write(root: &Path) -> Result<()> {
    for (name, tables) in CRATES {
        let directory = root.join(name).join("src/generated");
        std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        for (file, text) in outputs(root, name, tables)? {
            let path = directory.join(file);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}

/// Fails with the name of the first file that differs from what [`write()`] would write.
pub(crate) fn check(root: &Path) -> Result<()> {
    for (name, tables) in CRATES {
        let directory = root.join(name).join("src/generated");
        for (file, text) in outputs(root, name, tables)? {
            let path = directory.join(file);
            if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
                bail!("{name}/src/generated/{file} is stale: run `cargo xtask gen`");
            }
        }
    }
    Ok(())
}

fn outputs(root: &Path, name: &str, tables: Tables) -> Result<Vec<(&'static str, String)>> {
    let spec = root.join(name).join("spec");
    tables(&spec)?
        .into_iter()
        .map(|(file, text)| Ok((file, rustfmt(root, &text).with_context(|| file)?)))
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
