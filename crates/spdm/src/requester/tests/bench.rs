//! A device to talk to, and the line to it, both of which a test may bend.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use core::time::Duration;

use crate::Kind;
use crate::algo::AsymAlgo;
use crate::crypto::PublicKey;
use crate::crypto::aws_lc::{AwsLc, EcdsaSigner};
use crate::ids::{SessionId, SlotId};
use crate::msg::{MeasurementKind, RequestCode, SummaryHash, VendorDefined};
use crate::requester::{
    Compare, MeasurementsRequest, Operation, Outcome, Requester, RequesterConfig, RequesterError,
    SessionRequest, Transport, TransportFailure, drive,
};
use crate::responder::{
    Config, Delay, Device, Identity, MeasuredValue, Measurement, Responder, SessionEnd, Stage, VendorError,
};
use crate::x509::{CertChain, ChainError, Verifier, Wanted};

pub(super) const NOW: Duration = Duration::from_secs(1_800_000_000);

/// Something of the form of a certificate.
pub(super) fn certificate(fill: u8, size: u16) -> Vec<u8> {
    let mut der = vec![0x30, 0x82];
    der.extend(size.to_be_bytes());
    der.extend(vec![fill; size.into()]);
    der
}

/// Believes the chains with these leaves.
struct Believer(Vec<(Vec<u8>, PublicKey)>);

impl Verifier for Believer {
    fn verify(&self, chain: &CertChain<'_>, wanted: &Wanted) -> Result<PublicKey, ChainError> {
        assert_eq!(wanted.now, NOW);
        let known = self.0.iter().find(|(leaf, _)| chain.leaf() == leaf);
        known.map(|(_, key)| key.clone()).ok_or(ChainError::UnknownRoot)
    }
}

type Bend = Box<dyn FnMut(Stage, &mut Vec<u8>)>;
type Tamper = Box<dyn FnMut(usize, &mut Kind, &mut Vec<u8>) -> Result<(), TransportFailure>>;

/// The device.
pub(super) struct Dut {
    pub(super) measured: Vec<Measurement>,
    /// Added to the first measurement at every reading.
    pub(super) drift: u8,
    pub(super) bend: Bend,
    /// Requests that are answered with Busy: code, and how often.
    pub(super) busy: Option<(RequestCode, u32)>,
    /// Requests that are not ready: code, how often, and the time.
    pub(super) not_ready: Option<(RequestCode, u32, Delay)>,
    pub(super) ended: Vec<SessionEnd>,
}

fn count_down(counter: &mut u32) -> bool {
    let left = *counter > 0;
    *counter = counter.saturating_sub(1);
    left
}

impl Device for Dut {
    fn measurements(&mut self) -> Vec<Measurement> {
        if let MeasuredValue::Either(bytes) = &mut self.measured[0].value {
            bytes[0] = bytes[0].wrapping_add(self.drift);
        }
        self.measured.clone()
    }

    fn vendor(
        &mut self,
        _: SessionId,
        request: &VendorDefined<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), VendorError> {
        out.extend(request.payload.iter().rev());
        Ok(())
    }

    fn session_ended(&mut self, _: SessionId, why: SessionEnd) {
        self.ended.push(why);
    }

    fn not_ready(&mut self, request: RequestCode) -> Option<Delay> {
        let (code, times, delay) = self.not_ready.as_mut()?;
        (*code == request && count_down(times)).then_some(*delay)
    }

    fn busy(&mut self, request: RequestCode) -> bool {
        self.busy.as_mut().is_some_and(|(code, times)| *code == request && count_down(times))
    }

    fn shape(&mut self, stage: Stage, response: &mut Vec<u8>) {
        (self.bend)(stage, response);
    }
}

/// The line, with the device at its end.
pub(super) struct Line {
    responder: Responder,
    pub(super) device: Dut,
    /// Bends what comes back; gets the number of the exchange.
    pub(super) tamper: Tamper,
    pub(super) exchanges: usize,
    pub(super) waits: Vec<Duration>,
    /// What was sent, payloads only.
    pub(super) sent: Vec<(Kind, Vec<u8>)>,
}

impl Transport for Line {
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), TransportFailure> {
        self.sent.push((kind, payload.to_vec()));
        let number = self.exchanges;
        self.exchanges += 1;
        let mut object = payload.to_vec();
        object.resize(object.len().next_multiple_of(4), 0);
        let reply = self
            .responder
            .handle(kind, &object, &mut self.device, Duration::ZERO, &mut ())
            .ok_or(TransportFailure::Silence)?;
        let (mut kind, mut object) = (reply.kind, reply.payload);
        (self.tamper)(number, &mut kind, &mut object)?;
        object.resize(object.len().next_multiple_of(4), 0);
        Ok((kind, object))
    }

    fn wait(&mut self, time: Duration) {
        self.waits.push(time);
    }

    fn now(&mut self) -> Duration {
        NOW
    }
}

/// Both sides.
pub(super) struct Bench {
    pub(super) requester: Requester,
    pub(super) verifier: Arc<dyn Verifier>,
    pub(super) line: Line,
}

fn measured(index: u8, kind: MeasurementKind, value: MeasuredValue) -> Measurement {
    Measurement { index, kind, tcb: index == 1, value }
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(RequesterConfig::default(), Config::default())
    }

    pub(super) fn with(ours: RequesterConfig, theirs: Config) -> Self {
        Self::with_slots(ours, theirs, &[0])
    }

    pub(super) fn with_slots(ours: RequesterConfig, theirs: Config, slots: &[u8]) -> Self {
        let asym = theirs.asyms.first().copied().unwrap_or(AsymAlgo::EcdsaP384);
        let mut leaves = Vec::new();
        let identities = slots.iter().map(|&slot| {
            let signer = EcdsaSigner::generate(asym).unwrap();
            let leaf = certificate(3 + slot, 700);
            leaves.push((leaf.clone(), signer.public()));
            let certificates = vec![certificate(1, 600), certificate(2, 650), leaf];
            Identity { slot: SlotId::new(slot).unwrap(), certificates, signer: Box::new(signer) }
        });
        let identities = identities.collect();
        let crypto = Arc::new(AwsLc);
        let measured = vec![
            measured(1, MeasurementKind::IMMUTABLE_ROM, MeasuredValue::Either(vec![1; 40])),
            measured(2, MeasurementKind::MUTABLE_FIRMWARE, MeasuredValue::Digest(vec![2; 400])),
            measured(5, MeasurementKind::SECURE_VERSION_NUMBER, MeasuredValue::Raw(vec![7; 8])),
        ];
        let device = Dut {
            measured,
            drift: 0,
            bend: Box::new(|_, _| {}),
            busy: None,
            not_ready: None,
            ended: Vec::new(),
        };
        let line = Line {
            responder: Responder::new(theirs, identities, crypto.clone()).unwrap(),
            device,
            tamper: Box::new(|_, _, _| Ok(())),
            exchanges: 0,
            waits: Vec::new(),
            sent: Vec::new(),
        };
        let verifier: Arc<dyn Verifier> = Arc::new(Believer(leaves));
        Self { requester: Requester::new(ours, crypto, Arc::clone(&verifier)), verifier, line }
    }

    pub(super) fn run(&mut self, operation: Operation) -> Result<Outcome, RequesterError> {
        drive(&mut self.requester, operation, &mut self.line)
    }

    pub(super) fn run_all(
        &mut self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Result<(), RequesterError> {
        operations.into_iter().try_for_each(|operation| self.run(operation).map(drop))
    }

    /// Everything up to a session.
    pub(super) fn session(&mut self) -> Result<(), RequesterError> {
        self.run_all(until_session())
    }

    /// After an error: nothing is left, and the next session works.
    pub(super) fn works_again(&mut self) {
        assert!(self.requester.connection().is_none());
        assert!(self.requester.session().is_none());
        assert!(self.requester.transmit().is_none());
        self.line.device.bend = Box::new(|_, _| {});
        self.line.tamper = Box::new(|_, _, _| Ok(()));
        (self.line.device.busy, self.line.device.not_ready, self.line.device.drift) = (None, None, 0);
        self.session().unwrap();
        assert_eq!(
            self.run(Operation::Vendor(vec![1, 2, 3].into())),
            Ok(Outcome::Vendor(vec![3, 2, 1].into()))
        );
    }
}

pub(super) fn start_session(summary: SummaryHash) -> Operation {
    let (slot, policy) = (SlotId::ZERO, crate::msg::SessionPolicy::new());
    Operation::StartSession(SessionRequest { slot, summary, policy })
}

pub(super) fn until_session() -> [Operation; 4] {
    [
        Operation::Connect,
        Operation::Digests,
        Operation::Certificate(SlotId::ZERO),
        start_session(SummaryHash::All),
    ]
}

/// All measurements, signed.
pub(super) const ALL: MeasurementsRequest = MeasurementsRequest {
    operation: crate::msg::MeasurementOperation::All,
    raw: false,
    signed: Some(SlotId::ZERO),
    compare: Compare::Nothing,
};
