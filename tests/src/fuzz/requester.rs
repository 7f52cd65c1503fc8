//! Bodies for the SPDM requester: a device whose answers the fuzzer bends, replaces and keeps back, and a
//! saved session that it changes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use spdm::Kind;
use spdm::algo::{AsymAlgo, DheGroup, HashAlgo, MeasurementHash};
use spdm::crypto::aws_lc::{AwsLc, EcdsaSigner};
use spdm::crypto::{PublicKey, Secret};
use spdm::ids::{SessionId, SlotId, Version};
use spdm::msg::{
    Header, MeasurementKind, MeasurementOperation, RequestCode, ResponseCode, SessionPolicy, SummaryHash,
    VendorDefined,
};
use spdm::requester::{
    Blame, ChallengeRequest, Compare, MeasurementsRequest, Operation, Outcome, Progress, Requester,
    RequesterConfig, RequesterError, SessionRequest, TransportFailure,
};
use spdm::responder::{
    Config, Delay, Device, Identity, MeasuredValue, Measurement, Responder, Stage, VendorError,
};
use spdm::x509::{CertChain, ChainError, Verifier, Wanted};

use super::bytes::Choices;

/// Operations of one run at most, and objects of one operation.
const OPERATIONS: usize = 16;
const OBJECTS: usize = 4096;
/// Small enough for chunks both ways, or large enough for none.
const TRANSFERS: [u32; 3] = [4056, 100, 42];
const ASYM: AsymAlgo = AsymAlgo::EcdsaP256;
const SLOT: SlotId = SlotId::ZERO;

fn certificates() -> Vec<Vec<u8>> {
    [40, 50, 60].map(|size| [&[0x30, size][..], &vec![size; usize::from(size)]].concat()).to_vec()
}

/// Believes one chain.
struct Believer(PublicKey);

impl Verifier for Believer {
    fn verify(&self, chain: &CertChain<'_>, _: &Wanted) -> Result<PublicKey, ChainError> {
        if chain.certificates() == certificates() { Ok(self.0.clone()) } else { Err(ChainError::UnknownRoot) }
    }
}

/// What is done to the next message before it is sealed.
#[derive(Default)]
struct Bent {
    flip: Option<(usize, u8)>,
    busy: bool,
    not_ready: bool,
    /// What the device meant to send.
    meant: Vec<u8>,
}

impl Device for Bent {
    fn measurements(&mut self) -> Vec<Measurement> {
        let firmware = MeasurementKind::MUTABLE_FIRMWARE;
        let one = |index, value| Measurement { index, kind: firmware, tcb: true, value };
        vec![one(1, MeasuredValue::Either(vec![1; 80])), one(9, MeasuredValue::Raw(vec![2; 7]))]
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

    fn not_ready(&mut self, _: RequestCode) -> Option<Delay> {
        std::mem::take(&mut self.not_ready).then_some(Delay { exponent: 3, multiplier: 4 })
    }

    fn busy(&mut self, _: RequestCode) -> bool {
        std::mem::take(&mut self.busy)
    }

    fn shape(&mut self, stage: Stage, response: &mut Vec<u8>) {
        if let Stage::BeforeSeal(_) = stage {
            self.meant.clone_from(response);
            if let Some((at, bits)) = self.flip.take()
                && !response.is_empty()
            {
                let at = at % response.len();
                response[at] ^= bits;
            }
        }
    }
}

struct Both {
    requester: Requester,
    believer: Arc<dyn Verifier>,
    responder: Responder,
    device: Bent,
    /// An object of the responder's, to be sent again.
    kept: Vec<u8>,
    /// Whether a message that a session's keys stand on was not what the device had meant.
    lied: bool,
}

/// The messages that the keys of a session stand on, and no error is one of them.
fn is_transcribed(code: u8) -> bool {
    [
        ResponseCode::VERSION,
        ResponseCode::CAPABILITIES,
        ResponseCode::ALGORITHMS,
        ResponseCode::KEY_EXCHANGE_RSP,
    ]
    .contains(&ResponseCode(code))
}

impl Both {
    fn new(choices: &mut Choices<'_>) -> Self {
        static KEY: OnceLock<Secret> = OnceLock::new();
        let key = KEY.get_or_init(|| {
            let key = EcdsaSigner::generate(ASYM).and_then(|signer| signer.to_pkcs8());
            key.expect("a key can be made")
        });
        let signer = EcdsaSigner::from_pkcs8(ASYM, key).expect("the key was written like that");
        let believer: Arc<dyn Verifier> = Arc::new(Believer(signer.public()));
        let ours = RequesterConfig {
            versions: vec![choices.of(&Version::SPOKEN)],
            data_transfer_size: choices.of(&TRANSFERS),
            busy_retries: 2,
            ready_retries: 2,
            ..RequesterConfig::default()
        };
        let theirs = Config {
            hashes: vec![HashAlgo::Sha256],
            asyms: vec![ASYM],
            dhes: vec![DheGroup::Secp256r1],
            measurement_hash: MeasurementHash::Hash(HashAlgo::Sha256),
            data_transfer_size: choices.of(&TRANSFERS),
            ..Config::default()
        };
        let identity = Identity { slot: SLOT, certificates: certificates(), signer: Box::new(signer) };
        let responder = Responder::new(theirs, vec![identity], Arc::new(AwsLc));
        Self {
            requester: Requester::new(ours, Arc::new(AwsLc), Arc::clone(&believer)),
            believer,
            responder: responder.expect("the configuration is in order"),
            device: Bent::default(),
            kept: Vec::new(),
            lied: false,
        }
    }

    /// The answer to an object, bent as the fuzzer wants it; `None` for silence.
    fn answer(&mut self, kind: Kind, payload: &[u8], choices: &mut Choices<'_>) -> Option<(Kind, Vec<u8>)> {
        let mood = choices.below(16);
        match mood {
            1 => self.device.busy = true,
            2 => self.device.not_ready = true,
            3 => self.device.flip = Some((choices.below(512), choices.byte())),
            _ => {}
        }
        let mut object = payload.to_vec();
        object.resize(object.len().next_multiple_of(4), 0);
        let reply = self.responder.handle(kind, &object, &mut self.device, Duration::ZERO, &mut ())?;
        (self.device.busy, self.device.not_ready, self.device.flip) = (false, false, None);
        let (mut kind, mut object) = (reply.kind, reply.payload);
        let genuine = object.clone();
        match mood {
            4 if !object.is_empty() => {
                let at = choices.below(object.len());
                object[at] ^= choices.byte();
            }
            5 => object.truncate(choices.below(object.len().max(1))),
            6 => object.extend((0..choices.below(9)).map(|_| choices.byte())),
            7 => object = (0..choices.below(64)).map(|_| choices.byte()).collect(),
            8 => std::mem::swap(&mut object, &mut self.kept),
            9 => kind = choices.of(&[Kind::Clear, Kind::Secured]),
            10 => return None,
            _ => {}
        }
        self.kept = genuine;
        object.resize(object.len().next_multiple_of(4), 0);
        let mut meant = self.device.meant.clone();
        meant.resize(meant.len().next_multiple_of(4), 0);
        let code = Header::peek(&meant).map_or(0, |header| header.code);
        let same_kind = Header::peek(&object).is_ok_and(|header| header.code == code);
        self.lied |= kind == Kind::Clear && same_kind && is_transcribed(code) && meant != object;
        Some((kind, object))
    }

    /// An operation, to its end.
    fn run(&mut self, operation: Operation, choices: &mut Choices<'_>) -> Result<Outcome, RequesterError> {
        if operation == Operation::Connect {
            self.lied = false;
        }
        self.requester.start(operation)?;
        for _ in 0..OBJECTS {
            let out = self.requester.transmit().expect("what is under way has an object to send");
            assert_eq!(self.requester.transmit(), None, "an object is sent once");
            let Some((kind, payload)) = self.answer(out.kind, &out.payload, choices) else {
                return Err(self.requester.fail(TransportFailure::Silence));
            };
            match self.requester.receive(kind, &payload, Duration::ZERO)? {
                Progress::More | Progress::RetryAfter(_) => {}
                Progress::Done(outcome) => return Ok(outcome),
            }
        }
        panic!("no operation takes {OBJECTS} objects")
    }

    /// One object there and one back; an empty answer to what was sent before.
    fn exchange(&mut self, choices: &mut Choices<'_>) -> Result<Progress, RequesterError> {
        let answer = match self.requester.transmit() {
            Some(out) => self.answer(out.kind, &out.payload, choices),
            None => Some((Kind::Secured, Vec::new())),
        };
        let Some((kind, payload)) = answer else {
            return Err(self.requester.fail(TransportFailure::Silence));
        };
        self.requester.receive(kind, &payload, Duration::ZERO)
    }

    /// A session, over a line that is true.
    fn works(&mut self) {
        let nothing = &mut Choices::new(&[]);
        for operation in [Operation::Connect, Operation::Certificate(SLOT), session(SummaryHash::All)] {
            self.run(operation, nothing).expect("a true line, and nothing left of what was before");
        }
        let answer = self.run(Operation::Vendor(vec![1, 2].into()), nothing);
        assert_eq!(answer, Ok(Outcome::Vendor(vec![2, 1].into())));
    }
}

fn session(summary: SummaryHash) -> Operation {
    Operation::StartSession(SessionRequest { slot: SLOT, summary, policy: SessionPolicy::new() })
}

fn operation(choices: &mut Choices<'_>) -> Operation {
    let summary = choices.of(&[SummaryHash::None, SummaryHash::Tcb, SummaryHash::All]);
    match choices.below(12) {
        0 | 1 => Operation::Connect,
        2 => Operation::Digests,
        3 => Operation::Certificate(SlotId::new(choices.byte() & 7).unwrap_or(SLOT)),
        4 => Operation::Challenge(ChallengeRequest { slot: SLOT, summary }),
        5 => Operation::Measurements(MeasurementsRequest {
            operation: choices.of(&[
                MeasurementOperation::All,
                MeasurementOperation::Total,
                MeasurementOperation::Index(9),
                MeasurementOperation::Index(7),
            ]),
            raw: choices.flag(),
            signed: choices.flag().then_some(SLOT),
            compare: choices.of(&[Compare::Nothing, Compare::Twice, Compare::Earlier]),
        }),
        6 | 7 => session(summary),
        8 => Operation::Heartbeat,
        9 => Operation::KeyUpdate { all: choices.flag() },
        10 => Operation::Vendor((0..choices.below(200)).map(|_| choices.byte()).collect::<Vec<_>>().into()),
        _ => Operation::EndSession,
    }
}

/// Whatever the device answers: an error is one line; only a refusal of the caller's wish leaves the
/// connection; no session stands on a message that was changed; and in the end a session works.
pub fn spdm_requester(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut both = Both::new(&mut choices);
    if choices.flag() {
        // Most of what can go wrong does so in a session.
        both.works();
    }
    for _ in 0..OPERATIONS {
        if choices.is_empty() {
            break;
        }
        let wanted = operation(&mut choices);
        let session = both.requester.session().copied();
        match both.run(wanted.clone(), &mut choices) {
            Ok(Outcome::Session(_)) => assert!(!both.lied, "a session on a message that was changed"),
            Ok(outcome) => assert_eq!(outcome == Outcome::Ended, wanted == Operation::EndSession),
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "{error}");
                if error.blame() == Blame::Caller {
                    assert_eq!(both.requester.session().copied(), session, "nothing has changed");
                } else {
                    assert!(both.requester.connection().is_none() && both.requester.session().is_none());
                }
            }
        }
        assert_eq!(both.requester.transmit(), None, "nothing is under way");
    }
    both.works();
}

/// A session that goes on in another requester, at any point of an operation: as it was saved it brings
/// the operation to its end; changed, it is refused in a line, or is what it says and fails without a panic.
pub fn saved_session(data: &[u8]) {
    let (mut choices, nothing) = (Choices::new(data), &mut Choices::new(&[]));
    let mut both = Both::new(&mut choices);
    both.works();
    if both.requester.start(operation(&mut choices)).is_err() {
        return;
    }
    for _ in 0..choices.below(8) {
        if both.requester.under_way().is_some() && both.exchange(nothing).is_err() {
            return;
        }
    }
    let Ok(saved) = both.requester.save() else { return };
    let mut bytes = saved.to_vec();
    for _ in 0..choices.below(6) {
        let at = choices.below(bytes.len().max(1));
        match choices.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, choices.byte()),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = choices.byte()),
        }
    }
    let config = both.requester.config().clone();
    match Requester::restore(config, Arc::new(AwsLc), Arc::clone(&both.believer), &bytes) {
        Ok(restored) => {
            assert_eq!(restored.save().as_deref(), Ok(&bytes), "what is read is what is written");
            both.requester = restored;
            for _ in 0..OBJECTS {
                if both.requester.under_way().is_none() {
                    break;
                }
                if let Err(error) = both.exchange(nothing) {
                    // The device has not everything that may be asked for.
                    let refused = matches!(error, RequesterError::Refused { .. });
                    assert!(refused || *saved != *bytes, "{error}");
                }
            }
            assert_eq!(both.requester.under_way(), None, "no operation takes {OBJECTS} objects");
        }
        Err(error) => {
            assert_ne!(*saved, *bytes, "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
    both.requester.reset();
    both.works();
}
