//! A guest for tests: registers, flat memory, and a machine over that memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tdx_abi::{PhysAddr, PhysRange};
use tdx_machine::{LpIndex, Ram};

use crate::cpu::{Gpr, Vcpu};
use crate::host::{Host, HostError};
use crate::options::Options;

const PAGE: u64 = 4096;
/// RAM of the guest: 1 GiB.
pub(crate) const RAM: u64 = 1 << 30;
/// Virtual addresses of the kernel's half are mapped to physical ones less this.
pub(crate) const DIRECT_MAP: u64 = 0xFFFF_8880_0000_0000;

/// RAM that machine and vCPUs share.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<BTreeMap<u64, Box<[u8; 4096]>>>>);

impl Memory {
    fn each(&self, pa: u64, len: usize, mut touch: impl FnMut(&mut u8, usize)) -> bool {
        if pa.checked_add(len as u64).is_none_or(|end| end > RAM) {
            return false;
        }
        let mut pages = self.0.lock();
        for (index, address) in (pa..pa + len as u64).enumerate() {
            let page = pages.entry(address / PAGE).or_insert_with(|| Box::new([0; 4096]));
            let offset = usize::try_from(address % PAGE).expect("small");
            touch(&mut page[offset], index);
        }
        true
    }

    pub(crate) fn write_u32(&self, pa: u64, value: u32) {
        assert!(Ram::write(self, PhysAddr::new(pa), &value.to_le_bytes()));
    }
}

impl Ram for Memory {
    fn read(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool {
        let len = bytes.len();
        self.each(pa.as_u64(), len, |byte, index| bytes[index] = *byte)
    }

    fn write(&self, pa: PhysAddr, bytes: &[u8]) -> bool {
        self.each(pa.as_u64(), bytes.len(), |byte, index| *byte = bytes[index])
    }
}

/// A vCPU in 64-bit code of the kernel.
pub(crate) struct FakeVcpu {
    pub(crate) lp: LpIndex,
    pub(crate) gprs: [u64; 16],
    pub(crate) long_mode: bool,
    pub(crate) real_mode: bool,
    pub(crate) cpl: u8,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    pub(crate) cr4: u64,
    pub(crate) memory: Memory,
    /// How often a register was written.
    pub(crate) register_writes: usize,
}

impl FakeVcpu {
    pub(crate) fn new(lp: u32, memory: &Memory) -> Self {
        Self {
            lp: LpIndex(lp),
            gprs: [0; 16],
            long_mode: true,
            real_mode: false,
            cpl: 0,
            fs_base: 0,
            gs_base: 0,
            cr4: 0x20,
            memory: memory.clone(),
            register_writes: 0,
        }
    }

    pub(crate) fn set(&mut self, gpr: Gpr, value: u64) -> &mut Self {
        self.gprs[gpr as usize] = value;
        self
    }
}

impl Vcpu for FakeVcpu {
    fn index(&self) -> LpIndex {
        self.lp
    }

    fn gpr(&self, gpr: Gpr) -> u64 {
        self.gprs[gpr as usize]
    }

    fn set_gpr(&mut self, gpr: Gpr, value: u64) {
        self.register_writes += 1;
        self.gprs[gpr as usize] = value;
    }

    fn long_mode(&self) -> bool {
        self.long_mode
    }

    fn real_mode(&self) -> bool {
        self.real_mode
    }

    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn fs_base(&self) -> u64 {
        self.fs_base
    }

    fn gs_base(&self) -> u64 {
        self.gs_base
    }

    fn cr4(&self) -> u64 {
        self.cr4
    }

    fn read_virtual(&self, va: u64, bytes: &mut [u8]) -> bool {
        physical(va).is_some_and(|pa| self.memory.read(pa, bytes))
    }

    fn write_virtual(&mut self, va: u64, bytes: &[u8]) -> bool {
        physical(va).is_some_and(|pa| self.memory.write(pa, bytes))
    }

    fn read_physical(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool {
        self.memory.read(pa, bytes)
    }
}

/// What the page tables of the guest say.
fn physical(va: u64) -> Option<PhysAddr> {
    va.checked_sub(DIRECT_MAP).filter(|&pa| pa < RAM).map(PhysAddr::new)
}

fn silent(_: &str) {}

/// A host with these arguments and so many vCPUs, or why not.
pub(crate) fn try_host(arguments: &[&str], vcpus: u32) -> Result<(Host, Memory), HostError> {
    let options = Options::parse(arguments.iter().copied()).expect("good arguments");
    let memory = Memory::default();
    let ram = PhysRange::from_size(PhysAddr::new(0), RAM).expect("a range");
    let host = Host::new(&options, Box::new(memory.clone()), &[ram], vcpus, silent)?;
    Ok((host, memory))
}

/// A host that comes up.
pub(crate) fn host(arguments: &[&str], vcpus: u32) -> (Host, Memory) {
    try_host(arguments, vcpus).unwrap_or_else(|error| panic!("{error}"))
}
