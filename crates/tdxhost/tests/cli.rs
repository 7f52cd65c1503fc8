//! The program as a process: exit codes, what goes to which stream, documents.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_tdxhost");
const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");

fn tdxhost(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Standard output of a run that must go well and say nothing else.
fn good(args: &[&str]) -> String {
    let output = tdxhost(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {errors}");
    assert_eq!(errors, "", "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line on standard error of a run that must fail with exit code 1.
fn bad(args: &[&str]) -> String {
    one_line(args, &tdxhost(args))
}

fn one_line(what: &[&str], output: &Output) -> String {
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{what:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{what:?}: {errors}");
    errors.strip_prefix("tdxhost: ").unwrap_or_else(|| panic!("{errors}")).trim_end().to_owned()
}

fn document(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The document without what a clock or the size of the process says.
fn timeless(text: &str) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| key != "seconds" && key != "peak_rss_kib");
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = document(text);
    strip(&mut value);
    value
}

/// Words in one line, however they were wrapped.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_demo_shows_bring_up_a_connected_device_and_a_live_update_that_costs_one_place_of_the_log() {
    for (args, platform) in [(&["demo"][..], "default"), (&["demo", "--platform", "tiny"], "tiny")] {
        let spec = document(&good(&["platform", "show", platform, "--json"]));
        let left = spec["seamldr"]["remaining_updates"].as_u64().unwrap();
        let attributes = |version: &str, left: u64| {
            let seamldr = spec["seamldr"]["version"].as_str().unwrap();
            format!("version {version} seamldr_version {seamldr} num_remaining_updates {left}")
        };
        let (before, after) = (attributes("2.1.00", left), attributes("2.1.01", left - 1));
        let text = unwrapped(&good(args));
        let (bring_up, update) = text.split_once(" live update to 2.1.01, ").unwrap();
        assert!(bring_up.contains("TDX module initialized in ") && bring_up.contains(&before), "{text}");
        for phase in ["shutdown", "install", "init", "update"] {
            assert!(update.contains(&format!(" {phase} ")), "{phase}: {text}");
        }
        assert!(update.contains("TDX module updated from 2.1.00 to 2.1.01 in "), "{text}");
        assert!(update.contains(&after), "{text}");
        if platform == "tiny" {
            assert!(bring_up.contains(" no device is connected: connect-no-units: no IOMMU"), "{text}");
            assert!(update.ends_with(&after), "{text}");
        } else {
            for part in [
                "TDX Connect: tsm0 with 8 streams; ",
                " connect ",
                " traffic ",
                "tsm/connect tsm0 stream0.0.0 ",
            ] {
                assert!(bring_up.contains(part), "{part}: {text}");
            }
            assert!(update.contains("0000:14:01.0 secure, 0000:15:00.0 secure, "), "{text}");
            assert!(update.ends_with(" protected TLPs more"), "{text}");
        }
        assert_eq!(unwrapped(&good(&[args, &["--quiet"]].concat())), after);
    }
}

#[test]
fn the_demo_as_json_tells_what_the_live_update_did() {
    let value = document(&good(&["demo", "--platform", "tiny", "--json"]));
    let update = &value["update"];
    assert_eq!(update["version"], "2.1.01");
    assert_eq!((&update["facts"]["from"], &update["facts"]["to"]), (&"2.1.00".into(), &"2.1.01".into()));
    let phases: Vec<_> = update["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
    assert_eq!(phases, ["shutdown", "install", "init", "update"]);
    assert_eq!(update["attributes"]["version"], "2.1.01");
    let left = |attributes: &Value| -> u64 {
        attributes["num_remaining_updates"].as_str().unwrap().parse().unwrap()
    };
    assert_eq!(left(&update["attributes"]) + 1, left(&value["attributes"]));
    assert!(update.get("refused").is_none());
}

#[test]
fn a_demo_whose_machine_takes_no_update_goes_well_and_says_why() {
    let args = ["demo", "--platform", "sparse-x2apic"];
    let value = document(&good(&[&args[..], &["--json"]].concat()));
    let update = &value["update"];
    assert_eq!(update["refused"]["name"], "x2apic-id-too-large");
    assert!(update["refused"]["advice"].is_string());
    assert_eq!(update["attributes"], value["attributes"]);
    assert!(good(&args).contains("refused before anything was touched: x2apic-id-too-large: "));
}

#[test]
fn the_demo_as_json_is_one_document_that_the_seed_decides() {
    let run = |seed| good(&["demo", "--platform", "tiny", "--json", "--seed", seed]);
    let value = document(&run("7"));
    assert_eq!(value["simulated"], true);
    assert_eq!(value["attributes"]["version"], "2.1.00");
    let gib = value["phases"].as_array().unwrap().last().unwrap()["count"].as_u64().unwrap();
    assert_eq!((gib, &value["facts"]["tdmr_init_calls"]), (4, &(4 * 256).into()));
    let phases: Vec<_> = value["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]).collect();
    assert_eq!(phases.first().unwrap().as_str(), Some("platform-checks"));
    assert_eq!(phases.last().unwrap().as_str(), Some("tdmr-init"));
    assert_eq!(timeless(&run("7")), timeless(&run("7")));
}

#[test]
fn a_demo_that_fails_names_the_error_and_what_to_try() {
    let error = bad(&["demo", "--platform", "laptop-no-tdx"]);
    assert!(error.starts_with("no-tdx: MSR 0x87"), "{error}");
    let output = tdxhost(&["demo", "--platform", "laptop-no-tdx", "--json"]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]));
    let value = document(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(value["error"]["name"], "no-tdx");
    assert!(value["error"]["advice"].is_string());
    assert_eq!(value["attributes"], serde_json::json!({}));
}

#[test]
fn linux_rules_show_the_failure_of_the_machine_that_the_default_rules_bring_up() {
    let error = bad(&["demo", "--platform", "canonical-tdx-415", "--tdmr-rules", "linux-7.3"]);
    assert!(error.starts_with("too-many-reserved-areas: TDMR [0x40000000, 0x80000000)"), "{error}");
    good(&["demo", "--platform", "canonical-tdx-415", "--quiet"]);
}

#[test]
fn run_says_by_its_exit_code_whether_every_case_passed() {
    let text = good(&["run", &format!("{SCENARIOS}/bringup-faults.toml")]);
    assert!(text.lines().last().unwrap().contains(" 0 failed"), "{text}");
    let value = document(&good(&["run", &format!("{SCENARIOS}/life.toml"), "--json", "--seed", "3"]));
    assert_eq!((&value["failed"], &value["seed"]), (&0.into(), &3.into()));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    let wrong = "name = 'wrong'\nplatform = 'tiny'\n[[case]]\nname = 'x'\nfaults = ['no-vmx']\n";
    std::fs::write(&file, wrong).unwrap();
    let path = file.to_str().unwrap();
    let output = tdxhost(&["run", path]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("FAIL x") && text.contains("bring-up: no-vmx"), "{text}");
    let output = tdxhost(&["run", path, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(document(&String::from_utf8(output.stdout).unwrap())["failed"], 1);
}

#[test]
fn failures_are_one_line_that_names_what_failed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let no_toml = file("no.toml", "name = [\n");
    let key = file("key.toml", "name = 'x'\nspeed = 9\n[[case]]\nname = 'y'\n");
    let machine = file("machine.toml", "name = 'x'\nclock = 1\n[cpu]\nkind = 'granite-rapids'\n");
    for (args, words) in [
        (&["demo", "--platform", "nowhere"][..], &["nowhere", "tiny"][..]),
        (&["demo", "--platform", &machine], &["machine.toml", "clock"]),
        (&["run", "/does/not/exist"], &["/does/not/exist", "No such file"]),
        (&["run", &no_toml], &["no.toml", "line"]),
        (&["run", &key], &["key.toml", "speed"]),
        (&["platform", "show", "nowhere"], &["nowhere"]),
        (&["platform", "capture", "--dmesg", "/does/not/exist"], &["/does/not/exist"]),
        (&["platform", "capture", "--dmesg", "/dev/null"], &["no memory map", "BIOS-e820"]),
        (&["explain", "zzz"], &["zzz"]),
        (&["explain", "field", "zzz"], &["zzz"]),
        (&["explain", "error", "zzz"], &["zzz"]),
        (&["explain", "--dmesg", "/does/not/exist"], &["/does/not/exist"]),
    ] {
        let error = bad(args);
        assert!(words.iter().all(|word| error.contains(word)), "{args:?}: {error}");
    }
}

#[test]
fn platforms_are_listed_shown_and_read_back() {
    let list = good(&["platform", "list"]);
    let names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for name in ["tiny", "default", "spr-2s", "gnr-2s-connect", "gnr-8s", "laptop-no-tdx"] {
        assert!(names.contains(&name), "{list}");
    }
    let rows = document(&good(&["platform", "list", "--json"]));
    assert_eq!(rows.as_array().unwrap().len(), names.len());
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        // What is shown is a platform file again, the same one.
        let file = folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, good(&["platform", "show", name])).unwrap();
        let shown = document(&good(&["platform", "show", name, "--json"]));
        assert_eq!(document(&good(&["platform", "show", file.to_str().unwrap(), "--json"])), shown);
        assert_eq!(shown["name"], name);
    }
}

const BOOT_LOG: &str = "\
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x0000000067ffffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000100000000-0x000000107fffffff] usable
[    1.000000] virt/tdx: BIOS enabled: private KeyID range [64, 128)
";

fn with_input(args: &[&str], input: &str) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_boot_log_on_standard_input_becomes_a_platform_that_comes_up() {
    let output = with_input(&["platform", "capture", "--dmesg", "-"], BOOT_LOG);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("# "), "what was assumed comes first: {text}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("captured.toml");
    std::fs::write(&file, &text).unwrap();
    let path = file.to_str().unwrap();
    let shown = document(&good(&["platform", "show", path, "--json"]));
    assert_eq!((&shown["keyids"]["mktme"], &shown["keyids"]["tdx"]), (&63.into(), &64.into()));
    assert!(good(&["demo", "--platform", path, "--quiet"]).contains("version"));

    let output = with_input(&["platform", "capture", "--dmesg", "-"], "nothing of use\n");
    assert!(one_line(&["capture"], &output).contains("no memory map"));
}

#[test]
fn codes_that_users_posted_are_explained() {
    for (words, name, detail) in [
        (&["0x22", "0xc000050500000000"][..], "SYS_NOT_READY", "TDH.SYS.RD"),
        (&["0x21", "0xc000090000000000"], "INCORRECT_CPUID_VALUE", "TDH.SYS.INIT"),
        (&["33", "0xc000092100000122"], "INCORRECT_MSR_VALUE", "MSR 0x122 IA32_TSX_CTRL"),
        (&["0x1c", "0xc000030000000001"], "PAGE_METADATA_INCORRECT", "operand RCX"),
        (&["0xc000010000000045"], "OPERAND_INVALID", "CPUID_CONFIG"),
        (&["0x22", "0xc0000c0000000000"], "METADATA_FIELD_ID_INCORRECT", "TDH.SYS.RD"),
    ] {
        let text = unwrapped(&good(&[&["explain"], words].concat()));
        assert!(text.contains(name) && text.contains(detail), "{words:?}: {text}");
        let value = document(&good(&[&["explain", "--json"], words].concat()));
        assert!(value.to_string().contains(name), "{value}");
    }
}

#[test]
fn a_log_on_standard_input_is_annotated() {
    let log = "virt/tdx: SEAMCALL (0x0000000000000021) failed: 0xc000092100000122\nusb 1-1: new device\n";
    let output = with_input(&["explain", "--dmesg", "-"], log);
    assert!(output.status.success());
    let text = unwrapped(&String::from_utf8(output.stdout).unwrap());
    assert!(text.contains("INCORRECT_MSR_VALUE") && text.contains("IA32_TSX_CTRL"), "{text}");
    assert!(!text.contains("usb 1-1"), "{text}");
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    for args in [
        &["platform", "list"][..],
        &["platform", "show", "gnr-2s-connect"],
        &["platform", "list", "--json"],
        &["demo", "--platform", "tiny", "--json"],
        &["demo", "--platform", "tiny"],
        &["run", &format!("{SCENARIOS}/bringup-faults.toml")],
        &["explain", "33", "0xc000092100000122"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(BINARY);
        let output = command.args(args).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output();
        let Output { status, stderr, .. } = output.unwrap();
        let errors = String::from_utf8(stderr).unwrap();
        assert_eq!(errors, "", "{args:?}");
        assert!(status.success(), "{args:?}: {status}");
    }
}

#[test]
fn words_that_are_no_command_end_with_usage() {
    let output = tdxhost(&["dance"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("dance"));
    let output = tdxhost(&["--version"]);
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("tdxhost "));
}

#[test]
fn the_demo_connects_a_device_that_is_still_there_behind_the_update() {
    let demo = document(&good(&["demo", "--json"]));
    let connect = &demo["connect"];
    assert_eq!((&connect["state"], &connect["tsm"]), (&"on".into(), &"tsm0".into()), "{connect}");
    assert!(connect["extension_pages"].as_u64().unwrap() > 0);
    let device = &connect["device"];
    assert_eq!((&device["stream"]["secure"], device.get("refused")), (&true.into(), None), "{device}");
    let again = &device["behind_update"];
    assert_eq!(again["stream"]["session"], device["stream"]["session"], "{device}");
    assert_eq!((&again["stream"]["secure"], again.get("failed")), (&true.into(), None), "{device}");
    assert!(again["sealed_packets"].as_u64().unwrap() > 0);
    let off = document(&good(&["demo", "--platform", "tiny", "--json"]));
    assert_eq!(off["connect"]["reason"]["name"], "connect-no-units");
    assert_eq!(off["connect"].get("device"), None);
}

#[test]
fn a_trace_of_the_demo_has_calls_and_messages_in_their_order_and_the_capture_its_objects() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, pcap) = (folder.path().join("trace"), folder.path().join("pcap"));
    let (trace, pcap) = (trace.to_str().unwrap(), pcap.to_str().unwrap());
    good(&["demo", "--quiet", "--trace", trace, "--pcap", pcap]);
    let text = std::fs::read_to_string(trace).unwrap();
    let lines: Vec<Value> = text.lines().map(document).collect();
    let at = |call: &str, from: usize| {
        let found = lines[from..].iter().position(|line| line["call"] == call);
        from + found.unwrap_or_else(|| panic!("no {call} behind line {from}"))
    };
    let (init, create) = (at("TDH.SYS.INIT", 0), at("TDH.SPDM.CREATE", 0));
    let connect = at("TDH.SPDM.CONNECT", create);
    assert!(init < create && lines[connect]["status"].as_str().unwrap().starts_with("TDX_SPDM_REQUEST"));
    assert_eq!(lines[connect + 1]["message"]["name"], "GET_VERSION");
    assert_eq!(lines[connect + 1]["device"], "0000:15:00.0");
    // What is protected is there in plaintext as well.
    let in_session =
        |name: &str| lines.iter().any(|line| line["message"]["name"] == name && line["session"].is_string());
    assert!(in_session("FINISH") && in_session("VENDOR_DEFINED_REQUEST"));
    assert!(lines.iter().any(|line| line["call"] == "SEAMLDR.INSTALL"));
    let objects = lines.iter().filter(|line| line["message"].is_object() && line["session"].is_null());
    let sealed = lines.iter().filter(|line| line["sealed"].is_object());
    let sizes = objects.chain(sealed).map(|line| line["size"].as_u64().unwrap().next_multiple_of(4) + 8 + 16);
    assert_eq!(std::fs::metadata(pcap).unwrap().len(), 24 + sizes.sum::<u64>());
}
