use crate::address::Bdf;
use crate::config::{
    Bar, BarError, CapabilityError, ExtendedCapability, ExtendedId, Layout, ReadConfig, find_extended,
    register,
};

/// SR-IOV extended capability of a physical function, 0x40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SrIov {
    /// Virtual functions at most.
    pub total: u16,
    /// Routing id of the first virtual function, counted from the physical one.
    pub first_offset: u16,
    /// From one virtual function to the next.
    pub stride: u16,
    /// Device id of the virtual functions.
    pub device: u16,
    /// Base address registers of the virtual functions; each window is repeated for every function.
    pub bars: [Option<Bar>; 6],
}

const CONTROL: u16 = 0x08;
const TOTAL: u16 = 0x0c;
const NUMBER: u16 = 0x10;
const OFFSETS: u16 = 0x14;
const DEVICE: u16 = 0x18;
const SUPPORTED_PAGES: u16 = 0x1c;
const SYSTEM_PAGES: u16 = 0x20;
const BARS: u16 = 0x24;
/// 4 KiB in the registers of page sizes.
const PAGE_4K: u32 = 1;
/// Control: virtual functions are there.
const ENABLE: u32 = 1;
/// Control: they answer accesses to memory.
const MEMORY_ENABLE: u32 = 1 << 3;

impl ExtendedCapability for SrIov {
    const ID: ExtendedId = ExtendedId::SR_IOV;

    fn version(&self) -> u8 {
        1
    }

    fn size(&self) -> u16 {
        0x40
    }

    fn check(&self) -> Result<(), CapabilityError> {
        for (field, value) in [
            ("number of virtual functions", self.total),
            ("offset of the first virtual function", self.first_offset),
        ] {
            if value == 0 {
                return Err(CapabilityError::Field { field, value: 0 });
            }
        }
        if self.stride == 0 && self.total > 1 {
            return Err(CapabilityError::Field { field: "stride of virtual functions", value: 0 });
        }
        let mut next = 0;
        for (index, bar) in (0..).zip(self.bars) {
            let Some(bar) = bar else { continue };
            if index < next {
                return Err(BarError::Taken(index).into());
            }
            bar.registers(index, 6)?;
            next = index + 1 + u8::from(bar.wide);
        }
        Ok(())
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        layout.register(CONTROL, 0, ENABLE | MEMORY_ENABLE, 0);
        layout.read_only(TOTAL, u32::from(self.total) << 16 | u32::from(self.total));
        layout.register(NUMBER, 0, 0xffff, 0);
        layout.read_only(OFFSETS, u32::from(self.stride) << 16 | u32::from(self.first_offset));
        layout.read_only(DEVICE, u32::from(self.device) << 16);
        layout.read_only(SUPPORTED_PAGES, PAGE_4K);
        layout.register(SYSTEM_PAGES, PAGE_4K, PAGE_4K, 0);
        for (index, bar) in (0..).zip(self.bars) {
            // `check` has refused those that are none.
            let Some(Ok(registers)) = bar.map(|bar| bar.registers(index, 6)) else { continue };
            for (half, (value, writable)) in (0..).zip(registers.into_iter().flatten()) {
                layout.register(BARS + (u16::from(index) + half) * 4, value, writable, 0);
            }
        }
    }
}

/// The SR-IOV registers of a physical function, as they are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SrIovRegisters {
    /// Virtual functions are enabled.
    pub enabled: bool,
    /// They answer accesses to memory.
    pub memory_enabled: bool,
    /// At most so many.
    pub total: u16,
    /// So many when they are enabled.
    pub number: u16,
    /// Routing id of the first one, counted from the physical function.
    pub first_offset: u16,
    /// From one to the next.
    pub stride: u16,
    /// Their device id.
    pub device: u16,
}

impl SrIovRegisters {
    /// Reads the registers, if the function has the capability.
    pub fn find(config: &impl ReadConfig) -> Option<Self> {
        let at = find_extended(config, ExtendedId::SR_IOV)?.offset;
        let low = |offset| (register(config, at, offset) & 0xffff) as u16;
        let high = |offset| (register(config, at, offset) >> 16) as u16;
        let control = register(config, at, CONTROL);
        Some(Self {
            enabled: control & ENABLE != 0,
            memory_enabled: control & MEMORY_ENABLE != 0,
            total: high(TOTAL),
            number: low(NUMBER),
            first_offset: low(OFFSETS),
            stride: high(OFFSETS),
            device: high(DEVICE),
        })
    }

    /// Virtual functions that are there now.
    pub const fn count(&self) -> u16 {
        if !self.enabled {
            0
        } else if self.number < self.total {
            self.number
        } else {
            self.total
        }
    }

    /// Virtual function `index` of `physical`, counted from 0; `None` beyond the last bus. It need not be
    /// there now.
    pub const fn virtual_function(&self, physical: Bdf, index: u16) -> Option<Bdf> {
        let Some(steps) = self.stride.checked_mul(index) else { return None };
        let Some(distance) = self.first_offset.checked_add(steps) else { return None };
        physical.checked_add(distance)
    }

    /// Which virtual function of `physical` is `function`, of those that are there now.
    pub fn index_of(&self, physical: Bdf, function: Bdf) -> Option<u16> {
        let distance = function.routing_id().checked_sub(physical.routing_id())?;
        let steps = distance.checked_sub(self.first_offset)?;
        let index = if steps == 0 { 0 } else { steps.checked_div(self.stride)? };
        let there = index < self.count() && self.virtual_function(physical, index) == Some(function);
        there.then_some(index)
    }
}
