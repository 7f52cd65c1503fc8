//! Where an update stopped, and which name the failure of a call has there.

use core::fmt;

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::FieldId;
use tdx_abi::status::{SeamldrStatus, StatusCode};

use super::UpdatePhase;
use crate::error::{HostError, SensitiveWork};
use crate::seamcall::{SeamcallCause, SeamcallError};
use crate::sync::SeqCell;
use crate::traits::CpuNumber;

/// The end of an update that reached its lockstep and failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateFailure {
    /// The phase in which all CPUs stopped.
    pub phase: UpdatePhase,
    /// The CPU that failed.
    pub cpu: CpuNumber,
    /// How; the status is kept in it.
    pub error: HostError,
}

impl fmt::Display for UpdateFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "phase {} failed on {}: {}", self.phase.name(), self.cpu, self.error)
    }
}

/// True if P-SEAMLDR left the old module where it was, so that another image may do.
///
/// A call that did not reach it changed nothing. An x2APIC id that it does not count is no matter of the
/// image: the session it broke never ends.
pub(super) fn is_recoverable(error: &SeamcallError) -> bool {
    match error.cause {
        SeamcallCause::Loader(status) => status != SeamldrStatus::EUNSPECERR && error.rdx == 0,
        SeamcallCause::Fault(_) => true,
        SeamcallCause::Status(_) | SeamcallCause::GoingDown | SeamcallCause::Down | SeamcallCause::Gone => {
            false
        }
    }
}

/// The name of a call's failure in a phase.
pub(super) fn judge(phase: UpdatePhase, cpu: CpuNumber, error: SeamcallError) -> HostError {
    if error.cause == SeamcallCause::GoingDown {
        return HostError::GoingDown;
    }
    match phase {
        UpdatePhase::Shutdown => match error.status() {
            Some(status) if status.is(StatusCode::UPDATE_COMPATIBILITY_SENSITIVE) => {
                // Reason in bits 15:0 of the detail, how many of them above.
                let [low, high, count_low, count_high] = status.detail().to_le_bytes();
                let work = SensitiveWork::from_reason(u16::from_le_bytes([low, high]));
                let count = u16::from_le_bytes([count_low, count_high]);
                HostError::TdBuildInProgress { work, count, error }
            }
            _ => HostError::UpdateShutdownRefused { cpu, error },
        },
        UpdatePhase::Install if is_recoverable(&error) => HostError::InstallFailedRecoverable { cpu, error },
        UpdatePhase::Install => HostError::InstallFailed { cpu, error },
        UpdatePhase::Init => HostError::UpdateInitFailed { cpu, error },
        UpdatePhase::Update => HostError::HandoffRefused { cpu, error },
    }
}

/// A failure as words that readers take without a lock and never see torn.
#[derive(Debug, Default)]
pub(crate) struct FailureCell(SeqCell<9>);

const NONE: u64 = 0;
/// A call failed, in the way that its phase names.
const CALL: u64 = 1;
/// A metadata field could not be read.
const FIELD: u64 = 2;
/// CPUs were offline; their number is where the status is otherwise.
const OFFLINE: u64 = 3;
/// Calls were interrupted; their number is where the status is otherwise.
const INTERRUPTED: u64 = 4;

impl FailureCell {
    pub(crate) const fn new() -> Self {
        Self(SeqCell::new())
    }

    pub(crate) fn clear(&self) {
        self.0.publish(&[NONE; 9]);
    }

    pub(crate) fn set(&self, failure: &UpdateFailure) {
        let UpdateFailure { phase, cpu, error } = *failure;
        let no_call = SeamcallError { leaf: leaf_of(phase), cause: SeamcallCause::GoingDown, rcx: 0, rdx: 0 };
        let (kind, more, call) = match error {
            HostError::UpdateShutdownRefused { error, .. }
            | HostError::TdBuildInProgress { error, .. }
            | HostError::InstallFailedRecoverable { error, .. }
            | HostError::InstallFailed { error, .. }
            | HostError::UpdateInitFailed { error, .. }
            | HostError::HandoffRefused { error, .. } => (CALL, 0, error),
            HostError::MetadataReadFailed { field, error } => (FIELD, field.0, error),
            HostError::UpdateCpuOffline { offline, .. } => (OFFLINE, u64::from(offline), no_call),
            HostError::ResumableCallSuspended { count } => (INTERRUPTED, u64::from(count), no_call),
            // The lockstep knows no other failure than the host's own end.
            _ => (CALL, 0, no_call),
        };
        let [cause, value, leaf, rcx, rdx] = call.to_words();
        let place = u64::from(phase as u8) | u64::from(cpu.0) << 32;
        let offline = match error {
            HostError::UpdateCpuOffline { cpu, .. } => u64::from(cpu.0),
            _ => 0,
        };
        self.0.publish(&[kind, place, more, offline, cause, value, leaf, rcx, rdx]);
    }

    pub(crate) fn get(&self) -> Option<UpdateFailure> {
        let [kind, place, more, offline, cause, value, leaf, rcx, rdx] = self.0.read()?;
        let phase = UpdatePhase::ALL.into_iter().find(|phase| u64::from(*phase as u8) == place & 0xFF)?;
        let cpu = CpuNumber(half(place >> 32));
        let call = SeamcallError::from_words([cause, value, leaf, rcx, rdx]);
        let error = match kind {
            CALL => judge(phase, cpu, call),
            FIELD => HostError::MetadataReadFailed { field: FieldId(more), error: call },
            OFFLINE => HostError::UpdateCpuOffline { cpu: CpuNumber(half(offline)), offline: half(more) },
            INTERRUPTED => HostError::ResumableCallSuspended { count: half(more) },
            _ => return None,
        };
        Some(UpdateFailure { phase, cpu, error })
    }
}

fn half(word: u64) -> u32 {
    u32::try_from(word).unwrap_or(u32::MAX)
}

fn leaf_of(phase: UpdatePhase) -> LeafWord {
    match phase {
        UpdatePhase::Shutdown => LeafWord::module(SeamcallLeaf::SYS_SHUTDOWN, 0),
        UpdatePhase::Install => LeafWord::seamldr(SeamldrLeaf::INSTALL),
        UpdatePhase::Init => LeafWord::module(SeamcallLeaf::SYS_INIT, 0),
        UpdatePhase::Update => LeafWord::module(SeamcallLeaf::SYS_UPDATE, 0),
    }
}
