//! What cargo builds for a boot: the guest program and the plugin.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The guest program links the C library in, because its file system holds none.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds the first program of the guest.
pub(super) fn guest_program(repository: &Path) -> Result<PathBuf> {
    let arguments = [
        "rustc",
        "--release",
        "--locked",
        "-p",
        "tdx-linux-guest",
        "--bin",
        "tdx-linux-guest",
        "--target",
        TARGET,
        "--message-format=json-render-diagnostics",
        "--",
        "-C",
        "target-feature=+crt-static",
    ];
    let advice = format!("if the target is missing, run `rustup target add {TARGET}`");
    let files = build(repository, &arguments, "tdx-linux-guest", &advice)?;
    files.into_iter().next().context("cargo built the guest program and names no file of it")
}

/// Builds the plugin.
pub(super) fn plugin(repository: &Path) -> Result<PathBuf> {
    let arguments =
        ["build", "--release", "--locked", "-p", "tdx-qemu", "--message-format=json-render-diagnostics"];
    let files = build(repository, &arguments, "tdx_qemu", "cargo's words are above")?;
    let is_library = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "so");
    files.into_iter().find(is_library).context("cargo built the plugin and names no shared library")
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

fn build(repository: &Path, arguments: &[&str], target: &str, advice: &str) -> Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(repository).arg("--quiet").args(arguments);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started: install Rust")?;
    if !output.status.success() {
        bail!("cargo could not build {target} ({}): {advice}", output.status);
    }
    Ok(artifacts(&String::from_utf8_lossy(&output.stdout), target))
}

/// The files of a target, its program first, out of cargo's messages.
fn artifacts(messages: &str, target: &str) -> Vec<PathBuf> {
    let of_target = |message: &Message| {
        message.reason == "compiler-artifact" && message.target.as_ref().is_some_and(|t| t.name == target)
    };
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .filter(of_target)
        .flat_map(|message| message.executable.into_iter().chain(message.filenames))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_target_are_read_out_of_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"filenames":["/t/libserde.rlib"],"executable":null}"#,
            "\nnoise\n",
            r#"{"reason":"compiler-artifact","target":{"name":"tdx_qemu"},"filenames":["/t/libtdx_qemu.so","/t/libtdx_qemu.rlib"],"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"g"},"filenames":["/t/g"],"executable":"/t/g"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(
            artifacts(messages, "tdx_qemu"),
            [PathBuf::from("/t/libtdx_qemu.so"), "/t/libtdx_qemu.rlib".into()]
        );
        assert_eq!(artifacts(messages, "g")[0], PathBuf::from("/t/g"));
        assert!(artifacts(messages, "other").is_empty());
    }
}
