//! `tdxhost dsm` as two processes: a modelled device and a requester.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_tdxhost");
/// What a capture begins with, and what its packets are.
const PCAP_MAGIC: [u8; 4] = [0xd4, 0xc3, 0xb2, 0xa1];
const PCI_DOE: [u8; 4] = [0x24, 1, 0, 0];

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A modelled device that listens.
struct Device {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: String,
    folder: TempDir,
}

impl Device {
    fn start(args: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let mut process = Command::new(BINARY)
            .args(["dsm", "--listen", "127.0.0.1:0", "--json", "--write-root", "root.der"])
            .args(args)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = document(&lines.next().expect("it says where it listens").unwrap());
        assert_eq!((&first["event"], &first["simulated"]), (&"listening".into(), &true.into()));
        let address = first["address"].as_str().unwrap().to_owned();
        Self { process, lines, address, folder }
    }

    /// The device's next line.
    fn event(&mut self) -> Value {
        document(&self.lines.next().expect("one more line").unwrap())
    }

    fn connect(&self, args: &[&str]) -> Output {
        Command::new(BINARY)
            .args(["dsm", "--connect", &self.address])
            .args(args)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The document of a run that must succeed.
    fn good(&self, args: &[&str]) -> Value {
        let output = self.connect(&[args, &["--root", "root.der", "--json"]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(errors, "", "{args:?}");
        document(std::str::from_utf8(&output.stdout).unwrap())
    }

    /// Waits for an end with exit code 0.
    fn ended(mut self, why: &str) -> TempDir {
        let last = loop {
            let event = self.event();
            if event["event"] == "ended" {
                break event;
            }
        };
        assert_eq!(last["why"], why);
        let output = self.process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.folder
    }
}

fn error_line(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    let last = errors.lines().last().unwrap_or_default();
    last.strip_prefix("tdxhost: ").unwrap_or_else(|| panic!("{errors}")).to_owned()
}

fn phases(report: &Value) -> Vec<&str> {
    report["phases"].as_array().unwrap().iter().map(|row| row["phase"].as_str().unwrap()).collect()
}

fn packets(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).unwrap();
    assert_eq!((&file[..4], &file[20..24]), (&PCAP_MAGIC[..], &PCI_DOE[..]));
    let mut rest = &file[24..];
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let size = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        packets.push(rest[16..16 + size].to_vec());
        rest = &rest[16 + size..];
    }
    packets
}

#[test]
fn a_requester_goes_through_everything_and_both_sides_keep_the_same_objects() {
    let mut device =
        Device::start(&["--pcap", "device.pcap", "--trace", "device.jsonl", "--keylog", "device.keys"]);
    let args = ["--key-update", "--shutdown", "--pcap", "host.pcap", "--trace", "host.jsonl"];
    let report = device.good(&args);
    assert_eq!(report["ok"], true);
    let expected = [
        "discovery",
        "negotiate",
        "certificates",
        "challenge",
        "measurements",
        "session",
        "key update",
        "ide query",
        "ide keys",
        "tdisp",
        "lock",
        "report",
        "start",
        "stop",
        "ide stop",
        "end",
    ];
    assert_eq!(phases(&report), expected);

    let connection = device.event();
    assert_eq!(connection["end"], "shutdown");
    let messages = report["messages"].as_u64().unwrap();
    // The three discoveries and their answers are no messages.
    assert_eq!(connection["messages"].as_u64().unwrap(), (messages - 6) / 2);
    assert_eq!(connection["unanswered"], 0);
    let folder = device.ended("shutdown");

    let file = |name: &str| folder.path().join(name);
    let seen = packets(&file("device.pcap"));
    assert_eq!(seen.len() as u64, messages);
    assert!(seen == packets(&file("host.pcap")), "both captures have the same objects");
    let bytes: usize = seen.iter().map(Vec::len).sum();
    assert_eq!(report["bytes"].as_u64().unwrap(), bytes as u64);

    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    for (name, secrets) in [("device.jsonl", true), ("host.jsonl", false)] {
        let text = read(name);
        assert!(text.lines().all(|line| document(line).is_object()));
        assert!(text.contains("KEY_PROG") && text.contains("LOCK_INTERFACE"), "{name}: in plaintext");
        assert_eq!(!text.contains("hidden"), secrets, "{name}");
    }
    let keys = read("device.keys");
    let labels: Vec<_> = keys.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(labels[0], "SPDM_DHE_SECRET");
    assert!(labels.contains(&"SPDM_RESPONSE_DATA_SECRET_1"), "{labels:?}");
}

#[test]
fn versions_and_algorithms_can_be_chosen() {
    let device = Device::start(&[]);
    let report = device.good(&[
        "--spdm",
        "1.2",
        "--hash",
        "sha-256",
        "--group",
        "secp256r1",
        "--cipher",
        "aes-128-gcm",
        "--until",
        "session",
    ]);
    let what = report["phases"][1]["what"].as_str().unwrap();
    assert_eq!(what, "SPDM 1.2, sha-256, ecdsa-p384, secp256r1, aes-128-gcm");
    assert_eq!(phases(&report).last(), Some(&"end"));
    let report = device.good(&["--until", "identity"]);
    assert_eq!(phases(&report).last(), Some(&"measurements"));
    assert!(
        device.good(&["--shutdown", "--function", "3b:01.3", "--stream", "0", "--port", "1"])["ok"] == true
    );
    device.ended("shutdown");
}

#[test]
fn an_unknown_root_is_refused_with_advice_and_the_next_session_works() {
    let mut device = Device::start(&[]);
    let refused = device.connect(&[]);
    let error = error_line(&refused);
    assert!(error.contains("the chain's root is not trusted; "), "{error}");
    assert!(error.contains("--root FILE.der"), "{error}");
    let table = String::from_utf8(refused.stdout).unwrap();
    assert!(!table.contains("session "), "nothing is done with a stranger: {table}");
    assert_eq!(device.event()["end"], "continue");

    let json = device.connect(&["--json"]);
    assert_eq!((json.status.code(), json.stderr.len()), (Some(1), 0));
    let report = document(std::str::from_utf8(&json.stdout).unwrap());
    assert_eq!((&report["ok"], &report["phases"][2]["ok"]), (&false.into(), &false.into()));

    let stranger = device.connect(&["--trust-any-root"]);
    assert!(stranger.status.success());
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("whoever answers is taken for the device"));
    assert!(String::from_utf8_lossy(&stranger.stdout).contains("of ANY root: the device stays a stranger"));
    device.good(&["--shutdown"]);
    device.ended("shutdown");
}

#[test]
fn what_the_device_does_not_have_is_named() {
    let device = Device::start(&[]);
    for (args, part) in [
        (&["--slot", "3"][..], "slot 3 of the device holds no certificate chain; choose another one"),
        (&["--function", "00:00.0"], "TDISP: GET_TDISP_VERSION refused"),
        (&["--stream", "9"], "KEY_PROG refused: unsupported value in another field"),
        (&["--port", "9"], "VENDOR_DEFINED"),
    ] {
        let output = device.connect(&[args, &["--root", "root.der"]].concat());
        let error = error_line(&output);
        assert!(error.contains(part), "{args:?}: {error}");
    }
    device.good(&["--shutdown"]);
    device.ended("shutdown");
}

#[test]
fn a_signal_ends_the_device_with_exit_code_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut device = Device::start(&[]);
        device.good(&[]);
        assert_eq!(device.event()["end"], "continue");
        kill(Pid::from_raw(device.process.id().cast_signed()), signal).unwrap();
        device.ended("signal");
    }
}

#[test]
fn secrets_of_a_device_that_may_be_real_are_not_written() {
    let output =
        Command::new(BINARY).args(["dsm", "--connect", "127.0.0.1:9", "--keylog", "keys"]).output().unwrap();
    let error = error_line(&output);
    assert!(error.contains("may be a real one, whose secrets are not written"), "{error}");
}

#[test]
fn what_cannot_be_done_is_one_line_with_its_reason() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("bad.toml"), "name = \"x\"\n[ide]\nports = 9\n").unwrap();
    std::fs::write(folder.path().join("root.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    for (args, part) in [
        (&["--listen", "127.0.0.1:0", "--device", "defautl"][..], "did you mean default?"),
        (&["--listen", "127.0.0.1:0", "--device", "./none.toml"], "device file ./none.toml: "),
        (&["--listen", "127.0.0.1:0", "--device", "bad.toml"], "`ide.ports` is 9; allowed are 0 to 8"),
        (&["--listen", "192.0.2.1:1"], "cannot listen on 192.0.2.1:1: "),
        (
            &["--listen", "127.0.0.1:0", "--pcap", "no/such/folder"],
            "cannot write the capture no/such/folder: ",
        ),
        (&["--listen", "127.0.0.1:0", "--pcap", "out", "--trace", "out"], "give each its own file"),
        (&["--listen", "127.0.0.1"], "an address is HOST:PORT"),
        // Nobody can listen on port 0.
        (&["--connect", "127.0.0.1:0"], "; start a responder there"),
        (&["--connect", "127.0.0.1"], "an address is HOST:PORT"),
        (&["--connect", "127.0.0.1:0", "--root", "bad.toml"], "bad.toml is not one certificate in DER"),
        (&["--connect", "127.0.0.1:0", "--root", "root.pem"], "in DER; it is PEM: openssl"),
        (&["--connect", "127.0.0.1:0", "--root", "none.der"], "cannot read the root certificate none.der: "),
        (&["--connect", "127.0.0.1:0", "--reporting-offset", "1"], "is no multiple of 4096"),
    ] {
        let output = Command::new(BINARY)
            .arg("dsm")
            .args(args)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let error = error_line(&output);
        assert!(error.contains(part), "{args:?}: {error}");
        assert!(error.matches("os error").count() <= 1, "the reason stands there once: {error}");
    }
    for args in [&[][..], &["--listen", "a", "--connect", "b"], &["--connect", "a", "--device", "default"]] {
        let output = Command::new(BINARY).arg("dsm").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn bad_requests_are_refused_over_the_socket_as_well() {
    let device = Device::start(&[]);
    let report = device.good(&["--bad", "finish-wrong-mac,psk-finish,lock-without-keys"]);
    assert_eq!(report["ok"], true);
    let verdicts: Vec<_> = report["cases"].as_array().unwrap().iter().map(|case| &case["verdict"]).collect();
    assert_eq!(verdicts, ["refused"; 3]);

    let unknown = device.connect(&["--root", "root.der", "--bad", "psk-finnish"]);
    assert!(!unknown.status.success());
    let errors = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(errors, "tdxhost: --bad psk-finnish: no such case; did you mean psk-finish?\n");
    let _ = device.good(&["--shutdown"]);
    device.ended("shutdown");
}

#[test]
fn a_device_plays_the_faults_of_its_file() {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(&file, "name = \"refuses\"\nfaults = [{ refused = { at = \"FINISH\" } }]").unwrap();
    let device = Device::start(&["--device", file.path().to_str().unwrap()]);
    for args in [&["--root", "root.der"][..], &["--root", "root.der", "--bad", "all"]] {
        let refused = device.connect(args);
        assert!(!refused.status.success());
        let errors = String::from_utf8_lossy(&refused.stderr);
        assert!(errors.contains("FINISH is answered with ERROR Unspecified"), "{errors}");
    }
    let _ = device.connect(&["--root", "root.der", "--shutdown"]);
    device.ended("shutdown");
}
