use crate::config::{
    CapabilityError, ExtendedCapability, ExtendedId, Layout, ReadConfig, find_extended, register,
};

/// Device 3 extended capability, 16 bytes: capabilities, control, status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Device3 {
    /// Device capabilities 3, as they are.
    pub capabilities: u32,
    /// Status bit 3: the function knows its segment, because everything up to the root port is in flit
    /// mode. Only then requester ids of IDE have segments.
    pub segment_captured: bool,
}

impl Device3 {
    const CAPABILITIES: u16 = 0x04;
    const CONTROL: u16 = 0x08;
    const STATUS: u16 = 0x0c;
    const SEGMENT_CAPTURED: u32 = 1 << 3;

    /// Reads the capability, if the function has it.
    pub fn find(config: &impl ReadConfig) -> Option<Self> {
        let at = find_extended(config, ExtendedId::DEVICE_3)?.offset;
        let segment_captured = register(config, at, Self::STATUS) & Self::SEGMENT_CAPTURED != 0;
        Some(Self { capabilities: register(config, at, Self::CAPABILITIES), segment_captured })
    }
}

impl ExtendedCapability for Device3 {
    const ID: ExtendedId = ExtendedId::DEVICE_3;

    fn version(&self) -> u8 {
        1
    }

    fn size(&self) -> u16 {
        0x10
    }

    fn check(&self) -> Result<(), CapabilityError> {
        Ok(())
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        layout.read_only(Self::CAPABILITIES, self.capabilities);
        layout.read_only(Self::CONTROL, 0);
        layout.read_only(Self::STATUS, if self.segment_captured { Self::SEGMENT_CAPTURED } else { 0 });
    }
}
