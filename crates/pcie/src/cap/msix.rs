use crate::config::{CapabilityError, CapabilityId, Layout, PciCapability, ReadConfig, find, register};

/// Where a table lies: base address register and offset in its window, a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableAt {
    /// Base address register, 0 to 5.
    pub bar: u8,
    /// Bytes into its window.
    pub offset: u32,
}

impl TableAt {
    const fn from_bits(bits: u32) -> Self {
        Self { bar: (bits & 7) as u8, offset: bits & !7 }
    }

    const fn into_bits(self) -> u32 {
        self.offset | self.bar as u32
    }

    fn check(self, field: &'static str) -> Result<(), CapabilityError> {
        if self.bar > 5 || !self.offset.is_multiple_of(8) {
            return Err(CapabilityError::Field { field, value: self.into_bits().into() });
        }
        Ok(())
    }
}

/// MSI-X capability, 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Messages, 1 to 2048.
    pub messages: u16,
    /// The table of messages, 16 bytes each.
    pub table: TableAt,
    /// The bits of those that are pending (PBA).
    pub pending: TableAt,
}

impl Msix {
    const CONTROL: u16 = 0x00;
    const TABLE: u16 = 0x04;
    const PENDING: u16 = 0x08;

    /// Reads the capability, if the function has it.
    pub fn find(config: &impl ReadConfig) -> Option<Self> {
        let at = find(config, CapabilityId::MSIX)?.offset;
        Some(Self {
            messages: (register(config, at, Self::CONTROL) >> 16 & 0x7ff) as u16 + 1,
            table: TableAt::from_bits(register(config, at, Self::TABLE)),
            pending: TableAt::from_bits(register(config, at, Self::PENDING)),
        })
    }

    /// Message control, as a device interface report shows it, if the function has the capability: table
    /// size − 1 in bits 10:0, function mask 14, enable 15.
    pub fn control(config: &impl ReadConfig) -> Option<u16> {
        let at = find(config, CapabilityId::MSIX)?.offset;
        Some((register(config, at, Self::CONTROL) >> 16) as u16)
    }
}

impl PciCapability for Msix {
    const ID: CapabilityId = CapabilityId::MSIX;

    fn size(&self) -> u16 {
        12
    }

    fn check(&self) -> Result<(), CapabilityError> {
        if !(1..=2048).contains(&self.messages) {
            return Err(CapabilityError::Field {
                field: "number of MSI-X messages",
                value: self.messages.into(),
            });
        }
        self.table.check("place of the MSI-X table")?;
        self.pending.check("place of the MSI-X pending bits")
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        let size = u32::from(self.messages.saturating_sub(1));
        layout.register(Self::CONTROL, size << 16, 0xc000_0000, 0);
        layout.read_only(Self::TABLE, self.table.into_bits());
        layout.read_only(Self::PENDING, self.pending.into_bits());
    }
}
