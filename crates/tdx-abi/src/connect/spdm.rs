//! The configuration page of TDH.SPDM.CONNECT.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `spdm_config_info_t` (7 bytes), packed, at the start of a page that is zero otherwise.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct SpdmConfigInfo {
    /// SPDM requester capabilities that the host allows: [`HBEAT_CAP`], [`KEY_UPD_CAP`].
    pub capabilities: U32,
    /// SessionPolicy of KEY_EXCHANGE. Bit 0: 0 the device ends the session when an update changes what was
    /// measured, 1 the device decides.
    pub session_policy: u8,
    /// Certificate slots whose chains go into the device information, a bit per slot.
    pub certificate_slot_mask: u8,
    /// 1: measurements as raw bit streams.
    pub raw_bitstream_requested: u8,
}

/// Heartbeats are allowed.
pub const HBEAT_CAP: u32 = 1 << 13;
/// Updates of the session's keys are allowed.
pub const KEY_UPD_CAP: u32 = 1 << 14;

impl SpdmConfigInfo {
    /// What Linux asks for: key updates, all slots, digests.
    pub const LINUX: Self = Self {
        capabilities: U32::new(KEY_UPD_CAP),
        session_policy: 0,
        certificate_slot_mask: 0xFF,
        raw_bitstream_requested: 0,
    };
}

const _: () = {
    assert!(size_of::<SpdmConfigInfo>() == 7);
    assert!(core::mem::offset_of!(SpdmConfigInfo, session_policy) == 4);
    assert!(core::mem::offset_of!(SpdmConfigInfo, certificate_slot_mask) == 5);
    assert!(core::mem::offset_of!(SpdmConfigInfo, raw_bitstream_requested) == 6);
};
