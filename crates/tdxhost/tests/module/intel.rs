//! Intel's published images, where somebody has them: `TDXHOST_INTEL_IMAGES=DIR` is a copy of
//! intel/confidential-computing.tdx.tdx-module.binaries, `TDXHOST_INTEL_JOIN=FILE` its `blob_join.sh` of
//! header 0x200.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tdx_image::linux73;
use tdx_module::profile;

use crate::common::{Folder, LINUX_7_3, Tree, document, good};

fn repository() -> Option<PathBuf> {
    let directory = std::env::var_os("TDXHOST_INTEL_IMAGES").map(PathBuf::from);
    if directory.is_none() {
        eprintln!("left out: TDXHOST_INTEL_IMAGES is not set");
    }
    directory
}

/// Images with their version, and module and SIGSTRUCT beside them.
fn releases(directory: &Path) -> Vec<(String, PathBuf, PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for line in ["1.5", "2.0"] {
        for entry in fs::read_dir(directory.join("joined_files").join(line)).unwrap() {
            let blob = entry.unwrap().path();
            let name = blob.file_stem().unwrap().to_str().unwrap().to_owned();
            let version = name.strip_prefix("tdx_module_").unwrap().to_owned();
            let parts = directory.join("separate_files").join(line).join(&version);
            let (module, sigstruct) =
                (parts.join(format!("{name}.bin")), parts.join(format!("{name}.sigstruct")));
            found.push((version, blob, module, sigstruct));
        }
    }
    assert!(!found.is_empty());
    found
}

/// What `blob_join.sh` of each header writes, stated once more.
fn joined(header: &str, module: &[u8], sigstruct: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    if header == "0x200" {
        file.extend([0x00, 0x02, 0, 0]);
        file.extend(b"TDX-BLOB");
        file.extend(1_u32.to_le_bytes());
        file.extend(u32::try_from(module.len().div_ceil(4096)).unwrap().to_le_bytes());
    } else {
        file.extend([0x00, 0x01, 0, 0]);
        file.extend(0x2000_u32.to_le_bytes());
        file.extend(b"TDX-BLOB");
        file.extend(u32::try_from(8192 + module.len()).unwrap().to_le_bytes());
    }
    file.resize(4096, 0);
    file.extend(sigstruct);
    file.resize(8192, 0);
    file.extend(module);
    let mut sum = 0_u32;
    for pair in file.chunks(2) {
        let high = pair.get(1).copied().unwrap_or(0);
        sum = (sum + u32::from(pair[0]) + (u32::from(high) << 8)) & 0xFFFF;
    }
    let checksum = (0x10000 - sum) & 0xFFFF;
    file[2] = u8::try_from(checksum & 0xFF).unwrap();
    file[3] = u8::try_from(checksum >> 8).unwrap();
    file
}

/// What the script itself writes, where it is given.
fn by_script(version: &str, module: &Path, sigstruct: &Path) -> Option<Vec<u8>> {
    let script = std::env::var_os("TDXHOST_INTEL_JOIN")?;
    let folder = Folder::new();
    let output = Command::new("bash")
        .arg(script)
        .arg(module)
        .arg(sigstruct)
        .current_dir(folder.0.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let line = &version[..3];
    Some(folder.read(&format!("joined_files/{line}/tdx_module_{version}.blob")))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn every_image_is_accepted_and_known_by_its_hash() {
    let Some(directory) = repository() else { return };
    for (version, blob, ..) in releases(&directory) {
        good(&["module", "verify", "--intel-only", "--quiet", text(&blob)]);
        let (value, _) = document(&["module", "inspect", "--json", text(&blob)]);
        assert_eq!((&value["version"], &value["signer"]), (&version.as_str().into(), &"Intel".into()));
        if profile::find(&version).is_some_and(|profile| !profile.assumed.contains(&"seamhash")) {
            assert_eq!(value["version_source"], "seamhash", "{version}");
        }
    }
}

#[test]
fn join_and_convert_write_what_intels_scripts_write() {
    let Some(directory) = repository() else { return };
    let folder = Folder::new();
    let out = folder.text("out.blob");
    for (version, blob, module, sigstruct) in releases(&directory) {
        let parts = (fs::read(&module).unwrap(), fs::read(&sigstruct).unwrap());
        for header in ["0x200", "0x100"] {
            let expected = joined(header, &parts.0, &parts.1);
            let args = ["--header", header, "--out", &out, "--force"];
            good(&[&["module", "join", text(&module), text(&sigstruct)], &args[..]].concat());
            assert!(folder.read("out.blob") == expected, "join {header} {version}");
            good(&["module", "convert", "--to", header, text(&blob), "--out", &out, "--force"]);
            assert!(folder.read("out.blob") == expected, "convert {header} {version}");
            assert_eq!(linux73(&expected).is_ok(), header == "0x200", "{version}");
            if header == "0x200"
                && let Some(written) = by_script(&version, &module, &sigstruct)
            {
                assert!(written == expected, "blob_join.sh {version}");
            }
        }
        good(&["module", "split", text(&blob), "--out-dir", &folder.text("parts"), "--force", "--quiet"]);
        let name = format!("parts/tdx_module_{version}");
        assert!(folder.read(&format!("{name}.bin")) == parts.0, "split {version}");
        assert!(folder.read(&format!("{name}.sigstruct")) == parts.1, "split {version}");
    }
}

#[test]
fn a_plan_over_the_repository_stays_in_the_line_of_the_running_module() {
    let Some(directory) = repository() else { return };
    let tree = Tree::new(LINUX_7_3);
    let args = ["module", "plan", "--images", text(&directory), "--sysfs", tree.sysfs(), "--json"];
    let (value, ok) = document(&args);
    assert!(ok, "{value}");
    let chosen = value["chosen"].as_str().unwrap();
    assert!(chosen.starts_with("1.5.") && chosen > "1.5.06", "{chosen}");
    let images = releases(&directory).len();
    let others = value["not_chosen"].as_array().unwrap();
    assert_eq!(others.len() + value["steps"].as_array().unwrap().len(), images);
    for other in others.iter().filter(|other| other["version"].as_str().unwrap().starts_with("2.")) {
        assert_eq!(other["reason"], "version-line-differs");
    }
}
