//! The module's extensions: memory of their own, and their start.
//!
//! A component of its own: any add-on feature may need them. The module says whether it wants memory and
//! whether it wants to be started; neither depends on the other.

use tdx_abi::PAGE_SIZE;
use tdx_abi::hpa_list::HPA_LIST_MAX;
use tdx_abi::metadata::sys;

use crate::connect::{ConnectError, ConnectState, StateCell};
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{HostState, on_boot_cpu, write_caches_back};
use crate::page_list::{DonatedList, PageList, RootPage};
use crate::seamcall::{SeamcallCause, SeamcallError, VisitError};
use crate::sysinfo;
use crate::traits::{AllocRequest, LogLevel, NodeId, Platform};

/// Runs of adjacent pages that the memory of the extensions can consist of.
pub const POOL_RUNS: usize = 1024;

/// Runs of one call: room for them is taken from the stack.
const BATCH_RUNS: usize = 64;

/// Memory of the extensions. It stays the module's until the module is no more.
pub type Pool<L> = DonatedList<L, POOL_RUNS>;

/// Why extensions do not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExtError {
    /// A reason that leaves TDX without them working.
    Off(ConnectError),
    /// The host is going down.
    GoingDown,
}

impl From<ConnectError> for ExtError {
    fn from(error: ConnectError) -> Self {
        Self::Off(error)
    }
}

impl From<HostError> for ExtError {
    fn from(error: HostError) -> Self {
        if error == HostError::GoingDown { Self::GoingDown } else { Self::Off(error.into()) }
    }
}

/// The failure of a call that `name` names.
fn failed(error: VisitError, name: impl Fn(SeamcallError) -> ConnectError) -> ExtError {
    match error {
        VisitError::Host(error) => error.into(),
        VisitError::Call(error) if error.cause == SeamcallCause::GoingDown => ExtError::GoingDown,
        VisitError::Call(error) => ExtError::Off(name(error)),
    }
}

impl<C: AsRef<[CpuSlot]> + Sync, K: Sync> HostState<C, K> {
    /// Reads what the extensions and TDX Connect want into the snapshot.
    pub(crate) fn read_connect_metadata<P: Platform + ?Sized>(&self, platform: &P) -> Result<(), ExtError> {
        let port = self.port(platform);
        let cell = self.sysinfo_cell();
        let refusal = StateCell::new();
        on_boot_cpu(platform, &|pin| {
            let mut info = cell.get().ok_or(HostError::NotInitialised)?;
            let read = sysinfo::read_connect(&port, pin, &mut info);
            cell.set(&info);
            if let Err(error) = read {
                refusal.set(ConnectState::Off(error));
            }
            Ok(())
        })?;
        match refusal.get().reason() {
            Some(ConnectError::MetadataMissing { error, .. }) if error.cause == SeamcallCause::GoingDown => {
                Err(ExtError::GoingDown)
            }
            Some(ConnectError::NotTried) | None => Ok(()),
            Some(reason) => Err(reason.into()),
        }
    }

    /// Gives the extensions the memory that they want and starts them, if they want it.
    ///
    /// Pages that the module took are in `pool`, whatever the end.
    pub(crate) fn start_extensions<P>(
        &self,
        platform: &P,
        pool: &mut Pool<P::Leaks>,
        node: NodeId,
    ) -> Result<(), ExtError>
    where
        P: Platform + ?Sized,
    {
        let info = self.last_sysinfo();
        let required = info.and_then(|info| info.pool_required_pages()).unwrap_or(0);
        if required > 0 {
            let fed = self.feed(platform, pool, node, required);
            let pages = pool.count();
            let [whole, tenths] = megabytes(pages);
            let line = format_args!("TDX module extensions: {whole}.{tenths} MB ({pages} pages) are theirs");
            platform.log(LogLevel::Info, line);
            fed?;
        }
        if info.and_then(|info| info.ext_required()).unwrap_or(false) {
            self.init_extensions(platform)?;
        }
        Ok(())
    }

    /// Starts the extensions of a module that took over in an update. They get no memory.
    pub(crate) fn restart_extensions<P>(&self, platform: &P) -> Result<(), ExtError>
    where
        P: Platform + ?Sized,
    {
        let missing = |field| move |error| ConnectError::MetadataMissing { field, error };
        let read = |field| {
            let read = self.call_somewhere(platform, &|port, pin| port.sys_rd(pin, field));
            read.map_err(|error| failed(error, missing(field)))
        };
        let pages = u32::try_from(read(sys::MEMORY_POOL_REQUIRED_PAGES)?).unwrap_or(u32::MAX);
        if pages > 0 {
            return Err(ConnectError::PoolTooSmall { pages }.into());
        }
        if read(sys::EXT_REQUIRED)? != 0 {
            self.init_extensions(platform)?;
        }
        Ok(())
    }

    fn init_extensions<P: Platform + ?Sized>(&self, platform: &P) -> Result<(), ExtError> {
        let started = self.call_somewhere(platform, &|port, pin| port.ext_init(pin).map(|()| 0));
        started.map(|_| ()).map_err(|error| failed(error, |error| ConnectError::ExtensionFailed { error }))
    }

    /// Adds pages until the module wants no more.
    fn feed<P>(
        &self,
        platform: &P,
        pool: &mut Pool<P::Leaks>,
        node: NodeId,
        mut required: u32,
    ) -> Result<(), ExtError>
    where
        P: Platform + ?Sized,
    {
        let root = RootPage::alloc(platform, node)?;
        // In one run if there is one, so that memory is not fragmented for good.
        let bytes = u64::from(required) * PAGE_SIZE;
        let request = AllocRequest { bytes, align: PAGE_SIZE, node, avoid: &[] };
        let mut whole = platform.alloc_contiguous(request).map(PageList::<P::Leaks, BATCH_RUNS>::from);
        let mut result = Ok(());
        while required > 0 && result.is_ok() {
            let count = usize::try_from(required).unwrap_or(usize::MAX).min(HPA_LIST_MAX);
            let batch = match &mut whole {
                Some(whole) => Ok(whole.split_first(count)),
                None => some_pages(platform, count, node),
            };
            let before = required;
            result = batch.and_then(|batch| self.add(platform, pool, &root, batch, &mut required));
            if result.is_ok() && required >= before {
                result = Err(ConnectError::PoolStuck { pages: required }.into());
            }
        }
        if let Some(rest) = whole {
            rest.free(platform);
        }
        root.free(platform);
        result
    }

    /// TDH.EXT.MEM.ADD for one list; `required` is what the module wants behind it.
    fn add<P>(
        &self,
        platform: &P,
        pool: &mut Pool<P::Leaks>,
        root: &RootPage<P::Leaks>,
        batch: PageList<P::Leaks, BATCH_RUNS>,
        required: &mut u32,
    ) -> Result<(), ExtError>
    where
        P: Platform + ?Sized,
    {
        let list = if pool.has_room_for(&batch) {
            root.hpa_list_info(platform, &batch)
        } else {
            Err(HostError::NoMemory { bytes: u64::from(*required) * PAGE_SIZE })
        };
        let list = match list {
            Ok(list) => list,
            Err(error) => {
                batch.free(platform);
                return Err(error.into());
            }
        };
        let mut given = batch.donate(platform);
        let added = self.call_somewhere(platform, &|port, pin| port.ext_mem_add(pin, list).map(|()| 0));
        let read =
            self.call_somewhere(platform, &|port, pin| port.sys_rd(pin, sys::MEMORY_POOL_REQUIRED_PAGES));
        let refused = |error| failed(error, |error| ConnectError::PoolRefused { error });
        let left = read.map(|left| u32::try_from(left).unwrap_or(u32::MAX));
        let taken = match (&added, &left) {
            // It takes pages in the order of the list.
            (Err(_), Ok(left)) => usize::try_from(required.saturating_sub(*left)).unwrap_or(usize::MAX),
            // All of them as far as anybody knows.
            _ => usize::MAX,
        };
        pool.append(given.split_first(taken));
        if given.count() > 0 {
            write_caches_back(platform);
        }
        given.never_taken().free(platform);
        added.map_err(refused)?;
        *required = left.map_err(refused)?;
        if let Some(mut info) = self.last_sysinfo() {
            info.set_pool_required_pages(*required);
            self.sysinfo_cell().set(&info);
        }
        Ok(())
    }
}

/// Up to `count` pages: fewer if memory is in so many pieces that a list has no room for them.
fn some_pages<P>(
    platform: &P,
    mut count: usize,
    node: NodeId,
) -> Result<PageList<P::Leaks, BATCH_RUNS>, ExtError>
where
    P: Platform + ?Sized,
{
    loop {
        match PageList::alloc(platform, count, node) {
            Ok(pages) => return Ok(pages),
            Err(_) if count > BATCH_RUNS => count /= 2,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Megabytes (2^20 bytes) and tenths, rounded up.
const fn megabytes(pages: usize) -> [usize; 2] {
    let tenths = (pages * 10).div_ceil(256);
    [tenths / 10, tenths % 10]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_is_told_in_megabytes() {
        for (pages, told) in [(1, [0, 1]), (64, [0, 3]), (256, [1, 0]), (12_800, [50, 0])] {
            assert_eq!(megabytes(pages), told, "{pages} pages");
        }
    }
}
