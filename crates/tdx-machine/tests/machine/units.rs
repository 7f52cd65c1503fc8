//! TDH.IOMMU.SETUP and CLEAR on the registers of the machine.

use crate::common::{call, ready};
use tdx_abi::connect::pages::IommuBlock;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::tdmr::TdmrInfo;
use tdx_abi::{KeyId, PAGE_SIZE, PhysAddr, Registers};
use tdx_machine::spec::{Hex, HostBridgeSpec, IommuSpec, KeyUnitSpec, RootPortSpec};
use tdx_machine::{Event, Fault, LpIndex, Machine, PlatformSpec, presets};
use tdx_module::io::MmioWidth;
use zerocopy::{FromZeros, IntoBytes};

const GIB: u64 = 1 << 30;
const UNITS: [u64; 2] = [0xC3FF_0000, 0xC7FF_0000];
const KEY_UNITS: [u64; 2] = [0xFE00_0000, 0xFE01_0000];
/// One TDMR of a GiB; its PAMT lies behind it.
const TDMR: u64 = 4 * GIB;
const PAMT: u64 = 5 * GIB;
const ARRAY: u64 = 0x20_0000;
const INFO: u64 = 0x20_1000;
const ROOT: u64 = 0x20_2000;
/// Pages of the unit's tables.
const TABLE: u64 = TDMR + 0x100_0000;
const TDX_CONNECT: u64 = 1 << 6;
const ENHANCED_STATUS: u64 = 0x420;
const ROOT_TABLE: u64 = 0x20;

fn spec(faults: Vec<Fault>) -> PlatformSpec {
    let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
    spec.faults = faults;
    for ((bus, base), keys) in [0x10, 0x80].into_iter().zip(UNITS).zip(KEY_UNITS) {
        let reg_base = Hex(base);
        spec.iommus.push(IommuSpec { reg_base, bus: Some(bus), tdx: true, ..IommuSpec::default() });
        spec.host_bridges.push(HostBridgeSpec {
            bus,
            last_bus: Some(bus + 0x1F),
            ..HostBridgeSpec::default()
        });
        spec.root_ports.push(RootPortSpec { bus, device: 1, secondary: bus + 1, ..RootPortSpec::default() });
        let reg_base = Hex(keys);
        spec.key_units.push(KeyUnitSpec { bus, reg_base, streams: 4, ..KeyUnitSpec::default() });
    }
    spec
}

fn put(machine: &Machine, at: u64, bytes: &[u8]) {
    machine.write(PhysAddr::new(at), KeyId::TME, bytes).expect("RAM");
}

/// Calls until the answer is another one than that an interrupt came.
fn seamcall(machine: &Machine, leaf: SeamcallLeaf, version: u64, regs: Registers) -> (Status, Registers) {
    let given = Registers { rax: u64::from(leaf.0) | version << 16, ..regs };
    loop {
        let mut regs = given;
        machine.seamcall(LpIndex(0), &mut regs).expect("an answer");
        let status = Status::from_raw(regs.rax);
        if !status.is(StatusCode::INTERRUPTED_RESUMABLE) {
            return (status, regs);
        }
    }
}

/// A machine whose module knows of TDX Connect and has a TDMR.
fn connected(faults: Vec<Fault>) -> Machine {
    let machine = ready(spec(faults));
    for lp in machine.lps() {
        assert_eq!(call(&machine, lp.index, SeamcallLeaf::SYS_LP_INIT), Status::SUCCESS);
    }
    let mut info = TdmrInfo::new_zeroed();
    info.base.set(TDMR);
    info.size.set(GIB);
    info.pamt_4k_base.set(PAMT);
    info.pamt_4k_size.set(4 << 20);
    info.pamt_2m_base.set(PAMT + (4 << 20));
    info.pamt_2m_size.set(0x2000);
    info.pamt_1g_base.set(PAMT + (5 << 20));
    info.pamt_1g_size.set(0x1000);
    put(&machine, ARRAY, &INFO.to_le_bytes());
    put(&machine, INFO, info.as_bytes());
    let config = Registers { rcx: ARRAY, rdx: 1, r8: 32, r9: TDX_CONNECT, ..Registers::default() };
    assert_eq!(seamcall(&machine, SeamcallLeaf::SYS_CONFIG, 1, config).0, Status::SUCCESS);
    assert_eq!(call(&machine, LpIndex(0), SeamcallLeaf::SYS_KEY_CONFIG), Status::SUCCESS);
    let init = Registers { rcx: TDMR, ..Registers::default() };
    while seamcall(&machine, SeamcallLeaf::SYS_TDMR_INIT, 0, init).1.rdx < TDMR + GIB {}
    machine
}

/// Two blocks of two pages and eight single pages, in the TDMR.
fn put_table(machine: &Machine) {
    let block = |index: u64| {
        let start = PhysAddr::new(TABLE + 2 * index * PAGE_SIZE);
        IommuBlock { start, pages: 2 }.entry().expect("a block")
    };
    let singles = (4..12).map(|index| TABLE + index * PAGE_SIZE);
    let words: Vec<u64> = [block(0), block(1)].into_iter().chain(singles).collect();
    put(machine, ROOT, &[0; 4096]);
    put(machine, ROOT, words.as_bytes());
}

fn set_up(machine: &Machine, unit: usize) -> (Status, Registers) {
    put_table(machine);
    let regs = Registers { rcx: UNITS[unit], rdx: ROOT, ..Registers::default() };
    seamcall(machine, SeamcallLeaf::IOMMU_SETUP, 0, regs)
}

fn register(machine: &Machine, unit: usize, offset: u64) -> u64 {
    machine.mmio_read(PhysAddr::new(UNITS[unit] + offset), MmioWidth::Qword)
}

#[test]
fn a_unit_is_taken_and_given_back() {
    let machine = connected(vec![]);
    let (status, regs) = set_up(&machine, 1);
    assert_eq!(status, Status::SUCCESS);
    assert_eq!(regs.rcx, 1, "socket 0, stack 1");
    assert_eq!((register(&machine, 0, ENHANCED_STATUS), register(&machine, 1, ENHANCED_STATUS)), (0, 2));

    let before = register(&machine, 1, ROOT_TABLE);
    let events = machine.log().len();
    let address = PhysAddr::new(UNITS[1] + ROOT_TABLE);
    machine.mmio_write(address, MmioWidth::Qword, 0x5000);
    assert_eq!(register(&machine, 1, ROOT_TABLE), before);
    let keys = PhysAddr::new(KEY_UNITS[1] + 4);
    machine.mmio_write(keys, MmioWidth::Dword, 1);
    assert_eq!(machine.mmio_read(keys, MmioWidth::Dword), 0);
    let dropped = [Event::ProtectedWrite { pa: address }, Event::ProtectedWrite { pa: keys }];
    assert_eq!(machine.log()[events..], dropped);

    let clear = Registers { rcx: 1, rdx: ROOT, ..Registers::default() };
    assert_eq!(seamcall(&machine, SeamcallLeaf::IOMMU_CLEAR, 0, clear).0, Status::SUCCESS);
    assert_eq!(register(&machine, 1, ENHANCED_STATUS), 0);
    machine.mmio_write(address, MmioWidth::Qword, before | 0x5000);
    assert_eq!(register(&machine, 1, ROOT_TABLE), before | 0x5000, "the host's again");
    assert_eq!(set_up(&machine, 1).0, Status::SUCCESS);
}

#[test]
fn faults_of_units_end_in_the_status_that_the_catalogue_promises() {
    let unit = 1;
    for (fault, expected) in [
        (Fault::IommuWithoutTdxMode { unit }, StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX)),
        (Fault::IommuLegacyMode { unit }, StatusCode::IOMMU_INVALID_STATE.plain()),
        (Fault::IommuQueueOff { unit }, StatusCode::IOMMU_INVALID_STATE.plain()),
        (Fault::KeyUnitLeftEnabled { unit }, StatusCode::IOMMU_KCB_MUST_BE_DISABLED.plain()),
        (Fault::SetTdxModeTimesOut { unit, polls: None }, StatusCode::IOMMU_ECMD_TIMEOUT.plain()),
        (Fault::SetTdxModeFails { unit, status: 1 }, StatusCode::IOMMU_ECMD_ERROR.plain()),
    ] {
        let machine = connected(vec![fault.clone()]);
        let status = set_up(&machine, 1).0;
        assert_eq!(
            (status.code(), status.operand()),
            (expected.code(), expected.operand()),
            "{}",
            fault.name()
        );
        assert_eq!(register(&machine, 1, ENHANCED_STATUS), 0, "{}", fault.name());
    }
}

#[test]
fn a_slow_unit_is_in_tdx_mode_after_the_call_was_repeated() {
    let machine = connected(vec![Fault::SetTdxModeTimesOut { unit: 0, polls: Some(100) }]);
    assert!(set_up(&machine, 0).0.is(StatusCode::IOMMU_ECMD_TIMEOUT));
    assert_eq!(set_up(&machine, 0).0, Status::SUCCESS);
    assert_eq!(register(&machine, 0, ENHANCED_STATUS), 2);
}
