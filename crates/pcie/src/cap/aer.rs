use bitfield_struct::bitfield;

use crate::config::{
    AccessError, CapabilityError, ConfigSpace, ExtendedCapability, ExtendedId, Layout, ReadConfig, Width,
    find_extended, register,
};

/// Errors that advanced error reporting calls uncorrectable; those of IDE by name.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct UncorrectableErrors {
    /// All others.
    #[bits(28)]
    pub others: u32,
    /// The MAC of an IDE TLP is wrong.
    pub ide_check_failed: bool,
    /// An IDE TLP has come to the wrong port.
    pub misrouted_ide_tlp: bool,
    /// The PCRC of an IDE TLP is wrong.
    pub pcrc_check_failed: bool,
    __: bool,
}

/// Advanced error reporting extended capability of an endpoint, 0x2c bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Aer;

impl Aer {
    const UNCORRECTABLE_STATUS: u16 = 0x04;
    const UNCORRECTABLE_MASK: u16 = 0x08;
    const UNCORRECTABLE_SEVERITY: u16 = 0x0c;
    const CORRECTABLE_STATUS: u16 = 0x10;
    const CORRECTABLE_MASK: u16 = 0x14;
    /// Errors that an endpoint with IDE may have: bits 4, 12 to 20, 22, 28 to 30.
    const UNCORRECTABLE: u32 = 0x705f_f010;
    /// Those that are fatal unless software says otherwise: 4, 13, 17, 18, 22 and 28.
    const FATAL: u32 = 0x1046_2010;
    /// Bits 0, 6 to 8, 12, 13 and 14.
    const CORRECTABLE: u32 = 0x71c1;

    /// The errors that have happened and were not cleared, if the function has the capability.
    pub fn uncorrectable(config: &impl ReadConfig) -> Option<UncorrectableErrors> {
        let at = find_extended(config, ExtendedId::AER)?.offset;
        Some(UncorrectableErrors::from_bits(register(config, at, Self::UNCORRECTABLE_STATUS)))
    }

    /// Notes errors in the status register of a function; nothing happens to one without the capability.
    pub fn report(config: &mut ConfigSpace, errors: UncorrectableErrors) -> Result<(), AccessError> {
        let Some(found) = find_extended(config, ExtendedId::AER) else { return Ok(()) };
        let at = found.offset.saturating_add(Self::UNCORRECTABLE_STATUS);
        let status = config.read32(at)? | errors.into_bits();
        config.set(at, Width::Dword, status).map(drop)
    }
}

impl ExtendedCapability for Aer {
    const ID: ExtendedId = ExtendedId::AER;

    fn version(&self) -> u8 {
        2
    }

    fn size(&self) -> u16 {
        0x2c
    }

    fn check(&self) -> Result<(), CapabilityError> {
        Ok(())
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        layout.register(Self::UNCORRECTABLE_STATUS, 0, 0, Self::UNCORRECTABLE);
        layout.register(Self::UNCORRECTABLE_MASK, 0, Self::UNCORRECTABLE, 0);
        layout.register(Self::UNCORRECTABLE_SEVERITY, Self::FATAL, Self::UNCORRECTABLE, 0);
        layout.register(Self::CORRECTABLE_STATUS, 0, 0, Self::CORRECTABLE);
        // Advisory non-fatal errors are masked until software asks for them.
        layout.register(Self::CORRECTABLE_MASK, 1 << 13, Self::CORRECTABLE, 0);
    }
}
