//! A machine whose LPs call the module directly, and what must hold around each call.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use tdx_abi::addr::SIZE_1G;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::ListReader;
use tdx_abi::msr::MsrIndex;
use tdx_abi::status::{OperandId, SeamldrStatus, Status, StatusCode};
use tdx_abi::{KeyId, PhysAddr, Registers};
use tdx_machine::spec::ChaosSpec;
use tdx_machine::{LpIndex, Machine, PlatformSpec, SeamFault, presets};
use tdx_module::inspect::{LoaderInspection, ModuleInspection};
use tdx_module::profile::Generation;
use tdx_module::{MODELLED_LEAVES, ModuleState};
use tdx_platform::{CpuMode, HostOptions, Platform, TdxHost};

/// Array of TDMR_INFO addresses.
pub(crate) const TDMR_ARRAY: u64 = 0x20_0000;
/// First TDMR_INFO; the others follow, 512 bytes each.
pub(crate) const TDMR_INFO: u64 = 0x20_1000;
/// Pages that leaves may write to.
pub(crate) const SCRATCH: u64 = 0x30_0000;
/// PAMT areas of TDMR i start at `PAMT + i * PAMT_STEP`: 4K, then 2M, then 1G.
pub(crate) const PAMT: u64 = 0x1000_0000;
const PAMT_STEP: u64 = 0x200_0000;
const PAMT_2M: u64 = 0x180_0000;
const PAMT_1G: u64 = 0x190_0000;
/// TDMRs: base and size.
pub(crate) const TDMRS: [(u64, u64); 2] = [(4 * SIZE_1G, SIZE_1G), (5 * SIZE_1G, SIZE_1G)];
/// The KeyID that SYS.CONFIG gets.
pub(crate) const GLOBAL_KEY: KeyId = KeyId::new(32);
/// Bytes that one TDMR.INIT initialises.
const STEP: u64 = 4 << 20;
/// Page of every VMXON region: the model only looks at its first word.
const VMXON_REGION: PhysAddr = PhysAddr::new(0x10_0000);
/// Times that a call is repeated when it meets chance.
const TRIES: u32 = 1000;

/// Where in the bring-up a module stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Loaded,
    Initialised,
    LpsInitialised,
    Configured,
    Ready,
    TdmrsInitialised,
}

impl Stage {
    pub(crate) const ALL: [Self; 6] = [
        Self::Loaded,
        Self::Initialised,
        Self::LpsInitialised,
        Self::Configured,
        Self::Ready,
        Self::TdmrsInitialised,
    ];
}

/// Two packages of one LP each, 4 GiB, nothing left to chance.
pub(crate) fn tiny() -> PlatformSpec {
    let mut spec = presets::find("tiny").expect("a preset").spec().expect("a valid one");
    (spec.cpu.packages, spec.cpu.cores) = (2, 1);
    spec.chaos = ChaosSpec { interrupt: 0, no_entropy: 0, busy: 0, write_back_within: 0 };
    spec
}

/// Operands of a good SYS.CONFIG.
pub(crate) fn config_regs() -> Registers {
    let (rcx, rdx, r8) = (TDMR_ARRAY, TDMRS.len() as u64, GLOBAL_KEY.number().into());
    Registers { rcx, rdx, r8, r11: 1, ..Registers::default() }
}

/// What is in the SEAM range, the numbers of calls left out.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    loader: LoaderInspection,
    module: Option<ModuleInspection>,
}

/// A module and its callers.
pub(crate) struct Bench {
    platform: Arc<Platform>,
    /// LPs that the module of TDX 1.0 took out of service.
    shut_down: RefCell<BTreeSet<LpIndex>>,
    /// The module could be reached when the session of SEAMLDR.INSTALL began.
    was_ready: Cell<bool>,
}

impl Bench {
    /// A machine that was just switched on, every LP in VMX operation, TDMR tables in memory.
    pub(crate) fn on(spec: PlatformSpec, seed: u64) -> Self {
        Self::of(Machine::power_on(spec, seed).expect("a valid machine"))
    }

    /// The same for a machine that is there.
    pub(crate) fn of(machine: Machine) -> Self {
        let bench = Self::without_tdmrs(machine);
        for (index, (base, size)) in (0..).zip(TDMRS) {
            bench.put_tdmr(index, base, size);
        }
        bench
    }

    /// The same for one whose memory may lie elsewhere.
    pub(crate) fn without_tdmrs(machine: Machine) -> Self {
        let platform = Arc::new(Platform::new(Arc::new(machine), CpuMode::Sequential));
        let bench = Self { platform, shut_down: RefCell::default(), was_ready: Cell::new(true) };
        for lp in bench.machine().lps() {
            bench.enter_vmx(lp.index);
        }
        bench
    }

    pub(crate) fn machine(&self) -> &Machine {
        self.platform.machine()
    }

    pub(crate) fn enter_vmx(&self, lp: LpIndex) {
        let machine = self.machine();
        machine.set_cr4_vmxe(lp, true);
        let revision = machine.rdmsr(lp, MsrIndex::IA32_VMX_BASIC).expect("VMX") & 0x7FFF_FFFF;
        machine.write(VMXON_REGION, KeyId::TME, &revision.to_le_bytes()[..4]).expect("RAM");
        machine.vmxon(lp, VMXON_REGION).expect("VMXON");
    }

    pub(crate) fn put_word(&self, pa: u64, value: u64) {
        self.machine().write(PhysAddr::new(pa), KeyId::TME, &value.to_le_bytes()).expect("RAM");
    }

    /// Sets a word of a TDMR_INFO.
    pub(crate) fn put_tdmr_word(&self, index: u64, word: u64, value: u64) {
        self.put_word(TDMR_INFO + 512 * index + 8 * word, value);
    }

    fn put_tdmr(&self, index: u64, base: u64, size: u64) {
        let pamt = PAMT + index * PAMT_STEP;
        let gib = size / SIZE_1G;
        let words = [
            base,
            size,
            pamt + PAMT_1G,
            (16 * gib).next_multiple_of(4096),
            pamt + PAMT_2M,
            16 * 512 * gib,
            pamt,
            16 * 262_144 * gib,
        ];
        self.put_word(TDMR_ARRAY + 8 * index, TDMR_INFO + 512 * index);
        for (word, value) in (0..).zip(words) {
            self.put_tdmr_word(index, word, value);
        }
    }

    fn seen(&self) -> Seen {
        let mut seam = self.machine().seam();
        seam.loader.calls = 0;
        if let Some(module) = &mut seam.module {
            module.calls.clear();
        }
        Seen { loader: seam.loader, module: seam.module }
    }

    /// State of the module, if there is one; the number of calls is left out.
    pub(crate) fn module(&self) -> Option<ModuleInspection> {
        self.seen().module
    }

    /// Calls until chance is over; the module must end with success.
    pub(crate) fn must(&self, lp: LpIndex, leaf: SeamcallLeaf, regs: Registers) {
        let mut last = None;
        for _ in 0..TRIES {
            let after = self.call(lp, leaf, 0, regs).expect("an answer");
            last = Some(Status::from_raw(after.rax));
            if last == Some(Status::SUCCESS) {
                return;
            }
        }
        panic!("{leaf} on {lp}: {last:?}");
    }

    /// Takes the module as far as `stage`.
    pub(crate) fn advance(&self, stage: Stage) {
        let lps: Vec<LpIndex> = self.machine().lps().iter().map(|lp| lp.index).collect();
        let each = |leaf| lps.iter().for_each(|&lp| self.must(lp, leaf, Registers::default()));
        if stage >= Stage::Initialised {
            self.must(LpIndex(0), SeamcallLeaf::SYS_INIT, Registers::default());
        }
        if stage >= Stage::LpsInitialised {
            each(SeamcallLeaf::SYS_LP_INIT);
        }
        if stage >= Stage::Configured {
            self.must(LpIndex(0), SeamcallLeaf::SYS_CONFIG, config_regs());
        }
        if stage >= Stage::Ready {
            each(SeamcallLeaf::SYS_KEY_CONFIG);
        }
        if stage >= Stage::TdmrsInitialised {
            // All but the last step of each.
            for (base, size) in TDMRS {
                for _ in 1..size / STEP {
                    let regs = Registers { rcx: base, ..Registers::default() };
                    self.must(LpIndex(1), SeamcallLeaf::SYS_TDMR_INIT, regs);
                }
            }
        }
    }

    /// Calls the module and checks what holds for every call of this leaf.
    pub(crate) fn call(
        &self,
        lp: LpIndex,
        leaf: SeamcallLeaf,
        version: u8,
        regs: Registers,
    ) -> Result<Registers, SeamFault> {
        self.raw_call(lp, Registers { rax: LeafWord::module(leaf, version).raw(), ..regs })
    }

    /// Calls with RAX as it is and checks what holds for every call.
    pub(crate) fn raw_call(&self, lp: LpIndex, regs: Registers) -> Result<Registers, SeamFault> {
        let word = LeafWord::from_raw(regs.rax);
        let leaf = SeamcallLeaf(word.leaf());
        let in_vmx = self.machine().in_vmx(lp);
        let before = self.seen();
        let mut after = regs;
        let result = self.machine().seamcall(lp, &mut after);
        let seen = self.seen();
        if let Err(fault) = result {
            assert_eq!((after, &seen), (regs, &before), "{fault} changed something");
            match fault {
                SeamFault::InvalidOpcode => assert!(!in_vmx),
                SeamFault::VmFailInvalid => self.nobody_may_answer(lp, word, &before),
                SeamFault::GeneralProtection => panic!("SEAM is on"),
            }
            return Err(fault);
        }
        assert!(in_vmx, "a call outside VMX operation was answered");
        assert_eq!(inputs_only(&after), inputs_only(&regs), "registers that no leaf writes");
        if word.is_seamldr() {
            assert_eq!(after.rcx, regs.rcx);
            let status = SeamldrStatus(after.rax);
            assert!(status.info().is_some(), "{word:?} ended with {status:?}");
            let leaf = SeamldrLeaf(word.leaf());
            if leaf == SeamldrLeaf::INSTALL && word == LeafWord::seamldr(leaf) {
                self.install_called(status, after.rdx, &before, &seen);
                return Ok(after);
            }
            assert_eq!(after.rdx, regs.rdx, "{word:?} has no output");
            match leaf {
                SeamldrLeaf::SHUTDOWN if word == LeafWord::seamldr(leaf) => {
                    self.loader_shutdown_called(status, &before, &seen);
                }
                SeamldrLeaf::CLEANUP if word == LeafWord::seamldr(leaf) => {
                    self.cleanup_called(status, &before, &seen);
                }
                _ => assert_eq!(seen, before, "{word:?} only reads"),
            }
            return Ok(after);
        }
        assert_eq!(seen.loader, before.loader, "the module leaves the loader alone");
        let (Some(before), Some(state)) = (before.module, seen.module) else { panic!("no module answered") };
        let status = Status::from_raw(after.rax);
        assert!(status.info().is_some(), "{word:?} ended with {status}");
        only_forward(leaf, &before, &state);
        if status.is_error() {
            unchanged(leaf, before, state.clone(), status);
        } else {
            self.done(lp, leaf, &regs, &before, &state, status);
        }
        if !MODELLED_LEAVES.contains(&leaf) || word.reserved() != 0 {
            let admitted = [
                StatusCode::OPERAND_INVALID.with_operand(OperandId::RAX),
                StatusCode::SYS_NOT_READY.plain(),
                StatusCode::SYS_SHUTDOWN.plain(),
            ];
            assert!(admitted.contains(&status), "{word:?} ended with {status}");
            assert_eq!(Registers { rax: regs.rax, ..after }, regs, "{word:?}");
        }
        if leaf == SeamcallLeaf::SYS_RDALL
            && (status == Status::SUCCESS || status.is(StatusCode::METADATA_LIST_OVERFLOW))
        {
            self.is_metadata_list(regs.rdx);
        }
        Ok(after)
    }

    /// VMfailInvalid has a reason.
    fn nobody_may_answer(&self, lp: LpIndex, word: LeafWord, before: &Seen) {
        let busy = self.machine().spec().chaos.busy != 0;
        let disabled = before.module.as_ref().is_none_or(|module| module.disabled);
        let fine = if word.is_seamldr() {
            busy || before.loader.shut_down
        } else {
            disabled || !before.loader.seam_ready || self.shut_down.borrow().contains(&lp)
        };
        assert!(fine, "{word:?} on {lp}: nobody answered");
    }

    /// What holds after each call of SEAMLDR.INSTALL.
    fn install_called(&self, status: SeamldrStatus, rdx: u64, before: &Seen, seen: &Seen) {
        let lps = u32::try_from(self.machine().lps().len()).expect("two");
        let (old, new) = (&before.loader, &seen.loader);
        let called = old.session_lps.unwrap_or(0);
        let success = status == SeamldrStatus::SUCCESS;
        if old.session_lps.is_none() && new.session_lps.is_some() {
            self.was_ready.set(old.seam_ready);
        }
        let other_flow = new.shutdown_lps != 0 || new.cleanup_lps.is_some();
        if status == SeamldrStatus::EUNSPECERR
            || (status == SeamldrStatus::EBADCALL && (new.session_lps.is_some() || other_flow))
        {
            assert_eq!((rdx, seen), (0, before), "{status:?} is before anything is done");
            return;
        }
        let left = |loader: &LoaderInspection| loader.config.remaining_updates;
        if called + 1 < lps {
            assert_eq!((status, rdx), (SeamldrStatus::SUCCESS, 0), "not the last LP");
            assert_eq!((new.session_lps, new.seam_ready), (Some(called + 1), false));
            assert_eq!((&seen.module, left(new)), (&before.module, left(old)));
            return;
        }
        assert_eq!(new.session_lps, None, "the last LP ends the session");
        match (success, rdx) {
            (true, 0) => {
                let module = seen.module.as_ref().expect("a module was installed");
                assert!(new.seam_ready && module.initialised_lps.is_empty() && module.tdmrs.is_empty());
                self.shut_down.borrow_mut().clear();
            }
            (false, 0) => {
                assert_eq!(seen.module, before.module, "{status:?} is recoverable");
                assert_eq!((new.seam_ready, left(new)), (self.was_ready.get(), left(old)), "{status:?}");
            }
            (false, 1) => assert_eq!((&seen.module, new.seam_ready), (&None, false), "{status:?}"),
            _ => panic!("{status:?} with RDX {rdx:#x}"),
        }
    }

    /// What holds after each call of SEAMLDR.SHUTDOWN.
    fn loader_shutdown_called(&self, status: SeamldrStatus, before: &Seen, seen: &Seen) {
        let lps = u32::try_from(self.machine().lps().len()).expect("two");
        let (old, new) = (&before.loader, &seen.loader);
        let called = new.shutdown_lps;
        match status {
            SeamldrStatus::ECLEANUPREQ => assert!(old.dirty && seen == before),
            SeamldrStatus::EBADCALL if called == lps => assert!(!new.shut_down && !new.seam_ready),
            SeamldrStatus::SUCCESS => {
                assert!((old.shutdown_lps..=old.shutdown_lps + 1).contains(&called) && !new.seam_ready);
                assert_eq!(new.shut_down, called == lps);
                let module = if new.shut_down { &None } else { &before.module };
                assert_eq!(&seen.module, module);
            }
            _ => assert_eq!(seen, before, "{status:?} is before anything is done"),
        }
    }

    /// What holds after each call of SEAMLDR.CLEANUP.
    fn cleanup_called(&self, status: SeamldrStatus, before: &Seen, seen: &Seen) {
        let (old, new) = (&before.loader, &seen.loader);
        let through = old.cleanup_lps.unwrap_or(0);
        match status {
            SeamldrStatus::SUCCESS => {
                let lps = u32::try_from(self.machine().lps().len()).expect("two");
                let is_last = through + 1 == lps;
                assert_eq!(new.cleanup_lps, (!is_last).then_some(through + 1));
                assert!(!new.seam_ready);
                if is_last {
                    assert!(!new.dirty && seen.module.is_none());
                } else {
                    assert_eq!(new.dirty, old.dirty);
                }
            }
            // The first call ever has no canary, or a key was not programmed.
            SeamldrStatus::EUNSPECERR if seen == before => {}
            SeamldrStatus::EINTERRUPT | SeamldrStatus::ENOENTROPY | SeamldrStatus::EUNSPECERR => {
                assert_eq!(new.cleanup_lps, Some(through), "it goes on");
                assert!(old.dirty && new.dirty && !new.seam_ready);
            }
            _ => assert_eq!(seen, before, "{status:?} is before anything is done"),
        }
    }

    /// What success means.
    fn done(
        &self,
        lp: LpIndex,
        leaf: SeamcallLeaf,
        regs: &Registers,
        before: &ModuleInspection,
        state: &ModuleInspection,
        status: Status,
    ) {
        let success = status == Status::SUCCESS;
        match leaf {
            SeamcallLeaf::SYS_INIT => assert_eq!(state.state, ModuleState::SysInitDone),
            SeamcallLeaf::SYS_LP_INIT => assert!(state.initialised_lps.contains(&lp)),
            SeamcallLeaf::SYS_CONFIG => {
                assert_eq!(state.global_key.map(|key| u64::from(key.number())), Some(regs.r8));
                assert_eq!(state.tdmrs.len() as u64, regs.rdx);
                assert_eq!(state.state, ModuleState::SysConfigDone);
            }
            SeamcallLeaf::SYS_KEY_CONFIG if success => {
                assert_eq!(state.configured_packages.len(), before.configured_packages.len() + 1);
            }
            SeamcallLeaf::SYS_TDMR_INIT => {
                let step = if success { STEP } else { 0 };
                assert_eq!(initialised(state), initialised(before) + step, "{status}");
            }
            SeamcallLeaf::SYS_DISABLE => assert!(state.disabled),
            SeamcallLeaf::SYS_SHUTDOWN => {
                assert_eq!(state.state, ModuleState::SysShutdown);
                let version = state.handoff.map(|handoff| u64::from(handoff.version));
                assert_eq!(version, Some(regs.rcx & 0xFFFF));
            }
            SeamcallLeaf::SYS_UPDATE => {
                assert_eq!((state.state, state.handoff), (ModuleState::SysReady, None));
                assert!(state.global_key.is_some() && !state.tdmrs.is_empty());
            }
            // Since 1.5 it does nothing, in any state.
            SeamcallLeaf::SYS_LP_SHUTDOWN if state.profile.generation == Generation::V1_0 => {
                self.shut_down.borrow_mut().insert(lp);
            }
            _ if works_on_connect(leaf) => only_connect_changed(leaf, before, state),
            _ => assert_eq!(state, before, "{leaf} only reads"),
        }
    }

    /// What RDALL wrote reads as a list.
    fn is_metadata_list(&self, operand: u64) {
        let (pa, key) = self.machine().address_layout().split(operand).expect("the module took it");
        let mut page = [0; 4096];
        // A page that the host may not read has no memory, and what the module wrote there is lost.
        if self.machine().read(pa, key, &mut page).is_ok()
            && let Ok(mut list) = ListReader::new(&page)
        {
            assert!(list.all(|sequence| sequence.is_ok()), "RDALL wrote no list");
        }
    }

    /// Whatever was done: switched off and on, the host brings the machine up.
    pub(crate) fn comes_up_after_power_cycle(&self) {
        self.platform.power_cycle();
        let host = TdxHost::new(Arc::clone(&self.platform), HostOptions::default());
        let result = host.bring_up(&());
        if self.machine().spec().module.profile == "1.0" {
            assert_eq!(result.expect_err("TDX 1.0 has no SYS.RD").name(), "module-too-old");
        } else {
            let report = result.expect("a healthy machine comes up");
            assert_eq!(report.tdmr_init_calls, report.tdmr_bytes / SIZE_1G * 256);
            assert!(host.device().is_some());
        }
        assert_eq!(self.platform.page_accounts().leaked, 0);
    }
}

fn initialised(state: &ModuleInspection) -> u64 {
    state.tdmrs.iter().map(|tdmr| tdmr.initialised_bytes).sum()
}

/// The registers that no modelled leaf writes.
fn inputs_only(regs: &Registers) -> Registers {
    Registers { rax: 0, rcx: 0, rdx: 0, r8: 0, r9: 0, r10: 0, r11: 0, ..*regs }
}

/// Nothing of a module's life is ever taken back, but for the TDMRs that DISABLE gives up.
fn only_forward(leaf: SeamcallLeaf, before: &ModuleInspection, state: &ModuleInspection) {
    assert!(state.state >= before.state, "{:?} after {:?}", state.state, before.state);
    assert!(state.disabling >= before.disabling && state.disabled >= before.disabled);
    assert!(before.initialised_lps.iter().all(|lp| state.initialised_lps.contains(lp)));
    assert!(before.configured_packages.iter().all(|package| state.configured_packages.contains(package)));
    if leaf == SeamcallLeaf::SYS_DISABLE {
        assert!(before.tdmrs.len() == state.tdmrs.len() && initialised(state) <= initialised(before));
    } else {
        assert!(before.tdmrs.len() <= state.tdmrs.len() && initialised(before) <= initialised(state));
    }
}

/// Leaves of the extensions and of TDX Connect.
fn works_on_connect(leaf: SeamcallLeaf) -> bool {
    matches!(leaf, SeamcallLeaf::EXT_INIT | SeamcallLeaf::EXT_MEM_ADD) || matches!(leaf.0, 128..=145)
}

/// What they may do: no page has two owners, and the pool gives none back.
fn only_connect_changed(leaf: SeamcallLeaf, before: &ModuleInspection, state: &ModuleInspection) {
    let without = |one: &ModuleInspection| ModuleInspection { connect: None, ..one.clone() };
    assert_eq!(without(state), without(before), "{leaf}");
    let (Some(before), Some(after)) = (&before.connect, &state.connect) else {
        panic!("{leaf} of a module that is not configured");
    };
    assert!(after.pages.is_sorted_by(|(one, _), (next, _)| one.end() <= next.start()), "{after:?}");
    assert!(after.pool_pages_given >= before.pool_pages_given);
}

/// An error changes nothing, but for the KeyID that a refused CONFIG keeps and for the progress of
/// DISABLE.
fn unchanged(leaf: SeamcallLeaf, before: ModuleInspection, state: ModuleInspection, status: Status) {
    let compared = [before, state].map(|mut one| {
        match leaf {
            SeamcallLeaf::SYS_CONFIG => one.key_ids.clear(),
            SeamcallLeaf::SYS_DISABLE if status.is(StatusCode::INTERRUPTED_RESUMABLE) => {
                one.key_ids.clear();
                one.tdmrs.clear();
                one.handoff = None;
                one.disabling = false;
            }
            SeamcallLeaf::SYS_DISABLE => one.disabling = false,
            _ if works_on_connect(leaf) && status.is(StatusCode::INTERRUPTED_RESUMABLE) => one.connect = None,
            _ => {}
        }
        one
    });
    assert_eq!(compared[0], compared[1], "{leaf} ended with {status}");
}
