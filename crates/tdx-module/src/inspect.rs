//! A read-only view of the software's state.

use std::sync::atomic::Ordering;

use tdx_abi::connect::ids::TdxIommuId;
use tdx_abi::features::Features0;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::seamldr::Version;
use tdx_abi::{KeyId, PageLevel, PhysAddr, PhysRange};

pub use crate::connect::Owner;
pub use crate::keys::KeyState;

use crate::connect::{Connect, Unit, UnitState};
use crate::hardware::{LpIndex, PackageIndex};
use crate::loader::LoaderConfig;
use crate::module::{Module, ModuleState};
use crate::profile::{Profile, Svn};
use crate::tdmrs::{STEP_BYTES, Tdmr};

/// P-SEAMLDR and module at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The P-SEAMLDR.
    pub loader: LoaderInspection,
    /// Address of the poison that the module read, after which nothing answers.
    pub machine_check: Option<PhysAddr>,
    /// The module, if one is loaded.
    pub module: Option<ModuleInspection>,
}

/// The P-SEAMLDR at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderInspection {
    /// What it is, with the updates that are left.
    pub config: LoaderConfig,
    /// Calls that reached it.
    pub calls: u64,
    /// SEAMCALLs reach the module, as far as the loader decides it.
    pub seam_ready: bool,
    /// SVN of the module, if there is one.
    pub svn: Option<Svn>,
    /// SHA-384 of the module's image, which is MRSEAM.
    pub seamhash: Option<[u8; 48]>,
    /// LPs that called INSTALL, while not all have.
    pub session_lps: Option<u32>,
    /// LPs whose SEAM VMCS was cleared in that.
    pub session_vmcs_cleared: u32,
    /// LPs that called SHUTDOWN; once one has, no INSTALL begins until power is cycled.
    pub shutdown_lps: u32,
    /// SHUTDOWN is through: SEAMCALLs do not reach the loader any more.
    pub shut_down: bool,
    /// LPs that are through with CLEANUP, while not all are.
    pub cleanup_lps: Option<u32>,
    /// Keys and caches hold what CLEANUP would wipe.
    pub dirty: bool,
}

/// A module at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleInspection {
    /// The release that it is played as.
    pub profile: &'static Profile,
    /// Its version; not that of the profile if its image says otherwise.
    pub version: Version,
    /// TDX_FEATURES0 as it reports it.
    pub features0: Features0,
    /// Where it is in its life.
    pub state: ModuleState,
    /// SYS.DISABLE has begun.
    pub disabling: bool,
    /// SYS.DISABLE is through.
    pub disabled: bool,
    /// LPs that ran SYS.LP.INIT.
    pub initialised_lps: Vec<LpIndex>,
    /// Packages whose global key is programmed.
    pub configured_packages: Vec<PackageIndex>,
    /// The global KeyID, once SYS.CONFIG took it.
    pub global_key: Option<KeyId>,
    /// Add-on features that the host opted into.
    pub opted_in: Features0,
    /// TDs that are being built, as set from outside.
    pub td_builds: u16,
    /// Migration calls that were interrupted and not resumed, as set from outside.
    pub interrupted_migrations: u16,
    /// What lies in the hand-off area, if it is valid.
    pub handoff: Option<HandoffInspection>,
    /// KeyIDs that are not free.
    pub key_ids: Vec<KeyRange>,
    /// TDMRs, ascending.
    pub tdmrs: Vec<TdmrInspection>,
    /// TDX Connect and the extensions, once the module is configured.
    pub connect: Option<ConnectInspection>,
    /// Calls by leaf; `None` for all leaves that are not modelled.
    pub calls: Vec<(Option<SeamcallLeaf>, u64)>,
}

/// Valid data in a hand-off area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoffInspection {
    /// Hand-off version.
    pub version: u16,
    /// Bytes, the header left out.
    pub size: u32,
}

/// Neighbouring KeyIDs in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First one.
    pub first: KeyId,
    /// Last one.
    pub last: KeyId,
    /// Their state.
    pub state: KeyState,
}

/// TDX Connect and the extensions at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectInspection {
    /// Pages that the memory pool needs and has not got.
    pub pool_pages_missing: u32,
    /// Pages that it has got.
    pub pool_pages_given: u32,
    /// Leaves that need the extension work.
    pub ext_ready: bool,
    /// A call was interrupted and has not been resumed.
    pub interrupted: bool,
    /// VT-d units, as firmware listed them.
    pub units: Vec<UnitInspection>,
    /// Pages that hosts gave, by owner, ascending.
    pub pages: Vec<(PhysRange, Owner)>,
}

/// A VT-d unit at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitInspection {
    /// First address of its registers.
    pub registers: PhysAddr,
    /// The name that TDH.IOMMU.SETUP gives it.
    pub id: TdxIommuId,
    /// Whether it is in TDX mode.
    pub mode: UnitMode,
    /// How often it was cleared.
    pub generation: u64,
    /// Session objects below it.
    pub sessions: u16,
    /// Those among them that are connected or on their way.
    pub active_sessions: u16,
    /// Streams that are configured below it.
    pub streams: u16,
}

/// Whether a unit is in TDX mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitMode {
    /// An ordinary unit.
    Ordinary,
    /// TDH.IOMMU.SETUP has begun.
    SettingUp,
    /// In TDX mode.
    Trusted,
    /// TDH.IOMMU.CLEAR has begun.
    Clearing,
}

/// A TDMR at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdmrInspection {
    /// The TDMR.
    pub range: PhysRange,
    /// Areas that stay with the host.
    pub reserved: Vec<PhysRange>,
    /// Pages that can be used: whole GiBs.
    pub initialised: PhysRange,
    /// Bytes of the TDMR whose PAMT entries are written.
    pub initialised_bytes: u64,
    /// PAMT areas, smallest pages first.
    pub pamt: [PhysRange; 3],
}

impl ModuleInspection {
    /// Bytes of all PAMT areas.
    pub fn pamt_bytes(&self) -> u64 {
        self.tdmrs.iter().flat_map(|tdmr| &tdmr.pamt).map(|area| area.size()).sum()
    }

    /// Calls of one leaf.
    pub fn calls_of(&self, leaf: SeamcallLeaf) -> u64 {
        self.calls.iter().find(|(counted, _)| *counted == Some(leaf)).map_or(0, |&(_, calls)| calls)
    }
}

impl Module {
    pub(crate) fn inspect(&self) -> ModuleInspection {
        let lps = self.lps.get();
        let packages = self.packages.load(Ordering::Acquire);
        let handoff = self.handoff.region().header();
        ModuleInspection {
            profile: self.rules.profile,
            version: self.rules.version,
            features0: self.rules.features0,
            state: self.state(),
            disabling: self.disable.has_begun(),
            disabled: self.is_disabled(),
            initialised_lps: lps.map_or_else(Vec::new, |lps| lps.initialised().collect()),
            configured_packages: (0..u8::BITS)
                .filter(|bit| packages >> bit & 1 != 0)
                .map(PackageIndex)
                .collect(),
            global_key: self.global_key.get().copied(),
            opted_in: self.opted_in(),
            td_builds: self.td_builds.load(Ordering::Acquire),
            interrupted_migrations: self.interrupted_migrations.load(Ordering::Acquire),
            handoff: handoff
                .valid
                .then_some(HandoffInspection { version: handoff.version, size: handoff.size }),
            key_ids: self
                .keys
                .in_use()
                .into_iter()
                .map(|(first, last, state)| KeyRange { first, last, state })
                .collect(),
            tdmrs: self.tdmrs.get().map_or_else(Vec::new, |tdmrs| tdmrs.iter().map(inspect).collect()),
            connect: self.connect.get().map(inspect_connect),
            calls: lps.map_or_else(Vec::new, crate::lps::LpTable::calls),
        }
    }
}

fn inspect_connect(connect: &Connect) -> ConnectInspection {
    ConnectInspection {
        pool_pages_missing: connect.pool.missing(),
        pool_pages_given: connect.pool.given(),
        ext_ready: connect.ext_ready(),
        interrupted: connect.is_interrupted(),
        units: connect.units.iter().map(inspect_unit).collect(),
        pages: connect.pages.list(),
    }
}

fn inspect_unit(unit: &Unit) -> UnitInspection {
    UnitInspection {
        registers: unit.facts().registers.start(),
        id: unit.id(),
        mode: match unit.state() {
            UnitState::Free => UnitMode::Ordinary,
            UnitState::Setup { .. } => UnitMode::SettingUp,
            UnitState::Configured(_) => UnitMode::Trusted,
            UnitState::Clearing { .. } => UnitMode::Clearing,
        },
        generation: unit.generation(),
        sessions: unit.sessions(),
        active_sessions: unit.active_sessions(),
        streams: unit.streams(),
    }
}

fn inspect(tdmr: &Tdmr) -> TdmrInspection {
    TdmrInspection {
        range: tdmr.config.range,
        reserved: tdmr.config.reserved.clone(),
        initialised: tdmr.initialised(),
        initialised_bytes: tdmr.steps_done() * STEP_BYTES,
        pamt: PageLevel::ALL.map(|level| tdmr.config.pamt.get(level)),
    }
}
