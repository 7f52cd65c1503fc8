//! VMX: enough for a hypervisor to take the CPU and to keep its VMCSes. No VM can run.

use tdx_abi::msr::MsrIndex;
use tdx_abi::{PAGE_SIZE, PhysAddr};
use tdx_machine::{LpIndex, VmxFault};

use super::vmcs::{Component, VmError};
use crate::cpu::{Flags, Gpr, Outcome, Vcpu};
use crate::decode::{Memory, Place, Vmx};
use crate::host::Host;

/// IA32_VMX_MISC: VMWRITE takes VM-exit information too.
const MISC_VMWRITE_ANY: u64 = 1 << 29;
/// IA32_VMX_BASIC: VMCS revision.
const BASIC_REVISION: u64 = 0x7FFF_FFFF;

/// The operand is not mapped: the native instruction faults, though with #UD instead of #PF.
struct Unmapped;

impl From<Unmapped> for Outcome {
    fn from(_: Unmapped) -> Self {
        Self::Native
    }
}

pub(super) fn execute(host: &Host, insn: &Vmx, vcpu: &mut dyn Vcpu) -> Outcome {
    if let Vmx::Vmxon(region) = insn {
        return vmxon(host, region, vcpu).unwrap_or_else(Outcome::from);
    }
    if !host.machine.in_vmx(vcpu.index()) {
        return Outcome::Native;
    }
    let flags = match insn {
        Vmx::Vmxon(_) => return Outcome::Native,
        Vmx::Vmxoff => return vmxoff(host, vcpu.index()),
        Vmx::Vmclear(region) => vmclear(host, region, vcpu),
        Vmx::Vmptrld(region) => vmptrld(host, region, vcpu),
        Vmx::Vmptrst(to) => vmptrst(host, to, vcpu),
        Vmx::Vmread { field, to } => vmread(host, *field, to, vcpu),
        Vmx::Vmwrite { field, from } => vmwrite(host, *field, from, vcpu),
        Vmx::Invept { kind, descriptor } => invept(host, *kind, descriptor, vcpu),
        Vmx::Invvpid { kind, descriptor } => invvpid(host, *kind, descriptor, vcpu),
        Vmx::Vmlaunch => Ok(host.vmx.fail(vcpu.index(), VmError::ENTRY_INVALID_CONTROL)),
        Vmx::Vmresume => Ok(host.vmx.fail(vcpu.index(), VmError::VMRESUME_NON_LAUNCHED)),
    };
    flags.map_or_else(Outcome::from, Outcome::DoneWithFlags)
}

fn vmxon(host: &Host, region: &Memory, vcpu: &dyn Vcpu) -> Result<Outcome, Unmapped> {
    let lp = vcpu.index();
    if !host.machine.cr4_vmxe(lp) {
        return Ok(Outcome::Native);
    }
    let region = PhysAddr::new(load(region, vcpu)?);
    Ok(match host.machine.vmxon(lp, region) {
        Ok(()) => {
            host.vmx.enter(lp, region);
            Outcome::DoneWithFlags(Flags::SUCCEED)
        }
        Err(VmxFault::InvalidRegion) => Outcome::DoneWithFlags(Flags::FAIL_INVALID),
        Err(VmxFault::AlreadyOn) => Outcome::DoneWithFlags(host.vmx.fail(lp, VmError::VMXON_IN_ROOT)),
        Err(VmxFault::GeneralProtection) => Outcome::GeneralProtection,
        Err(VmxFault::InvalidOpcode) => Outcome::Native,
    })
}

fn vmxoff(host: &Host, lp: LpIndex) -> Outcome {
    match host.machine.vmxoff(lp) {
        Ok(()) => {
            host.vmx.leave(lp);
            Outcome::DoneWithFlags(Flags::SUCCEED)
        }
        Err(_) => Outcome::Native,
    }
}

/// True for an address where a VMCS can lie.
fn is_region(host: &Host, pa: PhysAddr) -> bool {
    pa.is_aligned(PAGE_SIZE) && pa.as_u64() >> host.machine.spec().cpu.kind.maxpa() == 0
}

fn vmclear(host: &Host, region: &Memory, vcpu: &dyn Vcpu) -> Result<Flags, Unmapped> {
    let (lp, pa) = (vcpu.index(), PhysAddr::new(load(region, vcpu)?));
    if !is_region(host, pa) {
        return Ok(host.vmx.fail(lp, VmError::VMCLEAR_INVALID_ADDRESS));
    }
    if host.vmx.is_vmxon_pointer(lp, pa) {
        return Ok(host.vmx.fail(lp, VmError::VMCLEAR_VMXON_POINTER));
    }
    host.vmx.clear(lp, pa);
    Ok(Flags::SUCCEED)
}

fn vmptrld(host: &Host, region: &Memory, vcpu: &dyn Vcpu) -> Result<Flags, Unmapped> {
    let (lp, pa) = (vcpu.index(), PhysAddr::new(load(region, vcpu)?));
    if !is_region(host, pa) {
        return Ok(host.vmx.fail(lp, VmError::VMPTRLD_INVALID_ADDRESS));
    }
    if host.vmx.is_vmxon_pointer(lp, pa) {
        return Ok(host.vmx.fail(lp, VmError::VMPTRLD_VMXON_POINTER));
    }
    // Where nothing answers, hardware reads all ones. Bit 31 marks a shadow VMCS, which there is not.
    let mut word = [0xFF; 4];
    vcpu.read_physical(pa, &mut word);
    let basic = host.machine.rdmsr(lp, MsrIndex::IA32_VMX_BASIC).unwrap_or(0);
    if u64::from(u32::from_le_bytes(word)) != basic & BASIC_REVISION {
        return Ok(host.vmx.fail(lp, VmError::VMPTRLD_INCORRECT_REVISION));
    }
    host.vmx.load(lp, pa);
    Ok(Flags::SUCCEED)
}

fn vmptrst(host: &Host, to: &Memory, vcpu: &mut dyn Vcpu) -> Result<Flags, Unmapped> {
    let current = host.vmx.current(vcpu.index()).map_or(u64::MAX, PhysAddr::as_u64);
    store(to, current, vcpu)?;
    Ok(Flags::SUCCEED)
}

fn vmread(host: &Host, field: Gpr, to: &Place, vcpu: &mut dyn Vcpu) -> Result<Flags, Unmapped> {
    let lp = vcpu.index();
    let Some(current) = host.vmx.current(lp) else { return Ok(Flags::FAIL_INVALID) };
    let Some(component) = Component::new(vcpu.gpr(field)) else {
        return Ok(host.vmx.fail(lp, VmError::UNSUPPORTED_COMPONENT));
    };
    let value = host.vmx.read(current, component);
    match to {
        Place::Register(gpr) => vcpu.set_gpr(*gpr, value),
        Place::Memory(memory) => store(memory, value, vcpu)?,
    }
    Ok(Flags::SUCCEED)
}

fn vmwrite(host: &Host, field: Gpr, from: &Place, vcpu: &dyn Vcpu) -> Result<Flags, Unmapped> {
    let lp = vcpu.index();
    let Some(current) = host.vmx.current(lp) else { return Ok(Flags::FAIL_INVALID) };
    let value = match from {
        Place::Register(gpr) => vcpu.gpr(*gpr),
        Place::Memory(memory) => load(memory, vcpu)?,
    };
    let Some(component) = Component::new(vcpu.gpr(field)) else {
        return Ok(host.vmx.fail(lp, VmError::UNSUPPORTED_COMPONENT));
    };
    if component.is_read_only() && !vmwrite_takes_anything(host, lp) {
        return Ok(host.vmx.fail(lp, VmError::READ_ONLY_COMPONENT));
    }
    host.vmx.write(current, component, value);
    Ok(Flags::SUCCEED)
}

fn vmwrite_takes_anything(host: &Host, lp: LpIndex) -> bool {
    host.machine.rdmsr(lp, MsrIndex(0x485)).is_ok_and(|misc| misc & MISC_VMWRITE_ANY != 0)
}

/// Nothing is cached, so nothing is invalidated; operands are checked.
fn invept(host: &Host, kind: Gpr, descriptor: &Memory, vcpu: &dyn Vcpu) -> Result<Flags, Unmapped> {
    let [_, reserved] = load_descriptor(descriptor, vcpu)?;
    let valid = matches!(vcpu.gpr(kind), 1 | 2) && reserved == 0;
    Ok(invalidated(host, vcpu.index(), valid))
}

fn invvpid(host: &Host, kind: Gpr, descriptor: &Memory, vcpu: &dyn Vcpu) -> Result<Flags, Unmapped> {
    /// Bit 47 and above are equal in a canonical address of four levels, bit 56 and above in one of five.
    const fn is_canonical(address: u64) -> bool {
        matches!(address.cast_signed() >> 56, 0 | -1)
    }
    let [vpid, address] = load_descriptor(descriptor, vcpu)?;
    let valid = vpid <= 0xFFFF
        && match vcpu.gpr(kind) {
            0 => vpid != 0 && is_canonical(address),
            1 | 3 => vpid != 0,
            2 => true,
            _ => false,
        };
    Ok(invalidated(host, vcpu.index(), valid))
}

fn invalidated(host: &Host, lp: LpIndex, valid: bool) -> Flags {
    if valid { Flags::SUCCEED } else { host.vmx.fail(lp, VmError::INVALID_INVALIDATION_OPERAND) }
}

fn load(memory: &Memory, vcpu: &dyn Vcpu) -> Result<u64, Unmapped> {
    let mut bytes = [0; 8];
    let mapped = vcpu.read_virtual(memory.address(vcpu), &mut bytes);
    mapped.then(|| u64::from_le_bytes(bytes)).ok_or(Unmapped)
}

fn load_descriptor(memory: &Memory, vcpu: &dyn Vcpu) -> Result<[u64; 2], Unmapped> {
    let (mut low, mut high) = ([0; 8], [0; 8]);
    let address = memory.address(vcpu);
    let mapped =
        vcpu.read_virtual(address, &mut low) && vcpu.read_virtual(address.wrapping_add(8), &mut high);
    mapped.then(|| [low, high].map(u64::from_le_bytes)).ok_or(Unmapped)
}

fn store(memory: &Memory, value: u64, vcpu: &mut dyn Vcpu) -> Result<(), Unmapped> {
    let address = memory.address(vcpu);
    vcpu.write_virtual(address, &value.to_le_bytes()).then_some(()).ok_or(Unmapped)
}
