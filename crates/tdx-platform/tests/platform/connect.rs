//! TDX Connect on a machine with real units, and a module behind them.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use pcie::FunctionId;
use pcie::config::Width;
use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::StatusCode;
use tdx_abi::{PhysAddr, PhysRange, Registers};
use tdx_host::cpu::CpuSlot;
use tdx_host::memory::MemoryBlock;
use tdx_host::sync::Spin;
use tdx_host::traits::{
    Acpi, AllocRequest, CpuNumber, CpuPin, CpuidLeaf, Cpus, DmarUnit, DomainIdsInUse, Firmware, Iommus,
    LockstepError, LockstepFn, Log, LogLevel, MemoryFault, MsrFault, NodeId, OwnedPages, PackageId, Pages,
    PciBus, PciFunction, PerCpu, Processor, Seam, SeamcallFault, UeventAction, Uevents, Vmx, VmxFault,
};
use tdx_host::{BringUpOptions, ConnectError, ConnectState, HostError, HostMemory, HostState, Lifecycle};
use tdx_machine::{Fault, PlatformSpec};
use tdx_platform::{CpuMode, HostOptions, Leaks, Platform, TdxHost};

use crate::{assert_unwound, calls, held_at_boot, host_on, preset, quiet, switch_on};

fn machine() -> PlatformSpec {
    quiet("default")
}

fn count(host: &TdxHost, leaf: SeamcallLeaf) -> u64 {
    calls(host).0.into_iter().filter(|(of, _)| *of == Some(leaf)).map(|(_, calls)| calls).sum()
}

#[test]
fn a_machine_with_units_and_keys_has_connect_without_an_option() {
    let host = host_on(machine());
    let report = host.bring_up(&()).unwrap();
    assert_eq!(report.opted_in, Features0::TDX_CONNECT);
    assert!(report.extension_pages > 0);
    assert_eq!(host.status().connect, ConnectState::On, "{:?}", host.platform().log_lines());
    assert!(host.connect_bridges().iter().any(|bridge| bridge.streams > 0));
    let units = count(&host, SeamcallLeaf::IOMMU_SETUP);
    assert!(units > 0);
    assert_eq!(host.platform().units_with_reserved_ids().len() as u64, units);
    host.connect_exit();
    assert_eq!(host.connect_status(), ConnectState::Off(ConnectError::Stopped));
    assert!(host.platform().units_with_reserved_ids().is_empty());
    host.connect_init().unwrap();
    host.shutdown().unwrap();
    assert_eq!(count(&host, SeamcallLeaf::IOMMU_CLEAR), 2 * units);
    assert_unwound(&host, "shutdown");
    assert!(host.platform().units_with_reserved_ids().is_empty());
}

#[test]
fn connect_can_be_left_out_or_off() {
    let cases = [
        (HostOptions { connect: false, ..HostOptions::default() }, ConnectError::NotStarted),
        (HostOptions { disabled: Features0::TDX_CONNECT, ..HostOptions::default() }, ConnectError::Disabled),
    ];
    for (options, reason) in cases {
        let host = TdxHost::new(switch_on(machine(), CpuMode::Sequential), options);
        host.bring_up(&()).unwrap();
        assert_eq!(host.connect_status(), ConnectState::Off(reason));
        assert_eq!(count(&host, SeamcallLeaf::IOMMU_SETUP), 0);
        host.shutdown().unwrap();
        assert_unwound(&host, reason.name());
    }
}

#[test]
fn a_tsm_is_there_when_and_only_when_connect_works_whoever_starts_and_stops_it() {
    let host = host_on(machine());
    host.bring_up(&()).unwrap();
    for round in 0..60 {
        thread::scope(|scope| {
            scope.spawn(|| host.connect_exit());
            // Refused while it works.
            let _ = scope.spawn(|| host.connect_init()).join().unwrap();
        });
        assert_eq!(host.tsm().is_some(), host.connect_status().is_on(), "round {round}");
    }
    host.shutdown().unwrap();
    assert!(host.tsm().is_none());
    assert_unwound(&host, "races");
}

#[test]
fn interrupts_and_locks_do_not_stop_it() {
    for seed in 1..=4 {
        let mut spec = preset("default");
        // One look in three, one lock in five.
        (spec.chaos.interrupt, spec.chaos.busy) = (3, 5);
        let machine = tdx_machine::Machine::power_on(spec, seed).unwrap();
        let host = TdxHost::new(
            Arc::new(Platform::new(Arc::new(machine), CpuMode::Sequential)),
            HostOptions::default(),
        );
        host.bring_up(&()).unwrap();
        assert_eq!(host.connect_status(), ConnectState::On, "seed {seed}");
        host.shutdown().unwrap();
        assert_unwound(&host, "interrupts");
    }
}

#[test]
fn each_fault_of_units_and_tables_is_the_end_of_connect_alone() {
    // (fault, reason, pages that the module keeps: those of a unit that never answers, and the list of them)
    let cases = [
        (Fault::IommuLegacyMode { unit: 0 }, "connect-unit-failed", 0),
        (Fault::IommuQueueOff { unit: 0 }, "connect-unit-failed", 0),
        (Fault::KeyUnitLeftEnabled { unit: 0 }, "connect-unit-failed", 0),
        (Fault::SetTdxModeTimesOut { unit: 0, polls: None }, "connect-unit-failed", 13),
        (Fault::SetTdxModeFails { unit: 0, status: 2 }, "connect-unit-failed", 0),
        (Fault::KeypPartialMatch, "connect-keyp", 0),
        (Fault::KeypDoubleMatch, "connect-keyp", 0),
        (Fault::DomainIdsInUse { unit: 0 }, "connect-domain-ids-in-use", 0),
        (Fault::SetTdxModeTimesOut { unit: 0, polls: Some(100) }, "on", 0),
        (Fault::IommuWithoutTdxMode { unit: 0 }, "on", 0),
    ];
    for (fault, name, kept) in cases {
        let mut spec = machine();
        spec.faults = vec![fault.clone()];
        let host = host_on(spec);
        host.bring_up(&()).unwrap();
        let state = host.connect_status();
        let found = state.reason().map_or("on", |reason| reason.name());
        assert_eq!(found, name, "{fault:?}: {:?}", host.platform().log_lines());
        assert_eq!(host.status().lifecycle, Lifecycle::Ready);
        assert!(host.device().is_some());
        host.shutdown().unwrap();
        let (boot, _) = held_at_boot(host.platform());
        let pages = host.platform().page_accounts();
        assert_eq!((pages.held, pages.leaked), (boot + kept * 4096, 0), "{fault:?}");
    }
}

#[test]
fn a_module_of_before_is_too_old_and_plain_tdx_goes_on() {
    let mut spec = machine();
    spec.module.profile = "connect-clock".to_owned();
    let host = host_on(spec);
    host.bring_up(&()).unwrap();
    let state = host.connect_status();
    assert_eq!(state.reason().map(|reason| reason.name()), Some("connect-too-old"), "{state}");
    assert_eq!(host.status().lifecycle, Lifecycle::Ready);
    host.shutdown().unwrap();
    assert_unwound(&host, "too old");
}

/// A platform on which one call to the module is answered with an error instead of reaching it.
struct Failing {
    inner: Arc<Platform>,
    calls: AtomicU64,
    fails: u64,
    with: StatusCode,
}

/// Calls that belong to Connect alone.
fn is_connect(registers: &Registers) -> bool {
    let word = LeafWord::from_raw(registers.rax);
    // Class 0x30 and 0x31 of the metadata.
    let of_class = registers.rdx >> 56 & 0x3F;
    match SeamcallLeaf(word.leaf()) {
        SeamcallLeaf::EXT_MEM_ADD
        | SeamcallLeaf::EXT_INIT
        | SeamcallLeaf::IOMMU_SETUP
        | SeamcallLeaf::IOMMU_CLEAR => !word.is_seamldr(),
        SeamcallLeaf::SYS_RD => matches!(of_class, 0x30 | 0x31),
        _ => false,
    }
}

impl Seam for Failing {
    fn seamcall(&self, pin: &CpuPin<'_>, registers: &mut Registers) -> Result<(), SeamcallFault> {
        if is_connect(registers) && self.calls.fetch_add(1, Ordering::SeqCst) == self.fails {
            (registers.rax, registers.rcx, registers.rdx) = (self.with.plain().raw(), 0, 0);
            return Ok(());
        }
        self.inner.seamcall(pin, registers)
    }
}

impl Pages for Failing {
    type Leaks = Leaks;
    fn alloc_contiguous(&self, request: AllocRequest<'_>) -> Option<OwnedPages<Leaks>> {
        self.inner.alloc_contiguous(request)
    }
    fn free(&self, pages: OwnedPages<Leaks>) {
        self.inner.free(pages);
    }
    fn read(&self, pages: &OwnedPages<Leaks>, offset: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        self.inner.read(pages, offset, bytes)
    }
    fn write(&self, pages: &OwnedPages<Leaks>, offset: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.inner.write(pages, offset, bytes)
    }
    fn flush(&self, range: PhysRange) {
        self.inner.flush(range);
    }

    fn clear(&self, range: PhysRange) {
        self.inner.clear(range);
    }
}

impl Cpus for Failing {
    fn possible(&self) -> u32 {
        self.inner.possible()
    }
    fn packages(&self) -> u32 {
        self.inner.packages()
    }
    fn is_online(&self, cpu: CpuNumber) -> bool {
        self.inner.is_online(cpu)
    }
    fn package_of(&self, cpu: CpuNumber) -> PackageId {
        self.inner.package_of(cpu)
    }
    fn node_of(&self, cpu: CpuNumber) -> NodeId {
        self.inner.node_of(cpu)
    }
    fn on_cpu(&self, cpu: CpuNumber, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        self.inner.on_cpu(cpu, visitor)
    }
    fn on_each_cpu(&self, visitor: &PerCpu<'_>) -> Result<(), HostError> {
        self.inner.on_each_cpu(visitor)
    }
    fn on_cpus(&self, cpus: &[CpuNumber], visitor: &PerCpu<'_>) -> Result<(), HostError> {
        self.inner.on_cpus(cpus, visitor)
    }
    fn lockstep(&self, phases: u32, visitor: &LockstepFn<'_>) -> Result<(), LockstepError> {
        self.inner.lockstep(phases, visitor)
    }
}

impl Processor for Failing {
    fn rdmsr(&self, pin: &CpuPin<'_>, msr: MsrIndex) -> Result<u64, MsrFault> {
        self.inner.rdmsr(pin, msr)
    }
    fn cpuid(&self, pin: &CpuPin<'_>, leaf: u32, subleaf: u32) -> CpuidLeaf {
        self.inner.cpuid(pin, leaf, subleaf)
    }
    fn wbinvd(&self, pin: &CpuPin<'_>) {
        self.inner.wbinvd(pin);
    }
}

impl Vmx for Failing {
    fn vmxe(&self, pin: &CpuPin<'_>) -> bool {
        self.inner.vmxe(pin)
    }
    fn set_vmxe(&self, pin: &CpuPin<'_>, on: bool) {
        self.inner.set_vmxe(pin, on);
    }
    fn vmxon(&self, pin: &CpuPin<'_>, revision: u32) -> Result<(), VmxFault> {
        self.inner.vmxon(pin, revision)
    }
    fn vmxoff(&self, pin: &CpuPin<'_>) -> Result<(), VmxFault> {
        self.inner.vmxoff(pin)
    }
}

impl Firmware for Failing {
    fn memory_ranges(&self, each: &mut dyn FnMut(PhysRange, NodeId) -> ControlFlow<()>) {
        self.inner.memory_ranges(each);
    }
    fn hibernation_possible(&self) -> bool {
        self.inner.hibernation_possible()
    }
    fn partial_write_erratum(&self) -> bool {
        self.inner.partial_write_erratum()
    }
}

impl Log for Failing {
    fn log(&self, level: LogLevel, line: fmt::Arguments<'_>) {
        self.inner.log(level, line);
    }
}

impl PciBus for Failing {
    fn functions(&self, each: &mut dyn FnMut(PciFunction) -> ControlFlow<()>) {
        self.inner.functions(each);
    }
    fn config_read(&self, function: FunctionId, offset: u16, width: Width) -> u32 {
        self.inner.config_read(function, offset, width)
    }
    fn config_write(&self, function: FunctionId, offset: u16, width: Width, value: u32) {
        self.inner.config_write(function, offset, width, value);
    }
    fn now(&self) -> Duration {
        self.inner.now()
    }
    fn wait(&self, time: Duration) {
        self.inner.wait(time);
    }
}

impl Iommus for Failing {
    fn units(&self, each: &mut dyn FnMut(DmarUnit) -> ControlFlow<()>) {
        self.inner.units(each);
    }
    fn mmio_read32(&self, address: PhysAddr) -> u32 {
        self.inner.mmio_read32(address)
    }
    fn reserve_upper_domain_ids(&self, unit: DmarUnit) -> Result<(), DomainIdsInUse> {
        self.inner.reserve_upper_domain_ids(unit)
    }
    fn release_upper_domain_ids(&self, unit: DmarUnit) {
        self.inner.release_upper_domain_ids(unit);
    }
}

impl Acpi for Failing {
    fn table(&self, signature: [u8; 4], show: &mut dyn FnMut(&[u8])) -> bool {
        self.inner.table(signature, show)
    }
}

impl Uevents for Failing {
    fn uevent(
        &self,
        action: UeventAction,
        devpath: fmt::Arguments<'_>,
        subsystem: &str,
        extra: Option<fmt::Arguments<'_>>,
    ) {
        self.inner.uevent(action, devpath, subsystem, extra);
    }
}

/// A whole life with one call that fails: the reason for which Connect did not work, the calls, and the pages
/// that a unit did not give back.
fn life(fails: u64, with: StatusCode) -> (Option<&'static str>, u64, usize) {
    let inner = switch_on(machine(), CpuMode::Sequential);
    let platform = Failing { inner, calls: AtomicU64::new(0), fails, with };
    let cpus: Vec<CpuSlot> = (0..platform.possible()).map(|_| CpuSlot::new()).collect();
    let host = HostState::new(cpus, Spin::default());
    let blocks = vec![MemoryBlock::default(); platform.inner.memory().len()];
    let mut memory = Box::new(HostMemory::new(blocks));
    host.early_init(&platform).unwrap();
    host.bring_up(&platform, &mut memory, &BringUpOptions::default(), &()).unwrap();
    // The state has the reason.
    let _ = host.connect_init(&platform, &mut memory.connect);
    let reason = host.connect_state().reason().map(|reason| reason.name());
    assert_eq!(host.lifecycle(), Lifecycle::Ready, "call {fails}");
    host.shutdown(&platform, &mut memory).unwrap();
    let stuck = memory.connect.stuck_pages();
    let pages = platform.inner.page_accounts();
    // The list of a unit that is stuck is the host's own page.
    let of_units = (stuck + stuck.div_ceil(12)) as u64 * 4096;
    let (boot, _) = held_at_boot(&platform.inner);
    assert_eq!((pages.held, pages.leaked), (boot + of_units, 0), "call {fails}: {reason:?}");
    (reason, platform.calls.into_inner(), stuck)
}

#[test]
fn a_failure_at_any_call_of_connect_loses_no_page_and_leaves_plain_tdx() {
    let (reason, calls, stuck) = life(u64::MAX, StatusCode::SUCCESS);
    assert_eq!((reason, stuck), (None, 0));
    let mut reasons = Vec::new();
    for with in [StatusCode::IOMMU_INVALID_STATE, StatusCode::PAGE_METADATA_INCORRECT] {
        for fails in 0..calls {
            let (reason, _, stuck) = life(fails, with);
            // A unit that cannot be cleared is the only one that keeps pages.
            assert!(stuck == 0 || reason.is_none(), "call {fails}");
            reasons.push(reason.unwrap_or("not cleared"));
        }
    }
    for name in [
        "connect-metadata-missing",
        "connect-pool-refused",
        "connect-extension-failed",
        "connect-unit-failed",
        "not cleared",
    ] {
        assert!(reasons.contains(&name), "{name}: {reasons:?}");
    }
}
