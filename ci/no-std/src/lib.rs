//! The whole host side on bare metal: a platform of nothing, and the walk of a boot on it. Beside it
//! both sides of a DOE mailbox, on the configuration space of a function.
//!
//! It is built, not run. A crate that needed `std` or an allocator would make the build fail.
#![no_std]

#[cfg(feature = "sneak-alloc")]
extern crate alloc;
#[cfg(feature = "sneak-std")]
extern crate std;

use core::ops::ControlFlow;
use core::time::Duration;

use pcie::cap::{Aer, Device3, DoeCapability, Express, MaxPayload, Msix, PortType, SrIovRegisters, TableAt};
use pcie::config::{Bar, BuildError, ConfigBuilder, ConfigSpace, FunctionIds, Width};
use pcie::doe::{
    Capability, Discovery, DoeRegisters, Driver, Mailbox, MailboxEvent, Object, ObjectType, Step,
    SupportedTypes,
};
use pcie::functions::{DeviceFunctions, PhysicalFunction};
use pcie::ide::{self, Ide, IdeCapability, StreamState};
use pcie::{Bdf, FuncId, FunctionId};
use tdx_abi::leaf::LeafWord;
use tdx_abi::metadata::{self, FieldId, ListReader};
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::Status;
use tdx_abi::{AddressLayout, PhysAddr, PhysRange, Registers};
use tdx_host::cpu::CpuSlot;
use tdx_host::device::TdxHostDevice;
use tdx_host::memory::MemoryBlock;
use tdx_host::sync::Spin;
use tdx_host::traits::*;
use tdx_host::{BringUpOptions, HostError, HostMemory, HostState, SuspendKind, UpdateOptions};
use tdx_image::record::ModuleRecord;
use tdx_image::sigstruct::SIGSTRUCT_SIZE;
use tdx_image::{HeaderVersion, Image, Sigstruct, SigstructRules, elf};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// One CPU, no memory, no module.
struct Bare;

#[derive(Clone)]
struct NoLeaks;

impl LeakCounter for NoLeaks {
    fn leaked(&self, _: PhysRange) {}
}

impl Seam for Bare {
    fn seamcall(&self, _: &CpuPin<'_>, _: &mut Registers) -> Result<(), SeamcallFault> {
        Err(SeamcallFault::VmFailInvalid)
    }
}

impl Pages for Bare {
    type Leaks = NoLeaks;

    fn alloc_contiguous(&self, _: AllocRequest<'_>) -> Option<OwnedPages<NoLeaks>> {
        None
    }

    fn free(&self, pages: OwnedPages<NoLeaks>) {
        pages.into_allocator();
    }

    fn read(&self, pages: &OwnedPages<NoLeaks>, _: u64, _: &mut [u8]) -> Result<(), MemoryFault> {
        Err(MemoryFault::NotMemory(pages.start()))
    }

    fn write(&self, pages: &OwnedPages<NoLeaks>, _: u64, _: &[u8]) -> Result<(), MemoryFault> {
        Err(MemoryFault::NotMemory(pages.start()))
    }

    fn clear(&self, _: PhysRange) {}

    fn flush(&self, _: PhysRange) {}
}

impl Cpus for Bare {
    fn possible(&self) -> u32 {
        1
    }

    fn packages(&self) -> u32 {
        1
    }

    fn is_online(&self, cpu: CpuNumber) -> bool {
        cpu == CpuNumber(0)
    }

    fn package_of(&self, _: CpuNumber) -> PackageId {
        PackageId(0)
    }

    fn node_of(&self, _: CpuNumber) -> NodeId {
        NodeId(0)
    }

    fn on_cpu(
        &self,
        cpu: CpuNumber,
        visitor: &(dyn Fn(&CpuPin<'_>) -> Result<(), HostError> + Sync),
    ) -> Result<(), HostError> {
        CpuPin::enter(cpu, visitor)
    }

    fn on_each_cpu(
        &self,
        visitor: &(dyn Fn(&CpuPin<'_>) -> Result<(), HostError> + Sync),
    ) -> Result<(), HostError> {
        self.on_cpu(CpuNumber(0), visitor)
    }

    fn on_cpus(
        &self,
        cpus: &[CpuNumber],
        visitor: &(dyn Fn(&CpuPin<'_>) -> Result<(), HostError> + Sync),
    ) -> Result<(), HostError> {
        cpus.iter().try_for_each(|&cpu| self.on_cpu(cpu, visitor))
    }

    fn lockstep(&self, phases: u32, visitor: &LockstepFn<'_>) -> Result<(), LockstepError> {
        let cpu = CpuNumber(0);
        (0..phases).try_for_each(|phase| {
            let visit = CpuPin::enter(cpu, |pin| visitor(pin, phase));
            visit.map_err(|error| LockstepError { phase, cpu, error })
        })
    }
}

impl Processor for Bare {
    fn rdmsr(&self, _: &CpuPin<'_>, msr: MsrIndex) -> Result<u64, MsrFault> {
        Err(MsrFault(msr))
    }

    fn cpuid(&self, _: &CpuPin<'_>, _: u32, _: u32) -> CpuidLeaf {
        CpuidLeaf::default()
    }

    fn wbinvd(&self, _: &CpuPin<'_>) {}
}

impl Vmx for Bare {
    fn vmxe(&self, _: &CpuPin<'_>) -> bool {
        false
    }

    fn set_vmxe(&self, _: &CpuPin<'_>, _: bool) {}

    fn vmxon(&self, _: &CpuPin<'_>, _: u32) -> Result<(), VmxFault> {
        Err(VmxFault::InvalidOpcode)
    }

    fn vmxoff(&self, _: &CpuPin<'_>) -> Result<(), VmxFault> {
        Err(VmxFault::InvalidOpcode)
    }
}

impl Firmware for Bare {
    fn memory_ranges(&self, _: &mut dyn FnMut(PhysRange, NodeId) -> ControlFlow<()>) {}

    fn hibernation_possible(&self) -> bool {
        false
    }

    fn partial_write_erratum(&self) -> bool {
        true
    }
}

impl Log for Bare {
    fn log(&self, _: LogLevel, _: core::fmt::Arguments<'_>) {}
}

impl PciBus for Bare {
    fn functions(&self, _: &mut dyn FnMut(PciFunction) -> ControlFlow<()>) {}

    fn config_read(&self, _: FunctionId, _: u16, _: Width) -> u32 {
        u32::MAX
    }

    fn config_write(&self, _: FunctionId, _: u16, _: Width, _: u32) {}

    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wait(&self, _: Duration) {}
}

impl Iommus for Bare {
    fn units(&self, _: &mut dyn FnMut(DmarUnit) -> ControlFlow<()>) {}

    fn mmio_read32(&self, _: PhysAddr) -> u32 {
        u32::MAX
    }

    fn reserve_upper_domain_ids(&self, _: DmarUnit) -> Result<(), DomainIdsInUse> {
        Ok(())
    }

    fn release_upper_domain_ids(&self, _: DmarUnit) {}
}

impl Acpi for Bare {
    fn table(&self, _: [u8; 4], _: &mut dyn FnMut(&[u8])) -> bool {
        false
    }
}

impl Uevents for Bare {
    fn uevent(
        &self,
        _: UeventAction,
        _: core::fmt::Arguments<'_>,
        _: &str,
        _: Option<core::fmt::Arguments<'_>>,
    ) {
    }
}

static HOST: HostState<[CpuSlot; 1], Spin> = HostState::new([CpuSlot::new()], Spin::new());

/// The walk of a boot, an update to the image `file`, and everything behind it.
fn walk_through(file: &[u8]) -> bool {
    let mut memory = HostMemory::new([MemoryBlock::default(); 64]);
    let device = TdxHostDevice::new();
    device.platform_is_ready();
    let mut walk = || -> Result<(), HostError> {
        HOST.early_init(&Bare)?;
        HOST.bring_up(&Bare, &mut memory, &BringUpOptions::default(), &())?;
        device.probe(&HOST, &Bare)?;
        let mut text = [0; 64];
        for attribute in device.attributes() {
            device.read(&HOST, &Bare, attribute.name, &mut text)?;
        }
        if let Err(error) = HOST.connect_init(&Bare, &mut memory.connect) {
            Bare.log(LogLevel::Warning, format_args!("{error}, {}", HOST.connect_state()));
        }
        let image = Image::parse(file)?;
        HOST.update(&Bare, &image, &UpdateOptions::default(), &())?;
        HOST.may_go_offline(&Bare, CpuNumber(0))?;
        HOST.may_suspend(SuspendKind::S2idle)?;
        HOST.connect_exit(&Bare, &mut memory.connect);
        HOST.shutdown(&Bare, &mut memory)
    };
    let result = walk();
    device.remove();
    HOST.crash_everywhere(&Bare);
    result.is_ok()
}

/// [`walk_through`] for a linker.
#[unsafe(no_mangle)]
pub extern "C" fn boot() -> bool {
    walk_through(&[])
}

/// The parts of the ABI that a host does not use on its way.
#[unsafe(no_mangle)]
pub extern "C" fn abi(raw: u64) -> u64 {
    let known = metadata::lookup(FieldId(raw)).is_some();
    let entries = ListReader::new(&raw.to_le_bytes()).map_or(0, Iterator::count);
    let split = AddressLayout::new(52, 6).and_then(|layout| layout.split(raw));
    let address = split.map_or(PhysAddr::new(0), |(address, _)| address);
    Status::from_raw(raw).code().0
        ^ LeafWord::from_raw(raw).raw()
        ^ address.as_u64()
        ^ u64::from(known)
        ^ entries as u64
}

/// The parts of the image crate that a host does not use on its way.
#[unsafe(no_mangle)]
pub extern "C" fn image(raw: u64) -> bool {
    let words = [raw.to_le_bytes(); SIGSTRUCT_SIZE / 8];
    let Some(sigstruct) = words.as_flattened().first_chunk().map(Sigstruct::read) else { return false };
    let bytes = words.as_flattened();
    let mut out = [0; 4096];
    tdx_image::encode(HeaderVersion::V0x200, sigstruct, bytes, &mut out).is_ok()
        || tdx_image::linux73(bytes).is_ok()
        || tdx_image::cpus::code_name(sigstruct.cpus().next().unwrap_or(0)).is_some()
        || elf::check_relocations(bytes).is_ok()
        || ModuleRecord::find(bytes).is_some()
        || sigstruct.check(SigstructRules::Loader2_0).is_ok()
}

/// A function with everything, its mailbox behind the capability at `doe`.
struct Function {
    config: ConfigSpace,
    mailbox: Mailbox<[u32; 32]>,
}

impl Function {
    fn new(at: FunctionId) -> Result<Self, BuildError> {
        let ids = FunctionIds {
            vendor: 0x8086,
            device: 1,
            revision: 0,
            class: [2, 0, 0],
            subsystem_vendor: 0,
            subsystem: at.bdf.routing_id(),
        };
        let express = Express {
            port_type: PortType::ENDPOINT,
            max_payload: MaxPayload::MAX,
            function_reset: true,
            tee_io: true,
            link_speed: 5,
            link_width: 16,
        };
        let table = TableAt { bar: 0, offset: 0 };
        let registers = Capability::new();
        let streams = [1, 1];
        let mut builder = ConfigBuilder::endpoint(ids);
        builder.bar(0, Bar::memory64(1 << 20))?;
        builder.capability(&express)?;
        builder.capability(&Msix { messages: 1, table, pending: table })?;
        builder.extended(&Aer)?;
        builder.extended(&Device3::default())?;
        builder.extended(&DoeCapability { version: 2, registers })?;
        let features = ide::Capability::new().with_ide_km(true);
        builder.extended(&IdeCapability { features, link_streams: 1, selective_streams: &streams })?;
        let mailbox = Mailbox::new([0; 32], SupportedTypes::SPDM, registers);
        Ok(Self { config: builder.build(), mailbox })
    }
}

impl DoeRegisters for Function {
    fn read32(&mut self, offset: u16) -> u32 {
        self.mailbox.read(offset, Width::Dword).unwrap_or(u32::MAX)
    }

    fn write32(&mut self, offset: u16, value: u32) {
        let written = self.mailbox.write(offset, Width::Dword, value).is_ok();
        while written && let Some(event) = self.mailbox.take_event() {
            if event == MailboxEvent::Request && self.mailbox.respond(&[]).is_err() {
                self.mailbox.reset();
            }
        }
    }
}

/// The parts of the PCI Express crate: a function, its streams, and a discovery of its mailbox.
#[unsafe(no_mangle)]
pub extern "C" fn pci_express(raw: u32) -> bool {
    let at = FuncId(raw).function();
    let Ok(mut function) = Function::new(at) else { return false };
    let stream = Ide::find(&function.config).and_then(|ide| ide.selective(1));
    let secure = stream
        .is_some_and(|stream| ide::set_state(&mut function.config, &stream, StreamState::SECURE).is_ok());
    let virtual_functions = SrIovRegisters::find(&function.config);
    let physical =
        [PhysicalFunction { bdf: Bdf::from_routing_id(at.bdf.routing_id() & !7), virtual_functions }];
    let alone = DeviceFunctions::new(&physical, false).is_ok_and(|device| device.iter().count() == 1);
    let (mut driver, mut discovery) = (Driver::new(), Discovery::new(2));
    let mut now = Duration::ZERO;
    while let Some(request) = discovery.request() {
        let mut response = [0; 4];
        let object = Object { object_type: ObjectType::DISCOVERY, payload: &request };
        let mut exchange = driver.exchange(object, &mut response);
        loop {
            match exchange.step(&mut function, now) {
                Ok(Step::Wait(time)) => now = now.saturating_add(time),
                Ok(Step::Done(_)) => break,
                Err(_) => return false,
            }
        }
        if discovery.take(&response).is_err() {
            return false;
        }
    }
    secure && alone
}
