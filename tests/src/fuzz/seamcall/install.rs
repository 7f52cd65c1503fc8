//! Bodies for the way of a module into the SEAM range: SEAMLDR.INSTALL, and the hand-off bytes that a
//! module finds there.

use std::sync::OnceLock;

use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::seamldr::{SCENARIO_LOAD, SCENARIO_UPDATE, Version};
use tdx_abi::status::{SeamldrStatus, Status, StatusCode};
use tdx_abi::{KeyId, PhysAddr, Registers};
use tdx_image::build::{self, ModuleSpec};
use tdx_image::sigstruct::{Sigstruct, Svn};
use tdx_machine::LpIndex;
use tdx_machine::spec::Generation;
use tdx_module::ModuleState;
use tdx_module::inspect::ModuleInspection;
use zerocopy::IntoBytes;

use super::bench::{Bench, SCRATCH, Stage, TDMRS, config_regs};
use super::{CALLS, lp, nearly_good, operand};
use crate::fuzz::bytes::Choices;

/// SEAMLDR_PARAMS, the SIGSTRUCT behind it, then the module.
const PARAMS: u64 = 0x4000_0000;
const SIGSTRUCT: u64 = PARAMS + 4096;
const MODULE: u64 = PARAMS + 2 * 4096;
/// Pages of every module here.
const PAGES: u32 = 5;
/// Offsets in SEAMLDR_PARAMS.
const SCENARIO_AT: u64 = 4;
const SIGSTRUCT_AT: u64 = 8;
const PAGES_AT: u64 = 120;
const LIST_AT: u64 = 128;

type Signed = (Box<Sigstruct>, Vec<u8>);

/// A module that fits, and modules that do not, for one reason each.
fn modules() -> &'static [Signed] {
    static MODULES: OnceLock<Vec<Signed>> = OnceLock::new();
    MODULES.get_or_init(|| {
        let of =
            |update| ModuleSpec { pages: PAGES, ..ModuleSpec::new(Version::new(2, 0, update), "2.0.14") };
        let svn = |major, minor| ModuleSpec { svn: Svn { major, minor }, ..of(14) };
        [
            of(14),
            ModuleSpec { module_handoff_version: 1, ..of(20) },
            svn(3, 0),
            svn(1, 20),
            svn(0, 5),
            ModuleSpec { debug: true, ..of(14) },
            ModuleSpec { relocation_outside: true, ..of(14) },
            ModuleSpec { cpus: Vec::new(), ..of(14) },
            ModuleSpec { cpus: vec![0x806F8], ..of(14) },
            ModuleSpec { min_update_handoff_version: 7, module_handoff_version: 7, ..of(14) },
            ModuleSpec { profile: "nobody's".to_owned(), ..of(14) },
            ModuleSpec {
                svn: Svn { major: 3, minor: 20 },
                module_handoff_version: 2,
                handoff_pages: 4224,
                pages: PAGES,
                ..ModuleSpec::new(Version::new(2, 1, 0), "connect")
            },
        ]
        .iter()
        .map(|spec| build::module(spec).expect("a sound description"))
        .collect()
    })
}

impl Bench {
    fn put(&self, pa: u64, bytes: &[u8]) {
        self.machine().write(PhysAddr::new(pa), KeyId::TME, bytes).expect("RAM");
    }

    /// Writes SEAMLDR_PARAMS and what they point at.
    fn put_image(&self, (sigstruct, module): &Signed, scenario: u32) {
        self.put(PARAMS, &[0; 4096]);
        self.put(PARAMS + SCENARIO_AT, &scenario.to_le_bytes());
        self.put_word(PARAMS + SIGSTRUCT_AT, SIGSTRUCT);
        let pages = module.chunks_exact(4096).len() as u64;
        self.put_word(PARAMS + PAGES_AT, pages);
        for page in 0..pages {
            self.put_word(PARAMS + LIST_AT + 8 * page, MODULE + 4096 * page);
        }
        self.put(SIGSTRUCT, &[0; 4096]);
        self.put(SIGSTRUCT, sigstruct.as_bytes());
        self.put(MODULE, module);
    }

    fn install(&self, lp: LpIndex, rcx: u64) -> Option<SeamldrStatus> {
        let rax = LeafWord::seamldr(SeamldrLeaf::INSTALL).raw();
        let after = self.raw_call(lp, Registers { rax, rcx, ..Registers::default() });
        after.ok().map(|after| SeamldrStatus(after.rax))
    }
}

/// A machine whose module stands at one of `stages`, and whose loader is one of those there are.
fn prepared(choices: &mut Choices<'_>, stages: &[Stage]) -> Bench {
    let mut spec = super::bench::tiny();
    choices.of(&["2.0.08", "2.0.14", "connect"]).clone_into(&mut spec.module.profile);
    let loaders = [Generation::V2_0, Generation::V2_0, Generation::V1_5_02, Generation::V1_5];
    spec.seamldr.generation = Some(choices.of(&loaders));
    spec.seamldr.remaining_updates = choices.of(&[15, 15, 15, 1, 0]);
    spec.seamldr.signature_checks = choices.below(4) != 3;
    spec.seamldr.trust_test_key = choices.below(8) != 7;
    spec.seamldr.debug_unlocked = choices.flag();
    let bench = Bench::on(spec, choices.byte().into());
    bench.advance(choices.of(stages));
    bench
}

/// SEAMLDR.INSTALL with any parameters and images: what is refused leaves what was there, or says that
/// nothing is left.
pub fn seamldr_install(data: &[u8]) {
    let mut choices = Choices::new(data);
    let bench = prepared(&mut choices, &[Stage::Ready, Stage::Ready, Stage::Loaded, Stage::TdmrsInitialised]);
    bench.put_image(&modules()[0], SCENARIO_UPDATE);
    for _ in 0..CALLS {
        if choices.is_empty() {
            break;
        }
        spoil(&bench, &mut choices);
        let leaves = [
            SeamcallLeaf::SYS_SHUTDOWN,
            SeamcallLeaf::SYS_INIT,
            SeamcallLeaf::SYS_LP_INIT,
            SeamcallLeaf::SYS_UPDATE,
            SeamcallLeaf::SYS_RD,
        ];
        let lp = lp(&mut choices);
        match choices.below(8) {
            0 => {
                let rcx = operand(&bench, &mut choices);
                bench.install(lp, rcx);
            }
            1..=3 => {
                // A whole session, so far as no other one is half way.
                for lp in [LpIndex(0), LpIndex(1)] {
                    bench.install(lp, PARAMS);
                }
            }
            4 => {
                bench.install(lp, PARAMS);
            }
            _ => {
                let regs = nearly_good(&bench, choices.of(&leaves), &mut choices);
                // `raw_call` has looked at it.
                let _ = bench.raw_call(lp, regs);
            }
        }
    }
    bench.comes_up_after_power_cycle();
}

/// What changes of the parameters, the SIGSTRUCT or the module before a call.
fn spoil(bench: &Bench, choices: &mut Choices<'_>) {
    match choices.below(12) {
        0..=2 => {
            let module = &modules()[choices.below(modules().len())];
            bench.put_image(module, choices.of(&[SCENARIO_UPDATE, SCENARIO_UPDATE, SCENARIO_LOAD, 2]));
        }
        3 => {
            let at = choices.of(&[0, SCENARIO_AT, SIGSTRUCT_AT, 16, PAGES_AT, LIST_AT, LIST_AT + 8]);
            let value = operand(bench, choices);
            bench.put_word(PARAMS + at, value);
        }
        4 => bench.put(SIGSTRUCT + choices.below(2048) as u64, &[choices.byte()]),
        5 => bench.put(MODULE + choices.below(4096 * PAGES as usize) as u64, &[choices.byte()]),
        6 => {
            // As 4, but signed: what is checked behind the signature is reached.
            let (sigstruct, module) = &modules()[choices.below(modules().len())];
            let mut sigstruct = sigstruct.clone();
            for _ in 0..choices.below(4) {
                let at = choices.of(&[
                    0x00C, 0x3B4, 0x3B5, 0x3BE, 0x3C6, 0x3D8, 0x3DA, 0x3DE, 0x3E0, 0x3E8, 0x400, 0x404,
                ]);
                sigstruct.as_mut_bytes()[at + choices.below(4)] = choices.byte();
            }
            build::resign(&mut sigstruct);
            bench.put_image(&(sigstruct, module.clone()), SCENARIO_UPDATE);
        }
        _ => {}
    }
}

/// Hand-off data of any content: taken over as a state that bring-up could have reached, or refused as a
/// whole.
pub fn handoff_data(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut spec = super::bench::tiny();
    // They write hand-off versions up to 0, 1 and 2.
    let (profile, newest, image) =
        choices.of(&[("2.0.08", 0, 1), ("2.0.14", 1, 1), ("connect", 2, modules().len() - 1)]);
    profile.clone_into(&mut spec.module.profile);
    let bench = Bench::on(spec, 0);
    let opt_in = if newest == 2 { TDX_CONNECT } else { 0 };
    if newest == 2 {
        give_pool_pages(&bench);
    } else {
        bench.advance(choices.of(&[Stage::Ready, Stage::TdmrsInitialised]));
    }
    let version = if newest == 1 && choices.flag() { 0 } else { newest };
    let before = bench.module().expect("a module is loaded");
    let shutdown = Registers { rcx: version, ..Registers::default() };
    bench.must(LpIndex(0), SeamcallLeaf::SYS_SHUTDOWN, shutdown);
    let (bytes, spoilt) = spoilt_area(bench.machine().handoff_area(), &mut choices);
    bench.machine().set_handoff_area(&bytes);
    bench.put_image(&modules()[image], SCENARIO_UPDATE);
    let ends = [0, 1].map(|lp| bench.install(LpIndex(lp), PARAMS).expect("nobody else calls"));
    assert!(spoilt || ends[1] == SeamldrStatus::SUCCESS, "what a module wrote is handed over: {ends:?}");
    if ends[1] == SeamldrStatus::SUCCESS {
        take_over(&bench, &before, spoilt, opt_in);
    } else {
        assert_eq!(ends[1], SeamldrStatus::EBADHANDOFF);
    }
    bench.comes_up_after_power_cycle();
}

/// The opt-in of TDX Connect.
const TDX_CONNECT: u64 = 1 << 6;

/// A module whose host opted into TDX Connect and gave some pages to the memory pool.
fn give_pool_pages(bench: &Bench) {
    const PAGES: u64 = 5;
    bench.advance(Stage::LpsInitialised);
    let config = Registers { r9: TDX_CONNECT, ..config_regs() };
    let after = bench.call(LpIndex(0), SeamcallLeaf::SYS_CONFIG, 1, config).expect("an answer");
    assert_eq!(Status::from_raw(after.rax), Status::SUCCESS);
    for lp in [LpIndex(0), LpIndex(1)] {
        bench.must(lp, SeamcallLeaf::SYS_KEY_CONFIG, Registers::default());
    }
    let (base, size) = TDMRS[0];
    for _ in 0..size >> 22 {
        bench.must(LpIndex(0), SeamcallLeaf::SYS_TDMR_INIT, Registers { rcx: base, ..Registers::default() });
    }
    for page in 0..PAGES {
        // Every other one, so that there are ranges.
        bench.put_word(SCRATCH + 8 * page, base + 2 * 4096 * page);
    }
    let list = Registers { rcx: SCRATCH | (PAGES - 1) << 55, ..Registers::default() };
    bench.must(LpIndex(1), SeamcallLeaf::EXT_MEM_ADD, list);
}

/// The new module takes what it was left, or refuses it and is as it was.
fn take_over(bench: &Bench, before: &ModuleInspection, spoilt: bool, opt_in: u64) {
    bench.advance(Stage::LpsInitialised);
    let regs = Registers { r9: opt_in, ..Registers::default() };
    let update = bench.call(LpIndex(0), SeamcallLeaf::SYS_UPDATE, u8::from(opt_in != 0), regs);
    let status = Status::from_raw(update.expect("an answer").rax);
    if status != Status::SUCCESS {
        assert!(spoilt && status.is(StatusCode::SYS_INVALID_HANDOFF), "{status}");
        return;
    }
    let after = bench.module().expect("a module is loaded");
    assert_eq!(after.state, ModuleState::SysReady);
    if !spoilt {
        let pages = |module: &ModuleInspection| module.connect.as_ref().map(|connect| connect.pages.clone());
        assert_eq!(pages(&after), pages(before));
        let state = |module: &ModuleInspection| {
            (
                module.global_key,
                module.key_ids.clone(),
                module.tdmrs.clone(),
                module.configured_packages.clone(),
            )
        };
        assert_eq!(state(&after), state(before), "everything was handed over");
    }
    // It goes on from there.
    for tdmr in after.tdmrs {
        let regs = Registers { rcx: tdmr.range.start().as_u64(), ..Registers::default() };
        // `call` has looked at it.
        let _ = bench.call(LpIndex(1), SeamcallLeaf::SYS_TDMR_INIT, 0, regs);
    }
    let _ = bench.call(LpIndex(0), SeamcallLeaf::SYS_DISABLE, 0, Registers::default());
    assert_eq!(before.tdmrs.len(), TDMRS.len());
}

/// The area with some bytes changed, in the header and where the tables of all versions lie; whether
/// any is another.
fn spoilt_area(mut bytes: Vec<u8>, choices: &mut Choices<'_>) -> (Vec<u8>, bool) {
    const PLACES: [usize; 9] = [0, 8, 0x8 + 32 * 8, 0x4008, 0x8088, 0x8088 + 320, 0xD088, 0xD090, 0xD0B0];
    let good = bytes.clone();
    for _ in 0..choices.below(6) {
        let at = choices.of(&PLACES) + choices.below(72);
        let value = match choices.below(4) {
            0 => 0,
            1 => 0xFF,
            2 => good.get(at).map_or(0, |byte| byte ^ 1 << choices.below(8)),
            _ => choices.byte(),
        };
        if let Some(byte) = bytes.get_mut(at) {
            *byte = value;
        }
    }
    let spoilt = bytes != good;
    (bytes, spoilt)
}
