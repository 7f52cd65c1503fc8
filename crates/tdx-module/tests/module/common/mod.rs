//! A module on a fake machine, and the table of cases that a leaf refuses.

pub(crate) mod connect;
pub(crate) mod device;
mod fake;
pub(crate) mod fake_io;
pub(crate) mod install;
pub(crate) mod tee_io;

use std::sync::Arc;

use tdx_abi::Registers;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::status::Status;
use tdx_module::inspect::ModuleInspection;
use tdx_module::{LoaderConfig, LpIndex, ModuleConfig, SeamConfig, SeamSoftware, checks, profile};

pub(crate) use fake::{CMRS, Facts, FakeHardware, GIB, LPS, Moment, SEAMRR};

/// Array of TDMR_INFO addresses.
pub(crate) const TDMR_ARRAY: u64 = 0x20_0000;
/// First TDMR_INFO; the others follow.
pub(crate) const TDMR_INFO: u64 = 0x20_1000;
/// PAMT areas of TDMR i are at `PAMT + i * PAMT_STEP`.
pub(crate) const PAMT: u64 = 0x1000_0000;
pub(crate) const PAMT_STEP: u64 = 0x200_0000;
pub(crate) const PAMT_2M: u64 = 0x180_0000;
pub(crate) const PAMT_1G: u64 = 0x190_0000;
/// Two TDMRs of one and two GiB, with a hole between them.
pub(crate) const TDMRS: [(u64, u64); 2] = [(4 * GIB, GIB), (6 * GIB, 2 * GIB)];
pub(crate) const GLOBAL_KEY: u64 = 32;

/// Where in the bring-up a module stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Loaded,
    Initialised,
    LpsInitialised,
    Configured,
    Ready,
}

/// A module on a machine.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) hw: FakeHardware,
    pub(crate) software: Arc<SeamSoftware>,
}

pub(crate) fn config(profile: &str) -> ModuleConfig {
    ModuleConfig::new(profile::find(profile).expect("a profile"))
}

impl Bench {
    pub(crate) fn new(profile: &str) -> Self {
        Self::with(Some(config(profile)))
    }

    pub(crate) fn with(module: Option<ModuleConfig>) -> Self {
        Self::with_loader(module, LoaderConfig::default())
    }

    pub(crate) fn with_loader(module: Option<ModuleConfig>, loader: LoaderConfig) -> Self {
        let config = SeamConfig { module, loader };
        let bench = Self { hw: FakeHardware::default(), software: Arc::new(SeamSoftware::new(config)) };
        for (index, (base, size)) in TDMRS.into_iter().enumerate() {
            bench.put_tdmr(index as u64, base, size);
        }
        bench
    }

    /// A bench on which the module has come as far as `stage`.
    pub(crate) fn at(profile: &str, stage: Stage) -> Self {
        let bench = Self::new(profile);
        bench.advance(stage);
        bench
    }

    pub(crate) fn advance(&self, stage: Stage) {
        if stage >= Stage::Initialised {
            self.ok(0, SeamcallLeaf::SYS_INIT, Registers::default());
        }
        if stage >= Stage::LpsInitialised {
            for lp in 0..LPS {
                self.ok(lp, SeamcallLeaf::SYS_LP_INIT, Registers::default());
            }
        }
        if stage >= Stage::Configured {
            self.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
        }
        if stage >= Stage::Ready {
            self.program_keys();
        }
    }

    /// From [`Stage::LpsInitialised`] to [`Stage::Ready`].
    pub(crate) fn advance_from_lps(&self) {
        self.ok(0, SeamcallLeaf::SYS_CONFIG, config_regs());
        self.program_keys();
    }

    pub(crate) fn program_keys(&self) {
        for lp in [0, 2] {
            self.ok(lp, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
        }
    }

    /// Writes a TDMR_INFO without reserved areas.
    pub(crate) fn put_tdmr(&self, index: u64, base: u64, size: u64) {
        let pamt = PAMT + index * PAMT_STEP;
        let gib = size / GIB;
        let round = |bytes: u64| bytes.next_multiple_of(4096);
        let words = [
            base,
            size,
            pamt + PAMT_1G,
            round(16 * gib),
            pamt + PAMT_2M,
            round(16 * 512 * gib),
            pamt,
            round(16 * 262_144 * gib),
        ];
        let info = TDMR_INFO + index * 512;
        self.hw.set(|facts| {
            facts.memory.insert(TDMR_ARRAY + 8 * index, info);
            for (offset, word) in words.into_iter().enumerate() {
                facts.memory.insert(info + 8 * offset as u64, word);
            }
        });
    }

    /// Reserved areas of a TDMR_INFO: offset and size.
    pub(crate) fn reserve(&self, index: u64, areas: &[(u64, u64)]) {
        self.hw.set(|facts| {
            for (area, &(offset, size)) in areas.iter().enumerate() {
                facts.tdmr(index, 8 + 2 * area as u64, offset);
                facts.tdmr(index, 9 + 2 * area as u64, size);
            }
        });
    }

    /// Calls with RAX as it is.
    pub(crate) fn raw(&self, lp: u32, regs: Registers) -> Option<Registers> {
        let mut regs = regs;
        self.software.seamcall(&self.hw, LpIndex(lp), &mut regs).ok().map(|()| regs)
    }

    /// Calls version 0 of a leaf.
    pub(crate) fn call(&self, lp: u32, leaf: SeamcallLeaf, regs: Registers) -> Registers {
        self.raw(lp, with_leaf(leaf, 0, regs)).expect("a module that answers")
    }

    pub(crate) fn status(&self, lp: u32, leaf: SeamcallLeaf, regs: Registers) -> Status {
        Status::from_raw(self.call(lp, leaf, regs).rax)
    }

    pub(crate) fn ok(&self, lp: u32, leaf: SeamcallLeaf, regs: Registers) -> Registers {
        let after = self.call(lp, leaf, regs);
        assert_eq!(Status::from_raw(after.rax), Status::SUCCESS, "{leaf} on LP {lp}");
        after
    }

    /// State of the module; the number of calls is left out.
    pub(crate) fn state(&self) -> ModuleInspection {
        let mut module = self.software.inspect().module.expect("a module");
        module.calls.clear();
        module
    }
}

pub(crate) fn with_leaf(leaf: SeamcallLeaf, version: u8, regs: Registers) -> Registers {
    Registers { rax: LeafWord::module(leaf, version).raw(), ..regs }
}

impl Facts {
    /// Sets word `word` of TDMR_INFO `index`: base, size, then base and size of the PAMT for 1G, 2M
    /// and 4K, then offset and size of each reserved area.
    pub(crate) fn tdmr(&mut self, index: u64, word: u64, value: u64) {
        self.memory.insert(TDMR_INFO + 512 * index + 8 * word, value);
    }
}

/// Operands of SYS.CONFIG for both TDMRs.
pub(crate) fn config_regs() -> Registers {
    Registers { rcx: TDMR_ARRAY, rdx: 2, r8: GLOBAL_KEY, ..Registers::default() }
}

/// One thing that a leaf refuses.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    /// Name of the row.
    pub(crate) row: &'static str,
    /// Makes the row, and no row above it, answer.
    pub(crate) spoil: fn(&mut Facts, &mut Registers),
    pub(crate) status: Status,
    /// Changes the registers as the refusal does; RAX is done.
    pub(crate) outputs: fn(&mut Registers),
}

/// A leaf in a state in which a good call succeeds.
pub(crate) struct Trial {
    pub(crate) bench: fn() -> Bench,
    pub(crate) lp: u32,
    /// Operands and RAX of the good call.
    pub(crate) good: fn() -> Registers,
}

impl Trial {
    /// Each case alone: exact status and outputs, nothing changed but what `kept` names, and the
    /// repaired call succeeds.
    pub(crate) fn refuses(&self, cases: &[Case], kept: fn(&mut ModuleInspection)) {
        for case in cases {
            let row = case.row;
            assert!(checks::find(row).is_some(), "{row} is no row");
            let bench = (self.bench)();
            let healthy = bench.hw.facts();
            let mut regs = (self.good)();
            bench.hw.set(|facts| (case.spoil)(facts, &mut regs));
            let before = bench.state();
            let after = bench.raw(self.lp, regs).expect("a module that answers");
            let mut expected = regs;
            expected.rax = case.status.raw();
            (case.outputs)(&mut expected);
            assert_eq!(Status::from_raw(after.rax), case.status, "{row}");
            assert_eq!(after, expected, "{row}");
            let (mut before, mut state) = (before, bench.state());
            kept(&mut before);
            kept(&mut state);
            assert_eq!(state, before, "{row}");
            bench.hw.restore(healthy);
            let repaired = bench.raw(self.lp, (self.good)()).expect("a module that answers");
            assert_eq!(Status::from_raw(repaired.rax), Status::SUCCESS, "{row} repaired");
        }
    }

    /// Pairs "upper before lower": with both rows violated the upper one answers.
    pub(crate) fn orders(&self, cases: &[Case], pairs: &[&str]) {
        let find = |row: &str| {
            *cases.iter().find(|case| case.row == row).unwrap_or_else(|| panic!("{row} has no case"))
        };
        for pair in pairs {
            let (upper, lower) = pair.split_once(" before ").expect("a pair");
            let (upper, lower) = (find(upper), find(lower));
            let spoiled = |first: Case, second: Case| {
                let bench = (self.bench)();
                let mut regs = (self.good)();
                bench.hw.set(|facts| {
                    (first.spoil)(facts, &mut regs);
                    (second.spoil)(facts, &mut regs);
                });
                (bench, regs)
            };
            let (bench, regs) = spoiled(upper, lower);
            let (other, other_regs) = spoiled(lower, upper);
            // Leaked tables differ in address only, so that equality is that of contents.
            assert_eq!(regs, other_regs, "{pair}: the cases change the same operand");
            assert_eq!(bench.hw.facts(), other.hw.facts(), "{pair}: the cases change the same fact");
            let after = bench.raw(self.lp, regs).expect("a module that answers");
            assert_eq!(Status::from_raw(after.rax), upper.status, "{pair}");
        }
    }
}
