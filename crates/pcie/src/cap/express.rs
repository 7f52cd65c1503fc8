use core::fmt;

use bitfield_struct::bitfield;
use open_enum::open_enum;

use crate::config::{
    AccessError, CapabilityError, CapabilityId, ConfigSpace, Layout, PciCapability, ReadConfig, Width, find,
    register,
};

open_enum! {
    /// What a function is to the fabric.
    pub struct PortType(u8) {
        /// Endpoint.
        ENDPOINT = 0x0 => "endpoint",
        /// Root port.
        ROOT_PORT = 0x4 => "root port",
        /// Upstream port of a switch.
        UPSTREAM = 0x5 => "upstream port",
        /// Downstream port of a switch.
        DOWNSTREAM = 0x6 => "downstream port",
        /// Endpoint inside the root complex.
        INTEGRATED = 0x9 => "root complex integrated endpoint",
    }
}

impl PortType {
    /// Whether a link with a slot is below such a port.
    const fn has_slot(self) -> bool {
        matches!(self, Self::ROOT_PORT | Self::DOWNSTREAM)
    }
}

/// What a port with a slot tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The link is up: data link layer active.
    pub link_up: bool,
    /// Something is in the slot.
    pub present: bool,
}

/// Most bytes of payload in a TLP: 128 to 4096.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaxPayload(u8);

impl MaxPayload {
    /// 128 bytes, which every function can.
    pub const MIN: Self = Self(0);
    /// 4096 bytes.
    pub const MAX: Self = Self(5);

    /// The size of that many bytes: a power of two from 128 to 4096.
    pub const fn from_bytes(bytes: u16) -> Option<Self> {
        match bytes {
            128 => Some(Self(0)),
            256 => Some(Self(1)),
            512 => Some(Self(2)),
            1024 => Some(Self(3)),
            2048 => Some(Self(4)),
            4096 => Some(Self(5)),
            _ => None,
        }
    }

    /// The size that a register field says; `None` for the two values that are reserved.
    pub const fn from_field(field: u8) -> Option<Self> {
        if field > Self::MAX.0 { None } else { Some(Self(field)) }
    }

    /// The register field.
    pub const fn field(self) -> u8 {
        self.0
    }

    /// Bytes.
    pub const fn bytes(self) -> u16 {
        128 << self.0
    }
}

impl fmt::Debug for MaxPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes())
    }
}

/// Device capabilities register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct DeviceCapabilities {
    /// Most payload that the function can take, as [`MaxPayload::field`].
    #[bits(3)]
    pub max_payload: u8,
    #[bits(12)]
    __: u32,
    /// Reports errors by the role of who sees them; set in all functions since 1.1.
    pub role_based_errors: bool,
    #[bits(12)]
    __: u32,
    /// The function can be reset alone.
    pub function_reset: bool,
    __: bool,
    /// The function supports TDISP (TEE-IO).
    pub tee_io: bool,
    __: bool,
}

/// Device control register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct DeviceControl {
    /// Which errors are reported.
    #[bits(4)]
    pub errors: u8,
    /// Relaxed ordering.
    pub relaxed_ordering: bool,
    /// Most payload that the function may send, as [`MaxPayload::field`].
    #[bits(3)]
    pub max_payload: u8,
    /// Tags of 8 bits.
    pub extended_tags: bool,
    #[bits(2)]
    __: u8,
    /// No snoop.
    pub no_snoop: bool,
    /// Most bytes that the function may ask for, as [`MaxPayload::field`].
    #[bits(3)]
    pub max_read_request: u8,
    /// Resets the function. Reads as 0: whoever has the function looks at what is written.
    pub function_reset: bool,
}

/// PCI Express capability, 0x3c bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    /// What the function is.
    pub port_type: PortType,
    /// Most payload that it can take.
    pub max_payload: MaxPayload,
    /// It can be reset alone.
    pub function_reset: bool,
    /// It supports TDISP.
    pub tee_io: bool,
    /// Speed of the link, 1 (2.5 GT/s) to 6 (64 GT/s).
    pub link_speed: u8,
    /// Lanes of the link, 1 to 32.
    pub link_width: u8,
}

impl Express {
    /// Offset of the device control register.
    pub const DEVICE_CONTROL: u16 = 0x08;
    const FLAGS: u16 = 0x00;
    const DEVICE_CAPABILITIES: u16 = 0x04;
    const LINK_CAPABILITIES: u16 = 0x0c;
    const LINK_CONTROL: u16 = 0x10;
    const SLOT_CAPABILITIES: u16 = 0x14;
    const SLOT_CONTROL: u16 = 0x18;
    /// Link capabilities: a link that goes down unasked is an error, and the link status tells whether it is
    /// up.
    const TELLS_LINK: u32 = 0b11 << 19;
    /// Link status, in the dword of the link control: data link layer active.
    const LINK_ACTIVE: u32 = 1 << 29;
    /// Slot capabilities: what is in the slot may vanish, or change.
    const HOT_PLUG: u32 = 0b11 << 5;
    /// Slot control: presence detect and data link layer changes are told.
    const SLOT_WRITABLE: u32 = 0x1008;
    /// Slot status, in the dword of the slot control: something is in the slot.
    const PRESENT: u32 = 1 << 22;
    /// Slot status: presence detect has changed, and the state of the data link layer has.
    const PRESENCE_CHANGED: u32 = 1 << 19;
    const LINK_CHANGED: u32 = 1 << 24;

    /// Reads the capability, if the function has it. A payload size that is reserved counts as 128.
    pub fn find(config: &impl ReadConfig) -> Option<Self> {
        let at = find(config, CapabilityId::EXPRESS)?.offset;
        let device = DeviceCapabilities::from_bits(register(config, at, Self::DEVICE_CAPABILITIES));
        let link = register(config, at, Self::LINK_CAPABILITIES);
        Some(Self {
            port_type: PortType((register(config, at, Self::FLAGS) >> 20 & 0xf) as u8),
            max_payload: MaxPayload::from_field(device.max_payload()).unwrap_or(MaxPayload::MIN),
            function_reset: device.function_reset(),
            tee_io: device.tee_io(),
            link_speed: (link & 0xf) as u8,
            link_width: (link >> 4 & 0x3f) as u8,
        })
    }

    /// The device control register, if the function has the capability, with its offset.
    pub fn control(config: &impl ReadConfig) -> Option<(u16, DeviceControl)> {
        let at = find(config, CapabilityId::EXPRESS)?.offset;
        let control = register(config, at, Self::DEVICE_CONTROL) & 0xffff;
        Some((at + Self::DEVICE_CONTROL, DeviceControl::from_bits(control as u16)))
    }

    /// Whether the link below a root port or a downstream port of a switch is up, and something is in its
    /// slot. `None` for functions without a slot.
    pub fn slot(config: &impl ReadConfig) -> Option<Slot> {
        let at = find(config, CapabilityId::EXPRESS)?.offset;
        PortType((register(config, at, Self::FLAGS) >> 20 & 0xf) as u8).has_slot().then(|| Slot {
            link_up: register(config, at, Self::LINK_CONTROL) & Self::LINK_ACTIVE != 0,
            present: register(config, at, Self::SLOT_CONTROL) & Self::PRESENT != 0,
        })
    }

    /// Says what is below a port with a slot, as its hardware does, and that it has changed if it has.
    pub fn set_slot(config: &mut ConfigSpace, slot: Slot) -> Result<(), AccessError> {
        let (Some(before), Some(found)) = (Self::slot(config), find(config, CapabilityId::EXPRESS)) else {
            return Ok(());
        };
        let put = |dword: u32, bit: u32, set: bool| if set { dword | bit } else { dword & !bit };
        let at = found.offset.saturating_add(Self::LINK_CONTROL);
        let link = put(config.read32(at)?, Self::LINK_ACTIVE, slot.link_up);
        config.set(at, Width::Dword, link)?;
        let at = found.offset.saturating_add(Self::SLOT_CONTROL);
        let mut status = put(config.read32(at)?, Self::PRESENT, slot.present);
        for (bit, changed) in [
            (Self::PRESENCE_CHANGED, before.present != slot.present),
            (Self::LINK_CHANGED, before.link_up != slot.link_up),
        ] {
            status |= if changed { bit } else { 0 };
        }
        config.set(at, Width::Dword, status).map(drop)
    }

    const fn link(self) -> u32 {
        (self.link_width as u32) << 4 | self.link_speed as u32
    }
}

impl PciCapability for Express {
    const ID: CapabilityId = CapabilityId::EXPRESS;

    fn size(&self) -> u16 {
        0x3c
    }

    fn check(&self) -> Result<(), CapabilityError> {
        for (field, value, allowed) in [
            ("type of the port", self.port_type.0, self.port_type.0 <= 0xf),
            ("link speed", self.link_speed, (1..=6).contains(&self.link_speed)),
            ("link width", self.link_width, matches!(self.link_width, 1 | 2 | 4 | 8 | 16 | 32)),
        ] {
            if !allowed {
                return Err(CapabilityError::Field { field, value: value.into() });
            }
        }
        Ok(())
    }

    fn lay_out(&self, layout: &mut Layout<'_>) {
        let slot = self.port_type.has_slot();
        // Version 2 of the layout in bits 19:16; bit 24: there is a slot.
        layout.read_only(Self::FLAGS, u32::from(slot) << 24 | u32::from(self.port_type.0) << 20 | 2 << 16);
        let device = DeviceCapabilities::new()
            .with_max_payload(self.max_payload.field())
            .with_role_based_errors(true)
            .with_function_reset(self.function_reset)
            .with_tee_io(self.tee_io);
        layout.read_only(Self::DEVICE_CAPABILITIES, device.into_bits());
        // As after power-on: relaxed ordering, no snoop, reads of 512 bytes.
        let control =
            DeviceControl::new().with_relaxed_ordering(true).with_no_snoop(true).with_max_read_request(2);
        let writable = DeviceControl::from_bits(u16::MAX).with_function_reset(false).into_bits() & !(3 << 9);
        // The status register above has four errors that a 1 clears.
        layout.register(Self::DEVICE_CONTROL, control.into_bits().into(), writable.into(), 0xf << 16);
        layout.read_only(Self::LINK_CAPABILITIES, self.link() | if slot { Self::TELLS_LINK } else { 0 });
        layout.read_only(Self::LINK_CONTROL, self.link() << 16);
        if slot {
            layout.read_only(Self::SLOT_CAPABILITIES, Self::HOT_PLUG);
            let changed = Self::PRESENCE_CHANGED | Self::LINK_CHANGED;
            layout.register(Self::SLOT_CONTROL, 0, Self::SLOT_WRITABLE, changed);
        }
    }
}
