//! The TDX module: configuration, state, and the way of a call to its leaf.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};

use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::seamldr::Version;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::{KeyId, Registers};

use crate::call::{Call, Exit, invalid};
use crate::checks::Switch;
use crate::connect::{self, Connect};
use crate::disable::Disable;
use crate::features;
use crate::handoff::{
    CONNECT_VERSION, ConnectEstate, Counters, Estate, Handoff, HandoffError, WbtEntry, idle_write_back,
};
use crate::hardware::{Hardware, LpIndex};
use crate::io::UnitFacts;
use crate::keys::KeyTable;
use crate::leaves;
use crate::lock::SharedExclusiveLock;
use crate::lps::LpTable;
use crate::metadata::LiveFields;
use crate::platform::Platform;
use crate::profile::{ConnectSizes, Generation, HandoffVersions, Profile, Svn};
use crate::software::NoAnswer;
use crate::tdmrs::{Tdmr, TdmrTable};

/// Leaves that this crate models.
pub const MODELLED_LEAVES: &[SeamcallLeaf] = &[
    SeamcallLeaf::SYS_KEY_CONFIG,
    SeamcallLeaf::SYS_INFO,
    SeamcallLeaf::SYS_INIT,
    SeamcallLeaf::SYS_RD,
    SeamcallLeaf::SYS_LP_INIT,
    SeamcallLeaf::SYS_TDMR_INIT,
    SeamcallLeaf::SYS_RDALL,
    SeamcallLeaf::SYS_LP_SHUTDOWN,
    SeamcallLeaf::SYS_CONFIG,
    SeamcallLeaf::SYS_SHUTDOWN,
    SeamcallLeaf::SYS_UPDATE,
    SeamcallLeaf::SYS_DISABLE,
    SeamcallLeaf::EXT_INIT,
    SeamcallLeaf::EXT_MEM_ADD,
    SeamcallLeaf::IOMMU_SETUP,
    SeamcallLeaf::IOMMU_CLEAR,
    SeamcallLeaf::SPDM_CREATE,
    SeamcallLeaf::SPDM_DELETE,
    SeamcallLeaf::SPDM_CONNECT,
    SeamcallLeaf::SPDM_DISCONNECT,
    SeamcallLeaf::SPDM_MNG,
    SeamcallLeaf::IDE_STREAM_CREATE,
    SeamcallLeaf::IDE_STREAM_BLOCK,
    SeamcallLeaf::IDE_STREAM_DELETE,
    SeamcallLeaf::IDE_STREAM_KM,
];

/// KeyIDs of TDX 1.5 and later: their numbers are below this.
const MAX_KEY_IDS: u32 = 2048;
/// The same of TDX 1.0.
const MAX_KEY_IDS_1_0: u32 = 128;

/// What a key of AES-GCM may protect, to the next power of two (RFC 8446, 5.5).
const SESSION_KEY_USES: u64 = 1 << 24;

/// A name that is no switch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id} is no check row that can be switched")]
pub struct UnknownRow {
    /// The name.
    pub id: String,
}

/// Which module is loaded, and how it differs from its profile.
#[derive(Clone, Debug)]
pub struct ModuleConfig {
    /// The release.
    pub profile: &'static Profile,
    /// Report TDX_FEATURES0 and the FIXED masks as the release does, modelled or not.
    pub real_features: bool,
    /// Bits that are cleared in TDX_FEATURES0 whatever else says they are set.
    pub withheld: Features0,
    /// Security version of the SIGSTRUCT; normally that of the release.
    pub svn: Svn,
    /// SHA-384 of the image; normally that of the release.
    pub seamhash: [u8; 48],
    /// Hand-off values of the SIGSTRUCT; normally those that the module was built with.
    pub sigstruct: HandoffVersions,
    /// Hand-off values that the module itself was built with; normally those of the release.
    pub built: HandoffVersions,
    /// Version; normally that of the release.
    pub version: Version,
    /// Build counter; normally that of the release.
    pub build_num: u16,
    /// Build date, BCD yyyymmdd; normally that of the release.
    pub build_date: u32,
    /// What TDX Connect and the extensions take; normally that of the release. Without effect where the
    /// release has neither.
    pub connect: ConnectSizes,
    /// Messages that a key of a device's session protects before the host has to have it renewed.
    pub session_key_uses: u64,
    switches: Vec<(Switch, bool)>,
}

impl ModuleConfig {
    /// A module that is as its profile says.
    pub fn new(profile: &'static Profile) -> Self {
        Self {
            profile,
            real_features: false,
            withheld: Features0::EMPTY,
            svn: profile.svn,
            seamhash: profile.seamhash,
            sigstruct: profile.handoff,
            built: profile.handoff,
            version: profile.version,
            build_num: profile.build_num,
            build_date: profile.build_date,
            connect: profile.connect.unwrap_or(ConnectSizes::NONE),
            session_key_uses: SESSION_KEY_USES,
            switches: Vec::new(),
        }
    }

    /// Deviates from its profile as `before` deviates from its own, as far as that is not a matter
    /// of one image.
    pub(crate) fn follow(&mut self, before: &Self) {
        self.real_features = before.real_features;
        self.withheld = before.withheld;
        if before.connect != before.profile.connect.unwrap_or(ConnectSizes::NONE) {
            self.connect = before.connect;
        }
        self.session_key_uses = before.session_key_uses;
        self.switches.clone_from(&before.switches);
    }

    /// Turns a row that not every release has, or that is assumed, on or off. The switch of
    /// TDH.SYS.DISABLE-1 is that of the whole leaf.
    pub fn set_switch(&mut self, row: &str, on: bool) -> Result<(), UnknownRow> {
        let (_, switch) =
            Switch::ALL.iter().find(|(id, _)| *id == row).ok_or_else(|| UnknownRow { id: row.to_owned() })?;
        self.switches.push((*switch, on));
        Ok(())
    }
}

/// What a module does, resolved from its configuration.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) profile: &'static Profile,
    pub(crate) sigstruct: HandoffVersions,
    pub(crate) built: HandoffVersions,
    pub(crate) version: Version,
    pub(crate) build_num: u16,
    /// BCD yyyymmdd.
    pub(crate) build_date: u32,
    pub(crate) real_features: bool,
    /// TDX_FEATURES0 as reported.
    pub(crate) features0: Features0,
    pub(crate) connect: ConnectSizes,
    pub(crate) session_key_uses: u64,
    on: u32,
}

impl Rules {
    fn new(config: &ModuleConfig) -> Self {
        let profile = config.profile;
        let mut on = 0;
        for &(_, switch) in Switch::ALL {
            let configured = config.switches.iter().rev().find(|(row, _)| *row == switch);
            if configured.map_or_else(|| profile.has(switch), |&(_, on)| on) {
                on |= 1 << switch as u32;
            }
        }
        let features0 = if config.real_features {
            profile.features0
        } else {
            features::reported(profile.features0, profile.synthetic)
        };
        Self {
            profile,
            sigstruct: config.sigstruct,
            built: config.built,
            version: config.version,
            build_num: config.build_num,
            build_date: config.build_date,
            real_features: config.real_features,
            features0: features0.difference(config.withheld),
            connect: config.connect,
            session_key_uses: config.session_key_uses,
            on,
        }
    }

    pub(crate) const fn has(&self, switch: Switch) -> bool {
        self.on >> switch as u32 & 1 != 0
    }

    pub(crate) fn is_1_5(&self) -> bool {
        self.profile.generation >= Generation::V1_5
    }

    /// Modules without TDX Connect know nothing of the hand-off version that carries it.
    pub(crate) fn knows_handoff(&self, version: u16) -> bool {
        version < CONNECT_VERSION || self.profile.has_connect()
    }

    /// KeyIDs that the key table holds: private ones must lie below.
    pub(crate) fn max_key_ids(&self) -> u32 {
        if self.is_1_5() { MAX_KEY_IDS } else { MAX_KEY_IDS_1_0 }
    }

    /// True if the dispatcher handles the leaf.
    fn has_leaf(&self, leaf: SeamcallLeaf) -> bool {
        if leaf == SeamcallLeaf::SYS_DISABLE {
            return self.has(Switch::SysDisable1);
        }
        self.profile.leaves.contains(leaf)
    }
}

/// Life of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModuleState {
    /// Just loaded.
    SysInitPending,
    /// SYS.INIT ran; LPs are being initialised.
    SysInitDone,
    /// SYS.CONFIG ran; the global key is being programmed.
    SysConfigDone,
    /// In use.
    SysReady,
    /// Waits for its successor.
    SysShutdown,
}

impl ModuleState {
    const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::SysInitPending,
            1 => Self::SysInitDone,
            2 => Self::SysConfigDone,
            3 => Self::SysReady,
            _ => Self::SysShutdown,
        }
    }
}

/// A loaded module.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) rules: Rules,
    pub(crate) global: SharedExclusiveLock,
    state: AtomicU8,
    /// Bit per package whose global key is programmed.
    pub(crate) packages: AtomicU8,
    pub(crate) initialised_lps: AtomicU64,
    /// KeyID of the last successful SYS.CONFIG.
    pub(crate) global_key: OnceLock<KeyId>,
    /// Add-on features that version 1 of SYS.CONFIG or SYS.UPDATE enabled.
    pub(crate) opted_in: AtomicU64,
    pub(crate) keys: KeyTable,
    pub(crate) platform: OnceLock<Platform>,
    pub(crate) tdmrs: OnceLock<TdmrTable>,
    pub(crate) lps: OnceLock<LpTable>,
    /// What the next instance gets, or what the one before left.
    pub(crate) handoff: Handoff,
    /// Write-back table of the instance before. No leaf that would work on it is modelled.
    write_back: OnceLock<Box<[WbtEntry]>>,
    /// TDs between MNG.INIT and MR.FINALIZE. No leaf that would count them is modelled.
    pub(crate) td_builds: AtomicU16,
    /// Migration calls that were interrupted and not resumed. The same holds for them.
    pub(crate) interrupted_migrations: AtomicU16,
    pub(crate) disable: Disable,
    disabled: AtomicBool,
    /// Made by SYS.CONFIG or SYS.UPDATE.
    pub(crate) connect: OnceLock<Connect>,
}

impl Module {
    pub(crate) fn new(config: &ModuleConfig) -> Self {
        let rules = Rules::new(config);
        let key_ids = usize::try_from(rules.max_key_ids()).unwrap_or(usize::MAX);
        Self {
            keys: KeyTable::new(key_ids),
            handoff: Handoff::new(rules.sigstruct.pages),
            rules,
            global: SharedExclusiveLock::default(),
            state: AtomicU8::new(0),
            packages: AtomicU8::new(0),
            initialised_lps: AtomicU64::new(0),
            global_key: OnceLock::new(),
            opted_in: AtomicU64::new(0),
            platform: OnceLock::new(),
            tdmrs: OnceLock::new(),
            lps: OnceLock::new(),
            write_back: OnceLock::new(),
            td_builds: AtomicU16::new(0),
            interrupted_migrations: AtomicU16::new(0),
            disable: Disable::default(),
            disabled: AtomicBool::new(false),
            connect: OnceLock::new(),
        }
    }

    /// Sequentially consistent for SYS.SHUTDOWN, see [`crate::lps::LpSlot::enter`].
    pub(crate) fn state(&self) -> ModuleState {
        ModuleState::from_number(self.state.load(Ordering::SeqCst))
    }

    /// Called with the global lock held.
    pub(crate) fn set_state(&self, state: ModuleState) {
        self.state.store(state as u8, Ordering::SeqCst);
    }

    /// TD builds and interrupted migrations, as far as the host opted into their being counted.
    pub(crate) fn counters(&self) -> Counters {
        if !self.opted_in().contains(Features0::UPDATE_COMPATIBILITY) {
            return Counters::default();
        }
        Counters {
            td_builds: self.td_builds.load(Ordering::Acquire),
            interrupted_migrations: self.interrupted_migrations.load(Ordering::Acquire),
        }
    }

    /// The metadata fields that change while the module runs.
    pub(crate) fn live_fields(&self) -> LiveFields {
        LiveFields::new(self.handoff.region().header(), self.pool_pages_missing())
    }

    /// Pages that the memory pool of the extensions still needs: none for a host that did not opt in.
    pub(crate) fn pool_pages_missing(&self) -> u32 {
        let opted_in = self.opted_in().contains(Features0::TDX_CONNECT);
        self.connect.get().filter(|_| opted_in).map_or(0, |connect| connect.pool.missing())
    }

    /// What a successor needs; `None` before the module is configured. Nobody else may be inside.
    pub(crate) fn estate(&self) -> Option<Estate> {
        let with_progress = |tdmr: &Tdmr| (tdmr.config.clone(), tdmr.steps_done());
        Some(Estate {
            keys: self.keys.entries().collect(),
            write_back: self.write_back.get().cloned().unwrap_or_else(idle_write_back),
            tdmrs: self.tdmrs.get()?.iter().map(with_progress).collect(),
            global_key: *self.global_key.get()?,
            packages: self.packages.load(Ordering::Acquire),
            counters: self.counters(),
            connect: self.connect.get().map_or_else(ConnectEstate::default, Connect::estate),
        })
    }

    /// Takes over what another instance left. Called once at most: SYS.UPDATE and SYS.CONFIG, which
    /// fill the same cells, leave the state in which they run.
    /// Hand-off data whose part of TDX Connect does not fit change nothing.
    pub(crate) fn inherit(&self, estate: Estate, units: &[UnitFacts]) -> Result<(), HandoffError> {
        let Estate { keys, write_back, tdmrs, global_key, packages, counters, connect } = estate;
        let tdmrs = TdmrTable::restored(tdmrs);
        let connect = Connect::restored(self.rules.connect, units, &tdmrs, &connect)?;
        if self.tdmrs.set(tdmrs).is_err()
            || self.global_key.set(global_key).is_err()
            || self.write_back.set(write_back).is_err()
            || self.connect.set(connect).is_err()
        {
            return Ok(());
        }
        self.keys.restore(&keys);
        self.packages.store(packages, Ordering::Release);
        self.td_builds.store(counters.td_builds, Ordering::Release);
        self.interrupted_migrations.store(counters.interrupted_migrations, Ordering::Release);
        Ok(())
    }

    /// Add-on features in use.
    pub(crate) fn opted_in(&self) -> Features0 {
        Features0::from_bits(self.opted_in.load(Ordering::Acquire))
    }

    /// True once SYS.DISABLE is through.
    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Acquire)
    }

    pub(crate) fn set_disabled(&self) {
        self.disabled.store(true, Ordering::Release);
    }

    /// What SYS.INIT sampled. Every caller runs in a state behind SYS.INIT, so a module without it
    /// can only say that it is not ready.
    pub(crate) fn platform(&self) -> Result<&Platform, Exit> {
        self.platform.get().ok_or_else(|| StatusCode::SYS_NOT_READY.into())
    }

    /// Runs a SEAMCALL. On failure the registers are as they were: a leaf that reads memory, and
    /// may thus meet poison, changes none before its last read.
    pub(crate) fn seamcall(
        &self,
        hw: &dyn Hardware,
        lp: LpIndex,
        regs: &mut Registers,
    ) -> Result<(), NoAnswer> {
        if self.is_disabled() {
            return Err(NoAnswer::VmFailInvalid);
        }
        let lps = self.lps.get_or_init(|| LpTable::new(hw.mcheck().total_lps));
        // A machine does not run LPs that MCHECK has not counted.
        let slot = lps.get(lp).filter(|slot| !slot.is_shut_down()).ok_or(NoAnswer::VmFailInvalid)?;
        let word = LeafWord::from_raw(regs.rax);
        let leaf = SeamcallLeaf(word.leaf());
        let _busy = slot.enter(leaf);
        let call = Call { module: self, hw, lp, slot, version: word.version() };
        match self.admit(word, leaf).and_then(|()| run(&call, leaf, regs)) {
            Ok(status) | Err(Exit::Status(status)) => {
                regs.rax = status.raw();
                Ok(())
            }
            Err(Exit::MachineCheck(check)) => Err(check.into()),
        }
    }

    /// The rows of the dispatcher.
    fn admit(&self, word: LeafWord, leaf: SeamcallLeaf) -> Result<(), Exit> {
        let unknown = || invalid(OperandId::RAX);
        let versioned = self.rules.is_1_5();
        if versioned {
            // DISPATCH-1
            if word.reserved() != 0 {
                return Err(unknown());
            }
            // DISPATCH-2
            if self.rules.profile.generation == Generation::V2_0
                && !self.rules.profile.has_connect()
                && is_connect(leaf)
            {
                return Err(unknown());
            }
            // DISPATCH-3
            if word.version() != 0 && !self.rules.profile.versions.contains(leaf) {
                return Err(unknown());
            }
        }
        // TDX 1.0 compares all of RAX with the leaf number, so that a version makes it unknown.
        let known = self.rules.has_leaf(leaf) && (versioned || word.raw() == u64::from(leaf.0));
        let state = self.state();
        let any_state = known && (leaf == SeamcallLeaf::SYS_LP_SHUTDOWN || leaf == SeamcallLeaf::SYS_DISABLE);
        // DISPATCH-4
        if state == ModuleState::SysShutdown && !any_state {
            return Err(StatusCode::SYS_SHUTDOWN.into());
        }
        // DISPATCH-5
        if state != ModuleState::SysReady && !any_state && !(known && is_early(leaf)) {
            return Err(StatusCode::SYS_NOT_READY.into());
        }
        // DISPATCH-6
        if !known || !MODELLED_LEAVES.contains(&leaf) {
            return Err(unknown());
        }
        // TDH.SYS.DISABLE-1 locks every other leaf out once it has begun.
        if leaf != SeamcallLeaf::SYS_DISABLE && self.disable.has_begun() {
            return Err(StatusCode::SYS_BUSY.into());
        }
        connect::admit(leaf, self.opted_in(), self.connect.get())
    }
}

/// Leaves that run before the module is ready; TDX 1.0 lacks some of them.
const fn is_early(leaf: SeamcallLeaf) -> bool {
    matches!(
        leaf,
        SeamcallLeaf::SYS_KEY_CONFIG
            | SeamcallLeaf::SYS_INFO
            | SeamcallLeaf::SYS_INIT
            | SeamcallLeaf::SYS_RD
            | SeamcallLeaf::SYS_LP_INIT
            | SeamcallLeaf::SYS_RDALL
            | SeamcallLeaf::SYS_LP_SHUTDOWN
            | SeamcallLeaf::SYS_CONFIG
            | SeamcallLeaf::SYS_UPDATE
    )
}

/// Numbers of the TDX Connect leaves in the dispatchers of 2.0.
const fn is_connect(leaf: SeamcallLeaf) -> bool {
    matches!(leaf.0, 128..=140 | 150..=166)
}

fn run(call: &Call<'_>, leaf: SeamcallLeaf, regs: &mut Registers) -> Result<Status, Exit> {
    let is_1_5 = call.module.rules.is_1_5();
    match leaf {
        SeamcallLeaf::SYS_RD => leaves::sys_rd::run(call, regs),
        SeamcallLeaf::SYS_TDMR_INIT => leaves::sys_tdmr_init::run(call, regs),
        SeamcallLeaf::SYS_INIT if is_1_5 => leaves::sys_init::run(call, regs),
        SeamcallLeaf::SYS_INIT => leaves::sys_init_1_0::run(call, regs),
        SeamcallLeaf::SYS_LP_INIT if is_1_5 => leaves::sys_lp_init::run(call, regs),
        SeamcallLeaf::SYS_LP_INIT => leaves::sys_lp_init_1_0::run(call, regs),
        SeamcallLeaf::SYS_INFO => leaves::sys_info::run(call, regs),
        SeamcallLeaf::SYS_RDALL => leaves::sys_rdall::run(call, regs),
        SeamcallLeaf::SYS_CONFIG => leaves::sys_config::run(call, regs),
        SeamcallLeaf::SYS_KEY_CONFIG => leaves::sys_key_config::run(call),
        SeamcallLeaf::SYS_SHUTDOWN => leaves::sys_shutdown::run(call, regs),
        SeamcallLeaf::SYS_UPDATE => leaves::sys_update::run(call, regs),
        SeamcallLeaf::SYS_DISABLE => leaves::sys_disable::run(call),
        SeamcallLeaf::SYS_LP_SHUTDOWN => leaves::sys_lp_shutdown::run(call),
        SeamcallLeaf::EXT_INIT => leaves::ext_init::run(call),
        SeamcallLeaf::EXT_MEM_ADD => leaves::ext_mem_add::run(call, regs),
        SeamcallLeaf::IOMMU_SETUP => leaves::iommu_setup::run(call, regs),
        SeamcallLeaf::IOMMU_CLEAR => leaves::iommu_clear::run(call, regs),
        SeamcallLeaf::SPDM_CREATE => leaves::spdm_create::run(call, regs),
        SeamcallLeaf::SPDM_DELETE => leaves::spdm_delete::run(call, regs),
        SeamcallLeaf::SPDM_CONNECT => leaves::spdm_connect::run(call, regs),
        SeamcallLeaf::SPDM_DISCONNECT => leaves::spdm_disconnect::run(call, regs),
        SeamcallLeaf::SPDM_MNG => leaves::spdm_mng::run(call, regs),
        SeamcallLeaf::IDE_STREAM_CREATE => leaves::ide_stream_create::run(call, regs),
        SeamcallLeaf::IDE_STREAM_BLOCK => leaves::ide_stream_block::run(call, regs),
        SeamcallLeaf::IDE_STREAM_DELETE => leaves::ide_stream_delete::run(call, regs),
        SeamcallLeaf::IDE_STREAM_KM => leaves::ide_stream_km::run(call, regs),
        _ => Err(invalid(OperandId::RAX)),
    }
}
