//! The registers of a VT-d unit.
//!
//! At power-on a unit is as an operating system leaves it after its bring-up: root table in scalable
//! mode, translation, interrupt remapping and invalidation queue on. `SET_TDX_MODE` runs for a few looks
//! at the response register, and takes the unit into TDX mode or out of it as `TDX_MODE` says.
//!
//! | modelled | how |
//! |---|---|
//! | registers | those of [`registers`], dword by dword; elsewhere 0 is read and writes are lost |
//! | invalidation queues | the head follows the tail at once; descriptors are not looked at |
//! | trusted registers | read as 0 outside SEAM mode, where they cannot be written |
//! | not modelled | translation, page requests, fault recording, interrupts of the unit, its performance counters |

pub(crate) mod registers;
#[cfg(test)]
mod tests;

use parking_lot::Mutex;
use registers::{
    CAP, CAP_ND_16_BITS, ECAP, ECAP_SMTS, ECAP_TDXC, ECCAP, ECCAP3, ECMD, ECMD_COMMAND, ECRSP,
    ECRSP_IN_PROGRESS, ECRSP_STATUS_SHIFT, ESTS0, ESTS0_TMS, GCMD, INDEX_NARROW, INDEX_WIDE,
    INTERRUPT_REMAPPING, INTERRUPT_TABLE, IQA, IQA_BITS, IQA_WIDE, IQH, IQT, PMEN, PMEN_ENABLE, PMEN_STATUS,
    POINTERS, QUEUE, RESET_PERFMON, ROOT_TABLE, RTADDR, RTADDR_BITS, SET_TDX_MODE, STATUS_ABORTED,
    STATUS_BITS, STATUS_UNKNOWN, SWITCHES, T_IQA, T_IQH, T_IQT, T_RTADDR, TDX_MODE, TDX_MODE_BITS,
    TDX_MODE_ON, TRANSLATION, TTM, TTM_SCALABLE,
};
use tdx_module::io::MmioWidth;

use crate::protection::Origin;

/// Looks at the response register for which a command runs.
const USUAL_POLLS: u32 = 3;
/// Where the operating system has its root table and its queue. Made up: nobody follows them.
const OS_ROOT_TABLE: u64 = 0x10_0000;
const OS_QUEUE: u64 = 0x10_1000;

/// How a unit differs from one that is in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behaviour {
    /// It has TDX mode.
    pub(crate) tdx: bool,
    /// Looks at the response for which a command runs; `None`: it never ends.
    pub(crate) polls: Option<u32>,
    /// Status that `SET_TDX_MODE` ends with.
    pub(crate) refuses_with: Option<u8>,
    /// The operating system uses legacy mode.
    pub(crate) legacy: bool,
    /// The operating system has no invalidation queue.
    pub(crate) queue_off: bool,
}

impl Behaviour {
    pub(crate) const fn new(tdx: bool) -> Self {
        Self { tdx, polls: Some(USUAL_POLLS), refuses_with: None, legacy: false, queue_off: false }
    }
}

/// A command that runs.
#[derive(Clone, Copy, Debug)]
struct Command {
    code: u8,
    /// Looks at the response until it is over; `None`: it never is.
    left: Option<u32>,
}

#[derive(Debug)]
struct State {
    behaviour: Behaviour,
    status: u32,
    root_table: u64,
    protected_memory: u32,
    queue: u64,
    tail: u64,
    tdx_mode: u64,
    trusted_root_table: u64,
    trusted_queue: u64,
    trusted_tail: u64,
    command: Option<Command>,
    /// Status of the last command.
    outcome: u8,
    in_tdx_mode: bool,
}

impl State {
    fn after_bring_up(behaviour: Behaviour) -> Self {
        let ttm = if behaviour.legacy { 0 } else { TTM_SCALABLE };
        let queue = if behaviour.queue_off { 0 } else { QUEUE };
        let wide = if behaviour.legacy { 0 } else { IQA_WIDE };
        Self {
            behaviour,
            status: TRANSLATION | ROOT_TABLE | INTERRUPT_TABLE | INTERRUPT_REMAPPING | queue,
            root_table: OS_ROOT_TABLE | ttm,
            protected_memory: 0,
            queue: if behaviour.queue_off { 0 } else { OS_QUEUE | wide },
            tail: 0,
            tdx_mode: 0,
            trusted_root_table: 0,
            trusted_queue: 0,
            trusted_tail: 0,
            command: None,
            outcome: 0,
            in_tdx_mode: false,
        }
    }

    /// The 64 bits at a multiple of 8.
    fn read(&self, offset: u16, origin: Origin) -> u64 {
        let trusted = |value| if origin == Origin::Seam { value } else { 0 };
        let bit = |set, value| if set { value } else { 0 };
        match offset {
            CAP => CAP_ND_16_BITS,
            ECAP => ECAP_SMTS | bit(self.behaviour.tdx, ECAP_TDXC),
            // The command register shares its 64 bits with the status, and is not read.
            GCMD => u64::from(self.status) << 32,
            RTADDR => self.root_table,
            PMEN_QWORD => u64::from(self.protected_memory) << 32,
            // Descriptors are taken as soon as the tail moves.
            IQH => bit(self.status & QUEUE != 0, self.tail),
            IQT => self.tail,
            IQA => self.queue,
            TDX_MODE => trusted(self.tdx_mode),
            T_RTADDR => trusted(self.trusted_root_table),
            T_IQH => trusted(bit(self.in_tdx_mode, self.trusted_tail)),
            T_IQT => trusted(self.trusted_tail),
            T_IQA => trusted(self.trusted_queue),
            ECRSP => {
                bit(self.command.is_some(), ECRSP_IN_PROGRESS) | u64::from(self.outcome) << ECRSP_STATUS_SHIFT
            }
            ESTS0 => bit(self.in_tdx_mode, ESTS0_TMS),
            ECCAP => bit(self.behaviour.tdx, 1 << SET_TDX_MODE),
            ECCAP3 => 1 << (RESET_PERFMON % 64),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u16, value: u32, origin: Origin) {
        match offset {
            GCMD => self.command(value),
            PMEN => {
                self.protected_memory = if value & PMEN_ENABLE == 0 { 0 } else { PMEN_ENABLE | PMEN_STATUS };
            }
            // The upper half has the operand, which these commands have no use for.
            ECMD => self.enhanced_command((value & ECMD_COMMAND) as u8),
            _ => {
                let wide = |queue: u64| if queue & IQA_WIDE == 0 { INDEX_NARROW } else { INDEX_WIDE };
                let trusted = self.behaviour.tdx && origin == Origin::Seam;
                let (register, bits) = match offset & !7 {
                    RTADDR => (&mut self.root_table, RTADDR_BITS),
                    IQT => {
                        let bits = wide(self.queue);
                        (&mut self.tail, bits)
                    }
                    // The base of a queue in use does not move.
                    IQA if self.status & QUEUE == 0 => (&mut self.queue, IQA_BITS),
                    TDX_MODE if trusted => (&mut self.tdx_mode, TDX_MODE_BITS),
                    T_RTADDR if trusted => (&mut self.trusted_root_table, RTADDR_BITS),
                    T_IQT if trusted => (&mut self.trusted_tail, INDEX_WIDE),
                    T_IQA if trusted => (&mut self.trusted_queue, IQA_BITS),
                    _ => return,
                };
                *register = with_half(*register, offset, value) & bits;
            }
        }
    }

    fn command(&mut self, value: u32) {
        if value & QUEUE != 0 && self.status & QUEUE == 0 {
            self.tail = 0;
        }
        self.status = self.status & !SWITCHES | value & SWITCHES | value & POINTERS;
    }

    fn enhanced_command(&mut self, code: u8) {
        if self.command.is_none() {
            self.outcome = 0;
            self.command = Some(Command { code, left: self.behaviour.polls });
        }
    }

    /// Somebody looks whether the command is over.
    fn poll(&mut self) {
        let Some(Command { code, left }) = self.command else { return };
        match left {
            None => {}
            Some(left) if left > 0 => self.command = Some(Command { code, left: Some(left - 1) }),
            Some(_) => {
                self.command = None;
                self.outcome = match code {
                    SET_TDX_MODE if self.behaviour.tdx => self.set_tdx_mode(),
                    RESET_PERFMON => 0,
                    _ => STATUS_UNKNOWN,
                };
            }
        }
    }

    fn set_tdx_mode(&mut self) -> u8 {
        if let Some(status) = self.behaviour.refuses_with {
            return status & STATUS_BITS;
        }
        let wanted = self.tdx_mode & TDX_MODE_ON != 0;
        let running = TRANSLATION | ROOT_TABLE | QUEUE;
        let ready = self.status & running == running
            && self.root_table & TTM == TTM_SCALABLE
            && self.protected_memory == 0
            && self.trusted_queue & IQA_WIDE != 0;
        if wanted && !ready {
            return STATUS_ABORTED;
        }
        if wanted != self.in_tdx_mode {
            self.trusted_tail = 0;
        }
        self.in_tdx_mode = wanted;
        0
    }
}

/// The 64 bits in which [`PMEN`] is the upper half.
const PMEN_QWORD: u16 = PMEN & !7;

/// A register of 64 bits after the write of the half at `offset`.
const fn with_half(old: u64, offset: u16, half: u32) -> u64 {
    if offset & 4 == 0 { old & !0xFFFF_FFFF | half as u64 } else { old & 0xFFFF_FFFF | (half as u64) << 32 }
}

/// A VT-d unit.
#[derive(Debug)]
pub(crate) struct VtdUnit(Mutex<State>);

impl VtdUnit {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self(Mutex::new(State::after_bring_up(behaviour)))
    }

    /// Power is cycled and an operating system has brought the unit up.
    pub(crate) fn reset(&self, behaviour: Behaviour) {
        *self.0.lock() = State::after_bring_up(behaviour);
    }

    /// A fault begins while the machine runs: it shows in what the unit does next.
    pub(crate) fn bend(&self, bend: impl FnOnce(&mut Behaviour)) {
        bend(&mut self.0.lock().behaviour);
    }

    /// Reads at an offset from the base that is a multiple of the width.
    pub(crate) fn read(&self, offset: u16, width: MmioWidth, origin: Origin) -> u64 {
        let mut state = self.0.lock();
        // A look at the upper half alone is none.
        if offset == ECRSP {
            state.poll();
        }
        let whole = state.read(offset & !7, origin);
        match width {
            MmioWidth::Qword => whole,
            MmioWidth::Dword if offset & 4 == 0 => whole & 0xFFFF_FFFF,
            MmioWidth::Dword => whole >> 32,
        }
    }

    /// Writes at an offset from the base that is a multiple of the width.
    pub(crate) fn write(&self, offset: u16, width: MmioWidth, value: u64, origin: Origin) {
        let mut state = self.0.lock();
        state.write(offset, (value & 0xFFFF_FFFF) as u32, origin);
        if width == MmioWidth::Qword {
            state.write(offset | 4, (value >> 32) as u32, origin);
        }
    }
}
