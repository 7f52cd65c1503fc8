//! `module list` and `module plan` on directories of built images.

use crate::common::{Folder, LINUX_7_3, Tree, bad, document, good};

/// Laid out like Intel's repository.
fn repository() -> Folder {
    let folder = Folder::new();
    for (version, cpus) in [
        ("1.5.16", &["--cpu", "0x806f8", "--cpu", "0xa06f0"][..]),
        ("1.5.24", &["--cpu", "0x806f8"]),
        ("1.5.25", &["--cpu", "0xa06f0"]),
    ] {
        let name = format!("images/joined_files/1.5/tdx_module_{version}.blob");
        folder.build(&name, &[&["--version", version, "--header", "0x100"], cpus].concat());
    }
    folder.build("images/joined_files/2.0/tdx_module_2.0.14.blob", &["--version", "2.0.14"]);
    folder.write("images/LICENSE", b"text");
    folder
}

#[test]
fn plan_chooses_what_fits_and_names_why_not_the_others() {
    let folder = repository();
    let tree = Tree::new(LINUX_7_3);
    let args = ["module", "plan", "--images", &folder.text("images"), "--sysfs", tree.sysfs()];
    let (value, ok) = document(&[&args[..], &["--json"]].concat());
    assert!(ok && value["ok"] == true);
    assert_eq!((&value["chosen"], &value["releases"]), (&"1.5.24".into(), &"built-in".into()));
    assert_eq!(value["steps"].as_array().unwrap().len(), 1);
    assert_eq!(value["host"]["layout"], "7.3");
    let others: Vec<(&str, &str)> = value["not_chosen"]
        .as_array()
        .unwrap()
        .iter()
        .map(|other| (other["version"].as_str().unwrap(), other["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        others,
        [("2.0.14", "version-line-differs"), ("1.5.25", "image-cpu-unsupported"), ("1.5.16", "not-chosen")]
    );
    let gained = value["features"]["gained"].to_string();
    assert!(gained.contains("DYNAMIC_PAMT") && gained.contains("UPDATE_COMPATIBILITY"), "{gained}");

    let text = good(&args);
    assert!(text.contains("step 1  1.5.06 → 1.5.24"), "{text}");
    assert!(text.contains("has no mapping_file.json"), "{text}");
    assert!(text.contains("1.5.25    image-cpu-unsupported: the image is for Sierra Forest"), "{text}");
}

#[test]
fn plan_goes_where_it_is_told_or_says_why_not() {
    let folder = repository();
    let tree = Tree::new(LINUX_7_3);
    let images = folder.text("images");
    let args = ["module", "plan", "--images", &images, "--sysfs", tree.sysfs(), "--to"];
    assert!(good(&[&args[..], &["1.5.16"]].concat()).contains("step 1  1.5.06 → 1.5.16"));
    let (_, message) = bad(&[&args[..], &["1.5.25"]].concat());
    assert!(message.starts_with("no way to 1.5.25: image-cpu-unsupported: "), "{message}");
    let (_, message) = bad(&[&args[..], &["1.5.34"]].concat());
    assert_eq!(message, format!("{images} has no image of 1.5.34"));
}

#[test]
fn a_plan_that_the_host_cannot_follow_now_fails_by_name() {
    let folder = repository();
    let tree = Tree::new(LINUX_7_3);
    tree.set(LINUX_7_3.updates, "0\n");
    let (text, message) =
        bad(&["module", "plan", "--images", &folder.text("images"), "--sysfs", tree.sysfs()]);
    assert!(text.contains("step 1  1.5.06 → 1.5.24"), "{text}");
    assert_eq!(
        message,
        "the host cannot take an update now: update-log-full: no update is left: the log of P-SEAMLDR is full"
    );
}

#[test]
fn a_host_without_a_module_gets_no_plan_but_a_list() {
    let folder = repository();
    let empty = Folder::new();
    let images = folder.text("images");
    let sysfs = empty.text("");
    let (_, message) = bad(&["module", "plan", "--images", &images, "--sysfs", &sysfs]);
    assert_eq!(
        message,
        format!(
            "no plan without the version of the running module: no tdx_host device below {sysfs}; \
             `tdxhost doctor` says what is missing"
        )
    );
    // A tree that is not there is a mistake of the command line, not a host without TDX.
    let none = empty.text("none");
    let expected = format!("{none} is no directory: the root of a sysfs tree is wanted");
    for command in [&["list", &images][..], &["plan", "--images", &images]] {
        let (_, message) = bad(&[&["module"], command, &["--sysfs", &none]].concat());
        assert_eq!(message, expected);
    }
    let (value, ok) = document(&["module", "list", &images, "--sysfs", &sysfs, "--json"]);
    assert!(ok);
    let rows = value["images"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["fits"].is_null()), "{value}");
}

#[test]
fn list_marks_what_fits() {
    let folder = repository();
    let tree = Tree::new(LINUX_7_3);
    let (value, _) = document(&["module", "list", &folder.text("images"), "--sysfs", tree.sysfs(), "--json"]);
    let fits: Vec<(&str, Option<bool>)> = value["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["version"].as_str().unwrap(), row["fits"].as_bool()))
        .collect();
    assert_eq!(
        fits,
        [("2.0.14", Some(false)), ("1.5.25", Some(false)), ("1.5.24", Some(true)), ("1.5.16", Some(true))]
    );
    let text = good(&["module", "list", &folder.text("images"), "--sysfs", tree.sysfs()]);
    assert!(text.contains("fits      1.5.24") && text.contains("no        1.5.25"), "{text}");
}

#[test]
fn a_table_of_the_user_is_used_with_its_unknown_keys_and_its_mistakes() {
    let folder = repository();
    let tree = Tree::new(LINUX_7_3);
    let release = |more: &str| {
        format!(
            r#"{{"later": 1, "tdx_module_releases": [{{"version": "1.5.24",
            "min_module_version_for_td_preserving": "1.5.01", "min_seamldr_versions": ["1.5.00"],
            "tdx_feature0": "0xD1326F3F0FBF"{more}}}]}}"#
        )
    };
    let images = folder.text("images");
    let args = ["module", "list", &images, "--sysfs", tree.sysfs()];
    folder.write("images/mapping_file.json", release(r#", "colour": "red""#).as_bytes());
    let text = good(&args);
    assert!(text.contains("keys that are not known here: later"), "{text}");
    assert!(text.contains("colour: \"red\""), "{text}");
    assert!(text.contains("unknown-release"), "{text}");

    folder.write("images/mapping_file.json", b"{");
    let (_, message) = bad(&args);
    assert!(message.starts_with(&format!("{images}/mapping_file.json: EOF while parsing")), "{message}");
    // Another table can be given.
    folder.write("mine.json", release("").replace("0xD1326F3F0FBF", "0x3").as_bytes());
    let mine = folder.text("mine.json");
    let text = good(&["module", "plan", "--images", &images, "--sysfs", tree.sysfs(), "--mapping", &mine]);
    assert!(text.contains("corrected since: 1.5.24: tdx_feature0 is 0x3 here"), "{text}");
    assert!(text.contains("loses"), "{text}");
}

#[test]
fn a_directory_without_images_is_the_wrong_one() {
    let folder = Folder::new();
    folder.write("LICENSE", b"text");
    let directory = folder.text("");
    let (_, message) = bad(&["module", "list", &directory]);
    assert!(message.starts_with(&format!("{directory} has no image: ")), "{message}");
    let (_, message) = bad(&["module", "list", &folder.text("none")]);
    assert!(message.ends_with("none: No such file or directory (os error 2)"), "{message}");
}

#[test]
fn a_flat_directory_is_read_by_content_not_by_name() {
    let folder = Folder::new();
    folder.build("anything", &["--version", "1.5.28"]);
    folder.write("notes.txt", b"TDX-BLOB is the word");
    folder.write("broken.blob", b"abc");
    // One byte more than any upload takes, and no room on the disk.
    let huge = std::fs::File::create(folder.path("huge.blob")).unwrap();
    huge.set_len((64 << 20) + 1).unwrap();
    let tree = Tree::new(LINUX_7_3);
    let (value, _) = document(&["module", "list", &folder.text(""), "--sysfs", tree.sysfs(), "--json"]);
    let rows = value["images"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{value}");
    assert_eq!((&rows[0]["version"], &rows[0]["version_source"]), (&"1.5.28".into(), &"record".into()));
    assert_eq!(rows[1]["reasons"][0]["name"], "image-too-short");
    assert_eq!((&rows[2]["fits"], &rows[2]["reasons"][0]["name"]), (&false.into(), &"unreadable".into()));
}

#[test]
fn the_command_line_asks_for_one_source_of_images() {
    for args in [
        &["module", "update"][..],
        &["module", "update", "x.blob", "--images", "y"],
        &["module", "update", "x.blob", "--to", "1.5.28"],
        &["module", "plan", "--images", "y", "--to", "1.5"],
        &["module", "convert", "--to", "0x300", "x.blob", "--out", "y"],
    ] {
        let output = crate::common::tdxhost(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
