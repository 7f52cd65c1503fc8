//! The I/O below the fake machine: two VT-d units that can do TDX Connect and one that cannot, with a key
//! configuration unit below each of the two.

use std::collections::{BTreeMap, BTreeSet};

use pcie::{Bdf, FunctionId, Segment};
use tdx_abi::{PhysAddr, PhysRange};
use tdx_module::io::{KeyUnitFacts, LinkStatus, MmioWidth, UnitFacts};

/// Register bases of the units, the last one without TDX mode.
pub(crate) const UNITS: [u64; 3] = [0xD000_0000, 0xD001_0000, 0xD002_0000];
/// Register bases of the key configuration units below the first two.
pub(crate) const KEY_UNITS: [u64; 2] = [0xD100_0000, 0xD110_0000];
/// Ids of the first two units.
pub(crate) const UNIT_IDS: [u64; 2] = [0x01, 0x12];

pub(crate) const ECAP: u64 = 0x10;
pub(crate) const GSTS: u64 = 0x1C;
pub(crate) const RTADDR: u64 = 0x20;
pub(crate) const PMEN: u64 = 0x64;
pub(crate) const TDX_MODE: u64 = 0x220;
pub(crate) const T_RTADDR: u64 = 0x228;
pub(crate) const T_IQH: u64 = 0x230;
pub(crate) const T_IQA: u64 = 0x240;
pub(crate) const ECMD: u64 = 0x400;
pub(crate) const ECRSP: u64 = 0x410;
pub(crate) const ESTS0: u64 = 0x420;
pub(crate) const TDXC: u64 = 1 << 50;
pub(crate) const TMS: u64 = 1 << 1;
/// Translation, root table and queue are on.
pub(crate) const GSTS_ON: u64 = 1 << 31 | 1 << 30 | 1 << 26;

/// A function by segment, bus and device.
pub(crate) fn function(segment: u16, bus: u8, device: u8) -> FunctionId {
    FunctionId::new(Segment(segment), Bdf::new(bus, device, 0).expect("an address"))
}

/// Everything that a test can change about I/O.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // Each is a fault of its own.
pub(crate) struct IoFacts {
    pub(crate) units: &'static [UnitFacts],
    /// Registers by address; others read as zeros.
    pub(crate) registers: BTreeMap<u64, u64>,
    /// Dwords of configuration space; others read as ones.
    pub(crate) config: BTreeMap<(FunctionId, u16), u32>,
    pub(crate) links: BTreeMap<FunctionId, LinkStatus>,
    pub(crate) protected: BTreeSet<PhysRange>,
    /// Function, offset, length.
    pub(crate) protected_config: BTreeSet<(FunctionId, u16, u16)>,
    /// Looks at ECRSP that find a command under way.
    pub(crate) polls: u32,
    /// Status with which commands end.
    pub(crate) command_status: u64,
    /// Commands have no effect.
    pub(crate) stubborn: bool,
    /// No command gets a unit out of TDX mode.
    pub(crate) stuck: bool,
    /// GSTS changes with a command.
    pub(crate) spoils_status: bool,
    /// Head of the trusted queue behind a command.
    pub(crate) head: u64,
    /// Key configuration units take keys.
    pub(crate) keys_get_ready: bool,
    /// Control registers of streams of root ports; the status register is the dword behind it.
    pub(crate) stream_controls: BTreeSet<(FunctionId, u16)>,
    /// Streams of root ports go secure when they are enabled.
    pub(crate) ports_go_secure: bool,
    /// Commands issued, by unit.
    pub(crate) commands: Vec<u64>,
    /// Looks that are left, by unit.
    under_way: BTreeMap<u64, u32>,
}

impl Default for IoFacts {
    fn default() -> Self {
        let range = |start, size| PhysRange::from_size(PhysAddr::new(start), size).expect("a range");
        let unit = |index: usize, socket, stack, segment, buses: std::ops::RangeInclusive<u8>| UnitFacts {
            registers: range(UNITS[index], 0x1_0000),
            socket,
            stack,
            segment: Segment(segment),
            root_bus: *buses.start(),
            key_units: KEY_UNITS
                .get(index)
                .map(|&base| KeyUnitFacts {
                    registers: range(base, 0x2_0000),
                    root_ports: (0..4).map(|device| function(segment, *buses.start(), device)).collect(),
                })
                .into_iter()
                .collect(),
            buses,
        };
        let units =
            vec![unit(0, 0, 1, 0, 0x10..=0x1F), unit(1, 1, 2, 1, 0x00..=0x3F), unit(2, 0, 3, 0, 0x20..=0x2F)];
        let mut registers = BTreeMap::new();
        for (index, base) in UNITS.into_iter().enumerate() {
            registers.insert(base + ECAP, if index < 2 { TDXC } else { 0 });
            registers.insert(base + GSTS, GSTS_ON);
            registers.insert(base + RTADDR, 0x50_0000 | 1 << 10);
        }
        for base in KEY_UNITS {
            // 4 streams, 16 Tx and 16 Rx slots.
            registers.insert(base, 3 | 15 << 10 | 15 << 20);
        }
        Self {
            units: Box::leak(units.into_boxed_slice()),
            registers,
            config: BTreeMap::new(),
            links: BTreeMap::new(),
            protected: BTreeSet::new(),
            protected_config: BTreeSet::new(),
            polls: 3,
            command_status: 0,
            stubborn: false,
            stuck: false,
            spoils_status: false,
            head: 0,
            keys_get_ready: true,
            stream_controls: BTreeSet::new(),
            ports_go_secure: true,
            commands: Vec::new(),
            under_way: BTreeMap::new(),
        }
    }
}

impl IoFacts {
    pub(crate) fn register(&self, pa: u64) -> u64 {
        self.registers.get(&pa).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, pa: u64, value: u64) {
        self.registers.insert(pa, value);
    }

    /// Flips bits of a register.
    pub(crate) fn flip(&mut self, pa: u64, bits: u64) {
        let value = self.register(pa);
        self.set(pa, value ^ bits);
    }

    pub(super) fn read(&mut self, pa: u64, width: MmioWidth) -> u64 {
        if let Some(&unit) = UNITS.iter().find(|&&unit| unit + ECRSP == pa) {
            return self.response(unit);
        }
        match width {
            MmioWidth::Dword => self.register(pa) & u64::from(u32::MAX),
            MmioWidth::Qword => self.register(pa),
        }
    }

    /// ECRSP: one look nearer to the end of a command.
    fn response(&mut self, unit: u64) -> u64 {
        let fixed = self.register(unit + ECRSP);
        let Some(left) = self.under_way.get_mut(&unit) else {
            return fixed;
        };
        if *left > 0 {
            *left -= 1;
            return 1;
        }
        self.under_way.remove(&unit);
        self.set(unit + ECRSP, self.command_status << 1);
        if self.command_status == 0 && !self.stubborn {
            let before = self.register(unit + ESTS0) & TMS != 0;
            let mode = self.register(unit + TDX_MODE) & 1 != 0 || (self.stuck && before);
            self.set(unit + ESTS0, if mode { TMS } else { 0 });
            self.set(unit + T_IQH, self.head);
            if self.spoils_status {
                self.flip(unit + GSTS, 1 << 23);
            }
        }
        self.register(unit + ECRSP)
    }

    /// A stream of a key configuration unit: a set that is primed is ready if `keys_get_ready`. Keys go
    /// with the stream.
    fn settle_key_unit(&mut self, pa: u64) {
        for unit in KEY_UNITS {
            for stream in (0..4).map(|number| unit + 4 + 36 * number) {
                if !(stream..stream + 36).contains(&pa) {
                    continue;
                }
                for (control, status) in [(stream + 4, stream + 8), (stream + 12, stream + 16)] {
                    let primed = self.register(control);
                    let ready = (primed >> 8 & 1) << 8 | (primed >> 16 & 1) << 9;
                    self.set(status, if self.keys_get_ready { ready } else { 0 });
                }
            }
        }
    }

    /// Writes configuration space: a stream that is enabled is secure if `ports_go_secure`.
    pub(super) fn write_config(&mut self, function: FunctionId, offset: u16, value: u32) {
        self.config.insert((function, offset), value);
        if self.stream_controls.contains(&(function, offset)) {
            let secure = value & 1 != 0 && self.ports_go_secure;
            self.config.insert((function, offset + 4), if secure { 2 } else { 0 });
        }
    }

    pub(super) fn write(&mut self, pa: u64, _width: MmioWidth, value: u64) {
        if let Some(&unit) = UNITS.iter().find(|&&unit| unit + ECMD == pa) {
            self.commands.push(unit);
            self.under_way.insert(unit, self.polls);
        }
        self.set(pa, value);
        self.settle_key_unit(pa);
    }
}
