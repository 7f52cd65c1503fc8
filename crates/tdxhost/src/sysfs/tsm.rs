//! The TSM: `class/tsm/tsmN`, a link to its directory under the device that registered it.

use std::sync::Arc;

use tdx_platform::{BridgeView, TsmView};

use super::layout::Layout;
use super::tree::{Directory, Entry};
use super::view::HostView;

/// The entry `tsm` of the device that registers TSMs; none while there is no TSM.
pub(super) fn devices(host: &Arc<dyn HostView>, layout: Layout) -> Option<Entry> {
    host.tsm().map(|_| Entry::directory("tsm", Devices { host: Arc::clone(host), layout }))
}

/// The entry `tsm` of `class`.
pub(super) fn class(host: &Arc<dyn HostView>, layout: Layout) -> Entry {
    Entry::directory("tsm", Class { host: Arc::clone(host), layout })
}

struct Class {
    host: Arc<dyn HostView>,
    layout: Layout,
}

impl Directory for Class {
    fn entries(&self) -> Vec<Entry> {
        let parent = self.layout.device_path();
        let link = |tsm: TsmView| {
            let target = format!("../../{parent}/tsm/{}", tsm.name);
            Entry::symlink(tsm.name, target)
        };
        self.host.tsm().map(link).into_iter().collect()
    }
}

struct Devices {
    host: Arc<dyn HostView>,
    layout: Layout,
}

impl Directory for Devices {
    fn entries(&self) -> Vec<Entry> {
        let directory = |tsm: TsmView| {
            let instance = tsm.instance;
            Entry::directory(
                tsm.name,
                TsmDirectory { host: Arc::clone(&self.host), layout: self.layout, instance },
            )
        };
        self.host.tsm().map(directory).into_iter().collect()
    }
}

/// The directory of one registration.
struct TsmDirectory {
    host: Arc<dyn HostView>,
    layout: Layout,
    instance: u64,
}

impl Directory for TsmDirectory {
    fn entries(&self) -> Vec<Entry> {
        if self.host.tsm().is_none_or(|tsm| tsm.instance != self.instance) {
            return Vec::new();
        }
        let parent = self.layout.device_path();
        let name = parent.rsplit('/').next().unwrap_or(parent);
        // From the directory of the TSM, two below its parent, to `devices` and to the root.
        let devices = "../".repeat(parent.split('/').count() + 1);
        let mut entries = vec![
            Entry::symlink("device", format!("../../../{name}")),
            Entry::symlink("subsystem", format!("{devices}../class/tsm")),
        ];
        let managed = self.host.bridges().into_iter().filter(BridgeView::is_managed).map(|view| view.bridge);
        entries
            .extend(managed.map(|bridge| Entry::symlink(bridge.to_string(), format!("{devices}{bridge}"))));
        entries
    }

    fn subdirectories(&self) -> usize {
        0
    }
}
