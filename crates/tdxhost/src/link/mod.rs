//! Devices, TSMs and streams of a host as its sysfs files show them.
//!
//! Works on a real kernel with PCI/TSM as well as on a tree that `tdxhost serve` mounts.

mod tree;

use pcie::ide::StreamState;
use tdx_platform::LinkView;

pub use tree::{Bridge, LinkError, PciTree, Stream, address};

/// True if both ends of a link have the stream enabled and secure.
pub fn is_secure(link: &LinkView) -> bool {
    [link.root_port, link.endpoint].iter().all(|end| end.enabled && end.state == StreamState::SECURE)
}
