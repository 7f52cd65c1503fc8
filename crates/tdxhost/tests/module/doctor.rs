//! `doctor --update`: the same list, as checks.

use crate::common::{Folder, LINUX_7_3, Tree, document, good, tdxhost};

#[test]
fn the_list_is_that_of_the_update() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let tree = Tree::new(LINUX_7_3);
    let text = good(&["doctor", "--update", &image, "--sysfs", tree.sysfs()]);
    assert!(text.ends_with("Nothing forbids the update to 1.5.28: every check is as expected.\n"), "{text}");
    let args = ["--sysfs", tree.sysfs(), "--json"];
    let (report, ready) = document(&[&["doctor", "--update", &image], &args[..]].concat());
    let (update, _) = document(&[&["module", "update", &image, "--dry-run"], &args[..]].concat());
    assert!(ready && report["ready"] == true);
    assert_eq!(report["checks"], update["updates"][0]["checks"]);
}

#[test]
fn failed_and_unknown_checks_are_told_apart() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let tree = Tree::new(LINUX_7_3);
    std::fs::remove_file(tree.folder.path("firmware/acpi/tables/APIC")).unwrap();
    let args = ["doctor", "--update", &image, "--sysfs", tree.sysfs()];
    let text = String::from_utf8(tdxhost(&args).stdout).unwrap();
    assert!(
        text.ends_with("Nothing is known to forbid the update to 1.5.28, but 1 check could not be made.\n"),
        "{text}"
    );
    tree.set(LINUX_7_3.updates, "0\n");
    let (report, ready) = document(&[&args[..], &["--json"]].concat());
    assert!(!ready);
    assert_eq!(report["verdict"], "No update to 1.5.28: 1 check failed.");
    let of = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap();
    assert_eq!(
        (&of("updates-left")["state"], &of("updates-left")["reason"]),
        (&"failed".into(), &"update-log-full".into())
    );
    assert_eq!(of("x2apic-ids")["state"], "unknown");
}

#[test]
fn what_the_user_knows_better_counts_as_in_the_update() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28", "--debug"]);
    let tree = Tree::new(LINUX_7_3);
    let base = ["doctor", "--update", &image, "--sysfs", tree.sysfs(), "--json"];
    let state = |more: &[&str], id: &str| {
        let (report, _) = document(&[&base[..], more].concat());
        let checks = report["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap()["state"].clone()
    };
    assert_eq!(state(&[], "image-production"), "failed");
    assert_eq!(state(&["--allow-debug"], "image-production"), "ok");
    assert_eq!(state(&[], "x2apic-ids"), "ok");
    assert_eq!(state(&["--x2apic-limit", "1"], "x2apic-ids"), "failed");
    let (report, _) = document(&[&base[..], &["--header", "0x100"]].concat());
    let header = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == "image-header");
    assert!(header.unwrap().to_string().contains("0x100"), "{header:?}");
    // They are about an update: without one they are a mistake.
    assert_eq!(tdxhost(&["doctor", "--allow-debug"]).status.code(), Some(2));
}
