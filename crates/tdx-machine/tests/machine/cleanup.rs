//! SEAMLDR.CLEANUP and SEAMLDR.SHUTDOWN on a whole machine.

use tdx_abi::Registers;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::status::SeamldrStatus;
use tdx_machine::{LpIndex, Machine, SeamFault, presets};

use crate::common::{enter_vmx, quiet};

const BUFFER: u64 = 0x30_0000;

fn call(machine: &Machine, lp: LpIndex, leaf: SeamldrLeaf) -> Result<SeamldrStatus, SeamFault> {
    let rax = LeafWord::seamldr(leaf).raw();
    let mut regs = Registers { rax, rcx: BUFFER, ..Registers::default() };
    machine.seamcall(lp, &mut regs).map(|()| SeamldrStatus(regs.rax))
}

fn reaches_a_module(machine: &Machine) -> bool {
    let rax = u64::from(SeamcallLeaf::SYS_LP_SHUTDOWN.0);
    machine.seamcall(LpIndex(0), &mut Registers { rax, ..Registers::default() }).is_ok()
}

#[test]
fn interrupts_busy_keys_and_a_lack_of_entropy_delay_a_cleanup_and_nothing_else() {
    for seed in 0..8 {
        let mut spec = quiet(presets::find("tiny").expect("a preset").spec().expect("a valid one"));
        (spec.chaos.interrupt, spec.chaos.busy, spec.chaos.no_entropy) = (300_000, 100_000, 100_000);
        let machine = Machine::power_on(spec, seed).expect("valid");
        enter_vmx(&machine);
        assert!(reaches_a_module(&machine) && machine.seam().loader.dirty);
        let mut delays = 0;
        for lp in machine.lps() {
            loop {
                match call(&machine, lp.index, SeamldrLeaf::CLEANUP).expect("an answer") {
                    SeamldrStatus::SUCCESS => break,
                    SeamldrStatus::EINTERRUPT | SeamldrStatus::ENOENTROPY | SeamldrStatus::EUNSPECERR => {}
                    status => panic!("{status:?}"),
                }
                delays += 1;
                assert!(!reaches_a_module(&machine) || machine.seam().loader.cleanup_lps.is_none());
                assert!(delays < 1000, "each call gets further, but for chance");
            }
        }
        assert!(delays > 0, "seed {seed}");
        let seam = machine.seam();
        assert!(seam.module.is_none() && !seam.loader.dirty && !reaches_a_module(&machine));
    }
}

#[test]
fn behind_a_shutdown_nothing_answers_until_power_is_cycled() {
    let spec = quiet(presets::find("tiny").expect("a preset").spec().expect("a valid one"));
    let machine = Machine::power_on(spec, 1).expect("valid");
    enter_vmx(&machine);
    let lps: Vec<LpIndex> = machine.lps().iter().map(|lp| lp.index).collect();
    assert_eq!(call(&machine, LpIndex(0), SeamldrLeaf::SHUTDOWN), Ok(SeamldrStatus::ECLEANUPREQ));
    // The NP-SEAMLDR was launched on LP 0.
    for leaf in [SeamldrLeaf::CLEANUP, SeamldrLeaf::SHUTDOWN] {
        for &lp in lps.iter().rev() {
            assert_eq!(call(&machine, lp, leaf), Ok(SeamldrStatus::SUCCESS), "{leaf} on {lp}");
        }
    }
    for &leaf in SeamldrLeaf::ALL {
        assert_eq!(call(&machine, LpIndex(0), leaf), Err(SeamFault::VmFailInvalid), "{leaf}");
    }
    machine.power_cycle();
    enter_vmx(&machine);
    for leaf in [SeamldrLeaf::INFO, SeamldrLeaf::SEAMINFO] {
        assert_eq!(call(&machine, LpIndex(0), leaf), Ok(SeamldrStatus::SUCCESS), "{leaf}");
    }
    assert!(reaches_a_module(&machine));
    assert_eq!(call(&machine, LpIndex(0), SeamldrLeaf::SHUTDOWN), Ok(SeamldrStatus::ECLEANUPREQ));
}
