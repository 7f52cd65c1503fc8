//! One call from wherever the host runs.

use super::{SeamPort, SeamcallError};
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{HostState, on_boot_cpu};
use crate::sync::SeqCell;
use crate::traits::{CpuPin, Cpus, Seam};

/// A call from wherever the host runs failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VisitError {
    /// The call.
    Call(SeamcallError),
    /// There was no way to a CPU.
    Host(HostError),
}

/// A call, with the port and the CPU that it is made on.
pub(crate) type Visit<'a, P> =
    dyn Fn(&SeamPort<'_, P>, &CpuPin<'_>) -> Result<u64, SeamcallError> + Sync + 'a;

impl<C: AsRef<[CpuSlot]> + Sync, K: Sync> HostState<C, K> {
    /// Runs `call` on a CPU; what it returned.
    pub(crate) fn call_somewhere<P>(&self, platform: &P, call: &Visit<'_, P>) -> Result<u64, VisitError>
    where
        P: Seam + Cpus + ?Sized,
    {
        let port = self.port(platform);
        let ended = SeqCell::<6>::new();
        let visited = on_boot_cpu(platform, &|pin| {
            let words = match call(&port, pin) {
                Ok(value) => [SUCCEEDED, value, 0, 0, 0, 0],
                Err(error) => {
                    let [cause, value, leaf, rcx, rdx] = error.to_words();
                    [FAILED, cause, value, leaf, rcx, rdx]
                }
            };
            ended.publish(&words);
            Ok(())
        });
        visited.map_err(VisitError::Host)?;
        match ended.read() {
            Some([SUCCEEDED, value, ..]) => Ok(value),
            Some([_, words @ ..]) => Err(VisitError::Call(SeamcallError::from_words(words))),
            None => Err(VisitError::Host(HostError::NoCpuOnline)),
        }
    }
}

const SUCCEEDED: u64 = 0;
const FAILED: u64 = 1;
