//! The commands that read and write image files.

use std::fs;

use tdx_image::{HeaderVersion, Image, linux73};

use crate::common::{Folder, bad, document, good};

#[test]
fn inspect_shows_what_was_asked_of_build() {
    let folder = Folder::new();
    let image = folder.build(
        "x.blob",
        &["--version", "1.5.33", "--profile", "1.5.20", "--svn", "1.13", "--cpu", "0xa06f0", "--pages", "40"],
    );
    let (value, ok) = document(&["module", "inspect", &image, "--json"]);
    assert!(ok);
    for (key, expected) in [
        ("version", "1.5.33"),
        ("version_source", "record"),
        ("profile", "1.5.20"),
        ("header", "0x200"),
        ("checksum", "good"),
        ("signer", "tdxhost test key"),
    ] {
        assert_eq!(value[key], expected, "{key}");
    }
    assert_eq!((&value["svn"]["major"], &value["svn"]["minor"]), (&1.into(), &13.into()));
    assert_eq!(value["module_pages"], 40);
    assert_eq!(value["bytes"], (40 + 2) * 4096);
    assert_eq!(value["cpus"][0]["code_name"], "Sierra Forest");
    assert_eq!(value["seamhash"].as_str().unwrap().len(), 96);
    assert!(value["signature"].is_null() && value["linux_7_3"].is_null() && value["debug"] == false);

    let text = good(&["module", "inspect", &image]);
    for part in
        ["1.5.33 (recorded in the image", "SVN         1.13", "Sierra Forest", "takes the file as it is"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_version_comes_from_the_record_and_a_contradicting_name_is_told() {
    let folder = Folder::new();
    folder.build("tdx_module_1.5.16.blob", &["--version", "1.5.28"]);
    let image = folder.text("tdx_module_1.5.16.blob");
    let (value, _) = document(&["module", "inspect", &image, "--json"]);
    assert_eq!((&value["version"], &value["file_name_says"]), (&"1.5.28".into(), &"1.5.16".into()));
    assert!(good(&["module", "inspect", &image]).contains("the file's name says 1.5.16"));
}

#[test]
fn build_is_repeatable_and_gives_the_header_that_is_asked_for() {
    let folder = Folder::new();
    folder.build("a.blob", &["--version", "2.0.14"]);
    folder.build("b.blob", &["--version", "2.0.14"]);
    assert_eq!(folder.read("a.blob"), folder.read("b.blob"));
    assert_eq!(linux73(&folder.read("a.blob")), Ok(()));
    folder.build("c.blob", &["--version", "2.0.14", "--header", "0x100"]);
    let bytes = folder.read("c.blob");
    let image = Image::parse(&bytes).unwrap();
    assert_eq!(image.header(), HeaderVersion::V0x100);
    assert_eq!((image.sigstruct().svn().major, image.sigstruct().svn().minor), (3, 7));
    assert!(linux73(&bytes).is_err());
}

#[test]
fn build_refuses_what_it_cannot_make_in_one_line() {
    let folder = Folder::new();
    let out = folder.text("x.blob");
    for (args, start) in [
        (&["--version", "1.5.28", "--profile", "1.5.82"][..], "no profile is named \"1.5.82\""),
        (&["--version", "9.0.01"], "no profile is of the line of 9.0.01"),
        (&["--version", "1.5.28", "--pages", "497"], "build-pages: "),
    ] {
        let (_, message) = bad(&[&["module", "build", "--out", &out], args].concat());
        assert!(message.starts_with(start), "{message}");
        assert!(!folder.path("x.blob").exists());
    }
}

#[test]
fn verify_gives_each_file_a_line_and_counts_the_refused_ones() {
    let folder = Folder::new();
    let right = folder.build("right.blob", &["--version", "1.5.28"]);
    let mut bytes = folder.read("right.blob");
    // A bit of the module, the checksum put right.
    bytes[0x2800] ^= 4;
    bytes[2..4].fill(0);
    folder.write("forged.blob", &bytes);
    folder.write("short.blob", b"abc");
    let (forged, short) = (folder.text("forged.blob"), folder.text("short.blob"));

    assert_eq!(
        good(&["module", "verify", &right]),
        format!("ok     {right}: 1.5.28, signed by tdxhost test key\n")
    );
    assert_eq!(good(&["module", "verify", &right, "--quiet"]), "");
    let (text, message) = bad(&["module", "verify", &right, &forged, &short, &folder.text("none.blob")]);
    assert_eq!(message, "3 of 4 images are refused");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("ok     "));
    assert!(lines[1].starts_with(&format!("FAILED {forged}: image-module-hash-wrong: ")), "{}", lines[1]);
    assert!(lines[2].starts_with(&format!("FAILED {short}: image-too-short: ")), "{}", lines[2]);
    assert!(lines[3].contains(": unreadable: No such file"), "{}", lines[3]);

    let (_, message) = bad(&["module", "verify", &short]);
    assert_eq!(
        message,
        format!(
            "{short}: image-too-short: the file has 3 bytes, but the header alone has 4096; take the whole \
             image file; a .sigstruct file is made an image by `module join`"
        )
    );
    // The other commands say the same.
    let (inspect, split) = (&["inspect", &short][..], &["split", &short, "--out-dir", "none"][..]);
    for command in [inspect, split, &["convert", &short, "--to", "0x200", "--out", "none"]] {
        assert_eq!(bad(&[&["module"], command].concat()).1, message);
    }
    let (_, message) = bad(&["module", "verify", &right, "--intel-only"]);
    assert!(message.starts_with(&format!("{right}: test-key: ")), "{message}");

    let (rows, ok) = document(&["module", "verify", "--json", &right, &short]);
    assert!(!ok);
    assert_eq!((&rows[0]["ok"], &rows[0]["version"]), (&true.into(), &"1.5.28".into()));
    assert_eq!((&rows[1]["ok"], &rows[1]["error"]["name"]), (&false.into(), &"image-too-short".into()));
}

#[test]
fn verify_looks_at_relocations_which_no_signature_makes_right() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28", "--relocation-outside"]);
    let (_, message) = bad(&["module", "verify", &image]);
    assert!(message.contains(": module-relocation-target-outside: "), "{message}");
}

#[test]
fn convert_goes_there_and_back() {
    let folder = Folder::new();
    let new = folder.build("new.blob", &["--version", "1.5.28"]);
    let old = folder.build("old.blob", &["--version", "1.5.28", "--header", "0x100"]);
    for (from, to, expected) in
        [(&new, "0x100", "old.blob"), (&old, "0x200", "new.blob"), (&old, "0x100", "old.blob")]
    {
        let out = folder.text("out.blob");
        good(&["module", "convert", "--to", to, from, "--out", &out, "--force"]);
        assert_eq!(folder.read("out.blob"), folder.read(expected), "{to}");
    }
}

#[test]
fn split_and_join_are_each_others_reverse() {
    let folder = Folder::new();
    let image = folder.build("tdx_module_1.5.28.blob", &["--version", "1.5.28"]);
    let parts = folder.text("parts");
    let listed = good(&["module", "split", &image, "--out-dir", &parts]);
    let (module, sigstruct) =
        (folder.text("parts/tdx_module_1.5.28.bin"), folder.text("parts/tdx_module_1.5.28.sigstruct"));
    assert_eq!(listed, format!("{module}\n{sigstruct}\n"));
    assert_eq!(folder.read("parts/tdx_module_1.5.28.sigstruct").len(), 2048);
    let out = folder.text("out.blob");
    good(&["module", "join", &module, &sigstruct, "--out", &out]);
    assert_eq!(folder.read("out.blob"), folder.read("tdx_module_1.5.28.blob"));
    // Neither file is written over, nor the other one written alone.
    fs::remove_file(&module).unwrap();
    let (_, message) = bad(&["module", "split", &image, "--out-dir", &parts]);
    assert_eq!(message, format!("{sigstruct} exists; --force writes over it"));
    assert!(!folder.path("parts/tdx_module_1.5.28.bin").exists());
    good(&["module", "split", &image, "--out-dir", &parts, "--force", "--quiet"]);
}

#[test]
fn join_refuses_parts_that_are_none_and_warns_of_parts_that_do_not_belong_together() {
    let folder = Folder::new();
    for (name, version) in [("a", "1.5.28"), ("b", "1.5.34")] {
        let image = folder.build(&format!("{name}.blob"), &["--version", version]);
        good(&["module", "split", &image, "--out-dir", &folder.text(""), "--quiet"]);
    }
    let out = folder.text("out.blob");
    let join = |module: &str, sigstruct: &str| {
        [folder.text(module), folder.text(sigstruct)].map(|path| path.clone())
    };
    let [module, sigstruct] = join("a.bin", "a.bin");
    let (_, message) = bad(&["module", "join", &module, &sigstruct, "--out", &out]);
    assert!(message.ends_with("a.bin: a SIGSTRUCT has 2048 bytes, this file 131072"), "{message}");
    let [module, sigstruct] = join("a.sigstruct", "a.sigstruct");
    let (_, message) = bad(&["module", "join", &module, &sigstruct, "--out", &out]);
    assert!(message.contains("image-module-length-misaligned"), "{message}");

    let [module, sigstruct] = join("a.bin", "b.sigstruct");
    let output = crate::common::tdxhost(&["module", "join", &module, &sigstruct, "--out", &out]);
    assert!(output.status.success());
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.starts_with("tdxhost: warning: ") && warning.contains("SEAMHASH differs"), "{warning}");
}

#[test]
fn nothing_is_written_over_unasked() {
    let folder = Folder::new();
    let image = folder.build("x.blob", &["--version", "1.5.28"]);
    let before = folder.read("x.blob");
    let (_, message) = bad(&["module", "build", "--version", "1.5.34", "--out", &image]);
    assert_eq!(message, format!("{image} exists; --force writes over it"));
    assert_eq!(folder.read("x.blob"), before);
    good(&["module", "convert", "--to", "0x100", &image, "--out", &image, "--force"]);
    assert_eq!(Image::parse(&folder.read("x.blob")).unwrap().header(), HeaderVersion::V0x100);
}
