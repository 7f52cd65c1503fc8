//! Numbers of streams: on the bridge, on the ports, in registers.

use pcie::config::Width;
use pcie::ide::Ide;
use pcie::{Bdf, FunctionId, Segment};
use tdx_host::link::{BridgeStreams, PortStreams};
use tdx_host::tsm::{Dsm, FunctionFacts, Tsm};
use tdx_host::{Errno, HostError};

use super::{Counted, Link};
use crate::fake::pcie::{DEVICE, PORT, Pcie, Shape, pcie_bridge};

/// Something that bends the hardware.
type BendPcie = fn(&mut Pcie);

/// Leaves a stream of `function` enabled, as firmware may.
fn enable(pcie: &mut Pcie, function: FunctionId, index: u8, id: u8) {
    let space = pcie.spaces.get_mut(&function).unwrap();
    let control = Ide::find(space).unwrap().selective(index).unwrap().control();
    space.set(control, Width::Dword, u32::from(id) << 24 | 1).unwrap();
}

#[test]
fn a_connect_needs_a_free_stream_on_bridge_and_ports() {
    let few: [(&str, Shape<'_>, BendPcie, &str); 6] = [
        ("port without IDE", Shape { port_streams: &[], ..Shape::default() }, |_| {}, "no-selective-ide"),
        ("device without IDE", Shape { device_streams: &[], ..Shape::default() }, |_| {}, "no-selective-ide"),
        (
            "port used up",
            Shape { port_streams: &[1], ..Shape::default() },
            |pcie| enable(pcie, PORT, 0, 1),
            "no-stream-on-root-port",
        ),
        ("device used up", Shape::default(), |pcie| enable(pcie, DEVICE, 0, 1), "no-stream-on-endpoint"),
        ("no window", Shape { window: (0x200, 0x1ff), ..Shape::default() }, |_| {}, "no-address-window"),
        ("window at 0", Shape { window: (0, 0xff), ..Shape::default() }, |_| {}, "no-address-window"),
    ];
    for (what, shape, bend, name) in few {
        let mut link = Link::with(shape, bend);
        let (free, in_use) = (link.fake().free_bytes(), link.tsm.root_ports()[0].in_use());
        let error = link.connect().unwrap_err();
        let errno = if name == "no-address-window" { Errno::EFAULT } else { Errno::ENOMEM };
        assert_eq!((error.name(), error.errno()), (name, errno), "{what}: {error}");
        assert_eq!(link.tsm.bridges()[0].available(), Some(2), "{what}");
        assert_eq!(link.tsm.root_ports()[0].in_use(), in_use, "{what}");
        assert_eq!(link.fake().free_bytes(), free, "{what}");
        assert!(link.fake().state().io.links.is_empty(), "{what}");
    }
    let mut link = Link::new();
    link.tsm.bridges()[0].set_streams(0);
    let error = link.connect().unwrap_err();
    assert_eq!((error.name(), error.errno()), ("no-stream-on-bridge", Errno::ENOMEM));
    assert_eq!(error.to_string(), "0000:01:00.0: none of the 0 secure streams of pci0000:00 is left");
    assert_eq!(link.tsm.root_ports()[0].in_use(), 0);
}

#[test]
fn numbers_that_the_module_chooses_have_to_be_free() {
    let mut link = Link::with(Shape::default(), |pcie| enable(pcie, PORT, 1, 9));
    for (stream_id, block, name, errno) in [
        (256, 0, "bad-stream-id", Errno::ENXIO),
        (7, 256, "bad-stream-id", Errno::ENXIO),
        (255, 0, "stream-id-in-use", Errno::EBUSY),
        (9, 0, "stream-id-in-use", Errno::EBUSY),
        (7, 1, "root-port-block-in-use", Errno::EBUSY),
        (7, 2, "root-port-block-in-use", Errno::EBUSY),
    ] {
        {
            let mut state = link.fake().state();
            (state.io.links.stream_id, state.io.links.root_port_block) = (stream_id, block);
        }
        let error = link.connect().unwrap_err();
        assert_eq!((error.name(), error.errno()), (name, errno), "{stream_id}, {block}: {error}");
        assert_eq!((link.fake().free_bytes(), link.tsm.root_ports()[0].in_use()), (link.free, 1));
        assert!(link.fake().state().io.links.is_empty());
    }
    let mut state = link.fake().state();
    (state.io.links.stream_id, state.io.links.root_port_block) = (254, 0);
    drop(state);
    link.connect().unwrap();
}

#[test]
fn the_block_that_the_module_took_is_the_one_that_is_counted() {
    let mut link = Link::new();
    link.fake().state().io.links.root_port_block = 1;
    link.connect().unwrap();
    assert_eq!(link.dsm.stream().unwrap().place().to_string(), "stream0.1.0");
    assert_eq!(link.tsm.root_ports()[0].in_use(), 1);
    link.disconnect().unwrap();
    link.assert_undone("other block");
}

#[test]
fn blocks_that_are_not_enabled_get_the_id_of_those_that_never_are() {
    let link = Link::with(Shape::default(), |pcie| enable(pcie, PORT, 0, 3));
    let state = link.fake().state();
    assert_eq!(state.io.pcie.stream_registers(PORT, 0)[0], 3 << 24 | 1);
    assert_eq!(state.io.pcie.stream_registers(PORT, 1)[0], 255 << 24);
    assert_eq!(state.io.pcie.stream_registers(DEVICE, 0)[0], 255 << 24);
}

#[test]
fn a_port_with_an_id_that_another_stream_has_is_of_no_use() {
    let link = Link::with(Shape { device_streams: &[1, 1], ..Shape::default() }, |pcie| {
        enable(pcie, PORT, 0, 3);
        enable(pcie, DEVICE, 0, 3);
    });
    assert_eq!(link.tsm.root_ports()[0].blocks(), 2);
    let bridge = BridgeStreams::new(pcie_bridge());
    let fake = &*link.bench.fake;
    assert_eq!(PortStreams::scan(fake, PORT, &bridge).blocks(), 2);
    assert_eq!(PortStreams::scan(fake, DEVICE, &bridge).blocks(), 0, "the id is the port's");
}

#[test]
fn streams_with_another_number_of_address_blocks_are_left_out() {
    let link = Link::of(Shape { port_streams: &[1, 1, 2, 1], ..Shape::default() });
    assert_eq!(link.tsm.root_ports()[0].blocks(), 2);
}

#[test]
fn a_device_is_below_a_port_and_in_a_segment_that_a_function_id_has() {
    let mut link = Link::new();
    let fake = &*link.bench.fake;
    let mut function = Pcie::functions()[1];
    function.root_port = None;
    let facts = FunctionFacts::read(fake, function);
    let mailbox = |link: &Link| {
        let mut found = None;
        tdx_host::doe::Mailbox::all(&*link.bench.fake, DEVICE, |mut mailbox| {
            mailbox.discover(&*link.bench.fake).unwrap();
            found = Some(mailbox);
        });
        found
    };
    let endpoint = PortStreams::scan(fake, DEVICE, &BridgeStreams::new(pcie_bridge()));
    link.dsm = Dsm::new(facts, mailbox(&link), endpoint);
    let error = link.connect().unwrap_err();
    assert_eq!((error.name(), error.errno()), ("no-root-port", Errno::ENOMEM));

    let mut function = Pcie::functions()[1];
    function.id = FunctionId::new(Segment(0x100), Bdf::new(1, 0, 0).unwrap());
    let facts = FunctionFacts::read(&*link.bench.fake, function);
    let endpoint = PortStreams::scan(&*link.bench.fake, DEVICE, &BridgeStreams::new(pcie_bridge()));
    link.dsm = Dsm::new(facts, mailbox(&link), endpoint);
    let error = link.connect().unwrap_err();
    assert_eq!((error.name(), error.errno()), ("segment-too-large", Errno::EINVAL));
    assert_eq!(link.fake().free_bytes(), link.free);
}

#[test]
fn a_module_without_connect_connects_nothing() {
    let link = Link::new();
    let plain = crate::fake::Bench::up(crate::fake::Fake::new(1));
    plain.fake.state().io.pcie = Pcie::new(Shape::default());
    let tsm = Tsm::new(Counted::default(), vec![BridgeStreams::new(pcie_bridge())], Vec::new());
    tsm.register(&*plain.fake, &link.class);
    let mut dsm = link.dsm;
    let name = format!("tsm{}", tsm.number().unwrap());
    let error = tsm.connect(&plain.host, &*plain.fake, &mut dsm, &name).unwrap_err();
    assert_eq!((error.name(), error.errno()), ("no-connect-metadata", Errno::EFAULT));
}

#[test]
fn a_host_without_a_cpu_says_so() {
    let mut link = Link::new();
    link.fake().state().online.fill(false);
    let error = link.connect().unwrap_err();
    assert_eq!((error.name(), error.errno()), ("device-host-failed", Errno::EFAULT));
    assert!(error.to_string().contains(&HostError::NoCpuOnline.to_string()));
    link.assert_undone("offline");
}

#[test]
fn functions_are_judged_as_linux_judges_them() {
    let shape = |shape: Shape<'_>| {
        let link = Link::of(shape);
        let facts = FunctionFacts::read(&*link.bench.fake, Pcie::functions()[1]);
        (facts.dsm_capable(), facts.has_ide, facts.has_tee)
    };
    assert_eq!(shape(Shape::default()), (true, true, true));
    assert_eq!(shape(Shape { tee: false, ..Shape::default() }), (true, true, false));
    assert_eq!(shape(Shape { device_streams: &[], ..Shape::default() }), (true, false, true));
    assert_eq!(shape(Shape { port_streams: &[], ..Shape::default() }), (true, false, true));
    assert_eq!(shape(Shape { port_streams: &[], tee: false, ..Shape::default() }), (false, false, false));

    let link = Link::new();
    let fake = &*link.bench.fake;
    let port = FunctionFacts::read(fake, Pcie::functions()[0]);
    assert!(!port.dsm_capable(), "a root port has no DSM");
    let mut function = Pcie::functions()[1];
    function.physical = Some(DEVICE.bdf);
    assert!(!FunctionFacts::read(fake, function).dsm_capable(), "nor has a virtual function");
    function.id = FunctionId::new(Segment(0), Bdf::new(1, 1, 5).unwrap());
    assert_eq!(FunctionFacts::read(fake, function).dsm_place(), DEVICE);
    assert!(!FunctionFacts::read(fake, function).link_facts(true, None).express, "nobody answers there");
}
