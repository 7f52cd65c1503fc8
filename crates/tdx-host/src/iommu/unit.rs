//! One IOMMU: into trusted mode and out of it, with the pages that the module keeps its queues in.

use core::time::Duration;

use tdx_abi::connect::ids::TdxIommuId;
use tdx_abi::status::{OperandId, StatusCode};
use tdx_abi::{PAGE_SIZE, PhysAddr, PhysRange};

use crate::connect::ConnectError;
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{HostState, write_caches_back};
use crate::page_list::{DonatedList, PageList, RootPage};
use crate::seamcall::{SeamcallCause, SeamcallError, Visit, VisitError};
use crate::traits::{
    AllocRequest, ConnectPlatform, DmarUnit, LeakCounter, LogLevel, NodeId, OwnedPages, Pages,
};

/// Pages of the trusted invalidation queue, and as many of its contexts: 256 entries.
const QUEUE_PAGES: u64 = 2;
/// Runs that the single pages of a unit can lie in.
const UNIT_RUNS: usize = 16;

/// Calls of a unit that does not answer in time, the first included, and the time between them.
pub(super) const ECMD_TRIES: u32 = 100;
const ECMD_PATIENCE: Duration = Duration::from_millis(1);

/// An active unit.
#[derive(Debug)]
pub(super) struct Unit<L: LeakCounter> {
    pub(super) dmar: DmarUnit,
    pub(super) stage: Stage<L>,
}

/// How far a unit is.
#[derive(Debug)]
pub(super) enum Stage<L: LeakCounter> {
    /// Nothing was done.
    Found,
    /// It has no trusted mode.
    Without,
    /// It is in trusted mode.
    Trusted(Trusted<L>),
    /// Nobody can say whether the module uses the pages.
    Stuck(Held<L>),
}

/// A unit in trusted mode.
#[derive(Debug)]
pub(super) struct Trusted<L: LeakCounter> {
    id: TdxIommuId,
    held: Held<L>,
    /// The upper half of the domain ids is the module's.
    ids_reserved: bool,
    /// The unit did not get there: the module may hold the pages, or have let go of them.
    half_done: bool,
}

/// The pages of a unit.
#[derive(Debug)]
pub(super) struct Held<L: LeakCounter> {
    queue: DonatedList<L, 1>,
    contexts: DonatedList<L, 1>,
    singles: DonatedList<L, UNIT_RUNS>,
    /// The host's own. Kept, so that giving back needs no memory.
    root: RootPage<L>,
}

impl<L: LeakCounter> Held<L> {
    pub(super) fn pages(&self) -> usize {
        self.queue.count() + self.contexts.count() + self.singles.count()
    }

    /// Gives everything back that the module never took.
    fn free<P: Pages<Leaks = L> + ?Sized>(self, platform: &P) {
        self.queue.never_taken().free(platform);
        self.contexts.never_taken().free(platform);
        self.singles.never_taken().free(platform);
        self.root.free(platform);
    }

    /// Takes back what the list in the root page names; how many pages are missing. No list at all is good
    /// enough of a unit that was `half_done`: all pages are the host's then.
    fn take_back<P: Pages<Leaks = L> + ?Sized>(self, platform: &P, half_done: bool) -> usize {
        let returned = self.root.listed(platform);
        let all = half_done && returned.is_empty();
        let names = |page| all || returned.names(page);
        let queue = self.queue.take_back(names);
        let contexts = self.contexts.take_back(names);
        let singles = self.singles.take_back(names);
        queue.pages.into_owned(platform).free(platform);
        contexts.pages.into_owned(platform).free(platform);
        singles.pages.into_owned(platform).free(platform);
        self.root.free(platform);
        queue.missing + contexts.missing + singles.missing
    }
}

/// Pages for a unit, still the host's.
struct Offer<P: Pages + ?Sized> {
    queue: OwnedPages<P::Leaks>,
    contexts: OwnedPages<P::Leaks>,
    singles: PageList<P::Leaks, UNIT_RUNS>,
    root: RootPage<P::Leaks>,
}

impl<P: Pages + ?Sized> Offer<P> {
    fn alloc(platform: &P, singles: usize, node: NodeId) -> Result<Self, HostError> {
        let root = RootPage::alloc(platform, node)?;
        let singles = match PageList::alloc(platform, singles, node) {
            Ok(singles) => singles,
            Err(error) => {
                root.free(platform);
                return Err(error);
            }
        };
        // Naturally aligned, as the unit masks addresses.
        let bytes = QUEUE_PAGES * PAGE_SIZE;
        let block = || platform.alloc_contiguous(AllocRequest { bytes, align: bytes, node, avoid: &[] });
        match (block(), block()) {
            (Some(queue), Some(contexts)) => Ok(Self { queue, contexts, singles, root }),
            (queue, contexts) => {
                [queue, contexts].into_iter().flatten().for_each(|block| platform.free(block));
                singles.free(platform);
                root.free(platform);
                Err(HostError::NoMemory { bytes })
            }
        }
    }

    /// Writes the list and hands the pages over.
    fn donate(self, platform: &P) -> Result<(PhysAddr, Held<P::Leaks>), HostError> {
        let blocks: [PhysRange; 2] = [self.queue.range(), self.contexts.range()];
        let list = self.root.iommu_mt(platform, blocks, &self.singles);
        for block in blocks {
            platform.flush(block);
        }
        let held = Held {
            queue: self.queue.donate().into(),
            contexts: self.contexts.donate().into(),
            singles: self.singles.donate(platform),
            root: self.root,
        };
        match list {
            Ok(list) => Ok((list, held)),
            Err(error) => {
                held.free(platform);
                Err(error)
            }
        }
    }
}

/// How an attempt to take a unit ended.
enum Ended {
    Trusted(TdxIommuId),
    /// It has no trusted mode.
    Without,
    /// The module took nothing.
    Refused(SeamcallError),
    /// The unit does not do as told; the module may hold the pages, under this id.
    HalfDone(SeamcallError, TdxIommuId),
    /// Nobody can say.
    Unknown(ConnectError),
}

impl<C: AsRef<[CpuSlot]> + Sync, K: Sync> HostState<C, K> {
    /// Takes a unit into trusted mode, if it has one, and keeps its upper domain ids for the module.
    pub(super) fn take_unit<P>(
        &self,
        platform: &P,
        unit: &mut Unit<P::Leaks>,
        singles: usize,
        node: NodeId,
    ) -> Result<(), ConnectError>
    where
        P: ConnectPlatform + ?Sized,
    {
        if !matches!(unit.stage, Stage::Found) {
            return Ok(());
        }
        let reg_base = unit.dmar.reg_base;
        let (list, held) = Offer::alloc(platform, singles, node)?.donate(platform)?;
        let ended = {
            // Half a setup would be lost in an update. A host that goes down lets nobody in, and no call out.
            let _no_update = self.connect_gate().enter(platform);
            self.set_up(platform, reg_base, list)
        };
        match ended {
            Ended::Trusted(id) => {
                unit.stage = Stage::Trusted(Trusted { id, held, ids_reserved: false, half_done: false });
            }
            Ended::Without => {
                write_caches_back(platform);
                held.free(platform);
                unit.stage = Stage::Without;
                return Ok(());
            }
            Ended::Refused(error) => {
                write_caches_back(platform);
                held.free(platform);
                return Err(ConnectError::UnitFailed { reg_base, error });
            }
            Ended::HalfDone(error, id) => {
                // It is undone with the others.
                unit.stage = Stage::Trusted(Trusted { id, held, ids_reserved: false, half_done: true });
                return Err(ConnectError::UnitFailed { reg_base, error });
            }
            Ended::Unknown(error) => {
                unit.stage = Stage::Stuck(held);
                return Err(error);
            }
        }
        platform
            .reserve_upper_domain_ids(unit.dmar)
            .map_err(|in_use| ConnectError::DomainIdsInUse { reg_base, first: in_use.first })?;
        if let Stage::Trusted(trusted) = &mut unit.stage {
            trusted.ids_reserved = true;
        }
        Ok(())
    }

    /// TDH.IOMMU.SETUP until the unit has answered.
    fn set_up<P>(&self, platform: &P, reg_base: PhysAddr, list: PhysAddr) -> Ended
    where
        P: ConnectPlatform + ?Sized,
    {
        let called =
            self.call_unit(platform, &|port, pin| port.iommu_setup(pin, reg_base, list).map(|id| id.0));
        let error = match called {
            Ok(id) => return Ended::Trusted(TdxIommuId(id)),
            Err(VisitError::Host(error)) => return Ended::Unknown(error.into()),
            Err(VisitError::Call(error)) => error,
        };
        match error.cause {
            SeamcallCause::Status(status) => match status.code() {
                StatusCode::OPERAND_INVALID if status.operand() == Some(OperandId::RCX) => Ended::Without,
                // The id comes with both.
                StatusCode::IOMMU_ECMD_TIMEOUT | StatusCode::IOMMU_ECMD_ERROR => {
                    Ended::HalfDone(error, TdxIommuId(error.rcx))
                }
                // The setup may still be interrupted in the module.
                StatusCode::INTERRUPTED_RESUMABLE | StatusCode::OPERAND_BUSY | StatusCode::SYS_BUSY => {
                    Ended::Unknown(ConnectError::UnitFailed { reg_base, error })
                }
                _ => Ended::Refused(error),
            },
            SeamcallCause::Loader(_)
            | SeamcallCause::Fault(_)
            | SeamcallCause::GoingDown
            | SeamcallCause::Down
            | SeamcallCause::Gone => Ended::Unknown(ConnectError::UnitFailed { reg_base, error }),
        }
    }

    /// A call that is repeated while the unit does not answer.
    fn call_unit<P>(&self, platform: &P, call: &Visit<'_, P>) -> Result<u64, VisitError>
    where
        P: ConnectPlatform + ?Sized,
    {
        let mut tries = 1;
        loop {
            match self.call_somewhere(platform, call) {
                Err(VisitError::Call(error))
                    if error.is(StatusCode::IOMMU_ECMD_TIMEOUT) && tries < ECMD_TRIES =>
                {
                    tries += 1;
                    platform.wait(ECMD_PATIENCE);
                }
                ended => return ended,
            }
        }
    }

    /// Takes a unit out of trusted mode; what is left of it, and how many pages the module kept.
    pub(super) fn give_unit_back<P>(
        &self,
        platform: &P,
        unit: Unit<P::Leaks>,
    ) -> (Option<Unit<P::Leaks>>, usize)
    where
        P: ConnectPlatform + ?Sized,
    {
        let dmar = unit.dmar;
        let trusted = match unit.stage {
            Stage::Found | Stage::Without => return (None, 0),
            Stage::Stuck(held) => return (Some(Unit { dmar, stage: Stage::Stuck(held) }), 0),
            Stage::Trusted(trusted) => trusted,
        };
        let Trusted { id, held, ids_reserved, half_done } = trusted;
        let cleared = {
            let _no_update = self.connect_gate().enter(platform);
            let emptied = held.root.fill(platform, core::iter::empty());
            emptied.map_err(VisitError::Host).and_then(|()| {
                let root = held.root.address();
                self.call_unit(platform, &|port, pin| port.iommu_clear(pin, id, root).map(|()| 0))
            })
        };
        if let Err(error) = cleared {
            let base = dmar.reg_base;
            let line = |why: &dyn core::fmt::Display| {
                platform.log(
                    LogLevel::Error,
                    format_args!("the IOMMU at {base} stays in trusted mode with its pages: {why}"),
                );
            };
            match error {
                VisitError::Call(error) => line(&error),
                VisitError::Host(error) => line(&error),
            }
            // Its domain ids may still be in use by the module.
            return (Some(Unit { dmar, stage: Stage::Stuck(held) }), 0);
        }
        if ids_reserved {
            platform.release_upper_domain_ids(dmar);
        }
        write_caches_back(platform);
        // A list is owed for a unit that was in trusted mode.
        (None, held.take_back(platform, half_done))
    }
}
