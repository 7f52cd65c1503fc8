//! The tree of each layout, without FUSE.

use std::sync::Arc;

use tdxhost::sysfs::{Errno, HostView, Layout, Node, Tree, sysfs};

use crate::fake::{FIXED, FakeHost, UPDATABLE};

fn tree(host: &Arc<FakeHost>, layout: Layout) -> Tree {
    let view: Arc<dyn HostView> = host.clone();
    sysfs(&view, layout)
}

/// Files with mode and text, links with their target.
fn listing(tree: &Tree) -> Vec<String> {
    tree.walk()
        .into_iter()
        .filter_map(|(path, node)| match node {
            Node::Directory(_) => None,
            Node::File(attribute) => {
                let text = attribute.read().unwrap_or_else(|errno| format!("{errno:?}\n"));
                Some(format!("{:04o} {path} {}", attribute.mode(), text.escape_debug()))
            }
            Node::Binary(attribute) => {
                let bytes = attribute.read_at(0, 64).unwrap();
                Some(format!("{:04o} {path} {}", attribute.mode(), bytes.escape_ascii()))
            }
            Node::Symlink(target) => Some(format!("link {path} {target}")),
        })
        .collect()
}

fn attribute_text(tree: &Tree, path: &str) -> Result<String, Errno> {
    match tree.resolve(path) {
        Some(Node::File(attribute)) => attribute.read(),
        _ => Err(Errno::ENOENT),
    }
}

#[test]
fn linux_7_3_keeps_all_three_attributes_in_the_faux_device() {
    let host = FakeHost::with_device(&UPDATABLE);
    assert_eq!(
        listing(&tree(&host, Layout::Linux7_3)),
        [
            r"link bus/faux/devices/tdx_host ../../../devices/faux/tdx_host",
            r"link class/firmware/tdx_module ../../devices/faux/tdx_host/firmware/tdx_module",
            r"0200 devices/faux/tdx_host/firmware/tdx_module/cancel EIO\n",
            r"0644 devices/faux/tdx_host/firmware/tdx_module/data ",
            r"link devices/faux/tdx_host/firmware/tdx_module/device ../../../tdx_host",
            r"0444 devices/faux/tdx_host/firmware/tdx_module/error ",
            r"0644 devices/faux/tdx_host/firmware/tdx_module/loading 0\n",
            r"0444 devices/faux/tdx_host/firmware/tdx_module/remaining_size 0\n",
            r"0444 devices/faux/tdx_host/firmware/tdx_module/status idle\n",
            r"link devices/faux/tdx_host/firmware/tdx_module/subsystem ../../../../../class/firmware",
            r"0400 devices/faux/tdx_host/num_remaining_updates 63\n",
            r"0400 devices/faux/tdx_host/seamldr_version 1.5.02\n",
            r"0444 devices/faux/tdx_host/version 1.5.06\n",
            r"0444 devices/system/cpu/modalias cpu:type:x86,ven0000fam0006mod008F:feature:,\n",
            r"0444 devices/system/cpu/online 0,2-3\n",
            r"0444 devices/system/cpu/present 0-3\n",
        ]
    );
}

#[test]
fn linux_7_3_shows_no_loader_attributes_that_the_host_does_not_offer() {
    let host = FakeHost::with_device(&FIXED);
    let tree = tree(&host, Layout::Linux7_3);
    assert_eq!(attribute_text(&tree, "devices/faux/tdx_host/version"), Ok("1.5.06\n".to_owned()));
    for hidden in ["seamldr_version", "num_remaining_updates"] {
        assert!(tree.resolve(&format!("devices/faux/tdx_host/{hidden}")).is_none());
    }
}

#[test]
fn the_layout_of_2025_09_has_a_directory_for_the_loader_readable_by_all() {
    let host = FakeHost::with_device(&UPDATABLE);
    assert_eq!(
        listing(&tree(&host, Layout::Posting2025_09)),
        [
            r"link bus/faux/devices/tdx_host ../../../devices/faux/tdx_host",
            r"link class/firmware/seamldr_upload ../../devices/faux/tdx_host/firmware/seamldr_upload",
            r"0200 devices/faux/tdx_host/firmware/seamldr_upload/cancel EIO\n",
            r"0644 devices/faux/tdx_host/firmware/seamldr_upload/data ",
            r"link devices/faux/tdx_host/firmware/seamldr_upload/device ../../../tdx_host",
            r"0444 devices/faux/tdx_host/firmware/seamldr_upload/error ",
            r"0644 devices/faux/tdx_host/firmware/seamldr_upload/loading 0\n",
            r"0444 devices/faux/tdx_host/firmware/seamldr_upload/remaining_size 0\n",
            r"0444 devices/faux/tdx_host/firmware/seamldr_upload/status idle\n",
            r"link devices/faux/tdx_host/firmware/seamldr_upload/subsystem ../../../../../class/firmware",
            r"0444 devices/faux/tdx_host/seamldr/num_remaining_updates 63\n",
            r"0444 devices/faux/tdx_host/seamldr/version 1.5.2\n",
            r"0444 devices/faux/tdx_host/version 1.5.6\n",
            r"0444 devices/system/cpu/modalias cpu:type:x86,ven0000fam0006mod008F:feature:,\n",
            r"0444 devices/system/cpu/online 0,2-3\n",
            r"0444 devices/system/cpu/present 0-3\n",
        ]
    );
}

#[test]
fn the_layout_of_2025_09_has_no_loader_directory_without_update_support() {
    let host = FakeHost::with_device(&FIXED);
    let tree = tree(&host, Layout::Posting2025_09);
    assert!(tree.resolve("devices/faux/tdx_host/version").is_some());
    assert!(tree.resolve("devices/faux/tdx_host/seamldr").is_none());
}

#[test]
fn the_layout_of_2025_03_has_two_virtual_devices_and_unpadded_versions() {
    let host = FakeHost::with_device(&UPDATABLE);
    assert_eq!(
        listing(&tree(&host, Layout::Posting2025_03)),
        [
            r"link class/firmware/seamldr_upload ../../devices/virtual/tdx/firmware/seamldr_upload",
            r"0444 devices/system/cpu/modalias cpu:type:x86,ven0000fam0006mod008F:feature:,\n",
            r"0444 devices/system/cpu/online 0,2-3\n",
            r"0444 devices/system/cpu/present 0-3\n",
            r"0200 devices/virtual/tdx/firmware/seamldr_upload/cancel EIO\n",
            r"0644 devices/virtual/tdx/firmware/seamldr_upload/data ",
            r"link devices/virtual/tdx/firmware/seamldr_upload/device ../../../tdx",
            r"0444 devices/virtual/tdx/firmware/seamldr_upload/error ",
            r"0644 devices/virtual/tdx/firmware/seamldr_upload/loading 0\n",
            r"0444 devices/virtual/tdx/firmware/seamldr_upload/remaining_size 0\n",
            r"0444 devices/virtual/tdx/firmware/seamldr_upload/status idle\n",
            r"link devices/virtual/tdx/firmware/seamldr_upload/subsystem ../../../../../class/firmware",
            r"0444 devices/virtual/tdx/seamldr/num_remaining_updates 63\n",
            r"0444 devices/virtual/tdx/seamldr/version 1.5.2\n",
            r"0444 devices/virtual/tdx/tdx_tsm/version 1.5.6\n",
        ]
    );
}

#[test]
fn the_layout_of_2025_03_counts_0_updates_without_update_support() {
    let host = FakeHost::with_device(&FIXED);
    let tree = tree(&host, Layout::Posting2025_03);
    let seamldr = "devices/virtual/tdx/seamldr";
    let count = attribute_text(&tree, &format!("{seamldr}/num_remaining_updates"));
    assert_eq!(count, Ok("0\n".to_owned()));
    assert_eq!(attribute_text(&tree, &format!("{seamldr}/version")), Err(Errno::ENXIO));
}

#[test]
fn every_layout_names_a_device_directory_that_holds_the_version() {
    let host = FakeHost::with_device(&UPDATABLE);
    for layout in [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03] {
        let version = format!("{}/version", layout.device_path());
        assert!(tree(&host, layout).resolve(&version).is_some(), "{version}");
    }
}

#[test]
fn a_host_without_a_device_still_shows_its_cpus() {
    let host = FakeHost::failed();
    for layout in [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03] {
        let tree = tree(&host, layout);
        assert_eq!(attribute_text(&tree, "devices/system/cpu/present"), Ok("0-3\n".to_owned()));
        assert_eq!(
            attribute_text(&tree, "devices/system/cpu/modalias"),
            Ok("cpu:type:x86,ven0000fam0006mod008F:feature:,\n".to_owned())
        );
        assert!(tree.resolve(layout.device_path()).is_none());
    }
}

#[test]
fn files_of_a_removed_device_vanish_and_the_ones_held_say_enodev() {
    let host = FakeHost::with_device(&UPDATABLE);
    for layout in [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03] {
        let tree = tree(&host, layout);
        let held: Vec<_> = tree
            .walk()
            .into_iter()
            .filter_map(|(path, node)| match node {
                Node::File(attribute) if !path.contains("/cpu/") => Some(attribute),
                _ => None,
            })
            .collect();
        // Three attributes and the five text files of the upload.
        assert_eq!(held.len(), 8);
        host.remove_device();
        assert!(tree.resolve(layout.device_path()).is_none());
        for attribute in &held {
            assert!(!attribute.is_live());
            assert_eq!(attribute.read(), Err(Errno::ENODEV));
            assert!(attribute.mode() & 0o200 == 0 || attribute.write(b"1") == Err(Errno::ENODEV));
        }
        host.register(&UPDATABLE);
        assert!(tree.resolve(layout.device_path()).is_some());
        assert!(held.iter().all(|attribute| !attribute.is_live()));
    }
}

#[test]
fn an_error_of_the_device_is_the_error_of_the_read() {
    for errno in [Errno::EIO, Errno::ENXIO, Errno::EPERM] {
        let host = FakeHost::with_device(&[("version", 0o444, Err(errno))]);
        for layout in [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03] {
            let version = format!("{}/version", layout.device_path());
            assert_eq!(attribute_text(&tree(&host, layout), &version), Err(errno));
        }
    }
}

#[test]
fn paths_through_files_and_unknown_names_lead_nowhere() {
    let host = FakeHost::with_device(&UPDATABLE);
    let tree = tree(&host, Layout::Linux7_3);
    for path in ["devices/faux/tdx_host/version/x", "devices/nothing", "version"] {
        assert!(tree.resolve(path).is_none(), "{path}");
    }
    for path in ["", "/", "devices", "/devices/faux/"] {
        assert!(matches!(tree.resolve(path), Some(Node::Directory(_))), "{path}");
    }
}

#[test]
fn every_attribute_of_the_device_is_where_its_layout_says_with_the_mode_it_says() {
    let host = FakeHost::with_device(&UPDATABLE);
    for layout in [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03] {
        let tree = tree(&host, layout);
        for attribute in &tdx_host::device::ATTRIBUTES {
            let (path, mode) = layout.attribute(attribute).unwrap();
            let node = tree.resolve(&path).unwrap_or_else(|| panic!("{path} is not there"));
            assert_eq!(node.mode(), mode, "{path}");
        }
    }
}

#[test]
fn the_document_names_every_file_of_every_layout() {
    let host = FakeHost::with_pci();
    let document = tdxhost::sysfs::document();
    for layout in [Layout::Linux7_3, Layout::Posting2025_09, Layout::Posting2025_03] {
        for (path, node) in tree(&host, layout).walk() {
            let name = path.rsplit('/').next().unwrap();
            let mode = format!("{:04o}", node.mode());
            let varies = name.contains(':') || name.starts_with("tsm");
            if varies || matches!(node, Node::Directory(_)) {
                continue;
            }
            let told = document.lines().filter(|line| line.contains(name));
            let told: Vec<&str> = match node {
                Node::Symlink(_) => told.collect(),
                _ => told.filter(|line| line.contains(&mode)).collect(),
            };
            assert!(!told.is_empty(), "{path} {mode}");
        }
    }
}
