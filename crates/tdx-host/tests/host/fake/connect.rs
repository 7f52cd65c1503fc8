//! What TDX Connect needs around a module, and the part of the fake module behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::thread;
use std::time::Duration;

use pcie::config::Width;
use pcie::{Bdf, FunctionId, Segment};
use tdx_abi::connect::pages::IommuBlock;
use tdx_abi::features::Features0;
use tdx_abi::metadata::sys;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{PhysAddr, Registers};
use tdx_host::traits::{
    Acpi, DmarUnit, DomainIdsInUse, HostBridge, Iommus, PciBus, PciFunction, UeventAction, Uevents,
};

use super::lockstep::interrupts_are_off;
use super::pcie::Pcie;
use super::spdm::Links;
use super::{FEATURES, Fake, State};

/// The I/O of a fake machine. Public: tests bend it.
#[derive(Debug, Default)]
pub(crate) struct Io {
    pub(crate) functions: Vec<PciFunction>,
    /// Base of the registers of each active unit, and whether it has trusted mode.
    pub(crate) units: Vec<(u64, bool)>,
    /// Units whose upper domain ids are in use.
    pub(crate) ids_in_use: BTreeSet<u64>,
    pub(crate) ids_reserved: BTreeSet<u64>,
    pub(crate) registers: BTreeMap<u64, u32>,
    pub(crate) keyp: Option<Vec<u8>>,
    pub(crate) clock: Duration,
    /// Units in trusted mode and the entries of the list that they came with.
    pub(crate) trusted: BTreeMap<u64, Vec<u64>>,
    /// Units that never answer the command into trusted mode.
    pub(crate) silent: BTreeSet<u64>,
    /// Pages of the extensions, in the order in which they were given.
    pub(crate) pool: Vec<u64>,
    /// Pages of one call of TDH.EXT.MEM.ADD; it is interrupted behind them.
    pub(crate) pages_per_call: usize,
    pub(crate) extensions_run: bool,
    /// Entries that TDH.IOMMU.CLEAR leaves out of its list.
    pub(crate) kept_entries: usize,
    pub(crate) uevents: Vec<String>,
    pub(crate) pcie: Pcie,
    pub(crate) links: Links,
}

/// A bridge of segment 0.
pub(crate) fn bridge(bus: u8, last_bus: u8) -> HostBridge {
    HostBridge { segment: Segment(0), bus, last_bus }
}

/// A function of segment 0.
pub(crate) fn function(bus: u8, device: u8) -> FunctionId {
    FunctionId::new(Segment(0), Bdf::new(bus, device, 0).unwrap())
}

/// A key configuration unit as KEYP has it: protocol, flags, register base, root ports.
pub(crate) fn key_unit(protocol: u8, flags: u8, base: u64, ports: &[FunctionId]) -> Vec<u8> {
    let length = u16::try_from(16 + 4 * ports.len()).unwrap();
    let mut unit = vec![0, 0];
    unit.extend(length.to_le_bytes());
    unit.extend([protocol, 0, u8::try_from(ports.len()).unwrap(), flags]);
    unit.extend(base.to_le_bytes());
    for port in ports {
        unit.extend(port.segment.0.to_le_bytes());
        unit.extend(port.bdf.routing_id().to_be_bytes());
    }
    unit
}

/// The table of `units`.
pub(crate) fn keyp(units: &[Vec<u8>]) -> Vec<u8> {
    let mut table = b"KEYP".to_vec();
    table.resize(40, 0);
    table.extend(units.concat());
    let length = u32::try_from(table.len()).unwrap();
    table[4..8].copy_from_slice(&length.to_le_bytes());
    table
}

pub(crate) const UNIT_0: u64 = 0xFED9_0000;
pub(crate) const UNIT_1: u64 = 0xFEDA_0000;
const KEY_UNIT_0: u64 = 0xFEDB_0000;

impl Fake {
    /// A machine of one package whose module has TDX Connect: two bridges, a unit for each, one of them with
    /// keys, and extensions that want `pool` pages.
    pub(crate) fn with_connect(pool: u64) -> Self {
        let fake = Self::new(1);
        fake.set_field(sys::TDX_FEATURES0, FEATURES.union(CONNECT).bits());
        for (field, value) in [
            (sys::MEMORY_POOL_REQUIRED_PAGES, pool),
            (sys::EXT_REQUIRED, 1),
            (sys::IDE_MT_PAGE_COUNT, 1),
            (sys::SPDM_MT_PAGE_COUNT, 2),
            (sys::IOMMU_MT_PAGE_COUNT, 8),
            (sys::SPDM_MAX_DEV_INFO_PAGES, 16),
        ] {
            fake.set_field(field, value);
        }
        let port = |bus, device, bridge| PciFunction {
            id: function(bus, device),
            root_port: None,
            physical: None,
            bridge,
        };
        let (first, second) = (bridge(0, 0x3F), bridge(0x40, 0x7F));
        fake.state().io = Io {
            functions: vec![port(0, 1, first), port(0, 2, first), port(0x40, 1, second)],
            units: vec![(UNIT_0, true), (UNIT_1, true)],
            registers: [(KEY_UNIT_0, 3)].into(),
            keyp: Some(keyp(&[key_unit(1, 1, KEY_UNIT_0, &[function(0, 1), function(0, 2)])])),
            pages_per_call: usize::MAX,
            ..Io::default()
        };
        fake
    }
}

/// What a module with TDX Connect offers in addition.
pub(crate) const CONNECT: Features0 = Features0::TDX_CONNECT.union(Features0::EXT);

impl State {
    /// TDH.EXT.MEM.ADD.
    pub(super) fn add_pool_pages(&mut self, registers: &mut Registers) -> Status {
        let (root, last) = (registers.rcx & 0x000F_FFFF_FFFF_F000, registers.rcx >> 55);
        let first = registers.rcx >> 3 & 0x1FF;
        let wanted = self.fields[&sys::MEMORY_POOL_REQUIRED_PAGES.0];
        if last + 1 - first > wanted {
            return StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX);
        }
        let now = (last + 1 - first).min(self.io.pages_per_call as u64);
        for index in first..first + now {
            let page = self.word(root + 8 * index);
            assert!(page != 0 && page.is_multiple_of(4096) && !self.io.pool.contains(&page), "{page:#x}");
            self.io.pool.push(page);
        }
        self.fields.insert(sys::MEMORY_POOL_REQUIRED_PAGES.0, wanted - now);
        if first + now <= last {
            registers.rcx = root | (first + now) << 3 | last << 55;
            return StatusCode::INTERRUPTED_RESUMABLE.plain();
        }
        StatusCode::SUCCESS.plain()
    }

    /// TDH.EXT.INIT.
    pub(super) fn init_extensions(&mut self) -> Status {
        let ready = self.fields.get(&sys::MEMORY_POOL_REQUIRED_PAGES.0) == Some(&0);
        if !ready || self.fields.get(&sys::EXT_REQUIRED.0) == Some(&0) {
            return StatusCode::SYS_STATE_INCORRECT.plain();
        }
        self.io.extensions_run = true;
        StatusCode::SUCCESS.plain()
    }

    /// TDH.IOMMU.SETUP; the id is the base of the registers.
    pub(super) fn set_unit_up(&mut self, registers: &mut Registers) -> Status {
        let base = registers.rcx;
        if !self.io.units.contains(&(base, true)) {
            return StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX);
        }
        if self.io.silent.contains(&base) && self.io.trusted.contains_key(&base) {
            return StatusCode::IOMMU_ECMD_TIMEOUT.plain();
        }
        if self.io.trusted.contains_key(&base) {
            return StatusCode::IOMMU_INVALID_STATE.plain();
        }
        let entries: Vec<u64> = (0..512).map(|index| self.word(registers.rdx + 8 * index)).collect();
        let pages = usize::try_from(self.fields[&sys::IOMMU_MT_PAGE_COUNT.0]).unwrap();
        assert!(entries[..2].iter().all(|block| IommuBlock::from_entry(*block).unwrap().pages == 2));
        assert!(entries[2..2 + pages].iter().all(|page| *page != 0 && page.is_multiple_of(4096)));
        assert!(entries[2 + pages..].iter().all(|rest| *rest == 0));
        self.io.trusted.insert(base, entries);
        if self.io.silent.contains(&base) {
            return StatusCode::IOMMU_ECMD_TIMEOUT.plain();
        }
        StatusCode::SUCCESS.plain()
    }

    /// TDH.IOMMU.CLEAR.
    pub(super) fn clear_unit(&mut self, registers: &Registers) -> Status {
        let Some(mut entries) = self.io.trusted.remove(&registers.rcx) else {
            let known = self.io.units.contains(&(registers.rcx, true));
            // Nothing to do, and no list.
            let unknown = StatusCode::OPERAND_INVALID.with_operand(OperandId::RCX);
            return if known { StatusCode::SUCCESS.plain() } else { unknown };
        };
        let used = entries.iter().take_while(|entry| **entry != 0).count();
        entries[used - self.io.kept_entries..].fill(0);
        for (at, entry) in (registers.rdx..).step_by(8).zip(entries) {
            self.bytes.extend((at..).zip(entry.to_le_bytes()));
        }
        StatusCode::SUCCESS.plain()
    }
}

impl PciBus for Fake {
    fn functions(&self, each: &mut dyn FnMut(PciFunction) -> ControlFlow<()>) {
        let functions = self.state().io.functions.clone();
        let _ = functions.into_iter().try_for_each(each);
    }
    fn config_read(&self, function: FunctionId, offset: u16, width: Width) -> u32 {
        self.state().io.pcie.read(function, offset, width)
    }
    fn config_write(&self, function: FunctionId, offset: u16, width: Width, value: u32) {
        self.state().io.pcie.write(function, offset, width, value);
    }
    fn now(&self) -> Duration {
        self.state().io.clock
    }
    fn wait(&self, time: Duration) {
        assert!(!interrupts_are_off(), "sleep with interrupts off");
        self.state().io.clock += time;
        thread::yield_now();
    }
}

impl Iommus for Fake {
    fn units(&self, each: &mut dyn FnMut(DmarUnit) -> ControlFlow<()>) {
        let units = self.state().io.units.clone();
        let unit = |(base, _)| DmarUnit { reg_base: PhysAddr::new(base), segment: Segment(0) };
        let _ = units.into_iter().map(unit).try_for_each(each);
    }
    fn mmio_read32(&self, address: PhysAddr) -> u32 {
        self.state().io.registers.get(&address.as_u64()).copied().unwrap_or(u32::MAX)
    }
    fn reserve_upper_domain_ids(&self, unit: DmarUnit) -> Result<(), DomainIdsInUse> {
        let mut state = self.state();
        if state.io.ids_in_use.contains(&unit.reg_base.as_u64()) {
            return Err(DomainIdsInUse { first: 0x8001 });
        }
        assert!(state.io.ids_reserved.insert(unit.reg_base.as_u64()), "reserved twice");
        Ok(())
    }
    fn release_upper_domain_ids(&self, unit: DmarUnit) {
        assert!(self.state().io.ids_reserved.remove(&unit.reg_base.as_u64()), "not reserved");
    }
}

impl Acpi for Fake {
    fn table(&self, signature: [u8; 4], show: &mut dyn FnMut(&[u8])) -> bool {
        let table = self.state().io.keyp.clone().filter(|_| signature == *b"KEYP");
        table.as_deref().map(show).is_some()
    }
}

impl Uevents for Fake {
    fn uevent(
        &self,
        action: UeventAction,
        devpath: fmt::Arguments<'_>,
        subsystem: &str,
        extra: Option<fmt::Arguments<'_>>,
    ) {
        let extra = extra.map(|extra| format!(" {extra}")).unwrap_or_default();
        let line = format!("{} {devpath} {subsystem}{extra}", action.name());
        self.state().io.uevents.push(line);
    }
}
