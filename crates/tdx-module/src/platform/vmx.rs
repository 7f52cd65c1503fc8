//! VMX capability MSRs: a TD needs some controls, forbids some, and knows nothing of others.

use tdx_abi::msr::MsrIndex;

use crate::generated::vmx::{L1, L2};
use crate::platform::msrs::SampledMsrs;
use crate::profile::VmxValues;

/// How a module uses the controls of one capability MSR.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Controls {
    pub(crate) msr: MsrIndex,
    /// Controls that are set.
    pub(crate) init: u64,
    /// The same since 1.5.05.
    pub(crate) init_1_5_05: u64,
    /// Controls that change: must be allowed as 0 and as 1.
    pub(crate) variable: u64,
    /// Controls without a meaning to the module: left as the CPU wants them.
    pub(crate) unknown: u64,
}

/// Facts that change what is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) values: VmxValues,
    /// CPUID.7.0 ECX bit 5.
    pub(crate) waitpkg: bool,
    /// IA32_SPEC_CTRL must be virtualisable: the row of 1.5.05 applies and the CPU has DDPD.
    pub(crate) virtual_spec_ctrl: bool,
    /// Controls of L2 VMs are checked too; TDX 1.0 has none.
    pub(crate) l2: bool,
}

const WAITPKG: u64 = 1 << 26;
const ENCLV_EXITING: u64 = 1 << 28;
const VIRTUALIZE_SPEC_CTRL: u64 = 1 << 7;
const CR0_INIT: u64 = 0x21;
const CR0_L2_VARIABLE: u64 = 0x8005_001F;
const CR0_PE_PG: u64 = 0x8000_0001;
const CR4_INIT: u64 = 0x2040;
const EPT_VPID: u64 = 0x101_0633_4041;
/// VMWRITE to any field, PT in VMX, shutdown, HLT and unrestricted guest.
const MISC_NEEDED: u64 = 1 << 29 | 1 << 14 | 1 << 7 | 1 << 6 | 1 << 5;

/// The first MSR that is not as wanted: TDH.SYS.INIT-19.
pub(crate) fn first_refused(msrs: &SampledMsrs, wanted: Wanted) -> Option<MsrIndex> {
    let value = |msr| msrs.value(msr);
    let controls_ok = |table: &[Controls], msr| {
        table.iter().filter(|row| row.msr == msr).all(|row| controls_allowed(row, value(msr), wanted))
    };
    let simple_ok = |msr| match msr {
        MsrIndex::IA32_VMX_BASIC => basic_allowed(value(msr), wanted.values),
        MsrIndex::IA32_VMX_MISC => misc_allowed(value(msr)),
        MsrIndex::IA32_VMX_EPT_VPID_CAP => value(msr) & EPT_VPID == EPT_VPID,
        MsrIndex::IA32_VMX_CR0_FIXED0 => value(msr) & !CR0_PE_PG & !CR0_INIT == 0,
        MsrIndex::IA32_VMX_CR0_FIXED1 => value(msr) & CR0_INIT == CR0_INIT,
        MsrIndex::IA32_VMX_CR4_FIXED0 => value(msr) & !CR4_INIT == 0,
        MsrIndex::IA32_VMX_CR4_FIXED1 => value(msr) & CR4_INIT == CR4_INIT,
        _ => true,
    };
    let l1 = super::msrs::VMX.into_iter().find(|&msr| !simple_ok(msr) || !controls_ok(L1, msr));
    if l1.is_some() || !wanted.l2 {
        return l1;
    }
    // The L2 pass looks at the sampled values again; MSRs whose rule is the same cannot fail here.
    super::msrs::VMX.into_iter().find(|&msr| {
        let cr0 = msr == MsrIndex::IA32_VMX_CR0_FIXED0
            && refused(
                value(MsrIndex::IA32_VMX_CR0_FIXED0) & !CR0_PE_PG,
                value(MsrIndex::IA32_VMX_CR0_FIXED1),
                CR0_INIT,
                CR0_L2_VARIABLE,
                0,
            );
        cr0 || !controls_ok(L2, msr)
    })
}

fn basic_allowed(value: u64, values: VmxValues) -> bool {
    let limit = match values {
        VmxValues::V1_5_01 => 2048,
        VmxValues::V1_5_05 => 4096,
    };
    value >> 32 & 0x1FFF <= limit && value >> 54 & 1 != 0 && value >> 55 & 1 != 0
}

fn misc_allowed(value: u64) -> bool {
    value & MISC_NEEDED == MISC_NEEDED && value >> 16 & 0x1FF >= 4
}

fn controls_allowed(row: &Controls, value: u64, wanted: Wanted) -> bool {
    let mut init = match wanted.values {
        VmxValues::V1_5_01 => row.init,
        VmxValues::V1_5_05 => row.init_1_5_05,
    };
    if row.msr == MsrIndex::IA32_VMX_PROCBASED_CTLS3 {
        // 64 bits that may be 1; all may be 0.
        let spec_ctrl_missing = wanted.virtual_spec_ctrl && value & VIRTUALIZE_SPEC_CTRL == 0;
        return !refused(0, value, init, row.variable, row.unknown) && !spec_ctrl_missing;
    }
    let (must, may) = (value & u64::from(u32::MAX), value >> 32);
    if row.msr == MsrIndex::IA32_VMX_PROCBASED_CTLS2 {
        if wanted.waitpkg {
            init |= WAITPKG;
        }
        if may & ENCLV_EXITING == 0 {
            init &= !ENCLV_EXITING;
        }
    }
    !refused(must, may, init, row.variable, row.unknown)
}

/// `must`: bits that cannot be 0; `may`: bits that can be 1.
const fn refused(must: u64, may: u64, init: u64, variable: u64, unknown: u64) -> bool {
    must & !(init | unknown) != 0 || !may & init != 0 || (must | !may) & variable != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_is_refused_if_the_cpu_cannot_give_what_the_module_wants() {
        assert!(!refused(0b0001, 0b0111, 0b0001, 0b0110, 0b1000));
        assert!(refused(0b0001, 0b0111, 0b0000, 0b0110, 0b1000), "must be 1, wanted 0");
        assert!(!refused(0b1001, 0b1111, 0b0001, 0b0110, 0b1000), "unknown bits may be fixed");
        assert!(refused(0b0001, 0b0110, 0b0001, 0b0110, 0), "cannot be 1, wanted 1");
        assert!(refused(0b0001, 0b0011, 0b0001, 0b0110, 0), "variable, cannot be 1");
        assert!(refused(0b0011, 0b0111, 0b0011, 0b0110, 0), "variable, cannot be 0");
    }

    #[test]
    fn the_vmcs_may_have_four_kib_since_1_5_05() {
        let value = 1 << 54 | 1 << 55 | 4096 << 32;
        assert!(!basic_allowed(value, VmxValues::V1_5_01));
        assert!(basic_allowed(value, VmxValues::V1_5_05));
        assert!(!basic_allowed(value & !(1 << 55), VmxValues::V1_5_05));
        assert!(!basic_allowed(value & !(1 << 54), VmxValues::V1_5_05));
        assert!(!basic_allowed(value | 1 << 32, VmxValues::V1_5_05));
    }
}
