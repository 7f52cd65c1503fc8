//! What the module keeps for TDX Connect and for its extensions: the pages that hosts gave, the VT-d
//! units that are set up, the memory pool of the extensions.

pub(crate) mod dev_info;
mod entropy;
pub(crate) mod estate;
pub(crate) mod evidence;
mod extension;
pub(crate) mod key_unit;
pub(crate) mod keys;
pub(crate) mod marshal;
mod pages;
mod pool;
mod refusal;
mod registers;
pub(crate) mod root_port;
pub(crate) mod session;
pub(crate) mod stream;
mod units;
pub(crate) mod work;

pub use pages::Owner;
pub(crate) use pages::{PageRefusal, PageRegistry};
pub(crate) use pool::Pool;
pub(crate) use registers::{CommandStatus, UnitRegisters};
pub(crate) use units::{IommuTable, Progress, Unit, UnitState, UnitTable};

use session::SessionTable;
use tdx_abi::PAGE_SIZE;
use tdx_abi::features::Features0;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::status::{OperandId, StatusCode};

use crate::call::{Call, Exit, invalid};
use crate::handoff::{ConnectEstate, HandoffError, UnitEstate};
use crate::io::{ConnectHardware, UnitFacts};
use crate::profile::ConnectSizes;
use crate::tdmrs::TdmrTable;

/// State of TDX Connect and of the extensions. Made when the module is configured.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) sizes: ConnectSizes,
    pub(crate) pages: PageRegistry,
    pub(crate) units: UnitTable,
    pub(crate) pool: Pool,
    pub(crate) sessions: SessionTable,
}

impl Connect {
    pub(crate) fn new(sizes: ConnectSizes, units: &[UnitFacts]) -> Self {
        Self {
            sizes,
            pages: PageRegistry::default(),
            units: UnitTable::new(units),
            pool: Pool::new(sizes.pool_pages, sizes.ext_required),
            sessions: SessionTable::default(),
        }
    }

    /// What a successor needs to go on. No call is inside or interrupted.
    pub(crate) fn estate(&self) -> ConnectEstate {
        let unit = |unit: &Unit| UnitEstate {
            registers: unit.facts().registers.start(),
            generation: unit.generation(),
            table: match unit.state() {
                UnitState::Configured(table) => Some(table),
                _ => None,
            },
        };
        ConnectEstate {
            units: self.units.iter().map(unit).collect(),
            ranges: self.pages.list(),
            sessions: self.sessions.save(),
        }
    }

    /// The state that another instance left, on this machine: nothing in it is believed. The extensions are
    /// off until TDH.EXT.INIT.
    pub(crate) fn restored(
        sizes: ConnectSizes,
        facts: &[UnitFacts],
        tdmrs: &TdmrTable,
        estate: &ConnectEstate,
    ) -> Result<Self, HandoffError> {
        let connect = Self::new(sizes, facts);
        let mut places = Vec::with_capacity(estate.units.len());
        for (index, left) in estate.units.iter().enumerate() {
            let unit = connect.units.at(left.registers).ok_or(HandoffError::Unit(index))?;
            if places.contains(&unit.index()) {
                return Err(HandoffError::Unit(index));
            }
            places.push(unit.index());
            unit.set_generation(left.generation);
        }
        for &(range, owner) in &estate.ranges {
            let refused = HandoffError::Page(range.start());
            let owner = match owner {
                Owner::Unit(place) => Owner::Unit(*places.get(usize::from(place)).ok_or(refused)?),
                owner => owner,
            };
            connect.pages.restore(tdmrs, range, owner).map_err(|_| refused)?;
            if owner == Owner::Pool {
                connect.pool.add(u32::try_from(range.size() / PAGE_SIZE).unwrap_or(u32::MAX));
            }
        }
        for (index, (left, &place)) in estate.units.iter().zip(&places).enumerate() {
            let mut pages = left.table.as_ref().map_or_else(Vec::new, IommuTable::pages);
            pages.sort_unstable();
            let unit = connect.units.at(left.registers).ok_or(HandoffError::Unit(index))?;
            if pages != connect.pages.pages_of(Owner::Unit(place)) {
                return Err(HandoffError::Unit(index));
            }
            if let Some(table) = &left.table {
                unit.set_state(UnitState::Configured(table.clone()));
            }
        }
        if estate.sessions.is_empty() {
            // Earlier hand-off versions have neither sessions nor pages.
            return if connect.holds_pages() { Err(HandoffError::Connect) } else { Ok(connect) };
        }
        connect.sessions.restore(&connect, &estate.sessions)?;
        Ok(connect)
    }

    /// Leaves that need the extension work.
    pub(crate) fn ext_ready(&self) -> bool {
        self.pool.ext_ready()
    }

    /// A call was interrupted and has not been resumed: its progress is in this instance alone.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.pool.is_interrupted()
            || self.units.iter().any(Unit::is_interrupted)
            || self.sessions.is_interrupted()
    }

    /// There is something that a successor has to know.
    pub(crate) fn holds_pages(&self) -> bool {
        !self.pages.is_empty()
    }
}

/// Leaves of TDX Connect: units, sessions, streams, and the groups that are not modelled.
pub(crate) const fn is_connect_leaf(leaf: SeamcallLeaf) -> bool {
    matches!(leaf.0, 128..=135 | 137..=145 | 150..=166)
}

/// Leaves that run in the extension.
const fn needs_extension(leaf: SeamcallLeaf) -> bool {
    matches!(leaf, SeamcallLeaf::SPDM_CONNECT | SeamcallLeaf::SPDM_DISCONNECT | SeamcallLeaf::SPDM_MNG)
}

/// The rows that all leaves of TDX Connect share.
pub(crate) fn admit(leaf: SeamcallLeaf, opted_in: Features0, connect: Option<&Connect>) -> Result<(), Exit> {
    // CONNECT-1
    if is_connect_leaf(leaf) && !opted_in.contains(Features0::TDX_CONNECT) {
        return Err(invalid(OperandId::RAX));
    }
    // CONNECT-2
    if needs_extension(leaf) && !connect.is_some_and(Connect::ext_ready) {
        return Err(StatusCode::SYS_STATE_INCORRECT.into());
    }
    Ok(())
}

impl<'a> Call<'a> {
    /// State of TDX Connect. Every caller runs in a ready module, which has it.
    pub(crate) fn connect(&self) -> Result<&'a Connect, Exit> {
        self.module.connect.get().ok_or_else(|| StatusCode::SYS_NOT_READY.into())
    }

    /// The I/O hardware. Units and everything below them exist only on a machine that has it.
    pub(crate) fn io(&self) -> Result<&'a dyn ConnectHardware, Exit> {
        self.hw.connect().ok_or_else(|| StatusCode::SYS_NOT_READY.into())
    }
}
