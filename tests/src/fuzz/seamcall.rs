//! Bodies for SEAMCALL: one per family of leaves.
//!
//! The first bytes choose release, stage of the bring-up and rates of chance; the others calls, one
//! after the other, mostly with operands that nearly fit. `bench` holds what is checked around each
//! call. At the end the machine is switched off and on, and the host brings it up.

pub(super) mod bench;
mod guest;
mod install;

pub use guest::{boot_image, guest_memory, guest_platform};
pub use install::{handoff_data, seamldr_install};

use tdx_abi::addr::SIZE_1G;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::metadata::{SYS_FIELDS, sys};
use tdx_abi::msr::MsrIndex;
use tdx_abi::{KeyId, PhysAddr, Registers};
use tdx_machine::spec::{Generation, Hex};
use tdx_machine::{Fault, LpIndex, PlatformSpec};
use tdx_module::MODELLED_LEAVES;

use super::bytes::Choices;
use bench::{Bench, GLOBAL_KEY, PAMT, SCRATCH, Stage, TDMR_ARRAY, TDMR_INFO, TDMRS, config_regs};

/// Calls of one run at most.
const CALLS: usize = 64;
/// Releases that differ in their rows.
const PROFILES: [&str; 8] =
    ["connect", "1.0", "1.5.01", "1.5.06", "1.5.28", "2.0.08", "connect-clock", "2.0.14"];

/// TDH.SYS.INIT, TDH.SYS.LP.INIT and TDH.SYS.LP.SHUTDOWN.
pub fn sys_init(data: &[u8]) {
    let leaves = [SeamcallLeaf::SYS_INIT, SeamcallLeaf::SYS_LP_INIT, SeamcallLeaf::SYS_LP_SHUTDOWN];
    family(data, &leaves, &[Stage::Loaded, Stage::Initialised, Stage::LpsInitialised, Stage::Ready]);
}

/// TDH.SYS.INFO, TDH.SYS.RD and TDH.SYS.RDALL.
pub fn sys_reads(data: &[u8]) {
    let leaves = [SeamcallLeaf::SYS_INFO, SeamcallLeaf::SYS_RD, SeamcallLeaf::SYS_RDALL];
    family(data, &leaves, &[Stage::LpsInitialised, Stage::Loaded, Stage::Initialised, Stage::Ready]);
}

/// TDH.SYS.CONFIG, both versions.
pub fn sys_config(data: &[u8]) {
    let stages = [Stage::LpsInitialised, Stage::LpsInitialised, Stage::Initialised, Stage::Configured];
    family(data, &[SeamcallLeaf::SYS_CONFIG], &stages);
}

/// TDH.SYS.KEY.CONFIG and TDH.SYS.TDMR.INIT.
pub fn sys_key_and_tdmr(data: &[u8]) {
    let leaves = [SeamcallLeaf::SYS_KEY_CONFIG, SeamcallLeaf::SYS_TDMR_INIT];
    family(data, &leaves, &[Stage::Configured, Stage::Ready, Stage::TdmrsInitialised, Stage::LpsInitialised]);
}

/// TDH.SYS.DISABLE among other leaves.
pub fn sys_disable(data: &[u8]) {
    let leaves = [SeamcallLeaf::SYS_DISABLE, SeamcallLeaf::SYS_RD, SeamcallLeaf::SYS_TDMR_INIT];
    family(data, &leaves, &Stage::ALL);
}

/// TDH.SYS.SHUTDOWN and TDH.SYS.UPDATE, with what stands between them.
pub fn sys_handoff(data: &[u8]) {
    let leaves = [SeamcallLeaf::SYS_SHUTDOWN, SeamcallLeaf::SYS_UPDATE, SeamcallLeaf::SYS_TDMR_INIT];
    family(data, &leaves, &[Stage::Ready, Stage::LpsInitialised, Stage::Ready, Stage::TdmrsInitialised]);
}

/// Any leaf number, any RAX.
pub fn any_leaf(data: &[u8]) {
    family(data, MODELLED_LEAVES, &Stage::ALL);
}

/// Calls to the P-SEAMLDR, the module's in between.
pub fn seamldr_leaves(data: &[u8]) {
    const LEAVES: &[SeamldrLeaf] = &[
        SeamldrLeaf::SEAMINFO,
        SeamldrLeaf::CLEANUP,
        SeamldrLeaf::CLEANUP,
        SeamldrLeaf::CLEANUP,
        SeamldrLeaf::SHUTDOWN,
        SeamldrLeaf::INSTALL,
    ];
    let mut choices = Choices::new(data);
    let mut spec = spec(&mut choices);
    let loaders = [Generation::V2_0, Generation::V1_5_02, Generation::V1_5, Generation::V1_0];
    spec.seamldr.generation = Some(choices.of(&loaders));
    let bench = on(spec, &mut choices, &Stage::ALL);
    for _ in 0..CALLS {
        if choices.is_empty() {
            break;
        }
        around(&bench, &mut choices);
        let lp = lp(&mut choices);
        let rax = match choices.below(8) {
            0 => LeafWord::seamldr(SeamldrLeaf::INFO).raw(),
            1..=5 => LeafWord::seamldr(choices.of(LEAVES)).raw(),
            6 => LeafWord::seamldr(SeamldrLeaf(choices.below(256).try_into().unwrap_or(0))).raw(),
            _ => choices.word() | 1 << 63,
        };
        let rcx = if choices.flag() { SCRATCH } else { operand(&bench, &mut choices) };
        let regs = Registers { rcx, rdx: choices.word(), ..Registers::default() };
        // `raw_call` has looked at it.
        let _ = bench.raw_call(lp, Registers { rax, ..regs });
    }
    bench.comes_up_after_power_cycle();
}

fn family(data: &[u8], leaves: &[SeamcallLeaf], stages: &[Stage]) {
    let mut choices = Choices::new(data);
    let bench = prepared(&mut choices, stages);
    for _ in 0..CALLS {
        if choices.is_empty() {
            break;
        }
        around(&bench, &mut choices);
        let lp = lp(&mut choices);
        // Mostly the family, now and then something else.
        let regs = match choices.below(16) {
            0 => Registers { rax: choices.word() & !(1 << 63), ..any_registers(&bench, &mut choices) },
            1 => {
                let leaf = SeamcallLeaf(choices.below(300).try_into().unwrap_or(0));
                Registers {
                    rax: LeafWord::module(leaf, choices.byte() & 1).raw(),
                    ..any_registers(&bench, &mut choices)
                }
            }
            2 => nearly_good(&bench, choices.of(MODELLED_LEAVES), &mut choices),
            _ => nearly_good(&bench, choices.of(leaves), &mut choices),
        };
        // `raw_call` has looked at it.
        let _ = bench.raw_call(lp, regs);
    }
    bench.comes_up_after_power_cycle();
}

/// A machine whose module stands at one of `stages`.
fn prepared(choices: &mut Choices<'_>, stages: &[Stage]) -> Bench {
    let spec = spec(choices);
    on(spec, choices, stages)
}

/// A machine with one of the releases.
fn spec(choices: &mut Choices<'_>) -> PlatformSpec {
    let mut spec = bench::tiny();
    choices.of(&PROFILES).clone_into(&mut spec.module.profile);
    spec
}

fn on(mut spec: PlatformSpec, choices: &mut Choices<'_>, stages: &[Stage]) -> Bench {
    let stage = choices.of(stages);
    // Up to 15 percent, so that ten tries for entropy are enough in all but one of 10^8 runs.
    let rate = u32::from(choices.byte() & 3) * 50_000;
    (spec.chaos.interrupt, spec.chaos.busy) = (rate, rate);
    spec.chaos.no_entropy = rate / 3;
    let bench = Bench::on(spec, choices.byte().into());
    bench.advance(stage);
    bench
}

/// What happens to the machine between two calls.
fn around(bench: &Bench, choices: &mut Choices<'_>) {
    let machine = bench.machine();
    let lp = lp(choices);
    match choices.below(24) {
        // A word of a TDMR_INFO, in place or not.
        0..=5 => {
            let (index, word) = (choices.below(3) as u64, choices.below(40) as u64);
            bench.put_tdmr_word(index, word, operand(bench, choices));
        }
        6 => bench.put_word(TDMR_ARRAY + 8 * choices.below(64) as u64, operand(bench, choices)),
        7 => {
            // Out of VMX operation, if it was in.
            let _ = machine.vmxoff(lp);
        }
        8 if machine.is_online(lp) && !machine.in_vmx(lp) => bench.enter_vmx(lp),
        9 => machine.offline(lp),
        10 | 11 => {
            machine.online(lp);
            if machine.is_online(lp) && !machine.in_vmx(lp) {
                bench.enter_vmx(lp);
            }
        }
        12 => {
            let fault = match choices.below(5) {
                0 => Fault::CpuidMismatch { package: choices.below(2).try_into().unwrap_or(0) },
                1 => Fault::CpuidIncorrect { package: choices.below(2).try_into().unwrap_or(0) },
                2 => Fault::MsrMismatch { package: 1, msr: Hex(choices.of(&[0x3B, 0xCF, 0x10A, 0x345])) },
                3 => Fault::KeyConfigEntropy { times: choices.byte().into() },
                _ => Fault::TdmrInitFails { after: choices.byte().into() },
            };
            machine.inject(fault).expect("this machine can have it");
        }
        13 => {
            // The value may be refused; either is fine.
            let _ = machine.wrmsr(lp, MsrIndex::IA32_TSX_CTRL, choices.word());
        }
        14 => machine.wbinvd(lp),
        _ => {}
    }
}

fn lp(choices: &mut Choices<'_>) -> LpIndex {
    match choices.byte() {
        0xFF => LpIndex(u32::MAX),
        0xFE => LpIndex(2),
        byte => LpIndex(u32::from(byte & 1)),
    }
}

/// A number that some leaf might take for an operand.
fn operand(bench: &Bench, choices: &mut Choices<'_>) -> u64 {
    match choices.below(16) {
        0 => 0,
        1 => TDMR_ARRAY,
        2 => TDMR_INFO + 512 * choices.below(3) as u64,
        3 => SCRATCH + 64 * choices.below(128) as u64,
        4 => SIZE_1G * choices.below(9) as u64,
        5 => choices.below(80) as u64,
        6 => u64::from(GLOBAL_KEY.number()) + choices.below(34) as u64,
        7 => SYS_FIELDS[choices.below(SYS_FIELDS.len())].id.element(choices.byte().into()).raw(),
        8 => u64::MAX,
        9 => 1 << choices.below(64),
        10 => {
            let (address, key) = (PhysAddr::new(SCRATCH), KeyId::new(choices.byte().into()));
            bench.machine().address_layout().join(address, key).unwrap_or(SCRATCH)
        }
        11 => bench.machine().spec().seamrr.base.0,
        12 => PAMT + (4 << 20) * choices.below(16) as u64,
        13 => 4096 * choices.below(1 << 12) as u64,
        _ => choices.word(),
    }
}

fn any_registers(bench: &Bench, choices: &mut Choices<'_>) -> Registers {
    let mut next = || operand(bench, choices);
    Registers {
        rcx: next(),
        rdx: next(),
        r8: next(),
        r9: next(),
        r10: next(),
        r11: next(),
        ..Registers::default()
    }
}

/// A call that would succeed in the right state, with up to three registers changed.
fn nearly_good(bench: &Bench, leaf: SeamcallLeaf, choices: &mut Choices<'_>) -> Registers {
    let mut regs = match leaf {
        SeamcallLeaf::SYS_CONFIG => config_regs(),
        SeamcallLeaf::SYS_TDMR_INIT => {
            Registers { rcx: TDMRS[choices.below(TDMRS.len())].0, ..Registers::default() }
        }
        SeamcallLeaf::SYS_RD => Registers { rdx: sys::TDX_FEATURES0.raw(), ..Registers::default() },
        SeamcallLeaf::SYS_RDALL => Registers { rdx: SCRATCH, r8: u64::MAX, ..Registers::default() },
        SeamcallLeaf::SYS_INFO => {
            Registers { rcx: SCRATCH, rdx: 1024, r8: SCRATCH + 4096, r9: 32, ..Registers::default() }
        }
        _ => Registers::default(),
    };
    (regs.rbx, regs.r15) = (0x0123_4567_89AB_CDEF, leaf.0.into());
    for _ in 0..choices.below(4) {
        let value = operand(bench, choices);
        let register = match choices.below(6) {
            0 => &mut regs.rcx,
            1 => &mut regs.rdx,
            2 => &mut regs.r8,
            3 => &mut regs.r9,
            4 => &mut regs.r10,
            _ => &mut regs.r11,
        };
        *register = value;
    }
    let version = if choices.below(4) == 3 { choices.byte() & 3 } else { 0 };
    regs.rax = LeafWord::module(leaf, version).raw();
    regs
}
