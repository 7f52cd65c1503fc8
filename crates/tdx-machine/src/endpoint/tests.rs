//! A device by itself, with a requester that has a session with it.

mod config;

use std::sync::Arc;

use pcie::cap::{Express, Msix};
use pcie::config::{CapabilityId, Width, find, offset};
use pcie::ide::Ide;
use pcie::{Bdf, Segment};
use spdm::ide_km::{
    self, Direction, Ifv, KeyProg, KeySet, KeySlot, KpStatus, Message, ProgramStream, QueryPort, SetKeys,
    StopStream, SubStream, Target,
};
use spdm::msg::{MeasurementBlocks, MeasurementOperation, MeasurementValue, SessionPolicy, SummaryHash};
use spdm::requester::{
    Compare, MeasurementsRequest, Operation, Outcome, Requester, RequesterConfig, SessionRequest, Transport,
    TransportFailure, VendorPayload, drive,
};
use spdm::tdisp::{
    ErrorCode, LockFlags, LockInterface, Outcome as TdiOutcome, Progress, RangeAttributes, Report,
    TdiOperation, TdiRequester, TdispFailure,
};
use spdm::wire::Writer;
use spdm::x509::TrustStore;

use super::mmio::{PAGE, reg};
use super::*;
use crate::ide::{Association, ByteEnables, MaxPayload, Port, StreamSettings, TlpHeader};

const NOW: Duration = Duration::from_secs(1_800_000_000);
const PORT: PortIndex = PortIndex(0);
const STREAM: StreamId = StreamId(0);

fn at(bdf: &str) -> FunctionId {
    FunctionId::new(Segment(0), bdf.parse::<Bdf>().unwrap())
}

fn first() -> FunctionId {
    at("3b:00.0")
}

fn second() -> FunctionId {
    at("3b:00.1")
}

fn virtual_function() -> FunctionId {
    at("3b:01.2")
}

impl Transport for Endpoint {
    fn exchange(&mut self, kind: Travel, payload: &[u8]) -> Result<(Travel, Vec<u8>), TransportFailure> {
        Endpoint::exchange(self, kind, payload, Duration::ZERO, &mut ()).ok_or(TransportFailure::Silence)
    }

    fn wait(&mut self, _: Duration) {}

    fn now(&mut self) -> Duration {
        NOW
    }
}

/// A device with a requester that has a session with it.
struct Host {
    device: Endpoint,
    requester: Requester,
}

impl Host {
    fn new(spec: &EndpointSpec) -> Self {
        let device = Endpoint::new(spec, 7, NOW).unwrap();
        let trust = TrustStore::new([device.root()]);
        let requester = Requester::new(RequesterConfig::default(), Arc::new(AwsLc), Arc::new(trust));
        let mut host = Self { device, requester };
        host.open_session();
        host
    }

    fn open_session(&mut self) {
        let (slot, summary, policy) = (SlotId::ZERO, SummaryHash::None, SessionPolicy::default());
        let session = SessionRequest { slot, summary, policy };
        for step in [
            Operation::Connect,
            Operation::Digests,
            Operation::Certificate(slot),
            Operation::StartSession(session),
        ] {
            self.drive(step);
        }
    }

    /// With six keys in the stream.
    fn keyed() -> Self {
        let mut host = Self::new(&EndpointSpec::default());
        host.program(&SetKeys::generate(&AwsLc).unwrap());
        host
    }

    /// With an interface in RUN.
    fn running(function: FunctionId) -> Self {
        let mut host = Self::keyed();
        host.start(function, LockFlags::default());
        host
    }

    fn drive(&mut self, operation: Operation) -> Outcome {
        drive(&mut self.requester, operation, &mut self.device).unwrap()
    }

    fn vendor(&mut self, payload: Vec<u8>) -> VendorPayload {
        match self.drive(Operation::Vendor(payload.into())) {
            Outcome::Vendor(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn program(&mut self, keys: &SetKeys) {
        let mut program = ProgramStream::new(PORT, STREAM, KeySet::K0, keys.clone());
        while let Some(request) = program.request() {
            let answer = self.vendor(request);
            program.response(&answer).unwrap();
        }
    }

    fn tdisp(&mut self, tdi: &mut TdiRequester, operation: TdiOperation) -> Result<TdiOutcome, TdispFailure> {
        tdi.start(operation).unwrap();
        loop {
            let answer = self.vendor(tdi.request().unwrap());
            if let Progress::Done(outcome) = tdi.response(&answer)? {
                return Ok(outcome);
            }
        }
    }

    fn lock(&mut self, function: FunctionId, flags: LockFlags) -> Result<TdiRequester, TdispFailure> {
        let mut tdi = TdiRequester::new(interface(function).unwrap());
        let lock = LockInterface {
            flags,
            default_stream: STREAM,
            mmio_reporting_offset: 0xd000_0000,
            bind_p2p_address_mask: 0,
        };
        self.tdisp(&mut tdi, TdiOperation::Lock(lock)).map(|_| tdi)
    }

    fn start(&mut self, function: FunctionId, flags: LockFlags) {
        let mut tdi = self.lock(function, flags).unwrap();
        self.tdisp(&mut tdi, TdiOperation::Start).unwrap();
        assert_eq!(self.device.state(function), Some(TdiState::RUN));
    }

    fn report(&mut self, function: FunctionId) -> Report {
        let mut tdi = self.lock(function, LockFlags::default()).unwrap();
        match self.tdisp(&mut tdi, TdiOperation::Report { portion: 32 }).unwrap() {
            TdiOutcome::Report(_, report) => report,
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, function: FunctionId, at: u16, width: Width, value: u32) {
        self.device.config_write(function, at, width, value, Duration::ZERO, &mut ()).unwrap();
    }

    fn config(&self, function: FunctionId) -> &pcie::config::ConfigSpace {
        let index = self.device.dsm.hardware.find(function).unwrap();
        &self.device.dsm.hardware.functions[index].config
    }

    /// Offset of the control register of the first stream of a port.
    fn stream_control(&self, function: FunctionId) -> u16 {
        let ide = Ide::find(self.config(function)).unwrap();
        ide.selective(0).unwrap().control()
    }

    fn express_control(&self, function: FunctionId) -> u16 {
        Express::control(self.config(function)).unwrap().0
    }

    fn sr_iov(&self, function: FunctionId) -> u16 {
        find_extended(self.config(function), ExtendedId::SR_IOV).unwrap().offset
    }
}

fn access(offset: u64, tee: bool) -> MmioAccess {
    MmioAccess { offset, size: 8, tee }
}

#[test]
fn every_function_has_an_interface_that_can_be_locked_attested_and_run() {
    let mut host = Host::keyed();
    let functions: Vec<_> = host.device.functions().collect();
    let names: Vec<_> = functions.iter().map(|facts| facts.id.bdf.to_string()).collect();
    assert_eq!(names, ["3b:00.0", "3b:00.1", "3b:01.0", "3b:01.1", "3b:01.2", "3b:01.3"]);
    for facts in functions {
        host.start(facts.id, LockFlags::LOCK_MSIX);
    }
    assert!(host.device.functions().all(|facts| facts.state == TdiState::RUN));
}

#[test]
fn a_report_covers_the_window_from_its_start_without_a_gap() {
    let mut host = Host::keyed();
    for facts in host.device.functions().collect::<Vec<_>>() {
        let report = host.report(facts.id);
        let mut next = facts.window.unwrap() + 0xd000_0000;
        for range in &report.ranges {
            assert_eq!((range.first_page, range.id), (next, 0), "{}", facts.id);
            next += u64::from(range.pages) * PAGE;
        }
        assert_eq!(next, facts.window.unwrap() + 0xd000_0000 + 0x1_0000);
        let attributes: Vec<_> = report.ranges.iter().map(|range| range.attributes).collect();
        let expected = [
            RangeAttributes::NON_TEE,
            RangeAttributes::default(),
            RangeAttributes::MSIX_TABLE,
            RangeAttributes::MSIX_PBA,
            RangeAttributes::default(),
        ];
        assert_eq!(attributes, expected);
        assert_eq!(report.msix_control, 15);
    }
}

#[test]
fn whatever_changes_a_running_function_takes_its_interface_to_error() {
    type Cause = fn(&mut Host);
    let causes: &[(&str, Cause)] = &[
        ("bus mastering off", |host| host.write(first(), offset::COMMAND, Width::Word, 0b010)),
        ("memory space off", |host| host.write(first(), offset::COMMAND, Width::Byte, 0b100)),
        ("another window", |host| host.write(first(), offset::BAR + 4, Width::Dword, 0x40)),
        ("function-level reset", |host| {
            let control = host.express_control(first());
            host.write(first(), control, Width::Word, 0x8000);
        }),
        ("function-level reset by a byte", |host| {
            let control = host.express_control(first());
            host.write(first(), control + 1, Width::Byte, 0x80);
        }),
        ("another payload size", |host| {
            let control = host.express_control(first());
            host.write(first(), control, Width::Word, 0x2030);
        }),
        ("a key stopped", |host| {
            let mut stop = StopStream::new(PORT, STREAM, KeySet::K0);
            let answer = host.vendor(stop.request().unwrap());
            stop.response(&answer).unwrap();
        }),
        ("stream switched off", |host| {
            let control = host.stream_control(first());
            host.write(first(), control, Width::Dword, 1);
            assert_eq!(host.device.state(first()), Some(TdiState::RUN), "switched on");
            host.write(first(), control, Width::Dword, 0);
        }),
        ("other functions in the stream", |host| change_of_stream(host, 8, 0x003b_0f00)),
        ("other addresses in the stream", |host| change_of_stream(host, 16, 0x0000_0101)),
        ("another traffic class of the stream", |host| change_of_stream(host, 0, 1 << 19 | 1)),
        ("fail message", |host| host.device.fail_message(PORT, STREAM)),
        ("session ended", |host| drop(host.drive(Operation::EndSession))),
        ("new connection", |host| drop(host.drive(Operation::Connect))),
        ("requester gone", |host| host.device.disconnect()),
    ];
    for (name, cause) in causes {
        let mut host = Host::running(first());
        let secret = access(reg::TEE_MEMORY, true);
        host.device.mmio_write(first(), secret, 0x5ec7e7, &mut ()).unwrap();
        cause(&mut host);
        assert_eq!(host.device.state(first()), Some(TdiState::ERROR), "{name}");
        assert!(host.device.mmio_read(first(), secret).is_err(), "{name}");
        let index = host.device.dsm.hardware.find(first()).unwrap();
        let function = &host.device.dsm.hardware.functions[index];
        let running = super::mmio::View { gate: super::mmio::Gate::Running, ..function.view() };
        assert_eq!(function.mmio.read(secret, running), Ok(0), "{name}: nothing of the TEE is left");
    }
}

/// Enables the first stream and then writes a register of it, `from_control` bytes behind the control register.
fn change_of_stream(host: &mut Host, from_control: u16, value: u32) {
    let control = host.stream_control(first());
    host.write(first(), control, Width::Dword, 1);
    host.write(first(), control + 4, Width::Dword, u32::MAX);
    assert_eq!(host.device.state(first()), Some(TdiState::RUN), "the status is nobody's setting");
    host.write(first(), control + from_control, Width::Dword, value);
}

#[test]
fn what_happens_to_one_function_leaves_the_others_alone() {
    for other in [second(), virtual_function()] {
        let mut host = Host::running(other);
        host.write(first(), offset::COMMAND, Width::Word, 0);
        assert_eq!(host.device.state(other), Some(TdiState::RUN), "{other}");
    }
    let mut host = Host::running(first());
    let control = host.express_control(second());
    host.write(second(), control, Width::Word, 0x8000);
    host.write(second(), offset::BAR, Width::Dword, 0xdead_0000);
    assert_eq!(host.device.state(first()), Some(TdiState::RUN));
}

#[test]
fn a_write_that_changes_nothing_changes_no_state() {
    let mut host = Host::running(first());
    let command = host.device.config_read(first(), offset::COMMAND, Width::Word).unwrap();
    host.write(first(), offset::COMMAND, Width::Word, command);
    let bar = host.device.config_read(first(), offset::BAR, Width::Dword).unwrap();
    host.write(first(), offset::BAR, Width::Dword, bar);
    host.write(first(), offset::IDS, Width::Dword, 0);
    assert_eq!(host.device.state(first()), Some(TdiState::RUN));
}

#[test]
fn message_control_matters_if_the_lock_includes_it() {
    for (flags, state) in [(LockFlags::LOCK_MSIX, TdiState::ERROR), (LockFlags::default(), TdiState::RUN)] {
        let mut host = Host::keyed();
        host.start(first(), flags);
        let msix = find(host.config(first()), CapabilityId::MSIX).unwrap().offset;
        host.write(first(), msix + 2, Width::Word, 0x8000);
        assert_eq!(Msix::control(host.config(first())), Some(0x800f));
        assert_eq!(host.device.state(first()), Some(state), "{flags:?}");
    }
}

#[test]
fn virtual_functions_come_and_go_with_their_enable_bit() {
    let mut host = Host::running(virtual_function());
    let control = host.sr_iov(first()) + 8;
    let ids = |host: &Host| host.device.config_read(virtual_function(), offset::CLASS, Width::Dword).unwrap();
    assert_ne!(ids(&host), u32::MAX);
    host.write(first(), control, Width::Word, 0);
    assert_eq!(host.device.state(virtual_function()), None);
    assert_eq!(ids(&host), u32::MAX, "no function answers");
    assert_eq!(host.device.mmio_read(virtual_function(), access(0, false)), Err(MmioFault::NoFunction));
    let refused = host.lock(virtual_function(), LockFlags::default()).unwrap_err();
    assert!(matches!(refused, TdispFailure::Refused { code: ErrorCode::INVALID_INTERFACE, .. }));

    host.write(first(), control, Width::Word, 0b1001);
    assert_eq!(host.device.state(virtual_function()), Some(TdiState::UNLOCKED));
    assert!(host.lock(virtual_function(), LockFlags::default()).is_ok());
}

#[test]
fn windows_of_virtual_functions_are_their_physical_functions_affair() {
    let mut host = Host::running(virtual_function());
    let control = host.sr_iov(first()) + 8;
    host.write(first(), control, Width::Word, 0b0001);
    assert_eq!(host.device.state(virtual_function()), Some(TdiState::ERROR), "their memory is off");
    let mut host = Host::running(virtual_function());
    let bar = host.sr_iov(first()) + 0x24;
    host.write(first(), bar + 4, Width::Dword, 0x77);
    assert_eq!(host.device.state(virtual_function()), Some(TdiState::ERROR), "their windows move");
}

#[test]
fn a_reset_of_a_physical_function_takes_its_virtual_functions_along() {
    let mut host = Host::running(virtual_function());
    let control = host.express_control(first());
    host.write(first(), control, Width::Word, 0x8000);
    assert_eq!(host.device.state(virtual_function()), None);
    assert_eq!(host.device.config_read(first(), offset::BAR + 4, Width::Dword), Ok(0));
}

#[test]
fn a_conventional_reset_is_as_power_on() {
    let mut host = Host::running(first());
    host.device.reset();
    assert!(host.device.functions().all(|facts| facts.state == TdiState::UNLOCKED && facts.window.is_some()));
    host.open_session();
    let refused = host.lock(first(), LockFlags::default()).unwrap_err();
    assert!(
        matches!(refused, TdispFailure::Refused { code: ErrorCode::INVALID_REQUEST, .. }),
        "keys are gone"
    );
    host.program(&SetKeys::generate(&AwsLc).unwrap());
    host.start(first(), LockFlags::default());
}

#[test]
fn a_device_that_nobody_has_set_up_refuses_to_be_locked() {
    let mut spec = EndpointSpec::default();
    spec.pci.configured = false;
    let mut host = Host::new(&spec);
    host.program(&SetKeys::generate(&AwsLc).unwrap());
    assert_eq!(host.device.functions().count(), 2, "no virtual functions yet");
    assert_eq!(host.device.mmio_read(first(), access(0, false)), Err(MmioFault::Disabled));
    let refused = host.lock(first(), LockFlags::default()).unwrap_err();
    assert!(matches!(refused, TdispFailure::Refused { code: ErrorCode::INVALID_DEVICE_CONFIGURATION, .. }));
    host.write(first(), offset::BAR + 4, Width::Dword, 1);
    host.write(first(), offset::COMMAND, Width::Word, 0b10);
    assert!(host.lock(first(), LockFlags::default()).is_ok());
}

/// Memory that only notes whether requests were those of a TEE interface.
#[derive(Default)]
struct Noted(Vec<bool>);

impl Dma for Noted {
    fn read(&mut self, access: &DmaAccess, _: &mut [u8]) -> Result<(), DmaFault> {
        self.0.push(access.tee);
        Ok(())
    }

    fn write(&mut self, access: &DmaAccess, _: &[u8]) -> Result<(), DmaFault> {
        self.0.push(access.tee);
        Ok(())
    }
}

#[test]
fn the_engine_sends_as_what_its_interface_is() {
    let fill = |host: &mut Host, tee: bool| {
        let mut memory = Noted::default();
        for (offset, value) in [(reg::DMA_LENGTH, 8), (reg::DMA_COMMAND, DmaCommand::FILL.0.into())] {
            let written = host.device.mmio_write(first(), access(offset, tee), value, &mut memory);
            written.unwrap();
        }
        (host.device.dma_status(first()).unwrap(), memory.0)
    };
    let mut host = Host::keyed();
    assert_eq!(fill(&mut host, false), (DmaStatus::DONE, vec![false]));
    host.write(first(), offset::COMMAND, Width::Word, 0b010);
    assert_eq!(fill(&mut host, false), (DmaStatus::FORBIDDEN, vec![]), "bus mastering is off");
    host.write(first(), offset::COMMAND, Width::Word, 0b110);
    host.start(first(), LockFlags::default());
    assert_eq!(fill(&mut host, true), (DmaStatus::DONE, vec![true]));
    let refused = host.device.mmio_write(first(), access(reg::DMA_COMMAND, false), 2, &mut ());
    assert!(matches!(refused, Err(MmioFault::TeeOnly { .. })), "not for the host while it runs");
}

#[test]
fn a_query_shows_the_registers_of_each_port() {
    let mut host = Host::keyed();
    for (index, function) in [(0, first()), (1, second())] {
        let query = QueryPort { port: PortIndex(index) };
        let answer = host.vendor(query.request());
        let port = query.response(&answer).unwrap();
        assert_eq!(port.max_port, PortIndex(1));
        assert_eq!(port.location.to_string(), function.to_string());
        let image: Vec<_> = Ide::find(host.config(function)).unwrap().image().collect();
        assert_eq!(port.registers, image);
        // Capability, control, and four selective streams with one address association block.
        assert_eq!(image.len(), 2 + 4 * 8);
    }
}

#[test]
fn a_stream_is_secure_once_it_is_enabled_and_has_its_keys() {
    for keys_first in [false, true] {
        let mut host = Host::new(&EndpointSpec::default());
        let control = host.stream_control(first());
        let keys = SetKeys::generate(&AwsLc).unwrap();
        if keys_first {
            host.program(&keys);
        }
        let secure = |host: &Host| host.device.config_read(first(), control + 4, Width::Dword).unwrap() & 0xf;
        assert_eq!(secure(&host), 0);
        host.write(first(), control, Width::Dword, 1);
        if !keys_first {
            assert_eq!(secure(&host), 0);
            host.program(&keys);
        }
        assert_eq!(secure(&host), 2, "keys first: {keys_first}");
        host.write(first(), control, Width::Dword, 0);
        assert_eq!(secure(&host), 0);
    }
}

#[test]
fn keys_start_with_an_invocation_field_of_1_unless_the_device_takes_any() {
    let keys = SetKeys::generate(&AwsLc).unwrap();
    let slot = KeySlot::of_set(KeySet::K0).into_iter().next().unwrap();
    for (any_ifv, ifv, status) in [
        (false, Ifv::INITIAL, KpStatus::SUCCESS),
        (false, Ifv(1 << 32), KpStatus::UNSUPPORTED_VALUE),
        (true, Ifv(1 << 32), KpStatus::SUCCESS),
    ] {
        let mut spec = EndpointSpec::default();
        spec.ide.any_ifv = any_ifv;
        let target = Target { stream: STREAM, key: slot.into(), port: PORT };
        let request = Message::KeyProg(KeyProg { target, key: keys.key(slot).clone(), ifv });
        let mut buffer = [0; 64];
        let mut writer = Writer::new(&mut buffer);
        writer.u8(ide_km::PROTOCOL).unwrap();
        request.write(&mut writer).unwrap();
        let answer = Host::new(&spec).vendor(writer.finish().to_vec());
        let Message::KpAck(ack) = Message::read(&answer[1..]).unwrap() else {
            panic!("KEY_PROG is answered with another message")
        };
        assert_eq!(ack.status, status, "any: {any_ifv}, {ifv:?}");
    }
}

/// The root port's end of the stream, with the keys of the device.
fn root_port(keys: &SetKeys) -> Port {
    let mut port = Port::new(MaxPayload::MAX);
    port.add(StreamSettings { id: STREAM, association: Association::EVERYBODY }).set_enabled(true);
    for slot in KeySlot::of_set(KeySet::K0) {
        let here = slot.at_the_other_end();
        port.program(STREAM, here, keys.key(slot), Ifv::INITIAL).unwrap();
        port.go(STREAM, here).unwrap();
    }
    port
}

fn write_tlp() -> Tlp {
    let requester = Bdf::from_routing_id(0);
    Tlp {
        trusted: true,
        header: TlpHeader::Write { requester, address: 0x1000, enables: ByteEnables::ALL },
        payload: vec![1, 2, 3, 4],
    }
}

#[test]
fn tlps_travel_with_the_keys_of_the_session_and_a_changed_one_ends_the_interface() {
    let mut host = Host::new(&EndpointSpec::default());
    let keys = SetKeys::generate(&AwsLc).unwrap();
    let control = host.stream_control(first());
    host.write(first(), control, Width::Dword, 1);
    host.program(&keys);
    host.start(first(), LockFlags::default());
    let mut root = root_port(&keys);

    let sealed = root.seal(STREAM, write_tlp()).unwrap();
    assert_eq!(host.device.receive(PORT, sealed).unwrap(), [write_tlp()]);
    let sealed = host.device.send(PORT, STREAM, write_tlp()).unwrap();
    assert_eq!(root.open(sealed).unwrap(), [write_tlp()]);
    assert_eq!(host.device.state(first()), Some(TdiState::RUN));

    // One is lost, so that the next does not open.
    drop(root.seal(STREAM, write_tlp()).unwrap());
    let sealed = root.seal(STREAM, write_tlp()).unwrap();
    assert!(matches!(host.device.receive(PORT, sealed), Err(OpenError::IntegrityFail { .. })));
    assert_eq!(host.device.state(first()), Some(TdiState::ERROR));
    assert!(host.device.send(PORT, STREAM, write_tlp()).is_err());

    let status = |host: &Host| host.device.config_read(first(), control + 4, Width::Dword).unwrap();
    assert_eq!(status(&host), 0, "insecure, and this end found it");
    host.device.fail_message(PORT, STREAM);
    assert_eq!(status(&host), 1 << 31, "the other end has said so");
    host.write(first(), control + 4, Width::Dword, 1 << 31);
    assert_eq!(status(&host), 0);
}

#[test]
fn keys_of_the_lanes_are_where_the_slots_say() {
    let mut host = Host::new(&EndpointSpec::default());
    let keys = SetKeys::generate(&AwsLc).unwrap();
    host.program(&keys);
    let slot = KeySlot { set: KeySet::K0, direction: Direction::Rx, sub_stream: SubStream::Posted };
    let mut stop = StopStream::new(PORT, STREAM, KeySet::K0);
    let answer = host.vendor(stop.request().unwrap());
    stop.response(&answer).unwrap();
    let end = host.device.dsm.hardware.end_of(PORT, STREAM).unwrap();
    assert!(!end.is_keyed(), "{slot} was stopped");
}

#[test]
fn measurements_are_of_every_kind_that_the_file_has() {
    let mut host = Host::new(&EndpointSpec::default());
    for raw in [false, true] {
        let operation = MeasurementOperation::All;
        let wanted =
            MeasurementsRequest { operation, raw, signed: Some(SlotId::ZERO), compare: Compare::Nothing };
        let Outcome::Measurements(record) = host.drive(Operation::Measurements(wanted)) else { panic!() };
        let blocks: Vec<_> = MeasurementBlocks::new(&record.blocks).map(Result::unwrap).collect();
        let indices: Vec<_> = blocks.iter().map(|block| block.index).collect();
        assert_eq!(indices, [1, 2, 3, 4, 5, 6, 253, 254]);
        let kinds: Vec<_> = blocks.iter().map(|block| block.kind.0).collect();
        assert_eq!(kinds, [0, 1, 2, 3, 6, 7, 4, 5]);
        let is_raw: Vec<_> =
            blocks.iter().map(|block| matches!(block.value, MeasurementValue::Raw(_))).collect();
        assert_eq!(is_raw, [raw, raw, raw, raw, true, true, true, true]);
    }
}
