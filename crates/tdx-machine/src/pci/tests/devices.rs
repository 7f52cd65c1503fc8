//! Many devices, and what each is.

use pcie::cap::{DoeCapability, Express};
use pcie::config::{ExtendedId, find_extended};

use super::*;

#[test]
fn the_default_platform_has_devices_of_which_one_cannot_be_connected() {
    let machine = machine();
    let found: Vec<_> = machine.pci_functions();
    let first: Vec<_> = found
        .iter()
        .filter(|function| function.root_port.is_some() && function.id.bdf.devfn() == 0)
        .map(|function| function.id)
        .collect();
    assert_eq!(first, [at(0x15, 0), at(0x16, 0), at(0x81, 0), at(0x82, 0)]);
    let ports = found.iter().filter(|function| function.root_port.is_none());
    assert_eq!(ports.count(), 5);
    for function in found.iter().filter(|function| function.physical.is_some()) {
        let physical = function.physical.expect("a virtual function");
        assert!(found.iter().any(|other| other.id == physical && other.physical.is_none()));
        assert_eq!(function.bridge.package, u32::from(function.id.bdf.bus() >= 0x80));
    }
    assert!(found.is_sorted_by_key(|function| function.id));
    for (id, able) in first.into_iter().zip([true, true, true, false]) {
        let config = Config(&machine, id);
        assert_eq!(Express::find(&config).map(|express| express.tee_io), Some(able), "{id}");
        assert_eq!(Ide::find(&config).is_some(), able, "{id}");
        assert_eq!(find_extended(&config, ExtendedId::DOE).is_some(), able, "{id}");
    }
    let doe = find_extended(&Config(&machine, DEVICE), ExtendedId::DOE).expect("a mailbox");
    assert_eq!(DoeCapability::read(&Config(&machine, DEVICE), doe).version, 2);
}

#[test]
fn devices_of_every_segment_answer_at_their_addresses() {
    let spec = presets::find("gnr-2s-connect").expect("a preset").spec().expect("valid");
    let machine = Machine::power_on(spec, 1).expect("valid");
    let devices: Vec<_> = machine.pci_functions();
    let devices: Vec<_> = devices.iter().filter(|function| function.root_port.is_some()).collect();
    assert_eq!(devices.len(), 256);
    for device in &devices {
        assert_eq!(machine.config_read(device.id, offset::IDS, Width::Dword), 0x7d11_1234, "{}", device.id);
        let magic = machine.mmio_read(register(&machine, device.id, reg::MAGIC), MmioWidth::Dword);
        assert_eq!(magic, crate::endpoint::mmio::MAGIC.into(), "{}", device.id);
        // Keys and certificates of so many devices would take seconds.
        assert_eq!(machine.with_endpoint(device.id, |device| device.has_identity()), Some(false));
    }
    assert!(devices.iter().any(|device| device.id.segment == Segment(1)));
}

#[test]
fn faults_of_a_device_last_until_power_is_cycled() {
    let mut spec = presets::find("default").expect("a preset").spec().expect("valid");
    let of_file = crate::endpoint::DeviceFault::BadVerifyData;
    spec.endpoints[0].faults = vec![of_file];
    let machine = Machine::power_on(spec, 1).expect("valid");
    let faults = || machine.with_endpoint(DEVICE, |device| device.faults().to_vec()).expect("a device");
    assert_eq!(faults(), [of_file]);
    machine.set_device_faults(DEVICE, &[crate::endpoint::DeviceFault::ExpiredChain]).expect("a device");
    assert_eq!(faults(), [crate::endpoint::DeviceFault::ExpiredChain]);
    machine.power_cycle();
    assert_eq!(faults(), [of_file]);
}
