//! Which bits of TDX_FEATURES0 the software module reports.

use tdx_abi::features::Features0;

/// Bits that are reported wherever the release has them, although not all behind them is modelled.
/// Every other bit of a published release is dropped until its leaves are modelled.
///
/// | Bit | Why it is kept |
/// |---|---|
/// | TD_PRESERVING | a host decides by it whether it offers an update |
/// | NO_RBP_MOD | Linux refuses a module without it |
/// | TOPOLOGY_ENUM | KVM refuses a module without it |
/// | UPDATE_COMPATIBILITY | SYS.SHUTDOWN and the opt-in are modelled; what they count is set from outside |
///
/// Why the others are dropped: TD_MIGRATION, PARTITIONED_TD_MIGRATION, SCAN_EXPORT_RESTORE,
/// IMPORT_PAGE_STATUS, NON_BLOCKING_EXPORT, DEBUG_RO_TD_MIGRATION, LIST_ERROR_COUNT and
/// RELAXED_MEM_MNG_CONCURRENCY speak of migration and memory leaves that do not exist here;
/// SERVICE_TD, TDG_VP_RDWR, CPUID_VIRT_GUEST_CTRL, TD_PARTITIONING, LOCAL_ATTESTATION,
/// TD_ENTRY_ENHANCEMENTS, HOST_PRIORITY_LOCKS, L2_TLB_INVD_OPT, VE_REDUCTION,
/// ENHANCED_INTR_STATE, VE_INFO_INTR_STATE, PENDING_EPT_VIOLATION_V2, TDID_VMID_REPORTING and the
/// sealing bits speak of guests; CONFIG_IA32_ARCH_CAP, FMS_CONFIG, MAXPA_VIRT, MAXGPA_VIRT,
/// CPUID2_VIRT, ICSSD, FIXED_CTR12_PROF and EVENT_FILTERING of TD_PARAMS. DYNAMIC_PAMT: SYS.CONFIG
/// refuses bit 16 of R8. FATAL_DIAGNOSTICS: SYS.INIT version 1 checks R8 but nothing is ever
/// written there.
pub const KEPT: Features0 = Features0::TD_PRESERVING
    .union(Features0::NO_RBP_MOD)
    .union(Features0::TOPOLOGY_ENUM)
    .union(Features0::UPDATE_COMPATIBILITY);

/// Bits that only the synthetic releases report: TDX_CONNECT, whose leaves up to a connected device are
/// modelled, EXT and SYS_DISABLE.
pub const KEPT_SYNTHETIC: Features0 =
    KEPT.union(Features0::TDX_CONNECT).union(Features0::EXT).union(Features0::SYS_DISABLE);

/// The bits of `real` that a module reports.
pub const fn reported(real: Features0, synthetic: bool) -> Features0 {
    real.intersection(if synthetic { KEPT_SYNTHETIC } else { KEPT })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile;

    #[test]
    fn a_host_finds_the_bits_it_needs_and_none_that_is_not_modelled() {
        let of = |name| {
            let profile = profile::find(name).expect("a profile");
            reported(profile.features0, profile.synthetic)
        };
        assert_eq!(of("1.5.01").bits(), 0x4_0002);
        assert_eq!(of("1.5.20").bits(), 0x14_0002);
        assert_eq!(of("2.0.12").bits(), 0x14_0002);
        for name in ["1.5.24", "1.5.34", "2.0.14", "2.0.18"] {
            assert_eq!(of(name).bits(), 0x14_0002 | 1 << 47, "{name}");
        }
        assert_eq!(of("connect").bits(), 0x14_0002 | 1 << 6 | 1 << 39 | 1 << 47 | 1 << 53);
    }
}
