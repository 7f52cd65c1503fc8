//! Root ports: which one is above a function, and the selective streams of its IDE capability.

use std::ops::RangeInclusive;

use pcie::config::{HeaderType, ReadConfig, offset};
use pcie::ide::{ADDRESS_BLOCK, AddressAssociation, Ide, RidAssociation, SELECTIVE_BLOCK, StreamBlock};
use pcie::ide::{Capability, StreamControl, StreamState, StreamStatus};
use pcie::{Bdf, FunctionId};
use tdx_abi::connect::ids::RootPortBlock;

use crate::io::{ConnectHardware, UnitFacts};

/// Where nothing answers.
const NOBODY: u32 = u32::MAX;
/// Header type register: other functions of the device exist.
const MULTI_FUNCTION: u32 = 1 << 23;

/// The configuration space of a function.
#[derive(Clone, Copy)]
struct Config<'a> {
    io: &'a dyn ConnectHardware,
    function: FunctionId,
}

impl ReadConfig for Config<'_> {
    fn dword(&self, offset: u16) -> u32 {
        self.io.config_read(self.function, offset)
    }
}

/// A root port of a unit's stack.
#[derive(Clone, Copy)]
pub(crate) struct RootPort<'a> {
    config: Config<'a>,
}

impl<'a> RootPort<'a> {
    pub(crate) const fn new(io: &'a dyn ConnectHardware, function: FunctionId) -> Self {
        Self { config: Config { io, function } }
    }

    /// The one above a function: the bridge on the root bus that leads to its bus.
    pub(crate) fn above(
        io: &'a dyn ConnectHardware,
        unit: &UnitFacts,
        function: FunctionId,
    ) -> Option<FunctionId> {
        let devices = (0..32).filter_map(|device| {
            let first = Self::on_root_bus(io, unit, device << 3);
            let header = first.config.dword(offset::HEADER_TYPE);
            let functions = match header {
                NOBODY => return None,
                header if header & MULTI_FUNCTION != 0 => 8,
                _ => 1,
            };
            Some((device << 3..=device << 3 | 7).take(functions))
        });
        devices
            .flatten()
            .map(|devfn| Self::on_root_bus(io, unit, devfn))
            .find(|port| port.leads_to(function))
            .map(|port| port.function())
    }

    /// The function of that number on the root bus of a unit.
    pub(crate) const fn on_root_bus(io: &'a dyn ConnectHardware, unit: &UnitFacts, devfn: u8) -> Self {
        let bdf = Bdf::from_ari(unit.root_bus, devfn);
        Self::new(io, FunctionId::new(unit.segment, bdf))
    }

    pub(crate) const fn function(&self) -> FunctionId {
        self.config.function
    }

    fn buses(&self) -> Option<RangeInclusive<u8>> {
        if self.config.dword(offset::IDS) == NOBODY || HeaderType::of(&self.config) != HeaderType::BRIDGE {
            return None;
        }
        let [_, secondary, subordinate, _] = self.config.dword(offset::BUSES).to_le_bytes();
        (secondary != 0 && secondary <= subordinate).then_some(secondary..=subordinate)
    }

    /// Whether a function is below it.
    pub(crate) fn leads_to(&self, function: FunctionId) -> bool {
        function.segment == self.function().segment
            && self.buses().is_some_and(|buses| buses.contains(&function.bdf.bus()))
    }

    fn ide(&self) -> Option<Ide<'_, Config<'a>>> {
        Ide::find(&self.config)
    }

    /// The IDE capability, if it has selective streams.
    pub(crate) fn selective_ide(&self) -> Option<Capability> {
        self.ide().map(|ide| ide.capability()).filter(Capability::selective)
    }

    /// The selective streams that have a place for an address association.
    pub(crate) fn blocks(&self) -> Vec<StreamBlock> {
        let usable = |block: &StreamBlock| block.selective && block.address_blocks != 0;
        self.ide().map(|ide| ide.streams().filter(usable).collect()).unwrap_or_default()
    }

    pub(crate) fn block(&self, number: RootPortBlock) -> Option<StreamBlock> {
        self.blocks().into_iter().find(|block| block.index == number.0)
    }

    /// The control register of a stream.
    pub(crate) fn control(&self, block: StreamBlock) -> StreamControl {
        StreamControl::from_bits(self.config.dword(block.control()))
    }

    /// Whether a stream is secure, as the port itself says.
    pub(crate) fn is_secure(&self, block: StreamBlock) -> bool {
        let status = StreamStatus::from_bits(self.config.dword(block.status()));
        status.state() == StreamState::SECURE
    }

    pub(crate) fn set_control(&self, block: StreamBlock, control: StreamControl) {
        self.write(block.control(), control.into_bits());
    }

    /// Writes what belongs to a stream, then its control register.
    pub(crate) fn program(
        &self,
        block: StreamBlock,
        rid: RidAssociation,
        addresses: Option<AddressAssociation>,
        control: StreamControl,
    ) {
        self.associate(block, rid.encode(), addresses.map_or([0; 3], AddressAssociation::encode));
        self.set_control(block, control);
    }

    /// Clears a stream: disabled first.
    pub(crate) fn clear(&self, block: StreamBlock) {
        self.set_control(block, self.control(block).with_enable(false));
        self.associate(block, [0; 2], [0; 3]);
        self.set_control(block, StreamControl::new());
    }

    /// Takes the registers of a stream from everybody else, or gives them back.
    pub(crate) fn protect(&self, block: StreamBlock, protected: bool) {
        let registers = block.registers();
        let length = registers.end.saturating_sub(registers.start);
        self.config.io.protect_config(self.function(), registers.start, length, protected);
    }

    fn associate(&self, block: StreamBlock, rid: [u32; 2], addresses: [u32; 3]) {
        let first = block.offset + pcie::ide::offset::RID_1;
        self.write_all(first, rid);
        for index in 0..u16::from(block.address_blocks) {
            let at = block.offset + SELECTIVE_BLOCK + index * ADDRESS_BLOCK;
            self.write_all(at, if index == 0 { addresses } else { [0; 3] });
        }
    }

    fn write_all<const N: usize>(&self, at: u16, values: [u32; N]) {
        for (offset, value) in (at..).step_by(4).zip(values) {
            self.write(offset, value);
        }
    }

    fn write(&self, offset: u16, value: u32) {
        self.config.io.config_write(self.function(), offset, value);
    }
}
