//! Every fault of a device, at every message that it can have: the requester names it, nothing is left,
//! and the next session with the same device works.

use std::sync::Arc;
use std::time::Duration;

use spdm::Kind;
use spdm::crypto::aws_lc::AwsLc;
use spdm::ide_km::{
    IdeKmFailure, KeySet, PortIndex, ProgramStream, QueryPort, SetKeys, StopStream, StreamId,
};
use spdm::ids::SlotId;
use spdm::msg::{MeasurementOperation, RequestCode, SessionPolicy, SummaryHash};
use spdm::requester::{
    ChallengeRequest, Compare, MeasurementsRequest, Operation, Outcome, Requester, RequesterConfig,
    RequesterError, SessionRequest, Transport, TransportFailure, VendorPayload, drive,
};
use spdm::tdisp::{
    LockInterface, Outcome as TdiOutcome, Progress, RangeFault, TdiOperation, TdiRequester, TdiState,
    TdispFailure, Window,
};
use spdm::x509::TrustStore;
use tdx_machine::endpoint::fault::{At, CATALOGUE};
use tdx_machine::endpoint::{Answered, DeviceFault, Endpoint, EndpointSpec};

const NOW: Duration = Duration::from_secs(1_800_000_000);
const STREAM: StreamId = StreamId(0);
const PORT: PortIndex = PortIndex(0);
const OFFSET: u64 = 0x4000_0000;

/// A device at the end of a wire that pads objects to a DWORD, as DOE does.
pub(crate) struct Wire {
    pub(crate) endpoint: Endpoint,
    clock: Duration,
}

impl Wire {
    pub(crate) fn new() -> Self {
        let endpoint = Endpoint::new(&EndpointSpec::default(), 7, NOW).unwrap();
        Self { endpoint, clock: Duration::ZERO }
    }

    pub(crate) fn trust(&self) -> TrustStore {
        TrustStore::new([self.endpoint.root()])
    }

    fn requester(&self, config: RequesterConfig) -> Requester {
        Requester::new(config, Arc::new(AwsLc), Arc::new(self.trust()))
    }
}

fn padded(payload: &[u8]) -> Vec<u8> {
    let mut padded = payload.to_vec();
    padded.resize(payload.len().next_multiple_of(4), 0);
    padded
}

impl Transport for Wire {
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), TransportFailure> {
        match self.endpoint.answer(kind, &padded(payload), self.clock, &mut ()) {
            Answered::Object(kind, answer) => Ok((kind, padded(&answer))),
            Answered::Silence => Err(TransportFailure::Silence),
            Answered::DoeError => Err(TransportFailure::DoeError),
        }
    }

    fn wait(&mut self, time: Duration) {
        self.clock += time;
    }

    fn now(&mut self) -> Duration {
        NOW + self.clock
    }
}

/// Why a flow ended.
#[derive(Debug)]
enum Failure {
    Spdm(RequesterError),
    IdeKm(IdeKmFailure),
    Tdisp(TdispFailure),
    Range(RangeFault),
    State(TdiState),
}

impl Failure {
    /// The error as the catalogue names it.
    fn name(&self) -> String {
        match self {
            Self::Spdm(error) => format!("{error:?}"),
            Self::IdeKm(error) => format!("{error:?}"),
            Self::Tdisp(error) => format!("{error:?}"),
            Self::Range(error) => format!("{error:?}"),
            Self::State(state) => format!("State({state})"),
        }
    }

    /// The request that the error names, if it does.
    fn request(&self) -> Option<RequestCode> {
        match self {
            Self::Spdm(
                RequesterError::Transport { request, .. }
                | RequesterError::Refused { request, .. }
                | RequesterError::Busy { request, .. }
                | RequesterError::NeverReady { request, .. }
                | RequesterError::WrongKind { request, .. }
                | RequesterError::AnswerTooLarge { request, .. }
                | RequesterError::Open { request, .. }
                | RequesterError::Decode { request, .. }
                | RequesterError::Unexpected { request, .. },
            ) => Some(*request),
            _ => None,
        }
    }
}

impl From<RequesterError> for Failure {
    fn from(error: RequesterError) -> Self {
        Self::Spdm(error)
    }
}

impl From<IdeKmFailure> for Failure {
    fn from(error: IdeKmFailure) -> Self {
        Self::IdeKm(error)
    }
}

impl From<TdispFailure> for Failure {
    fn from(error: TdispFailure) -> Self {
        Self::Tdisp(error)
    }
}

/// Everything that a requester does with a device, from nothing to nothing.
struct Flow<'a> {
    requester: &'a mut Requester,
    wire: &'a mut Wire,
}

impl Flow<'_> {
    fn drive(&mut self, operation: Operation) -> Result<Outcome, Failure> {
        Ok(drive(self.requester, operation, self.wire)?)
    }

    fn vendor(&mut self, payload: Vec<u8>) -> Result<VendorPayload, Failure> {
        match self.drive(Operation::Vendor(payload.into()))? {
            Outcome::Vendor(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    fn tdisp(&mut self, tdi: &mut TdiRequester, operation: TdiOperation) -> Result<TdiOutcome, Failure> {
        tdi.start(operation)?;
        loop {
            let answer = self.vendor(tdi.request().unwrap())?;
            if let Progress::Done(outcome) = tdi.response(&answer)? {
                return Ok(outcome);
            }
        }
    }

    fn state(&mut self, tdi: &mut TdiRequester, expected: TdiState) -> Result<(), Failure> {
        match self.tdisp(tdi, TdiOperation::State)? {
            TdiOutcome::State(state) if state == expected => Ok(()),
            TdiOutcome::State(state) => Err(Failure::State(state)),
            other => panic!("{other:?}"),
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        let slot = SlotId::ZERO;
        self.drive(Operation::Connect)?;
        self.drive(Operation::Digests)?;
        self.drive(Operation::Certificate(slot))?;
        self.drive(Operation::Challenge(ChallengeRequest { slot, summary: SummaryHash::None }))?;
        self.drive(Operation::Measurements(MeasurementsRequest {
            operation: MeasurementOperation::All,
            raw: false,
            signed: Some(slot),
            compare: Compare::Twice,
        }))?;
        self.drive(Operation::StartSession(SessionRequest {
            slot,
            summary: SummaryHash::All,
            policy: SessionPolicy::default(),
        }))?;
        if self.requester.config().flags.hbeat() {
            self.drive(Operation::Heartbeat)?;
        }
        self.drive(Operation::KeyUpdate { all: true })?;
        self.keys()?;
        self.interface()?;
        let mut stop = StopStream::new(PORT, STREAM, KeySet::K0);
        while let Some(request) = stop.request() {
            let answer = self.vendor(request)?;
            stop.response(&answer)?;
        }
        self.drive(Operation::EndSession)?;
        Ok(())
    }

    fn keys(&mut self) -> Result<(), Failure> {
        let query = QueryPort { port: PORT };
        let answer = self.vendor(query.request())?;
        query.response(&answer)?;
        let mut program = ProgramStream::new(PORT, STREAM, KeySet::K0, SetKeys::generate(&AwsLc).unwrap());
        while let Some(request) = program.request() {
            let answer = self.vendor(request)?;
            program.response(&answer)?;
        }
        Ok(())
    }

    fn interface(&mut self) -> Result<(), Failure> {
        let function = self.wire.endpoint.functions().next().unwrap();
        let size = self.wire.endpoint.spec().functions[0].memory.0;
        let windows = [Window { id: 0, start: function.window.unwrap(), size }];
        let mut tdi = TdiRequester::new(function.interface);
        self.tdisp(&mut tdi, TdiOperation::Versions)?;
        self.tdisp(&mut tdi, TdiOperation::Capabilities)?;
        // Whatever a session before has left.
        self.tdisp(&mut tdi, TdiOperation::Stop)?;
        let lock = LockInterface {
            default_stream: STREAM,
            mmio_reporting_offset: OFFSET,
            ..LockInterface::default()
        };
        self.tdisp(&mut tdi, TdiOperation::Lock(lock))?;
        self.state(&mut tdi, TdiState::LOCKED)?;
        match self.tdisp(&mut tdi, TdiOperation::Report { portion: 64 })? {
            TdiOutcome::Report(_, report) => report.check(&windows, OFFSET).map_err(Failure::Range)?,
            other => panic!("{other:?}"),
        }
        self.tdisp(&mut tdi, TdiOperation::Start)?;
        self.state(&mut tdi, TdiState::RUN)?;
        self.tdisp(&mut tdi, TdiOperation::Stop)?;
        self.state(&mut tdi, TdiState::UNLOCKED)
    }
}

fn config(fault: DeviceFault) -> RequesterConfig {
    let mut config = RequesterConfig::default();
    if fault == DeviceFault::UnaskedHeartbeat {
        config.flags.set_hbeat(false);
    }
    config
}

/// What is wrong with how a fault was met, if anything.
fn meet(wire: &mut Wire, fault: DeviceFault) -> Result<(), String> {
    let mut requester = wire.requester(config(fault));
    wire.endpoint.set_faults(&[fault]).unwrap();
    if matches!(fault, DeviceFault::Replayed { .. }) {
        // What is replayed was genuine once.
        Flow { requester: &mut requester, wire }.run().map_err(|failure| format!("before: {failure:?}"))?;
    }
    let failure = match (Flow { requester: &mut requester, wire }).run() {
        Ok(()) => return Err("nothing was noticed".to_owned()),
        Err(failure) => failure,
    };
    let name = failure.name();
    if !fault.info().detected.iter().any(|detected| name.starts_with(detected)) {
        return Err(format!("{name} instead of {:?}", fault.info().detected));
    }
    // An answer that is late is the answer to another request.
    let late = matches!(fault, DeviceFault::Reordered { .. } | DeviceFault::Replayed { .. });
    if let (Some(at), Some(request), false) = (fault.at(), failure.request(), late)
        && at.carrier() != request
    {
        return Err(format!("{name}, although it happened at {at}"));
    }
    if requester.under_way().is_some() {
        return Err("an operation is still under way".to_owned());
    }
    // A device that is only refused in its own protocol still has its session.
    let kept =
        matches!(failure, Failure::IdeKm(_) | Failure::Tdisp(_) | Failure::Range(_) | Failure::State(_));
    if kept != requester.session().is_some() || kept != requester.connection().is_some() {
        return Err(format!("{name}, and a session: {:?}", requester.session()));
    }

    wire.endpoint.set_faults(&[]).unwrap();
    Flow { requester: &mut requester, wire }.run().map_err(|failure| format!("next session: {failure:?}"))?;
    if requester.session().is_some() || wire.endpoint.sessions().next().is_some() {
        return Err("a session is left behind".to_owned());
    }
    let function = wire.endpoint.functions().find(|function| function.state != TdiState::UNLOCKED);
    if let Some(function) = function {
        return Err(format!("interface {} is left in {}", function.interface, function.state));
    }
    Ok(())
}

fn meet_all(faults: impl Iterator<Item = DeviceFault>) {
    let mut wire = Wire::new();
    let mut wrong = Vec::new();
    for fault in faults {
        if let Err(why) = meet(&mut wire, fault) {
            wrong.push(format!("{fault:?}: {why}"));
            wire = Wire::new();
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_device_without_faults_is_believed() {
    let mut wire = Wire::new();
    let mut requester = wire.requester(RequesterConfig::default());
    for _ in 0..2 {
        Flow { requester: &mut requester, wire: &mut wire }.run().unwrap();
    }
}

#[test]
fn every_fault_of_the_device_is_named_and_the_next_session_works() {
    meet_all(DeviceFault::every().into_iter().filter(|fault| fault.at().is_none()));
}

#[test]
fn every_fault_at_a_message_in_the_clear_is_named_and_the_next_session_works() {
    meet_all(
        DeviceFault::every().into_iter().filter(|fault| fault.at().is_some_and(|at| At::CLEAR.contains(&at))),
    );
}

#[test]
fn every_fault_at_a_message_of_a_session_is_named_and_the_next_session_works() {
    meet_all(
        DeviceFault::every()
            .into_iter()
            .filter(|fault| fault.at().is_some_and(|at| !At::CLEAR.contains(&at))),
    );
}

#[test]
fn the_page_about_dsm_has_a_line_for_each_fault() {
    let page = include_str!("../../../docs/dsm.md");
    for info in CATALOGUE {
        let line = format!("| `{}` | {} | {} |", info.name, info.description, info.detected.join(", "));
        assert!(page.contains(&line), "docs/dsm.md lacks\n{line}");
    }
}
