//! A body for the SPDM responder: whatever objects come, in whatever order, in the clear and in sessions.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use spdm::Kind;
use spdm::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use spdm::crypto::aws_lc::{AwsLc, EcdsaSigner};
use spdm::crypto::{Crypto, Digest, Secret};
use spdm::ids::{SessionId, SlotId, Version};
use spdm::msg::algorithms::{AlgorithmTable, AlgorithmTables, ExtendedAlgorithms};
use spdm::msg::opaque::write_supported_versions;
use spdm::msg::{
    self, Finish, GetCapabilities, GetVersion, KeyExchange, KeyExchangeRsp, Layout, MeasurementKind,
    NegotiateAlgorithms, OtherParams, RequestCode, RequesterFlags, ResponseCode, SessionPolicy, SummaryHash,
    VendorDefined, VersionList, VersionNumber,
};
use spdm::responder::{
    Config, Delay, Device, Identity, MeasuredValue, Measurement, Reply, Responder, SessionEnd, VendorError,
};
use spdm::secured::{Direction, Role, Session};
use spdm::transcript::Transcript;
use spdm::wire::{NoSpace, Writer};
use spdm::x509;

use super::bytes::Choices;

/// Steps of one run at most.
const STEPS: usize = 48;
/// Bytes that either side takes at once: `KEY_EXCHANGE` and its response need chunks.
const TRANSFER: u32 = 100;
const SUITE: Suite = Suite {
    hash: HashAlgo::Sha256,
    asym: AsymAlgo::EcdsaP256,
    dhe: Some(DheGroup::Secp256r1),
    aead: Some(AeadAlgo::Aes128Gcm),
    measurement_hash: Some(MeasurementHash::Hash(HashAlgo::Sha256)),
};
const CODES: [RequestCode; 18] = [
    RequestCode::GET_DIGESTS,
    RequestCode::GET_CERTIFICATE,
    RequestCode::CHALLENGE,
    RequestCode::GET_VERSION,
    RequestCode::CHUNK_SEND,
    RequestCode::CHUNK_GET,
    RequestCode::GET_MEASUREMENTS,
    RequestCode::GET_CAPABILITIES,
    RequestCode::NEGOTIATE_ALGORITHMS,
    RequestCode::KEY_EXCHANGE,
    RequestCode::FINISH,
    RequestCode::HEARTBEAT,
    RequestCode::KEY_UPDATE,
    RequestCode::END_SESSION,
    RequestCode::VENDOR_DEFINED,
    RequestCode::RESPOND_IF_READY,
    RequestCode::PSK_EXCHANGE,
    RequestCode::GET_ENCAPSULATED_REQUEST,
];

/// A device whose moods are the fuzzer's, and which counts its sessions.
#[derive(Default)]
struct Moody {
    not_ready: bool,
    busy: bool,
    started: Vec<SessionId>,
}

impl Device for Moody {
    fn measurements(&mut self) -> Vec<Measurement> {
        let firmware = MeasurementKind::MUTABLE_FIRMWARE;
        let one = |index, value| Measurement { index, kind: firmware, tcb: true, value };
        vec![one(1, MeasuredValue::Either(vec![1; 80])), one(9, MeasuredValue::Raw(vec![2; 7]))]
    }

    fn vendor(
        &mut self,
        session: SessionId,
        request: &VendorDefined<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), VendorError> {
        assert!(self.started.contains(&session), "a request of a session that never started");
        out.extend_from_slice(request.payload);
        if request.is_pci_sig() { Ok(()) } else { Err(VendorError::Unsupported) }
    }

    fn session_started(&mut self, session: SessionId) {
        self.started.push(session);
    }

    fn session_ended(&mut self, session: SessionId, _why: SessionEnd) {
        let place = self.started.iter().position(|started| *started == session);
        self.started.remove(place.expect("a session ends once, and only if it had started"));
    }

    fn not_ready(&mut self, _request: RequestCode) -> Option<Delay> {
        self.not_ready.then_some(Delay { exponent: 1, multiplier: 1 })
    }

    fn busy(&mut self, _request: RequestCode) -> bool {
        self.busy
    }
}

/// The responder and a requester that can do better than the fuzzer.
struct Both {
    crypto: Arc<dyn Crypto>,
    responder: Responder,
    device: Moody,
    now: Duration,
    version: Version,
    sessions: Vec<Session>,
}

fn certificates() -> Vec<Vec<u8>> {
    [40, 50, 60].map(|size| [&[0x30, size][..], &vec![size; usize::from(size)]].concat()).to_vec()
}

fn bytes(write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>) -> Vec<u8> {
    let mut buffer = [0; 1024];
    msg::encode(&mut buffer, write).expect("1 KiB is enough for all requests").to_vec()
}

impl Both {
    fn new(version: Version) -> Self {
        static KEY: OnceLock<Secret> = OnceLock::new();
        let key = KEY.get_or_init(|| {
            let key = EcdsaSigner::generate(SUITE.asym).and_then(|signer| signer.to_pkcs8());
            key.expect("a key can be made")
        });
        let signer = EcdsaSigner::from_pkcs8(SUITE.asym, key).expect("the key was written like that");
        let identity =
            Identity { slot: SlotId::ZERO, certificates: certificates(), signer: Box::new(signer) };
        let config = Config {
            hashes: vec![SUITE.hash],
            asyms: vec![SUITE.asym],
            measurement_hash: MeasurementHash::Hash(SUITE.hash),
            data_transfer_size: TRANSFER,
            max_message_size: 0x1000,
            sequence_limit: Some(40),
            ..Config::default()
        };
        let crypto: Arc<dyn Crypto> = Arc::new(AwsLc);
        let responder = Responder::new(config, vec![identity], Arc::clone(&crypto));
        Self {
            crypto,
            responder: responder.expect("the configuration is sound"),
            device: Moody::default(),
            now: Duration::ZERO,
            version,
            sessions: Vec::new(),
        }
    }

    fn handle(&mut self, kind: Kind, payload: &[u8]) -> Option<Reply> {
        let reply = self.responder.handle(kind, payload, &mut self.device, self.now, &mut ());
        assert!(self.responder.sessions().count() <= self.responder.config().max_sessions);
        reply
    }

    /// Sends a message in the clear, which is always answered.
    fn clear(&mut self, message: &[u8]) -> Vec<u8> {
        let reply = self.handle(Kind::Clear, message).expect("who asks in the clear is answered");
        assert_eq!(reply.kind, Kind::Clear);
        answers(message, &reply.payload);
        reply.payload
    }

    /// Sends a message in a session; the answer, unless the session is over.
    fn secured(&mut self, place: usize, message: &[u8]) -> Option<Vec<u8>> {
        let mut session = self.sessions.swap_remove(place);
        let mut object = Vec::new();
        session.seal(message, &mut object).ok()?;
        let reply = self.handle(Kind::Secured, &object)?;
        if reply.kind == Kind::Clear {
            let lives = self.responder.sessions().any(|info| info.id == session.id());
            assert!(!lives, "only the end of a session is told in the clear");
            return None;
        }
        // The answer may be the first message under the responder's new key. If it is not, the old one
        // opens it, and that undoes the update.
        if [RequestCode::KEY_UPDATE, RequestCode::RESPOND_IF_READY].map(|code| code.0).contains(&message[1]) {
            let _ = session.prepare_update(Direction::Response);
        }
        let response = session.open(&reply.payload).expect("a responder seals what it answers").to_vec();
        answers(message, &response);
        if let [_, code, 1 | 2, _] = *response
            && code == ResponseCode::KEY_UPDATE_ACK.0
        {
            session.prepare_update(Direction::Request).expect("the last one was used");
        }
        if self.responder.sessions().any(|info| info.id == session.id()) {
            self.sessions.push(session);
        }
        Some(response)
    }

    /// `GET_VERSION` … `ALGORITHMS`; the transcript of it.
    fn connect(&mut self) -> Option<Transcript> {
        let version = self.version;
        let table = |bits| Some(AlgorithmTable::new(bits));
        let offer = NegotiateAlgorithms {
            version,
            measurement_spec: 1,
            other_params: OtherParams::new().with_opaque_format_1(true),
            base_asym: SUITE.asym.bit(),
            base_hash: SUITE.hash.bit(),
            mel_spec: 0,
            extended_asym: ExtendedAlgorithms::default(),
            extended_hash: ExtendedAlgorithms::default(),
            tables: AlgorithmTables {
                dhe: table(DheGroup::Secp256r1.bit()),
                aead: table(AeadAlgo::Aes128Gcm.bit()),
                requester_asym: None,
                key_schedule: table(1),
            },
        };
        let capabilities = GetCapabilities {
            version,
            wants_algorithms: false,
            ct_exponent: 0,
            flags: RequesterFlags::new()
                .with_encrypt(true)
                .with_mac(true)
                .with_key_ex(true)
                .with_hbeat(true)
                .with_key_upd(true)
                .with_chunk(true),
            data_transfer_size: TRANSFER,
            max_message_size: 0x1000,
        };
        let requests = [
            bytes(|writer| GetVersion.write(writer)),
            bytes(|writer| capabilities.write(writer)),
            bytes(|writer| offer.write(writer)),
        ];
        let mut transcript = Transcript::new();
        self.sessions.clear();
        for request in requests {
            let response = self.clear(&request);
            if response.get(1) == Some(&ResponseCode::ERROR.0) {
                assert!(self.device.busy, "an honest connection is refused: {response:02x?}");
                return None;
            }
            transcript.append_vca(&request);
            transcript.append_vca(&response);
        }
        transcript.agree(&*self.crypto, SUITE.hash);
        Some(transcript)
    }

    /// Sends a message that is larger than the responder takes at once, and fetches such a response;
    /// `None` if it is refused.
    fn large(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let version = self.version;
        let (head, tail) = message.split_at(TRANSFER as usize - 16);
        let mut response = Vec::new();
        for (sequence, chunk) in [head, tail].into_iter().enumerate() {
            let sequence = u16::try_from(sequence).expect("there are two");
            let large_size = (sequence == 0).then(|| u32::try_from(message.len()).expect("1 KiB"));
            let chunk =
                msg::ChunkSend { version, last: sequence == 1, handle: 1, sequence, large_size, chunk };
            response = self.clear(&bytes(|writer| chunk.write(writer)));
        }
        let ack = msg::exact(&response, |reader| msg::ChunkSendAck::read(reader, version)).ok()?;
        let [_, code, error, _, handle] = *ack.response else { return None };
        assert_eq!((code, error), (ResponseCode::ERROR.0, msg::ErrorCode::LARGE_RESPONSE.0));
        let mut large = Vec::new();
        for sequence in 0.. {
            let get = bytes(|writer| msg::ChunkGet { version, handle, sequence }.write(writer));
            let response = self.clear(&get);
            assert!(response.len() <= TRANSFER as usize);
            let part = msg::exact(&response, |reader| msg::ChunkResponse::read(reader, version)).ok()?;
            large.extend_from_slice(part.chunk);
            if part.last {
                break;
            }
        }
        Some(large)
    }

    /// An honest connection with an honest session, unless the device is in the way.
    fn start(&mut self, finish: bool) -> Option<()> {
        let transcript = self.connect()?;
        let ephemeral = self.crypto.ephemeral(DheGroup::Secp256r1).expect("there is randomness");
        let mut versions = VersionList::default();
        versions.push(VersionNumber(0x1100)).expect("it is the first");
        let opaque = bytes(|writer| write_supported_versions(writer, &versions));
        let request = KeyExchange {
            version: self.version,
            summary: SummaryHash::All,
            slot: SlotId::ZERO,
            session: 7,
            policy: SessionPolicy::new(),
            random: [5; 32],
            exchange: ephemeral.public(),
            opaque: &opaque,
        };
        let request = bytes(|writer| request.write(writer));
        let response = self.large(&request)?;
        let layout = Layout::new(self.version, SUITE);
        let answer = msg::exact(&response, |reader| KeyExchangeRsp::read(reader, &layout, true)).ok()?;

        let chain = x509::chain::build(&*self.crypto, SUITE.hash, &certificates()).expect("it is short");
        let mut th = transcript.session(&self.crypto.digest(SUITE.hash, &chain)).expect("it was agreed");
        th.append(&request);
        let verify_data = response.len() - SUITE.digest_size();
        th.append(&response[..verify_data]);
        let dhe = ephemeral.agree(answer.exchange).expect("the responder's point is on the curve");
        let id = SessionId::new(7, answer.session);
        let th1: Digest = th.digest();
        let mut session = Session::new(&self.crypto, SUITE, self.version, id, Role::Requester, dhe, &th1)
            .expect("all of the suite is there");
        th.append(&response[verify_data..]);
        if finish {
            let head = [self.version.0, RequestCode::FINISH.0, 0, 0];
            let mac = session.finished_mac(Direction::Request, &th.digest_with(&[&head])).expect("handshake");
            let request = bytes(|writer| Finish { version: self.version, verify_data: &mac }.write(writer));
            self.sessions.push(session);
            let response = self.secured(self.sessions.len() - 1, &request)?;
            if response.get(1) != Some(&ResponseCode::FINISH_RSP.0) {
                return None;
            }
            session = self.sessions.pop()?;
            session.enter_data(&th.digest_with(&[&request, &response])).expect("it was in its handshake");
        }
        self.sessions.push(session);
        Some(())
    }
}

/// A response is the one to the request, or an error.
fn answers(request: &[u8], response: &[u8]) {
    let [_, code, ..] = *response else { panic!("{response:02x?} is no message") };
    if code == ResponseCode::ERROR.0 {
        assert!((4..=8).contains(&response.len()), "{response:02x?}");
        return;
    }
    let asked = match *request {
        // RESPOND_IF_READY names the request that it stands for.
        [_, code, deferred, ..] if code == RequestCode::RESPOND_IF_READY.0 => RequestCode(deferred),
        [_, code, ..] => RequestCode(code),
        _ => panic!("{request:02x?} has no code that could be granted"),
    };
    assert_eq!(asked.response().0, code, "{request:02x?} is answered with {response:02x?}");
}

/// Every object in the clear is answered with the response to it or an error, every one of a session
/// inside of that session; the device hears of sessions in pairs; and whatever came before, an honest
/// requester gets its session.
pub fn spdm_responder(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut both = Both::new(choices.of(&Version::SPOKEN));
    for _ in 0..STEPS {
        if choices.is_empty() {
            break;
        }
        step(&mut both, &mut choices);
    }
    (both.device.busy, both.device.not_ready) = (false, false);
    both.start(true).expect("an honest requester gets its session");
    assert_eq!(both.device.started.len(), 1);
}

fn step(both: &mut Both, choices: &mut Choices<'_>) {
    match choices.below(16) {
        0 => drop(both.connect()),
        1 | 2 => drop(both.start(choices.flag())),
        3 => both.now += Duration::from_secs(choices.byte().into()),
        4 => both.device.busy = choices.flag(),
        5 => both.device.not_ready = choices.flag(),
        6 => {
            both.responder.reset(&mut both.device);
            both.sessions.clear();
        }
        7 => {
            let object: Vec<u8> = (0..choices.below(64)).map(|_| choices.byte()).collect();
            both.handle(Kind::Secured, &object);
        }
        8 => {
            let object: Vec<u8> = (0..choices.below(64)).map(|_| choices.byte()).collect();
            both.clear(&object);
        }
        _ => {
            let mut message = vec![both.version.0, choices.of(&CODES).0];
            message.extend((0..2 + choices.below(64)).map(|_| choices.byte()));
            let place = choices.below(both.sessions.len() + 1);
            if place < both.sessions.len() {
                both.secured(place, &message);
            } else {
                both.clear(&message);
            }
        }
    }
}
