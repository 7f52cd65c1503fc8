//! The `tdx_host` device and its attributes.

use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use crate::sync::hint;
use core::fmt::{self, Write};

use tdx_abi::features::Features0;

use crate::cpu::{CpuSlot, VmxBasic};
use crate::error::HostError;
use crate::host::HostState;
use crate::sync::RawLock;
use crate::sysinfo::SysInfo;
use crate::traits::{Cpus, Log, LogLevel, Pages, Processor, Seam};

/// Attributes that come and go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttributeGroup {
    /// Always there.
    Base,
    /// Runtime update: the module can be replaced under running TDs, and the CPUs keep the current VMCS
    /// over SEAMRET.
    Update,
}

impl AttributeGroup {
    const ALL: [Self; 2] = [Self::Base, Self::Update];

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What an attribute shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Content {
    ModuleVersion,
    LoaderVersion,
    RemainingUpdates,
}

/// An attribute of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// File name.
    pub name: &'static str,
    /// Permission bits.
    pub mode: u16,
    /// What it comes and goes with.
    pub group: AttributeGroup,
    content: Content,
}

/// All attributes that the device can have.
pub const ATTRIBUTES: [Attribute; 3] = [
    Attribute { name: "version", mode: 0o444, group: AttributeGroup::Base, content: Content::ModuleVersion },
    Attribute {
        name: "seamldr_version",
        mode: 0o400,
        group: AttributeGroup::Update,
        content: Content::LoaderVersion,
    },
    Attribute {
        name: "num_remaining_updates",
        mode: 0o400,
        group: AttributeGroup::Update,
        content: Content::RemainingUpdates,
    },
];

/// The device. The embedder stores it; it is there between [`TdxHostDevice::probe`] and
/// [`TdxHostDevice::remove`].
#[derive(Debug, Default)]
pub struct TdxHostDevice {
    platform_ready: AtomicBool,
    present: AtomicBool,
    groups: AtomicU8,
    readers: AtomicU32,
}

impl TdxHostDevice {
    /// A device that is not there yet.
    pub const fn new() -> Self {
        Self {
            platform_ready: AtomicBool::new(false),
            present: AtomicBool::new(false),
            groups: AtomicU8::new(0),
            readers: AtomicU32::new(0),
        }
    }

    /// The platform's other halves (IOMMU, PCI) are up.
    pub fn platform_is_ready(&self) {
        self.platform_ready.store(true, Ordering::Release);
    }

    /// Brings the device into being: the module is initialised and the platform said that it is ready.
    pub fn probe<C, K, P>(&self, host: &HostState<C, K>, platform: &P) -> Result<(), HostError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        P: Cpus + Processor + Log + ?Sized,
    {
        host.ready()?;
        if !self.platform_ready.load(Ordering::Acquire) {
            return Err(HostError::DeviceGone);
        }
        let mut groups = 0;
        for group in AttributeGroup::ALL {
            match offered(group, host, platform) {
                Ok(true) => groups |= group.bit(),
                Ok(false) => {}
                // One feature that fails does not take the others away.
                Err(error) => platform.log(
                    LogLevel::Warning,
                    format_args!("tdx_host: {group:?} attributes are left out: {error}"),
                ),
            }
        }
        self.groups.store(groups, Ordering::Release);
        self.present.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Takes the device away: waits for readers, then every request fails.
    pub fn remove(&self) {
        self.present.store(false, Ordering::SeqCst);
        while self.readers.load(Ordering::SeqCst) != 0 {
            hint::spin_loop();
        }
    }

    /// True while the device is there.
    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::SeqCst)
    }

    /// The attributes that it has.
    pub fn attributes(&self) -> impl Iterator<Item = &'static Attribute> {
        let present = self.is_present();
        self.offered_attributes().filter(move |_| present)
    }

    fn offered_attributes(&self) -> impl Iterator<Item = &'static Attribute> {
        let groups = self.groups.load(Ordering::Acquire);
        ATTRIBUTES.iter().filter(move |attribute| groups & attribute.group.bit() != 0)
    }

    /// Writes the value of the attribute `name` with its newline to `buffer`; how many bytes.
    pub fn read<C, K, P>(
        &self,
        host: &HostState<C, K>,
        platform: &P,
        name: &str,
        buffer: &mut [u8],
    ) -> Result<usize, HostError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: RawLock + Sync,
        P: Seam + Pages + Cpus + ?Sized,
    {
        let reader = Reader::enter(self)?;
        let alive = host.ready();
        if !matches!(alive, Err(HostError::ModuleDown | HostError::ModuleGone)) {
            alive?;
        }
        let attribute = reader.attribute(name).ok_or(HostError::NoSuchAttribute)?;
        let size = buffer.len();
        let mut text = Text { buffer, used: 0 };
        let written = match attribute.content {
            Content::ModuleVersion => {
                alive?;
                let info = host.sysinfo().map_or_else(|| after_update(host), Ok)?;
                writeln!(text, "{}", info.version())
            }
            // P-SEAMLDR answers whatever became of the module.
            Content::LoaderVersion => {
                let info = host.seamldr().info(platform, &host.port(platform))?;
                writeln!(text, "{}", info.loader_version())
            }
            Content::RemainingUpdates => {
                let info = host.seamldr().info(platform, &host.port(platform))?;
                writeln!(text, "{}", info.num_remaining_updates)
            }
        };
        written.map_err(|_| HostError::BufferTooSmall { bytes: size })?;
        Ok(text.used)
    }
}

/// The metadata for a reader that found none, an update having begun since it found the host ready.
fn after_update<C, K>(host: &HostState<C, K>) -> Result<SysInfo, HostError>
where
    C: AsRef<[CpuSlot]>,
{
    host.ready()?;
    host.sysinfo().ok_or(HostError::UpdateRunning)
}

/// Is a group of attributes of use on this machine?
fn offered<C, K, P>(group: AttributeGroup, host: &HostState<C, K>, platform: &P) -> Result<bool, HostError>
where
    C: AsRef<[CpuSlot]> + Sync,
    P: Cpus + Processor + ?Sized,
{
    match group {
        AttributeGroup::Base => Ok(true),
        AttributeGroup::Update => {
            let info = host.sysinfo().ok_or(HostError::NotInitialised)?;
            if !info.features0().contains(Features0::TD_PRESERVING) {
                return Ok(false);
            }
            let loses_vmcs = AtomicBool::new(false);
            platform.on_each_cpu(&|pin| {
                let basic = platform.rdmsr(pin, VmxBasic::MSR);
                let basic = basic.map_err(|_| HostError::VmxBasicUnreadable { cpu: pin.cpu() })?;
                if !VmxBasic(basic).seamret_keeps_vmcs() {
                    loses_vmcs.store(true, Ordering::Relaxed);
                }
                Ok(())
            })?;
            Ok(!loses_vmcs.into_inner())
        }
    }
}

/// Somebody who reads while the device is there.
struct Reader<'a>(&'a TdxHostDevice);

impl<'a> Reader<'a> {
    fn enter(device: &'a TdxHostDevice) -> Result<Self, HostError> {
        device.readers.fetch_add(1, Ordering::SeqCst);
        // Counted first: whoever takes the device away either sees the reader or is seen by it.
        let reader = Self(device);
        if device.is_present() { Ok(reader) } else { Err(HostError::DeviceGone) }
    }

    /// An attribute of the device, even if its removal has begun: it waits for this reader to finish.
    fn attribute(&self, name: &str) -> Option<&'static Attribute> {
        self.0.offered_attributes().find(|attribute| attribute.name == name)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Text that goes to a caller's buffer.
struct Text<'a> {
    buffer: &'a mut [u8],
    used: usize,
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.used.checked_add(text.len()).ok_or(fmt::Error)?;
        let place = self.buffer.get_mut(self.used..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_came_before_the_removal_still_finds_its_attribute() {
        let device = TdxHostDevice::new();
        device.groups.store(AttributeGroup::Base.bit(), Ordering::Release);
        device.present.store(true, Ordering::SeqCst);
        let reader = Reader::enter(&device).unwrap();
        // What a removal does before it waits.
        device.present.store(false, Ordering::SeqCst);
        assert!(reader.attribute("version").is_some());
        assert!(reader.attribute("seamldr_version").is_none(), "its group is not offered");
        assert_eq!(device.attributes().count(), 0);
        assert!(Reader::enter(&device).is_err());
        drop(reader);
        device.remove();
    }
}
