use bitfield_struct::bitfield;
use open_enum::open_enum;

/// IDE capability register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// Link streams.
    pub link: bool,
    /// Selective streams.
    pub selective: bool,
    /// TLPs of other streams pass through.
    pub flow_through: bool,
    /// Parts of the header are encrypted too.
    pub partial_header_encryption: bool,
    /// One MAC covers several TLPs.
    pub aggregation: bool,
    /// PCRC.
    pub pcrc: bool,
    /// Keys come by IDE_KM.
    pub ide_km: bool,
    /// Configuration requests may be in a selective stream.
    pub selective_config: bool,
    /// Algorithms: 0 is AES-GCM with keys of 256 bits and MACs of 96 bits.
    #[bits(5)]
    pub algorithms: u8,
    /// Traffic classes that have a link stream, less 1.
    #[bits(3)]
    pub link_classes: u8,
    /// Selective streams, less 1.
    #[bits(8)]
    pub selective_streams: u8,
    /// Streams may be limited to TEE traffic.
    pub tee_limited: bool,
    #[bits(7)]
    __: u8,
}

/// IDE control register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Control {
    #[bits(2)]
    __: u8,
    /// TLPs of other streams pass through.
    pub flow_through: bool,
    #[bits(29)]
    __: u32,
}

/// Control register of a link or selective stream. Bits 9, 22 and 23 are reserved in that of a link
/// stream.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct StreamControl {
    /// The stream is to be secure.
    pub enable: bool,
    __: bool,
    /// Non-posted requests under one MAC: 0 one, 1 up to 2, 2 up to 4, 3 up to 8.
    #[bits(2)]
    pub aggregate_non_posted: u8,
    /// Posted requests under one MAC.
    #[bits(2)]
    pub aggregate_posted: u8,
    /// Completions under one MAC.
    #[bits(2)]
    pub aggregate_completions: u8,
    /// PCRC.
    pub pcrc: bool,
    /// Configuration requests are in the stream.
    pub config: bool,
    /// How much of the header is encrypted.
    #[bits(4)]
    pub partial_header_encryption: u8,
    /// Algorithm, a value of [`Capability::algorithms`].
    #[bits(5)]
    pub algorithm: u8,
    /// Traffic class.
    #[bits(3)]
    pub traffic_class: u8,
    /// TLPs that match no stream are in this one.
    pub default: bool,
    /// Only TEE traffic is in the stream.
    pub tee_limited: bool,
    /// Stream id.
    pub stream_id: u8,
}

open_enum! {
    /// What a stream is in, bits 3:0 of its status register.
    pub struct StreamState(u8) {
        /// TLPs are neither encrypted nor checked, and TEE traffic is not let through.
        INSECURE = 0 => "insecure",
        /// Keys are in use.
        SECURE = 2 => "secure",
    }
}

impl StreamState {
    /// From a register field.
    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// As a register field.
    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// Status register of a stream.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct StreamStatus {
    /// What the stream is in.
    #[bits(4)]
    pub state: StreamState,
    #[bits(27)]
    __: u32,
    /// The other side has said that an integrity check failed; written as 1 to clear it.
    pub fail_message: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_bits_are_at_their_places() {
        for (bits, expected) in [
            (Capability::new().with_link(true).into_bits(), 1),
            (Capability::new().with_selective(true).into_bits(), 1 << 1),
            (Capability::new().with_flow_through(true).into_bits(), 1 << 2),
            (Capability::new().with_partial_header_encryption(true).into_bits(), 1 << 3),
            (Capability::new().with_aggregation(true).into_bits(), 1 << 4),
            (Capability::new().with_pcrc(true).into_bits(), 1 << 5),
            (Capability::new().with_ide_km(true).into_bits(), 1 << 6),
            (Capability::new().with_selective_config(true).into_bits(), 1 << 7),
            (Capability::new().with_algorithms(0x1f).into_bits(), 0x1f << 8),
            (Capability::new().with_link_classes(7).into_bits(), 7 << 13),
            (Capability::new().with_selective_streams(0xff).into_bits(), 0xff << 16),
            (Capability::new().with_tee_limited(true).into_bits(), 1 << 24),
            (Control::new().with_flow_through(true).into_bits(), 1 << 2),
            (StreamControl::new().with_enable(true).into_bits(), 1),
            (StreamControl::new().with_aggregate_non_posted(3).into_bits(), 3 << 2),
            (StreamControl::new().with_aggregate_posted(3).into_bits(), 3 << 4),
            (StreamControl::new().with_aggregate_completions(3).into_bits(), 3 << 6),
            (StreamControl::new().with_pcrc(true).into_bits(), 1 << 8),
            (StreamControl::new().with_config(true).into_bits(), 1 << 9),
            (StreamControl::new().with_partial_header_encryption(0xf).into_bits(), 0xf << 10),
            (StreamControl::new().with_algorithm(0x1f).into_bits(), 0x1f << 14),
            (StreamControl::new().with_traffic_class(7).into_bits(), 7 << 19),
            (StreamControl::new().with_default(true).into_bits(), 1 << 22),
            (StreamControl::new().with_tee_limited(true).into_bits(), 1 << 23),
            (StreamControl::new().with_stream_id(0xff).into_bits(), 0xff << 24),
            (StreamStatus::new().with_state(StreamState::SECURE).into_bits(), 2),
            (StreamStatus::new().with_fail_message(true).into_bits(), 1 << 31),
        ] {
            assert_eq!(bits, expected);
        }
    }
}
