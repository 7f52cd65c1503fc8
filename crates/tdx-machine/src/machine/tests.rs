use tdx_module::hardware::LockName;

use super::*;
use crate::memory::PoisonCause;
use crate::presets;
use crate::spec::{ChaosSpec, ErrataSpec};
use tdx_module::hardware::{KeyAlgorithm, PconfigError};

fn with_fault(fault: Fault) -> Machine {
    let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
    spec.chaos.busy = 0;
    spec.chaos.no_entropy = 0;
    spec.faults = vec![fault];
    Machine::power_on(spec, 1).expect("valid")
}

#[test]
fn a_host_machine_check_names_line_and_cause() {
    let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
    spec.errata = Some(ErrataSpec { pw_mce: true, seamret_invd_vmcs: false });
    let machine = Machine::power_on(spec, 1).expect("valid");
    let page = PhysRange::from_size(PhysAddr::new(0x1_0000_0000), 4096).expect("a range");
    machine.board.initialise(page, KeyId::new(40));
    let at = PhysAddr::new(0x1_0000_0048);
    machine.partial_write(at, KeyId::TME, &[1; 4]).expect("silent");
    let record = machine.poisoned_by(at).expect("recorded at once");
    assert_eq!(record.cause, PoisonCause::PartialWrite { pa: at, bytes: 4, key: KeyId::TME });
    let line = PhysAddr::new(0x1_0000_0040);
    assert_eq!(machine.read(at, KeyId::TME, &mut [0; 4]), Err(MemFault::MachineCheck { pa: line }));
    assert_eq!(machine.log(), [Event::Poisoned(record), Event::HostMachineCheck { line }]);
    machine.movdir64b_zero(page).expect("RAM");
    assert_eq!(machine.read(at, KeyId::TME, &mut [0; 4]), Ok(()));
}

#[test]
fn poison_read_in_seam_mode_turns_tdx_off_until_power_is_cycled() {
    let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
    spec.module.present = true;
    let machine = Machine::power_on(spec, 1).expect("valid");
    let lp = LpIndex(0);
    machine.set_cr4_vmxe(lp, true);
    let region = PhysAddr::new(0x10_0000);
    machine.write(region, KeyId::TME, &0x13u32.to_le_bytes()).expect("RAM");
    machine.vmxon(lp, region).expect("VMXON");
    let line = PhysAddr::new(0x1_0000_0000);
    assert!(machine.board.read(line, KeyId::new(40), &mut [0; 8]).is_err());
    let mut regs = Registers { rax: 33, ..Registers::default() };
    assert_eq!(machine.seamcall(lp, &mut regs), Err(SeamFault::VmFailInvalid));
    assert!(machine.log().contains(&Event::SeamMachineCheck { line }));
    machine.power_cycle();
    assert!(machine.board.seam_loaded());
    assert_eq!(machine.log(), [Event::PowerCycled]);
}

#[test]
fn poison_that_a_leaf_reads_stops_its_lp_and_no_other() {
    let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
    spec.chaos = ChaosSpec { interrupt: 0, no_entropy: 0, busy: 0, write_back_within: 0 };
    spec.errata = Some(ErrataSpec { pw_mce: true, seamret_invd_vmcs: false });
    let machine = Machine::power_on(spec, 1).expect("valid");
    let region = PhysAddr::new(0x10_0000);
    machine.write(region, KeyId::TME, &0x13u32.to_le_bytes()).expect("RAM");
    let (first, second) = (LpIndex(0), LpIndex(1));
    for lp in [first, second] {
        machine.set_cr4_vmxe(lp, true);
        machine.vmxon(lp, region).expect("VMXON");
    }
    let call = |lp, rax| machine.seamcall(lp, &mut Registers { rax, ..Registers::default() });
    for (lp, leaf) in [(first, 33), (first, 35), (second, 35)] {
        assert_eq!(call(lp, leaf), Ok(()), "{leaf}");
    }
    let line = PhysAddr::new(0x1_0000_0000);
    machine.board.initialise(PhysRange::from_size(line, 64).expect("a line"), KEY);
    machine.partial_write(line, KeyId::TME, &[1; 4]).expect("silent");

    let before = Registers { rax: 45, rcx: line.as_u64(), rdx: 1, r8: 32, r9: 7, ..Registers::default() };
    let mut regs = before;
    assert_eq!(machine.seamcall(first, &mut regs), Err(SeamFault::VmFailInvalid));
    assert_eq!(regs, before);
    assert!(!machine.is_online(first));
    let log = machine.log();
    assert_eq!(log[1..], [Event::SeamMachineCheck { line }, Event::LpShutdown { lp: first }]);
    assert_eq!(machine.seam().machine_check, Some(line));

    assert_eq!(call(second, 34), Err(SeamFault::VmFailInvalid));
    assert!(machine.in_vmx(second), "it did not read the poison");
    assert_eq!(machine.log(), log);
}

const KEY: KeyId = KeyId::new(32);

fn program(machine: &Machine) -> Result<(), PconfigError> {
    machine.board.program_random_key(LpIndex(0), KEY, KeyAlgorithm::AesXts256Integrity)
}

#[test]
fn pconfig_lacks_entropy_as_often_as_the_fault_says() {
    let machine = with_fault(Fault::KeyConfigEntropy { times: 2 });
    for _ in 0..2 {
        assert_eq!(program(&machine), Err(PconfigError::Entropy));
    }
    assert_eq!(program(&machine), Ok(()));
    machine.power_cycle();
    assert_eq!(program(&machine), Err(PconfigError::Entropy), "a fault of the specification stays");

    let machine = with_fault(Fault::KeyConfigEntropyForever);
    assert!((0..100).all(|_| program(&machine) == Err(PconfigError::Entropy)));
}

#[test]
fn pconfig_lacks_entropy_and_finds_the_key_table_busy_by_chance() {
    for (no_entropy, busy, expected) in [
        (1_000_000, 0, Err(PconfigError::Entropy)),
        (0, 1_000_000, Err(PconfigError::DeviceBusy)),
        (0, 0, Ok(())),
    ] {
        let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
        spec.chaos = ChaosSpec { no_entropy, busy, ..spec.chaos };
        assert_eq!(program(&Machine::power_on(spec, 1).expect("valid")), expected);
    }
}

#[test]
fn pconfig_refuses_foreign_keyids_and_inactive_algorithms() {
    let machine = with_fault(Fault::HibernationPossible);
    for key in [0, 64, u16::MAX] {
        let refused =
            machine.board.program_random_key(LpIndex(0), KeyId::new(key), KeyAlgorithm::AesXts256Integrity);
        assert_eq!(refused, Err(PconfigError::InvalidKeyId), "{key}");
    }
    let mut spec = machine.spec().clone();
    spec.keyids.integrity = false;
    let machine = Machine::power_on(spec, 1).expect("valid");
    assert_eq!(program(&machine), Err(PconfigError::InvalidAlgorithm));
}

#[test]
fn the_tdmr_lock_jams_for_good_after_the_calls_of_the_fault() {
    let machine = with_fault(Fault::TdmrInitFails { after: 3 });
    let tries = |lock| (0..6).map(|_| machine.board.contended(LpIndex(0), lock)).collect::<Vec<_>>();
    assert_eq!(tries(LockName::Global), [false; 6]);
    assert_eq!(tries(LockName::Tdmr), [false, false, false, true, true, true]);
}

#[test]
fn chance_follows_the_seed() {
    let run = |seed| {
        let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
        spec.chaos.no_entropy = 400_000;
        let machine = Machine::power_on(spec, seed).expect("valid");
        (0..64).map(|_| machine.board.random(LpIndex(1))).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn rows_19_and_20_untrusted_dma_is_a_host_access_past_the_caches() {
    for pw_mce in [true, false] {
        let mut spec = presets::find("tiny").expect("a preset").spec().expect("valid");
        spec.errata = Some(ErrataSpec { pw_mce, seamret_invd_vmcs: false });
        let machine = Machine::power_on(spec, 1).expect("valid");
        let line = PhysAddr::new(0x1_0000_0000);
        machine.board.initialise(PhysRange::from_size(line, 64).expect("a line"), KEY);
        machine.board.write(line, KEY, &[3; 64]);
        let mut bytes = [9; 64];
        assert_eq!(machine.dma_read(line, KeyId::TME, &mut bytes), Ok(()));
        assert_eq!(bytes, [0; 64]);
        machine.dma_write(line, KeyId::TME, &[1; 8]);
        assert_eq!(machine.poisoned_by(line).is_some(), pw_mce);
        machine.dma_write(line, KeyId::TME, &[2; 64]);
        assert_eq!(machine.dma_read(line, KeyId::TME, &mut bytes), Ok(()));
        assert_eq!(bytes, [2; 64], "a whole line takes the memory");
    }
}
