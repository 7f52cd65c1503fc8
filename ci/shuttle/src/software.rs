//! P-SEAMLDR and the module: just enough of each that an update can go right or wrong.

use tdx_abi::Registers;
use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::{FieldId, sys};
use tdx_abi::seamldr::{SCENARIO_UPDATE, SEAMEXTEND_VALID, SeamldrInfo, SeamldrParams, Version};
use tdx_abi::status::{SeamldrStatus, Status, StatusCode};
use tdx_host::traits::SeamcallFault;
use tdx_image::Svn;
use zerocopy::{FromZeros, IntoBytes};

use crate::memory::Memory;

/// Version of the module that the machine starts with.
pub const VERSION: Version = Version::new(1, 5, 6);
const HANDOFF_VERSION: u64 = 1;
/// Security version of every module here.
pub(crate) const SVN: Svn = Svn { major: 1, minor: 4 };

/// What a call does instead of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The module ends with this status.
    Status(Status),
    /// P-SEAMLDR ends a session with this status; true: it cannot be tried again.
    Session(SeamldrStatus, bool),
    /// SEAMCALL gets nowhere.
    Fault(SeamcallFault),
}

/// One module from its installation to its end.
#[derive(Clone, Debug)]
struct Instance {
    version: Version,
    /// It was told to take the state of its predecessor over, and did not yet.
    owes_update: bool,
    initialised: bool,
    shut_down: bool,
    lps: Vec<bool>,
    /// Base, size and bytes done.
    tdmrs: Vec<(u64, u64, u64)>,
}

impl Instance {
    fn new(version: Version, cpus: usize, owes_update: bool) -> Self {
        let lps = vec![false; cpus];
        Self { version, owes_update, initialised: false, shut_down: false, lps, tdmrs: Vec::new() }
    }

    fn field(&self, field: u64) -> Option<u64> {
        let values = [
            (sys::MAJOR_VERSION, u64::from(self.version.major)),
            (sys::MINOR_VERSION, u64::from(self.version.minor)),
            (sys::UPDATE_VERSION, u64::from(self.version.update)),
            (sys::BUILD_DATE, 20_250_000 + u64::from(self.version.update)),
            (sys::BUILD_NUM, 600 + u64::from(self.version.update)),
            (sys::TDX_FEATURES0, Features0::TD_PRESERVING.bits() | Features0::NO_RBP_MOD.bits()),
            (sys::MODULE_HV, HANDOFF_VERSION),
            (sys::MIN_UPDATE_HV, HANDOFF_VERSION),
            (sys::NO_DOWNGRADE, 0),
            (sys::MAX_TDMRS, 64),
            (sys::MAX_RESERVED_PER_TDMR, 16),
            (sys::PAMT_4K_ENTRY_SIZE, 16),
            (sys::PAMT_2M_ENTRY_SIZE, 16),
            (sys::PAMT_1G_ENTRY_SIZE, 16),
            (sys::TDR_BASE_SIZE, 4096),
            (sys::TDCS_BASE_SIZE, 24576),
            (sys::TDVPS_BASE_SIZE, 24576),
            (sys::ATTRIBUTES_FIXED0, 0x8000_0000_7000_0001),
            (sys::ATTRIBUTES_FIXED1, 0),
            (sys::XFAM_FIXED0, 0x6_DBE7),
            (sys::XFAM_FIXED1, 3),
            (sys::NUM_CPUID_CONFIG, 0),
            (sys::NUM_CMRS, 1),
            (sys::CMR_BASE, 0),
            (sys::CMR_SIZE, CMR_BYTES),
        ];
        values.iter().find(|(id, _)| id.0 == field).map(|&(_, value)| value)
    }
}

/// The field that users read, and that no walk of the host reads once the machine is up.
pub(crate) const USED_FIELD: FieldId = sys::NUM_CMRS;

/// Bytes of the only convertible memory range.
pub(crate) const CMR_BYTES: u64 = 1 << 30;

/// A call to be spoilt.
#[derive(Clone, Copy, Debug)]
struct Spoilt {
    leaf: LeafWord,
    cpu: Option<usize>,
    outcome: Outcome,
    times: u32,
}

/// Everything in the SEAM range.
#[derive(Debug)]
pub struct Software {
    cpus: usize,
    module: Option<Instance>,
    seam_ready: bool,
    /// CPUs that called SEAMLDR.INSTALL in this session.
    session: Vec<bool>,
    loader_busy: bool,
    /// CPUs inside the module.
    inside: usize,
    /// Calls that are interrupted in the module.
    interrupted: usize,
    remaining_updates: u32,
    spoilt: Vec<Spoilt>,
    violations: Vec<String>,
    installs: u32,
    shutdowns: u32,
    /// Calls that each CPU began after a crash.
    after_crash: Option<Vec<u32>>,
}

impl Software {
    pub(crate) fn new(cpus: usize) -> Self {
        Self {
            cpus,
            module: Some(Instance::new(VERSION, cpus, false)),
            seam_ready: true,
            session: vec![false; cpus],
            loader_busy: false,
            inside: 0,
            interrupted: 0,
            remaining_updates: 10,
            spoilt: Vec::new(),
            violations: Vec::new(),
            installs: 0,
            shutdowns: 0,
            after_crash: None,
        }
    }

    /// A call of Connect is interrupted in the module, which must not go before it is resumed.
    pub(crate) fn call_interrupted(&mut self) {
        self.interrupted += 1;
    }

    pub(crate) fn call_resumed(&mut self) {
        self.interrupted -= 1;
    }

    pub(crate) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn spoil(&mut self, leaf: LeafWord, cpu: Option<usize>, outcome: Outcome, times: u32) {
        self.spoilt.push(Spoilt { leaf, cpu, outcome, times });
    }

    /// Version of the module that answers calls of users; `None` while none does.
    pub fn version_in_service(&self) -> Option<Version> {
        let module = self.module.as_ref().filter(|_| self.seam_ready)?;
        let serves = module.initialised && !module.shut_down && !module.owes_update;
        serves.then_some(module.version)
    }

    /// True if the CPU made itself known to the module that is loaded and was not shut down.
    pub fn knows(&self, cpu: usize) -> bool {
        self.module.as_ref().is_some_and(|module| !module.shut_down && module.lps.get(cpu) == Some(&true))
    }

    /// Modules that were installed since the machine was switched on.
    pub fn installs(&self) -> u32 {
        self.installs
    }

    /// Modules that were shut down for a successor.
    pub fn shutdowns(&self) -> u32 {
        self.shutdowns
    }

    /// Updates that the loader still takes.
    pub fn remaining_updates(&self) -> u32 {
        self.remaining_updates
    }

    /// A call enters: the way to the module or the loader.
    pub(crate) fn enter(&mut self, cpu: usize, word: LeafWord, user: bool) -> Result<(), SeamcallFault> {
        // One call may have been on its way to the instruction, which a crash stops on a real CPU.
        if let Some(calls) = &mut self.after_crash {
            calls[cpu] += 1;
            if calls[cpu] > 1 {
                self.violation(format!("CPU {cpu} called {word:?} after a crash"));
            }
        }
        if word.is_seamldr() {
            if self.loader_busy {
                self.violation(format!("CPU {cpu} called P-SEAMLDR while another was inside"));
                return Err(SeamcallFault::VmFailInvalid);
            }
            self.loader_busy = true;
            return Ok(());
        }
        if !self.seam_ready {
            self.violation(format!("{} called {word:?} out of turn: no module is ready", caller(cpu, user)));
            return Err(SeamcallFault::VmFailInvalid);
        }
        if user && self.module.as_ref().is_some_and(|module| module.owes_update) {
            self.violation(format!(
                "{} reached a module that had not taken its state over",
                caller(cpu, user)
            ));
        }
        self.inside += 1;
        Ok(())
    }

    /// The call that entered does its work and leaves.
    pub(crate) fn work(
        &mut self,
        cpu: usize,
        word: LeafWord,
        registers: &mut Registers,
        memory: &mut Memory,
        all_online: bool,
    ) -> Result<(), SeamcallFault> {
        let spoilt = self.take_spoilt(cpu, word);
        if word.is_seamldr() {
            self.loader_busy = false;
            registers.rax = match spoilt {
                Some(Outcome::Fault(fault)) => return Err(fault),
                Some(Outcome::Status(status)) => status.raw(),
                Some(Outcome::Session(status, gone)) => {
                    registers.rdx = u64::from(gone);
                    self.end_session(gone);
                    status.0
                }
                None => self.loader(cpu, word, registers, memory).0,
            };
            return Ok(());
        }
        let alone = self.inside == 1;
        self.inside -= 1;
        registers.rax = match spoilt {
            Some(Outcome::Fault(fault)) => return Err(fault),
            Some(Outcome::Status(status)) => status.raw(),
            Some(Outcome::Session(status, _)) => status.0,
            None => self.module(cpu, word, registers, memory, alone, all_online).raw(),
        };
        Ok(())
    }

    fn take_spoilt(&mut self, cpu: usize, word: LeafWord) -> Option<Outcome> {
        // Only the last CPU of a session gets to what can fail.
        let last = self.session.iter().filter(|called| !**called).count() == 1;
        let fits = |one: &&mut Spoilt| {
            let now = last || !matches!(one.outcome, Outcome::Session(..));
            one.times != 0 && one.leaf == word && now && one.cpu.is_none_or(|wanted| wanted == cpu)
        };
        let spoilt = self.spoilt.iter_mut().find(fits)?;
        spoilt.times -= 1;
        Some(spoilt.outcome)
    }

    /// The end of a session that failed.
    fn end_session(&mut self, gone: bool) {
        self.session.fill(false);
        if gone {
            self.module = None;
        }
        self.seam_ready = self.module.is_some();
    }

    fn loader(
        &mut self,
        cpu: usize,
        word: LeafWord,
        registers: &mut Registers,
        memory: &mut Memory,
    ) -> SeamldrStatus {
        match SeamldrLeaf(word.leaf()) {
            SeamldrLeaf::INFO => {
                let mut info = SeamldrInfo::new_zeroed();
                info.major_version = 1.into();
                info.minor_version = 5.into();
                info.num_remaining_updates = self.remaining_updates.into();
                info.seamextend_valid = SEAMEXTEND_VALID.into();
                info.tcb_svn = SVN.raw().into();
                info.seam_ready = u8::from(self.seam_ready);
                info.p_seam_ready = 1;
                memory.write(registers.rcx, info.as_bytes());
                SeamldrStatus::SUCCESS
            }
            SeamldrLeaf::INSTALL => self.install(cpu, registers, memory),
            _ => SeamldrStatus::EBADPARAM,
        }
    }

    fn install(&mut self, cpu: usize, registers: &mut Registers, memory: &Memory) -> SeamldrStatus {
        registers.rdx = 0;
        if self.session[cpu] {
            self.violation(format!("CPU {cpu} called SEAMLDR.INSTALL out of turn: twice in a session"));
            return SeamldrStatus::EBADCALL;
        }
        if self.module.as_ref().is_some_and(|module| !module.shut_down) {
            self.violation("SEAMLDR.INSTALL out of turn: the module was not shut down".to_owned());
        }
        self.session[cpu] = true;
        self.seam_ready = false;
        if self.session.contains(&false) {
            return SeamldrStatus::SUCCESS;
        }
        self.session.fill(false);
        let Some(version) = installed_version(registers.rcx, memory) else {
            self.seam_ready = true;
            return SeamldrStatus::EBADPARAM;
        };
        self.module = Some(Instance::new(version, self.cpus, true));
        self.seam_ready = true;
        self.installs += 1;
        self.remaining_updates -= 1;
        SeamldrStatus::SUCCESS
    }

    fn module(
        &mut self,
        cpu: usize,
        word: LeafWord,
        registers: &mut Registers,
        memory: &Memory,
        alone: bool,
        all_online: bool,
    ) -> Status {
        let (leaf, user) = (SeamcallLeaf(word.leaf()), is_used(word, registers));
        let Some(module) = &mut self.module else {
            self.violation(format!("{leaf} out of turn: there is no module"));
            return StatusCode::SYS_NOT_READY.plain();
        };
        if module.shut_down {
            self.violation(format!(
                "{} called {leaf} out of turn: the module was shut down",
                caller(cpu, user)
            ));
            return StatusCode::SYS_SHUTDOWN.plain();
        }
        let starting = matches!(leaf, SeamcallLeaf::SYS_INIT | SeamcallLeaf::SYS_LP_INIT);
        if !starting && !module.lps[cpu] {
            self.violation(format!(
                "{} called {leaf} out of turn: before TDH.SYS.LP.INIT",
                caller(cpu, user)
            ));
            return StatusCode::SYS_NOT_READY.plain();
        }
        match leaf {
            SeamcallLeaf::SYS_INIT if module.initialised => {
                self.violation("TDH.SYS.INIT out of turn: it was called before".to_owned());
                return StatusCode::SYS_NOT_READY.plain();
            }
            SeamcallLeaf::SYS_INIT => module.initialised = true,
            SeamcallLeaf::SYS_LP_INIT if !module.initialised || module.lps[cpu] => {
                self.violation(format!("CPU {cpu} called TDH.SYS.LP.INIT out of turn"));
                return StatusCode::SYS_NOT_READY.plain();
            }
            SeamcallLeaf::SYS_LP_INIT => module.lps[cpu] = true,
            SeamcallLeaf::SYS_RD => {
                let Some(value) = module.field(registers.rdx) else {
                    return StatusCode::METADATA_FIELD_ID_INCORRECT.plain();
                };
                registers.r8 = value;
            }
            SeamcallLeaf::SYS_CONFIG => {
                for k in 0..registers.rdx {
                    let info = memory.word(registers.rcx + 8 * k);
                    module.tdmrs.push((memory.word(info), memory.word(info + 8), 0));
                }
            }
            SeamcallLeaf::SYS_TDMR_INIT => {
                let tdmr = module.tdmrs.iter_mut().find(|tdmr| tdmr.0 == registers.rcx);
                let Some((base, size, done)) = tdmr else {
                    return StatusCode::SYS_NOT_READY.plain();
                };
                *done = *size;
                registers.rdx = *base + *done;
            }
            SeamcallLeaf::SYS_SHUTDOWN => {
                if !alone {
                    return StatusCode::SYS_BUSY.plain();
                }
                module.shut_down = true;
                self.shutdowns += 1;
                if self.interrupted > 0 {
                    self.violation("TDH.SYS.SHUTDOWN in the middle of a call of Connect".to_owned());
                }
                if !all_online {
                    self.violation(
                        "the set of CPUs: TDH.SYS.SHUTDOWN with one offline, no INSTALL can end".to_owned(),
                    );
                }
            }
            SeamcallLeaf::SYS_UPDATE => {
                let owed = std::mem::take(&mut module.owes_update);
                if !owed || module.lps.contains(&false) {
                    self.violation("TDH.SYS.UPDATE out of turn".to_owned());
                }
            }
            _ => {}
        }
        StatusCode::SUCCESS.plain()
    }

    pub(crate) fn crashed(&mut self) {
        self.after_crash = Some(vec![0; self.cpus]);
    }
}

/// True for a call that only users make.
pub(crate) fn is_used(word: LeafWord, registers: &Registers) -> bool {
    word == LeafWord::module(SeamcallLeaf::SYS_RD, 0) && registers.rdx == USED_FIELD.0
}

/// Who called, in words.
fn caller(cpu: usize, user: bool) -> String {
    if user { format!("a user on CPU {cpu}") } else { format!("CPU {cpu}") }
}

/// The version of the image that SEAMLDR_PARAMS at `params` describes: a real loader measures the module,
/// this one reads the words that [`image`](crate::image) put at its start.
fn installed_version(params: u64, memory: &Memory) -> Option<Version> {
    let mut read = SeamldrParams::new_zeroed();
    memory.read(params, read.as_mut_bytes());
    let sound = read.scenario.get() == SCENARIO_UPDATE && read.num_module_pages.get() == 1;
    let mut words = [0; 6];
    memory.read(read.module_pages[0].get(), &mut words);
    let [major, minor, update] = [0, 2, 4].map(|at| u16::from_le_bytes([words[at], words[at + 1]]));
    sound.then_some(Version::new(major, minor, update))
}
