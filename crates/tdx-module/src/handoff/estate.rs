//! The state that goes through a hand-off, and its way into and out of the bytes.
//!
//! The bytes may come from another release: nothing in them is believed. What is taken over is a
//! state that SYS.CONFIG and SYS.KEY.CONFIG could have reached on this machine.

use tdx_abi::tdmr::{MAX_TDMRS, ReservedArea, TdmrInfo};
use tdx_abi::{KeyId, PAGE_SIZE, PageLevel, PhysAddr, PhysRange};
use zerocopy::FromZeros;
use zerocopy::little_endian::U32;

use super::connect::ConnectEstate;
use super::layout::{DataV0, KotEntry, PACKAGES, TailV1, TdmrEntry, WbtEntry};
use crate::connect::estate::SessionsError;
use crate::keys::{KeyEntry, KeyState};
use crate::leaves::sys_config::TdmrRules;
use crate::platform::Platform;
use crate::tdmrs::{STEP_BYTES, TdmrConfig};

/// Why hand-off data cannot be taken over. Callers of SYS.UPDATE see one status for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandoffError {
    /// No layout is known for this version.
    #[error("hand-off version {0} is not known")]
    Version(u16),
    /// The size in the header is not that of the version, or the area is smaller.
    #[error("{0} bytes of hand-off data are not the size of the version")]
    Size(u32),
    #[error("KeyID {0} has no known state")]
    KeyState(u16),
    #[error("KeyID {0} is in use and not private")]
    KeyNotPrivate(u16),
    #[error("package {0} has a write-back table that no module leaves behind")]
    WriteBack(usize),
    #[error("{0} TDMRs are none or too many")]
    TdmrCount(u32),
    #[error("TDMR {0} would not pass SYS.CONFIG")]
    Tdmr(usize),
    #[error("TDMR {0} has more metadata than pages, or part of a step")]
    Progress(usize),
    #[error("KeyID {0} is not reserved and thus not the global one")]
    GlobalKey(u16),
    #[error("the global key is programmed on packages {0:#b}, which are not those of the machine")]
    Packages(u32),
    /// Dynamic PAMT is not modelled.
    #[error("the data say that dynamic PAMT is on")]
    DynamicPamt,
    /// Counts and sizes of its parts do not add up to the data.
    #[error("the part of TDX Connect is not as long as it says")]
    Connect,
    #[error("entry {0} is no VT-d unit of this machine with the pages that it owns")]
    Unit(usize),
    #[error("the pages from {0} on cannot be owned, or have another owner")]
    Page(PhysAddr),
    #[error(transparent)]
    Sessions(#[from] SessionsError),
}

/// The machine on which hand-off data are taken over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) platform: &'a Platform,
    /// Packages that MCHECK counted.
    pub(crate) packages: u32,
}

/// What one module instance leaves to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Estate {
    /// From KeyID 0.
    pub(crate) keys: Vec<KeyEntry>,
    /// Per package. Kept as it came: TDH.PHYMEM.CACHE.WB is not modelled.
    pub(crate) write_back: Box<[WbtEntry]>,
    /// TDMRs and the steps of SYS.TDMR.INIT that are done.
    pub(crate) tdmrs: Vec<(TdmrConfig, u64)>,
    pub(crate) global_key: KeyId,
    /// Bit per package whose global key is programmed.
    pub(crate) packages: u8,
    /// Hand-off version 0 does not carry them.
    pub(crate) counters: Counters,
    /// From hand-off version 2 on.
    pub(crate) connect: ConnectEstate,
}

/// What a host that opted into UPDATE_COMPATIBILITY has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// TDs between MNG.INIT and MR.FINALIZE.
    pub(crate) td_builds: u16,
    pub(crate) interrupted_migrations: u16,
}

impl Counters {
    pub(super) fn encode(self) -> TailV1 {
        TailV1 {
            dynamic_pamt: 0,
            td_builds: self.td_builds.into(),
            interrupted_migrations: self.interrupted_migrations.into(),
        }
    }

    pub(super) fn decode(tail: TailV1) -> Result<Self, HandoffError> {
        if tail.dynamic_pamt != 0 {
            return Err(HandoffError::DynamicPamt);
        }
        Ok(Self {
            td_builds: tail.td_builds.get(),
            interrupted_migrations: tail.interrupted_migrations.get(),
        })
    }
}

impl Estate {
    /// Writes what every hand-off version carries.
    pub(super) fn encode(&self, data: &mut DataV0) {
        data.zero();
        for (to, from) in data.kot.iter_mut().zip(&self.keys) {
            *to = KotEntry { packages: from.packages.into(), state: from.state.number(), reserved: [0; 3] };
        }
        for (to, from) in data.wbt.iter_mut().zip(&self.write_back) {
            *to = *from;
        }
        for (to, (config, steps)) in data.tdmrs.iter_mut().zip(&self.tdmrs) {
            *to = TdmrEntry::new(config, *steps);
        }
        data.tdmr_count = u32::try_from(self.tdmrs.len()).unwrap_or(u32::MAX).into();
        data.global_key = self.global_key.number().into();
        data.packages = u32::from(self.packages).into();
    }

    /// Reads what every hand-off version carries.
    pub(super) fn decode(
        data: &DataV0,
        counters: Counters,
        connect: ConnectEstate,
        machine: Machine<'_>,
    ) -> Result<Self, HandoffError> {
        let keys = keys(&data.kot, machine.platform)?;
        let global_key = KeyId::new(data.global_key.get());
        if keys.get(usize::from(global_key.number())).is_none_or(|key| key.state != KeyState::Reserved) {
            return Err(HandoffError::GlobalKey(global_key.number()));
        }
        let raw_packages = data.packages.get();
        let packages = u8::try_from(raw_packages)
            .ok()
            .filter(|bits| (bits.count_ones(), bits.trailing_ones()) == (machine.packages, machine.packages))
            .ok_or(HandoffError::Packages(raw_packages))?;
        Ok(Self {
            keys,
            write_back: write_back(&data.wbt)?,
            tdmrs: tdmrs(data, machine.platform)?,
            global_key,
            packages,
            counters,
            connect,
        })
    }
}

/// A write-back table on which no cycle ever ran.
pub(crate) fn idle_write_back() -> Box<[WbtEntry]> {
    vec![WbtEntry::IDLE; PACKAGES].into_boxed_slice()
}

fn keys(kot: &[KotEntry], platform: &Platform) -> Result<Vec<KeyEntry>, HandoffError> {
    (0u16..)
        .zip(kot)
        .map(|(number, entry)| {
            let state = KeyState::from_number(entry.state).ok_or(HandoffError::KeyState(number))?;
            if state != KeyState::Free && !platform.space.key_ids.is_private(KeyId::new(number)) {
                return Err(HandoffError::KeyNotPrivate(number));
            }
            Ok(KeyEntry { state, packages: entry.packages.get() })
        })
        .collect()
}

fn write_back(wbt: &[WbtEntry]) -> Result<Box<[WbtEntry]>, HandoffError> {
    let sane = |entry: &WbtEntry| entry.lock == 0 && entry.flushed.iter().all(|&flag| flag <= 1);
    match wbt.iter().position(|entry| !sane(entry)) {
        Some(package) => Err(HandoffError::WriteBack(package)),
        None => Ok(wbt.into()),
    }
}

fn tdmrs(data: &DataV0, platform: &Platform) -> Result<Vec<(TdmrConfig, u64)>, HandoffError> {
    let raw_count = data.tdmr_count.get();
    let entries = usize::try_from(raw_count)
        .ok()
        .filter(|count| (1..=MAX_TDMRS).contains(count))
        .and_then(|count| data.tdmrs.get(..count))
        .ok_or(HandoffError::TdmrCount(raw_count))?;
    let rules = TdmrRules { space: &platform.space, memory: &platform.memory, empty_gaps: false };
    let mut configs: Vec<TdmrConfig> = Vec::with_capacity(entries.len());
    let mut steps_done = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let config = rules.check(&entry.info(), &configs).map_err(|_| HandoffError::Tdmr(index))?;
        let initialised = entry.initialised.get();
        if initialised > config.range.size() || !initialised.is_multiple_of(STEP_BYTES) {
            return Err(HandoffError::Progress(index));
        }
        steps_done.push(initialised / STEP_BYTES);
        configs.push(config);
    }
    Ok(configs.into_iter().zip(steps_done).collect())
}

/// Levels in the order of the table, with their place.
const LEVELS: [PageLevel; 3] = [PageLevel::Size1G, PageLevel::Size2M, PageLevel::Size4K];

impl TdmrEntry {
    fn new(config: &TdmrConfig, steps: u64) -> Self {
        let area = |reserved: &PhysRange| ReservedArea {
            offset: reserved.start().offset_from(config.range.start()).unwrap_or_default().into(),
            size: reserved.size().into(),
        };
        let mut entry = Self {
            base: config.range.start().as_u64().into(),
            size: config.range.size().into(),
            pamt_bases: LEVELS.map(|level| config.pamt.get(level).start().as_u64().into()),
            pamt_pages: LEVELS.map(|level| pages(config.pamt.get(level))),
            initialised: (steps * STEP_BYTES).into(),
            ..Self::default()
        };
        for (to, from) in entry.areas.iter_mut().zip(&config.reserved) {
            *to = area(from);
        }
        entry
    }

    /// What SYS.CONFIG would have been given.
    fn info(&self) -> TdmrInfo {
        let mut info =
            TdmrInfo { base: self.base, size: self.size, reserved: self.areas, ..TdmrInfo::default() };
        for ((level, base), pages) in LEVELS.into_iter().zip(self.pamt_bases).zip(self.pamt_pages) {
            info.set_pamt(level, base.get(), u64::from(pages.get()) * PAGE_SIZE);
        }
        info
    }
}

/// Pages of a PAMT area. No TDMR needs 16 TiB of PAMT: what a host gave beyond is not handed over.
fn pages(area: PhysRange) -> U32 {
    u32::try_from(area.size() / PAGE_SIZE).unwrap_or(u32::MAX).into()
}
