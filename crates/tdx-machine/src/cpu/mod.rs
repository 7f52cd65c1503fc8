//! CPU facts: what CPUID and RDMSR answer on each package.

mod cpuid;
mod lp;
mod msrs;

use std::collections::BTreeMap;

use tdx_module::hardware::CpuidRegs;

pub(crate) use cpuid::CpuidTable;
pub(crate) use lp::LpState;
pub use lp::VmxFault;

use crate::fault::Fault;
use crate::spec::PlatformSpec;

/// Facts of every package, faults included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuFacts {
    packages: Vec<PackageFacts>,
    /// SEAMCALL does not fault with #GP: the CPU has SEAM, and the SEAM range is valid and locked.
    pub(crate) seam_on: bool,
    /// CR4.VMXE can be set.
    pub(crate) has_vmx: bool,
}

/// Facts of one package.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PackageFacts {
    msrs: BTreeMap<u32, u64>,
    cpuid: CpuidTable,
}

const VMX: u32 = 1 << 5;
const XSAVE: u32 = 1 << 26;
const SELF_SNOOP: u32 = 1 << 27;
const MOVDIR64B: u32 = 1 << 28;
const AVX_VNNI: u32 = 1 << 4;
const WBNOINVD: u32 = 1 << 9;

impl CpuFacts {
    pub(crate) fn new(spec: &PlatformSpec, faults: &[Fault]) -> Self {
        let common = PackageFacts { msrs: msrs::healthy(spec), cpuid: CpuidTable::healthy(spec) };
        let mut packages = vec![common; spec.cpu.packages as usize];
        for over in &spec.packages {
            let Some(package) = packages.get_mut(over.index as usize) else { continue };
            package.msrs.extend(over.msr.iter().map(|(&index, value)| (index, value.0)));
            for absent in &over.msr_absent {
                package.msrs.retain(|&index, _| u64::from(index) != absent.0);
            }
            for leaf in &over.cpuid {
                package.cpuid.override_leaf(leaf);
            }
        }
        let mut facts = Self { packages, seam_on: false, has_vmx: true };
        for fault in faults {
            facts.apply(fault, spec);
        }
        facts.seam_on = facts.package(0).is_some_and(|package| {
            let mask = package.msrs.get(&msrs::SEAMRR_MASK).copied().unwrap_or(0);
            let in_force = msrs::SEAMRR_VALID | msrs::SEAMRR_LOCK;
            mask & in_force == in_force && package.msrs.contains_key(&msrs::KEYID_PARTITIONING)
        });
        facts.has_vmx = facts.cpuid(0, 1, 0, 0).ecx & VMX != 0;
        facts
    }

    fn package(&self, package: u32) -> Option<&PackageFacts> {
        self.packages.get(package as usize)
    }

    /// RDMSR on a package; `None` where it faults.
    pub(crate) fn msr(&self, package: u32, index: u32) -> Option<u64> {
        self.package(package)?.msrs.get(&index).copied()
    }

    /// CPUID on a package, for the LP with this x2APIC id.
    pub(crate) fn cpuid(&self, package: u32, leaf: u32, subleaf: u32, x2apic_id: u32) -> CpuidRegs {
        self.package(package).map(|package| package.cpuid.query(leaf, subleaf, x2apic_id)).unwrap_or_default()
    }

    /// CPUID.1.EAX of each package, as MCHECK keeps it.
    pub(crate) fn package_fms(&self) -> [u32; 8] {
        let mut all = [0; 8];
        for (slot, package) in all.iter_mut().zip(&self.packages) {
            *slot = package.cpuid.query(1, 0, 0).eax;
        }
        all
    }

    fn apply(&mut self, fault: &Fault, spec: &PlatformSpec) {
        match *fault {
            Fault::Msr0x87Faults => {
                self.each(|package| {
                    package.msrs.remove(&msrs::KEYID_PARTITIONING);
                });
            }
            Fault::KeyidsZero => {
                let keys = u64::from(spec.keyids.mktme) + u64::from(spec.keyids.tdx);
                self.set_msr(msrs::KEYID_PARTITIONING, keys);
            }
            Fault::KeyidsOne => {
                self.set_msr(msrs::KEYID_PARTITIONING, 1 << 32 | u64::from(spec.keyids.mktme));
            }
            Fault::SeamrrDisabled => self.clear_msr_bits(msrs::SEAMRR_MASK, msrs::SEAMRR_VALID),
            Fault::SeamrrUnlocked => {
                self.clear_msr_bits(msrs::SEAMRR_MASK, msrs::SEAMRR_LOCK);
                // What MCHECK reports for a refused platform; any value but 0 means failure.
                self.set_msr(msrs::MCHECK_STATUS, 1);
            }
            Fault::TsxCtrlDisabled => self.set_msr(msrs::TSX_CTRL, msrs::TSX_DISABLED),
            Fault::CpuidMismatch { package } => {
                self.change_cpuid(Some(package), 7, 1, |regs| regs.eax ^= AVX_VNNI);
            }
            Fault::CpuidIncorrect { package } => {
                self.change_cpuid(Some(package), 0x8000_0008, 0, |regs| regs.ebx &= !WBNOINVD);
            }
            Fault::MsrMismatch { package, msr } => {
                let index = u32::try_from(msr.0).unwrap_or(u32::MAX);
                if let Some(package) = self.packages.get_mut(package as usize) {
                    *package.msrs.entry(index).or_insert(0) ^= 1;
                }
            }
            Fault::NoVmx => {
                self.change_cpuid(None, 1, 0, |regs| regs.ecx &= !VMX);
                self.each(|package| package.msrs.retain(|index, _| !msrs::VMX_CAPABILITIES.contains(index)));
            }
            Fault::NoXsave => self.change_cpuid(None, 1, 0, |regs| regs.ecx &= !XSAVE),
            Fault::NoMovdir64b => self.change_cpuid(None, 7, 0, |regs| regs.ecx &= !MOVDIR64B),
            Fault::NoSelfsnoop => self.change_cpuid(None, 1, 0, |regs| regs.edx &= !SELF_SNOOP),
            _ => {}
        }
    }

    fn each(&mut self, act: impl FnMut(&mut PackageFacts)) {
        self.packages.iter_mut().for_each(act);
    }

    fn set_msr(&mut self, index: u32, value: u64) {
        self.each(|package| {
            package.msrs.insert(index, value);
        });
    }

    fn clear_msr_bits(&mut self, index: u32, bits: u64) {
        self.each(|package| {
            if let Some(value) = package.msrs.get_mut(&index) {
                *value &= !bits;
            }
        });
    }

    fn change_cpuid(&mut self, only: Option<u32>, leaf: u32, subleaf: u32, change: impl Fn(&mut CpuidRegs)) {
        for (number, package) in (0..).zip(&mut self.packages) {
            if only.is_none_or(|only| only == number) {
                package.cpuid.change(leaf, subleaf, &change);
            }
        }
    }
}
