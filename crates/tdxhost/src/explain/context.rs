//! What a status means when a certain leaf returned it, or with a certain detail.

use tdx_abi::leaf::SeamcallLeaf as Leaf;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{Blame, OperandId, Status, StatusCode as Code};

/// A status in its place.
pub(super) struct Situation {
    /// The leaf; `None` for any, also an unknown one.
    leaf: Option<Leaf>,
    code: Code,
    /// Bits 31:0; `None` for any.
    detail: Option<u32>,
    /// Whose fault it is here.
    pub(super) blame: Blame,
    /// Why it happens here.
    pub(super) why: &'static str,
    /// What to try here.
    pub(super) advice: &'static str,
}

/// The first situation that fits.
pub(super) fn find(leaf: Option<Leaf>, status: Status) -> Option<&'static Situation> {
    SITUATIONS.iter().find(|situation| {
        situation.code == status.code()
            && (situation.leaf.is_none() || situation.leaf == leaf)
            && situation.detail.is_none_or(|detail| detail == status.detail())
    })
}

const fn at(leaf: Leaf, code: Code, blame: Blame, why: &'static str, advice: &'static str) -> Situation {
    Situation { leaf: Some(leaf), code, detail: None, blame, why, advice }
}

const fn operand(
    leaf: Leaf,
    operand: OperandId,
    blame: Blame,
    why: &'static str,
    advice: &'static str,
) -> Situation {
    Situation { leaf: Some(leaf), ..td_params(operand, blame, why, advice) }
}

/// An operand that only TD_PARAMS have: the leaf need not be known.
const fn td_params(operand: OperandId, blame: Blame, why: &'static str, advice: &'static str) -> Situation {
    // Widening; `u32::from` is not const.
    Situation { leaf: None, code: Code::OPERAND_INVALID, detail: Some(operand.0 as u32), blame, why, advice }
}

const fn msr(msr: MsrIndex, blame: Blame, why: &'static str, advice: &'static str) -> Situation {
    Situation { leaf: None, code: Code::INCORRECT_MSR_VALUE, detail: Some(msr.0), blame, why, advice }
}

/// From the special to the general: the first that fits is taken.
static SITUATIONS: &[Situation] = &[
    // Module of TDX 1.0.
    at(
        Leaf::SYS_RD,
        Code::SYS_NOT_READY,
        Blame::Firmware,
        "the module is of the TDX 1.0 generation: it has no TDH.SYS.RD and no metadata interface, and \
         answers unknown leaves with SYS_NOT_READY before it is initialised",
        "Update the BIOS to one that carries a TDX 1.5 or 2.0 module; a 1.0 module works only with kernels \
         that use TDH.SYS.INFO.",
    ),
    at(
        Leaf::SYS_RDALL,
        Code::SYS_NOT_READY,
        Blame::Firmware,
        "the module is of the TDX 1.0 generation: it has no TDH.SYS.RDALL",
        "Update the BIOS to one that carries a TDX 1.5 or 2.0 module.",
    ),
    at(
        Leaf::SYS_TDMR_INIT,
        Code::SYS_NOT_READY,
        Blame::Caller,
        "TDH.SYS.KEY.CONFIG has not run on every package, so the module is not ready",
        "Bring at least one CPU of every package online before bring-up; look at `maxcpus=` and `nosmt`.",
    ),
    // MSRs that SYS.INIT insists on.
    msr(
        MsrIndex::IA32_TSX_CTRL,
        Blame::Firmware,
        "modules of TDX 1.0 up to 1.0.01 insist on TSX being on, and the kernel turned it off in \
         IA32_TSX_CTRL; later modules do not look",
        "Boot with TSX on (`tsx=on`), or use a BIOS with module 1.0.03 or later.",
    ),
    msr(
        MsrIndex::IA32_ARCH_CAPABILITIES,
        Blame::Firmware,
        "a mitigation bit that the module insists on is missing from IA32_ARCH_CAPABILITIES, or RSBA or \
         FB_CLEAR_CTRL is set",
        "Update the microcode (BIOS or early loading).",
    ),
    msr(
        MsrIndex(0xbd),
        Blame::Firmware,
        "the local APIC can leave x2APIC mode: IA32_XAPIC_DISABLE_STATUS bit 0 must be 1",
        "Turn on x2APIC in the BIOS (no opt-out) and update BIOS and microcode.",
    ),
    msr(
        MsrIndex(0xbc),
        Blame::Firmware,
        "energy filtering (IA32_MISC_PACKAGE_CTLS bit 0) is off",
        "Update BIOS and microcode; the kernel turns the filter on if the CPU offers it.",
    ),
    msr(
        MsrIndex(0x345),
        Blame::Platform,
        "performance monitoring lacks full-width counter writes (bit 13) or freeze-while-SMM (bit 12)",
        "Update BIOS and microcode.",
    ),
    msr(
        MsrIndex(0x1a0),
        Blame::Firmware,
        "performance monitoring is off or BTS is not available",
        "Turn performance monitoring on in the BIOS.",
    ),
    msr(
        MsrIndex(0x981),
        Blame::Firmware,
        "the CPU does not offer the encryption algorithm that TDX needs",
        "Turn on TME and TME-MT in the BIOS with AES-XTS 128 or 256; check that the CPU supports TDX.",
    ),
    msr(
        MsrIndex::IA32_TME_ACTIVATE,
        Blame::Firmware,
        "memory encryption is active without the algorithm that TDX needs",
        "Turn on TME and TME-MT in the BIOS, bypass off.",
    ),
    msr(
        MsrIndex(0x99),
        Blame::Firmware,
        "the two cache write-back MSRs (0x98 and 0x99) disagree",
        "Update BIOS and microcode.",
    ),
    Situation {
        leaf: None,
        code: Code::INCONSISTENT_MSR,
        detail: Some(MsrIndex::IA32_TSX_CTRL.0),
        blame: Blame::Caller,
        why: "this LP has TSX in another state than the LP that ran TDH.SYS.INIT",
        advice: "Let the kernel set TSX alike on all CPUs before TDX bring-up (`tsx=on` or `tsx=off`).",
    },
    // TDH.SYS.INIT.
    at(
        Leaf::SYS_INIT,
        Code::INCORRECT_CPUID_VALUE,
        Blame::Firmware,
        "a CPUID value is not what this module was built for: usually an old module or BIOS on a newer CPU \
         or microcode, or a feature switched off in the BIOS",
        "Update the BIOS (and with it module and microcode), and set CPU features in the BIOS back to \
         their defaults.",
    ),
    at(
        Leaf::SYS_INIT,
        Code::SYS_INIT_NOT_PENDING,
        Blame::Caller,
        "another kernel or an earlier attempt has initialised the module since it was loaded, as after kexec",
        "Reboot through the BIOS, which loads the module anew; a kernel that calls SYS.DISABLE before \
         kexec avoids it.",
    ),
    at(
        Leaf::SYS_INIT,
        Code::SEAMCALL_VMFAILINVALID,
        Blame::Firmware,
        "the BIOS has not loaded a TDX module, or the module was disabled since (kexec after SYS.DISABLE)",
        "Turn on the SEAM loader in the BIOS, update the BIOS, and reboot; some BIOSes need the module \
         file on the ESP.",
    ),
    // TDH.SYS.LP.INIT.
    at(
        Leaf::SYS_LP_INIT,
        Code::SYS_LP_INIT_NOT_PENDING,
        Blame::Caller,
        "the LP came after TDH.SYS.CONFIG, or before TDH.SYS.INIT",
        "Bring all CPUs online before TDX bring-up; one that missed it cannot catch up until the module is \
         loaded again.",
    ),
    at(
        Leaf::SYS_LP_INIT,
        Code::INCONSISTENT_CPUID_FIELD,
        Blame::Firmware,
        "this LP reports another CPUID than the LP that ran TDH.SYS.INIT",
        "Use equal CPUs with equal microcode and equal BIOS settings in all sockets.",
    ),
    at(
        Leaf::SYS_LP_INIT,
        Code::INCONSISTENT_MSR,
        Blame::Firmware,
        "this LP has another value of the MSR than the LP that ran TDH.SYS.INIT",
        "Use equal CPUs with equal microcode in all sockets and update the BIOS; for 0x3b (TSC_ADJUST) \
         boot without tools that write the TSC.",
    ),
    // TDH.SYS.CONFIG.
    at(
        Leaf::SYS_CONFIG,
        Code::SYS_CONFIG_NOT_PENDING,
        Blame::Caller,
        "not every LP that the BIOS enabled has run TDH.SYS.LP.INIT, or the module is configured already",
        "Bring all CPUs online before bring-up: boot without `maxcpus=`, `nr_cpus=` and `nosmt`.",
    ),
    at(
        Leaf::SYS_CONFIG,
        Code::TDMR_OUTSIDE_CMRS,
        Blame::Caller,
        "memory that the kernel wants to use for TDs is not convertible: it lies outside the CMRs, as \
         hotplugged, CXL and persistent memory do",
        "Compare the memory map with the CMRs; keep such memory out of the page allocator (`memmap=`, dax \
         mode) or offline.",
    ),
    at(
        Leaf::SYS_CONFIG,
        Code::PAMT_OUTSIDE_CMRS,
        Blame::Caller,
        "a PAMT was allocated in memory outside the CMRs",
        "Keep memory outside the CMRs out of the page allocator during bring-up.",
    ),
    operand(
        Leaf::SYS_CONFIG,
        OperandId::RAX,
        Blame::Caller,
        "this release of the module does not have the version of the call that was asked for",
        "Call version 0: add-on features cannot be chosen with this module.",
    ),
    operand(
        Leaf::SYS_CONFIG,
        OperandId::R8,
        Blame::Caller,
        "the global KeyID is not a private one, or dynamic PAMT was asked for on a platform that cannot \
         have it",
        "Take the first private KeyID from MSR 0x87.",
    ),
    operand(
        Leaf::SYS_CONFIG,
        OperandId::RDX,
        Blame::Caller,
        "there must be 1 to 64 TDMRs",
        "Merge TDMRs: neighbouring memory ranges can share one.",
    ),
    operand(
        Leaf::SYS_CONFIG,
        OperandId::R9,
        Blame::Caller,
        "an add-on feature was chosen that this module does not offer",
        "Choose only features that TDX_FEATURES0 shows.",
    ),
    // KEY.CONFIG.
    at(
        Leaf::SYS_KEY_CONFIG,
        Code::KEY_GENERATION_FAILED,
        Blame::Platform,
        "PCONFIG found no entropy for the key",
        "Call again; if it stays, the random number generator of the package is broken.",
    ),
    // Metadata.
    at(
        Leaf::SYS_RD,
        Code::METADATA_FIELD_ID_INCORRECT,
        Blame::Firmware,
        "this module does not know the field: the kernel is newer than the module, or the id is wrong",
        "Update the module (BIOS), or use a kernel that treats the field as optional; `tdxhost explain \
         field ID` tells what the field is.",
    ),
    at(
        Leaf::SYS_RD,
        Code::SYS_LP_INIT_NOT_DONE,
        Blame::Caller,
        "metadata can be read only on an LP that has run TDH.SYS.LP.INIT",
        "Run LP.INIT on this CPU first.",
    ),
    // Building a TD.
    td_params(
        OperandId::CPUID_CONFIG,
        Blame::Caller,
        "a CPUID value in TD_PARAMS has a bit set that a TD may not configure (or HLE and RTM differ, or \
         CPUID.1 EAX is neither 0 nor the platform's); RCX of the call names leaf and subleaf",
        "Let the VMM take the configurable bits from the module (CPUID_CONFIG fields, \
         KVM_TDX_CAPABILITIES) and clear all others; newer CPU models need a newer VMM.",
    ),
    td_params(
        OperandId::ATTRIBUTES,
        Blame::Caller,
        "an ATTRIBUTES bit is not supported, or one that must be 1 is 0, or MIGRATABLE stands beside DEBUG \
         or PERFMON",
        "Choose bits within ATTRIBUTES_FIXED0 and FIXED1 of the module.",
    ),
    td_params(
        OperandId::XFAM,
        Blame::Caller,
        "an XFAM bit is not supported, one that must be 1 is 0, or bits that belong together differ \
         (AVX-512, CET, AMX)",
        "Choose bits within XFAM_FIXED0 and FIXED1 of the module.",
    ),
    td_params(
        OperandId::MAX_VCPUS,
        Blame::Caller,
        "the number of VCPUs is 0 or above the module's limit",
        "Use at most MAX_VCPUS_PER_TD (576 in 1.5.05, 1376 in 2.0).",
    ),
    td_params(
        OperandId::TSC_FREQUENCY,
        Blame::Caller,
        "the virtual TSC must run at 100 MHz to 10 GHz, in steps of 25 MHz",
        "Give 4 to 400 units of 25 MHz.",
    ),
    td_params(
        OperandId::EPTP_CONTROLS,
        Blame::Caller,
        "memory type must be write-back, and four or five levels must fit the guest address width and the \
         CPU",
        "Use five levels only with a 52-bit guest width and a CPU that has them.",
    ),
    at(
        Leaf::MNG_CREATE,
        Code::HKID_NOT_FREE,
        Blame::Caller,
        "the KeyID belongs to another TD, or its caches have not been written back since",
        "Finish the teardown of the former TD: VPFLUSHDONE, CACHE.WB on every package, KEY.FREEID.",
    ),
    // Teardown.
    at(
        Leaf::PHYMEM_PAGE_RECLAIM,
        Code::PAGE_METADATA_INCORRECT,
        Blame::Caller,
        "the page in RCX is not in use (page type NDA) or reserved: it was reclaimed or removed before, so \
         the host asks for it twice",
        "A host kernel bug at TD teardown, often with large pages: update the kernel. The page itself is \
         not lost.",
    ),
    at(
        Leaf::PHYMEM_PAGE_RECLAIM,
        Code::LIFECYCLE_STATE_INCORRECT,
        Blame::Caller,
        "pages can be reclaimed only after TDH.MNG.KEY.FREEID of their TD",
        "Flush all VCPUs, write back the caches of every package and free the KeyID first.",
    ),
    at(
        Leaf::MNG_KEY_FREEID,
        Code::WBCACHE_NOT_COMPLETE,
        Blame::Caller,
        "TDH.PHYMEM.CACHE.WB has not ended on every package",
        "Run CACHE.WB on one online CPU of every package, resuming while it is interrupted.",
    ),
    // Update and the end.
    at(
        Leaf::SYS_SHUTDOWN,
        Code::SYS_BUSY,
        Blame::Caller,
        "another LP is inside the module",
        "Keep all CPUs out of SEAMCALLs during the shutdown, then repeat.",
    ),
    at(
        Leaf::SYS_UPDATE,
        Code::SYS_INVALID_HANDOFF,
        Blame::Firmware,
        "the new module cannot take over what the old one left",
        "The TDs are lost; choose a module whose hand-off version range fits.",
    ),
    operand(
        Leaf::SYS_DISABLE,
        OperandId::RAX,
        Blame::Firmware,
        "this module has no TDH.SYS.DISABLE; Linux prints the error and goes on",
        "Nothing needs doing; before kexec all TDs must be gone.",
    ),
    // Any leaf.
    Situation {
        leaf: None,
        code: Code::OPERAND_INVALID,
        detail: Some(OperandId::RAX.0 as u32),
        blame: Blame::Caller,
        why: "the module does not have this leaf, or not this version of it, or reserved bits of RAX are set",
        advice: "Check which release is loaded: newer kernels may use leaves of newer modules.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_situation_can_be_found() {
        for situation in SITUATIONS {
            let status =
                situation.detail.map_or(situation.code.plain(), |detail| situation.code.with_detail(detail));
            let found = find(situation.leaf, status).expect("found");
            assert_eq!(found.why, situation.why, "hidden behind another row");
        }
    }

    #[test]
    fn a_situation_of_one_leaf_does_not_speak_for_another() {
        assert!(find(Some(Leaf::SYS_RD), Code::SYS_NOT_READY.plain()).is_some());
        assert!(find(Some(Leaf::MNG_CREATE), Code::SYS_NOT_READY.plain()).is_none());
        assert!(find(None, Code::SYS_NOT_READY.plain()).is_none());
    }
}
