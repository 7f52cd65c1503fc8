//! What the host side keeps of each CPU.

use crate::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use tdx_abi::msr::MsrIndex;

use crate::error::HostError;
use crate::traits::CpuNumber;

/// Independent users of VMX operation that can be told apart.
pub const MAX_VMX_CLIENTS: usize = 8;

/// State of one CPU. The embedder stores one per possible CPU.
///
/// A line of its own: every SEAMCALL writes it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct CpuSlot {
    cache_incoherent: AtomicBool,
    lp_initialised: AtomicBool,
    install_session: AtomicU32,
    vmx_on: AtomicBool,
    vmx_references: [AtomicU16; MAX_VMX_CLIENTS],
}

impl CpuSlot {
    /// The slot of a CPU on which nothing happened yet.
    pub const fn new() -> Self {
        Self {
            cache_incoherent: AtomicBool::new(false),
            lp_initialised: AtomicBool::new(false),
            install_session: AtomicU32::new(0),
            vmx_on: AtomicBool::new(false),
            vmx_references: [const { AtomicU16::new(0) }; MAX_VMX_CLIENTS],
        }
    }

    /// Notes that private lines may be dirty in this CPU's caches.
    #[inline]
    pub(crate) fn mark_cache_incoherent(&self) {
        // Read first: the line stays clean in the common case.
        if !self.cache_incoherent.load(Ordering::Relaxed) {
            self.cache_incoherent.store(true, Ordering::Relaxed);
        }
    }

    /// True if private lines may be dirty in this CPU's caches.
    pub fn cache_incoherent(&self) -> bool {
        self.cache_incoherent.load(Ordering::Relaxed)
    }

    /// Takes the mark away; true if it was set.
    pub(crate) fn take_cache_incoherent(&self) -> bool {
        self.cache_incoherent.swap(false, Ordering::Relaxed)
    }

    /// True if this CPU ran TDH.SYS.LP.INIT of the present module. Survives offlining.
    pub fn lp_initialised(&self) -> bool {
        self.lp_initialised.load(Ordering::Acquire)
    }

    pub(crate) fn set_lp_initialised(&self) {
        self.lp_initialised.store(true, Ordering::Release);
    }

    /// The module that knew this CPU is gone.
    pub(crate) fn clear_lp_initialised(&self) {
        self.lp_initialised.store(false, Ordering::Release);
    }

    /// The session of SEAMLDR.INSTALL in which P-SEAMLDR counted this CPU last; 0 if it never did.
    pub(crate) fn install_session(&self) -> u32 {
        self.install_session.load(Ordering::Acquire)
    }

    pub(crate) fn set_install_session(&self, session: u32) {
        self.install_session.store(session, Ordering::Release);
    }

    /// True if this CPU is in VMX operation on behalf of a client.
    pub fn vmx_on(&self) -> bool {
        self.vmx_on.load(Ordering::Relaxed)
    }

    pub(crate) fn set_vmx_on(&self, on: bool) {
        self.vmx_on.store(on, Ordering::Relaxed);
    }

    /// References that client `client` holds on this CPU; `None` if there is no such client number.
    pub(crate) fn vmx_references(&self, client: u8) -> Option<&AtomicU16> {
        self.vmx_references.get(usize::from(client))
    }

    /// References of all clients on this CPU.
    pub fn vmx_reference_count(&self) -> u32 {
        self.vmx_references.iter().map(|count| u32::from(count.load(Ordering::Relaxed))).sum()
    }
}

/// The slot of `cpu`.
pub(crate) fn slot(slots: &[CpuSlot], cpu: CpuNumber) -> Result<&CpuSlot, HostError> {
    slots.get(cpu.0 as usize).ok_or(HostError::UnknownCpu { cpu })
}

/// CPUID leaves and bits that the host asks for.
pub(crate) mod cpuid {
    /// Leaf of the topology with dies and more; EDX is the x2APIC id.
    pub(crate) const V2_TOPOLOGY: u32 = 0x1F;
    /// Leaf of the topology of threads and cores; EDX is the x2APIC id.
    pub(crate) const TOPOLOGY: u32 = 0xB;
    /// CPUID.1:ECX bit of VMX.
    pub(crate) const LEAF_1_ECX_VMX: u32 = 1 << 5;
    /// CPUID.1:ECX bit of XSAVE.
    pub(crate) const LEAF_1_ECX_XSAVE: u32 = 1 << 26;
    /// CPUID.1:EDX bit of self-snoop.
    pub(crate) const LEAF_1_EDX_SELF_SNOOP: u32 = 1 << 27;
    /// CPUID.7.0:ECX bit of MOVDIR64B.
    pub(crate) const LEAF_7_ECX_MOVDIR64B: u32 = 1 << 28;
}

/// The fields of IA32_VMX_BASIC that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmxBasic(pub u64);

impl VmxBasic {
    /// Where it is read.
    pub const MSR: MsrIndex = MsrIndex::IA32_VMX_BASIC;

    /// Revision id of VMCS and VMXON regions, bits 30:0.
    #[allow(clippy::cast_possible_truncation)] // 31 bits are left.
    pub const fn revision(self) -> u32 {
        (self.0 & 0x7FFF_FFFF) as u32
    }

    /// Bytes of a VMXON region, bits 44:32.
    pub const fn region_bytes(self) -> u64 {
        (self.0 >> 32) & 0x1FFF
    }

    /// Bit 60: SEAMRET leaves the current VMCS alone.
    pub const fn seamret_keeps_vmcs(self) -> bool {
        self.0 >> 60 & 1 == 1
    }
}
