//! The P-SEAMLDR: SEAMLDR.INFO.
//!
//! Every other leaf, known or not, answers EBADPARAM: loading and updating modules is not modelled.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tdx_abi::leaf::{LeafWord, SeamldrLeaf};
use tdx_abi::msr::MsrIndex;
use tdx_abi::seamldr::{SEAMEXTEND_VALID, SEAMLDR_INFO_SIZE, SeamldrInfo, Version};
use tdx_abi::status::SeamldrStatus;
use tdx_abi::{AddressLayout, KeyIdPartitioning, Registers};
use zerocopy::{FromZeros, IntoBytes};

use crate::hardware::{Hardware, LockName, LpIndex};
use crate::hpa::AddressSpace;
use crate::lock::TryMutex;
use crate::module::Module;

const VENDOR_INTEL: u32 = 0x8086;

/// What the P-SEAMLDR of a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderConfig {
    /// Its version.
    pub version: Version,
    /// Build date, BCD yyyymmdd.
    pub build_date: u32,
    /// Build counter.
    pub build: u16,
    /// Updates that its log still takes after the LOAD at boot, which took one place itself. A
    /// loader of TDX 1.0 keeps no such log and reports 0.
    pub remaining_updates: u32,
    /// x2APIC ids at or above this are refused by leaves that every LP must call.
    pub x2apic_limit: u32,
    /// x2APIC id of the LP on which the loader was launched.
    pub acm_x2apic_id: u32,
}

impl LoaderConfig {
    /// Updates that it reports as left.
    pub const fn updates_left(&self) -> u32 {
        let keeps_log = self.version.major > 1 || self.version.minor >= 5;
        if keeps_log { self.remaining_updates } else { 0 }
    }
}

impl Default for LoaderConfig {
    /// A P-SEAMLDR 1.5 as the public sources show it. Build date and number are assumed.
    fn default() -> Self {
        Self {
            version: Version::new(1, 5, 0),
            build_date: 0x2024_0812,
            build: 0,
            remaining_updates: 31,
            x2apic_limit: 1024,
            acm_x2apic_id: 0,
        }
    }
}

/// The P-SEAMLDR.
#[derive(Debug)]
pub(crate) struct Loader {
    pub(crate) config: LoaderConfig,
    lock: TryMutex,
    /// The stack canary is in place.
    has_canary: AtomicBool,
    calls: AtomicU64,
}

impl Loader {
    pub(crate) fn new(config: LoaderConfig) -> Self {
        Self {
            config,
            lock: TryMutex::default(),
            has_canary: AtomicBool::new(false),
            calls: AtomicU64::new(0),
        }
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Runs a call; `None` is VMfailInvalid.
    pub(crate) fn seamcall(
        &self,
        hw: &dyn Hardware,
        lp: LpIndex,
        module: Option<&Module>,
        regs: &mut Registers,
    ) -> Option<()> {
        // SEAMLDR-1
        let _lock = self.lock.try_lock().filter(|_| !hw.contended(lp, LockName::Seamldr))?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        regs.rax = self.run(hw, lp, module, regs).0;
        Some(())
    }

    fn run(
        &self,
        hw: &dyn Hardware,
        lp: LpIndex,
        module: Option<&Module>,
        regs: &Registers,
    ) -> SeamldrStatus {
        // SEAMLDR-2
        if !self.has_canary.load(Ordering::Acquire) {
            if hw.random(lp).is_none() {
                return SeamldrStatus::EUNSPECERR;
            }
            self.has_canary.store(true, Ordering::Release);
        }
        // SEAMLDR-3
        if regs.rax != LeafWord::seamldr(SeamldrLeaf::INFO).raw() {
            return SeamldrStatus::EBADPARAM;
        }
        // SEAMLDR.INFO-1
        let buffer = address_space(hw, lp).and_then(|space| space.shared(regs.rcx, SEAMLDR_INFO_SIZE));
        let Some((pa, key)) = buffer else {
            return SeamldrStatus::EBADPARAM;
        };
        hw.write(pa, key, self.info(module).as_bytes());
        SeamldrStatus::SUCCESS
    }

    fn info(&self, module: Option<&Module>) -> SeamldrInfo {
        let config = &self.config;
        let mut info = SeamldrInfo::new_zeroed();
        info.vendor_id = VENDOR_INTEL.into();
        info.build_date = config.build_date.into();
        info.build_num = config.build.into();
        info.minor_version = config.version.minor.into();
        info.major_version = config.version.major.into();
        info.update_version = config.version.update.into();
        info.acm_x2apic_id = config.acm_x2apic_id.into();
        info.num_remaining_updates = config.updates_left().into();
        info.p_seam_ready = 1;
        if let Some(module) = module {
            let profile = module.rules.profile;
            info.seamextend_valid = SEAMEXTEND_VALID.into();
            info.tcb_svn = profile.svn.word().into();
            info.mrseam = profile.seamhash;
            info.seam_ready = u8::from(!module.is_disabled());
        }
        info
    }
}

/// The address space as the loader finds it, without a module's help; `None` where the machine's
/// width makes no sense.
fn address_space(hw: &dyn Hardware, lp: LpIndex) -> Option<AddressSpace> {
    let [maxpa, ..] = hw.cpuid(lp, 0x8000_0008, 0).eax.to_le_bytes();
    let activate = hw.rdmsr(lp, MsrIndex::IA32_TME_ACTIVATE).unwrap_or(0);
    let [.., key_bits, _, _, _] = activate.to_le_bytes();
    let partitioning = hw.rdmsr(lp, MsrIndex::IA32_MKTME_KEYID_PARTITIONING).unwrap_or(0);
    Some(AddressSpace {
        layout: AddressLayout::new(maxpa, key_bits & 0xF)?,
        key_ids: KeyIdPartitioning::from_msr(partitioning),
        seamrr: hw.mcheck().seamrr,
    })
}
