extern crate std;

use std::vec;

use super::*;
use crate::address::Bdf;
use crate::config::{
    Bar, BarError, BuildError, CapabilityError, ConfigBuilder, ConfigSpace, ExtendedId, FunctionIds, Width,
    extended_capabilities,
};
use crate::doe::Capability;

fn endpoint() -> ConfigBuilder {
    ConfigBuilder::endpoint(FunctionIds {
        vendor: 0x8086,
        device: 1,
        revision: 0,
        class: [2, 0, 0],
        subsystem_vendor: 0,
        subsystem: 0,
    })
}

const EXPRESS: Express = Express {
    port_type: PortType::ENDPOINT,
    max_payload: MaxPayload::MAX,
    function_reset: true,
    tee_io: true,
    link_speed: 5,
    link_width: 16,
};
const MSIX: Msix = Msix {
    messages: 9,
    table: TableAt { bar: 2, offset: 0x1000 },
    pending: TableAt { bar: 2, offset: 0x1800 },
};
const SR_IOV: SrIov = SrIov {
    total: 4,
    first_offset: 8,
    stride: 2,
    device: 0x4321,
    bars: [Some(Bar::memory64(1 << 16)), None, None, None, None, None],
};

fn built(add: impl FnOnce(&mut ConfigBuilder) -> Result<u16, BuildError>) -> (u16, ConfigSpace) {
    let mut builder = endpoint();
    let at = add(&mut builder).unwrap();
    (at, builder.build())
}

#[test]
fn a_function_with_tee_io_says_so_in_bit_30_of_its_device_capabilities() {
    for tee_io in [false, true] {
        let express = Express { tee_io, ..EXPRESS };
        let (at, space) = built(|builder| builder.capability(&express));
        assert_eq!(space.read32(at + 4).unwrap() >> 30 & 1, u32::from(tee_io));
        assert_eq!(Express::find(&space), Some(express));
    }
    assert_eq!(Express::find(&endpoint().build()), None);
}

#[test]
fn a_root_port_tells_of_its_slot_and_of_changes_in_it() {
    let root_port = Express { port_type: PortType::ROOT_PORT, ..EXPRESS };
    let (at, mut space) = built(|builder| builder.capability(&root_port));
    assert_eq!(Express::slot(&space), Some(Slot::default()));
    let there = Slot { link_up: true, present: true };
    Express::set_slot(&mut space, there).unwrap();
    assert_eq!(Express::slot(&space), Some(there));
    assert_eq!(space.read16(at + 0x12).unwrap() >> 13 & 1, 1, "data link layer active");
    let status = at + 0x1a;
    assert_eq!(space.read16(status), Ok(1 << 8 | 1 << 6 | 1 << 3));
    space.write(status, Width::Word, 0xffff).unwrap();
    assert_eq!(space.read16(status), Ok(1 << 6), "presence is no event");
    Express::set_slot(&mut space, Slot { link_up: false, ..there }).unwrap();
    assert_eq!(space.read16(status), Ok(1 << 8 | 1 << 6));

    let (_, mut endpoint) = built(|builder| builder.capability(&EXPRESS));
    let before = endpoint.clone();
    Express::set_slot(&mut endpoint, there).unwrap();
    assert_eq!((Express::slot(&endpoint), endpoint), (None, before), "an endpoint has no slot");
}

#[test]
fn a_function_reset_is_written_and_reads_as_0() {
    let (at, mut space) = built(|builder| builder.capability(&EXPRESS));
    let all = DeviceControl::from_bits(u16::MAX).into_bits().into();
    space.write(at + Express::DEVICE_CONTROL, Width::Word, all).unwrap();
    let (offset, control) = Express::control(&space).unwrap();
    assert_eq!(offset, at + Express::DEVICE_CONTROL);
    assert!(!control.function_reset());
    assert_eq!((control.max_payload(), control.max_read_request()), (7, 7));
}

#[test]
fn payload_sizes_are_powers_of_two_from_128_to_4096() {
    for field in 0..6 {
        let size = MaxPayload::from_field(field).unwrap();
        assert_eq!(MaxPayload::from_bytes(size.bytes()), Some(size));
    }
    assert_eq!((MaxPayload::MIN.bytes(), MaxPayload::MAX.bytes()), (128, 4096));
    assert_eq!(MaxPayload::from_field(6), None);
    for bytes in [0, 64, 129, 8192] {
        assert_eq!(MaxPayload::from_bytes(bytes), None);
    }
}

#[test]
fn messages_of_msix_are_counted_from_1() {
    for messages in [1, 2048] {
        let msix = Msix { messages, ..MSIX };
        let (at, mut space) = built(|builder| builder.capability(&msix));
        assert_eq!(Msix::find(&space), Some(msix));
        assert_eq!(Msix::control(&space), Some(messages - 1));
        space.write(at, Width::Dword, u32::MAX).unwrap();
        assert_eq!(Msix::control(&space), Some(0xc000 | (messages - 1)));
    }
}

#[test]
fn fields_that_a_register_cannot_hold_are_refused() {
    let refused = |result: Result<u16, BuildError>| match result {
        Err(BuildError::Capability { error: CapabilityError::Field { field, .. }, .. }) => field,
        other => panic!("{other:?}"),
    };
    for (express, field) in [
        (Express { port_type: PortType(16), ..EXPRESS }, "type of the port"),
        (Express { link_speed: 0, ..EXPRESS }, "link speed"),
        (Express { link_speed: 7, ..EXPRESS }, "link speed"),
        (Express { link_width: 3, ..EXPRESS }, "link width"),
    ] {
        assert_eq!(refused(endpoint().capability(&express)), field);
    }
    for (msix, field) in [
        (Msix { messages: 0, ..MSIX }, "number of MSI-X messages"),
        (Msix { messages: 2049, ..MSIX }, "number of MSI-X messages"),
        (Msix { table: TableAt { bar: 6, offset: 0 }, ..MSIX }, "place of the MSI-X table"),
        (Msix { pending: TableAt { bar: 0, offset: 4 }, ..MSIX }, "place of the MSI-X pending bits"),
    ] {
        assert_eq!(refused(endpoint().capability(&msix)), field);
    }
    for (sriov, field) in [
        (SrIov { total: 0, ..SR_IOV }, "number of virtual functions"),
        (SrIov { first_offset: 0, ..SR_IOV }, "offset of the first virtual function"),
        (SrIov { stride: 0, ..SR_IOV }, "stride of virtual functions"),
    ] {
        assert_eq!(refused(endpoint().extended(&sriov)), field);
    }
    for version in [0, 16] {
        let doe = DoeCapability { version, registers: Capability::new() };
        assert_eq!(refused(endpoint().extended(&doe)), "version of DOE");
    }
}

#[test]
fn windows_of_virtual_functions_do_not_overlap() {
    let wide = Some(Bar::memory64(4096));
    for (bars, error) in [
        ([wide, wide, None, None, None, None], BarError::Taken(1)),
        ([None, None, None, None, None, wide], BarError::Index(5)),
        ([Some(Bar::memory32(1)), None, None, None, None, None], BarError::Size { index: 0, size: 1 }),
    ] {
        let id = ExtendedId::SR_IOV.0;
        let refused = BuildError::Capability { id, error: error.into() };
        assert_eq!(endpoint().extended(&SrIov { bars, ..SR_IOV }), Err(refused));
    }
    let bars = [wide, None, wide, None, wide, None];
    assert!(endpoint().extended(&SrIov { bars, ..SR_IOV }).is_ok());
}

#[test]
fn virtual_functions_are_there_when_they_are_enabled_and_as_many_as_are_asked_for() {
    let physical: Bdf = "3b:00.0".parse().unwrap();
    let (at, mut space) = built(|builder| builder.extended(&SR_IOV));
    let registers = SrIovRegisters::find(&space).unwrap();
    assert_eq!((registers.total, registers.count(), registers.device), (4, 0, 0x4321));
    for (number, count) in [(3, 3), (4, 4), (5, 4)] {
        space.write(at + 0x10, Width::Word, number).unwrap();
        space.write(at + 8, Width::Word, 0).unwrap();
        assert_eq!(SrIovRegisters::find(&space).unwrap().count(), 0);
        space.write(at + 8, Width::Word, 1 | 8).unwrap();
        let registers = SrIovRegisters::find(&space).unwrap();
        assert_eq!(registers.count(), count);
        assert!(registers.enabled && registers.memory_enabled);
        for index in 0..count {
            let function = registers.virtual_function(physical, index).unwrap();
            assert_eq!(function.routing_id(), 0x3b08 + 2 * index);
            assert_eq!(registers.index_of(physical, function), Some(index));
        }
        for stranger in ["3b:00.0", "3b:01.1", "3b:02.0", "3a:01.0"] {
            assert_eq!(registers.index_of(physical, stranger.parse().unwrap()), None, "{stranger}");
        }
    }
}

#[test]
fn virtual_functions_end_with_the_last_bus() {
    let (_, space) = built(|builder| builder.extended(&SR_IOV));
    let registers = SrIovRegisters::find(&space).unwrap();
    let physical = Bdf::from_routing_id(0xfff5);
    assert_eq!(registers.virtual_function(physical, 1), Some(Bdf::from_routing_id(0xffff)));
    assert_eq!(registers.virtual_function(physical, 2), None);
    assert_eq!(registers.virtual_function(physical, u16::MAX), None);
}

#[test]
fn a_function_has_a_mailbox_per_purpose() {
    let interrupts = Capability::new().with_interrupt_support(true).with_interrupt_message(3);
    let mailboxes = [
        DoeCapability { version: 1, registers: Capability::new() },
        DoeCapability { version: 2, registers: interrupts },
    ];
    let mut builder = endpoint();
    for mailbox in &mailboxes {
        builder.extended(mailbox).unwrap();
    }
    let space = builder.build();
    let found: vec::Vec<_> =
        extended_capabilities(&space).map(|found| DoeCapability::read(&space, found.unwrap())).collect();
    assert_eq!(found, mailboxes);
}

#[test]
fn a_function_knows_its_segment_in_flit_mode() {
    for segment_captured in [false, true] {
        let device3 = Device3 { capabilities: 0x1234, segment_captured };
        let (at, space) = built(|builder| builder.extended(&device3));
        assert_eq!(Device3::find(&space), Some(device3));
        assert_eq!(space.read32(at + 0xc), Ok(u32::from(segment_captured) << 3));
    }
    assert_eq!(Device3::find(&endpoint().build()), None);
}

#[test]
fn errors_of_ide_are_noted_until_software_clears_them() {
    let (at, mut space) = built(|builder| builder.extended(&Aer));
    let check = UncorrectableErrors::new().with_ide_check_failed(true);
    let misrouted = UncorrectableErrors::new().with_misrouted_ide_tlp(true);
    assert_eq!((check.into_bits(), misrouted.into_bits()), (1 << 28, 1 << 29));
    Aer::report(&mut space, check).unwrap();
    Aer::report(&mut space, misrouted).unwrap();
    assert_eq!(Aer::uncorrectable(&space), Some(UncorrectableErrors::from_bits(3 << 28)));
    space.write(at + 4, Width::Dword, check.into_bits()).unwrap();
    assert_eq!(Aer::uncorrectable(&space), Some(misrouted));
}

#[test]
fn a_function_without_error_reporting_notes_nothing() {
    let mut space = endpoint().build();
    let before = space.clone();
    Aer::report(&mut space, UncorrectableErrors::new().with_pcrc_check_failed(true)).unwrap();
    assert_eq!(space, before);
    assert_eq!(Aer::uncorrectable(&space), None);
}
