//! How the machine ends.

use std::{
    fs::OpenOptions,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use nix::sys::reboot::{RebootMode, reboot};
use tdx_linux_guest::plan::End;

const BUSYBOX: &str = "/bin/busybox";
const SHELL_PORT: &str = "/dev/ttyS0";

/// Ends the machine. Never returns, because the end of process 1 is a kernel panic.
pub(super) fn end(end: End) -> ! {
    if end == End::Shell
        && let Err(error) = shell()
    {
        say!("init: {error:#}");
    }
    nix::unistd::sync();
    let modes = match end {
        End::Restart => [RebootMode::RB_AUTOBOOT, RebootMode::RB_POWER_OFF, RebootMode::RB_HALT_SYSTEM],
        End::PowerOff | End::Shell => {
            [RebootMode::RB_POWER_OFF, RebootMode::RB_AUTOBOOT, RebootMode::RB_HALT_SYSTEM]
        }
    };
    for mode in modes {
        let Err(errno) = reboot(mode);
        say!("init: the machine does not end: {errno}");
    }
    loop {
        nix::unistd::pause();
    }
}

/// busybox's shell in a session of its own, with the first serial port as its controlling terminal, so that keys
/// such as ^C work.
fn shell() -> Result<()> {
    // Commands by their names; the shell itself also finds them without.
    let installed = Command::new(BUSYBOX).args(["--install", "-s", "/bin"]).status();
    installed.with_context(|| format!("{BUSYBOX} does not run"))?;
    let port = OpenOptions::new().read(true).write(true).open(SHELL_PORT);
    let port = port.with_context(|| format!("{SHELL_PORT} cannot be opened"))?;
    say!("init: a shell; the machine is switched off when it ends");
    let status = Command::new(BUSYBOX)
        .args(["setsid", "-c", BUSYBOX, "sh", "-l"])
        .env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin")
        .env("HOME", "/")
        .env("TERM", "vt102")
        .env("PS1", "tdx# ")
        .stdin(Stdio::from(port.try_clone()?))
        .stdout(Stdio::from(port.try_clone()?))
        .stderr(Stdio::from(port))
        .status()
        .with_context(|| format!("{BUSYBOX} does not run"))?;
    say!("init: the shell has ended: {status}");
    Ok(())
}
