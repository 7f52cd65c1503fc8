//! Intel's own images, if `TDXHOST_INTEL_IMAGES` names a directory with them: machines boot from each
//! as the release that it is.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};

use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::StatusCode;
use tdx_machine::spec::CpuKind;
use tdx_machine::{LpIndex, PlatformSpec, PowerOn, presets};
use tdx_module::profile;

use crate::common::{call, enter_vmx, quiet};

/// Containers below a directory.
fn blobs(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(blobs(&path));
        } else if path.extension() == Some(OsStr::new("blob")) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn spec(kind: CpuKind, loader: &str) -> PlatformSpec {
    let mut spec = quiet(presets::find("tiny").expect("a preset").spec().expect("valid"));
    spec.cpu.kind = kind;
    loader.clone_into(&mut spec.seamldr.version);
    spec.seamldr.trust_test_key = false;
    spec
}

#[test]
fn a_machine_boots_from_each_image_of_intel_as_its_release() {
    let Some(directory) = std::env::var_os("TDXHOST_INTEL_IMAGES") else {
        // Not by `println!`, which the test harness swallows.
        let line = "left out: TDXHOST_INTEL_IMAGES names no directory with Intel's images";
        writeln!(std::io::stderr(), "{line}").expect("an open stderr");
        return;
    };
    let files = blobs(Path::new(&directory));
    assert!(!files.is_empty(), "{} has no image", Path::new(&directory).display());
    for path in files {
        let Some(version) =
            path.file_stem().and_then(OsStr::to_str).and_then(|name| name.strip_prefix("tdx_module_"))
        else {
            continue;
        };
        let (kind, loader) = if version.starts_with("2.") {
            (CpuKind::GraniteRapids, "2.0.00")
        } else {
            (CpuKind::SapphireRapids, "1.5.02")
        };
        let power = PowerOn::new(spec(kind, loader)).module_image(std::fs::read(&path).expect("readable"));
        let machine = power.switch_on().unwrap_or_else(|error| panic!("{version}: {error}"));
        enter_vmx(&machine);
        let module = machine.seam().module.expect("a module");
        let release = profile::find(version).expect("a profile");
        assert_eq!((module.profile, module.version), (release, release.version), "{version}");
        assert_eq!(machine.log(), [], "{version}");
        let status = call(&machine, LpIndex(0), SeamcallLeaf::SYS_INIT);
        assert_eq!(status, StatusCode::SUCCESS.plain(), "{version}");
    }
}
