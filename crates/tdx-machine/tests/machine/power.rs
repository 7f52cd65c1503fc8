//! Power, faults and firmware tables.

use std::collections::HashSet;

use tdx_abi::msr::MsrIndex;
use tdx_abi::{KeyId, PhysAddr};
use tdx_machine::fault::{CATALOGUE, TakesEffect};
use tdx_machine::spec::Hex;
use tdx_machine::{E820Kind, Event, Fault, LpIndex, Machine, PlatformSpec, presets};

use crate::common::{REGION, enter_vmx, quiet};

const LP: LpIndex = LpIndex(0);
const KEYID_PARTITIONING: MsrIndex = MsrIndex::IA32_MKTME_KEYID_PARTITIONING;

fn spec(name: &str) -> PlatformSpec {
    quiet(presets::find(name).expect(name).spec().expect(name))
}

fn machine_with(fault: Fault) -> Machine {
    let mut spec = spec("default");
    spec.faults = vec![fault];
    Machine::power_on(spec, 1).expect("valid")
}

#[test]
fn every_preset_powers_on_and_its_processors_are_online() {
    for preset in presets::all() {
        let machine = Machine::power_on(preset.spec().expect(preset.name), 1).expect(preset.name);
        let ids: HashSet<_> = machine.lps().iter().map(|lp| lp.x2apic_id).collect();
        assert_eq!(ids.len(), machine.lps().len(), "{}", preset.name);
        assert!(machine.lps().iter().all(|lp| machine.is_online(lp.index)), "{}", preset.name);
        assert!(machine.memory_map().is_sorted_by_key(|entry| entry.range), "{}", preset.name);
        assert!(machine.cmrs().len() <= 32, "{}", preset.name);
    }
}

#[test]
fn a_power_cycle_forgets_memory_cpus_and_what_was_injected() {
    let machine = Machine::power_on(spec("tiny"), 1).expect("valid");
    enter_vmx(&machine);
    machine.write(REGION, KeyId::TME, &[1; 64]).expect("RAM");
    machine.wrmsr(LP, MsrIndex::IA32_TSX_CTRL, 1).expect("writable");
    machine.inject(Fault::NoXsave).expect("possible");
    assert_eq!(machine.faults(), [Fault::NoXsave]);
    machine.offline(LpIndex(1));
    machine.power_cycle();
    let mut bytes = [9; 64];
    machine.read(REGION, KeyId::TME, &mut bytes).expect("RAM");
    assert_eq!(bytes, [0; 64]);
    assert!(!machine.in_vmx(LP) && !machine.cr4_vmxe(LP) && machine.is_online(LpIndex(1)));
    assert_eq!(machine.rdmsr(LP, MsrIndex::IA32_TSX_CTRL), Ok(0));
    assert_eq!(machine.faults(), []);
    assert_eq!(machine.log(), [Event::PowerCycled]);
}

#[test]
fn a_firmware_fault_waits_for_the_next_power_on_and_lasts_until_the_one_after() {
    let machine = Machine::power_on(spec("tiny"), 1).expect("valid");
    machine.inject(Fault::Msr0x87Faults).expect("possible");
    assert!(machine.rdmsr(LP, KEYID_PARTITIONING).is_ok());
    assert_eq!((machine.faults(), machine.pending_faults()), (vec![], vec![Fault::Msr0x87Faults]));
    machine.power_cycle();
    assert!(machine.rdmsr(LP, KEYID_PARTITIONING).is_err());
    assert_eq!((machine.faults(), machine.pending_faults()), (vec![Fault::Msr0x87Faults], vec![]));
    machine.power_cycle();
    assert!(machine.rdmsr(LP, KEYID_PARTITIONING).is_ok());
}

#[test]
fn a_fault_of_the_file_lasts_for_ever() {
    let machine = machine_with(Fault::KeyidsOne);
    for _ in 0..2 {
        assert_eq!(machine.rdmsr(LP, KEYID_PARTITIONING), Ok(1 << 32 | 31));
        machine.power_cycle();
    }
}

#[test]
fn the_catalogue_names_every_fault_once_and_by_its_file_name() {
    let names: HashSet<_> = CATALOGUE.iter().map(|info| info.name).collect();
    assert_eq!(names.len(), CATALOGUE.len());
    let default = spec("default");
    for info in CATALOGUE {
        let fault = Fault::by_name(info.name, &default).expect(info.name);
        assert_eq!((fault.name(), fault.info()), (info.name, info));
        let mut with_fault = default.clone();
        with_fault.faults = vec![fault.clone()];
        let text = with_fault.to_toml().expect(info.name);
        assert!(text.contains(info.name), "{}", info.name);
        let read_back = PlatformSpec::from_toml(&text).expect(info.name);
        assert_eq!(read_back.faults, with_fault.faults);
        Machine::power_on(with_fault, 1).expect(info.name);
        assert!(Machine::power_on(default.clone(), 1).expect("valid").inject(fault).is_ok(), "{}", info.name);
    }
    assert_eq!(Fault::by_name("no-luck", &default), None);
}

#[test]
fn a_fault_that_the_platform_cannot_have_is_refused() {
    let machine = Machine::power_on(spec("laptop-no-tdx"), 1).expect("valid");
    assert!(machine.inject(Fault::KeyidsOne).is_err());
    assert!(machine.inject(Fault::TsxCtrlDisabled).is_err());
    assert!(machine.inject(Fault::CpuidMismatch { package: 1 }).is_err());
    assert!(machine.inject(Fault::MsrMismatch { package: 0, msr: Hex(1 << 32) }).is_err());
    assert_eq!((machine.faults(), machine.pending_faults()), (vec![], vec![]));
}

#[test]
fn faults_of_cpu_features_show_in_cpuid() {
    const fn bit(number: u32) -> u32 {
        1 << number
    }
    let machine = Machine::power_on(spec("tiny"), 1).expect("valid");
    assert_ne!(machine.cpuid(LP, 1, 0).ecx & bit(26), 0);
    machine.inject(Fault::NoXsave).expect("possible");
    assert_eq!(machine.cpuid(LP, 1, 0).ecx & bit(26), 0);
    assert_ne!(machine.cpuid(LP, 7, 0).ecx & bit(28), 0);
    machine.inject(Fault::NoMovdir64b).expect("possible");
    assert_eq!(machine.cpuid(LP, 7, 0).ecx & bit(28), 0);
    assert_ne!(machine.cpuid(LP, 1, 0).edx & bit(27), 0);
    machine.inject(Fault::NoSelfsnoop).expect("possible");
    assert_eq!(machine.cpuid(LP, 1, 0).edx & bit(27), 0);
}

#[test]
fn faults_of_key_and_seam_registers_show_in_msrs() {
    assert!(machine_with(Fault::Msr0x87Faults).rdmsr(LP, KEYID_PARTITIONING).is_err());
    assert_eq!(machine_with(Fault::KeyidsZero).rdmsr(LP, KEYID_PARTITIONING), Ok(63));
    let mask = |fault| machine_with(fault).rdmsr(LP, MsrIndex::IA32_SEAMRR_PHYS_MASK).expect("present");
    assert_eq!(mask(Fault::HibernationPossible) >> 10 & 3, 3);
    assert_eq!(mask(Fault::SeamrrDisabled) >> 10 & 3, 1);
    assert_eq!(mask(Fault::SeamrrUnlocked) >> 10 & 3, 2);
}

#[test]
fn a_healthy_host_has_the_values_that_a_doctor_expects() {
    let machine = Machine::power_on(spec("default"), 1).expect("valid");
    let msr = |index| machine.rdmsr(LP, MsrIndex(index)).expect("present");
    assert_eq!(msr(0x982) >> 1 & 1, 1);
    assert_eq!(msr(0x1401) >> 11 & 1, 1);
    assert_eq!(msr(0x87) >> 32, 32);
    assert_eq!(msr(0xA0), 0);
    assert_eq!(msr(0xCE) >> 27 & 1, 0);
}

#[test]
fn the_vmcs_erratum_is_bit_60_of_vmx_basic() {
    let keeps = |name| {
        let machine = Machine::power_on(spec(name), 1).expect("valid");
        machine.rdmsr(LP, MsrIndex::IA32_VMX_BASIC).expect("VMX") >> 60 & 1 == 1
    };
    assert!(keeps("spr-2s") && keeps("default"));
    assert!(!keeps("canonical-tdx-331"));
}

#[test]
fn faults_of_the_surroundings_show_where_a_host_asks() {
    let machine = Machine::power_on(spec("default"), 1).expect("valid");
    assert!(!machine.embedder().hibernation_possible);
    assert_eq!(machine.allocator().largest_free_run, None);
    machine.inject(Fault::HibernationPossible).expect("possible");
    machine.inject(Fault::NoContiguousPamt).expect("possible");
    machine.inject(Fault::VmxeAlreadySet).expect("possible");
    assert!(machine.embedder().hibernation_possible);
    assert!(machine.allocator().largest_free_run.is_some());
    assert!(machine.lps().iter().all(|lp| machine.cr4_vmxe(lp.index) && machine.in_vmx(lp.index)));
}

#[test]
fn memory_faults_change_map_and_cmrs_and_go_away_again() {
    let machine = Machine::power_on(spec("default"), 1).expect("valid");
    let usable_outside = |machine: &Machine| {
        let outside = machine
            .memory_map()
            .iter()
            .filter(|entry| entry.kind == E820Kind::Usable && entry.range.start().as_u64() >= 1 << 20)
            .filter(|entry| {
                let covered: u64 = machine
                    .cmrs()
                    .iter()
                    .filter_map(|cmr| cmr.intersection(entry.range))
                    .map(tdx_abi::PhysRange::size)
                    .sum();
                covered < entry.range.size()
            });
        outside.count()
    };
    assert_eq!(usable_outside(&machine), 0);
    let before = machine.memory_map().len();
    machine.inject(Fault::RamOutsideCmrs).expect("possible");
    machine.power_cycle();
    assert_eq!(usable_outside(&machine), 1);
    for (fault, added_ram, added_cmrs) in
        [(Fault::TooManyTdmrs, 65, 1), (Fault::TooManyReservedAreas, 18, 18)]
    {
        machine.inject(fault).expect("possible");
        machine.power_cycle();
        assert_eq!(usable_outside(&machine), 0);
        assert_eq!(machine.memory_map().len(), before + added_ram);
        assert_eq!(machine.cmrs().len(), 3 + added_cmrs);
        let last = machine.memory_map().last().expect("entries").range.start();
        assert!(machine.write(last, KeyId::TME, &[1]).is_ok(), "there is memory");
    }
    machine.power_cycle();
    assert_eq!(machine.memory_map().len(), before);
    assert!(machine.write(PhysAddr::new(1 << 40), KeyId::TME, &[1]).is_err());
}

fn word(table: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(table[at..at + 4].try_into().expect("four bytes"))
}

#[test]
fn acpi_tables_have_a_length_and_a_checksum() {
    for preset in presets::all() {
        let machine = Machine::power_on(preset.spec().expect(preset.name), 1).expect(preset.name);
        for signature in ["DMAR", "SRAT"] {
            let table = machine.acpi_table(signature).expect(signature);
            assert_eq!(&table[..4], signature.as_bytes());
            assert_eq!(word(table, 4) as usize, table.len(), "{} {signature}", preset.name);
            assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        }
        assert_eq!(machine.acpi_table("MADT"), None);
    }
}

#[test]
fn the_dmar_table_lists_the_units_of_the_file() {
    let machine = Machine::power_on(spec("default"), 1).expect("valid");
    let table = machine.acpi_table("DMAR").expect("built");
    assert_eq!(table[36], 45, "46 address bits are left");
    let unit = &table[48..];
    let ports = machine.pci_plan().ports.iter().filter(|port| port.id.bdf.bus() == 0x14);
    let length = 16 + 8 * ports.count();
    assert_eq!(usize::from(unit[2]), length, "all root ports of the host bridge that it names");
    assert_eq!(unit[4..8], [0, 4, 0, 0], "16 pages of registers");
    assert_eq!(word(unit, 8), 0xC7FF_C000);
    assert_eq!(unit[16..24], [2, 8, 0, 0, 0, 0x14, 1, 0], "a bridge in scope");
    assert_eq!(unit[length..length + 6], [0, 0, 16, 0, 1, 4], "the second unit takes all others");
}

#[test]
fn the_srat_table_lists_processors_and_memory() {
    let machine = Machine::power_on(spec("default"), 1).expect("valid");
    let table = machine.acpi_table("SRAT").expect("built");
    let (lps, nodes) = (machine.lps().len(), machine.numa_ranges().len());
    assert_eq!(table.len(), 48 + 24 * lps + 40 * nodes);
    let last = &table[48 + 24 * (lps - 1)..];
    assert_eq!((last[0], word(last, 4), word(last, 8)), (2, 1, machine.lps()[lps - 1].x2apic_id));
    let memory = &table[48 + 24 * lps..];
    assert_eq!((memory[0], word(memory, 2), word(memory, 16)), (1, 0, 0x8000_0000));
}

#[test]
fn an_effect_at_once_is_never_one_of_firmware() {
    for info in CATALOGUE {
        let fault = Fault::by_name(info.name, &spec("default")).expect(info.name);
        let machine = Machine::power_on(spec("default"), 1).expect("valid");
        machine.inject(fault.clone()).expect("possible");
        let waits = machine.pending_faults().contains(&fault);
        assert_eq!(waits, info.takes_effect == TakesEffect::AtPowerOn, "{}", info.name);
    }
}
