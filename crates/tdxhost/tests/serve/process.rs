//! The process: ready line, signals, and what a killed one leaves behind.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tdxhost::doctor::{State, examine};
use tempfile::TempDir;

use crate::mount::{can_mount, is_mounted, mount_point};

const BINARY: &str = env!("CARGO_BIN_EXE_tdxhost");
const VERSION: &str = "devices/faux/tdx_host/version";

/// Places for one served machine.
pub(crate) struct Places {
    directory: TempDir,
    point: TempDir,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), point: mount_point() }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("api")
    }

    pub(crate) fn point(&self) -> &Path {
        self.point.path()
    }

    fn command(&self, platform: &str, more: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--platform", platform, "--api"]).arg(self.socket()).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn serve(&self, platform: &str, more: &[&str]) -> Server {
        Server::wait_for(self.command(platform, more))
    }

    pub(crate) fn serve_mounted(&self, platform: &str, more: &[&str]) -> Server {
        let mut command = self.command(platform, more);
        command.arg("--mount").arg(self.point());
        Server::wait_for(command)
    }

    fn status(&self, more: &[&str]) -> Output {
        Command::new(BINARY).arg("status").arg("--api").arg(self.socket()).args(more).output().unwrap()
    }
}

/// A process that has said that it is ready.
pub(crate) struct Server {
    child: Child,
    out: BufReader<ChildStdout>,
    ready: String,
}

impl Server {
    fn wait_for(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        out.read_line(&mut ready).unwrap();
        Self { child, out, ready }
    }

    /// Sends a signal; gives the exit status and what came on both streams since the ready line.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, String, String) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, signal).unwrap();
        let status = self.child.wait().unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.out.read_to_string(&mut out).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (status, out, err)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A test that failed must not leave its process behind; one that ended is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_served_machine_says_one_line_and_ends_well_on_each_signal() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let places = Places::new();
        let server = places.serve("tiny", &[]);
        assert!(server.ready.starts_with("ready: tiny, TDX module "), "{}", server.ready);
        let (status, out, err) = server.end(signal);
        assert_eq!((status.code(), out.as_str(), err.as_str()), (Some(0), "", ""), "{signal}");
        assert!(!places.socket().exists());
    }
}

#[test]
fn files_are_there_until_the_signal() {
    if !can_mount() {
        return;
    }
    let places = Places::new();
    let server = places.serve_mounted("default", &[]);
    let version = fs::read_to_string(places.point().join(VERSION)).unwrap();
    assert_eq!(version.split('.').count(), 3, "{version}");
    let updates = fs::metadata(places.point().join("devices/faux/tdx_host/num_remaining_updates"));
    assert_eq!(updates.unwrap().mode() & 0o7777, 0o400);
    assert!(server.ready.contains(version.trim_end()), "{}", server.ready);

    let (status, _, err) = server.end(Signal::SIGTERM);
    assert_eq!((status.code(), err.as_str()), (Some(0), ""));
    assert!(!is_mounted(places.point()));
}

#[test]
fn an_open_file_does_not_keep_the_mount() {
    if !can_mount() {
        return;
    }
    let places = Places::new();
    let server = places.serve_mounted("tiny", &[]);
    let held = File::open(places.point().join(VERSION)).unwrap();
    let (status, _, err) = server.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    assert!(err.contains("still open") && err.lines().count() == 1, "{err}");
    assert!(!is_mounted(places.point()));
    drop(held);
}

#[test]
fn what_a_killed_server_left_is_cleared_by_the_next_one() {
    if !can_mount() {
        return;
    }
    let places = Places::new();
    let server = places.serve_mounted("tiny", &[]);
    let (status, ..) = server.end(Signal::SIGKILL);
    assert_eq!(status.code(), None);
    assert!(is_mounted(places.point()) && places.socket().exists());
    let stale = fs::metadata(places.point()).unwrap_err();
    assert_eq!(stale.raw_os_error(), Some(nix::errno::Errno::ENOTCONN as i32));

    let server = places.serve_mounted("tiny", &[]);
    assert!(fs::read_to_string(places.point().join(VERSION)).is_ok(), "{}", server.ready);
    let (status, ..) = server.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    assert!(!is_mounted(places.point()) && !places.socket().exists());
}

#[test]
fn a_second_server_on_the_same_socket_ends_with_one_line_and_harms_nothing() {
    let places = Places::new();
    let first = places.serve("tiny", &[]);
    let second = places.command("tiny", &[]).output().unwrap();
    assert_eq!((second.status.code(), second.stdout.as_slice()), (Some(1), &b""[..]));
    let sentence = String::from_utf8(second.stderr).unwrap();
    assert!(sentence.contains("another server answers there"), "{sentence}");
    assert_eq!(sentence.lines().count(), 1);
    assert!(places.status(&[]).status.success());
    assert_eq!(first.end(Signal::SIGTERM).0.code(), Some(0));
}

#[test]
fn status_asks_the_server_and_says_when_there_is_none() {
    let places = Places::new();
    let nobody = places.status(&[]);
    let sentence = String::from_utf8(nobody.stderr).unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(sentence.starts_with("tdxhost: nothing listens on "), "{sentence}");
    assert_eq!(sentence.lines().count(), 1);

    let _server = places.serve("tiny", &[]);
    let text = String::from_utf8(places.status(&[]).stdout).unwrap();
    assert!(text.starts_with("platform  tiny (simulated, seed 0): 1 package, "), "{text}");
    assert!(text.contains("\nhost      ready\n"), "{text}");
    let json: Value = serde_json::from_slice(&places.status(&["--json"]).stdout).unwrap();
    assert_eq!((&json["state"], &json["device"]), (&"ready".into(), &true.into()));
}

#[test]
fn the_checks_of_a_host_pass_on_a_served_one_and_fail_on_one_without_tdx() {
    for (platform, ready) in [("default", true), ("laptop-no-tdx", false)] {
        let places = Places::new();
        let _server = places.serve(platform, &[]);
        let report = examine(&*tdxhost::api::hardware(&places.socket()).unwrap());
        let failed: Vec<_> = report.checks.iter().filter(|check| check.state != State::Ok).collect();
        assert_eq!(report.ready, ready, "{platform}: {failed:?}");
    }
}

#[test]
fn readiness_as_json_is_one_line() {
    let places = Places::new();
    let server = places.serve("tiny", &["--json"]);
    let ready: Value = serde_json::from_str(&server.ready).unwrap();
    assert_eq!((&ready["event"], &ready["state"]), (&"ready".into(), &"ready".into()));
    assert_eq!(ready["error"], Value::Null);
    assert_eq!(ready["api"], places.socket().to_str().unwrap());
    assert_eq!(server.end(Signal::SIGTERM).1, "");
}

#[test]
fn a_machine_without_tdx_is_served_without_a_device() {
    let places = Places::new();
    let server = places.serve("laptop-no-tdx", &[]);
    assert!(server.ready.starts_with("ready: laptop-no-tdx without TDX ("), "{}", server.ready);
    let json: Value = serde_json::from_slice(&places.status(&["--json"]).stdout).unwrap();
    assert_eq!((&json["state"], &json["device"]), (&"failed".into(), &false.into()));
    let name = json["error"]["name"].as_str().unwrap();
    assert!(server.ready.contains(name), "{}", server.ready);
    let (status, _, err) = server.end(Signal::SIGTERM);
    assert_eq!(status.code(), Some(0));
    assert!(err.starts_with(&format!("tdxhost: {name}: ")), "{err}");
}

#[test]
fn a_served_machine_fails_by_the_rules_of_linux_and_comes_up_by_the_default_ones() {
    let places = Places::new();
    let mut served = places.command("canonical-tdx-135", &["--strict", "--tdmr-rules", "linux-7.3"]);
    let output = served.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("too-many-reserved-areas"), "{text}");

    let server = places.serve("canonical-tdx-135", &["--strict"]);
    let (status, ..) = server.end(Signal::SIGTERM);
    assert!(status.success());
}

#[test]
fn strict_ends_a_machine_without_tdx_with_its_error() {
    let places = Places::new();
    let output = places.command("laptop-no-tdx", &["--strict"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    assert!(!places.socket().exists());
}

#[test]
fn a_failure_is_one_line_that_says_its_cause_once() {
    let output = Command::new(BINARY)
        .args(["serve", "--platform", "tiny", "--api", "/nonexistent/api"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        sentence,
        "tdxhost: cannot listen on /nonexistent/api: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_platform_that_does_not_exist_is_named() {
    let places = Places::new();
    let output = places.command("no-such-platform", &[]).output().unwrap();
    let sentence = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence.contains("no-such-platform"), "{sentence}");
    assert!(!places.socket().exists());
}

#[test]
fn the_doctor_tells_why_a_served_host_did_not_come_up() {
    let places = Places::new();
    let shown = Command::new(BINARY).args(["platform", "show", "tiny"]).output().unwrap();
    let spec = String::from_utf8(shown.stdout).unwrap();
    let file = places.directory.path().join("no-module.toml");
    fs::write(&file, spec.replacen("[cpu]", "faults = [\"module-missing\"]\n\n[cpu]", 1)).unwrap();
    let _server = places.serve(file.to_str().unwrap(), &[]);
    // Registers and CPUID of this machine are as they should be: only the host itself can tell.
    let facts = tdxhost::api::hardware(&places.socket()).unwrap();
    let report = examine(&*facts);
    let failed: Vec<_> = report.checks.iter().filter(|check| check.state == State::Failed).collect();
    assert_eq!(failed.iter().map(|check| check.id).collect::<Vec<_>>(), ["bring-up", "tdx-host-device"]);
    assert!(failed[0].seen.starts_with("module-not-loaded: no TDX module answers"), "{}", failed[0].seen);
    assert!(failed[0].advice.as_ref().is_some_and(|advice| advice.contains("BIOS")), "{failed:?}");
}
