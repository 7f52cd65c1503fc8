//! VMX state: the VMXON region and the current VMCS of each LP, and what VMCSes hold.

use std::collections::HashMap;

use parking_lot::Mutex;
use tdx_abi::PhysAddr;
use tdx_machine::LpIndex;

use crate::cpu::Flags;

/// VM-instruction error numbers (SDM volume 3, table "VM-Instruction Error Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VmError(pub(super) u8);

#[rustfmt::skip]
impl VmError {
    pub(super) const VMCLEAR_INVALID_ADDRESS: Self = Self(2);
    pub(super) const VMCLEAR_VMXON_POINTER: Self = Self(3);
    pub(super) const VMRESUME_NON_LAUNCHED: Self = Self(5);
    pub(super) const ENTRY_INVALID_CONTROL: Self = Self(7);
    pub(super) const VMPTRLD_INVALID_ADDRESS: Self = Self(9);
    pub(super) const VMPTRLD_VMXON_POINTER: Self = Self(10);
    pub(super) const VMPTRLD_INCORRECT_REVISION: Self = Self(11);
    pub(super) const UNSUPPORTED_COMPONENT: Self = Self(12);
    pub(super) const READ_ONLY_COMPONENT: Self = Self(13);
    pub(super) const VMXON_IN_ROOT: Self = Self(15);
    pub(super) const INVALID_INVALIDATION_OPERAND: Self = Self(28);
}

/// Encoding of a VMCS component: bit 0 access to the high half, 9:1 index, 11:10 type, 14:13 width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Component(u16);

impl Component {
    /// VM-instruction error.
    const ERROR: Self = Self(0x4400);
    const RESERVED: u16 = 1 << 12 | 1 << 15;

    /// The component of an encoding. Every well-formed encoding is supported; the high half is
    /// there for components of 64 bits only.
    pub(super) fn new(encoding: u64) -> Option<Self> {
        let component = Self(u16::try_from(encoding).ok()?);
        let well_formed =
            component.0 & Self::RESERVED == 0 && (!component.is_high() || component.width() == 1);
        well_formed.then_some(component)
    }

    const fn is_high(self) -> bool {
        self.0 & 1 != 0
    }

    /// 0: 16 bits, 1: 64 bits, 2: 32 bits, 3: natural width.
    const fn width(self) -> u16 {
        self.0 >> 13 & 3
    }

    /// VM-exit information, which a CPU may refuse to write.
    pub(super) const fn is_read_only(self) -> bool {
        self.0 >> 10 & 3 == 1
    }

    /// The component without the choice of a half.
    const fn whole(self) -> u16 {
        self.0 & !1
    }

    const fn get(self, whole: u64) -> u64 {
        if self.is_high() { whole >> 32 } else { whole }
    }

    const fn put(self, whole: u64, value: u64) -> u64 {
        match self.width() {
            _ if self.is_high() => whole & 0xFFFF_FFFF | value << 32,
            0 => value & 0xFFFF,
            2 => value & 0xFFFF_FFFF,
            _ => value,
        }
    }
}

#[derive(Debug, Default)]
struct LpVmx {
    vmxon: Option<PhysAddr>,
    current: Option<PhysAddr>,
}

/// Components that were written, by encoding.
type Vmcs = HashMap<u16, u64>;

/// VMX state of all LPs. That an LP is in VMX operation is the machine's to know.
#[derive(Debug)]
pub(crate) struct VmxState {
    lps: Box<[Mutex<LpVmx>]>,
    /// By the address of the region. No VMCS is ever launched, so none has a launch state.
    vmcs: Mutex<HashMap<PhysAddr, Vmcs>>,
    /// SEAMRET from the P-SEAMLDR loses the current VMCS.
    seamret_loses: bool,
}

impl VmxState {
    pub(crate) fn new(lps: usize, seamret_loses: bool) -> Self {
        let lps = (0..lps).map(|_| Mutex::default()).collect();
        Self { lps, vmcs: Mutex::default(), seamret_loses }
    }

    /// As after power-on.
    pub(crate) fn reset(&self) {
        for lp in &self.lps {
            *lp.lock() = LpVmx::default();
        }
        self.vmcs.lock().clear();
    }

    /// INIT, or VMXOFF.
    pub(crate) fn leave(&self, lp: LpIndex) {
        self.with(lp, |state| *state = LpVmx::default());
    }

    /// VMXON.
    pub(super) fn enter(&self, lp: LpIndex, region: PhysAddr) {
        self.with(lp, |state| *state = LpVmx { vmxon: Some(region), current: None });
    }

    /// Return from the P-SEAMLDR.
    pub(super) fn seamret(&self, lp: LpIndex) {
        if self.seamret_loses {
            self.with(lp, |state| state.current = None);
        }
    }

    pub(super) fn is_vmxon_pointer(&self, lp: LpIndex, pa: PhysAddr) -> bool {
        self.with(lp, |state| state.vmxon == Some(pa))
    }

    pub(super) fn current(&self, lp: LpIndex) -> Option<PhysAddr> {
        self.with(lp, |state| state.current)
    }

    /// VMPTRLD.
    pub(super) fn load(&self, lp: LpIndex, pa: PhysAddr) {
        self.with(lp, |state| state.current = Some(pa));
    }

    /// VMCLEAR. What the VMCS holds stays.
    pub(super) fn clear(&self, lp: LpIndex, pa: PhysAddr) {
        self.with(lp, |state| state.current = state.current.filter(|&current| current != pa));
    }

    /// Reads a component of the VMCS at `pa`; 0 if nothing was ever written to it.
    pub(super) fn read(&self, pa: PhysAddr, component: Component) -> u64 {
        let regions = self.vmcs.lock();
        component.get(regions.get(&pa).and_then(|vmcs| vmcs.get(&component.whole())).copied().unwrap_or(0))
    }

    pub(super) fn write(&self, pa: PhysAddr, component: Component, value: u64) {
        let mut regions = self.vmcs.lock();
        let whole = regions.entry(pa).or_default().entry(component.whole()).or_default();
        *whole = component.put(*whole, value);
    }

    /// VMfail: VMfailValid with the number in the current VMCS, VMfailInvalid without one.
    pub(super) fn fail(&self, lp: LpIndex, error: VmError) -> Flags {
        let Some(current) = self.current(lp) else { return Flags::FAIL_INVALID };
        self.write(current, Component::ERROR, u64::from(error.0));
        Flags::FAIL_VALID
    }

    fn with<T: Default>(&self, lp: LpIndex, change: impl FnOnce(&mut LpVmx) -> T) -> T {
        self.lps.get(lp.0 as usize).map(|state| change(&mut state.lock())).unwrap_or_default()
    }
}
