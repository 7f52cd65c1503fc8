//! Operands of TDH.IDE.STREAM.CREATE.

/// `stream_info`: bits 7:0 device and function number of the root port, bit 8 type (1 selective), rest 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo(pub u64);

impl StreamInfo {
    const SELECTIVE: u64 = 1 << 8;
    const DEVFN: u64 = 0xFF;

    /// A selective stream at the root port with this device and function number.
    pub const fn selective(devfn: u8) -> Self {
        #[allow(clippy::cast_lossless)]
        Self(devfn as u64 | Self::SELECTIVE)
    }

    /// Device and function number of the root port.
    pub const fn devfn(self) -> u8 {
        #[allow(clippy::cast_possible_truncation)] // Masked.
        let devfn = (self.0 & Self::DEVFN) as u8;
        devfn
    }

    /// True for a selective stream.
    pub const fn is_selective(self) -> bool {
        self.0 & Self::SELECTIVE != 0
    }

    /// Bits that must be 0.
    pub const fn reserved(self) -> u64 {
        self.0 & !(Self::SELECTIVE | Self::DEVFN)
    }
}

/// Bits of `stream_ctrl`, a Selective IDE Stream Control register, that a caller may set: PCRC (8) and the
/// traffic class (21:19).
pub const STREAM_CTRL_SETTABLE: u64 = 1 << 8 | 0x7 << 19;

/// Stream ids below this are given out: Linux keeps 255 for register blocks that are never enabled.
pub const STREAM_ID_LIMIT: u16 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_port_and_the_type_are_told_apart() {
        let info = StreamInfo::selective(0x0A);
        assert_eq!(info, StreamInfo(0x10A));
        assert_eq!((info.devfn(), info.is_selective(), info.reserved()), (0x0A, true, 0));
        assert!(!StreamInfo(0x0A).is_selective());
        assert_eq!(StreamInfo(0x20A).reserved(), 0x200);
    }
}
