//! The SPDM session of the module with a device.

use pcie::{FuncId, FunctionId};
use tdx_abi::PAGE_SIZE;
use tdx_abi::connect::ids::{MngOperation, SpdmId};
use tdx_abi::connect::pages::HpaArray;
use tdx_abi::connect::spdm::SpdmConfigInfo;
use tdx_abi::status::StatusCode;

use super::caller::{Caller, Slot, TsmPlatform, answered};
use super::port;
use super::wire::Wire;
use crate::cpu::CpuSlot;
use crate::page_list::{DonatedList, PageList};
use crate::seamcall::{SeamPort, VisitError};
use crate::sync::RawLock;
use crate::traits::{CpuPin, LeakCounter, MemoryFault, Pages};
use crate::tsm::TsmError;

/// A session that is established, and what the device told in it.
#[derive(Debug)]
#[must_use = "a session that is not closed keeps its pages"]
pub struct Session<L: LeakCounter> {
    id: SpdmId,
    pages: DonatedList<L>,
    /// Device information; empty until the session is established.
    information: PageList<L>,
    bytes: usize,
    established: bool,
}

/// How a session is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The device is asked to end it too.
    Orderly,
    /// The device is not there: nobody is asked.
    Gone,
}

impl<L: LeakCounter> Session<L> {
    /// As the module names it.
    pub const fn id(&self) -> SpdmId {
        self.id
    }

    /// Bytes of device information.
    pub const fn information_bytes(&self) -> usize {
        self.bytes
    }

    /// 4 KiB pages that the session takes.
    pub fn page_count(&self) -> usize {
        self.pages.count() + self.information.count()
    }

    /// Reads device information from `offset` bytes on.
    pub fn read_information<P: Pages<Leaks = L> + ?Sized>(
        &self,
        platform: &P,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<usize, MemoryFault> {
        let left = self.bytes.saturating_sub(offset).min(bytes.len());
        let place = bytes.get_mut(..left).unwrap_or_default();
        self.information.read(platform, offset as u64, place)?;
        Ok(left)
    }

    /// Gives the module the pages of a session, and lets it talk to the device until one is established.
    pub(crate) fn open<C, K, P, E>(
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
        root_port: FunctionId,
    ) -> Result<Self, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let mut session = Self::create(caller, wire)?;
        match session.establish(caller, wire) {
            Ok(()) => Ok(session),
            Err(error) => {
                session.close(caller, wire, root_port, Ending::Orderly);
                Err(error)
            }
        }
    }

    fn create<C, K, P, E>(caller: &Caller<'_, C, K, P, E>, wire: &Wire<L>) -> Result<Self, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let device = caller.device;
        let too_large = |_| TsmError::SegmentTooLarge { device, segment: device.segment };
        let function = FuncId::new(device).map_err(too_large)?;
        let count = usize::from(caller.sizes.spdm_mt);
        let root = wire.objects(caller)?;
        let (pages, array) = caller.give(root, count)?;
        match caller.call(|port, pin| port.spdm_create(pin, function, array).map(|id| [id.0, 0])) {
            Ok([id, _]) => {
                Ok(Self { id: SpdmId(id), pages, information: PageList::new(), bytes: 0, established: false })
            }
            Err(failure) => {
                caller.take_untouched(pages);
                Err(caller.failed(failure))
            }
        }
    }

    fn establish<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let id = self.id;
        let config = wire.write_config(caller, SpdmConfigInfo::LINUX)?;
        let messages = wire.message_pages(caller)?;
        let result = self.collect(caller, wire, |caller, wire, information| {
            wire.run(caller, id, Slot::Extension, &|port, pin| {
                port.spdm_connect(pin, id, config, messages, information)
            })
        });
        // A length that cannot be is told of a session that is established.
        self.established = matches!(result, Ok(()) | Err(TsmError::BadInformation { .. }));
        result
    }

    /// Device information anew: what it was stays until the new one is whole.
    pub(crate) fn recollect<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let (id, operation) = (self.id, MngOperation::DEV_INFO_RECOLLECTION);
        let messages = wire.message_pages(caller)?;
        self.collect(caller, wire, |caller, wire, information| {
            wire.run(caller, id, Slot::Extension, &|port, pin| {
                port.spdm_mng(pin, id, operation, messages, Some(information))
            })
        })
    }

    /// Runs `call` with pages for device information, and keeps them if it succeeds.
    fn collect<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
        call: impl FnOnce(&Caller<'_, C, K, P, E>, &mut Wire<L>, HpaArray) -> Result<u64, TsmError>,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let count = usize::from(caller.sizes.max_dev_info);
        let fresh = PageList::alloc(caller.platform, count, caller.node());
        let fresh: PageList<L> = fresh.map_err(|error| caller.host_failed(error, count))?;
        let room = count as u64 * PAGE_SIZE;
        let result =
            wire.information(caller, &fresh).and_then(|array| call(caller, wire, array)).and_then(|bytes| {
                let told = usize::try_from(bytes).ok().filter(|_| bytes <= room);
                told.ok_or(TsmError::BadInformation { device: caller.device, bytes })
            });
        match result {
            Ok(bytes) => {
                self.bytes = bytes;
                core::mem::replace(&mut self.information, fresh).free(caller.platform);
                Ok(())
            }
            Err(error) => {
                fresh.free(caller.platform);
                Err(error)
            }
        }
    }

    /// Ends the session on both sides and takes its pages back. Never fails towards the caller: what goes
    /// wrong is told in the log, and pages that do not come back are counted as lost.
    pub(crate) fn close<C, K, P, E>(
        mut self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
        root_port: FunctionId,
        ending: Ending,
    ) where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        if self.established
            && ending == Ending::Orderly
            && let Err(error) = self.disconnect(caller, wire)
        {
            caller.warn("the device was not told that its session ends", &error);
        }
        core::mem::take(&mut self.information).free(caller.platform);
        self.delete(caller, wire, root_port);
    }

    fn disconnect<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        wire: &mut Wire<L>,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let (id, messages) = (self.id, wire.message_pages(caller)?);
        let call = |port: &SeamPort<'_, P>, pin: &CpuPin<'_>| port.spdm_disconnect(pin, id, messages);
        wire.run(caller, id, Slot::Extension, &call).map(drop)
    }

    fn delete<C, K, P, E>(self, caller: &Caller<'_, C, K, P, E>, wire: &mut Wire<L>, root_port: FunctionId)
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let (id, lost) = (self.id, self.pages.count());
        let taken = wire.objects(caller).and_then(|root| {
            let release = root.release(caller.platform, &self.pages);
            let release = release.map_err(|error| caller.host_failed(error, lost))?;
            Ok((root, release))
        });
        let (root, release) = match taken {
            Ok(taken) => taken,
            Err(error) => return caller.warn("a session cannot be deleted, its pages are lost", &error),
        };
        let delete = || caller.call(|port, pin| port.spdm_delete(pin, id, release).map(|rcx| [rcx, 0]));
        let mut deleted = delete();
        // A session that did not end goes only with the device: its port is reset.
        let was_reset = refused_by_state(&deleted);
        if was_reset {
            port::reset_below(caller.platform, root_port, caller.device);
            deleted = delete();
        }
        caller.take_deleted("session", self.pages, root, deleted);
        if was_reset {
            wire.mailbox_mut().revive();
        }
    }
}

fn refused_by_state(result: &Result<[u64; 2], VisitError>) -> bool {
    result.as_ref().is_err_and(|failure| answered(failure, StatusCode::SPDM_INVALID_STATE))
}
