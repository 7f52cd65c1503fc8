//! Memory as devices and the host reach it outside SEAM mode.

use tdx_abi::{KeyId, PhysAddr, PhysRange};

use crate::board::Board;
use crate::event::{DropReason, Event};
use crate::machine::MemFault;
use crate::memory::Store;

/// Memory as requests of devices reach it. `None`: the request is not supported.
pub(crate) trait HostMemory {
    /// Reads.
    fn read(&self, trusted: bool, address: u64, bytes: &mut [u8]) -> Option<()>;
    /// Writes.
    fn write(&self, trusted: bool, address: u64, bytes: &[u8]) -> Option<()>;
}

impl HostMemory for Board {
    fn read(&self, trusted: bool, address: u64, bytes: &mut [u8]) -> Option<()> {
        let (pa, key) = self.untrusted(trusted, address)?;
        self.dma_read(pa, key, bytes).ok()
    }

    fn write(&self, trusted: bool, address: u64, bytes: &[u8]) -> Option<()> {
        let (pa, key) = self.untrusted(trusted, address)?;
        self.dma_write(pa, key, bytes);
        Some(())
    }
}

impl Board {
    /// Address and KeyID of a request without the T bit; one with it needs a trusted translation table, and
    /// nobody can have made one yet.
    fn untrusted(&self, trusted: bool, address: u64) -> Option<(PhysAddr, KeyId)> {
        if trusted {
            return None;
        }
        self.address_layout().split(address)
    }

    /// Refuses what software outside SEAM mode, or a device, cannot reach.
    pub(crate) fn host_access(&self, pa: PhysAddr, key: KeyId, len: usize) -> Result<(), MemFault> {
        if !self.is_shared(key) {
            return Err(MemFault::ReservedKeyId { key });
        }
        let range = PhysRange::from_size(pa, len as u64).ok_or(MemFault::NotRam { pa })?;
        if range.overlaps(self.seamrr()) {
            return Err(MemFault::SeamRange { pa });
        }
        if self.layout().is_backed(range) { Ok(()) } else { Err(MemFault::NotRam { pa }) }
    }

    /// A device without trust reads memory: all ones with a private KeyID, or where none answers.
    pub(crate) fn dma_read(&self, pa: PhysAddr, key: KeyId, bytes: &mut [u8]) -> Result<(), MemFault> {
        if self.host_access(pa, key, bytes.len()).is_err() {
            bytes.fill(0xFF);
            return Ok(());
        }
        self.memory().read(pa, key, bytes).map_err(|pa| MemFault::MachineCheck { pa })
    }

    /// A device without trust writes memory: dropped with a private KeyID, or where none answers.
    pub(crate) fn dma_write(&self, pa: PhysAddr, key: KeyId, bytes: &[u8]) {
        match self.host_access(pa, key, bytes.len()) {
            Ok(()) => self.memory().write(pa, key, bytes, Store::Direct),
            Err(fault) => {
                let reason = match fault {
                    MemFault::ReservedKeyId { .. } => DropReason::UntrustedDma,
                    _ => DropReason::NotRam,
                };
                self.events().push(Event::DroppedWrite { pa, reason });
            }
        }
    }
}
