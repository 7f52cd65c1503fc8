//! P-SEAMLDR, the resident loader of the module.

use tdx_abi::seamldr::SeamldrInfo;
use tdx_abi::status::SeamldrStatus;
use tdx_abi::{PAGE_SIZE, PhysAddr};
use zerocopy::{FromZeros, IntoBytes};

use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{boot_cpu, on_boot_cpu};
use crate::seamcall::{SeamPort, SeamcallCause, SeamcallError};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{RawLock, with_lock};
use crate::traits::{AllocRequest, CpuPin, Cpus, Pages, Seam};

/// Serialises the callers of P-SEAMLDR: a second CPU would be turned away.
#[derive(Debug, Default)]
pub struct Seamldr<K> {
    lock: K,
    /// CPUs that it counted in the running session of SEAMLDR.INSTALL.
    counted: AtomicU32,
    /// Number of the session that ended last.
    ended: AtomicU32,
}

impl<K> Seamldr<K> {
    /// Callers are serialised by `lock`.
    pub const fn new(lock: K) -> Self {
        Self { lock, counted: AtomicU32::new(0), ended: AtomicU32::new(0) }
    }
}

impl<K: RawLock + Sync> Seamldr<K> {
    /// SEAMLDR_INFO, asked anew at each call.
    pub fn info<P>(&self, platform: &P, port: &SeamPort<'_, P>) -> Result<SeamldrInfo, HostError>
    where
        P: Seam + Pages + Cpus + ?Sized,
    {
        // Before the lock: after a crash its holder may never come back.
        if port.is_closed() {
            return Err(HostError::GoingDown);
        }
        let node = platform.node_of(boot_cpu(platform)?);
        let request = AllocRequest { bytes: PAGE_SIZE, align: PAGE_SIZE, node, avoid: &[] };
        let buffer = platform.alloc_contiguous(request).ok_or(HostError::NoMemory { bytes: PAGE_SIZE })?;
        let start = buffer.start();
        let mut info = SeamldrInfo::new_zeroed();
        let ask = |pin: &CpuPin<'_>| {
            with_lock(&self.lock, || port.seamldr_info(pin, start)).map_err(|error| match error.cause {
                SeamcallCause::GoingDown => HostError::GoingDown,
                _ => HostError::SeamldrInfoFailed { error },
            })
        };
        let asked =
            on_boot_cpu(platform, &ask).and_then(|()| Ok(platform.read(&buffer, 0, info.as_mut_bytes())?));
        platform.free(buffer);
        asked.map(|()| info)
    }

    /// Number of the session of SEAMLDR.INSTALL that runs or comes next, from 1.
    pub(crate) fn session(&self) -> u32 {
        self.ended.load(Ordering::Acquire).wrapping_add(1)
    }

    /// SEAMLDR.INSTALL on the CPU of `pin`, unless P-SEAMLDR has counted it already in session `session`: a
    /// CPU may have broken it off, and it is gone on with. `cpus` are all CPUs of the machine.
    pub(crate) fn install<S: Seam + ?Sized>(
        &self,
        port: &SeamPort<'_, S>,
        pin: &CpuPin<'_>,
        cpus: &[CpuSlot],
        session: u32,
        params: PhysAddr,
    ) -> Result<(), SeamcallError> {
        let call = || {
            let slot = cpus.get(pin.cpu().0 as usize);
            if slot.is_some_and(|slot| slot.install_session() == session) {
                return Ok(());
            }
            let counted = self.counted.load(Ordering::Acquire) + 1;
            let last = counted as usize >= cpus.len();
            let result = match port.seamldr_install(pin, params) {
                // It has counted this CPU, though the host does not know of it. If it is busy with something
                // else, it says so to the last CPU too.
                Err(error) if error.cause == BAD_CALL && !last => Ok(()),
                result => result,
            };
            if let (Ok(()), Some(slot)) = (&result, slot) {
                slot.set_install_session(session);
            }
            match &result {
                // However the last one ended, the session is over.
                Ok(()) | Err(SeamcallError { cause: SeamcallCause::Loader(_), .. }) if last => {
                    self.counted.store(0, Ordering::Release);
                    self.ended.store(session, Ordering::Release);
                }
                Ok(()) => self.counted.store(counted, Ordering::Release),
                Err(_) => {}
            }
            result
        };
        // Before the lock: after a crash its holder may never come back.
        if port.is_closed() { call() } else { with_lock(&self.lock, call) }
    }
}

const BAD_CALL: SeamcallCause = SeamcallCause::Loader(SeamldrStatus::EBADCALL);
