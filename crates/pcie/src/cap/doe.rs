use crate::config::{
    CapabilityError, Extended, ExtendedCapability, ExtendedId, Layout, ReadConfig, register,
};
use crate::doe::{Capability, DOE_SIZE, offset};

/// Data object exchange extended capability, 0x18 bytes.
///
/// In a configuration space it is the chain's header and the capability register only: accesses to the
/// rest belong to a [`Mailbox`](crate::doe::Mailbox).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoeCapability {
    /// Version of the layout: from 2 on, discovery requests have a version.
    pub version: u8,
    /// Whether there are interrupts, and which.
    pub registers: Capability,
}

impl DoeCapability {
    /// Reads a capability that a walk has found.
    pub fn read(config: &impl ReadConfig, found: Extended) -> Self {
        let registers = Capability::from_bits(register(config, found.offset, offset::CAPABILITY));
        Self { version: found.version, registers }
    }
}

impl ExtendedCapability for DoeCapability {
    const ID: ExtendedId = ExtendedId::DOE;
    /// A function has a mailbox per purpose.
    const REPEATS: bool = true;

    fn version(&self) -> u8 {
        self.version
    }

    fn size(&self) -> u16 {
        DOE_SIZE
    }

    fn check(&self) -> Result<(), CapabilityError> {
        match self.version {
            1..=0xf => Ok(()),
            version => Err(CapabilityError::Field { field: "version of DOE", value: version.into() }),
        }
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        layout.read_only(offset::CAPABILITY, self.registers.into_bits());
    }
}
