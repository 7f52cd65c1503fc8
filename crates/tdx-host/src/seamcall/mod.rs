//! Calls to the TDX module and P-SEAMLDR: one typed wrapper per leaf over one policy of retry and
//! resumption, which is nowhere else.

mod ext;
mod gate;
mod ide;
mod iommu;
mod seamldr;
mod spdm;
mod sys;
mod visit;
mod words;

use crate::sync::hint;
use core::fmt;

use tdx_abi::Registers;
use tdx_abi::leaf::LeafWord;
use tdx_abi::status::{SeamldrStatus, Status, StatusCode};

use crate::cpu::CpuSlot;
use crate::errno::Errno;
use crate::traits::{CpuPin, Seam, SeamcallFault};

pub use gate::Gate;
pub use ide::{CreatedStream, StreamRequest};
pub use spdm::{Marshalled, MessagePages};
pub use sys::{ConfigRequest, HandoffVersion, KeyConfigured, NextAddress};
pub(crate) use visit::{Visit, VisitError};

/// Tries of a call that finds no entropy, the first included.
pub const ENTROPY_TRIES: u32 = 10;
/// Tries of a call that finds a lock taken, the first included. No lock of the module is held longer
/// than one call.
pub const BUSY_TRIES: u32 = 10_000;
/// Times that an interrupted call is resumed.
pub const RESUME_TRIES: u32 = 1_000_000;

/// What an interrupted call is resumed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// The operands of its start; the module knows the rest.
    Same,
    /// The operands of its start, but RCX as returned.
    CarryRcx,
    /// The registers as returned.
    CarryAll,
}

/// What stood in the way of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeamcallCause {
    /// The module ended with a status that is no success.
    Status(Status),
    /// P-SEAMLDR ended with a status that is no success.
    Loader(SeamldrStatus),
    /// SEAMCALL did not get there.
    Fault(SeamcallFault),
    /// No call was made: the host is going down.
    GoingDown,
    /// No call was made: an update shut the module down, and none has taken its place yet.
    Down,
    /// No call was made: an update failed and left no module.
    Gone,
}

/// A call that failed.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct SeamcallError {
    /// Which call.
    pub leaf: LeafWord,
    /// What stood in the way.
    pub cause: SeamcallCause,
    /// RCX after the call: error details of some leaves.
    pub rcx: u64,
    /// RDX after the call.
    pub rdx: u64,
}

impl SeamcallError {
    /// The module's status, if it answered.
    pub const fn status(&self) -> Option<Status> {
        match self.cause {
            SeamcallCause::Status(status) => Some(status),
            _ => None,
        }
    }

    /// True if the module answered with `code`, whatever the detail.
    pub fn is(&self, code: StatusCode) -> bool {
        self.status().is_some_and(|status| status.is(code))
    }

    /// Error number as Linux maps it.
    pub const fn errno(&self) -> Errno {
        match self.cause {
            SeamcallCause::Status(_) | SeamcallCause::Loader(_) => Errno::EIO,
            SeamcallCause::Fault(SeamcallFault::VmFailInvalid) | SeamcallCause::Gone => Errno::ENODEV,
            SeamcallCause::Fault(SeamcallFault::GeneralProtection) => Errno::EOPNOTSUPP,
            SeamcallCause::Fault(SeamcallFault::InvalidOpcode) => Errno::EACCES,
            SeamcallCause::GoingDown => Errno::ESHUTDOWN,
            SeamcallCause::Down => Errno::EBUSY,
        }
    }
}

impl fmt::Display for SeamcallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            SeamcallCause::Status(status) => {
                write!(f, "{:?} returned {status}", self.leaf)?;
                if self.rcx != 0 || self.rdx != 0 {
                    write!(f, ", RCX {:#x}, RDX {:#x}", self.rcx, self.rdx)?;
                }
                Ok(())
            }
            SeamcallCause::Loader(status) => {
                write!(f, "{:?} returned {status}", self.leaf)?;
                if self.rdx == 0 { Ok(()) } else { write!(f, ", RDX {:#x}", self.rdx) }
            }
            SeamcallCause::Fault(fault) => write!(f, "{:?}: {fault}", self.leaf),
            SeamcallCause::GoingDown => write!(f, "{:?} was not called, the host is going down", self.leaf),
            SeamcallCause::Down => write!(f, "{:?} was not called, the module is shut down", self.leaf),
            SeamcallCause::Gone => write!(f, "{:?} was not called, the module is gone", self.leaf),
        }
    }
}

impl fmt::Debug for SeamcallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The way to the module: the instruction, the gate and the flags of each CPU.
#[derive(Debug)]
pub struct SeamPort<'a, S: Seam + ?Sized> {
    seam: &'a S,
    gate: &'a Gate,
    cpus: &'a [CpuSlot],
    /// Belongs to an update, which calls the module while nobody else may.
    for_update: bool,
}

impl<S: Seam + ?Sized> Clone for SeamPort<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Seam + ?Sized> Copy for SeamPort<'_, S> {}

impl<'a, S: Seam + ?Sized> SeamPort<'a, S> {
    /// A port; `cpus` holds one slot per possible CPU.
    pub const fn new(seam: &'a S, gate: &'a Gate, cpus: &'a [CpuSlot]) -> Self {
        Self { seam, gate, cpus, for_update: false }
    }

    /// A port that stays open while the module is down.
    pub(crate) const fn for_update(self) -> Self {
        Self { for_update: true, ..self }
    }

    /// True once the host goes down: every call would fail.
    pub fn is_closed(&self) -> bool {
        self.gate.is_closed()
    }

    /// One SEAMCALL: no retry, no judgement of the status.
    #[inline]
    fn once(
        &self,
        pin: &CpuPin<'_>,
        leaf: LeafWord,
        registers: &mut Registers,
    ) -> Result<u64, SeamcallCause> {
        if let Some(cause) = self.gate.refusal(self.for_update || leaf.is_seamldr()) {
            return Err(cause);
        }
        // Before the call: the module may leave private lines in this CPU's caches even if it fails.
        if let Some(slot) = self.cpus.get(pin.cpu().0 as usize) {
            slot.mark_cache_incoherent();
        }
        registers.rax = leaf.raw();
        self.seam.seamcall(pin, registers).map_err(SeamcallCause::Fault)?;
        Ok(registers.rax)
    }

    /// A call to the module under the policy. `Ok` holds a status without the error bit.
    ///
    /// `input` makes the registers of the start, anew for each try: the common case copies nothing.
    #[inline]
    fn call(
        &self,
        pin: &CpuPin<'_>,
        leaf: LeafWord,
        registers: &mut Registers,
        input: impl Fn() -> Registers,
    ) -> Result<Status, SeamcallError> {
        self.call_resumed(pin, leaf, Resume::CarryAll, registers, input)
    }

    /// [`Self::call`] of a leaf that is resumed in its own way.
    #[inline]
    fn call_resumed(
        &self,
        pin: &CpuPin<'_>,
        leaf: LeafWord,
        resume: Resume,
        registers: &mut Registers,
        input: impl Fn() -> Registers,
    ) -> Result<Status, SeamcallError> {
        *registers = input();
        let first = self.once(pin, leaf, registers).map(Status::from_raw);
        match first {
            Ok(status) if !status.is_error() => Ok(status),
            first => self.call_again(pin, leaf, resume, &input, registers, first),
        }
    }

    /// Everything behind a first try that did not succeed.
    #[cold]
    fn call_again(
        &self,
        pin: &CpuPin<'_>,
        leaf: LeafWord,
        resume: Resume,
        input: &dyn Fn() -> Registers,
        registers: &mut Registers,
        first: Result<Status, SeamcallCause>,
    ) -> Result<Status, SeamcallError> {
        let mut resumed = 0;
        let ended = self.try_again(pin, leaf, (resume, input), registers, first, &mut resumed);
        // A call that is given up, or cut off by a fault, stays interrupted inside the module.
        let finished = match &ended {
            Ok(_) => true,
            Err(error) => error.status().is_some_and(|status| !leaves_interrupted(status.code())),
        };
        if resumed > 0 && finished {
            self.gate.call_finished();
        }
        ended
    }

    fn try_again(
        &self,
        pin: &CpuPin<'_>,
        leaf: LeafWord,
        (resume, input): (Resume, &dyn Fn() -> Registers),
        registers: &mut Registers,
        mut last: Result<Status, SeamcallCause>,
        resumed: &mut u32,
    ) -> Result<Status, SeamcallError> {
        let (mut entropy, mut busy) = (1, 1);
        // Where a list goes on, once the module said so.
        let mut carried_rcx = None;
        loop {
            let fail = |cause, registers: &Registers| {
                Err(SeamcallError { leaf, cause, rcx: registers.rcx, rdx: registers.rdx })
            };
            let status = match last {
                Err(cause) => return Err(SeamcallError { leaf, cause, rcx: 0, rdx: 0 }),
                Ok(status) if !status.is_error() => return Ok(status),
                Ok(status) => status,
            };
            let tries = match status.code() {
                StatusCode::RND_NO_ENTROPY
                | StatusCode::KEY_GENERATION_FAILED
                | StatusCode::IDE_STREAM_IDEKM_NO_ENTROPY => (&mut entropy, ENTROPY_TRIES),
                StatusCode::SYS_BUSY | StatusCode::OPERAND_BUSY => (&mut busy, BUSY_TRIES),
                StatusCode::INTERRUPTED_RESUMABLE => {
                    if *resumed == 0 {
                        self.gate.call_interrupted();
                    }
                    (&mut *resumed, RESUME_TRIES)
                }
                _ => return fail(SeamcallCause::Status(status), registers),
            };
            let (count, limit) = tries;
            if *count >= limit {
                return fail(SeamcallCause::Status(status), registers);
            }
            *count += 1;
            // A repeated call goes on with the registers of its start: some leaves clear registers before they
            // check anything. So does a resumed one, but for what its leaf hands on.
            let interrupted = status.code() == StatusCode::INTERRUPTED_RESUMABLE;
            if interrupted && resume == Resume::CarryRcx {
                carried_rcx = Some(registers.rcx);
            }
            if !(interrupted && resume == Resume::CarryAll) {
                *registers = input();
                registers.rcx = carried_rcx.unwrap_or(registers.rcx);
            }
            hint::spin_loop();
            last = self.once(pin, leaf, registers).map(Status::from_raw);
        }
    }

    /// A call of a leaf for which only plain success will do; the registers behind it.
    #[inline]
    fn call_plain(
        &self,
        pin: &CpuPin<'_>,
        leaf: LeafWord,
        input: impl Fn() -> Registers,
    ) -> Result<Registers, SeamcallError> {
        self.call_plain_resumed(pin, leaf, Resume::CarryAll, input)
    }

    /// [`Self::call_plain`] of a leaf that is resumed in its own way.
    #[inline]
    fn call_plain_resumed(
        &self,
        pin: &CpuPin<'_>,
        leaf: LeafWord,
        resume: Resume,
        input: impl Fn() -> Registers,
    ) -> Result<Registers, SeamcallError> {
        let mut registers = Registers::default();
        let status = self.call_resumed(pin, leaf, resume, &mut registers, input)?;
        if status == StatusCode::SUCCESS.plain() {
            return Ok(registers);
        }
        Err(unexpected(leaf, status, &registers))
    }
}

/// True for the ends of a resumed call behind which it waits to be resumed still.
fn leaves_interrupted(code: StatusCode) -> bool {
    matches!(code, StatusCode::INTERRUPTED_RESUMABLE | StatusCode::SYS_BUSY | StatusCode::OPERAND_BUSY)
}

/// A status without the error bit that the leaf does not have.
fn unexpected(leaf: LeafWord, status: Status, registers: &Registers) -> SeamcallError {
    SeamcallError { leaf, cause: SeamcallCause::Status(status), rcx: registers.rcx, rdx: registers.rdx }
}
