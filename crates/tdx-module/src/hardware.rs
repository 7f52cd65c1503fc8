//! What a SEAM program sees of the machine below it.

use std::fmt;

use crate::io::ConnectHardware;
use tdx_abi::cmr::MAX_CMRS;
use tdx_abi::msr::MsrIndex;
use tdx_abi::{KeyId, PhysAddr, PhysRange};

use crate::profile::{Profile, Svn};

/// Number of a logical processor, 0-based, in the order in which MCHECK counted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LpIndex(pub u32);

/// Number of a CPU package, 0-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageIndex(pub u32);

impl fmt::Display for LpIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LP {}", self.0)
    }
}

impl fmt::Display for PackageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "package {}", self.0)
    }
}

/// Where a logical processor sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LpIdentity {
    /// Its package.
    pub package: PackageIndex,
    /// Its x2APIC id, CPUID 0x1F EDX.
    pub x2apic_id: u32,
}

/// Result of CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // Register names are the hardware's own.
pub struct CpuidRegs {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What MCHECK found at power-on: the P_SYSINFO page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct McheckInfo {
    /// Logical processors of the machine, online in the OS or not.
    pub total_lps: u32,
    /// Packages of the machine.
    pub packages: u32,
    /// CPUID.1.EAX of each package (8 slots).
    pub package_fms: [u32; 8],
    /// SEAM range: module and P-SEAMLDR live there, nobody else gets in.
    pub seamrr: PhysRange,
    /// Convertible memory ranges, unused entries of size 0 at the end. Raw: SYS.INIT checks them.
    pub cmrs: [CmrEntry; MAX_CMRS],
    /// Memory has no integrity MAC (Li mode).
    pub without_integrity: bool,
    /// SMRR2 is not supported.
    pub smrr2_unsupported: bool,
}

/// One raw CMR entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CmrEntry {
    /// First address.
    pub base: u64,
    /// Bytes; 0 = unused.
    pub size: u64,
}

/// Memory encryption algorithm, as PCONFIG takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum KeyAlgorithm {
    AesXts128,
    AesXts128Integrity,
    AesXts256,
    AesXts256Integrity,
}

/// Why PCONFIG did not program a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PconfigError {
    /// The random number generator had nothing (code 2).
    #[error("no entropy for a random key")]
    Entropy,
    /// The KeyID is not one of this machine (code 3).
    #[error("KeyID not usable")]
    InvalidKeyId,
    /// The algorithm is not active (code 4).
    #[error("algorithm not active")]
    InvalidAlgorithm,
    /// Another LP holds the key table (code 5).
    #[error("key table busy")]
    DeviceBusy,
}

/// Poison was consumed: the access hit a line whose content cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("machine check: poisoned memory at {pa}")]
pub struct MachineCheck {
    /// The first poisoned line touched, 64-byte aligned.
    pub pa: PhysAddr,
}

/// A lock of the module, as far as a machine's seeded contention cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are those of the lock table.
pub enum LockName {
    Global,
    Tdmr,
    KeyTable,
    Seamldr,
    Extension,
    Iommu,
    Spdm,
    Stream,
}

/// What the P-SEAMLDR draws a random number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RandomUse {
    /// The stack canary of its first call.
    StackCanary,
    /// Where in its address space a new module lies.
    AddressOffset,
    /// The entry of a new module in the log of modules (SEAMDB).
    LogEntry,
}

/// Something that the SEAM software does differently from hardware because it knows no better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeamNote {
    /// No profile describes the release that was installed: it is played as another one.
    NearestRelease {
        /// SVN of the image.
        svn: Svn,
        /// The release it is played as.
        profile: &'static Profile,
    },
}

/// The machine as a SEAM program sees it. All methods are called by the LP that runs the program.
///
/// Answers must be stable: two reads of the same MSR or CPUID leaf on one LP differ only if
/// somebody changed it in between.
pub trait Hardware: Send + Sync {
    /// What MCHECK found.
    fn mcheck(&self) -> &McheckInfo;

    /// Identity of `lp`; `None` if the machine has no such LP.
    fn lp(&self, lp: LpIndex) -> Option<LpIdentity>;

    /// RDMSR on `lp`; `None` where the instruction faults.
    fn rdmsr(&self, lp: LpIndex, msr: MsrIndex) -> Option<u64>;

    /// CPUID on `lp`, raw: a leaf that the CPU lacks answers like hardware does.
    fn cpuid(&self, lp: LpIndex, leaf: u32, subleaf: u32) -> CpuidRegs;

    /// Capability word of the SEAMOPS instruction on `lp` (bit per sub-leaf offered).
    fn seamops_capabilities(&self, lp: LpIndex) -> u64;

    /// Reads memory through `key`, in SEAM mode.
    fn read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), MachineCheck>;

    /// Writes memory through `key`, in SEAM mode. Writes never fail; reads decide.
    fn write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8]);

    /// Fills `range` with zeros through `key` by MOVDIR64B, without reading it first. Costs
    /// nothing per byte: a machine keeps such a range as one entry.
    fn initialise(&self, range: PhysRange, key: KeyId);

    /// RDRAND on `lp`; `None` if it gave nothing.
    fn random(&self, lp: LpIndex) -> Option<u64>;

    /// RDRAND of the P-SEAMLDR on `lp`, which tries again before it gives up. A machine that lets
    /// one use fail looks at `purpose`.
    fn random_for(&self, lp: LpIndex, purpose: RandomUse) -> Option<u64> {
        let _ = purpose;
        self.random(lp)
    }

    /// Takes note of something. Nothing depends on it.
    fn note(&self, lp: LpIndex, note: SeamNote) {
        let _ = (lp, note);
    }

    /// PCONFIG on `lp`'s package: programs a random key for `key`.
    fn program_random_key(
        &self,
        lp: LpIndex,
        key: KeyId,
        algorithm: KeyAlgorithm,
    ) -> Result<(), PconfigError>;

    /// Parts in which the caches of `lp`'s package can be written back.
    fn cache_parts(&self, lp: LpIndex) -> u32;

    /// Writes a part of the caches of `lp`'s package back and invalidates it. Parts have the numbers
    /// below [`Self::cache_parts`]; lines are in memory once all parts have had their turn.
    fn write_back_part(&self, lp: LpIndex, part: u32);

    /// True if some other agent holds `lock` right now. Asked once before each try of a lock, so
    /// that a seeded machine can make a caller meet BUSY without a second thread.
    fn contended(&self, lp: LpIndex, lock: LockName) -> bool;

    /// True if an interrupt is pending for `lp`: resumable leaves stop and return.
    fn interrupt_pending(&self, lp: LpIndex) -> bool;

    /// The hardware of TDX Connect, if the machine has any.
    fn connect(&self) -> Option<&dyn ConnectHardware> {
        None
    }
}
