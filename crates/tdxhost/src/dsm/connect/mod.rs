//! `tdxhost dsm --connect`: a requester against any responder, from nothing to a running TEE device
//! interface and back.

mod error;
mod report;
mod transport;

pub use error::ConnectError;
pub use report::{Report, Row};
pub use transport::{Doe, ExchangeError, SharedRecorder, Traffic};

use std::sync::Arc;
use std::time::Instant;

use pcie::doe::ObjectType;
use pcie::ide::Capability;
use pcie::{FuncId, FunctionId};
use spdm::crypto::Crypto;
use spdm::crypto::aws_lc::AwsLc;
use spdm::ide_km::{KeySet, Port, PortIndex, ProgramStream, QueryPort, SetKeys, StopStream, StreamId};
use spdm::ids::SlotId;
use spdm::msg::{MeasurementOperation, SessionPolicy, SummaryHash};
use spdm::requester::{
    ChallengeRequest, Compare, MeasurementsRequest, Operation, Outcome, Requester, RequesterConfig,
    SessionRequest, VendorPayload, drive,
};
use spdm::tdisp::{
    InterfaceId, LockFlags, LockInterface, Outcome as TdiOutcome, Progress, TdiOperation, TdiRequester,
    TdiState,
};
use spdm::x509::{CertChain, TrustStore};
use tdx_machine::endpoint::spec::Named;

use super::socket::{CLIENT_HELLO, Command, Link, Stream};

/// Longest portion of a device interface report that is asked for at once.
const REPORT_PORTION: u16 = 1024;
/// `MEAS_CAP` of a responder that signs measurements.
const SIGNED: u8 = 2;

/// How far a run goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Until {
    /// Who the device is and what it runs.
    Identity,
    /// A session, and its end.
    Session,
    /// The keys of an IDE stream.
    Ide,
    /// An interface locked, attested, started and stopped.
    #[default]
    Tdisp,
}

/// What a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the requester offers.
    pub config: RequesterConfig,
    /// Whose certificates are believed.
    pub trust: TrustStore,
    /// The certificate slot; the lowest that holds a chain if `None`.
    pub slot: Option<SlotId>,
    /// The function whose interface is locked; the one of the IDE port if `None`.
    pub function: Option<FunctionId>,
    /// The IDE port.
    pub port: PortIndex,
    /// The stream.
    pub stream: StreamId,
    /// What reports add to addresses.
    pub reporting_offset: u64,
    /// New keys for the session, too.
    pub key_update: bool,
    /// How far it goes.
    pub until: Until,
    /// The responder is asked to end, not only told that we go.
    pub shutdown: bool,
}

/// Carries a plan out over `link` and tells what happened.
pub fn run<S: Stream>(address: String, link: Link<S>, plan: &Plan, recorder: SharedRecorder) -> Report {
    seed_random_numbers();
    let mut requester = Requester::new(plan.config.clone(), Arc::new(AwsLc), Arc::new(plan.trust.clone()));
    requester.set_observer(Box::new(recorder.clone()));
    let mut run = Run { plan, doe: Doe::new(link, recorder), requester, rows: Vec::new() };
    let mut result = run.everything();
    if run.requester.session().is_some() {
        let ended = run.phase("end", |run| {
            run.drive(Operation::EndSession)?;
            Ok("the session has ended".to_owned())
        });
        result = result.and(ended);
    }
    if !run.doe.is_lost() {
        let command = if plan.shutdown { Command::SHUTDOWN } else { Command::CONTINUE };
        // We go, whatever the answer is.
        let _ = run.doe.command(command, &[]);
    }
    let advice = result.as_ref().err().and_then(ConnectError::advice);
    Report::new(address, run.rows, result.err().map(|error| error.to_string()), advice)
}

/// The first random bytes of a process take tens of milliseconds to collect. They are no part of what
/// the peer is measured by; should there be none, the first operation that needs some says so.
fn seed_random_numbers() {
    let _ = AwsLc.random(&mut [0]);
}

struct Run<'a, S> {
    plan: &'a Plan,
    doe: Doe<S>,
    requester: Requester,
    rows: Vec<Row>,
}

impl<S: Stream> Run<'_, S> {
    fn everything(&mut self) -> Result<(), ConnectError> {
        self.phase("discovery", Self::discover)?;
        self.phase("negotiate", Self::negotiate)?;
        let slot = self.phase_of("certificates", Self::certificates)?;
        self.identity(slot)?;
        if self.plan.until < Until::Session {
            return Ok(());
        }
        self.phase("session", |run| run.session(slot))?;
        if self.plan.key_update {
            self.phase("key update", |run| {
                run.drive(Operation::KeyUpdate { all: true })?;
                Ok("both directions have new keys".to_owned())
            })?;
        }
        if self.plan.until < Until::Ide {
            return Ok(());
        }
        let port = self.phase_of("ide query", Self::query)?;
        let keyed = self.phase("ide keys", Self::keys);
        let done = match keyed {
            Ok(()) if self.plan.until >= Until::Tdisp => self.interface(&port),
            keyed => keyed,
        };
        // Even then the device is not to keep keys.
        let stopped = match &done {
            Err(ConnectError::Spdm { .. }) => Ok(()),
            _ => self.phase("ide stop", Self::stop_keys),
        };
        done.and(stopped)
    }

    /// A phase with a line in the table.
    fn phase(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Self) -> Result<String, ConnectError>,
    ) -> Result<(), ConnectError> {
        self.phase_of(name, |run| work(run).map(|what| ((), what)))
    }

    /// A phase that has a result beside its line.
    fn phase_of<T>(
        &mut self,
        name: &'static str,
        work: impl FnOnce(&mut Self) -> Result<(T, String), ConnectError>,
    ) -> Result<T, ConnectError> {
        let (before, started) = (self.doe.traffic(), Instant::now());
        let result = work(self);
        let what = match &result {
            Ok((_, what)) => what.clone(),
            Err(error) => error.to_string(),
        };
        let traffic = (before, self.doe.traffic());
        self.rows.push(Row::new(name, traffic, started.elapsed(), result.is_ok(), what));
        result.map(|(result, _)| result)
    }

    fn drive(&mut self, operation: Operation) -> Result<Outcome, ConnectError> {
        drive(&mut self.requester, operation, &mut self.doe)
            .map_err(|error| ConnectError::Spdm { error, socket: self.doe.take_failure() })
    }

    fn vendor(&mut self, payload: Vec<u8>) -> Result<VendorPayload, ConnectError> {
        match self.drive(Operation::Vendor(payload.into()))? {
            Outcome::Vendor(answer) => Ok(answer),
            _ => Err(ConnectError::Outcome("VENDOR_DEFINED")),
        }
    }

    fn discover(&mut self) -> Result<String, ConnectError> {
        // Each emulator greets in its own words; that one answers is what counts.
        self.doe.command(Command::TEST, CLIENT_HELLO).map_err(ExchangeError::from)?;
        let types = self.doe.discover()?;
        for needed in [ObjectType::SPDM, ObjectType::SECURED_SPDM] {
            if !types.contains(&needed) {
                return Err(ConnectError::NoType(needed));
            }
        }
        Ok(list(types))
    }

    fn negotiate(&mut self) -> Result<String, ConnectError> {
        match self.drive(Operation::Connect)? {
            Outcome::Connected(connection) => {
                let suite = connection.suite;
                let mut agreed = vec![format!("SPDM {}", connection.version), Named(suite.hash).to_string()];
                agreed.push(Named(suite.asym).to_string());
                agreed.extend(suite.dhe.map(|group| Named(group).to_string()));
                agreed.extend(suite.aead.map(|cipher| Named(cipher).to_string()));
                Ok(list(agreed))
            }
            _ => Err(ConnectError::Outcome("NEGOTIATE_ALGORITHMS")),
        }
    }

    fn certificates(&mut self) -> Result<(SlotId, String), ConnectError> {
        self.drive(Operation::Digests)?;
        let slots = *self.requester.slots().ok_or(ConnectError::Outcome("GET_DIGESTS"))?;
        let slot = match self.plan.slot {
            Some(slot) if slots.digest(slot).is_none() => return Err(ConnectError::EmptySlot(slot)),
            Some(slot) => slot,
            None => slots.provisioned().next().ok_or(ConnectError::NoSlot)?,
        };
        self.drive(Operation::Certificate(slot))?;
        let hash = self.requester.connection().map(spdm::requester::Connection::hash);
        let chain = self.requester.chain(slot).map(|chain| chain.bytes.as_slice());
        let parsed = hash.zip(chain).and_then(|(hash, bytes)| CertChain::parse(bytes, hash).ok());
        let count = parsed.map_or(0, |chain| chain.certificates().len());
        let trust = match self.plan.trust {
            TrustStore::Roots(_) => "of a trusted root",
            TrustStore::AnyRoot => "of ANY root: the device stays a stranger",
        };
        let provisioned = list(slots.provisioned());
        Ok((slot, format!("slots {provisioned}; slot {slot} has {count} certificates {trust}")))
    }

    /// Challenge and measurements, as far as the device has them.
    fn identity(&mut self, slot: SlotId) -> Result<(), ConnectError> {
        let Some(connection) = self.requester.connection().copied() else { return Ok(()) };
        let flags = connection.peer.flags;
        if flags.chal() {
            self.phase("challenge", |run| {
                let challenge = ChallengeRequest { slot, summary: SummaryHash::None };
                run.drive(Operation::Challenge(challenge))?;
                Ok(format!("the device has the key of slot {slot}"))
            })?;
        }
        if connection.measurements {
            self.phase("measurements", |run| {
                let signed = (flags.meas() == SIGNED).then_some(slot);
                let operation = MeasurementOperation::All;
                let wanted = MeasurementsRequest { operation, raw: false, signed, compare: Compare::Nothing };
                match run.drive(Operation::Measurements(wanted))? {
                    Outcome::Measurements(record) => {
                        let signature = if signed.is_some() { "signed" } else { "NOT signed" };
                        Ok(format!("{} blocks, {} bytes, {signature}", record.count, record.blocks.len()))
                    }
                    _ => Err(ConnectError::Outcome("GET_MEASUREMENTS")),
                }
            })?;
        }
        Ok(())
    }

    fn session(&mut self, slot: SlotId) -> Result<String, ConnectError> {
        let request = SessionRequest { slot, summary: SummaryHash::None, policy: SessionPolicy::default() };
        match self.drive(Operation::StartSession(request))? {
            Outcome::Session(facts) => {
                let heartbeat = match facts.heartbeat {
                    Some(period) => format!("heartbeat every {} s", period.as_secs()),
                    None => "no heartbeat".to_owned(),
                };
                let version = facts.secured_version.0;
                Ok(format!(
                    "{}, secured messages {}.{}, {heartbeat}",
                    facts.id,
                    version >> 12,
                    version >> 8 & 0xf
                ))
            }
            _ => Err(ConnectError::Outcome("KEY_EXCHANGE")),
        }
    }

    fn query(&mut self) -> Result<(Port, String), ConnectError> {
        let query = QueryPort { port: self.plan.port };
        let answer = self.vendor(query.request())?;
        let port = query.response(&answer)?;
        let features = Capability::from_bits(port.registers.first().copied().unwrap_or(0));
        let selective = if features.selective() { u16::from(features.selective_streams()) + 1 } else { 0 };
        let what = format!(
            "port {} of 0 to {} at {}: {selective} selective streams",
            port.index, port.max_port, port.location
        );
        Ok((port, what))
    }

    fn keys(&mut self) -> Result<String, ConnectError> {
        let Plan { port, stream, .. } = *self.plan;
        let keys = SetKeys::generate(&AwsLc)?;
        let mut program = ProgramStream::new(port, stream, KeySet::K0, keys);
        while let Some(request) = program.request() {
            let answer = self.vendor(request)?;
            program.response(&answer)?;
        }
        Ok(format!("stream {stream}: six keys programmed and in use"))
    }

    fn stop_keys(&mut self) -> Result<String, ConnectError> {
        let Plan { port, stream, .. } = *self.plan;
        let mut stop = StopStream::new(port, stream, KeySet::K0);
        while let Some(request) = stop.request() {
            let answer = self.vendor(request)?;
            stop.response(&answer)?;
        }
        Ok(format!("stream {stream}: the device has forgotten the keys"))
    }

    /// Locks the interface, reads its report, starts and stops it.
    fn interface(&mut self, port: &Port) -> Result<(), ConnectError> {
        let location = port.location;
        let at_port = {
            let bdf =
                pcie::Bdf::from_routing_id(u16::from_be_bytes([location.bus, location.device_function]));
            FunctionId::new(pcie::Segment(location.segment.into()), bdf)
        };
        let function = self.plan.function.unwrap_or(at_port);
        // A segment that has no room cannot come from the command line, nor from one byte.
        let id = FuncId::new(function).unwrap_or(FuncId(function.bdf.routing_id().into()));
        let mut tdi = TdiRequester::new(InterfaceId(id));

        self.phase("tdisp", |run| {
            run.tdisp(&mut tdi, TdiOperation::Versions)?;
            let width = match run.tdisp(&mut tdi, TdiOperation::Capabilities)? {
                TdiOutcome::Capabilities(capabilities) => capabilities.address_width,
                _ => return Err(ConnectError::Outcome("GET_TDISP_CAPABILITIES")),
            };
            run.expect_state(&mut tdi, TdiState::UNLOCKED)?;
            Ok(format!("interface {function}: TDISP 1.0, {width} address bits, {}", TdiState::UNLOCKED))
        })?;
        self.phase("lock", |run| {
            let lock = LockInterface {
                flags: LockFlags::default(),
                default_stream: run.plan.stream,
                mmio_reporting_offset: run.plan.reporting_offset,
                bind_p2p_address_mask: 0,
            };
            run.tdisp(&mut tdi, TdiOperation::Lock(lock))?;
            run.expect_state(&mut tdi, TdiState::LOCKED)?;
            Ok(format!("locked to stream {}", run.plan.stream))
        })?;
        self.phase("report", |run| {
            match run.tdisp(&mut tdi, TdiOperation::Report { portion: REPORT_PORTION })? {
                TdiOutcome::Report(bytes, report) => {
                    let pages: u64 = report.ranges.iter().map(|range| u64::from(range.pages)).sum();
                    let ranges = report.ranges.len();
                    Ok(format!("{} bytes: {ranges} ranges of MMIO, {pages} pages", bytes.len()))
                }
                _ => Err(ConnectError::Outcome("GET_DEVICE_INTERFACE_REPORT")),
            }
        })?;
        self.phase("start", |run| {
            run.tdisp(&mut tdi, TdiOperation::Start)?;
            run.expect_state(&mut tdi, TdiState::RUN)?;
            Ok("the interface runs".to_owned())
        })?;
        self.phase("stop", |run| {
            run.tdisp(&mut tdi, TdiOperation::Stop)?;
            run.expect_state(&mut tdi, TdiState::UNLOCKED)?;
            Ok("the interface is unlocked".to_owned())
        })
    }

    fn tdisp(&mut self, tdi: &mut TdiRequester, operation: TdiOperation) -> Result<TdiOutcome, ConnectError> {
        tdi.start(operation)?;
        while let Some(request) = tdi.request() {
            let answer = self.vendor(request)?;
            if let Progress::Done(outcome) = tdi.response(&answer)? {
                return Ok(outcome);
            }
        }
        Err(ConnectError::Outcome("TDISP"))
    }

    fn expect_state(&mut self, tdi: &mut TdiRequester, expected: TdiState) -> Result<(), ConnectError> {
        match self.tdisp(tdi, TdiOperation::State)? {
            TdiOutcome::State(found) if found == expected => Ok(()),
            TdiOutcome::State(found) => Err(ConnectError::State { found, expected }),
            _ => Err(ConnectError::Outcome("GET_DEVICE_INTERFACE_STATE")),
        }
    }
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};
    use std::time::Duration;

    use super::*;
    use crate::dsm::socket::Limits;

    /// A peer that takes everything and says nothing, and counts how often it was waited for.
    struct Silent<'a>(&'a mut u32);

    impl Stream for Silent<'_> {
        fn receive(&mut self, _: &mut [u8], _: Duration) -> io::Result<usize> {
            *self.0 += 1;
            Err(ErrorKind::WouldBlock.into())
        }

        fn send(&mut self, _: &[u8], _: Duration) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_peer_that_is_silent_is_waited_for_once() {
        let plan = Plan {
            config: RequesterConfig::default(),
            trust: TrustStore::AnyRoot,
            slot: None,
            function: None,
            port: PortIndex(0),
            stream: StreamId(0),
            reporting_offset: 0,
            key_update: false,
            until: Until::Tdisp,
            shutdown: false,
        };
        let mut waits = 0;
        let link = Link::new(Silent(&mut waits), Limits::default());
        let report = run("nobody".to_owned(), link, &plan, SharedRecorder::default());
        assert_eq!(waits, 1);
        assert_eq!(report.error.as_deref(), Some("no frame came for 30.0 s"));
        assert_eq!(report.phases.len(), 1);
    }
}
