//! A machine over the memory and the processors of a virtual machine.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{Status, StatusCode};
use tdx_abi::tdmr::{ReservedArea, TdmrInfo};
use tdx_abi::{KeyId, PhysAddr, PhysRange, Registers};
use tdx_machine::{Event, LpIndex, Machine, MemoryFootprint, PlatformSpec, PowerOn, Ram, presets};
use tdx_module::ModuleState;
use zerocopy::{FromZeros, IntoBytes};

use crate::common::{call, enter_vmx, quiet};

const MIB: u64 = 1 << 20;
/// A small guest: less than one GiB, so that its TDMR ends above its memory.
const SIZE: u64 = 512 * MIB;
const ARRAY: u64 = 0x20_0000;
const INFO: u64 = 0x20_1000;
const PAMT: u64 = 256 * MIB;
const PAMT_SIZE: u64 = 4 * MIB;
const PAMT_2M: u64 = PAMT + 5 * MIB;
const PAMT_1G: u64 = PAMT + 6 * MIB;
const TDMR_SIZE: u64 = 1024 * MIB;

/// The memory of the guest.
struct GuestRam(Mutex<Vec<u8>>);

impl GuestRam {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![0; usize::try_from(SIZE).expect("512 MiB")])))
    }

    /// What the guest itself loads.
    fn load(&self, pa: u64, len: usize) -> Vec<u8> {
        let start = usize::try_from(pa).expect("RAM");
        self.0.lock()[start..start + len].to_vec()
    }
}

fn place(pa: PhysAddr, len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(pa.as_u64()).ok()?;
    Some(start..start.checked_add(len)?)
}

struct Access(Arc<GuestRam>);

impl Ram for Access {
    fn read(&self, pa: PhysAddr, bytes: &mut [u8]) -> bool {
        let ram = self.0.0.lock();
        let Some(source) = place(pa, bytes.len()).and_then(|place| ram.get(place)) else { return false };
        bytes.copy_from_slice(source);
        true
    }

    fn write(&self, pa: PhysAddr, bytes: &[u8]) -> bool {
        let mut ram = self.0.0.lock();
        let Some(target) = place(pa, bytes.len()).and_then(|place| ram.get_mut(place)) else { return false };
        target.copy_from_slice(bytes);
        true
    }
}

fn spec(lps: u32) -> PlatformSpec {
    let ram = PhysRange::from_size(PhysAddr::new(0), SIZE).expect("a range");
    let spec = presets::find("default").expect("a preset").spec().expect("valid");
    quiet(spec).with_guest(&[ram], 1, lps, 1).expect("valid")
}

fn guest(seed: u64) -> (Machine, Arc<GuestRam>) {
    let ram = GuestRam::new();
    let machine = Machine::power_on_over(spec(2), seed, Box::new(Access(Arc::clone(&ram)))).expect("valid");
    (machine, ram)
}

fn seamcall(machine: &Machine, leaf: SeamcallLeaf, regs: Registers) -> (Status, Registers) {
    let mut regs = Registers { rax: u64::from(leaf.0), ..regs };
    machine.seamcall(LpIndex(0), &mut regs).expect("an answer");
    (Status::from_raw(regs.rax), regs)
}

/// One TDMR over all of the memory. The host writes what the module reads, past the model.
fn put_tdmr(ram: &Arc<GuestRam>) {
    let mut info = TdmrInfo::new_zeroed();
    info.size.set(TDMR_SIZE);
    info.pamt_4k_base.set(PAMT);
    info.pamt_4k_size.set(PAMT_SIZE);
    info.pamt_2m_base.set(PAMT_2M);
    info.pamt_2m_size.set(0x2000);
    info.pamt_1g_base.set(PAMT_1G);
    info.pamt_1g_size.set(0x1000);
    for (area, (offset, size)) in
        info.reserved.iter_mut().zip([(0, MIB), (PAMT, 8 * MIB), (SIZE, TDMR_SIZE - SIZE)])
    {
        *area = ReservedArea { offset: offset.into(), size: size.into() };
    }
    let host = Access(Arc::clone(ram));
    assert!(host.write(PhysAddr::new(ARRAY), &INFO.to_le_bytes()));
    assert!(host.write(PhysAddr::new(INFO), info.as_bytes()));
}

fn bring_up(machine: &Machine, ram: &Arc<GuestRam>) {
    enter_vmx(machine);
    put_tdmr(ram);
    let done = StatusCode::SUCCESS.plain();
    assert_eq!(call(machine, LpIndex(0), SeamcallLeaf::SYS_INIT), done);
    for lp in machine.lps() {
        assert_eq!(call(machine, lp.index, SeamcallLeaf::SYS_LP_INIT), done);
    }
    let config = Registers { rcx: ARRAY, rdx: 1, r8: 32, ..Registers::default() };
    assert_eq!(seamcall(machine, SeamcallLeaf::SYS_CONFIG, config).0, done);
    assert_eq!(call(machine, LpIndex(0), SeamcallLeaf::SYS_KEY_CONFIG), done);
    let mut next = 0;
    while next < TDMR_SIZE {
        let (status, regs) = seamcall(machine, SeamcallLeaf::SYS_TDMR_INIT, Registers::default());
        assert_eq!(status, done);
        next = regs.rdx;
    }
}

fn state(machine: &Machine) -> ModuleState {
    machine.seam().module.expect("a module").state
}

#[test]
fn a_module_comes_up_in_the_memory_of_a_guest_and_leaves_ciphertext_there() {
    let (machine, ram) = guest(7);
    assert_eq!((machine.lp_count(), machine.cmrs().len()), (2, 1));
    bring_up(&machine, &ram);
    assert_eq!(state(&machine), ModuleState::SysReady);
    assert_eq!(machine.memory_footprint(), MemoryFootprint { pages: 0, runs: 3 });

    let pamt_size = usize::try_from(PAMT_SIZE).expect("4 MiB");
    let pamt = ram.load(PAMT, pamt_size);
    let mut lines: Vec<_> = pamt.chunks_exact(64).collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), pamt_size / 64, "no line looks like another");
    for (pa, len) in [(PAMT_2M, 0x2000), (PAMT_1G, 64)] {
        assert!(ram.load(pa, len).chunks_exact(64).all(|line| line != [0; 64]), "{pa:#x}");
    }
    assert_eq!(ram.load(PAMT_1G + 64, 64), [0; 64], "one GiB needs one line");
    assert_eq!(ram.load(PAMT - 64, 64), [0; 64]);
    let mut seen = [9; 64];
    machine.read(PhysAddr::new(PAMT), KeyId::TME, &mut seen).expect("TD-owned reads as zeros");
    assert_eq!(seen, [0; 64]);
    assert_eq!(machine.log(), []);

    let (same, same_ram) = guest(7);
    bring_up(&same, &same_ram);
    let (other, other_ram) = guest(8);
    bring_up(&other, &other_ram);
    assert!(same_ram.load(PAMT, pamt_size) == pamt, "same seed, same keys");
    assert!(other_ram.load(PAMT, pamt_size) != pamt);
}

#[test]
fn a_power_cycle_forgets_the_module_and_leaves_the_guest_its_memory() {
    let (machine, ram) = guest(7);
    bring_up(&machine, &ram);
    let before = ram.load(PAMT, 4096);
    machine.power_cycle();
    assert_eq!(state(&machine), ModuleState::SysInitPending);
    assert_eq!(machine.memory_footprint(), MemoryFootprint::default());
    assert_eq!(ram.load(PAMT, 4096), before);
    let mut seen = vec![0; 4096];
    machine.read(PhysAddr::new(PAMT), KeyId::TME, &mut seen).expect("nobody's any more");
    assert_eq!(seen, before);
    assert_eq!(machine.log(), [Event::PowerCycled]);
    bring_up(&machine, &ram);
    assert_ne!(ram.load(PAMT, 4096), before, "keys do not outlive power");
}

#[test]
fn a_host_that_has_its_memory_back_uses_it_without_telling() {
    let (machine, ram) = guest(7);
    bring_up(&machine, &ram);
    // A list of TDMRs where the PAMT was.
    let host = Access(Arc::clone(&ram));
    assert!(host.write(PhysAddr::new(PAMT), &[0x5A; 4096]));
    let mut seen = [0; 4096];
    machine.read(PhysAddr::new(PAMT), KeyId::TME, &mut seen).expect("the host's");
    assert_eq!(seen, [0x5A; 4096]);
    machine.write(PhysAddr::new(PAMT + 100), KeyId::TME, &[1; 8]).expect("the host's");
    assert_eq!(ram.load(PAMT + 99, 10), [0x5A, 1, 1, 1, 1, 1, 1, 1, 1, 0x5A]);
}

#[test]
fn guests_of_all_sizes_pass_sys_init_and_lp_init() {
    let gib = 1 << 30;
    let pieces = |pieces: &[(u64, u64)]| -> Vec<PhysRange> {
        let range = |&(start, end)| PhysRange::new(PhysAddr::new(start), PhysAddr::new(end));
        pieces.iter().filter_map(range).collect()
    };
    for (ram, lps) in [
        (pieces(&[(0, SIZE)]), 1),
        (pieces(&[(0, 2 * gib)]), 8),
        (pieces(&[(0, 0xB000_0000)]), 2),
        (pieces(&[(0, 2 * gib), (4 * gib, 20 * gib)]), 2),
        (pieces(&[(0, 0xA_0000), (0xC_0000, 0xB000_0000), (4 * gib, 8 * gib)]), 2),
    ] {
        for name in ["default", "spr-2s", "gnr-8s", "canonical-tdx-83"] {
            let spec = presets::find(name).expect("a preset").spec().expect("valid");
            let spec = quiet(spec).with_guest(&ram, 1, lps, 1).expect("valid");
            let access = Box::new(Access(GuestRam::new()));
            let machine = PowerOn::new(spec).over(access).switch_on().expect("valid");
            enter_vmx(&machine);
            assert_eq!(call(&machine, LpIndex(0), SeamcallLeaf::SYS_INIT), StatusCode::SUCCESS.plain());
            for lp in machine.lps() {
                let status = call(&machine, lp.index, SeamcallLeaf::SYS_LP_INIT);
                assert_eq!(status, StatusCode::SUCCESS.plain(), "{name}");
            }
        }
    }
}
