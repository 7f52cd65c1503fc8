//! What happened on the machine that no register shows.

use std::collections::VecDeque;
use std::fmt;

use parking_lot::Mutex;
use pcie::FunctionId;
use spdm::ide_km::StreamId;
use tdx_abi::{KeyId, PhysAddr};
use tdx_module::hardware::LpIndex;
use tdx_module::profile::Svn;

use crate::fault::CallLeaf;
use crate::memory::PoisonRecord;

/// One thing that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A line became poisoned. Nobody has noticed yet.
    Poisoned(PoisonRecord),
    /// The host read poisoned memory.
    HostMachineCheck {
        /// The line.
        line: PhysAddr,
    },
    /// SEAM software read poisoned memory: its LP shuts down and TDX is off until power is cycled.
    SeamMachineCheck {
        /// The line.
        line: PhysAddr,
    },
    /// A cache wrote back a line after somebody else had written the memory below it.
    LateWriteBack {
        /// The line.
        line: PhysAddr,
        /// KeyID of the line in the cache.
        key: KeyId,
    },
    /// A write went nowhere.
    DroppedWrite {
        /// First byte.
        pa: PhysAddr,
        /// Why.
        reason: DropReason,
    },
    /// Somebody outside SEAM mode wrote a register that SEAM mode keeps for itself: the write went nowhere.
    ProtectedWrite {
        /// The register.
        pa: PhysAddr,
    },
    /// The same for a register of configuration space.
    ProtectedConfigWrite {
        /// The function.
        function: FunctionId,
        /// Offset of the register.
        offset: u16,
    },
    /// An LP left SEAM mode for good.
    LpShutdown {
        /// The LP.
        lp: LpIndex,
    },
    /// CR4.VMXE kept its value: the write would have faulted.
    Cr4WriteFaulted {
        /// The LP.
        lp: LpIndex,
    },
    /// The machine let a SEAMCALL fail as the fault `seamcall-fails` asks.
    SeamcallFailed {
        /// The LP.
        lp: LpIndex,
        /// RAX of the call.
        rax: u64,
    },
    /// Intel signed the module that was installed, and no profile describes its release.
    NearestRelease {
        /// SVN of the image.
        svn: Svn,
        /// The profile that it is played as.
        profile: &'static str,
    },
    /// The link below a root port went down.
    LinkDown {
        /// The port.
        port: FunctionId,
        /// Why.
        why: LinkLoss,
    },
    /// The link below a root port came up.
    LinkUp {
        /// The port.
        port: FunctionId,
    },
    /// An IDE stream turned insecure: an integrity check failed.
    StreamFailed {
        /// The root port at one end of it.
        port: FunctionId,
        /// The stream.
        stream: StreamId,
        /// The end that has noticed.
        noticed_by: StreamEnd,
    },
    /// Power was cut.
    PowerCut,
    /// Power was cycled.
    PowerCycled,
}

/// Why a write was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A device used a private KeyID without being trusted.
    UntrustedDma,
    /// Nothing answers at that address.
    NotRam,
}

/// Why a link went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLoss {
    /// The device was pulled out.
    Removed,
    /// Software holds the bus below the port in reset.
    SecondaryBusReset,
    /// By itself, for a moment.
    Reset,
}

/// One of the two ends of an IDE stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The root port.
    RootPort,
    /// The device.
    Device,
}

impl Event {
    /// True for what makes the machine differ from hardware, so that who works with it should know.
    pub const fn is_warning(&self) -> bool {
        matches!(self, Self::NearestRelease { .. })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisoned(record) => write!(f, "{record}"),
            Self::HostMachineCheck { line } => write!(f, "machine check in the host at {line}"),
            Self::SeamMachineCheck { line } => {
                write!(f, "machine check in SEAM mode at {line}: TDX is off until power is cycled")
            }
            Self::LateWriteBack { line, key } => {
                write!(f, "a cache wrote line {line} back with KeyID {key} after its memory had a new owner")
            }
            Self::DroppedWrite { pa, reason: DropReason::UntrustedDma } => {
                write!(f, "write of an untrusted device to {pa} with a private KeyID dropped")
            }
            Self::DroppedWrite { pa, reason: DropReason::NotRam } => {
                write!(f, "write to {pa} dropped: no memory there")
            }
            Self::ProtectedWrite { pa } => {
                write!(f, "write to register {pa} dropped: only SEAM mode may write it")
            }
            Self::ProtectedConfigWrite { function, offset } => {
                write!(f, "write to register {offset:#x} of {function} dropped: only SEAM mode may write it")
            }
            Self::LpShutdown { lp } => write!(f, "{lp} shut down in SEAM mode"),
            Self::Cr4WriteFaulted { lp } => write!(f, "write of CR4.VMXE on {lp} faulted"),
            Self::SeamcallFailed { lp, rax } => {
                write!(f, "{} on {lp} failed as the fault seamcall-fails asks", CallLeaf::of(*rax))
            }
            Self::NearestRelease { svn, profile } => write!(
                f,
                "the module that was installed (SVN {}.{}) is of no known release: it is played as {profile}",
                svn.major, svn.minor
            ),
            Self::LinkDown { port, why } => {
                let why = match why {
                    LinkLoss::Removed => "the device was pulled out",
                    LinkLoss::SecondaryBusReset => "secondary bus reset",
                    LinkLoss::Reset => "link reset",
                };
                write!(f, "link below {port} down: {why}")
            }
            Self::LinkUp { port } => write!(f, "link below {port} up"),
            Self::StreamFailed { port, stream, noticed_by } => {
                let end = match noticed_by {
                    StreamEnd::RootPort => "the root port",
                    StreamEnd::Device => "the device",
                };
                write!(f, "{stream} below {port} is insecure: an integrity check failed at {end}")
            }
            Self::PowerCut => f.write_str("power cut"),
            Self::PowerCycled => f.write_str("power cycled"),
        }
    }
}

/// Events kept; older ones fall out.
const CAPACITY: usize = 4096;

/// The newest events.
#[derive(Debug, Default)]
pub(crate) struct EventLog(Mutex<VecDeque<Event>>);

impl EventLog {
    pub(crate) fn push(&self, event: Event) {
        let mut events = self.0.lock();
        if events.len() == CAPACITY {
            events.pop_front();
        }
        events.push_back(event);
    }

    pub(crate) fn snapshot(&self) -> Vec<Event> {
        self.0.lock().iter().copied().collect()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_the_newest_events() {
        let log = EventLog::default();
        for number in 0..=CAPACITY as u64 {
            log.push(Event::HostMachineCheck { line: PhysAddr::new(number * 64) });
        }
        let events = log.snapshot();
        assert_eq!(events.len(), CAPACITY);
        assert_eq!(events[0], Event::HostMachineCheck { line: PhysAddr::new(64) });
    }
}
