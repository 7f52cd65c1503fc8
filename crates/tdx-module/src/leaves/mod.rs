//! The leaves, one file each. Each check names its row.

pub(crate) mod ext_init;
pub(crate) mod ext_mem_add;
pub(crate) mod ide_stream_block;
pub(crate) mod ide_stream_create;
pub(crate) mod ide_stream_delete;
pub(crate) mod ide_stream_km;
pub(crate) mod iommu_clear;
pub(crate) mod iommu_setup;
pub(crate) mod spdm_connect;
pub(crate) mod spdm_create;
pub(crate) mod spdm_delete;
pub(crate) mod spdm_disconnect;
pub(crate) mod spdm_mng;
pub(crate) mod sys_config;
pub(crate) mod sys_disable;
pub(crate) mod sys_info;
pub(crate) mod sys_init;
pub(crate) mod sys_init_1_0;
pub(crate) mod sys_key_config;
pub(crate) mod sys_lp_init;
pub(crate) mod sys_lp_init_1_0;
pub(crate) mod sys_lp_shutdown;
pub(crate) mod sys_rd;
pub(crate) mod sys_rdall;
pub(crate) mod sys_shutdown;
pub(crate) mod sys_tdmr_init;
pub(crate) mod sys_update;

/// IA32_MISC_ENABLE: CPUID leaves above 2 are hidden.
const MISC_ENABLE_LIMIT_CPUID: u64 = 1 << 22;
/// IA32_ARCH_CAPABILITIES: IA32_TSX_CTRL exists.
const ARCH_CAP_TSX_CTRL: u64 = 1 << 7;
/// IA32_TSX_CTRL: CPUID does not show HLE and RTM.
const TSX_CTRL_CPUID_CLEAR: u64 = 1 << 1;
/// IA32_TSX_CTRL: transactions always abort.
const TSX_CTRL_RTM_DISABLE: u64 = 1 << 0;
/// Packages that the module's tables hold.
const MAX_PACKAGES: u32 = 8;
