//! Devices that come and go.

use pcie::cap::{Express, Slot};

use super::*;
use crate::LinkLoss;

fn slot(machine: &Machine) -> Option<Slot> {
    Express::slot(&Config(machine, PORT))
}

fn ids(machine: &Machine) -> u32 {
    machine.config_read(DEVICE, offset::IDS, Width::Dword)
}

#[test]
fn a_device_that_is_pulled_out_answers_nothing_and_its_stream_is_gone() {
    let machine = machine();
    secure(&machine);
    assert_eq!(slot(&machine), Some(Slot { link_up: true, present: true }));
    let scratch = register(&machine, DEVICE, SCRATCH);
    assert!(machine.remove_device(DEVICE));
    assert!(!machine.remove_device(DEVICE), "it is out already");
    assert_eq!(slot(&machine), Some(Slot { link_up: false, present: false }));
    assert_eq!(ids(&machine), u32::MAX);
    assert_eq!(machine.mmio_read(scratch, MmioWidth::Qword), u64::MAX);
    assert!(machine.pci_functions().iter().all(|function| function.root_port != Some(PORT)));
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: false, losses: 1 }));
    assert_eq!(Config(&machine, PORT).state(), StreamState::INSECURE);
    assert!(machine.log().contains(&Event::LinkDown { port: PORT, why: LinkLoss::Removed }));

    assert!(machine.replug(PORT), "by its port as well");
    assert!(!machine.replug(DEVICE));
    assert_eq!(slot(&machine), Some(Slot { link_up: true, present: true }));
    assert_ne!(ids(&machine), u32::MAX);
    assert_eq!(Config(&machine, DEVICE).state(), StreamState::INSECURE);
    write(&machine, SCRATCH, 3);
    assert_eq!(read(&machine, SCRATCH), 3, "at the same address, in the clear");
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: true, losses: 1 }));
    assert!(machine.log().contains(&Event::LinkUp { port: PORT }));
}

#[test]
fn a_bus_that_is_held_in_reset_is_silent_and_comes_back_without_its_sessions() {
    let machine = machine();
    secure(&machine);
    let control = |value| machine.config_write(PORT, offset::BRIDGE_CONTROL, Width::Word, value);
    write(&machine, SCRATCH, 3);
    control(1 << 6);
    assert_eq!(ids(&machine), u32::MAX);
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: false, losses: 1 }));
    assert_eq!(slot(&machine), Some(Slot { link_up: false, present: true }));
    control(1 << 6);
    assert_eq!(machine.link(PORT).map(|link| link.losses), Some(1), "once for each reset");
    control(0);
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: true, losses: 1 }));
    assert_eq!(read(&machine, SCRATCH), 0);
    assert!(insecure(&machine));
}

#[test]
fn a_device_that_is_plugged_in_while_its_bus_is_held_waits_for_the_end_of_the_reset() {
    let machine = machine();
    machine.remove_device(DEVICE);
    machine.config_write(PORT, offset::BRIDGE_CONTROL, Width::Word, 1 << 6);
    machine.replug(DEVICE);
    assert_eq!((ids(&machine), machine.link(PORT).map(|link| link.up)), (u32::MAX, Some(false)));
    machine.config_write(PORT, offset::BRIDGE_CONTROL, Width::Word, 0);
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: true, losses: 1 }));
    assert_ne!(ids(&machine), u32::MAX);
}

#[test]
fn a_link_that_is_down_goes_down_no_further() {
    let machine = machine();
    machine.config_write(PORT, offset::BRIDGE_CONTROL, Width::Word, 1 << 6);
    assert!(machine.remove_device(DEVICE));
    assert_eq!(slot(&machine), Some(Slot { link_up: false, present: false }));
    machine.config_write(PORT, offset::BRIDGE_CONTROL, Width::Word, 0);
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: false, losses: 1 }));
    machine.reset_link(PORT);
    let lost = |event: &&Event| matches!(event, Event::LinkDown { .. });
    assert_eq!(machine.log().iter().filter(lost).count(), 1);
}

#[test]
fn a_link_that_is_lost_for_a_moment_takes_the_state_of_the_device_with_it() {
    let machine = machine();
    secure(&machine);
    write(&machine, SCRATCH, 3);
    machine.reset_link(PORT);
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: true, losses: 1 }));
    assert_eq!(read(&machine, SCRATCH), 0);
    assert!(insecure(&machine));
    machine.power_cycle();
    assert_eq!(machine.link(PORT), Some(LinkStatus { up: true, losses: 0 }));
    assert_eq!(machine.log(), [Event::PowerCycled]);
}

#[test]
fn what_is_not_there_is_refused_or_silent() {
    let machine = machine();
    for nobody in [at(0x14, 9), at(0x77, 0), FunctionId::new(Segment(3), DEVICE.bdf)] {
        assert_eq!(machine.config_read(nobody, 0, Width::Dword), u32::MAX);
        machine.config_write(nobody, 4, Width::Word, 6);
        assert_eq!(machine.link(nobody), None);
        assert!(!machine.remove_device(nobody) && !machine.replug(nobody));
        assert!(machine.set_device_faults(nobody, &[]).is_err());
        assert!(machine.schedule_device(nobody, 0, DeviceMove::Remove).is_err());
        assert!(machine.with_endpoint(nobody, |_| ()).is_none());
        assert!(machine.with_root_port(nobody, |_| ()).is_none());
    }
    let empty = at(0x14, 3);
    assert_eq!(machine.link(empty), Some(LinkStatus { up: false, losses: 0 }));
    assert!(machine.set_device_faults(empty, &[]).is_err());
    assert!(machine.schedule_device(empty, 0, DeviceMove::Remove).is_err());
    assert_eq!(machine.config_read(DEVICE, 1, Width::Dword), u32::MAX, "not aligned");
    assert_eq!(machine.mmio_read(PhysAddr::new(0x2001_0000_0000), MmioWidth::Dword), 0xffff_ffff);
    assert_eq!(machine.mmio_read(register(&machine, DEVICE, 4), MmioWidth::Qword), u64::MAX);
}

#[test]
fn accesses_go_where_the_registers_of_the_port_say() {
    let machine = machine();
    machine.config_write(PORT, offset::BUSES, Width::Dword, 0x0020_2014);
    assert_eq!(ids(&machine), u32::MAX, "its bus is below no port");
    machine.config_write(PORT, offset::BUSES, Width::Dword, 0x0015_1514);
    assert_ne!(ids(&machine), u32::MAX);
    write(&machine, SCRATCH, 3);
    let moved = register(&machine, DEVICE, 0).as_u64() + 0x8000_0000;
    machine.config_write(DEVICE, offset::BAR, Width::Dword, (moved & 0xffff_ffff) as u32);
    assert_eq!(read(&machine, SCRATCH), u64::MAX, "outside the window of the port");
    for (at, value) in [(offset::PREFETCHABLE, 0x8000_8000), (offset::PREFETCHABLE_UPPER, 0x2000)] {
        machine.config_write(PORT, at, Width::Dword, value);
    }
    assert_eq!(read(&machine, SCRATCH), 3);
    machine.config_write(PORT, offset::COMMAND, Width::Word, 4);
    assert_eq!(read(&machine, SCRATCH), u64::MAX, "memory space of the port is off");
}
