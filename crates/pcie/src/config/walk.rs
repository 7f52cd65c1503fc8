use open_enum::open_enum;

use super::header::{STATUS_CAPABILITIES, offset};
use super::{CONFIG_SIZE, ReadConfig};

open_enum! {
    /// Id of a PCI capability, in the chain of the first 256 bytes.
    pub struct CapabilityId(u8) {
        /// None; skipped.
        NULL = 0x00 => "null",
        /// Power management.
        POWER_MANAGEMENT = 0x01 => "power management",
        /// MSI.
        MSI = 0x05 => "MSI",
        /// Vendor specific.
        VENDOR = 0x09 => "vendor specific",
        /// PCI Express.
        EXPRESS = 0x10 => "PCI Express",
        /// MSI-X.
        MSIX = 0x11 => "MSI-X",
    }
}

open_enum! {
    /// Id of an extended capability, in the chain from offset 0x100.
    pub struct ExtendedId(u16) {
        /// None; skipped.
        NULL = 0x0000 => "null",
        /// Advanced error reporting.
        AER = 0x0001 => "AER",
        /// Vendor specific.
        VENDOR = 0x000b => "vendor specific",
        /// Alternative routing ids.
        ARI = 0x000e => "ARI",
        /// Single-root I/O virtualisation.
        SR_IOV = 0x0010 => "SR-IOV",
        /// Data object exchange.
        DOE = 0x002e => "DOE",
        /// Device 3.
        DEVICE_3 = 0x002f => "Device 3",
        /// Integrity and data encryption.
        IDE = 0x0030 => "IDE",
    }
}

/// Why a chain of capabilities ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A pointer leads to where no capability can be.
    #[error("the chain of capabilities leads to offset {0:#x}, outside its part of the space")]
    Outside(u16),
    /// A pointer leads back.
    #[error("the chain of capabilities comes back to offset {0:#x}")]
    Loop(u16),
    /// Everything reads as ones: there is no function, or it does not answer.
    #[error("offset {0:#x} of the chain of capabilities reads as ones")]
    Gone(u16),
}

/// A PCI capability that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub id: CapabilityId,
    /// Where it begins.
    pub offset: u16,
}

/// An extended capability that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// What it is.
    pub id: ExtendedId,
    /// Version of its layout.
    pub version: u8,
    /// Where it begins.
    pub offset: u16,
}

/// Places of a chain that were seen, by their dword.
#[derive(Clone, Debug, Default)]
struct Seen([u64; CONFIG_SIZE as usize / 4 / 64]);

impl Seen {
    /// Notes the dword; false if it was noted before.
    fn note(&mut self, offset: u16) -> bool {
        let (word, bit) = (usize::from(offset / 4 / 64), 1u64 << (offset / 4 % 64));
        let Some(word) = self.0.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }
}

/// The chain of PCI capabilities. It ends whatever the bytes are, at latest with an error.
#[derive(Clone, Debug)]
pub struct Capabilities<'a, C: ?Sized> {
    config: &'a C,
    next: u16,
    seen: Seen,
}

/// Walks the PCI capabilities of a function.
pub fn capabilities<C: ReadConfig + ?Sized>(config: &C) -> Capabilities<'_, C> {
    let status = config.dword(offset::COMMAND);
    let next = if status == u32::MAX {
        0xff
    } else if status & STATUS_CAPABILITIES == 0 {
        0
    } else {
        (config.dword(offset::CAPABILITIES) & 0xff) as u16
    };
    Capabilities { config, next, seen: Seen::default() }
}

impl<C: ReadConfig + ?Sized> Iterator for Capabilities<'_, C> {
    type Item = Result<Capability, ChainError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // Bits 1:0 of a pointer are reserved.
            let offset = self.next & 0xfc;
            self.next = 0;
            if offset == 0 {
                return None;
            }
            if offset < 0x40 {
                return Some(Err(ChainError::Outside(offset)));
            }
            if !self.seen.note(offset) {
                return Some(Err(ChainError::Loop(offset)));
            }
            let header = self.config.dword(offset);
            if header == u32::MAX {
                return Some(Err(ChainError::Gone(offset)));
            }
            self.next = (header >> 8 & 0xff) as u16;
            let id = CapabilityId((header & 0xff) as u8);
            if id != CapabilityId::NULL {
                return Some(Ok(Capability { id, offset }));
            }
        }
    }
}

/// The chain of extended capabilities. It ends whatever the bytes are, at latest with an error.
#[derive(Clone, Debug)]
pub struct ExtendedCapabilities<'a, C: ?Sized> {
    config: &'a C,
    next: u16,
    seen: Seen,
}

/// Walks the extended capabilities of a function.
pub fn extended_capabilities<C: ReadConfig + ?Sized>(config: &C) -> ExtendedCapabilities<'_, C> {
    ExtendedCapabilities { config, next: 0x100, seen: Seen::default() }
}

impl<C: ReadConfig + ?Sized> Iterator for ExtendedCapabilities<'_, C> {
    type Item = Result<Extended, ChainError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let offset = self.next & 0xffc;
            self.next = 0;
            if offset == 0 {
                return None;
            }
            if offset < 0x100 {
                return Some(Err(ChainError::Outside(offset)));
            }
            if !self.seen.note(offset) {
                return Some(Err(ChainError::Loop(offset)));
            }
            let header = self.config.dword(offset);
            if header == u32::MAX {
                return Some(Err(ChainError::Gone(offset)));
            }
            self.next = (header >> 20) as u16;
            let id = ExtendedId((header & 0xffff) as u16);
            if id != ExtendedId::NULL {
                let version = (header >> 16 & 0xf) as u8;
                return Some(Ok(Extended { id, version, offset }));
            }
        }
    }
}

/// The first PCI capability with this id, in the part of the chain that is sound.
pub fn find<C: ReadConfig + ?Sized>(config: &C, id: CapabilityId) -> Option<Capability> {
    capabilities(config).map_while(Result::ok).find(|capability| capability.id == id)
}

/// The first extended capability with this id, in the part of the chain that is sound.
pub fn find_extended<C: ReadConfig + ?Sized>(config: &C, id: ExtendedId) -> Option<Extended> {
    extended_capabilities(config).map_while(Result::ok).find(|capability| capability.id == id)
}
