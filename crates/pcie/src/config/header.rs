use bitfield_struct::bitfield;
use open_enum::open_enum;

use super::{ConfigSpace, ReadConfig};
use crate::address::BusAddress;

/// Offsets of the header's registers.
pub mod offset {
    /// Vendor id 15:0, device id 31:16.
    pub const IDS: u16 = 0x00;
    /// Command 15:0, status 31:16.
    pub const COMMAND: u16 = 0x04;
    /// Revision 7:0, class code 31:8.
    pub const CLASS: u16 = 0x08;
    /// Header type 22:16, multi-function device 23.
    pub const HEADER_TYPE: u16 = 0x0c;
    /// First base address register.
    pub const BAR: u16 = 0x10;
    /// Type 1: primary 7:0, secondary 15:8 and subordinate bus 23:16.
    pub const BUSES: u16 = 0x18;
    /// Type 1: memory base 15:0 and limit 31:16.
    pub const MEMORY: u16 = 0x20;
    /// Type 1: prefetchable memory base 15:0 and limit 31:16.
    pub const PREFETCHABLE: u16 = 0x24;
    /// Type 1: upper half of the prefetchable base; that of the limit follows.
    pub const PREFETCHABLE_UPPER: u16 = 0x28;
    /// Type 0: subsystem vendor id 15:0, subsystem id 31:16.
    pub const SUBSYSTEM: u16 = 0x2c;
    /// Pointer to the first PCI capability, 7:0.
    pub const CAPABILITIES: u16 = 0x34;
    /// Interrupt line 7:0 and pin 15:8; type 1: bridge control 31:16.
    pub const INTERRUPT: u16 = 0x3c;
    /// Type 1: bridge control, 16 bits.
    pub const BRIDGE_CONTROL: u16 = 0x3e;
}

/// Status register: the function has PCI capabilities. In the dword of the command register.
pub(super) const STATUS_CAPABILITIES: u32 = 1 << 20;
/// Status register: bits that a 1 clears. In the dword of the command register.
pub(super) const STATUS_CLEARABLE: u32 = 0xf900_0000;

/// Command register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Command {
    /// Answers accesses to I/O ports.
    pub io_space: bool,
    /// Answers accesses to memory (MSE).
    pub memory_space: bool,
    /// May issue requests (BME).
    pub bus_master: bool,
    #[bits(3)]
    __: u8,
    /// Reports poisoned data.
    pub parity_error_response: bool,
    __: bool,
    /// Reports errors.
    pub serr_enable: bool,
    __: bool,
    /// Sends no legacy interrupts.
    pub interrupt_disable: bool,
    #[bits(5)]
    __: u8,
}

open_enum! {
    /// Layout of the header.
    pub struct HeaderType(u8) {
        /// Type 0.
        ENDPOINT = 0 => "endpoint",
        /// Type 1.
        BRIDGE = 1 => "bridge",
    }
}

impl HeaderType {
    /// The type that the configuration space says.
    pub fn of(config: &impl ReadConfig) -> Self {
        Self((config.dword(offset::HEADER_TYPE) >> 16 & 0x7f) as u8)
    }

    /// Base address registers of a header of this type.
    pub const fn bars(self) -> u8 {
        match self {
            Self::ENDPOINT => 6,
            Self::BRIDGE => 2,
            _ => 0,
        }
    }
}

/// A memory window that a function asks for by a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Bytes: a power of two, at least 128; at most 2 GiB for a 32-bit register.
    pub size: u64,
    /// Takes two registers, and may lie above 4 GiB.
    pub wide: bool,
    /// Reads have no side effects.
    pub prefetchable: bool,
}

/// Why a base address register is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarError {
    /// The header has no such register, or not the next one for a wide window.
    #[error("there is no base address register {0}")]
    Index(u8),
    /// The register is used already.
    #[error("base address register {0} is used twice")]
    Taken(u8),
    /// The size is none that a register can say.
    #[error("base address register {index} cannot ask for {size:#x} bytes")]
    Size {
        /// Which register.
        index: u8,
        /// The size.
        size: u64,
    },
}

impl Bar {
    /// A wide, prefetchable window, as TEE memory of devices is.
    pub const fn memory64(size: u64) -> Self {
        Self { size, wide: true, prefetchable: true }
    }

    /// A window below 4 GiB.
    pub const fn memory32(size: u64) -> Self {
        Self { size, wide: false, prefetchable: false }
    }

    /// Value and writable bits of the registers of the window as number `index` of `count`; the second
    /// only for a wide one.
    pub(crate) fn registers(self, index: u8, count: u8) -> Result<[Option<(u32, u32)>; 2], BarError> {
        let last = index.checked_add(u8::from(self.wide)).filter(|&last| last < count);
        last.ok_or(BarError::Index(index))?;
        let most = if self.wide { 1 << 63 } else { 1 << 31 };
        if !self.size.is_power_of_two() || self.size < 128 || self.size > most {
            return Err(BarError::Size { index, size: self.size });
        }
        let kind = u32::from(self.wide) << 2 | u32::from(self.prefetchable) << 3;
        let mask = !(self.size - 1);
        let lower = (kind, (mask & 0xffff_ffff) as u32);
        Ok([Some(lower), self.wide.then_some((0, (mask >> 32) as u32))])
    }
}

/// A base address register as it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarView {
    /// What the function asks for.
    pub bar: Bar,
    /// Where software has put it.
    pub address: BusAddress,
}

impl BarView {
    /// Reads register `index`, its size from the bits that may be written.
    pub(super) fn of(space: &ConfigSpace, index: u8) -> Option<Self> {
        let count = space.header_type().bars();
        let register = |index: u8| {
            let at = offset::BAR + u16::from(index) * 4;
            (index < count).then(|| (space.dword(at), space.writable(at)))
        };
        // The register behind a wide one is its upper half.
        let mut at = 0;
        while at < index {
            at += 1 + u8::from(register(at)?.0 & 7 == 4);
        }
        if at != index {
            return None;
        }
        let (lower, lower_mask) = register(index)?;
        let wide = lower & 7 == 4;
        let (upper, upper_mask) = if wide { register(index + 1)? } else { (0, u32::MAX) };
        let mask = u64::from(upper_mask) << 32 | u64::from(lower_mask & !0xf);
        if mask == 0 || lower_mask & !0xf == 0 && !wide {
            return None;
        }
        let bar = Bar { size: 1 << mask.trailing_zeros(), wide, prefetchable: lower & 8 != 0 };
        let address = BusAddress(u64::from(upper) << 32 | u64::from(lower & !0xf));
        Some(Self { bar, address })
    }
}
