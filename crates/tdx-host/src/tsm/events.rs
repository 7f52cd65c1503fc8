//! What user space is told.
//!
//! A TSM: added, changed as soon as devices can be connected, removed. A device, which Linux tells nothing
//! of: changed with `TSM_STATE=` connected, disconnected or lost, so that nobody has to poll `tsm/connect`.

use core::fmt;

use crate::traits::{PciFunction, UeventAction, Uevents};

/// Subsystem of TSMs.
const TSM: &str = "tsm";

/// What became of the connection of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Connected,
    Disconnected,
    Lost,
}

impl LinkState {
    const fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Lost => "lost",
        }
    }
}

/// Path of a function below `/sys`: host bridge, root port, function.
#[derive(Clone, Copy, Debug)]
pub struct DevPath<'a>(pub &'a PciFunction);

impl fmt::Display for DevPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/devices/{}", self.0.bridge)?;
        if let Some(port) = self.0.root_port {
            write!(f, "/{port}")?;
        }
        write!(f, "/{}", self.0.id)
    }
}

pub(super) fn tsm_event<P: Uevents + ?Sized>(platform: &P, action: UeventAction, number: u32) {
    platform.uevent(action, format_args!("/devices/faux/tdx_host/tsm/tsm{number}"), TSM, None);
}

pub(super) fn tsm_changed<P: Uevents + ?Sized>(platform: &P, number: u32) {
    tsm_event(platform, UeventAction::Change, number);
}

pub(super) fn device_event<P: Uevents + ?Sized>(platform: &P, function: &PciFunction, state: LinkState) {
    let extra = format_args!("TSM_STATE={}", state.name());
    platform.uevent(UeventAction::Change, format_args!("{}", DevPath(function)), "pci", Some(extra));
}
