//! PCI functions, the TSM and streams in the tree of each layout, and mounted.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use tdx_host::tsm::{Content, Directory, TSM_ATTRIBUTES, TsmError};
use tdxhost::fuse::mount;
use tdxhost::sysfs::{Errno, HostView, Layout, Node, Tree, sysfs};

use crate::fake::FakeHost;
use crate::fake_pci::id;
use crate::mount::{can_mount, errno, mount_point};

const LAYOUTS: [Layout; 3] = [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03];
const DSM: &str = "devices/pci0000:17/0000:17:01.0/0000:18:00.0";
const WITHOUT_TEE: &str = "devices/pci0000:17/0000:17:02.0/0000:19:00.0";
const PLAIN: &str = "devices/pci0000:17/0000:17:03.0/0000:1a:00.0";

fn tree(host: &Arc<FakeHost>, layout: Layout) -> Tree {
    let view: Arc<dyn HostView> = host.clone();
    sysfs(&view, layout)
}

fn read(tree: &Tree, path: &str) -> Result<String, Errno> {
    match tree.resolve(path) {
        Some(Node::File(attribute)) => attribute.read(),
        _ => Err(Errno::ENOENT),
    }
}

fn write(tree: &Tree, path: &str, text: &str) -> Result<(), Errno> {
    match tree.resolve(path) {
        Some(Node::File(attribute)) => attribute.write(text.as_bytes()),
        _ => Err(Errno::ENOENT),
    }
}

fn target(tree: &Tree, path: &str) -> Option<String> {
    match tree.resolve(path) {
        Some(Node::Symlink(target)) => Some(target.into_owned()),
        _ => None,
    }
}

/// Names, with the mode of what is a file.
fn names(tree: &Tree, path: &str) -> Vec<String> {
    let Some(Node::Directory(directory)) = tree.resolve(path) else { return Vec::new() };
    let mut names: Vec<String> = directory
        .entries()
        .into_iter()
        .map(|entry| match &entry.node {
            Node::File(_) | Node::Binary(_) => format!("{} {:04o}", entry.name, entry.node.mode()),
            Node::Directory(_) => format!("{}/", entry.name),
            Node::Symlink(_) => format!("{}@", entry.name),
        })
        .collect();
    names.sort();
    names
}

/// What a path leads to, links followed.
fn follow(tree: &Tree, path: &str) -> Option<String> {
    let mut at: Vec<String> = Vec::new();
    let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    while let Some(part) = rest.pop() {
        if part == ".." {
            at.pop()?;
            continue;
        }
        at.push(part);
        match tree.resolve(&at.join("/"))? {
            Node::Symlink(target) => {
                at.pop();
                rest.extend(target.split('/').rev().map(str::to_owned));
            }
            Node::Directory(_) | Node::File(_) | Node::Binary(_) => {}
        }
    }
    Some(at.join("/"))
}

#[test]
fn functions_hang_below_their_bridge_and_port_in_every_layout() {
    let host = FakeHost::with_pci();
    for layout in LAYOUTS {
        let tree = tree(&host, layout);
        assert_eq!(
            names(&tree, "devices/pci0000:17"),
            [
                "0000:17:00.0/",
                "0000:17:01.0/",
                "0000:17:02.0/",
                "0000:17:03.0/",
                "available_secure_streams 0444"
            ]
        );
        assert_eq!(names(&tree, "devices/pci0000:80"), [""; 0]);
        assert_eq!(
            names(&tree, "devices/pci0000:17/0000:17:01.0"),
            [
                "0000:18:00.0/",
                "0000:18:00.1/",
                "class 0444",
                "config 0644",
                "device 0444",
                "revision 0444",
                "subsystem@",
                "vendor 0444"
            ]
        );
        for (name, path) in [
            ("0000:17:01.0", "devices/pci0000:17/0000:17:01.0"),
            ("0000:18:00.0", DSM),
            ("0000:1a:00.0", PLAIN),
        ] {
            assert_eq!(follow(&tree, &format!("bus/pci/devices/{name}")).as_deref(), Some(path));
            assert_eq!(follow(&tree, &format!("{path}/subsystem")).as_deref(), Some("bus/pci"));
        }
        for nowhere in ["bus/pci/devices/18:00.0", "bus/pci/devices/0000:18:00.7", "devices/pci0000:18"] {
            assert!(tree.resolve(nowhere).is_none(), "{nowhere}");
        }
        for elsewhere in ["devices/pci0000:80/0000:17:01.0", "devices/pci0000:17/0000:18:00.0"] {
            assert!(tree.resolve(elsewhere).is_none(), "{elsewhere}");
        }
    }
}

#[test]
fn registers_are_texts_and_the_configuration_space_is_read_and_written_at_any_offset() {
    let host = FakeHost::with_pci();
    let tree = tree(&host, Layout::Linux7_3);
    for (name, text) in
        [("vendor", "0x8086\n"), ("device", "0x1234\n"), ("class", "0x018000\n"), ("revision", "0x03\n")]
    {
        assert_eq!(read(&tree, &format!("{DSM}/{name}")).as_deref(), Ok(text));
    }
    let Some(Node::Binary(config)) = tree.resolve(&format!("{DSM}/config")) else { panic!("no config") };
    assert_eq!(config.size(), 4096);
    assert_eq!(config.read_at(1, 4).unwrap(), [0x80, 0x34, 0x12, 6]);
    assert_eq!(config.read_at(4094, 100).unwrap(), [0, 0]);
    assert_eq!(config.read_at(5000, 4).unwrap(), [0; 0]);
    config.write_at(0x41, &[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(config.read_at(0x40, 8).unwrap(), [0, 1, 2, 3, 4, 5, 6, 0]);
    assert_eq!(config.write_at(4094, &[1, 2, 3]), Err(Errno::EFBIG));
    let Some(Node::Binary(old)) = tree.resolve("devices/pci0000:17/0000:17:00.0/config") else {
        panic!("no config");
    };
    assert_eq!((old.size(), old.read_at(0, 4096).unwrap().len()), (256, 256));
}

#[test]
fn mailboxes_are_listed_by_what_they_take() {
    let host = FakeHost::with_pci();
    let tree = tree(&host, Layout::Linux7_3);
    let features = format!("{DSM}/doe_features");
    assert_eq!(names(&tree, &features), ["0001:01 0444", "0001:02 0444", "doe_discovery 0444"]);
    assert_eq!(read(&tree, &format!("{features}/0001:02")).as_deref(), Ok("0001:02\n"));
    assert_eq!(read(&tree, &format!("{features}/doe_discovery")).as_deref(), Ok("0001:00\n"));
    assert!(tree.resolve(&format!("{PLAIN}/doe_features")).is_none());
}

#[test]
fn the_tsm_is_a_child_of_the_device_that_registers_it_in_every_layout() {
    let host = FakeHost::with_pci();
    for layout in LAYOUTS {
        let tree = tree(&host, layout);
        let directory = format!("{}/tsm/tsm0", layout.device_path());
        assert_eq!(follow(&tree, "class/tsm/tsm0").as_deref(), Some(&*directory));
        assert_eq!(names(&tree, &directory), ["device@", "subsystem@"]);
        assert_eq!(follow(&tree, &format!("{directory}/device")).as_deref(), Some(layout.device_path()));
        assert_eq!(follow(&tree, &format!("{directory}/subsystem")).as_deref(), Some("class/tsm"));
        assert!(tree.resolve("class/tsm/tsm1").is_none());

        host.pci.unregister_tsm();
        assert!(tree.resolve("class/tsm/tsm0").is_none());
        assert!(tree.resolve(&format!("{}/tsm", layout.device_path())).is_none());
        host.pci.register_tsm();
    }
}

#[test]
fn the_files_of_a_function_are_those_that_linux_shows() {
    let host = FakeHost::with_pci();
    let files = |path: &str| {
        let tree = tree(&host, Layout::Linux7_3);
        let authenticated = tree.resolve(&format!("{path}/authenticated")).is_some();
        assert_eq!(authenticated, tree.resolve(&format!("{path}/tsm")).is_some(), "{path}");
        names(&tree, &format!("{path}/tsm"))
    };
    let sub_function = "devices/pci0000:17/0000:17:01.0/0000:18:00.1";
    let all = ["bound 0444", "connect 0644", "disconnect 0200", "dsm 0444"];
    assert_eq!(files(DSM), all);
    assert_eq!(files(WITHOUT_TEE), ["connect 0644", "disconnect 0200", "dsm 0444"]);
    for hidden in [PLAIN, sub_function, "devices/pci0000:17/0000:17:01.0", "devices/pci0000:17/0000:17:00.0"]
    {
        assert_eq!(files(hidden), [""; 0], "{hidden}");
    }

    host.connect_by_file(DSM);
    assert_eq!(files(DSM), all);
    assert_eq!(files(sub_function), ["bound 0444", "dsm 0444"], "its DSM has the TEE bit");

    host.pci.unregister_tsm();
    for path in [DSM, WITHOUT_TEE, sub_function] {
        assert_eq!(files(path), [""; 0], "{path}");
    }
}

impl FakeHost {
    fn connect_by_file(self: &Arc<Self>, path: &str) {
        write(&tree(self, Layout::Linux7_3), &format!("{path}/tsm/connect"), "tsm0\n").unwrap();
    }
}

#[test]
fn a_connected_device_shows_its_tsm_its_dsm_and_its_stream() {
    let host = FakeHost::with_pci();
    let tree = tree(&host, Layout::Linux7_3);
    let text = |name: &str| read(&tree, &format!("{DSM}/{name}")).unwrap();
    let shown = || [text("tsm/connect"), text("authenticated"), text("tsm/dsm"), text("tsm/bound")];
    let streams = || read(&tree, "devices/pci0000:17/available_secure_streams").unwrap();
    assert_eq!(shown(), ["\n"; 4]);
    assert_eq!(streams(), "8\n");

    host.connect_by_file(DSM);
    assert_eq!(shown(), ["tsm0\n", "tsm0\n", "0000:18:00.0\n", "\n"]);
    assert_eq!(streams(), "7\n");
    assert_eq!(target(&tree, "devices/pci0000:17/stream0.0.0").as_deref(), Some("0000:17:01.0/0000:18:00.0"));
    assert_eq!(follow(&tree, "devices/pci0000:17/stream0.0.0").as_deref(), Some(DSM));
    assert_eq!(follow(&tree, "class/tsm/tsm0/pci0000:17").as_deref(), Some("devices/pci0000:17"));
    let sub_function = "devices/pci0000:17/0000:17:01.0/0000:18:00.1";
    assert_eq!(read(&tree, &format!("{sub_function}/tsm/dsm")).as_deref(), Ok("0000:18:00.0\n"));
    assert_eq!(read(&tree, &format!("{sub_function}/authenticated")).as_deref(), Ok("tsm0\n"));

    write(&tree, &format!("{DSM}/tsm/disconnect"), "tsm0").unwrap();
    assert_eq!(shown(), ["\n"; 4]);
    assert_eq!(streams(), "8\n");
    assert!(tree.resolve("devices/pci0000:17/stream0.0.0").is_none());
    assert_eq!(follow(&tree, "class/tsm/tsm0/pci0000:17"), None);
}

#[test]
fn the_bridge_link_of_the_tsm_leads_to_the_bridge_in_every_layout() {
    let host = FakeHost::with_pci();
    host.connect_by_file(DSM);
    for layout in LAYOUTS {
        let tree = tree(&host, layout);
        assert_eq!(follow(&tree, "class/tsm/tsm0/pci0000:17").as_deref(), Some("devices/pci0000:17"));
        assert!(tree.resolve("class/tsm/tsm0/pci0000:80").is_none());
    }
}

#[test]
fn writes_that_cannot_be_fail_with_the_errno_of_their_reason() {
    let host = FakeHost::with_pci();
    let tree = tree(&host, Layout::Linux7_3);
    let (connect, disconnect) = (format!("{DSM}/tsm/connect"), format!("{DSM}/tsm/disconnect"));
    for text in ["", "tsm", "tpm0\n", "0\n"] {
        assert_eq!(write(&tree, &connect, text), Err(Errno::EINVAL), "{text:?}");
    }
    assert_eq!(write(&tree, &connect, "tsm1\n"), Err(Errno::ENXIO));
    assert_eq!(write(&tree, &disconnect, "tsm0\n"), Err(Errno::ENXIO));
    let device = id("0000:18:00.0");
    for (failure, expected) in [
        (TsmError::MailboxDead { device }, Errno::EIO),
        (TsmError::NoMemory { device, pages: 3 }, Errno::ENOMEM),
        (TsmError::NoEnd { device, messages: 9 }, Errno::EFAULT),
    ] {
        host.pci.fail_next(failure);
        assert_eq!(write(&tree, &connect, "tsm0\n"), Err(expected));
        assert_eq!(read(&tree, &connect).as_deref(), Ok("\n"));
    }
    assert_eq!(write(&tree, &connect, "tsm0\n"), Ok(()));
    assert_eq!(write(&tree, &connect, "tsm0\n"), Err(Errno::EBUSY));
    for text in ["", "tsm1\n", "tsm0\n\n", "\0tsm0"] {
        assert_eq!(write(&tree, &disconnect, text), Err(Errno::EINVAL), "{text:?}");
    }
    for read_only in ["authenticated", "tsm/dsm", "tsm/bound", "vendor"] {
        assert_eq!(write(&tree, &format!("{DSM}/{read_only}"), "tsm0"), Err(Errno::EIO), "{read_only}");
    }
    assert_eq!(read(&tree, &disconnect), Err(Errno::EIO));
    assert_eq!(write(&tree, &disconnect, "tsm0\n"), Ok(()));
    for file in [&connect, &disconnect] {
        assert_eq!(write(&tree, file, "tsm0\0, and what is behind the end of the text"), Ok(()));
    }
}

/// The files of one device that somebody holds open.
fn held(tree: &Tree, path: &str) -> Vec<Node> {
    let below = format!("{path}/");
    let files = tree.walk().into_iter().filter(|(path, _)| path.starts_with(&below));
    files.map(|(_, node)| node).filter(|node| matches!(node, Node::File(_) | Node::Binary(_))).collect()
}

fn is_live(node: &Node) -> bool {
    match node {
        Node::File(attribute) => attribute.is_live(),
        Node::Binary(attribute) => attribute.is_live(),
        Node::Directory(_) | Node::Symlink(_) => true,
    }
}

fn outcome(node: &Node) -> Result<(), Errno> {
    match node {
        Node::File(attribute) => attribute.read().map(drop),
        Node::Binary(attribute) => attribute.read_at(0, 4).map(drop),
        Node::Directory(_) | Node::Symlink(_) => Ok(()),
    }
}

#[test]
fn files_of_a_device_that_went_away_say_enodev_even_when_another_comes() {
    for replaced in [false, true] {
        let host = FakeHost::with_pci();
        let tree = tree(&host, Layout::Linux7_3);
        let held = held(&tree, DSM);
        // Four registers, config, three features, authenticated and the four of tsm.
        assert_eq!(held.len(), 13);
        assert!(held.iter().all(is_live));
        if replaced {
            host.pci.replace(id("0000:18:00.0"));
        } else {
            assert!(host.pci.remove(id("0000:18:00.0")));
        }
        assert_eq!(tree.resolve(DSM).is_some(), replaced);
        assert_eq!(tree.resolve("bus/pci/devices/0000:18:00.0").is_some(), replaced);
        for node in &held {
            assert!(!is_live(node));
            assert_eq!(outcome(node), Err(Errno::ENODEV));
        }
    }
}

#[test]
fn files_of_a_registration_die_with_it() {
    let host = FakeHost::with_pci();
    let tree = tree(&host, Layout::Linux7_3);
    let held = held(&tree, &format!("{DSM}/tsm"));
    assert_eq!(held.len(), 4);
    host.pci.unregister_tsm();
    assert!(held.iter().all(|node| !is_live(node) && outcome(node) == Err(Errno::ENODEV)));
    host.pci.register_tsm();
    assert!(held.iter().all(|node| !is_live(node) && outcome(node) == Err(Errno::ENODEV)));
    assert_eq!(read(&tree, &format!("{DSM}/tsm/connect")).as_deref(), Ok("\n"));
}

#[test]
fn a_path_is_found_among_256_devices_without_listing_them() {
    let host = FakeHost::with_pci();
    host.pci.populate_widely(256);
    host.pci.take_asked();
    let tree = tree(&host, Layout::Linux7_3);
    assert_eq!(read(&tree, &format!("{DSM}/tsm/connect")).as_deref(), Ok("\n"));
    assert!(tree.resolve("bus/pci/devices/0001:04:00.0").is_some());
    let asked = host.pci.take_asked();
    assert!(asked < 32, "{asked} functions were looked at");
}

#[test]
fn every_path_is_in_the_table_of_attributes_with_its_mode() {
    let host = FakeHost::with_pci();
    host.connect_by_file(DSM);
    let tree = tree(&host, Layout::Linux7_3);
    for row in &TSM_ATTRIBUTES {
        let directory = match row.directory {
            Directory::Tsm => "devices/faux/tdx_host/tsm/tsm0".to_owned(),
            Directory::HostBridge => "devices/pci0000:17".to_owned(),
            Directory::Function => DSM.to_owned(),
            Directory::FunctionTsm => format!("{DSM}/tsm"),
            Directory::DoeFeatures => format!("{DSM}/doe_features"),
        };
        let name = match row.content {
            Content::StreamLink => "stream0.0.0",
            Content::BridgeLink => "pci0000:17",
            Content::DoeFeature => "0001:01",
            _ => row.name,
        };
        let node = tree.resolve(&format!("{directory}/{name}")).unwrap_or_else(|| panic!("no {name}"));
        match node {
            Node::Symlink(_) => assert_eq!(row.mode, 0, "{name}"),
            file => assert_eq!(file.mode(), row.mode, "{name}"),
        }
    }
}

#[test]
fn a_shell_connects_and_disconnects() {
    if !can_mount() {
        return;
    }
    let host = FakeHost::with_pci();
    let view: Arc<dyn HostView> = host.clone();
    let directory = mount_point();
    let mounted = mount(sysfs(&view, Layout::Linux7_3), directory.path()).unwrap();
    let device = mounted.point().join("bus/pci/devices/0000:18:00.0");
    let shell = |script: &str| {
        let output =
            Command::new("sh").args(["-c", script]).current_dir(&device).env("LC_ALL", "C").output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (ok, out, _) = shell(
        "echo tsm0 > tsm/connect && cat tsm/connect && readlink ../../stream0.0.0 && cat tsm/dsm authenticated",
    );
    assert!(ok);
    assert_eq!(out, "tsm0\n0000:17:01.0/0000:18:00.0\n0000:18:00.0\ntsm0\n");
    let (ok, _, error) = shell("echo tsm0 | tee tsm/connect");
    assert!(!ok && error.contains("Device or resource busy"), "{error}");
    let (ok, _, error) = shell("cat tsm/disconnect");
    assert!(!ok && error.contains("Permission denied"), "{error}");
    let (ok, out, _) = shell("echo tsm0 > tsm/disconnect && cat tsm/connect && ls tsm");
    assert!(ok);
    assert_eq!(out, "\nbound\nconnect\ndisconnect\ndsm\n");
    let (ok, _, error) = shell("echo tsm0 | tee tsm/disconnect");
    assert!(!ok && error.contains("No such device or address"), "{error}");
    let (ok, _, error) = shell("echo nonsense | tee tsm/connect");
    assert!(!ok && error.contains("Invalid argument"), "{error}");
    host.pci.fail_next(TsmError::MailboxDead { device: id("0000:18:00.0") });
    let (ok, _, error) = shell("echo tsm0 | tee tsm/connect");
    assert!(!ok && error.contains("Input/output error"), "{error}");
    assert_eq!(fs::metadata(device.join("config")).unwrap().len(), 4096);
    assert_eq!(fs::metadata(device.join("tsm/connect")).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn a_device_that_is_taken_out_is_enodev_for_open_files_and_enoent_for_new_ones() {
    if !can_mount() {
        return;
    }
    let host = FakeHost::with_pci();
    let view: Arc<dyn HostView> = host.clone();
    let directory = mount_point();
    let mounted = mount(sysfs(&view, Layout::Linux7_3), directory.path()).unwrap();
    let path = mounted.point().join(DSM).join("tsm/connect");
    let mut reader = File::open(&path).unwrap();
    let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
    let mut config = File::open(mounted.point().join(DSM).join("config")).unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "\n");

    assert!(host.pci.remove(id("0000:18:00.0")));
    reader.rewind().unwrap();
    assert_eq!(errno(&reader.read_to_string(&mut text).unwrap_err()), Errno::ENODEV);
    assert_eq!(errno(&writer.write_all(b"tsm0\n").unwrap_err()), Errno::ENODEV);
    assert_eq!(errno(&config.read(&mut [0; 4]).unwrap_err()), Errno::ENODEV);
    assert_eq!(errno(&File::open(&path).unwrap_err()), Errno::ENOENT);
}

#[test]
fn a_write_takes_a_page_at_most_and_says_so() {
    if !can_mount() {
        return;
    }
    let view: Arc<dyn HostView> = FakeHost::with_pci();
    let directory = mount_point();
    let mounted = mount(sysfs(&view, Layout::Linux7_3), directory.path()).unwrap();
    let mut connect =
        OpenOptions::new().write(true).open(mounted.point().join(DSM).join("tsm/connect")).unwrap();
    let mut text = b"tsm0\n".to_vec();
    text.resize(4097, b'x');
    assert_eq!(connect.write(&text).unwrap(), 4096);
    assert_eq!(errno(&connect.write(&text[4096..]).unwrap_err()), Errno::EINVAL);
}

#[test]
fn devices_that_are_silent_hold_up_nobody_else_however_many_they_are() {
    const DEVICES: u16 = 8;
    if !can_mount() {
        return;
    }
    let host = FakeHost::with_pci();
    host.pci.populate_widely(DEVICES);
    let view: Arc<dyn HostView> = host.clone();
    let directory = mount_point();
    let mounted = mount(sysfs(&view, Layout::Linux7_3), directory.path()).unwrap();
    let file =
        |number: u16| mounted.point().join(format!("bus/pci/devices/0001:00:{number:02x}.0/tsm/connect"));
    let silence = host.pci.silence();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..DEVICES)
            .map(|number| (file(number), "tsm0\n"))
            .map(|(file, text)| scope.spawn(move || fs::write(file, text)))
            .collect();
        host.pci.until_waited_for(usize::from(DEVICES));
        assert_eq!(fs::read_to_string(file(0)).unwrap(), "\n");
        assert!(fs::read_dir(mounted.point().join("devices/pci0000:17")).unwrap().count() > 0);
        drop(silence);
        assert!(writers.into_iter().all(|writer| writer.join().unwrap().is_ok()));
    });
    assert_eq!(fs::read_to_string(file(0)).unwrap(), "tsm0\n");
}
