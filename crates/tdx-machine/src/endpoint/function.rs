//! One function of the device: its configuration space and its registers.

use pcie::cap::{
    Aer, Device3, DoeCapability, Express, MaxPayload, Msix, PortType, SrIov, SrIovRegisters, TableAt,
};
use pcie::config::{
    Bar, BuildError, ConfigBuilder, ConfigSpace, ExtendedId, FunctionIds, Width, find_extended, offset,
};
use pcie::doe::Capability as DoeRegisters;
use pcie::ide::{Capability as IdeFeatures, IdeCapability};
use pcie::{FuncId, FunctionId};
use spdm::tdisp::{
    InterfaceId, InterfaceInfo, LockFlags, LockInterface, MmioRange, RangeAttributes, Report, TdiState,
};

use super::mmio::{Gate, MSIX_VECTORS, Mmio, PAGE, View, page};
use super::spec::{EndpointSpec, FunctionSpec};

/// Memory space and bus mastering on.
const ENABLED: u32 = 0b110;
/// Offset of the VF base address registers in the SR-IOV capability.
pub(super) const VF_BARS: u16 = 0x24;
/// Offset of the control register in it.
const VF_CONTROL: u16 = 0x08;
/// Offset of NumVFs in it.
const VF_NUMBER: u16 = 0x10;
/// SR-IOV control: virtual functions are there, and answer accesses to memory.
const VF_ENABLED: u32 = 0b1001;

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A physical function with that IDE port, if it has one.
    Physical { port: Option<u8> },
    /// Virtual function `index` of the physical function at `parent` in the list of functions.
    Virtual { parent: usize, index: u16 },
}

/// A function of the device.
pub(super) struct Function {
    pub(super) id: FunctionId,
    pub(super) interface: InterfaceId,
    pub(super) kind: Kind,
    pub(super) config: ConfigSpace,
    /// The configuration space after a reset.
    fresh: ConfigSpace,
    pub(super) mmio: Mmio,
    /// Bytes of BAR 0.
    pub(super) memory: u64,
    /// State of its interface, as the security manager last said.
    pub(super) state: TdiState,
    /// A virtual function is there only while its physical one has enabled it.
    pub(super) present: bool,
}

impl Function {
    /// A physical function.
    pub(super) fn physical(
        spec: &EndpointSpec,
        function: &FunctionSpec,
        id: FunctionId,
        interface: InterfaceId,
        port: Option<u8>,
        first_virtual: u16,
    ) -> Result<Self, BuildError> {
        let mut builder = ConfigBuilder::endpoint(ids(spec));
        if spec.functions.len() > 1 {
            builder = builder.multi_function();
        }
        let bar = Bar::memory64(function.memory.0);
        builder.bar(0, bar)?;
        builder.capability(&express(spec))?;
        builder.capability(&msix())?;
        builder.extended(&Aer)?;
        builder.extended(&Device3::default())?;
        if function.number == 0 && spec.pci.mailbox {
            builder.extended(&DoeCapability { version: 2, registers: DoeRegisters::new() })?;
        }
        if function.virtual_functions > 0 {
            let mut bars = [None; 6];
            if let Some(first) = bars.first_mut() {
                *first = Some(bar);
            }
            builder.extended(&SrIov {
                total: function.virtual_functions,
                first_offset: first_virtual,
                stride: 1,
                device: (spec.pci.device_id.0 & 0xffff) as u16,
                bars,
            })?;
        }
        if port.is_some() {
            let blocks = vec![spec.ide.address_blocks; spec.ide.selective_streams.into()];
            builder.extended(&IdeCapability {
                features: IdeFeatures::new().with_aggregation(true).with_ide_km(true).with_tee_limited(true),
                link_streams: spec.ide.link_streams,
                selective_streams: &blocks,
            })?;
        }
        Ok(Self::new(builder.build(), id, interface, Kind::Physical { port }, function.memory.0))
    }

    /// A virtual function.
    pub(super) fn virtual_of(
        spec: &EndpointSpec,
        id: FunctionId,
        interface: InterfaceId,
        parent: usize,
        index: u16,
        memory: u64,
    ) -> Result<Self, BuildError> {
        let mut builder = ConfigBuilder::virtual_function(ids(spec));
        builder.capability(&express(spec))?;
        builder.capability(&msix())?;
        builder.extended(&Aer)?;
        Ok(Self::new(builder.build(), id, interface, Kind::Virtual { parent, index }, memory))
    }

    fn new(config: ConfigSpace, id: FunctionId, interface: InterfaceId, kind: Kind, memory: u64) -> Self {
        let present = matches!(kind, Kind::Physical { .. });
        let (fresh, mmio, state) = (config.clone(), Mmio::new(), TdiState::UNLOCKED);
        Self { id, interface, kind, config, fresh, mmio, memory, state, present }
    }

    /// Everything is as after power-on.
    pub(super) fn reset(&mut self) {
        self.config = self.fresh.clone();
        self.mmio.reset();
    }

    /// Writes `value` as software would; a model's own offsets are right.
    fn write(&mut self, at: u16, width: Width, value: u32) {
        let written = self.config.write(at, width, value);
        debug_assert!(written.is_ok(), "{written:?}");
    }

    /// Puts the windows from `address` on and switches everything on; the first address behind.
    pub(super) fn configure(&mut self, address: u64) -> u64 {
        let mut next = address;
        let mut window = |size: u64, count: u64| {
            let start = next.next_multiple_of(size);
            next = start + size * count;
            start
        };
        if matches!(self.kind, Kind::Physical { .. }) {
            let bar = window(self.memory, 1);
            self.write_address(offset::BAR, bar);
            if let (Some(registers), Some(found)) =
                (SrIovRegisters::find(&self.config), find_extended(&self.config, ExtendedId::SR_IOV))
            {
                let bars = window(self.memory, u64::from(registers.total));
                self.write_address(found.offset + VF_BARS, bars);
                self.write(found.offset + VF_NUMBER, Width::Word, registers.total.into());
                self.write(found.offset + VF_CONTROL, Width::Word, VF_ENABLED);
            }
        }
        self.write(offset::COMMAND, Width::Word, ENABLED);
        next
    }

    fn write_address(&mut self, at: u16, address: u64) {
        self.write(at, Width::Dword, (address & 0xffff_ffff) as u32);
        self.write(at + 4, Width::Dword, (address >> 32) as u32);
    }

    /// Where the windows of its virtual functions begin, if they answer accesses to memory.
    pub(super) fn virtual_window(&self) -> Option<u64> {
        let registers = SrIovRegisters::find(&self.config).filter(|registers| registers.memory_enabled)?;
        let at = find_extended(&self.config, ExtendedId::SR_IOV)?.offset + VF_BARS;
        let dword = |offset| self.config.read32(offset).ok().map(u64::from);
        let start = dword(at + 4)? << 32 | dword(at)? & !0xf;
        (registers.enabled && start != 0).then_some(start)
    }

    /// What the registers show of the rest of the function.
    pub(super) fn view(&self) -> View {
        let gate = match self.state {
            TdiState::UNLOCKED => Gate::Unlocked,
            TdiState::RUN => Gate::Running,
            _ => Gate::Shut,
        };
        View { gate, state: self.state.0, routing_id: self.id.bdf.routing_id(), bar_size: self.memory }
    }

    /// The MMIO of the interface, at `window`.
    pub(super) fn report(&self, window: u64, lock: &LockInterface) -> Report {
        let mut info = InterfaceInfo::DMA_WITHOUT_PASID;
        if lock.flags.contains(LockFlags::NO_FIRMWARE_UPDATE) {
            info = info.union(InterfaceInfo::NO_FIRMWARE_UPDATE);
        }
        let range = |first: u64, count: u64, attributes| MmioRange {
            first_page: window + first * PAGE,
            // A window has at most 4 GiB.
            pages: u32::try_from(count).unwrap_or(u32::MAX),
            attributes,
            id: 0,
        };
        let mut ranges = vec![
            range(page::IDENTIFICATION, 1, RangeAttributes::NON_TEE),
            range(page::CONTROL, page::MSIX_TABLE - page::CONTROL, RangeAttributes::default()),
            range(page::MSIX_TABLE, 1, RangeAttributes::MSIX_TABLE),
            range(page::MSIX_PBA, 1, RangeAttributes::MSIX_PBA),
        ];
        ranges.push(range(page::USED, self.memory / PAGE - page::USED, RangeAttributes::default()));
        Report {
            info,
            msix_control: Msix::control(&self.config).unwrap_or(0),
            lnr_control: 0,
            tph_control: 0,
            ranges,
            device_specific: Vec::new(),
        }
    }
}

/// The interface of the function there.
pub(super) fn interface(id: FunctionId) -> Option<InterfaceId> {
    FuncId::new(id).ok().map(InterfaceId)
}

fn ids(spec: &EndpointSpec) -> FunctionIds {
    let word = |value: u64| (value & 0xffff) as u16;
    let [interface, sub, base, ..] = spec.pci.class.0.to_le_bytes();
    FunctionIds {
        vendor: word(spec.pci.vendor_id.0),
        device: word(spec.pci.device_id.0),
        revision: spec.pci.revision,
        class: [base, sub, interface],
        subsystem_vendor: word(spec.pci.vendor_id.0),
        subsystem: word(spec.pci.device_id.0),
    }
}

const fn express(spec: &EndpointSpec) -> Express {
    Express {
        port_type: PortType::ENDPOINT,
        max_payload: MaxPayload::MAX,
        function_reset: true,
        tee_io: spec.pci.tee_io,
        link_speed: 6,
        link_width: 16,
    }
}

fn msix() -> Msix {
    // Both lie in the first pages of BAR 0.
    let at = |page: u64| TableAt { bar: 0, offset: ((page * PAGE) & 0xffff_ffff) as u32 };
    Msix { messages: MSIX_VECTORS, table: at(page::MSIX_TABLE), pending: at(page::MSIX_PBA) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_costs_28_kib() {
        // Beside itself it has the page of its TEE interface.
        let bytes = size_of::<Function>() as u64 + PAGE;
        assert!((28 << 10..=30 << 10).contains(&bytes), "{bytes}");
    }
}
