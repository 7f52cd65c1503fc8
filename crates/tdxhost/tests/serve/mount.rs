//! The tree mounted over FUSE. These tests mount, so they need root and /dev/fuse.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use parking_lot::Mutex;
use tdxhost::fuse::{MountError, Mounted, Unmounted, mount};
use tdxhost::sysfs::{Attribute, Directory, Entry, Errno, HostView, Layout, Tree, sysfs};
use tempfile::TempDir;

use crate::fake::{FakeHost, UPDATABLE};

/// User and group "nobody".
const NOBODY: u32 = 65534;

/// Whether this process can mount; says so in one line if not. With `TDXHOST_REQUIRE_FUSE` set, not
/// being able to is a failure: a test run that promises these tests does not leave them out unseen.
pub(crate) fn can_mount() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0);
    let able = root && OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    assert!(able || std::env::var_os("TDXHOST_REQUIRE_FUSE").is_none(), "mounting needs root and /dev/fuse");
    if !able {
        eprintln!("left out: mounting needs root and /dev/fuse");
    }
    able
}

/// Whether the mount table has anything at `point`.
pub(crate) fn is_mounted(point: &Path) -> bool {
    let point = point.to_str().expect("temporary directories have plain names");
    fs::read_to_string("/proc/self/mountinfo")
        .expect("the mount table can be read")
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(point))
}

/// A directory that other users may enter.
pub(crate) fn mount_point() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    directory
}

struct Fixture {
    host: Arc<FakeHost>,
    mounted: Mounted,
    device: PathBuf,
    _directory: TempDir,
}

fn mounted() -> Option<Fixture> {
    can_mount().then(|| {
        let host = FakeHost::with_device(&UPDATABLE);
        let view: Arc<dyn HostView> = host.clone();
        let directory = mount_point();
        let mounted = mount(sysfs(&view, Layout::Linux7_3), directory.path()).unwrap();
        let device = mounted.point().join("devices/faux/tdx_host");
        Fixture { host, mounted, device, _directory: directory }
    })
}

pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

#[test]
fn files_have_the_text_mode_size_and_owner_of_sysfs() {
    let Some(fixture) = mounted() else { return };
    for (name, mode, text) in [
        ("version", 0o444, "1.5.06\n"),
        ("seamldr_version", 0o400, "1.5.02\n"),
        ("num_remaining_updates", 0o400, "63\n"),
    ] {
        let path = fixture.device.join(name);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode, "{name}");
        assert_eq!(metadata.len(), 4096, "{name}");
        assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{name}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    let output = Command::new("cat").arg(fixture.device.join("version")).output().unwrap();
    assert_eq!(output.stdout, b"1.5.06\n");
    assert!(output.status.success());
}

#[test]
fn directories_list_what_exists_and_links_lead_to_the_device() {
    let Some(fixture) = mounted() else { return };
    let names = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(fixture.mounted.point().join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(""), ["bus", "class", "devices"]);
    assert_eq!(names("devices"), ["faux", "system"]);
    assert_eq!(
        names("devices/faux/tdx_host"),
        ["firmware", "num_remaining_updates", "seamldr_version", "version"]
    );
    let link = fixture.mounted.point().join("bus/faux/devices/tdx_host");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(link.join("version")).unwrap(), "1.5.06\n");
    let devices = fs::metadata(fixture.mounted.point().join("devices")).unwrap();
    assert_eq!((devices.mode() & 0o7777, devices.nlink()), (0o755, 4));
}

#[test]
fn other_users_read_what_the_mode_lets_them_and_nothing_else() {
    let Some(fixture) = mounted() else { return };
    let cat = |name: &str| {
        Command::new("cat")
            .arg(fixture.device.join(name))
            .uid(NOBODY)
            .gid(NOBODY)
            .env("LC_ALL", "C")
            .output()
            .unwrap()
    };
    assert_eq!(cat("version").stdout, b"1.5.06\n");
    let before = fixture.host.reads();
    let refused = cat("num_remaining_updates");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
    assert_eq!(fixture.host.reads(), before);
}

#[test]
fn even_root_changes_nothing() {
    let Some(fixture) = mounted() else { return };
    let version = fixture.device.join("version");
    let refusals = [
        ("write", OpenOptions::new().write(true).open(&version).map(drop), Errno::EACCES),
        ("echo >", fs::write(&version, "x"), Errno::EACCES),
        ("truncate", truncate(&version), Errno::EACCES),
        ("chmod", fs::set_permissions(&version, fs::Permissions::from_mode(0o666)), Errno::EPERM),
        ("create", File::create(fixture.device.join("new")).map(drop), Errno::EACCES),
        ("mkdir", fs::create_dir(fixture.device.join("new")), Errno::EPERM),
        ("unlink", fs::remove_file(&version), Errno::EPERM),
        ("rmdir", fs::remove_dir(&fixture.device), Errno::EPERM),
        ("rename", fs::rename(&version, fixture.device.join("new")), Errno::EPERM),
        ("link", fs::hard_link(&version, fixture.device.join("new")), Errno::EPERM),
        ("symlink", std::os::unix::fs::symlink("x", fixture.device.join("new")), Errno::EPERM),
    ];
    for (what, result, expected) in refusals {
        assert_eq!(result.map_err(|error| errno(&error)), Err(expected), "{what}");
    }
    assert_eq!(fs::read_to_string(&version).unwrap(), "1.5.06\n");
}

fn truncate(path: &Path) -> io::Result<()> {
    nix::unistd::truncate(path, 0).map_err(io::Error::from)
}

#[test]
fn the_device_is_asked_once_per_reading_from_the_start() {
    let Some(fixture) = mounted() else { return };
    let mut file = File::open(fixture.device.join("num_remaining_updates")).unwrap();
    let before = fixture.host.reads();
    let mut byte = [0; 1];
    let mut text = Vec::new();
    while file.read(&mut byte).unwrap() > 0 {
        text.extend_from_slice(&byte);
    }
    assert_eq!(text, b"63\n");
    assert_eq!(fixture.host.reads(), before + 1);
    file.rewind().unwrap();
    assert_eq!(file.read(&mut byte).unwrap(), 1);
    assert_eq!(fixture.host.reads(), before + 2);
}

#[test]
fn removal_of_the_device_is_enoent_for_new_and_enodev_for_open_files() {
    let Some(fixture) = mounted() else { return };
    let version = fixture.device.join("version");
    let read = |file: &mut File| {
        let mut text = [0; 64];
        file.rewind()?;
        file.read(&mut text)
    };
    let mut held = File::open(&version).unwrap();
    assert_eq!(read(&mut held).unwrap(), 7);

    fixture.host.remove_device();
    assert_eq!(errno(&read(&mut held).unwrap_err()), Errno::ENODEV);
    assert_eq!(held.metadata().unwrap().len(), 4096);
    assert_eq!(errno(&File::open(&version).unwrap_err()), Errno::ENOENT);
    assert_eq!(errno(&fs::metadata(&fixture.device).unwrap_err()), Errno::ENOENT);

    fixture.host.register(&UPDATABLE);
    assert_eq!(errno(&read(&mut held).unwrap_err()), Errno::ENODEV);
    assert_eq!(fs::read_to_string(&version).unwrap(), "1.5.06\n");
}

#[test]
fn errors_of_the_device_reach_the_reader() {
    let Some(fixture) = mounted() else { return };
    for expected in [Errno::EIO, Errno::ENXIO, Errno::EPERM] {
        fixture.host.register(&[("version", 0o444, Err(expected))]);
        let error = fs::read(fixture.device.join("version")).unwrap_err();
        assert_eq!(errno(&error), expected);
    }
}

/// A file that takes `1` and `0` and refuses the rest.
#[derive(Clone, Default)]
struct Switch(Arc<Mutex<Vec<String>>>);

impl Attribute for Switch {
    fn mode(&self) -> u16 {
        0o200
    }

    fn read(&self) -> Result<String, Errno> {
        Err(Errno::EIO)
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        let text = std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
        if !matches!(text.trim_end(), "0" | "1") {
            return Err(Errno::EINVAL);
        }
        self.0.lock().push(text.to_owned());
        Ok(())
    }
}

impl Directory for Switch {
    fn entries(&self) -> Vec<Entry> {
        vec![Entry::file("switch", self.clone())]
    }
}

#[test]
fn a_writable_file_takes_what_its_store_takes_and_returns_its_errors() {
    if !can_mount() {
        return;
    }
    let switch = Switch::default();
    let directory = mount_point();
    let _mounted = mount(Tree::new(switch.clone()), directory.path()).unwrap();
    let path = directory.path().join("switch");

    let shell = |script: &str| Command::new("sh").args(["-c", script]).arg(&path).status().unwrap();
    assert!(shell("echo 1 > \"$0\"").success());
    assert!(shell("echo 0 >> \"$0\"").success());
    assert_eq!(*switch.0.lock(), ["1\n", "0\n"]);

    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    assert_eq!(errno(&file.write_all(b"2\n").unwrap_err()), Errno::EINVAL);
    assert_eq!(switch.0.lock().len(), 2);
    assert_eq!(errno(&File::open(&path).unwrap_err()), Errno::EACCES);
}

#[test]
fn unmounting_leaves_nothing_behind() {
    let Some(fixture) = mounted() else { return };
    let point = fixture.mounted.point().to_owned();
    assert!(is_mounted(&point));
    assert_eq!(fixture.mounted.unmount().unwrap(), Unmounted::Clean);
    assert!(!is_mounted(&point));
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
}

#[test]
fn an_open_file_turns_the_unmount_into_a_detachment() {
    let Some(fixture) = mounted() else { return };
    let point = fixture.mounted.point().to_owned();
    let held = File::open(fixture.device.join("version")).unwrap();
    assert_eq!(fixture.mounted.unmount().unwrap(), Unmounted::Detached);
    assert!(!is_mounted(&point));

    let view: Arc<dyn HostView> = fixture.host.clone();
    let again = mount(sysfs(&view, Layout::Linux7_3), &point).unwrap();
    assert_eq!(fs::read_to_string(fixture.device.join("version")).unwrap(), "1.5.06\n");
    drop(held);
    assert_eq!(again.unmount().unwrap(), Unmounted::Clean);
}

#[test]
fn dropping_a_mount_unmounts_it() {
    let Some(fixture) = mounted() else { return };
    let point = fixture.mounted.point().to_owned();
    drop(fixture.mounted);
    assert!(!is_mounted(&point));
}

#[test]
fn a_mount_that_somebody_else_took_away_is_not_taken_twice() {
    let Some(fixture) = mounted() else { return };
    let point = fixture.mounted.point().to_owned();
    assert!(Command::new("umount").arg(&point).status().unwrap().success());
    let view: Arc<dyn HostView> = fixture.host.clone();
    let other = mount(sysfs(&view, Layout::Linux7_3), &point).unwrap();
    assert_eq!(fixture.mounted.unmount().unwrap(), Unmounted::Already);
    assert!(is_mounted(&point));
    assert_eq!(other.unmount().unwrap(), Unmounted::Clean);
}

#[test]
fn a_point_where_another_tree_is_served_is_refused() {
    let Some(fixture) = mounted() else { return };
    let view: Arc<dyn HostView> = fixture.host.clone();
    let second = mount(sysfs(&view, Layout::Linux7_3), fixture.mounted.point());
    assert!(matches!(second, Err(MountError::Occupied { .. })));
    assert_eq!(fs::read_to_string(fixture.device.join("version")).unwrap(), "1.5.06\n");
}

#[test]
fn a_point_that_is_no_directory_is_named() {
    let directory = mount_point();
    let file = directory.path().join("file");
    File::create(&file).unwrap();
    for (point, reason) in
        [(file.as_path(), "not a directory"), (&directory.path().join("none"), "No such file")]
    {
        let host: Arc<dyn HostView> = FakeHost::with_device(&UPDATABLE);
        let Err(error) = mount(sysfs(&host, Layout::Linux7_3), point) else {
            panic!("mounted on {}", point.display());
        };
        let sentence = error.to_string();
        assert!(sentence.starts_with("cannot mount on ") && sentence.contains(reason), "{sentence}");
    }
}
