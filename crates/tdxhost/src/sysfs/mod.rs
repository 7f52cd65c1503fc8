//! The files that Linux shows of a TDX host, as a tree that knows nothing of FUSE.
//!
//! A [`Tree`] is built from a [`HostView`] and a [`Layout`]. Nothing is cached: each look at a
//! directory asks the host again, so files appear and vanish with the device they belong to.
//! Formats, modes and errors are those of `Documentation/ABI/testing/sysfs-devices-faux-tdx-host` and
//! `sysfs-class-firmware` (Linux 7.3) and, for the older layouts, of the postings that user space was written against.

mod cpu_list;
mod document;
mod host_view;
mod layout;
mod pci;
mod tree;
mod tsm;
mod upload;
mod view;

pub use cpu_list::cpu_list;
pub use document::document;
pub use host_view::SoftwareHost;
pub use layout::{Layout, sysfs};
/// Error numbers as user space sees them.
pub use nix::errno::Errno;
pub use tree::{ATTRIBUTE_SIZE, Attribute, BinaryAttribute, Directory, Entry, Node, Tree};
pub use view::{DeviceInstance, HostView, OfferedAttribute, PciView};
