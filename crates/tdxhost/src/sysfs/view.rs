//! What the tree needs to know of a host, and nothing more.

use pcie::FunctionId;
use pcie::config::Width;
use tdx_host::traits::PciFunction;
use tdx_host::tsm::TsmError;
use tdx_platform::{BridgeView, FunctionView, TsmView, Uploader};

use super::Errno;

/// One registration of the `tdx_host` device.
///
/// A device that is removed and registered again is another instance: files opened on the first
/// one stay dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInstance(pub u64);

/// An attribute that the `tdx_host` device offers on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedAttribute {
    /// Name in Linux 7.3: `version`, `seamldr_version`, `num_remaining_updates`.
    pub name: String,
    /// Permission bits in Linux 7.3, such as `0o444`.
    pub mode: u16,
}

/// The PCI functions of a host, and the TSM that connects them, as their sysfs files see them.
pub trait PciView: Send + Sync {
    /// The TSM that is registered now.
    fn tsm(&self) -> Option<TsmView>;

    /// The host bridges, ascending.
    fn bridges(&self) -> Vec<BridgeView>;

    /// Where every function is, ascending.
    fn functions(&self) -> Vec<PciFunction>;

    /// One function; `None` while nothing is there.
    fn function(&self, id: FunctionId) -> Option<FunctionView>;

    /// Reads configuration space; all ones where nothing answers.
    fn config_read(&self, id: FunctionId, offset: u16, width: Width) -> u32;

    /// Writes configuration space.
    fn config_write(&self, id: FunctionId, offset: u16, width: Width, value: u32);

    /// What a write of `text` to `tsm/connect` does.
    fn connect(&self, id: FunctionId, text: &str) -> Result<(), TsmError>;

    /// What a write of `text` to `tsm/disconnect` does.
    fn disconnect(&self, id: FunctionId, text: &str) -> Result<(), TsmError>;
}

/// A host as its sysfs files see it.
pub trait HostView: PciView {
    /// The device that is registered now; `None` before bring-up, after a failed one, and after
    /// removal.
    fn device(&self) -> Option<DeviceInstance>;

    /// Attributes that the device offers now; empty without a device.
    fn attributes(&self) -> Vec<OfferedAttribute>;

    /// Value of an attribute by its Linux 7.3 name, without a newline.
    ///
    /// `ENODEV` once the device is gone; else whatever the device answers.
    fn read_attribute(&self, name: &str) -> Result<String, Errno>;

    /// The firmware-upload files; `None` on a host that has none.
    fn upload(&self) -> Option<&Uploader>;

    /// CPUID.1:EAX of the boot CPU.
    fn cpu_signature(&self) -> u32;

    /// CPUs that the machine has, in the kernel's list format (`0-3,8`).
    fn cpus_present(&self) -> String;

    /// CPUs that are online, in the kernel's list format.
    fn cpus_online(&self) -> String;
}
