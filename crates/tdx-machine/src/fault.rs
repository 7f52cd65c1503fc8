//! The fault catalogue: the ways a real bring-up or update fails, each to be chosen by name.

mod seamcall;

pub(crate) use seamcall::FailingCall;
pub use seamcall::{Answer, CallLeaf, UnknownName};

use serde::{Deserialize, Serialize};
use tdx_abi::leaf::SeamldrLeaf;
use tdx_abi::status::SeamldrStatus;

use crate::spec::{Hex, PlatformSpec, SpecIssue};

/// A fault of the machine. In a platform file: `faults = ["no-vmx", { msr-mismatch = { package =
/// 1, msr = "0x122" } }]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// Reading MSR 0x87 faults: no TDX on this CPU or TDX is off in the BIOS.
    #[serde(rename = "msr-0x87-faults")]
    Msr0x87Faults,
    /// CPUID shows no VMX.
    NoVmx,
    /// The BIOS gave no KeyID to TDX.
    KeyidsZero,
    /// The BIOS gave one KeyID to TDX: none is left for guests.
    KeyidsOne,
    /// The SEAM range is not enabled.
    SeamrrDisabled,
    /// The SEAM range is not locked, so that MCHECK refused it and it is not in force.
    SeamrrUnlocked,
    /// No module is loaded.
    ModuleMissing,
    /// The BIOS carries a module of TDX 1.0.
    #[serde(rename = "module-1.0")]
    Module10,
    /// A host turned TSX off by IA32_TSX_CTRL; a 1.0 module refuses that.
    TsxCtrlDisabled,
    /// A CPUID field that must be equal everywhere differs on one package.
    CpuidMismatch {
        /// The package.
        package: u32,
    },
    /// A CPUID value that a module insists on is wrong on one package.
    CpuidIncorrect {
        /// The package.
        package: u32,
    },
    /// An MSR differs on one package (its lowest bit is inverted).
    MsrMismatch {
        /// The package.
        package: u32,
        /// Index of the MSR.
        msr: Hex,
    },
    /// MCHECK counted one LP more than the operating system can see.
    LpMissing,
    /// The last convertible memory range ends before the RAM does.
    RamOutsideCmrs,
    /// RAM lies in more than 64 islands far from each other.
    TooManyTdmrs,
    /// One GiB of RAM has more holes than a TDMR has reserved areas.
    TooManyReservedAreas,
    /// The page allocator has no contiguous run large enough for a PAMT.
    NoContiguousPamt,
    /// PCONFIG has no entropy the first times.
    KeyConfigEntropy {
        /// How often.
        times: u32,
    },
    /// PCONFIG never has entropy.
    KeyConfigEntropyForever,
    /// Somebody holds the TDMR lock for good after a number of TDH.SYS.TDMR.INIT calls.
    TdmrInitFails {
        /// Calls that still go well.
        after: u32,
    },
    /// The module does not offer NO_RBP_MOD.
    NoRbpModMissing,
    /// CPUID shows no XSAVE.
    NoXsave,
    /// CPUID shows no MOVDIR64B.
    #[serde(rename = "no-movdir64b")]
    NoMovdir64b,
    /// CPUID shows no self-snoop.
    NoSelfsnoop,
    /// Some other hypervisor has set CR4.VMXE and runs VMX on every LP.
    VmxeAlreadySet,
    /// Nothing forbids hibernation.
    HibernationPossible,
    /// Calls of a leaf on one LP fail without reaching the software.
    SeamcallFails {
        /// The leaf.
        leaf: CallLeaf,
        /// Number of the LP.
        lp: u32,
        /// What the calls get.
        status: Answer,
        /// How many of them.
        times: u32,
    },
    /// The P-SEAMLDR gets no random address for a new module: INSTALL fails with nothing changed.
    NoEntropyForInstall {
        /// How often.
        times: u32,
    },
    /// The P-SEAMLDR gets no random number for its log: INSTALL fails and no module is left.
    NoEntropyForLog {
        /// How often.
        times: u32,
    },
    /// TDs are between TDH.MNG.INIT and TDH.MR.FINALIZE.
    TdBuildInProgress {
        /// How many.
        count: u16,
    },
    /// Calls that export or import a TD were interrupted and not resumed.
    InterruptedMigrations {
        /// How many.
        count: u16,
    },
    /// A VT-d unit has no TDX mode.
    IommuWithoutTdxMode {
        /// The unit, by its place in the platform file.
        unit: u32,
    },
    /// The operating system runs a VT-d unit in legacy mode.
    IommuLegacyMode {
        /// The unit.
        unit: u32,
    },
    /// The operating system runs a VT-d unit without an invalidation queue.
    IommuQueueOff {
        /// The unit.
        unit: u32,
    },
    /// A VT-d unit takes long for SET_TDX_MODE.
    SetTdxModeTimesOut {
        /// The unit.
        unit: u32,
        /// Looks at the response until the command is over; without it, it never is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        polls: Option<u32>,
    },
    /// A VT-d unit refuses SET_TDX_MODE.
    SetTdxModeFails {
        /// The unit.
        unit: u32,
        /// The status in its response, 7 bits.
        status: u8,
    },
    /// A key configuration unit is enabled already.
    KeyUnitLeftEnabled {
        /// The unit, by its place in the platform file.
        unit: u32,
    },
    /// KEYP lists a root port of another host bridge in its first unit.
    KeypPartialMatch,
    /// KEYP lists the first unit twice.
    KeypDoubleMatch,
    /// The operating system uses domain ids of the upper half of a VT-d unit.
    DomainIdsInUse {
        /// The unit.
        unit: u32,
    },
}

/// When a fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesEffect {
    /// As soon as it is injected.
    AtOnce,
    /// When power is cycled next: it is something that firmware or MCHECK decides.
    AtPowerOn,
}

/// What a fault is there to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaks {
    /// The bring-up of the module.
    BringUp,
    /// The replacement of the module under a running host.
    Update,
    /// TDX Connect: the rest of TDX goes on.
    Connect,
}

/// An entry of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultInfo {
    /// Name in files and on the command line.
    pub name: &'static str,
    /// One line: what is wrong, and what a host sees.
    pub description: &'static str,
    /// When it shows.
    pub takes_effect: TakesEffect,
    /// What it is there to break.
    pub breaks: Breaks,
}

/// Every fault by name, in the order in which a bring-up and an update meet them.
pub const CATALOGUE: &[FaultInfo] = {
    use TakesEffect::{AtOnce, AtPowerOn};
    const fn entry(name: &'static str, takes_effect: TakesEffect, description: &'static str) -> FaultInfo {
        FaultInfo { name, description, takes_effect, breaks: Breaks::BringUp }
    }
    const fn update(name: &'static str, description: &'static str) -> FaultInfo {
        FaultInfo { name, description, takes_effect: AtOnce, breaks: Breaks::Update }
    }
    const fn connect(name: &'static str, takes_effect: TakesEffect, description: &'static str) -> FaultInfo {
        FaultInfo { name, description, takes_effect, breaks: Breaks::Connect }
    }
    &[
        entry(
            "msr-0x87-faults",
            AtPowerOn,
            "reading MSR 0x87 faults: TDX is off or absent, SEAMCALL gives #GP",
        ),
        entry("no-vmx", AtPowerOn, "CPUID shows no VMX and CR4.VMXE cannot be set"),
        entry("keyids-zero", AtPowerOn, "MSR 0x87 shows no TDX KeyIDs"),
        entry("keyids-one", AtPowerOn, "MSR 0x87 shows one TDX KeyID: none is left for guests"),
        entry(
            "seamrr-disabled",
            AtPowerOn,
            "the SEAM range is not valid (MSR 0x1401 bit 11): SEAMCALL gives #GP",
        ),
        entry(
            "seamrr-unlocked",
            AtPowerOn,
            "the SEAM range is not locked (MSR 0x1401 bit 10): MCHECK refuses it, SEAMCALL gives #GP",
        ),
        entry("module-missing", AtPowerOn, "no TDX module is loaded: SEAMCALL gives VMfailInvalid"),
        entry("module-1.0", AtPowerOn, "the module is TDX 1.0: TDH.SYS.RD answers SYS_NOT_READY"),
        entry(
            "tsx-ctrl-disabled",
            AtOnce,
            "IA32_TSX_CTRL is 3 on every LP: a 1.0 module answers INCORRECT_MSR_VALUE 0x122",
        ),
        entry(
            "cpuid-mismatch",
            AtOnce,
            "CPUID 7.1 EAX differs on one package: TDH.SYS.LP.INIT answers INCONSISTENT_CPUID_FIELD",
        ),
        entry(
            "cpuid-incorrect",
            AtOnce,
            "WBNOINVD is missing on one package: INCORRECT_CPUID_VALUE in TDH.SYS.INIT there, INCONSISTENT_CPUID_FIELD in TDH.SYS.LP.INIT elsewhere",
        ),
        entry(
            "msr-mismatch",
            AtOnce,
            "the lowest bit of an MSR is inverted on one package: INCONSISTENT_MSR or INCORRECT_MSR_VALUE",
        ),
        entry(
            "lp-missing",
            AtPowerOn,
            "MCHECK counted one LP more than the OS sees: TDH.SYS.CONFIG answers SYS_CONFIG_NOT_PENDING",
        ),
        entry(
            "ram-outside-cmrs",
            AtPowerOn,
            "the last CMR ends before the RAM: TDH.SYS.CONFIG answers TDMR_OUTSIDE_CMRS",
        ),
        entry(
            "too-many-tdmrs",
            AtPowerOn,
            "65 islands of 64 MiB of RAM, 256 GiB apart, inside one CMR: more than 64 TDMRs are needed",
        ),
        entry(
            "too-many-reserved-areas",
            AtPowerOn,
            "18 pieces of RAM in one GiB, each a CMR of its own: more than 16 reserved areas are needed",
        ),
        entry("no-contiguous-pamt", AtOnce, "the largest free run of memory is 64 KiB: no PAMT fits"),
        entry(
            "key-config-entropy",
            AtOnce,
            "PCONFIG lacks entropy the first times: TDH.SYS.KEY.CONFIG answers KEY_GENERATION_FAILED, then goes well",
        ),
        entry(
            "key-config-entropy-forever",
            AtOnce,
            "PCONFIG always lacks entropy: TDH.SYS.KEY.CONFIG never goes well",
        ),
        entry(
            "tdmr-init-fails",
            AtOnce,
            "the TDMR lock stays held after some calls: TDH.SYS.TDMR.INIT answers OPERAND_BUSY RCX for good",
        ),
        entry("no-rbp-mod-missing", AtPowerOn, "TDX_FEATURES0 bit 18 (NO_RBP_MOD) is 0"),
        entry("no-xsave", AtOnce, "CPUID shows no XSAVE"),
        entry("no-movdir64b", AtOnce, "CPUID shows no MOVDIR64B"),
        entry("no-selfsnoop", AtOnce, "CPUID shows no self-snoop"),
        entry("vmxe-already-set", AtOnce, "CR4.VMXE is set and VMX is on on every LP before the host begins"),
        entry("hibernation-possible", AtOnce, "no boot option forbids hibernation"),
        update(
            "td-build-in-progress",
            "TDs are being built: TDH.SYS.SHUTDOWN answers UPDATE_COMPATIBILITY_SENSITIVE if asked to look",
        ),
        update(
            "interrupted-migrations",
            "migration calls wait to be resumed: TDH.SYS.SHUTDOWN answers UPDATE_COMPATIBILITY_SENSITIVE if asked to look",
        ),
        update(
            "no-entropy-for-install",
            "no random address for a new module: SEAMLDR.INSTALL answers ENOENTROPY with RDX 0, the old module stays",
        ),
        update(
            "no-entropy-for-log",
            "no random number for the log of modules: SEAMLDR.INSTALL answers ENOENTROPY with RDX 1, no module is left",
        ),
        update(
            "seamcall-fails",
            "calls of one leaf on one LP fail with a given status or VMfailInvalid, and the software never sees them",
        ),
        connect(
            "iommu-without-tdx-mode",
            AtPowerOn,
            "one VT-d unit has no TDX mode (ECAP bit 50): TDH.IOMMU.SETUP answers OPERAND_INVALID RCX, the unit is skipped",
        ),
        connect(
            "iommu-legacy-mode",
            AtPowerOn,
            "one VT-d unit runs in legacy mode (RTADDR bits 11:10): TDH.IOMMU.SETUP answers IOMMU_INVALID_STATE",
        ),
        connect(
            "iommu-queue-off",
            AtPowerOn,
            "one VT-d unit has its invalidation queue off (GSTS bit 26): TDH.IOMMU.SETUP answers IOMMU_INVALID_STATE",
        ),
        connect(
            "key-unit-left-enabled",
            AtOnce,
            "a stream of one key unit is enabled already: TDH.IOMMU.SETUP answers IOMMU_KCB_MUST_BE_DISABLED",
        ),
        connect(
            "set-tdx-mode-times-out",
            AtOnce,
            "SET_TDX_MODE of one VT-d unit does not end: TDH.IOMMU.SETUP answers IOMMU_ECMD_TIMEOUT",
        ),
        connect(
            "set-tdx-mode-fails",
            AtOnce,
            "SET_TDX_MODE of one VT-d unit ends with an error: TDH.IOMMU.SETUP answers IOMMU_ECMD_ERROR",
        ),
        connect(
            "domain-ids-in-use",
            AtOnce,
            "the host uses domain ids of the upper half of one VT-d unit: they cannot be kept for trusted devices",
        ),
        connect(
            "keyp-partial-match",
            AtPowerOn,
            "KEYP lists a root port of another host bridge in its first unit: the unit belongs to no bridge",
        ),
        connect(
            "keyp-double-match",
            AtPowerOn,
            "KEYP lists its first unit twice: two units belong to one host bridge",
        ),
    ]
};

impl Fault {
    /// Name in files and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Msr0x87Faults => "msr-0x87-faults",
            Self::NoVmx => "no-vmx",
            Self::KeyidsZero => "keyids-zero",
            Self::KeyidsOne => "keyids-one",
            Self::SeamrrDisabled => "seamrr-disabled",
            Self::SeamrrUnlocked => "seamrr-unlocked",
            Self::ModuleMissing => "module-missing",
            Self::Module10 => "module-1.0",
            Self::TsxCtrlDisabled => "tsx-ctrl-disabled",
            Self::CpuidMismatch { .. } => "cpuid-mismatch",
            Self::CpuidIncorrect { .. } => "cpuid-incorrect",
            Self::MsrMismatch { .. } => "msr-mismatch",
            Self::LpMissing => "lp-missing",
            Self::RamOutsideCmrs => "ram-outside-cmrs",
            Self::TooManyTdmrs => "too-many-tdmrs",
            Self::TooManyReservedAreas => "too-many-reserved-areas",
            Self::NoContiguousPamt => "no-contiguous-pamt",
            Self::KeyConfigEntropy { .. } => "key-config-entropy",
            Self::KeyConfigEntropyForever => "key-config-entropy-forever",
            Self::TdmrInitFails { .. } => "tdmr-init-fails",
            Self::NoRbpModMissing => "no-rbp-mod-missing",
            Self::NoXsave => "no-xsave",
            Self::NoMovdir64b => "no-movdir64b",
            Self::NoSelfsnoop => "no-selfsnoop",
            Self::VmxeAlreadySet => "vmxe-already-set",
            Self::HibernationPossible => "hibernation-possible",
            Self::SeamcallFails { .. } => "seamcall-fails",
            Self::NoEntropyForInstall { .. } => "no-entropy-for-install",
            Self::NoEntropyForLog { .. } => "no-entropy-for-log",
            Self::TdBuildInProgress { .. } => "td-build-in-progress",
            Self::InterruptedMigrations { .. } => "interrupted-migrations",
            Self::IommuWithoutTdxMode { .. } => "iommu-without-tdx-mode",
            Self::IommuLegacyMode { .. } => "iommu-legacy-mode",
            Self::IommuQueueOff { .. } => "iommu-queue-off",
            Self::KeyUnitLeftEnabled { .. } => "key-unit-left-enabled",
            Self::SetTdxModeTimesOut { .. } => "set-tdx-mode-times-out",
            Self::SetTdxModeFails { .. } => "set-tdx-mode-fails",
            Self::DomainIdsInUse { .. } => "domain-ids-in-use",
            Self::KeypPartialMatch => "keyp-partial-match",
            Self::KeypDoubleMatch => "keyp-double-match",
        }
    }

    /// The catalogue entry.
    pub fn info(&self) -> &'static FaultInfo {
        let name = self.name();
        // Every name is in the catalogue; a test says so.
        CATALOGUE.iter().find(|info| info.name == name).unwrap_or(&CATALOGUE[0])
    }

    /// A fault by its name, parameters at their defaults (the last package, two failures, after
    /// 100 calls; for an update one failure, INSTALL on the last LP; the last VT-d unit with TDX mode, the
    /// first key unit). `None` for an unknown name.
    pub fn by_name(name: &str, spec: &PlatformSpec) -> Option<Self> {
        let package = spec.cpu.packages.saturating_sub(1);
        let last = spec.iommus.iter().rposition(|unit| unit.tdx).unwrap_or(0);
        let unit = u32::try_from(last).unwrap_or(u32::MAX);
        [
            Self::Msr0x87Faults,
            Self::NoVmx,
            Self::KeyidsZero,
            Self::KeyidsOne,
            Self::SeamrrDisabled,
            Self::SeamrrUnlocked,
            Self::ModuleMissing,
            Self::Module10,
            Self::TsxCtrlDisabled,
            Self::CpuidMismatch { package },
            Self::CpuidIncorrect { package },
            Self::MsrMismatch { package, msr: Hex(0x10A) },
            Self::LpMissing,
            Self::RamOutsideCmrs,
            Self::TooManyTdmrs,
            Self::TooManyReservedAreas,
            Self::NoContiguousPamt,
            Self::KeyConfigEntropy { times: 2 },
            Self::KeyConfigEntropyForever,
            Self::TdmrInitFails { after: 100 },
            Self::NoRbpModMissing,
            Self::NoXsave,
            Self::NoMovdir64b,
            Self::NoSelfsnoop,
            Self::VmxeAlreadySet,
            Self::HibernationPossible,
            Self::SeamcallFails {
                leaf: CallLeaf::Seamldr(SeamldrLeaf::INSTALL),
                lp: spec.cpu.lp_count().unwrap_or(1).saturating_sub(1),
                status: Answer::Status(SeamldrStatus::EUNSPECERR.0),
                times: 1,
            },
            Self::NoEntropyForInstall { times: 1 },
            Self::NoEntropyForLog { times: 1 },
            Self::TdBuildInProgress { count: 1 },
            Self::InterruptedMigrations { count: 1 },
            Self::IommuWithoutTdxMode { unit },
            Self::IommuLegacyMode { unit },
            Self::IommuQueueOff { unit },
            Self::KeyUnitLeftEnabled { unit: 0 },
            Self::SetTdxModeTimesOut { unit, polls: None },
            Self::SetTdxModeFails { unit, status: 1 },
            Self::DomainIdsInUse { unit },
            Self::KeypPartialMatch,
            Self::KeypDoubleMatch,
        ]
        .into_iter()
        .find(|fault| fault.name() == name)
    }

    /// Refuses a fault that this platform cannot have.
    pub(crate) fn check(&self, spec: &PlatformSpec) -> Result<(), SpecIssue> {
        let impossible = |reason| Err(SpecIssue::FaultNotPossible { fault: self.name(), reason });
        match self {
            Self::CpuidMismatch { package }
            | Self::CpuidIncorrect { package }
            | Self::MsrMismatch { package, .. }
                if *package >= spec.cpu.packages =>
            {
                Err(SpecIssue::NoSuchPackage {
                    key: "faults",
                    package: *package,
                    packages: spec.cpu.packages,
                })
            }
            Self::MsrMismatch { msr, .. } if u32::try_from(msr.0).is_err() => {
                Err(SpecIssue::BadMsrIndex { index: msr.0 })
            }
            Self::TsxCtrlDisabled if !spec.cpu.kind.has_tsx_ctrl() => {
                impossible("its CPU has no IA32_TSX_CTRL")
            }
            Self::SeamcallFails { lp, .. } if spec.cpu.lp_count().is_none_or(|lps| *lp >= lps) => {
                impossible("it has no such LP")
            }
            Self::IommuWithoutTdxMode { unit }
            | Self::IommuLegacyMode { unit }
            | Self::IommuQueueOff { unit }
            | Self::SetTdxModeTimesOut { unit, .. }
            | Self::SetTdxModeFails { unit, .. }
            | Self::DomainIdsInUse { unit }
                if spec.iommus.get(*unit as usize).is_none_or(|unit| !unit.tdx) =>
            {
                impossible("it has no such IOMMU with TDX mode")
            }
            Self::SetTdxModeFails { status, .. } if !(1..=0x7F).contains(status) => {
                impossible("a status of failure has 7 bits and is not 0")
            }
            Self::KeyUnitLeftEnabled { unit } if *unit as usize >= spec.key_units.len() => {
                impossible("it has no such key unit")
            }
            Self::KeypPartialMatch | Self::KeypDoubleMatch if spec.key_units.is_empty() => {
                impossible("it has no key units")
            }
            Self::KeyidsOne if spec.keyids.tdx == 0 => impossible("it has no TDX KeyIDs"),
            Self::TooManyTdmrs | Self::TooManyReservedAreas => {
                crate::firmware::layout::Memory::of(spec).check_fault(self, spec)
            }
            _ => Ok(()),
        }
    }
}

/// Why a fault could not be injected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The platform cannot have it.
    #[error("{0}")]
    NotPossible(#[from] SpecIssue),
}
