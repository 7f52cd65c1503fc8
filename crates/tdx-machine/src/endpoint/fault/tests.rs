use super::*;
use crate::endpoint::EndpointSpec;

#[test]
fn every_fault_is_in_the_catalogue_once_and_in_its_order() {
    let mut names: Vec<_> = DeviceFault::every().iter().map(DeviceFault::name).collect();
    names.dedup();
    assert_eq!(names, CATALOGUE.iter().map(|info| info.name).collect::<Vec<_>>());
    for info in CATALOGUE {
        assert_eq!(DeviceFault::by_name(info.name).map(|fault| fault.name()), Some(info.name));
        assert!(!info.description.is_empty() && !info.detected.is_empty(), "{}", info.name);
    }
    assert_eq!(DeviceFault::by_name("good-device"), None);
}

#[test]
fn a_device_file_carries_every_fault_in_every_form() {
    let mut spec = EndpointSpec { faults: DeviceFault::every(), ..EndpointSpec::default() };
    let text = spec.to_toml().unwrap();
    for fault in DeviceFault::every() {
        assert!(text.contains(fault.name()), "{fault:?}");
    }
    let read = EndpointSpec::from_toml(&text).unwrap();
    assert_eq!(read, spec);
    spec.faults.clear();
    assert!(!spec.to_toml().unwrap().contains("faults"));
}

#[test]
fn a_fault_at_a_request_that_does_not_exist_is_refused_with_the_reason() {
    let error =
        EndpointSpec::from_toml("name = \"x\"\nfaults = [{ silent = { at = \"FINNISH\" } }]").unwrap_err();
    assert_eq!(
        error.to_string(),
        "device file, line 2: `FINNISH` is no request of SPDM, IDE_KM or TDISP, such as \"GET_DIGESTS\""
    );
}

#[test]
fn a_fault_at_vendor_defined_requests_covers_those_of_both_protocols() {
    let vendor: At = "VENDOR_DEFINED_REQUEST".parse().unwrap();
    let key_prog: At = "KEY_PROG".parse().unwrap();
    let start: At = "START_INTERFACE_REQUEST".parse().unwrap();
    assert!(vendor.covers(key_prog) && vendor.covers(start) && key_prog.covers(key_prog));
    assert!(!vendor.covers(At::HEARTBEAT) && !key_prog.covers(start) && !key_prog.covers(vendor));
    assert!("KP_ACK".parse::<At>().is_err(), "a response");
}
