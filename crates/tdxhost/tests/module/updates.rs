//! `module update`, with a thread that plays the kernel.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::Act::{Answers, Shows, Signals, Takes};
use crate::common::{ALL_PLACES, BINARY, Folder, LINUX_7_3, PATIENCE, Tree, bad, document, good};

/// What a kernel is asked before an upload, and does until the image is committed.
const UPLOAD: [crate::common::Act; 5] = [
    Answers("version", "1.5.06\n"),
    Answers("status", "idle\n"),
    Takes("loading"),
    Takes("data"),
    Takes("loading"),
];

#[test]
fn every_layout_is_known_and_gets_the_header_that_it_takes() {
    let folder = Folder::new();
    let images = ["0x100", "0x200"].map(|header| {
        let name = format!("{header}.blob");
        folder.build(&name, &["--version", "1.5.28", "--header", header]);
        (header, name)
    });
    for places in ALL_PLACES {
        for (header, name) in &images {
            let tree = Tree::new(places);
            let image = folder.text(name);
            let (value, _) =
                document(&["module", "update", &image, "--sysfs", tree.sysfs(), "--dry-run", "--json"]);
            assert_eq!(value["updates"][0]["host"]["layout"], places.layout);
            let mut acts = UPLOAD.to_vec();
            acts.extend([
                Shows("updates", "9\n"),
                Answers("status", "idle\n"),
                Answers("error", ""),
                Answers("version", "1.5.28\n"),
                Answers("status", "idle\n"),
            ]);
            let kernel = tree.kernel(acts);
            let text = good(&["module", "update", &image, "--sysfs", tree.sysfs()]);
            let written = kernel.recv_timeout(PATIENCE).expect("the kernel was asked everything");
            let wanted = format!("{}.blob", places.header);
            assert_eq!(written, [b"1\n".to_vec(), folder.read(&wanted), b"0\n".to_vec()], "{places:?}");
            assert!(text.contains("1.5.06 → 1.5.28"), "{text}");
            assert!(text.ends_with("updated to 1.5.28; 9 updates left\n"), "{text}");
            assert_eq!(text.contains("converted to"), *header != places.header, "{places:?}: {text}");
        }
    }
}

#[test]
fn the_header_of_a_kernel_between_the_layouts_can_be_given() {
    let folder = Folder::new();
    folder.build("old.blob", &["--version", "1.5.28", "--header", "0x100"]);
    folder.build("new.blob", &["--version", "1.5.28"]);
    let tree = Tree::new(ALL_PLACES[2]);
    let mut acts = UPLOAD.to_vec();
    acts.extend([
        Answers("status", "idle\n"),
        Answers("error", ""),
        Answers("version", "1.5.28\n"),
        Answers("status", "idle\n"),
    ]);
    let kernel = tree.kernel(acts);
    let image = folder.text("old.blob");
    let text = good(&["module", "update", &image, "--sysfs", tree.sysfs(), "--header", "0x200", "--quiet"]);
    assert_eq!(text, "");
    assert_eq!(kernel.recv_timeout(PATIENCE).unwrap()[1], folder.read("new.blob"));
}

#[test]
fn a_refusal_of_the_kernel_is_explained() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let cases = [
        (
            "programming:firmware-invalid\n",
            vec![Answers("version", "1.5.06\n"), Answers("status", "idle\n")],
            "the kernel says firmware-invalid while programming",
            "refused before the running module was shut down",
        ),
        (
            "transferring:hw-error\n",
            vec![Answers("version", "\n"), Answers("status", "idle\n")],
            "the kernel says hw-error while transferring",
            "No module is shown any more",
        ),
    ];
    for (error, after, line, ground) in cases {
        let tree = Tree::new(LINUX_7_3);
        let mut acts = UPLOAD.to_vec();
        acts.extend([Answers("status", "idle\n"), Answers("error", error)]);
        acts.extend(after);
        let kernel = tree.kernel(acts);
        let (text, message) = bad(&["module", "update", &image, "--sysfs", tree.sysfs()]);
        assert!(kernel.recv_timeout(PATIENCE).is_ok());
        assert_eq!(message, line);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(ground), "{text}");
    }
}

#[test]
fn an_installed_module_that_does_not_start_is_told_by_the_counter() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let tree = Tree::new(LINUX_7_3);
    let mut acts = UPLOAD.to_vec();
    acts.extend([
        Shows("updates", "9\n"),
        Answers("status", "idle\n"),
        Answers("error", "programming:firmware-invalid\n"),
        Answers("version", "\n"),
        Answers("status", "idle\n"),
    ]);
    let kernel = tree.kernel(acts);
    let (value, ok) = document(&["module", "update", &image, "--sysfs", tree.sysfs(), "--json"]);
    assert!(kernel.recv_timeout(PATIENCE).is_ok());
    assert!(!ok && value["ok"] == false);
    let update = &value["updates"][0];
    assert_eq!(update["error"]["name"], "firmware-invalid");
    let grounds = update["error"]["grounds"].to_string();
    assert!(grounds.contains("the new one did not start, all TDs are lost"), "{grounds}");
    assert_eq!(
        (&update["after"]["module"], &update["after"]["remaining_updates"]),
        (&Value::Null, &9.into())
    );
}

#[test]
fn success_is_believed_only_if_the_version_is_there() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let tree = Tree::new(LINUX_7_3);
    let mut acts = UPLOAD.to_vec();
    acts.extend([
        Answers("status", "idle\n"),
        Answers("error", ""),
        Answers("version", "1.5.06\n"),
        Answers("status", "idle\n"),
    ]);
    let kernel = tree.kernel(acts);
    let (_, message) = bad(&["module", "update", &image, "--sysfs", tree.sysfs()]);
    assert!(kernel.recv_timeout(PATIENCE).is_ok());
    assert_eq!(message, "the kernel reports success, but 1.5.06 runs, not 1.5.28");
}

#[test]
fn every_failed_check_is_named_before_anything_is_touched() {
    let folder = Folder::new();
    let image =
        folder.build("x.blob", &["--version", "1.5.05", "--svn", "1.5", "--cpu", "0xa06f0", "--debug"]);
    let tree = Tree::new(LINUX_7_3);
    tree.set(LINUX_7_3.updates, "0\n");
    tree.set("devices/system/cpu/online", "0-1\n");
    tree.set("class/firmware/tdx_module/status", "programming\n");
    let args = ["module", "update", &image, "--sysfs", tree.sysfs()];
    let (_, message) = bad(&args);
    assert_eq!(
        message,
        "refused before anything was touched: \
         image-debug: signed for debugging (module type bit 31); \
         image-cpu-unsupported: the image is for Sierra Forest (0xa06f0), this is Sapphire Rapids (0x806f0); \
         version-older: 1.5.05 is older than the running 1.5.06; \
         image-svn-older: SVN 1.5 is lower than the running 1.6; \
         update-log-full: no update is left: the log of P-SEAMLDR is full; \
         update-cpu-offline: CPUs 2-3 are offline; \
         update-running: status is programming"
    );
    // Nothing was written.
    assert_eq!(tree.folder.read("class/firmware/tdx_module/loading"), b"0\n");
    assert_eq!(tree.folder.read("class/firmware/tdx_module/data"), b"");

    let (value, ok) = document(&[&args[..], &["--json"]].concat());
    assert!(!ok);
    assert_eq!(value["updates"][0]["error"]["name"], "refused");
    let failed: Vec<&str> = value["updates"][0]["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["state"] == "failed")
        .map(|check| check["id"].as_str().unwrap())
        .collect();
    assert_eq!(failed.len(), 7, "{failed:?}");
}

#[test]
fn one_failed_check_can_be_overridden_by_its_name_and_no_other() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let tree = Tree::new(LINUX_7_3);
    tree.set("devices/system/cpu/online", "0-1\n");
    tree.set(LINUX_7_3.updates, "0\n");
    let args = ["module", "update", &image, "--sysfs", tree.sysfs(), "--dry-run"];
    let (_, message) = bad(&[&args[..], &["--ignore", "update-cpu-offline"]].concat());
    assert_eq!(
        message,
        "refused before anything was touched: update-log-full: no update is left: the log of P-SEAMLDR is full"
    );
    let both = ["--ignore", "update-cpu-offline", "--ignore", "update-log-full"];
    let text = good(&[&args[..], &both].concat());
    assert!(text.contains("nothing was touched (--dry-run)"), "{text}");
}

#[test]
fn what_could_not_be_checked_is_said_and_refused_only_on_request() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let tree = Tree::new(LINUX_7_3);
    std::fs::remove_file(tree.folder.path("devices/system/cpu/modalias")).unwrap();
    let args = ["module", "update", &image, "--sysfs", tree.sysfs(), "--dry-run"];
    let text = good(&args);
    assert!(text.contains("unchecked   image-cpu: not a tree of this kernel"), "{text}");
    assert!(text.contains("nothing is known to forbid the update, but 1 check could not be made"), "{text}");
    let (_, message) = bad(&[&args[..], &["--strict"]].concat());
    assert!(
        message.starts_with("refused before anything was touched: image-cpu: not checked: not a tree"),
        "{message}"
    );
}

#[test]
fn a_damaged_file_is_refused_by_its_own_reason() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let mut bytes = folder.read("x.blob");
    bytes[0x3000] ^= 1;
    folder.write("x.blob", &bytes);
    let tree = Tree::new(LINUX_7_3);
    let (_, message) = bad(&["module", "update", &image, "--sysfs", tree.sysfs()]);
    assert!(message.starts_with("refused before anything was touched: image-checksum-wrong: "), "{message}");
    let (_, message) = bad(&["module", "update", &folder.text("none.blob"), "--sysfs", tree.sysfs()]);
    assert_eq!(message, format!("{}: No such file or directory (os error 2)", folder.text("none.blob")));
}

/// A table in which 1.5.30 takes TDs over from 1.5.20 on.
const STEPWISE: &str = r#"{"tdx_module_releases": [
    {"version": "1.5.20", "min_module_version_for_td_preserving": "1.5.01",
     "min_seamldr_versions": ["1.5.00"], "tdx_feature0": "0x3"},
    {"version": "1.5.30", "min_module_version_for_td_preserving": "1.5.20",
     "min_seamldr_versions": ["1.5.00"], "tdx_feature0": "0x7"}]}"#;

#[test]
fn a_way_over_a_release_in_between_is_gone_step_by_step() {
    let folder = Folder::new();
    folder.write("images/mapping_file.json", STEPWISE.as_bytes());
    folder.build("images/a.blob", &["--version", "1.5.20"]);
    folder.build("images/b.blob", &["--version", "1.5.30"]);
    let tree = Tree::new(LINUX_7_3);
    let mut acts = vec![Answers("version", "1.5.06\n"), Answers("status", "idle\n")];
    acts.extend(UPLOAD);
    acts.extend([
        Shows("updates", "9\n"),
        Answers("status", "idle\n"),
        Answers("error", ""),
        Answers("version", "1.5.20\n"),
        Answers("status", "idle\n"),
        // The second one is checked against what runs now.
        Answers("version", "1.5.20\n"),
        Answers("status", "idle\n"),
        Takes("loading"),
        Takes("data"),
        Takes("loading"),
        Shows("updates", "8\n"),
        Answers("status", "idle\n"),
        Answers("error", ""),
        Answers("version", "1.5.30\n"),
        Answers("status", "idle\n"),
    ]);
    let kernel = tree.kernel(acts);
    let text = good(&["module", "update", "--images", &folder.text("images"), "--sysfs", tree.sysfs()]);
    let written = kernel.recv_timeout(PATIENCE).expect("the kernel was asked everything");
    assert_eq!(written[1], folder.read("images/a.blob"));
    assert_eq!(written[4], folder.read("images/b.blob"));
    assert!(text.contains("step 1  1.5.06 → 1.5.20") && text.contains("step 2  1.5.20 → 1.5.30"), "{text}");
    assert!(text.ends_with("updated to 1.5.30; 8 updates left\n"), "{text}");
}

#[test]
fn a_directory_without_a_way_is_told_in_the_document_too() {
    let folder = Folder::new();
    folder.build("images/a.blob", &["--version", "1.5.05"]);
    let tree = Tree::new(LINUX_7_3);
    let images = folder.text("images");
    let args = ["module", "update", "--images", &images, "--sysfs", tree.sysfs()];
    let (text, message) = bad(&args);
    assert_eq!((text.as_str(), message), ("", format!("no image of {images} fits this host")));
    let (value, ok) = document(&[&args[..], &["--json"]].concat());
    assert!(!ok && value["ok"] == false);
    assert_eq!((&value["error"]["name"], &value["updates"]), (&"no-way".into(), &serde_json::json!([])));
}

#[test]
fn an_update_goes_on_when_nobody_reads_along_any_more() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let tree = Tree::new(LINUX_7_3);
    let mut acts = UPLOAD.to_vec();
    acts.extend([
        Answers("status", "idle\n"),
        Answers("error", ""),
        Answers("version", "1.5.28\n"),
        Answers("status", "idle\n"),
    ]);
    let kernel = tree.kernel(acts);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new("timeout");
    command.args(["60", BINARY, "module", "update", &image, "--sysfs", tree.sysfs()]).stdout(writer);
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.status.success());
    assert_eq!(kernel.recv_timeout(PATIENCE).unwrap()[1], folder.read("x.blob"));
}

#[test]
fn a_signal_before_the_commit_leaves_no_half_upload() {
    let folder = Folder::new();
    // Three writes, of which the pipe of the played kernel takes one.
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let tree = Tree::new(LINUX_7_3);
        tree.pipes();
        let mut command = Command::new(BINARY);
        command.args(["module", "update", &image, "--sysfs", tree.sysfs()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let process = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let kernel = tree.play(vec![
            Answers("version", "1.5.06\n"),
            Answers("status", "idle\n"),
            Takes("loading"),
            Signals("data", process, signal),
            Takes("loading"),
            Answers("version", "1.5.06\n"),
            Answers("status", "idle\n"),
        ]);
        let written = kernel.recv_timeout(PATIENCE).expect("the kernel was asked everything");
        let output = child.wait_with_output().unwrap();
        assert_eq!((written[0].as_slice(), written[2].as_slice()), (&b"1\n"[..], &b"-1\n"[..]), "{signal}");
        assert!(written[1].len() < folder.read("x.blob").len());
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "tdxhost: interrupted: the upload was abandoned, nothing was touched\n"
        );
    }
}

#[test]
fn nothing_is_done_where_the_newest_runs_already() {
    let folder = Folder::new();
    folder.build("images/a.blob", &["--version", "1.5.06"]);
    let tree = Tree::new(LINUX_7_3);
    let args = ["module", "update", "--images", &folder.text("images"), "--sysfs", tree.sysfs()];
    let text = good(&args);
    assert!(text.contains("1.5.06 runs and is the newest that fits"), "{text}");
    assert_eq!(tree.folder.read("class/firmware/tdx_module/loading"), b"0\n");
    // Asked for, it is installed again.
    let text = good(&[&args[..], &["--to", "1.5.06", "--dry-run"]].concat());
    assert!(text.contains("1.5.06 → 1.5.06") && text.contains("nothing forbids the update"), "{text}");
}
