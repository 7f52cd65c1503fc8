//! What travels over a secure stream, and what does not.

use tdx_abi::KeyId;

use super::*;
use crate::endpoint::{DmaCommand, DmaStatus};

#[test]
fn accesses_to_a_device_travel_in_the_clear_until_their_stream_is_secure() {
    let machine = machine();
    write(&machine, SCRATCH, 0x1122_3344_5566_7788);
    assert_eq!(read(&machine, SCRATCH), 0x1122_3344_5566_7788);
    assert_eq!(carried(&machine), (0, 3), "a write, a read, a completion");
    secure(&machine);
    assert_eq!(read(&machine, SCRATCH), 0x1122_3344_5566_7788);
    write(&machine, SCRATCH + 8, 1);
    assert_eq!(carried(&machine), (3, 3));
    let dword = machine.mmio_read(register(&machine, DEVICE, SCRATCH + 4), MmioWidth::Dword);
    assert_eq!(dword, 0x1122_3344);
}

#[test]
fn a_stream_limited_to_tees_carries_answers_and_no_requests_of_others() {
    let machine = machine();
    secure(&machine);
    let device = Config(&machine, DEVICE);
    let limited = StreamControl::new().with_stream_id(STREAM.0).with_default(true).with_tee_limited(true);
    device.write(device.block().control(), limited.with_enable(true).into_bits());
    read(&machine, SCRATCH);
    let before = machine.link_traffic(PORT).expect("a port");
    assert_eq!((before.sealed, before.clear), ([1, 1], [0, 0]), "the host's request and its answer");
    run(&machine, 0, 0x1_0000_0000, 8, DmaCommand::FILL);
    let traffic = machine.link_traffic(PORT).expect("a port");
    assert_eq!(traffic.clear, [0, 1], "the device's own write has no T bit");
}

#[test]
fn a_request_in_the_clear_is_answered_in_the_clear() {
    let machine = machine();
    secure(&machine);
    let port = Config(&machine, PORT);
    port.write(port.block().address(0).expect("a block"), 0);
    write(&machine, SCRATCH, 3);
    assert_eq!(read(&machine, SCRATCH), 3);
    let traffic = machine.link_traffic(PORT).expect("a port");
    assert_eq!(
        (traffic.sealed, traffic.clear),
        ([0, 0], [2, 1]),
        "the device's default stream is for requests"
    );
}

/// Lets the engine of the device do something.
fn run(machine: &Machine, source: u64, destination: u64, length: u64, command: DmaCommand) -> u64 {
    for (at, value) in [
        (reg::DMA_SOURCE, source),
        (reg::DMA_DESTINATION, destination),
        (reg::DMA_LENGTH, length),
        (reg::DMA_PATTERN, 0x0706_0504_0302_0100),
    ] {
        write(machine, at, value);
    }
    machine.mmio_write(register(machine, DEVICE, reg::DMA_COMMAND), MmioWidth::Dword, command.0.into());
    machine.mmio_read(register(machine, DEVICE, reg::DMA_STATUS), MmioWidth::Dword)
}

#[test]
fn requests_of_a_device_reach_exactly_the_bytes_that_they_name() {
    let machine = machine();
    let base = 0x1_0000_0000_u64;
    for round in 0..2 {
        if round == 1 {
            secure(&machine);
        }
        let before = carried(&machine);
        let (at, length) = (base + 4091, 13);
        machine.write(PhysAddr::new(base), KeyId::TME, &[0xee; 8192]).expect("RAM");
        assert_eq!(run(&machine, 0, at, length, DmaCommand::FILL), DmaStatus::DONE.0.into());
        let mut bytes = [0; 19];
        machine.read(PhysAddr::new(at - 3), KeyId::TME, &mut bytes).expect("RAM");
        let expected: Vec<u8> =
            (0..19).map(|n| if (3..16).contains(&n) { (n - 3) % 8 } else { 0xee }).collect();
        assert_eq!(bytes.to_vec(), expected, "round {round}");
        let copied = base + 0x10_0001;
        assert_eq!(run(&machine, at, copied, length, DmaCommand::COPY), DmaStatus::DONE.0.into());
        let mut bytes = [0; 13];
        machine.read(PhysAddr::new(copied), KeyId::TME, &mut bytes).expect("RAM");
        assert_eq!(bytes.to_vec(), expected[3..16]);
        let (sealed, clear) = carried(&machine);
        assert_eq!((sealed > before.0, clear > before.1), (round == 1, round == 0), "round {round}");
    }
}

#[test]
fn a_device_reaches_neither_private_memory_nor_what_is_none() {
    let machine = machine();
    let private =
        machine.address_layout().join(PhysAddr::new(0x1_0000_0000), KeyId::new(40)).expect("private");
    run(&machine, 0, private, 8, DmaCommand::FILL);
    let dropped =
        |event: &Event| matches!(event, Event::DroppedWrite { reason: crate::DropReason::UntrustedDma, .. });
    assert!(machine.log().iter().any(dropped));
    assert_eq!(run(&machine, 1 << 55, 0x1_0000_0000, 8, DmaCommand::COPY), DmaStatus::ADDRESS.0.into());
    // Bus mastering of the root port is off.
    machine.config_write(PORT, offset::COMMAND, Width::Word, 2);
    assert_eq!(run(&machine, 0x1_0000_0000, 0x1_0000_1000, 8, DmaCommand::COPY), DmaStatus::FAULT.0.into());
}

#[test]
fn keys_are_refreshed_without_a_gap() {
    let machine = machine();
    secure(&machine);
    for round in 2..6 {
        write(&machine, SCRATCH, round.into());
        let set = if round % 2 == 0 { KeySet::K1 } else { KeySet::K0 };
        program(&machine, set, round);
        assert_eq!(read(&machine, SCRATCH), u64::from(round));
    }
    assert_eq!(carried(&machine).1, 0);
    assert!(!has_failed(&machine));
}

#[test]
fn a_stream_that_is_switched_off_protects_nothing_and_forgets_its_keys() {
    let machine = machine();
    secure(&machine);
    let (port, device) = (Config(&machine, PORT), Config(&machine, DEVICE));
    let off = StreamControl::new().with_stream_id(STREAM.0);
    device.write(device.block().control(), off.into_bits());
    port.write(port.block().control(), off.into_bits());
    assert!(insecure(&machine));
    write(&machine, SCRATCH, 9);
    assert_eq!((read(&machine, SCRATCH), carried(&machine).0), (9, 0));
    for config in [&port, &device] {
        config.write(config.block().control(), off.with_enable(true).into_bits());
    }
    assert_eq!(port.state(), StreamState::INSECURE, "its keys are gone");
}

#[test]
fn a_stream_that_only_the_port_has_is_answered_by_nobody() {
    let machine = machine();
    secure(&machine);
    let device = Config(&machine, DEVICE);
    device.write(device.block().control(), 0);
    assert_eq!(read(&machine, SCRATCH), u64::MAX);
    let misrouted = |errors: pcie::cap::UncorrectableErrors| errors.misrouted_ide_tlp();
    assert!(pcie::cap::Aer::uncorrectable(&device).is_some_and(misrouted));
}

#[test]
fn a_function_level_reset_ends_the_streams_of_the_device() {
    let machine = machine();
    secure(&machine);
    let (control, _) = pcie::cap::Express::control(&Config(&machine, DEVICE)).expect("an express device");
    machine.config_write(DEVICE, control, Width::Word, 1 << 15);
    assert_eq!(Config(&machine, DEVICE).state(), StreamState::INSECURE);
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: true, losses: 0 }), "sessions go on");
}
