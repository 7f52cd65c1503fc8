//! TDH.SYS.INFO: TDSYSINFO_STRUCT and the CMR array. The only source of both in TDX 1.0.

use tdx_abi::addr::PhysAddr;
use tdx_abi::cmr::{CmrInfo, MAX_CMRS};
use tdx_abi::metadata::sys;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::sysinfo::{CpuidConfig, TDSYSINFO_CPUID_CONFIGS, TDSYSINFO_SIZE, TdSysInfo};
use tdx_abi::{KeyId, Registers};
use zerocopy::{FromZeros, IntoBytes};

use crate::call::{Call, Exit, invalid};
use crate::metadata;
use crate::module::Rules;
use crate::platform::Platform;
use crate::platform::cpuid::{self, CpuidOffer, words};

const CMR_ARRAY_ALIGN: u64 = 512;
/// TDCS pages of TDX 1.0, in bytes.
const TDCS_SIZE_1_0: u64 = 4 * 4096;

pub(crate) fn run(call: &Call<'_>, regs: &mut Registers) -> Result<Status, Exit> {
    let size = std::mem::take(&mut regs.rdx);
    let cmr_entries = std::mem::take(&mut regs.r9);
    // TDH.SYS.INFO-1
    if !call.slot.is_initialised() {
        return Err(StatusCode::SYS_LP_INIT_NOT_DONE.into());
    }
    let platform = call.module.platform()?;
    // TDH.SYS.INFO-2
    let (info, info_key) =
        platform.space.shared(regs.rcx, TDSYSINFO_SIZE).ok_or_else(|| invalid(OperandId::RCX))?;
    // TDH.SYS.INFO-3
    if size < TDSYSINFO_SIZE {
        return Err(invalid(OperandId::RDX));
    }
    call.hw.write(info, info_key, TdSysInfo::new_zeroed().as_bytes());
    // TDH.SYS.INFO-4
    let (cmrs, cmrs_key) =
        platform.space.shared(regs.r8, CMR_ARRAY_ALIGN).ok_or_else(|| invalid(OperandId::R8))?;
    // TDH.SYS.INFO-5
    let entries = u64::try_from(MAX_CMRS).unwrap_or(u64::MAX);
    if cmr_entries < entries {
        return Err(invalid(OperandId::R9));
    }
    call.hw.write(info, info_key, describe(&call.module.rules, platform).as_bytes());
    write_cmrs(call, cmrs, cmrs_key);
    (regs.rdx, regs.r9) = (TDSYSINFO_SIZE, entries);
    Ok(Status::SUCCESS)
}

fn write_cmrs(call: &Call<'_>, pa: PhysAddr, key: KeyId) {
    let list = call.hw.mcheck().cmrs.map(|cmr| CmrInfo { base: cmr.base.into(), size: cmr.size.into() });
    call.hw.write(pa, key, list.as_bytes());
}

fn describe(rules: &Rules, platform: &Platform) -> TdSysInfo {
    let mut info = TdSysInfo::new_zeroed();
    let field = |id| platform.field(id);
    let half = |id| field_u16(field(id));
    info.vendor_id = u32::try_from(field(sys::VENDOR_ID)).unwrap_or_default().into();
    info.build_date = rules.build_date.into();
    info.build_num = rules.build_num.into();
    info.minor_version = rules.version.minor.into();
    info.major_version = rules.version.major.into();
    info.sys_rd_supported = u8::from(rules.is_1_5());
    info.max_tdmrs = half(sys::MAX_TDMRS).into();
    info.max_reserved_per_tdmr = half(sys::MAX_RESERVED_PER_TDMR).into();
    info.pamt_entry_size = half(sys::PAMT_4K_ENTRY_SIZE).into();
    let tdcs = if rules.is_1_5() { field(sys::TDCS_BASE_SIZE) } else { TDCS_SIZE_1_0 };
    info.tdcs_base_size = field_u16(tdcs).into();
    info.tdvps_base_size = half(sys::TDVPS_BASE_SIZE).into();
    info.attributes_fixed0 = attributes_fixed0(rules, field(sys::ATTRIBUTES_FIXED0)).into();
    info.attributes_fixed1 = field(sys::ATTRIBUTES_FIXED1).into();
    info.xfam_fixed0 = field(sys::XFAM_FIXED0).into();
    info.xfam_fixed1 = field(sys::XFAM_FIXED1).into();
    let offers: Vec<&CpuidOffer> = metadata::offers(rules).take(TDSYSINFO_CPUID_CONFIGS).collect();
    info.num_cpuid_config = u32::try_from(offers.len()).unwrap_or_default().into();
    for (slot, offer) in info.cpuid_config.iter_mut().zip(offers) {
        *slot = config(offer, platform);
    }
    info
}

/// Fields of two bytes.
fn field_u16(value: u64) -> u16 {
    u16::try_from(value).unwrap_or_default()
}

/// TDX 1.0 has no MIGRATABLE TDs: bit 29 does not exist there.
fn attributes_fixed0(rules: &Rules, value: u64) -> u64 {
    if rules.is_1_5() { value } else { value & !(1 << 29) }
}

/// The bits of a leaf that a TD may be given on this CPU.
fn config(offer: &CpuidOffer, platform: &Platform) -> CpuidConfig {
    let native = words(cpuid::sampled(&platform.cpuid, offer.leaf, offer.subleaf));
    let [eax, ebx, ecx, edx] = std::array::from_fn(|index| {
        let of = |list: &[u32; 4]| list.get(index).copied().unwrap_or_default();
        of(&offer.direct) | of(&offer.allow) & of(&native)
    });
    CpuidConfig {
        leaf: offer.leaf.into(),
        subleaf: offer.subleaf.into(),
        eax: eax.into(),
        ebx: ebx.into(),
        ecx: ecx.into(),
        edx: edx.into(),
    }
}
