use pcie::{Bdf, Segment};
use proptest::prelude::*;

use super::*;

fn refused(change: impl FnOnce(&mut EndpointSpec)) -> EndpointSpecIssue {
    let mut spec = EndpointSpec::default();
    change(&mut spec);
    spec.validate().unwrap_err().issue().unwrap().clone()
}

#[test]
fn a_file_with_a_name_alone_is_the_default_device() {
    let spec = EndpointSpec::from_toml("name = \"default\"").unwrap();
    assert_eq!(spec, EndpointSpec::default());
}

#[test]
fn a_written_device_reads_back() {
    let mut spec = EndpointSpec::default();
    spec.spdm.versions = vec![Named(Version::V1_3)];
    spec.functions.push(FunctionSpec { number: 7, virtual_functions: 3, memory: Size(1 << 20) });
    assert_eq!(EndpointSpec::from_toml(&spec.to_toml().unwrap()), Ok(spec));
}

#[test]
fn a_file_that_is_none_is_refused_with_its_line() {
    for (text, line, part) in [
        ("name = \"x\"\nports = 3", 2, "unknown field `ports`"),
        ("name = \"x\"\n[spdm]\nversions = [\"1.4\"]", 3, "expected \"1.2\" or \"1.3\""),
        ("name = \"x\"\n[pci]\naddress = \"3b\"", 3, "a function such as"),
        ("name = \"x\"\n\n[[measurement]]\nindex = 1\nkind = \"colour\"", 5, "unknown variant `colour`"),
        ("name = ", 1, ""),
    ] {
        let error = EndpointSpec::from_toml(text).unwrap_err();
        let EndpointSpecError::Syntax { line: found, reason } = &error else { panic!("{error}") };
        assert_eq!(*found, Some(line), "{error}");
        assert!(reason.contains(part), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn addresses_and_ids_have_their_limits() {
    use EndpointSpecIssue as Issue;
    let address = |segment, bdf| Named(FunctionId::new(Segment(segment), Bdf::from_routing_id(bdf)));
    assert!(matches!(refused(|spec| spec.pci.device_id = Hex(0x1_0000)), Issue::TooWide { bits: 16, .. }));
    assert!(matches!(refused(|spec| spec.pci.class = Hex(0x100_0000)), Issue::TooWide { bits: 24, .. }));
    assert!(matches!(refused(|spec| spec.pci.vendor_id = Hex(0xffff)), Issue::NoVendor { .. }));
    assert!(matches!(refused(|spec| spec.pci.address = address(0, 1)), Issue::NotFunctionZero { .. }));
    assert!(matches!(refused(|spec| spec.pci.address = address(0x100, 0)), Issue::SegmentTooLarge { .. }));
}

#[test]
fn what_is_spoken_must_be_something_and_each_once() {
    use EndpointSpecIssue as Issue;
    assert_eq!(refused(|spec| spec.spdm.versions.clear()), Issue::Empty { key: "versions" });
    assert_eq!(refused(|spec| spec.spdm.groups.clear()), Issue::Empty { key: "groups" });
    assert_eq!(refused(|spec| spec.spdm.ciphers.clear()), Issue::Empty { key: "ciphers" });
    let twice = refused(|spec| spec.spdm.hashes.push(Named(HashAlgo::Sha256)));
    assert_eq!(twice.to_string(), "`spdm.hashes` names sha-256 twice");
    assert_eq!(refused(|spec| spec.spdm.slots = vec![0, 8]), Issue::BadSlot { slot: 8 });
    assert_eq!(refused(|spec| spec.spdm.slots = vec![1]), Issue::NoSlotZero);
    assert_eq!(refused(|spec| spec.spdm.slots = vec![0, 0]).to_string(), "`spdm.slots` names 0 twice");
}

#[test]
fn sizes_and_counts_have_their_limits() {
    use EndpointSpecIssue as Issue;
    assert!(matches!(refused(|spec| spec.spdm.data_transfer_size = 41), Issue::TransferSize { .. }));
    assert!(matches!(refused(|spec| spec.spdm.data_transfer_size = 1 << 20), Issue::TransferSize { .. }));
    assert!(matches!(refused(|spec| spec.spdm.max_message_size = 4095), Issue::MessageSize { .. }));
    assert!(matches!(refused(|spec| spec.spdm.sessions = 0), Issue::Sessions { count: 0 }));
    assert!(matches!(refused(|spec| spec.spdm.ct_exponent = 32), Issue::CtExponent { exponent: 32 }));
    assert!(matches!(refused(|spec| spec.ide.selective_streams = 0), Issue::Ide { .. }));
    assert!(matches!(refused(|spec| spec.ide.link_streams = 9), Issue::Ide { .. }));
    assert!(matches!(refused(|spec| spec.ide.address_blocks = 16), Issue::Ide { .. }));
    assert!(matches!(refused(|spec| spec.ide.selective_streams = 255), Issue::IdeTooLarge { .. }));
    assert!(matches!(refused(|spec| spec.ide.ports = 9), Issue::Ide { .. }));
    let without = EndpointSpec { ide: IdeSpec { ports: 0, ..IdeSpec::default() }, ..EndpointSpec::default() };
    assert_eq!(without.validate(), Ok(()), "a device without IDE");
    assert!(matches!(refused(|spec| spec.ide.ports = 3), Issue::PortWithoutFunction { .. }));
    assert!(matches!(refused(|spec| spec.tdisp.address_width = 65), Issue::AddressWidth { width: 65 }));
}

#[test]
fn functions_have_numbers_and_memory_that_fit() {
    use EndpointSpecIssue as Issue;
    let function = |number, memory| FunctionSpec { number, virtual_functions: 0, memory: Size(memory) };
    let with = |functions: Vec<FunctionSpec>| {
        refused(|spec| {
            spec.ide.ports = 1;
            spec.functions = functions;
        })
    };
    assert_eq!(with(vec![]), Issue::NoFunctionZero);
    assert_eq!(with(vec![function(1, 1 << 16)]), Issue::NoFunctionZero);
    assert_eq!(with(vec![function(8, 1 << 16)]), Issue::BadFunction { number: 8 });
    assert_eq!(
        with(vec![function(0, 1 << 16), function(0, 1 << 16)]),
        Issue::DuplicateFunction { number: 0 }
    );
    for memory in [0, 0x4000, 0x1_8000, 8 << 30] {
        assert_eq!(with(vec![function(0, memory)]), Issue::BadMemory { number: 0, size: memory });
    }
    assert!(matches!(refused(|spec| spec.pci.window = Hex(u64::MAX)), Issue::TooWide { bits: 52, .. }));
    assert!(matches!(refused(|spec| spec.pci.window = Hex((1 << 52) - 0x1000)), Issue::Windows { .. }));
    let many = |count| FunctionSpec { virtual_functions: count, ..function(0, 1 << 16) };
    assert!(matches!(with(vec![many(249)]), Issue::TooManyVirtual { count: 249, .. }));
    let ide = IdeSpec { ports: 1, ..IdeSpec::default() };
    let spec = EndpointSpec { functions: vec![many(248)], ide, ..EndpointSpec::default() };
    assert_eq!(spec.validate(), Ok(()));
}

#[test]
fn measurements_have_an_index_and_a_value_of_their_kind() {
    use EndpointSpecIssue as Issue;
    let block = |index, kind, hex: &str| MeasurementSpec {
        index,
        kind,
        raw: false,
        text: None,
        hex: Some(hex.to_owned()),
    };
    let with = |blocks: Vec<MeasurementSpec>| refused(|spec| spec.measurements = blocks);
    let firmware = |index| block(index, MeasurementKind::Firmware, "00");
    assert_eq!(with(vec![firmware(0)]), Issue::BadIndex { index: 0 });
    assert_eq!(with(vec![firmware(255)]), Issue::BadIndex { index: 255 });
    assert_eq!(with(vec![firmware(3), firmware(3)]), Issue::DuplicateIndex { index: 3 });
    assert_eq!(with(vec![firmware(253)]), Issue::ReservedIndex { index: 253 });
    assert_eq!(with(vec![firmware(254)]), Issue::ReservedIndex { index: 254 });
    assert_eq!(with(vec![block(1, MeasurementKind::DeviceMode, "00")]), Issue::ReservedIndex { index: 1 });
    for hex in ["0", "0g", "é0"] {
        assert_eq!(with(vec![block(1, MeasurementKind::Rom, hex)]), Issue::BadValue { index: 1 }, "{hex}");
    }
    let both = MeasurementSpec { text: Some(String::new()), ..firmware(1) };
    assert_eq!(with(vec![both]), Issue::BadValue { index: 1 });
    assert_eq!(with(vec![MeasurementSpec { hex: None, ..firmware(1) }]), Issue::BadValue { index: 1 });
    assert!(matches!(
        with(vec![block(1, MeasurementKind::SecurityVersion, "01")]),
        Issue::WrongSize { size: 8, .. }
    ));
    let long = MeasurementSpec { raw: true, ..block(1, MeasurementKind::Firmware, &"00".repeat(65529)) };
    assert!(matches!(with(vec![long]), Issue::LargeValue { size: 65529, most: 65528, .. }));
    let large = |index| MeasurementSpec {
        raw: true,
        ..block(index, MeasurementKind::Firmware, &"00".repeat(40_000))
    };
    assert!(matches!(with(vec![large(1), large(2)]), Issue::TooManyMeasurements { .. }));
    assert!(EndpointSpec { measurements: vec![], ..EndpointSpec::default() }.validate().is_ok());
}

#[test]
fn a_value_in_digits_may_be_grouped() {
    assert_eq!(bytes_of("00 ff_1A"), Some(vec![0, 0xff, 0x1a]));
    assert_eq!(bytes_of(""), Some(vec![]));
}

proptest! {
    #[test]
    fn any_text_is_a_device_or_is_refused(text in "\\PC{0,64}|name = \"x\"\n\\[(pci|spdm|ide|tdisp)\\]\n[a-z_]{1,20} = \\PC{0,12}") {
        if let Ok(spec) = EndpointSpec::from_toml(&text) {
            prop_assert_eq!(EndpointSpec::from_toml(&spec.to_toml().unwrap()), Ok(spec));
        }
    }
}
