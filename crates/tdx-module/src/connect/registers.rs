//! Registers of VT-d units and key configuration units, as far as TDH.IOMMU.SETUP and CLEAR use them.
//!
//! Offsets and bits: VT-d specification 4.1; the trusted set and the key configuration unit as published
//! with the 2023 module and the Root Complex IDE programming guide. Assumed: `TDX_MODE` bit 0 is the mode
//! that the command `SET_TDX_MODE` makes the unit take, in either direction.

use tdx_abi::{KeyId, PhysAddr, PhysRange};

use crate::connect::IommuTable;
use crate::hpa::AddressSpace;
use crate::io::{ConnectHardware, MmioWidth, UnitFacts};

/// A register by offset and width.
type Register = (u64, MmioWidth);

const ECAP: Register = (0x10, MmioWidth::Qword);
const GSTS: Register = (0x1C, MmioWidth::Dword);
const RTADDR: Register = (0x20, MmioWidth::Qword);
const PMEN: Register = (0x64, MmioWidth::Dword);
const TDX_MODE: Register = (0x220, MmioWidth::Qword);
const T_RTADDR: Register = (0x228, MmioWidth::Qword);
const T_IQH: Register = (0x230, MmioWidth::Qword);
const T_IQA: Register = (0x240, MmioWidth::Qword);
const ECMD: Register = (0x400, MmioWidth::Qword);
const ECRSP: Register = (0x410, MmioWidth::Qword);
const ESTS0: Register = (0x420, MmioWidth::Qword);

/// TDX Connect capable.
const ECAP_TDXC: u64 = 1 << 50;
const GSTS_QIES: u64 = 1 << 26;
const GSTS_RTPS: u64 = 1 << 30;
const GSTS_TES: u64 = 1 << 31;
const RTADDR_TTM: u64 = 3 << 10;
const RTADDR_SCALABLE: u64 = 1 << 10;
const T_IQA_256_BIT: u64 = 1 << 11;
/// Index of the head, in descriptors of 32 bytes.
const T_IQH_HEAD: u64 = 0x3FFF << 5;
const SET_TDX_MODE: u64 = 1;
const ECRSP_IN_PROGRESS: u64 = 1;
const ECRSP_STATUS: u64 = 0x7F << 1;
const ESTS0_TDX_MODE: u64 = 1 << 1;

/// What only SEAM mode may write while a unit is trusted: offset and bytes. The tail of the ordinary queue
/// and the fault registers stay with the host, which goes on to use the unit for ordinary DMA.
const PROTECTED: [(u64, u64); 6] = [
    // GCMD
    (0x18, 4),
    (RTADDR.0, 8),
    // PMEN and the bounds of the protected regions
    (PMEN.0, 0x1C),
    // IQA
    (0x90, 8),
    // From TDX_MODE to T_IQA
    (TDX_MODE.0, 0x28),
    (ECMD.0, 8),
];

/// Bytes of the capability register of a key configuration unit, and of a stream block.
const KEY_UNIT_BLOCKS: u64 = 4;
const KEY_UNIT_BLOCK: u64 = 36;
/// Streams minus one.
const KEY_UNIT_STREAMS: u64 = 0x1FF;
const KEY_UNIT_STREAM_ENABLED: u64 = 1;

/// What a look at ECRSP shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandStatus {
    InProgress,
    Done,
    Failed,
}

/// The registers of one unit.
#[derive(Clone, Copy)]
pub(crate) struct UnitRegisters<'a> {
    io: &'a dyn ConnectHardware,
    facts: &'a UnitFacts,
}

impl<'a> UnitRegisters<'a> {
    pub(crate) const fn new(io: &'a dyn ConnectHardware, facts: &'a UnitFacts) -> Self {
        Self { io, facts }
    }

    fn address(&self, offset: u64) -> PhysAddr {
        // A unit at the end of the address space has no registers there: nothing answers.
        self.facts.registers.start().checked_add(offset).unwrap_or(PhysAddr::new(u64::MAX))
    }

    fn read(&self, (offset, width): Register) -> u64 {
        self.io.mmio_read(self.address(offset), width)
    }

    fn write(&self, (offset, width): Register, value: u64) {
        self.io.mmio_write(self.address(offset), width, value);
    }

    /// All ones come from a unit that is not there.
    pub(crate) fn is_tdx_capable(&self) -> bool {
        let ecap = self.read(ECAP);
        ecap != u64::MAX && ecap & ECAP_TDXC != 0
    }

    /// GSTS.
    pub(crate) fn global_status(&self) -> u32 {
        u32::try_from(self.read(GSTS) & u64::from(u32::MAX)).unwrap_or_default()
    }

    /// The unit is as the host's own bring-up in scalable mode leaves it, and no command is under way.
    pub(crate) fn is_ready(&self) -> bool {
        let status = u64::from(self.global_status());
        let on = GSTS_RTPS | GSTS_QIES | GSTS_TES;
        self.command_status() != CommandStatus::InProgress
            && !self.is_in_tdx_mode()
            && status & on == on
            && self.read(PMEN) == 0
            && self.read(RTADDR) & RTADDR_TTM == RTADDR_SCALABLE
    }

    pub(crate) fn is_in_tdx_mode(&self) -> bool {
        self.read(ESTS0) & ESTS0_TDX_MODE != 0
    }

    /// A stream of a key configuration unit below is enabled.
    pub(crate) fn has_enabled_key_unit(&self) -> bool {
        self.facts.key_units.iter().any(|unit| {
            let dword = |offset| {
                let pa = unit.registers.start().checked_add(offset);
                pa.map_or(u64::MAX, |pa| self.io.mmio_read(pa, MmioWidth::Dword))
            };
            let streams = (dword(0) & KEY_UNIT_STREAMS) + 1;
            (0..streams)
                .any(|stream| dword(KEY_UNIT_BLOCKS + KEY_UNIT_BLOCK * stream) & KEY_UNIT_STREAM_ENABLED != 0)
        })
    }

    /// Keeps hosts from writing what a trusted unit depends on, or lets them again.
    pub(crate) fn protect(&self, protected: bool) {
        for (offset, size) in PROTECTED {
            if let Some(range) = PhysRange::from_size(self.address(offset), size) {
                self.io.protect(range, protected);
            }
        }
        for unit in &self.facts.key_units {
            self.io.protect(unit.registers, protected);
        }
    }

    /// Writes the trusted set for TDX mode: root table, queue, mode.
    pub(crate) fn program(&self, space: &AddressSpace, key: KeyId, table: &IommuTable) {
        let trusted = |page: PhysAddr| space.layout.join(page, key).unwrap_or_default();
        self.write(T_RTADDR, table.singles.first().copied().map_or(0, trusted));
        let size = u64::from(table.queue.pages.trailing_zeros());
        self.write(T_IQA, trusted(table.queue.start) | T_IQA_256_BIT | size);
        self.write(TDX_MODE, 1);
    }

    /// Empties the trusted set: the mode that the next command makes the unit take is the ordinary one.
    pub(crate) fn unprogram(&self) {
        self.write(TDX_MODE, 0);
    }

    /// Forgets addresses; the unit is in ordinary mode.
    pub(crate) fn wipe(&self) {
        self.write(T_RTADDR, 0);
        self.write(T_IQA, 0);
    }

    /// Makes the unit take the mode of its mode register.
    pub(crate) fn issue(&self) {
        self.write(ECMD, SET_TDX_MODE);
    }

    pub(crate) fn command_status(&self) -> CommandStatus {
        match self.read(ECRSP) {
            response if response & ECRSP_IN_PROGRESS != 0 => CommandStatus::InProgress,
            response if response & ECRSP_STATUS != 0 => CommandStatus::Failed,
            _ => CommandStatus::Done,
        }
    }

    /// The head of the trusted queue lies inside it.
    pub(crate) fn head_is_inside(&self, table: &IommuTable) -> bool {
        self.read(T_IQH) & T_IQH_HEAD < u64::from(table.queue.pages) * tdx_abi::PAGE_SIZE
    }
}
