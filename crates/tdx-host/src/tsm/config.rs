//! Configuration space of one function, by way of the platform.

use pcie::FunctionId;
use pcie::cap::{Express, PortType};
use pcie::config::{ReadConfig, Width};
use pcie::ide::Ide;

use super::LinkFacts;
use crate::traits::{PciBus, PciFunction};

/// The configuration space of a function.
pub struct Config<'a, P: ?Sized> {
    bus: &'a P,
    function: FunctionId,
}

impl<'a, P: PciBus + ?Sized> Config<'a, P> {
    /// That of `function`.
    pub const fn new(bus: &'a P, function: FunctionId) -> Self {
        Self { bus, function }
    }

    /// Writes a dword.
    pub fn write(&self, offset: u16, value: u32) {
        self.bus.config_write(self.function, offset, Width::Dword, value);
    }

    /// False if nobody answers: the function was taken out, or the link to it is down.
    pub fn is_there(&self) -> bool {
        self.dword(pcie::config::offset::IDS) != u32::MAX
    }
}

impl<P: PciBus + ?Sized> ReadConfig for Config<'_, P> {
    fn dword(&self, offset: u16) -> u32 {
        self.bus.config_read(self.function, offset, Width::Dword)
    }
}

/// What a function is to a TSM, as far as its own registers tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionFacts {
    /// Its place.
    pub function: PciFunction,
    /// What it is to the fabric; `None` unless it has the PCI Express capability.
    pub port_type: Option<PortType>,
    /// It has the TEE-IO bit.
    pub has_tee: bool,
    /// It has selective IDE, and so has the root port above it.
    pub has_ide: bool,
}

impl FunctionFacts {
    /// Reads the registers of `function`.
    pub fn read<P: PciBus + ?Sized>(bus: &P, function: PciFunction) -> Self {
        let config = Config::new(bus, function.id);
        let express = Express::find(&config);
        let selective = |id| Ide::find(&Config::new(bus, id)).is_some_and(|ide| ide.capability().selective());
        let port_type = express.map(|express| express.port_type);
        // An endpoint's IDE is of use only with a root port that has it too.
        let partner = match port_type {
            Some(PortType::ENDPOINT) => function.root_port.is_some_and(selective),
            _ => true,
        };
        Self {
            function,
            port_type,
            has_tee: express.is_some_and(|express| express.tee_io),
            has_ide: partner && selective(function.id),
        }
    }

    /// True for a function in which a DSM can answer: number 0, physical, of an endpoint or upstream port,
    /// with IDE or TEE-IO.
    pub fn dsm_capable(&self) -> bool {
        let port =
            matches!(self.port_type, Some(PortType::ENDPOINT | PortType::UPSTREAM | PortType::INTEGRATED));
        port && self.function.physical.is_none()
            && self.function.id.bdf.function() == 0
            && (self.has_ide || self.has_tee)
    }

    /// The function in which the DSM of this one would answer: number 0 of the device, be this one
    /// physical or virtual.
    pub fn dsm_place(&self) -> FunctionId {
        let physical = self.function.physical.unwrap_or(self.function.id.bdf);
        let zero = pcie::Bdf::from_routing_id(physical.routing_id() & !7);
        FunctionId::new(self.function.id.segment, zero)
    }

    /// What its attributes depend on; `dsm_has_tee` is what the DSM that manages it says, if one does.
    pub fn link_facts(&self, link_tsm: bool, dsm_has_tee: Option<bool>) -> LinkFacts {
        LinkFacts {
            link_tsm,
            express: self.port_type.is_some(),
            dsm_capable: self.dsm_capable(),
            has_tee: self.has_tee,
            managed: dsm_has_tee.is_some(),
            dsm_has_tee: dsm_has_tee.unwrap_or(false),
        }
    }
}
