//! A module image in memory, and all LPs calling SEAMLDR.INSTALL.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use tdx_abi::Registers;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::seamldr::{SCENARIO_LOAD, SCENARIO_UPDATE, SeamldrParams, Version};
use tdx_abi::status::SeamldrStatus;
use tdx_image::Sigstruct;
use tdx_image::build::{self, ModuleSpec};
use tdx_module::{Inspection, LoaderConfig, LoaderGeneration};
use zerocopy::{FromZeros, IntoBytes};

use super::{Bench, Facts, LPS, config};

/// SEAMLDR_PARAMS.
pub(crate) const PARAMS: u64 = 0x4000_0000;
/// Page of the SIGSTRUCT.
pub(crate) const SIGSTRUCT: u64 = 0x4000_1000;
/// Pages of the module, in descending order, so that nobody takes them for one piece.
const LAST_PAGE: u64 = 0x4010_0000;
/// SEAMLDR_INFO.
pub(crate) const INFO: u64 = 0x4000_2000;

/// Everything that INSTALL looks at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setup {
    /// Release of the module that is there; `None`: an empty slot.
    pub(crate) running: Option<&'static str>,
    pub(crate) loader: LoaderConfig,
    pub(crate) sigstruct: Box<Sigstruct>,
    pub(crate) module: Vec<u8>,
    pub(crate) params: SeamldrParams,
    pub(crate) rcx: u64,
    /// Header of the hand-off area: valid, version, size.
    pub(crate) handoff: (bool, u16, u32),
    pub(crate) facts: Facts,
    /// The SIGSTRUCT is somebody else's: it stays as it is.
    pub(crate) as_signed: bool,
    pub(crate) flaws: BTreeSet<Flaw>,
}

/// What is wrong with a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flaw {
    /// The modulus is of an unknown key.
    ForeignKey,
    WrongSignature,
    /// What was signed is the hash of another module.
    WrongHash,
}

fn image() -> &'static (Box<Sigstruct>, Vec<u8>) {
    static IMAGE: OnceLock<(Box<Sigstruct>, Vec<u8>)> = OnceLock::new();
    IMAGE.get_or_init(|| build::module(&spec(Version::new(1, 5, 9), "")).expect("a sound specification"))
}

/// A small module with the SVN of its release and the CPU of the fake machine.
pub(crate) fn spec(version: Version, profile: &str) -> ModuleSpec {
    let mut spec = ModuleSpec::new(version, profile);
    spec.cpus = vec![0xA06D8];
    spec.pages = build::MIN_PAGES;
    spec
}

impl Setup {
    /// UPDATE of 1.5.05 to 1.5.09, which goes well.
    pub(crate) fn update() -> Self {
        let (sigstruct, module) = image().clone();
        Self::with(Some("1.5.05"), sigstruct, module)
    }

    /// UPDATE of `running` to a module that is built like this.
    pub(crate) fn to(running: &'static str, spec: &ModuleSpec) -> Self {
        let (sigstruct, module) = build::module(spec).expect("a sound specification");
        Self::with(Some(running), sigstruct, module)
    }

    /// LOAD of 1.5.09 where nothing is.
    pub(crate) fn load() -> Self {
        let mut setup = Self::update();
        setup.running = None;
        setup.params.scenario.set(SCENARIO_LOAD);
        setup
    }

    /// LOAD of an image that was signed elsewhere.
    pub(crate) fn image(sigstruct: Box<Sigstruct>, module: Vec<u8>) -> Self {
        let mut setup = Self::with(None, sigstruct, module);
        setup.as_signed = true;
        setup.scenario(SCENARIO_LOAD)
    }

    fn with(running: Option<&'static str>, sigstruct: Box<Sigstruct>, module: Vec<u8>) -> Self {
        let mut params = SeamldrParams::new_zeroed();
        params.scenario.set(SCENARIO_UPDATE);
        params.sigstruct_pa.set(SIGSTRUCT);
        let pages = module.len().div_ceil(4096) as u64;
        params.num_module_pages.set(pages);
        for (slot, index) in params.module_pages.iter_mut().zip(0..pages) {
            slot.set(LAST_PAGE - 4096 * index);
        }
        Self {
            running,
            loader: LoaderConfig::default(),
            sigstruct,
            module,
            params,
            rcx: PARAMS,
            handoff: (true, 0, 0xD08A),
            facts: Facts::default(),
            as_signed: false,
            flaws: BTreeSet::new(),
        }
    }

    /// Adds a flaw.
    pub(crate) fn spoil(&mut self, flaw: Flaw) {
        self.flaws.insert(flaw);
    }

    pub(crate) fn generation(mut self, generation: LoaderGeneration) -> Self {
        self.loader.generation = generation;
        self
    }

    pub(crate) fn scenario(mut self, scenario: u32) -> Self {
        self.params.scenario.set(scenario);
        self
    }

    /// A machine on which this stands.
    pub(crate) fn bench(&self) -> Bench {
        let bench = Bench::with_loader(self.running.map(config), self.loader);
        self.place(&bench);
        bench
    }

    /// Puts parameters, SIGSTRUCT, module and hand-off header in place.
    pub(crate) fn place(&self, bench: &Bench) {
        let mut sigstruct = self.sigstruct.clone();
        if !self.as_signed {
            build::seal(&mut sigstruct, &self.module);
        }
        if self.flaws.contains(&Flaw::WrongHash) {
            sigstruct.seamhash[7] ^= 1;
            build::resign(&mut sigstruct);
        }
        if self.flaws.contains(&Flaw::WrongSignature) {
            sigstruct.signature[9] ^= 1;
        }
        if self.flaws.contains(&Flaw::ForeignKey) {
            sigstruct.modulus[3] ^= 1;
        }
        let mut facts = self.facts.clone();
        facts.memory = bench.hw.facts().memory;
        put(&mut facts, PARAMS, self.params.as_bytes());
        put(&mut facts, SIGSTRUCT, sigstruct.as_bytes());
        for (index, page) in (0..).zip(self.module.chunks(4096)) {
            put(&mut facts, LAST_PAGE - 4096 * index, page);
        }
        bench.hw.restore(facts);
        let (valid, version, size) = self.handoff;
        let mut header = [u8::from(valid), 0, 0, 0, 0, 0, 0, 0];
        header[2..4].copy_from_slice(&version.to_le_bytes());
        header[4..].copy_from_slice(&size.to_le_bytes());
        bench.software.set_handoff_area(&header);
    }

    /// All LPs call, in order: what the last one got.
    pub(crate) fn run(&self) -> (Bench, Registers) {
        let bench = self.bench();
        let last = self.call_all(&bench);
        (bench, last)
    }

    pub(crate) fn call_all(&self, bench: &Bench) -> Registers {
        for lp in 0..LPS - 1 {
            let regs = self.call(bench, lp);
            assert_eq!((regs.rax, regs.rdx), (0, 0), "LP {lp} is not the last");
        }
        self.call(bench, LPS - 1)
    }

    pub(crate) fn call(&self, bench: &Bench, lp: u32) -> Registers {
        bench.raw(lp, install(self.rcx)).expect("the loader answers")
    }
}

fn put(facts: &mut Facts, pa: u64, bytes: &[u8]) {
    for (index, word) in (0..).zip(bytes.chunks_exact(8)) {
        facts.memory.insert(pa + 8 * index, u64::from_le_bytes(word.try_into().expect("8 bytes")));
    }
}

/// INSTALL, with something in RDX that the loader must overwrite.
pub(crate) fn install(rcx: u64) -> Registers {
    let rax = LeafWord::seamldr(SeamldrLeaf::INSTALL).raw();
    Registers { rax, rcx, rdx: 0x77, ..Registers::default() }
}

/// A call of a leaf with RCX, and something in RDX that must stay.
pub(crate) fn leaf(bench: &Bench, lp: u32, leaf: SeamldrLeaf, rcx: u64) -> SeamldrStatus {
    let regs = Registers { rax: LeafWord::seamldr(leaf).raw(), rcx, rdx: 0x77, ..Registers::default() };
    let after = bench.raw(lp, regs).expect("the loader answers");
    assert_eq!(after, Registers { rax: after.rax, ..regs }, "{leaf} has no output but RAX");
    SeamldrStatus(after.rax)
}

/// SEAMLDR_INFO as LP 0 reads it.
pub(crate) fn info(bench: &Bench) -> Vec<u8> {
    let rax = LeafWord::seamldr(SeamldrLeaf::INFO).raw();
    let regs = bench.raw(0, Registers { rax, rcx: INFO, ..Registers::default() }).expect("an answer");
    assert_eq!(SeamldrStatus(regs.rax), SeamldrStatus::SUCCESS);
    bench.hw.bytes(INFO, 256)
}

/// True if a SEAMCALL reaches a module.
pub(crate) fn reaches_a_module(bench: &Bench) -> bool {
    let rd = Registers { rax: u64::from(SeamcallLeaf::SYS_LP_SHUTDOWN.0), ..Registers::default() };
    bench.raw(0, rd).is_some()
}

/// State of loader and module; the numbers of calls are left out.
pub(crate) fn state(bench: &Bench) -> Inspection {
    let mut state = bench.software.inspect();
    state.loader.calls = 0;
    if let Some(module) = &mut state.module {
        module.calls.clear();
    }
    state
}

/// Status and RDX.
pub(crate) fn status(regs: Registers) -> (SeamldrStatus, u64) {
    (SeamldrStatus(regs.rax), regs.rdx)
}

/// A call that went well.
pub(crate) const DONE: (SeamldrStatus, u64) = (SeamldrStatus::SUCCESS, 0);
