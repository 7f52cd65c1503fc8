use bitfield_struct::bitfield;

/// Bytes of the extended capability, its header included.
pub const DOE_SIZE: u16 = 0x18;

/// Offsets of the registers in the extended capability.
pub mod offset {
    /// [`Capability`](super::Capability).
    pub const CAPABILITY: u16 = 0x04;
    /// [`Control`](super::Control).
    pub const CONTROL: u16 = 0x08;
    /// [`Status`](super::Status).
    pub const STATUS: u16 = 0x0c;
    /// Write data mailbox: each write adds a dword to the object for the device.
    pub const WRITE_MAILBOX: u16 = 0x10;
    /// Read data mailbox: a read gives the current dword of the device's object, any write goes to the
    /// next one.
    pub const READ_MAILBOX: u16 = 0x14;
}

/// DOE capabilities register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// The mailbox can send an interrupt.
    pub interrupt_support: bool,
    /// Which MSI or MSI-X message it sends.
    #[bits(11)]
    pub interrupt_message: u16,
    #[bits(20)]
    __: u32,
}

/// DOE control register. Abort and go are commands and read as 0.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// Give up whatever is going on.
    pub abort: bool,
    /// Send interrupts.
    pub interrupt_enable: bool,
    #[bits(29)]
    __: u32,
    /// The object in the write mailbox is complete.
    pub go: bool,
}

/// DOE status register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Status {
    /// The mailbox takes no object now.
    pub busy: bool,
    /// An interrupt was sent; written as 1 to clear it.
    pub interrupt_status: bool,
    /// Something went wrong: only an abort helps.
    pub error: bool,
    #[bits(28)]
    __: u32,
    /// An object can be read.
    pub ready: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_bits_are_at_their_places() {
        assert_eq!(
            Capability::new().with_interrupt_support(true).with_interrupt_message(0x7ff).into_bits(),
            0xfff
        );
        assert_eq!(Control::new().with_abort(true).into_bits(), 1);
        assert_eq!(Control::new().with_interrupt_enable(true).into_bits(), 2);
        assert_eq!(Control::new().with_go(true).into_bits(), 1 << 31);
        assert_eq!(Status::new().with_busy(true).into_bits(), 1);
        assert_eq!(Status::new().with_interrupt_status(true).into_bits(), 2);
        assert_eq!(Status::new().with_error(true).into_bits(), 4);
        assert_eq!(Status::new().with_ready(true).into_bits(), 1 << 31);
    }
}
