//! IOMMUs in trusted mode, and what the firmware says of the root ports' keys.
//!
//! [`HostState::connect_init`] takes every active unit into trusted mode, keeps the upper half of its domain
//! ids for the module and finds out how many streams each host bridge can have; from then on devices can be
//! connected. [`HostState::connect_exit`] takes all of it back. A failure on the way takes the steps before it
//! back, and TDX without Connect goes on.

pub mod keyp;
mod unit;

use core::ops::ControlFlow;

use tdx_abi::PhysAddr;

use crate::connect::{ConnectError, ConnectState};
use crate::cpu::CpuSlot;
use crate::host::{HostState, boot_cpu};
use crate::sync::atomic::Ordering;
use crate::traits::{ConnectPlatform, DmarUnit, HostBridge, LeakCounter, LogLevel};

use unit::{Stage, Unit};

/// Most units, as the module counts them, and most host bridges.
const LIMIT: u32 = 128;
/// Most units.
pub const MAX_UNITS: usize = LIMIT as usize;
/// Most host bridges.
pub const MAX_BRIDGES: usize = LIMIT as usize;

/// Streams that can be made below a host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeStreams {
    /// The bridge.
    pub bridge: HostBridge,
    /// Streams; 0 for a bridge without a key configuration unit that TDs may use.
    pub streams: u16,
}

/// What [`HostState::connect_init`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectReport {
    /// Units in trusted mode.
    pub units: u32,
    /// Active units that have no trusted mode.
    pub units_without: u32,
    /// Host bridges below which streams can be made.
    pub bridges: u32,
    /// Streams of all of them.
    pub streams: u32,
}

/// What Connect holds, stored by the embedder.
#[derive(Debug)]
pub struct ConnectMemory<L: LeakCounter> {
    units: [Option<Unit<L>>; MAX_UNITS],
    bridges: [Option<BridgeStreams>; MAX_BRIDGES],
}

impl<L: LeakCounter> Default for ConnectMemory<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L: LeakCounter> ConnectMemory<L> {
    /// Nothing.
    pub const fn new() -> Self {
        Self { units: [const { None }; MAX_UNITS], bridges: [None; MAX_BRIDGES] }
    }

    /// Host bridges and their streams, ascending; empty unless Connect works.
    pub fn bridges(&self) -> impl Iterator<Item = BridgeStreams> + '_ {
        self.bridges.iter().flatten().copied()
    }

    /// Registers of the units in trusted mode, in the order of DMAR.
    pub fn trusted_units(&self) -> impl Iterator<Item = PhysAddr> + '_ {
        let trusted = self.units.iter().flatten().filter(|unit| matches!(unit.stage, Stage::Trusted(_)));
        trusted.map(|unit| unit.dmar.reg_base)
    }

    /// Pages of units that neither went into trusted mode nor gave them back: the module's until the reset.
    pub fn stuck_pages(&self) -> usize {
        let stuck = self.units.iter().flatten().map(|unit| match &unit.stage {
            Stage::Stuck(held) => held.pages(),
            Stage::Found | Stage::Without | Stage::Trusted(_) => 0,
        });
        stuck.sum()
    }

    fn add_unit(&mut self, dmar: DmarUnit) -> Result<(), ConnectError> {
        let place = self.units.iter_mut().find(|place| place.is_none());
        let place = place.ok_or(ConnectError::TooManyUnits { limit: LIMIT })?;
        *place = Some(Unit { dmar, stage: Stage::Found });
        Ok(())
    }

    /// Adds a bridge in its order, once.
    fn add_bridge(&mut self, bridge: HostBridge) -> Result<(), ConnectError> {
        let known = self.bridges().count();
        let place = self.bridges().take_while(|before| before.bridge < bridge).count();
        if self.bridges().any(|other| other.bridge == bridge) {
            return Ok(());
        }
        let behind = self.bridges.get_mut(place..=known);
        let behind = behind.ok_or(ConnectError::TooManyUnits { limit: LIMIT })?;
        behind.rotate_right(1);
        if let Some(first) = behind.first_mut() {
            *first = Some(BridgeStreams { bridge, streams: 0 });
        }
        Ok(())
    }
}

impl<C: AsRef<[CpuSlot]> + Sync, K: Sync> HostState<C, K> {
    /// Takes the IOMMUs into trusted mode: from success on devices can be connected.
    ///
    /// After an error everything is taken back, and the state tells the reason. May be tried again.
    pub fn connect_init<P>(
        &self,
        platform: &P,
        memory: &mut ConnectMemory<P::Leaks>,
    ) -> Result<ConnectReport, ConnectError>
    where
        P: ConnectPlatform + ?Sized,
    {
        self.ready()?;
        if !self.connect.usable.load(Ordering::Acquire) || self.connect_state().is_on() {
            return Err(self.connect_state().reason().unwrap_or(ConnectError::AlreadyOn));
        }
        let done = self
            .take_units(platform, memory)
            .and_then(|()| look_at_bridges(platform, memory))
            .and_then(|()| self.connect_works(platform));
        match done {
            Ok(()) => {
                let report = memory.report();
                let ConnectReport { units, bridges, streams, .. } = report;
                platform.log(
                    LogLevel::Info,
                    format_args!(
                        "TDX Connect: {units} IOMMUs in trusted mode, {streams} streams below {bridges} host bridges"
                    ),
                );
                Ok(report)
            }
            Err(error) => {
                self.give_units_back(platform, memory);
                self.connect_failed(platform, error);
                Err(error)
            }
        }
    }

    /// Takes the IOMMUs out of trusted mode. No device is connected any more: whoever registered a TSM has
    /// unregistered it before.
    pub fn connect_exit<P>(&self, platform: &P, memory: &mut ConnectMemory<P::Leaks>)
    where
        P: ConnectPlatform + ?Sized,
    {
        self.give_units_back(platform, memory);
        let _no_update = self.connect_gate().enter(platform);
        // A failure that is known already says more.
        if self.connect.state.get().is_on() {
            self.connect.state.set(ConnectState::Off(ConnectError::Stopped));
        }
    }

    /// Says that Connect works, unless an update made it dead since the beginning. Updates change the state
    /// as well: none may come between the question and the answer.
    fn connect_works<P: ConnectPlatform + ?Sized>(&self, platform: &P) -> Result<(), ConnectError> {
        let _no_update = self.connect_gate().enter(platform)?;
        if !self.connect.usable.load(Ordering::Acquire) {
            return Err(self.connect_state().reason().unwrap_or(ConnectError::NotTried));
        }
        self.connect.state.set(ConnectState::On);
        Ok(())
    }

    fn connect_failed<P: ConnectPlatform + ?Sized>(&self, platform: &P, error: ConnectError) {
        platform.log(LogLevel::Error, format_args!("TDX Connect is off: {error}"));
        let _no_update = self.connect_gate().enter(platform);
        // That pages are missing, or that an update made it dead, weighs more than what came before.
        if self.connect.usable.load(Ordering::Acquire) {
            self.connect.state.set(ConnectState::Off(error));
        }
    }

    fn take_units<P>(&self, platform: &P, memory: &mut ConnectMemory<P::Leaks>) -> Result<(), ConnectError>
    where
        P: ConnectPlatform + ?Sized,
    {
        let sizes = self.last_sysinfo().and_then(|info| info.connect_sizes());
        let pages = usize::from(sizes.ok_or(ConnectError::NotTried)?.iommu_mt);
        let node = platform.node_of(boot_cpu(platform)?);
        let mut found = Ok(());
        // A unit that is stuck from an earlier attempt keeps its place.
        let stuck = |memory: &ConnectMemory<P::Leaks>, dmar: DmarUnit| {
            memory.units.iter().flatten().any(|unit| unit.dmar.reg_base == dmar.reg_base)
        };
        platform.units(&mut |dmar| {
            if !stuck(memory, dmar) {
                found = memory.add_unit(dmar);
            }
            if found.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        found?;
        for unit in memory.units.iter_mut().flatten() {
            self.take_unit(platform, unit, pages, node)?;
        }
        if memory.trusted_units().next().is_none() { Err(ConnectError::NoUnits) } else { Ok(()) }
    }

    /// Undoes all units, the last one first.
    fn give_units_back<P>(&self, platform: &P, memory: &mut ConnectMemory<P::Leaks>)
    where
        P: ConnectPlatform + ?Sized,
    {
        memory.bridges = [None; MAX_BRIDGES];
        let mut kept = 0;
        for place in memory.units.iter_mut().rev() {
            let Some(unit) = place.take() else { continue };
            let (rest, missing) = self.give_unit_back(platform, unit);
            *place = rest;
            kept += missing;
        }
        if kept > 0 {
            let reason = ConnectError::PagesKept { pages: u32::try_from(kept).unwrap_or(u32::MAX) };
            platform.log(LogLevel::Error, format_args!("TDX Connect is off until the reset: {reason}"));
            let _no_update = self.connect_gate().enter(platform);
            self.connect.usable.store(false, Ordering::Release);
            self.connect.state.set(ConnectState::Off(reason));
        }
    }
}

impl<L: LeakCounter> ConnectMemory<L> {
    fn report(&self) -> ConnectReport {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let without = self.units.iter().flatten().filter(|unit| matches!(unit.stage, Stage::Without));
        let usable = || self.bridges().filter(|bridge| bridge.streams > 0);
        ConnectReport {
            units: count(self.trusted_units().count()),
            units_without: count(without.count()),
            bridges: count(usable().count()),
            streams: usable().map(|bridge| u32::from(bridge.streams)).sum(),
        }
    }
}

/// Finds out how many streams each host bridge can have.
fn look_at_bridges<P>(platform: &P, memory: &mut ConnectMemory<P::Leaks>) -> Result<(), ConnectError>
where
    P: ConnectPlatform + ?Sized,
{
    let mut found = Ok(());
    platform.functions(&mut |function| {
        found = memory.add_bridge(function.bridge);
        if found.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    found?;
    let mut judged = Ok(());
    // Without the table no bridge has any.
    let _ = platform.table(*b"KEYP", &mut |table| {
        judged = keyp::streams_of(table, &mut memory.bridges, &|base| platform.mmio_read32(base));
    });
    judged?;
    if memory.bridges().all(|bridge| bridge.streams == 0) { Err(ConnectError::NoStreams) } else { Ok(()) }
}
