//! Intel's own images, if there is a directory with them: each installs as the release that it is.
//! They are not part of the repository; `TDXHOST_INTEL_IMAGES` names the directory.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Once;

use tdx_abi::status::SeamldrStatus as S;
use tdx_image::Image;
use tdx_module::{LoaderConfig, LoaderGeneration, SeamNote, UnknownRelease, profile};

use crate::common::install::{Setup, info};
use crate::common::{Bench, Stage};

static SAY_ONCE: Once = Once::new();

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

/// The images with their version, which stands in the name of the file.
fn images() -> Vec<(String, Vec<u8>)> {
    let Some(directory) = std::env::var_os("TDXHOST_INTEL_IMAGES") else {
        SAY_ONCE.call_once(|| {
            // Not by `println!`, which the test harness swallows.
            let line = "left out: TDXHOST_INTEL_IMAGES names no directory with Intel's images";
            writeln!(std::io::stderr(), "{line}").expect("an open stderr");
        });
        return Vec::new();
    };
    let images = blobs(Path::new(&directory)).into_iter().filter_map(|path| {
        let name = path.file_stem()?.to_str()?;
        let version = name.strip_prefix("tdx_module_")?.to_owned();
        Some((version, std::fs::read(path).expect("readable")))
    });
    let images: Vec<_> = images.collect();
    assert!(!images.is_empty(), "{} has no image", Path::new(&directory).display());
    images
}

/// LOAD of an image on a machine whose CPU it names.
fn setup(file: &[u8]) -> Setup {
    let image = Image::parse(file).expect("a sound image");
    let sigstruct = image.sigstruct();
    let mut setup = Setup::image(Box::new(*sigstruct), image.module().to_vec());
    let generation =
        if sigstruct.svn().major == 3 { LoaderGeneration::V2_0 } else { LoaderGeneration::V1_5_02 };
    setup.loader = LoaderConfig { generation, trust_test_key: false, ..LoaderConfig::default() };
    let cpu = sigstruct.cpus().next().expect("a CPU");
    setup.facts.mcheck(|mcheck| mcheck.package_fms[..2].copy_from_slice(&[cpu, cpu]));
    setup
}

#[test]
fn each_image_of_intel_installs_as_its_release() {
    for (version, file) in images() {
        let (bench, last) = setup(&file).run();
        assert_eq!((S(last.rax), last.rdx), (S::SUCCESS, 0), "{version}");
        let module = bench.state();
        let release = profile::find(&version).expect("a profile");
        assert_eq!((module.profile, module.version), (release, release.version), "{version}");
        assert_eq!(info(&bench)[40..42], release.svn.word().to_le_bytes(), "{version}");
        assert_eq!(info(&bench)[56..104], release.seamhash, "{version}");
        assert!(bench.hw.notes().is_empty(), "{version}");
        bench.advance(Stage::Initialised);
    }
}

#[test]
fn an_image_of_intel_with_one_wrong_byte_is_refused() {
    for (version, file) in images() {
        let sound = setup(&file);
        let middle = sound.module.len() / 2;
        let refused = |change: fn(&mut Setup, usize)| {
            let mut setup = sound.clone();
            change(&mut setup, middle);
            let (_, last) = setup.run();
            (S(last.rax), last.rdx)
        };
        assert_eq!(refused(|setup, at| setup.module[at] ^= 1), (S::EBADHASH, 1), "{version}");
        assert_eq!(refused(|setup, _| setup.sigstruct.minor_svn ^= 1), (S::EBADSIG, 0), "{version}");
        assert_eq!(refused(|setup, _| setup.sigstruct.modulus[0] ^= 1), (S::EBADSIG, 0), "{version}");
        assert_eq!(refused(|setup, _| setup.sigstruct.seamhash[0] ^= 1), (S::EBADSIG, 0), "{version}");
    }
}

#[test]
fn an_image_of_intel_with_another_hash_is_of_an_unknown_release() {
    for (version, file) in images() {
        let mut setup = setup(&file);
        setup.loader.check_signatures = false;
        setup.sigstruct.seamhash[0] ^= 1;
        let (bench, last) = setup.run();
        assert_eq!((S(last.rax), last.rdx), (S::SUCCESS, 0), "{version}");
        let release = profile::find(&version).expect("a profile");
        let [SeamNote::NearestRelease { profile: nearest, .. }] = bench.hw.notes()[..] else {
            panic!("{version}: no note")
        };
        assert_eq!(nearest.svn, release.svn, "{version}");
        bench.advance(Stage::Initialised);
        setup.loader.unknown_release = UnknownRelease::Refuse;
        let (_, last) = setup.run();
        assert_eq!((S(last.rax), last.rdx), (S::EUNSUPPORTED, 0), "SEAMLDR.INSTALL-28: {version}");
    }
}

#[test]
fn an_update_goes_up_the_releases_of_a_line() {
    let images = images();
    for pair in images.windows(2) {
        let [(from, _), (to, file)] = pair else { continue };
        let (old, new) = (profile::find(from).expect("a profile"), profile::find(to).expect("a profile"));
        let mut setup = setup(file).scenario(tdx_abi::seamldr::SCENARIO_UPDATE);
        setup.running = Some(old.name);
        let (bench, last): (Bench, _) = setup.run();
        let expected = if old.svn.major == new.svn.major { S::SUCCESS } else { S::EUNSUPPORTED };
        assert_eq!(S(last.rax), expected, "{from} to {to}");
        let left = if expected == S::SUCCESS { new } else { old };
        assert_eq!(bench.state().profile, left, "{from} to {to}");
    }
}
