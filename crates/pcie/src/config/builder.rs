use super::header::{Bar, BarError, Command, HeaderType, STATUS_CAPABILITIES, STATUS_CLEARABLE, offset};
use super::walk::{CapabilityId, ExtendedId, find, find_extended};
use super::{CONFIG_SIZE, ConfigSpace, ReadConfig};

/// Who a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionIds {
    /// Vendor id of the PCI-SIG.
    pub vendor: u16,
    /// Device id, by the vendor.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class code: base class, sub-class, programming interface.
    pub class: [u8; 3],
    /// Vendor of the subsystem.
    pub subsystem_vendor: u16,
    /// Id of the subsystem.
    pub subsystem: u16,
}

/// Why a capability cannot be what its fields say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// A field does not fit its register, or must not be so.
    #[error("{field} must not be {value:#x}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A base address register of its own is refused.
    #[error(transparent)]
    Bar(#[from] BarError),
}

/// Why a configuration space is not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The capability begins at no multiple of 4, or its size is none.
    #[error("capability {id:#x} of {size:#x} bytes is not aligned at offset {offset:#x}")]
    Misaligned {
        /// Id of the capability.
        id: u16,
        /// Where it was to be.
        offset: u16,
        /// Its size.
        size: u16,
    },
    /// The capability reaches into another one, or the header.
    #[error("capability {id:#x} of {size:#x} bytes at offset {offset:#x} overlaps something at {taken:#x}")]
    Overlap {
        /// Id of the capability.
        id: u16,
        /// Where it was to be.
        offset: u16,
        /// Its size.
        size: u16,
        /// The first offset that is taken.
        taken: u16,
    },
    /// The capability lies outside the part of the space for capabilities of its kind.
    #[error("capability {id:#x} of {size:#x} bytes at offset {offset:#x} lies outside its part of the space")]
    Outside {
        /// Id of the capability.
        id: u16,
        /// Where it was to be.
        offset: u16,
        /// Its size.
        size: u16,
    },
    /// No gap is large enough.
    #[error("there is no room for capability {id:#x} of {size:#x} bytes")]
    NoRoom {
        /// Id of the capability.
        id: u16,
        /// Its size.
        size: u16,
    },
    /// A function has such a capability once.
    #[error("capability {0:#x} is there already")]
    Duplicate(u16),
    /// The chain of extended capabilities begins at 0x100, and nothing was put there.
    #[error("the first extended capability is at offset {0:#x}, not 0x100")]
    NotFirst(u16),
    /// The capability lays out a register behind its end.
    #[error("capability {id:#x} has a register at {register:#x}, behind its end")]
    Overrun {
        /// Id of the capability.
        id: u16,
        /// Offset in the capability.
        register: u16,
    },
    /// The capability contradicts itself.
    #[error("capability {id:#x}: {error}")]
    Capability {
        /// Id of the capability.
        id: u16,
        /// Why.
        error: CapabilityError,
    },
    /// A base address register is refused.
    #[error(transparent)]
    Bar(#[from] BarError),
}

/// Where a capability lays out its registers. Bits that it does not name are 0 and read-only.
#[derive(Debug)]
pub struct Layout<'a> {
    space: &'a mut ConfigSpace,
    offset: u16,
    size: u16,
    /// Bits of the first dword that belong to the chain.
    chain: u32,
    overrun: Option<u16>,
}

impl Layout<'_> {
    /// A read-only dword at `register` of the capability.
    pub fn read_only(&mut self, register: u16, value: u32) {
        self.register(register, value, 0, 0);
    }

    /// A dword with its value, the bits that software may write and those that a 1 clears.
    pub fn register(&mut self, register: u16, value: u32, writable: u32, clearable: u32) {
        if register >= self.size || !register.is_multiple_of(4) {
            self.overrun = Some(register);
            return;
        }
        let bits = if register == 0 { !self.chain } else { u32::MAX };
        self.space.define(self.offset + register, bits, value, writable, clearable);
    }
}

/// A capability of the chain in the first 256 bytes.
pub trait PciCapability {
    /// Its id.
    const ID: CapabilityId;

    /// Its bytes, header included.
    fn size(&self) -> u16;
    /// Whether its fields can be.
    fn check(&self) -> Result<(), CapabilityError>;
    /// Lays out its registers. Bits 15:0 of the first belong to the chain.
    fn lay_out(&self, layout: &mut Layout<'_>);
}

/// A capability of the chain from offset 0x100.
pub trait ExtendedCapability {
    /// Its id.
    const ID: ExtendedId;
    /// Whether a function may have several.
    const REPEATS: bool = false;

    /// Version of its layout.
    fn version(&self) -> u8;
    /// Its bytes, header included.
    fn size(&self) -> u16;
    /// Whether its fields can be.
    fn check(&self) -> Result<(), CapabilityError>;
    /// Lays out its registers. The first dword belongs to the chain.
    fn lay_out(&self, layout: &mut Layout<'_>);
}

/// Part of the space that a chain lives in.
#[derive(Clone, Copy)]
struct Part {
    first: u16,
    end: u16,
    /// Bits of a capability's first dword that belong to the chain.
    chain: u32,
}

const PCI: Part = Part { first: 0x40, end: 0x100, chain: 0xffff };
const EXTENDED: Part = Part { first: 0x100, end: CONFIG_SIZE, chain: u32::MAX };

/// Puts a configuration space together: header, base address registers, capabilities.
///
/// Capabilities are chained in the order in which they are added.
#[derive(Clone, Debug)]
pub struct ConfigBuilder {
    space: ConfigSpace,
    /// One bit per dword that is taken.
    taken: [u64; CONFIG_SIZE as usize / 4 / 64],
    bars: u8,
    last_pci: Option<u16>,
    last_extended: Option<u16>,
}

impl ConfigBuilder {
    /// A function with a type 0 header.
    pub fn endpoint(ids: FunctionIds) -> Self {
        let mut builder = Self::new(ids, HeaderType::ENDPOINT);
        let subsystem = u32::from(ids.subsystem) << 16 | u32::from(ids.subsystem_vendor);
        builder.define(offset::SUBSYSTEM, subsystem, 0, 0);
        builder
    }

    /// A virtual function: its ids read as ones and it has no base address registers, because those are
    /// in the SR-IOV capability of its physical function, with the memory space enable.
    pub fn virtual_function(ids: FunctionIds) -> Self {
        let mut builder = Self::endpoint(FunctionIds { vendor: 0xffff, device: 0xffff, ..ids });
        let command = Command::new().with_bus_master(true);
        builder.define(offset::COMMAND, 0, command.into_bits().into(), STATUS_CLEARABLE);
        builder.bars = 0x3f;
        builder
    }

    /// A root port or a port of a switch, with a type 1 header.
    pub fn bridge(ids: FunctionIds) -> Self {
        let mut builder = Self::new(ids, HeaderType::BRIDGE);
        builder.define(offset::BUSES, 0, 0x00ff_ffff, 0);
        builder.define(offset::MEMORY, 0, 0xfff0_fff0, 0);
        // 64-bit prefetchable memory behind the bridge: 1 in bits 3:0.
        builder.define(offset::PREFETCHABLE, 0x0001_0001, 0xfff0_fff0, 0);
        builder.define(offset::PREFETCHABLE_UPPER, 0, u32::MAX, 0);
        builder.define(offset::PREFETCHABLE_UPPER + 4, 0, u32::MAX, 0);
        // Interrupt line, and of bridge control: parity error response, SERR#, secondary bus reset.
        builder.define(offset::INTERRUPT, 0, 0x0043_00ff, 0);
        builder
    }

    fn new(ids: FunctionIds, header_type: HeaderType) -> Self {
        let [base, sub, interface] = ids.class;
        let mut taken = [0; CONFIG_SIZE as usize / 4 / 64];
        if let Some(first) = taken.first_mut() {
            *first = 0xffff;
        }
        let mut builder =
            Self { space: ConfigSpace::new(), taken, bars: 0, last_pci: None, last_extended: None };
        builder.define(offset::IDS, u32::from(ids.device) << 16 | u32::from(ids.vendor), 0, 0);
        let command = Command::new()
            .with_memory_space(true)
            .with_bus_master(true)
            .with_parity_error_response(true)
            .with_serr_enable(true)
            .with_interrupt_disable(true);
        builder.define(offset::COMMAND, 0, command.into_bits().into(), STATUS_CLEARABLE);
        builder.define(offset::CLASS, u32::from_be_bytes([base, sub, interface, ids.revision]), 0, 0);
        builder.define(offset::HEADER_TYPE, u32::from(header_type.0) << 16, 0xff, 0);
        // Interrupt line.
        builder.define(offset::INTERRUPT, 0, 0xff, 0);
        builder
    }

    fn define(&mut self, offset: u16, value: u32, writable: u32, clearable: u32) {
        self.space.define(offset, u32::MAX, value, writable, clearable);
    }

    /// Says that the device has other functions.
    #[must_use]
    pub fn multi_function(mut self) -> Self {
        self.space.define(offset::HEADER_TYPE, 1 << 23, 1 << 23, 0, 0);
        self
    }

    /// Adds base address register `index`.
    pub fn bar(&mut self, index: u8, bar: Bar) -> Result<(), BuildError> {
        let registers = bar.registers(index, self.space.header_type().bars())?;
        let both =
            (0..).zip(registers).filter_map(|(half, register)| register.map(|found| (index + half, found)));
        for (index, _) in both.clone() {
            if self.bars & 1 << index != 0 {
                return Err(BarError::Taken(index).into());
            }
        }
        for (index, (value, writable)) in both {
            self.bars |= 1 << index;
            self.define(offset::BAR + u16::from(index) * 4, value, writable, 0);
        }
        Ok(())
    }

    /// Adds a PCI capability in the first gap that is large enough, and says where.
    pub fn capability<T: PciCapability>(&mut self, capability: &T) -> Result<u16, BuildError> {
        let offset = self.gap(PCI, T::ID.0.into(), capability.size())?;
        self.capability_at(offset, capability)
    }

    /// Adds a PCI capability at `offset`.
    pub fn capability_at<T: PciCapability>(
        &mut self,
        offset: u16,
        capability: &T,
    ) -> Result<u16, BuildError> {
        let (id, size) = (T::ID.0.into(), capability.size());
        capability.check().map_err(|error| BuildError::Capability { id, error })?;
        if find(&self.space, T::ID).is_some() {
            return Err(BuildError::Duplicate(id));
        }
        self.claim(PCI, id, offset, size)?;
        self.space.define(offset, PCI.chain, u32::from(id), 0, 0);
        if let Some(last) = self.last_pci.replace(offset) {
            self.space.define(last, 0xff00, u32::from(offset) << 8, 0, 0);
        } else {
            self.space.define(offset::COMMAND, STATUS_CAPABILITIES, STATUS_CAPABILITIES, 0, 0);
            self.define(offset::CAPABILITIES, offset.into(), 0, 0);
        }
        self.lay_out(PCI, id, offset, size, |layout| capability.lay_out(layout))
    }

    /// Adds an extended capability in the first gap that is large enough, and says where.
    pub fn extended<T: ExtendedCapability>(&mut self, capability: &T) -> Result<u16, BuildError> {
        let offset = self.gap(EXTENDED, T::ID.0, capability.size())?;
        self.extended_at(offset, capability)
    }

    /// Adds an extended capability at `offset`, the first one at 0x100.
    pub fn extended_at<T: ExtendedCapability>(
        &mut self,
        offset: u16,
        capability: &T,
    ) -> Result<u16, BuildError> {
        let (id, size) = (T::ID.0, capability.size());
        capability.check().map_err(|error| BuildError::Capability { id, error })?;
        if !T::REPEATS && find_extended(&self.space, T::ID).is_some() {
            return Err(BuildError::Duplicate(id));
        }
        if self.last_extended.is_none() && offset != EXTENDED.first {
            return Err(BuildError::NotFirst(offset));
        }
        self.claim(EXTENDED, id, offset, size)?;
        let header = u32::from(capability.version() & 0xf) << 16 | u32::from(id);
        self.define(offset, header, 0, 0);
        if let Some(last) = self.last_extended.replace(offset) {
            self.space.define(last, 0xfff0_0000, u32::from(offset) << 20, 0, 0);
        }
        self.lay_out(EXTENDED, id, offset, size, |layout| capability.lay_out(layout))
    }

    /// The configuration space.
    pub fn build(self) -> ConfigSpace {
        self.space
    }

    fn lay_out(
        &mut self,
        part: Part,
        id: u16,
        offset: u16,
        size: u16,
        lay_out: impl FnOnce(&mut Layout<'_>),
    ) -> Result<u16, BuildError> {
        let mut layout = Layout { space: &mut self.space, offset, size, chain: part.chain, overrun: None };
        lay_out(&mut layout);
        match layout.overrun {
            Some(register) => Err(BuildError::Overrun { id, register }),
            None => Ok(offset),
        }
    }

    fn is_taken(&self, offset: u16) -> bool {
        let dword = offset / 4;
        self.taken.get(usize::from(dword / 64)).is_none_or(|word| word & 1 << (dword % 64) != 0)
    }

    /// The first offset of `size` bytes that is taken.
    fn first_taken(&self, offset: u16, size: u16) -> Option<u16> {
        (offset..offset.saturating_add(size)).step_by(4).find(|&offset| self.is_taken(offset))
    }

    fn gap(&self, part: Part, id: u16, size: u16) -> Result<u16, BuildError> {
        let last = part.end.checked_sub(size.max(4)).ok_or(BuildError::NoRoom { id, size })?;
        let mut offsets = (part.first..=last).step_by(4);
        offsets
            .find(|&offset| self.first_taken(offset, size).is_none())
            .ok_or(BuildError::NoRoom { id, size })
    }

    fn claim(&mut self, part: Part, id: u16, offset: u16, size: u16) -> Result<(), BuildError> {
        if !offset.is_multiple_of(4) || !size.is_multiple_of(4) || size == 0 {
            return Err(BuildError::Misaligned { id, offset, size });
        }
        let end = offset.checked_add(size).filter(|&end| offset >= part.first && end <= part.end);
        let end = end.ok_or(BuildError::Outside { id, offset, size })?;
        if let Some(taken) = self.first_taken(offset, size) {
            return Err(BuildError::Overlap { id, offset, size, taken });
        }
        for dword in offset / 4..end / 4 {
            if let Some(word) = self.taken.get_mut(usize::from(dword / 64)) {
                *word |= 1 << (dword % 64);
            }
        }
        Ok(())
    }
}

impl ReadConfig for ConfigBuilder {
    fn dword(&self, offset: u16) -> u32 {
        self.space.dword(offset)
    }
}
