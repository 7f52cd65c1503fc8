//! P-SEAMLDR, the resident loader of the module.

use tdx_abi::PAGE_SIZE;
use tdx_abi::seamldr::SeamldrInfo;
use zerocopy::{FromZeros, IntoBytes};

use crate::error::HostError;
use crate::host::{boot_cpu, on_boot_cpu};
use crate::seamcall::{SeamPort, SeamcallCause};
use crate::sync::{RawLock, with_lock};
use crate::traits::{AllocRequest, CpuPin, Cpus, Pages, Seam};

/// Serialises the callers of P-SEAMLDR: a second CPU would be turned away.
#[derive(Debug, Default)]
pub struct Seamldr<K> {
    lock: K,
}

impl<K> Seamldr<K> {
    /// Callers are serialised by `lock`.
    pub const fn new(lock: K) -> Self {
        Self { lock }
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
}
