//! SEAMLDR.SEAMINFO: what MCHECK wrote into P_SYSINFO.

use core::mem::offset_of;

use tdx_abi::cmr::MAX_CMRS;
use tdx_abi::status::SeamldrStatus;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{address_space, layout};
use crate::hardware::{Hardware, LpIndex, McheckInfo};

/// Bytes of the answer, and alignment of the buffer.
const SIZE: u64 = 2048;

/// The first half of the P_SYSINFO page.
#[derive(Debug, FromZeros, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SysInfo {
    version: U64,
    total_lps: U32,
    sockets: U32,
    /// CPUID.1.EAX of each socket.
    socket_fms: [U32; 8],
    loader_base: U64,
    loader_size: U64,
    smrr2_unsupported: u8,
    without_integrity: u8,
    reserved_66: [u8; 62],
    cmrs: [[U64; 2]; MAX_CMRS],
    reserved_640: [u8; 1408],
}

const _: () = {
    assert!(size_of::<SysInfo>() as u64 == SIZE);
    assert!(offset_of!(SysInfo, socket_fms) == 16);
    assert!(offset_of!(SysInfo, loader_base) == 48);
    assert!(offset_of!(SysInfo, smrr2_unsupported) == 64);
    assert!(offset_of!(SysInfo, cmrs) == 128);
};

pub(super) fn run(hw: &dyn Hardware, lp: LpIndex, rcx: u64) -> SeamldrStatus {
    // SEAMLDR.SEAMINFO-1
    let buffer = address_space(hw, lp).and_then(|space| space.shared(rcx, SIZE));
    let Some((pa, key)) = buffer else {
        return SeamldrStatus::EBADPARAM;
    };
    // SEAMLDR.SEAMINFO-2
    hw.write(pa, key, sys_info(hw.mcheck()).as_bytes());
    SeamldrStatus::SUCCESS
}

fn sys_info(mcheck: &McheckInfo) -> SysInfo {
    let loader = layout::loader_range(mcheck);
    let mut info = SysInfo::new_zeroed();
    info.total_lps = mcheck.total_lps.into();
    info.sockets = mcheck.packages.into();
    info.socket_fms = mcheck.package_fms.map(U32::new);
    info.loader_base = loader.start().as_u64().into();
    info.loader_size = loader.size().into();
    info.smrr2_unsupported = mcheck.smrr2_unsupported.into();
    info.without_integrity = mcheck.without_integrity.into();
    info.cmrs = mcheck.cmrs.map(|cmr| [cmr.base.into(), cmr.size.into()]);
    info
}
