//! The firmware-upload files: on a mount as a shell uses them, and as the API tells of them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use serde_json::{Value, json};
use tdx_abi::seamldr::Version;
use tdx_host::{HostError, TdmrRules};
use tdx_image::build::{ModuleSpec, image, wrap};
use tdx_image::{HeaderVersion, Image, Svn};
use tdxhost::api::{HostSource as _, HostState};
use tdxhost::fuse::{Mounted, mount};
use tdxhost::serve::ServedHost as _;
use tdxhost::sysfs::{Errno, HostView, Layout, Node, SoftwareHost, sysfs};
use tdxhost::update::build::spec_for;
use tempfile::TempDir;

use crate::api::Served;
use crate::fake::{FIXED, FakeHost, UPDATABLE};
use crate::mount::{can_mount, errno, mount_point};

const LAYOUTS: [Layout; 3] = [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03];

/// Most bytes of an image.
const LIMIT: u64 = 64 << 20;

/// A host with its files mounted, and an image of 600 KB that is none.
struct Fixture<H> {
    host: Arc<H>,
    files: PathBuf,
    image: PathBuf,
    _mounted: Mounted,
    _point: TempDir,
    _directory: TempDir,
}

impl<H: HostView + 'static> Fixture<H> {
    fn new(host: Arc<H>, layout: Layout) -> Option<Self> {
        can_mount().then(|| {
            let view: Arc<dyn HostView> = host.clone();
            let point = mount_point();
            let mounted = mount(sysfs(&view, layout), point.path()).unwrap();
            let files = mounted.point().join(layout.upload_path());
            let directory = tempfile::tempdir().unwrap();
            let image = directory.path().join("image");
            fs::write(&image, pattern()).unwrap();
            Self { host, files, image, _mounted: mounted, _point: point, _directory: directory }
        })
    }

    /// Runs a script in the directory of the files; `$0` is the image.
    fn shell(&self, script: &str) -> Output {
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(&self.image).current_dir(&self.files).env("LC_ALL", "C");
        command.output().unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }

    fn text(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.file(name))
    }

    fn store(&self, name: &str, text: &str) -> io::Result<()> {
        fs::write(self.file(name), text)
    }
}

fn faked(layout: Layout) -> Option<Fixture<FakeHost>> {
    Fixture::new(FakeHost::with_device(&UPDATABLE), layout)
}

/// 600,001 bytes in which no two pieces are alike.
fn pattern() -> Vec<u8> {
    (0..600_001u32)
        .map(|place| u8::try_from(place % 251).unwrap() ^ u8::try_from(place >> 13).unwrap())
        .collect()
}

/// The protocol as people type it.
const BY_HAND: &str = r#"echo 1 > loading; cat "$0" > data; echo 0 > loading
until grep -q idle status; do :; done; cat error"#;

fn refused(result: io::Result<()>) -> Errno {
    errno(&result.unwrap_err())
}

#[test]
fn the_plain_shell_protocol_uploads_the_image_in_every_layout() {
    for layout in LAYOUTS {
        let Some(fixture) = faked(layout) else { return };
        let output = fixture.shell(BY_HAND);
        assert!(output.status.success(), "{output:?}");
        assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
        assert_eq!(*fixture.host.updates.images.lock(), [pattern()], "{layout:?}");
        assert_eq!(fixture.text("remaining_size").unwrap(), "0\n");
    }
}

#[test]
fn the_image_may_come_in_by_any_tool() {
    let Some(fixture) = faked(Layout::Linux7_3) else { return };
    for write in [
        r#"dd if="$0" of=data bs=4k status=none"#,
        r#"dd if="$0" of=data bs=1M status=none"#,
        r#"dd if="$0" of=data bs=100000 conv=notrunc status=none"#,
        r#"cp "$0" data"#,
        r#"cat "$0" >> data"#,
        r#"head -c 5 "$0" > data; dd if="$0" of=data bs=1 count=0 seek=5 conv=notrunc status=none
           dd if="$0" of=data bs=64k skip=5 seek=5 iflag=skip_bytes oflag=seek_bytes conv=notrunc status=none"#,
    ] {
        let output =
            fixture.shell(&format!("set -e; echo 1 > loading; {write}; cmp \"$0\" data; echo 0 > loading"));
        assert!(output.status.success(), "{write}: {output:?}");
        fixture.host.wait();
        assert_eq!(fixture.host.updates.images.lock().pop(), Some(pattern()), "{write}");
    }
}

#[test]
fn files_have_the_modes_of_linux_and_the_links_lead_home() {
    for layout in LAYOUTS {
        let Some(fixture) = faked(layout) else { return };
        for (name, mode) in [
            ("cancel", 0o200),
            ("data", 0o644),
            ("error", 0o444),
            ("loading", 0o644),
            ("remaining_size", 0o444),
            ("status", 0o444),
        ] {
            let metadata = fs::metadata(fixture.file(name)).unwrap();
            assert_eq!(metadata.mode() & 0o7777, mode, "{name}");
            assert_eq!(metadata.len(), if name == "data" { 0 } else { 4096 }, "{name}");
        }
        let class = fixture.files.parent().unwrap();
        let root = class.parent().unwrap().parent().unwrap();
        assert!(fs::symlink_metadata(&fixture.files).unwrap().is_symlink());
        let canonical = |path: PathBuf| fs::canonicalize(path).unwrap();
        assert_eq!(canonical(fixture.file("subsystem")), canonical(class.to_owned()));
        let device = canonical(fixture.file("device"));
        assert!(root.join(layout.device_path()).starts_with(&device), "{}", device.display());
        assert_eq!(canonical(fixture.files.clone()).parent().unwrap().parent().unwrap(), device);
    }
}

#[test]
fn a_running_update_shows_its_state_and_takes_nothing_else() {
    let Some(fixture) = faked(Layout::Linux7_3) else { return };
    let go = fixture.host.updates.hold();
    assert!(fixture.shell(r#"echo 1 > loading; cat "$0" > data; echo 0 > loading"#).status.success());
    while fixture.text("status").unwrap() != "transferring\n" {}
    assert_eq!(fixture.text("remaining_size").unwrap(), "600001\n");
    assert_eq!(errno(&fixture.text("error").unwrap_err()), Errno::EBUSY);
    let cat = fixture.shell("cat error");
    assert_eq!(String::from_utf8_lossy(&cat.stderr), "cat: error: Device or resource busy\n");

    // A second upload: its start is passed over, its bytes are refused.
    let second = fixture.shell("echo 1 > loading && cat loading && echo x > data");
    assert_eq!(second.stdout, b"0\n");
    assert!(String::from_utf8_lossy(&second.stderr).contains("No such device"), "{second:?}");
    assert!(!second.status.success());
    assert_eq!(errno(&fixture.text("data").unwrap_err()), Errno::ENODEV);
    // Linux 7.3 lets it be cancelled, without effect.
    fixture.store("cancel", "1\n").unwrap();
    assert_eq!(fixture.text("status").unwrap(), "transferring\n");

    drop(go);
    fixture.host.wait();
    assert_eq!(fixture.text("status").unwrap(), "idle\n");
    assert_eq!(fixture.text("error").unwrap(), "");
    assert_eq!(fixture.host.updates.images.lock().len(), 1);
}

#[test]
fn refusals_reach_whoever_writes() {
    let Some(fixture) = faked(Layout::Linux7_3) else { return };
    for (script, sentence) in [
        ("echo 1 > cancel", "No such device"),
        ("echo 0 > cancel", "Invalid argument"),
        ("echo idle > status", "Permission denied"),
        ("echo > error", "Permission denied"),
        ("cat cancel", "Permission denied"),
    ] {
        let output = fixture.shell(script);
        assert!(!output.status.success(), "{script}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(sentence), "{script}: {said}");
    }
}

#[test]
fn more_than_64_mib_are_refused_and_the_error_says_so() {
    let Some(fixture) = faked(Layout::Linux7_3) else { return };
    fixture.store("loading", "1").unwrap();
    let data = OpenOptions::new().write(true).open(fixture.file("data")).unwrap();
    data.write_all_at(b"end", LIMIT - 3).unwrap();
    assert_eq!(fixture.text("loading").unwrap(), "1\n");
    assert_eq!(refused(data.write_all_at(b"x", LIMIT)), Errno::EFBIG);
    assert_eq!(fixture.text("loading").unwrap(), "0\n");
    assert_eq!(fixture.text("error").unwrap(), "receiving:invalid-file-size\n");
    fixture.store("loading", "0").unwrap();
    fixture.host.wait();
    assert!(fixture.host.updates.images.lock().is_empty());
}

#[test]
fn an_abandoned_load_and_an_empty_one_update_nothing() {
    let Some(fixture) = faked(Layout::Linux7_3) else { return };
    for script in [
        r#"echo 1 > loading; cat "$0" > data; echo -1 > loading; echo 0 > loading"#,
        r#"echo 1 > loading; cat "$0" > data; echo 1 > loading; echo 0 > loading"#,
        "echo 1 > loading; echo 0 > loading",
        "echo 1 > loading; : > data; echo 0 > loading",
        r#"cat "$0" > data; echo 0 > loading"#,
    ] {
        let output = fixture.shell(&format!("set -e; {script}; cat status loading error data"));
        assert!(output.status.success(), "{script}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "idle\n0\n", "{script}");
        fixture.host.wait();
        assert!(fixture.host.updates.images.lock().is_empty(), "{script}");
    }
}

#[test]
fn the_files_go_with_the_device_and_those_held_are_dead() {
    let Some(fixture) = faked(Layout::Linux7_3) else { return };
    fixture.store("loading", "1").unwrap();
    let mut status = File::open(fixture.file("status")).unwrap();
    let mut data = OpenOptions::new().read(true).write(true).open(fixture.file("data")).unwrap();
    data.write_all(b"image").unwrap();

    for again in [false, true] {
        if again {
            fixture.host.register(&UPDATABLE);
            assert!(fs::metadata(fixture.file("status")).is_ok());
        } else {
            fixture.host.remove_device();
            assert!(fs::symlink_metadata(&fixture.files).is_err());
        }
        let mut text = String::new();
        assert_eq!(errno(&status.read_to_string(&mut text).unwrap_err()), Errno::ENODEV);
        assert_eq!(refused(data.write_all(b"image")), Errno::ENODEV);
        assert_eq!(errno(&data.read_at(&mut [0; 5], 0).unwrap_err()), Errno::ENODEV);
        assert_eq!(data.metadata().unwrap().len(), 0);
    }
}

#[test]
fn a_module_that_cannot_be_replaced_has_a_class_without_uploads() {
    for layout in LAYOUTS {
        let view: Arc<dyn HostView> = FakeHost::with_device(&FIXED);
        let tree = sysfs(&view, layout);
        assert!(matches!(tree.resolve("class/firmware"), Some(Node::Directory(_))));
        let below = |path: &str| tree.walk().iter().any(|(found, _)| found.contains(path));
        assert!(!below("class/firmware/") && !below("/firmware/"), "{layout:?}");
    }
}

/// Uploads an image to a tree without a mount.
fn upload(host: &Arc<FakeHost>, layout: Layout, image: &[u8]) {
    let view: Arc<dyn HostView> = host.clone();
    let tree = sysfs(&view, layout);
    let found = tree.walk().into_iter().filter(|(path, _)| path.contains("/firmware/"));
    let (mut loading, mut data) = (None, None);
    for (path, node) in found {
        match node {
            Node::File(attribute) if path.ends_with("/loading") => loading = Some(attribute),
            Node::Binary(attribute) if path.ends_with("/data") => data = Some(attribute),
            _ => {}
        }
    }
    let (loading, data) = (loading.unwrap(), data.unwrap());
    loading.write(b"1\n").unwrap();
    data.write_at(0, image).unwrap();
    loading.write(b"0\n").unwrap();
}

fn update_of(served: &Served) -> Value {
    let upload = served.get("/v1/device")["upload"].clone();
    let update = served.get("/v1/host")["update"].clone();
    assert_eq!(upload["last"], update);
    upload
}

#[test]
fn the_api_follows_an_update_and_keeps_its_result() {
    let host = FakeHost::with_device(&UPDATABLE);
    let served = Served::new(host.clone());
    let before =
        json!({"loading": false, "status": "idle", "error": null, "remaining_size": 0, "last": null});
    assert_eq!(update_of(&served), before);
    assert!(!served.status_text().contains("update "));

    let go = host.updates.hold();
    upload(&host, Layout::Linux7_3, b"image");
    while served.get("/v1/host")["update"]["phase"] != "install" {}
    let running = update_of(&served);
    assert_eq!((&running["status"], &running["error"]), (&json!("transferring"), &Value::Null));
    assert_eq!((&running["last"]["state"], &running["last"]["image_bytes"]), (&json!("running"), &json!(5)));
    assert!(served.status_text().contains("\nupdate    transferring in phase install\n"));
    served.every_answer_fits();

    drop(go);
    host.wait();
    let done = update_of(&served);
    assert_eq!(
        done["last"],
        json!({
            "state": "succeeded", "image_bytes": 5, "phase": "install", "cpu": null, "from": "1.5.06",
            "to": "1.5.16", "remaining_updates": 62, "error": null, "reason": null,
        })
    );
    assert!(served.status_text().contains("\nupdate    1.5.06 to 1.5.16, 62 updates left\n"));
    served.every_answer_fits();
}

#[test]
fn the_api_tells_what_linux_throws_away() {
    let host = FakeHost::with_device(&UPDATABLE);
    let served = Served::new(host.clone());
    let no_image = HostError::from(Image::parse(b"no image").unwrap_err());
    for (layout, end, error, name, phase, cpu) in [
        (
            Layout::Linux7_3,
            HostError::UpdateLogFull,
            "firmware-invalid",
            "update-log-full",
            json!(null),
            json!(null),
        ),
        (
            Layout::Posting2025_09,
            HostError::UpdateLogFull,
            "flash-wearout",
            "update-log-full",
            json!(null),
            json!(null),
        ),
        (
            Layout::Posting2025_03,
            HostError::UpdateLogFull,
            "firmware-invalid",
            "update-log-full",
            json!(null),
            json!(null),
        ),
        (
            Layout::Posting2025_09,
            HostError::ModuleDown,
            "device-busy",
            "module-down",
            json!("install"),
            json!(3),
        ),
        (Layout::Linux7_3, no_image, "firmware-invalid", "image-refused", json!("install"), json!(3)),
    ] {
        host.updates.ends.lock().push(end);
        upload(&host, layout, b"image");
        host.wait();
        let failed = update_of(&served);
        assert_eq!(failed["error"], format!("transferring:{error}"));
        assert_eq!(failed["remaining_size"], 5);
        let last = &failed["last"];
        assert_eq!((&last["state"], &last["error"]["name"]), (&json!("failed"), &json!(name)));
        assert_eq!((&last["phase"], &last["cpu"]), (&phase, &cpu), "{name}");
        assert_eq!(last["reason"].as_str().is_some(), name == "image-refused");
        assert_eq!(last["error"]["message"], end.to_string());
        let place = if cpu.is_null() { "" } else { " in phase install on CPU 3" };
        let line = format!("\nupdate    failed{place}: {name}: {end}\n          {}\n", end.advice());
        assert!(served.status_text().contains(&line), "{}", served.status_text());
        served.every_answer_fits();
    }
}

/// The software machine `tiny` with its host, up.
fn tiny() -> Arc<SoftwareHost> {
    let host = SoftwareHost::power_on("tiny", 0, TdmrRules::default()).unwrap();
    host.bring_up().unwrap();
    Arc::new(host)
}

/// A module with a newer version and an older SVN.
fn older(version: Version) -> ModuleSpec {
    let spec = spec_for(version, None).unwrap();
    ModuleSpec { svn: Svn { minor: 0, ..spec.svn }, ..spec }
}

/// An image whose signature does not fit.
fn forged(version: Version) -> Vec<u8> {
    let whole = module(version, HeaderVersion::V0x200);
    let parsed = Image::parse(&whole).unwrap();
    let mut sigstruct = *parsed.sigstruct();
    sigstruct.signature[17] ^= 1;
    wrap(HeaderVersion::V0x200, &sigstruct, parsed.module()).unwrap()
}

/// An image in which P-SEAMLDR finds the fault when the old module is gone.
fn destructive(version: Version) -> Vec<u8> {
    let spec = ModuleSpec { relocation_outside: true, ..spec_for(version, None).unwrap() };
    image(&spec, HeaderVersion::V0x200).unwrap()
}

fn module(version: Version, header: HeaderVersion) -> Vec<u8> {
    image(&spec_for(version, None).unwrap(), header).unwrap()
}

#[test]
fn a_module_is_replaced_from_the_shell_and_a_refused_one_is_not() {
    let newer = Version::new(2, 1, 40);
    for layout in LAYOUTS {
        let Some(fixture) = Fixture::new(tiny(), layout) else { return };
        let taken = layout.upload_rules().header;
        let other =
            if taken == HeaderVersion::V0x200 { HeaderVersion::V0x100 } else { HeaderVersion::V0x200 };
        let version = || fixture.host.read_attribute("version").unwrap();
        let left = || fixture.host.read_attribute("num_remaining_updates").unwrap();
        let name = || fixture.host.host().update.unwrap().error.map(|error| error.name);
        assert_eq!((version().as_str(), left().as_str()), ("2.1.00", "15"));

        for (bytes, reason) in [
            (module(newer, other), "upload-header-not-taken"),
            (image(&older(newer), taken).unwrap(), "image-svn-older"),
            (pattern(), "image-refused"),
        ] {
            fs::write(&fixture.image, bytes).unwrap();
            let output = fixture.shell(BY_HAND);
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "transferring:firmware-invalid\n",
                "{reason}"
            );
            assert_eq!(name().as_deref(), Some(reason));
            assert_eq!((version().as_str(), left().as_str()), ("2.1.00", "15"));
        }

        fs::write(&fixture.image, module(newer, taken)).unwrap();
        let output = fixture.shell(BY_HAND);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{:?}", fixture.host.host().update);
        assert_eq!((version().as_str(), left().as_str()), ("2.1.40", "14"));
        assert_eq!(name(), None);
    }
}

#[test]
fn a_host_that_lost_its_module_goes_on_serving() {
    let newer = Version::new(2, 1, 40);
    for (bad, name, state, afterwards) in [
        (forged(newer), "install-failed-recoverable", HostState::ModuleDown, None),
        (destructive(newer), "install-failed", HostState::ModuleGone, Some("module-gone")),
    ] {
        let Some(fixture) = Fixture::new(tiny(), Layout::Linux7_3) else { return };
        fs::write(&fixture.image, bad).unwrap();
        let output = fixture.shell(BY_HAND);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "transferring:firmware-invalid\n");
        let facts = fixture.host.host();
        let update = facts.update.unwrap();
        let error = update.error.unwrap();
        assert_eq!((error.name.as_str(), facts.state), (name, state));
        assert_eq!(update.phase.as_deref(), Some("install"), "{name}");
        assert!(update.cpu.is_some() && error.status.is_some(), "{name}");
        assert!(fixture.host.read_attribute("version").is_err());

        // Only another update is possible, if that.
        fs::write(&fixture.image, module(newer, HeaderVersion::V0x200)).unwrap();
        let output = fixture.shell(BY_HAND);
        assert_eq!(output.stdout.is_empty(), afterwards.is_none());
        let error = fixture.host.host().update.unwrap().error;
        assert_eq!(error.map(|error| error.name).as_deref(), afterwards);
        let version = fixture.host.read_attribute("version").ok();
        assert_eq!(version.as_deref(), afterwards.is_none().then_some("2.1.40"));
    }
}

#[test]
fn layouts_name_a_path_that_exists() {
    for layout in LAYOUTS {
        let view: Arc<dyn HostView> = FakeHost::with_device(&UPDATABLE);
        let tree = sysfs(&view, layout);
        let Some(Node::Symlink(target)) = tree.resolve(layout.upload_path()) else {
            panic!("{} is no link", layout.upload_path());
        };
        let path = Path::new(&*target).strip_prefix("../..").unwrap();
        assert!(matches!(tree.resolve(path.to_str().unwrap()), Some(Node::Directory(_))), "{target}");
    }
}
