//! A requester in pieces, for requests that a real one would not send.

mod chunks;
mod connection;
mod identity;
mod measurements;
mod model;

mod session;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::Stage;
use super::*;
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use crate::crypto::aws_lc::{AwsLc, EcdsaSigner};
use crate::crypto::{Digest, PublicKey};
use crate::ids::{SessionId, SlotId, Version};
use crate::msg::algorithms::{ExtendedAlgorithms, KEY_SCHEDULE_SPDM, MEASUREMENT_SPEC_DMTF};
use crate::msg::opaque::write_supported_versions;
use crate::msg::{self, *};
use crate::secured::{Direction, Phase, Role, Session};
use crate::signing::{self, Context};
use crate::transcript::SessionTranscript;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// A device that writes down what it hears.
#[derive(Default)]
struct TestDevice {
    measurements: Vec<Measurement>,
    heard: Vec<Heard>,
    /// How often a response is not ready.
    not_ready: usize,
    busy: bool,
    vendor_error: Option<VendorError>,
    bend: Option<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Started(SessionId),
    Ended(SessionId, SessionEnd),
}

impl Device for TestDevice {
    fn measurements(&mut self) -> Vec<Measurement> {
        self.measurements.clone()
    }

    fn vendor(
        &mut self,
        _session: SessionId,
        request: &VendorDefined<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), VendorError> {
        out.extend(request.payload.iter().rev());
        self.vendor_error.map_or(Ok(()), Err)
    }

    fn session_started(&mut self, session: SessionId) {
        self.heard.push(Heard::Started(session));
    }

    fn session_ended(&mut self, session: SessionId, why: SessionEnd) {
        self.heard.push(Heard::Ended(session, why));
    }

    fn not_ready(&mut self, _request: RequestCode) -> Option<Delay> {
        self.not_ready = self.not_ready.checked_sub(1)?;
        Some(Delay { exponent: 5, multiplier: 3 })
    }

    fn busy(&mut self, _request: RequestCode) -> bool {
        self.busy
    }

    fn shape(&mut self, stage: Stage, response: &mut Vec<u8>) {
        if self.bend == Some(stage)
            && let Some(last) = response.last_mut()
        {
            *last ^= 1;
        }
    }
}

fn measurements() -> Vec<Measurement> {
    let one = |index, kind, tcb, value| Measurement { index, kind, tcb, value };
    vec![
        one(1, MeasurementKind::IMMUTABLE_ROM, true, MeasuredValue::Digest(vec![0x11; 100])),
        one(2, MeasurementKind::MUTABLE_FIRMWARE, true, MeasuredValue::Either(vec![0x22; 200])),
        one(0x10, MeasurementKind::FIRMWARE_VERSION, false, MeasuredValue::Raw(b"1.0.7".to_vec())),
        one(0xfe, MeasurementKind::DEVICE_MODE, false, MeasuredValue::Raw(vec![0; 16])),
    ]
}

/// Something that looks like a chain: objects of DER behind each other.
fn certificates(seed: u8) -> Vec<Vec<u8>> {
    [700, 800, 900]
        .map(|size: u16| {
            let mut der = vec![0x30, 0x82];
            der.extend(size.to_be_bytes());
            der.resize(4 + usize::from(size), seed);
            der
        })
        .to_vec()
}

const NOBODY: SlotId = match SlotId::new(3) {
    Some(slot) => slot,
    None => panic!("slots go up to 7"),
};
const SLOT_4: SlotId = match SlotId::new(4) {
    Some(slot) => slot,
    None => panic!("slots go up to 7"),
};

/// A responder, its device, and what a requester needs to talk with it.
struct Bench {
    responder: Responder,
    device: TestDevice,
    now: Duration,
    version: Version,
    crypto: Arc<dyn Crypto>,
    keys: Vec<(SlotId, PublicKey)>,
    /// Offered by the requester.
    flags: RequesterFlags,
    data_transfer_size: u32,
    max_message_size: u32,
    transcript: Transcript,
}

/// A session, from the requester's side.
struct Talk {
    session: Session,
    transcript: SessionTranscript,
    response: Vec<u8>,
}

impl Bench {
    fn new(config: Config) -> Self {
        let crypto: Arc<dyn Crypto> = Arc::new(AwsLc);
        let mut identities = Vec::new();
        let mut keys = Vec::new();
        for asym in config.asyms.clone() {
            for slot in [SlotId::ZERO, SLOT_4] {
                let signer = EcdsaSigner::generate(asym).unwrap();
                keys.push((slot, signer.public()));
                let certificates = certificates(slot.number());
                identities.push(Identity { slot, certificates, signer: Box::new(signer) });
            }
        }
        Self {
            responder: Responder::new(config, identities, Arc::clone(&crypto)).unwrap(),
            device: TestDevice { measurements: measurements(), ..TestDevice::default() },
            now: Duration::from_secs(1000),
            version: Version::V1_2,
            crypto,
            keys,
            flags: RequesterFlags::new()
                .with_encrypt(true)
                .with_mac(true)
                .with_key_ex(true)
                .with_hbeat(true)
                .with_key_upd(true)
                .with_chunk(true),
            data_transfer_size: 0x1200,
            max_message_size: 0x1_2000,
            transcript: Transcript::new(),
        }
    }

    /// One that has gone as far as `ALGORITHMS`.
    fn connected(version: Version) -> Self {
        let mut bench = Self::new(Config::default());
        bench.version = version;
        bench.connect();
        bench
    }

    fn suite() -> Suite {
        Suite {
            hash: HashAlgo::Sha384,
            asym: AsymAlgo::EcdsaP384,
            dhe: Some(DheGroup::Secp384r1),
            aead: Some(AeadAlgo::Aes256Gcm),
            measurement_hash: Some(MeasurementHash::Hash(HashAlgo::Sha384)),
        }
    }

    fn layout(&self) -> Layout {
        Layout::new(self.version, Self::suite())
    }

    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Option<Reply> {
        self.responder.handle(kind, payload, &mut self.device, self.now, &mut ())
    }

    /// Sends a message in the clear, padded as DOE does it.
    fn clear(&mut self, message: &[u8]) -> Vec<u8> {
        let mut payload = message.to_vec();
        payload.resize(payload.len().next_multiple_of(4), 0);
        let reply = self.exchange(Kind::Clear, &payload).unwrap();
        assert_eq!(reply.kind, Kind::Clear);
        reply.payload
    }

    /// Sends a message in a session.
    fn secured(&mut self, session: &mut Session, message: &[u8]) -> Vec<u8> {
        let mut object = Vec::new();
        session.seal(message, &mut object).unwrap();
        let reply = self.exchange(Kind::Secured, &object).unwrap();
        assert_eq!(reply.kind, Kind::Secured);
        session.open(&reply.payload).unwrap().to_vec()
    }

    fn get_version(&mut self) -> Vec<u8> {
        let request = bytes(|writer| GetVersion.write(writer));
        let response = self.clear(&request);
        self.transcript.reset();
        self.transcript.append_vca(&request);
        self.transcript.append_vca(&response);
        response
    }

    fn capabilities(&self) -> Vec<u8> {
        bytes(|writer| {
            GetCapabilities {
                version: self.version,
                wants_algorithms: false,
                ct_exponent: 10,
                flags: self.flags,
                data_transfer_size: self.data_transfer_size,
                max_message_size: self.max_message_size,
            }
            .write(writer)
        })
    }

    fn algorithms(&self) -> Vec<u8> {
        bytes(|writer| self.offer().write(writer))
    }

    fn offer(&self) -> NegotiateAlgorithms<'static> {
        let bits = |bits: &[u16]| Some(AlgorithmTable::new(bits.iter().fold(0, |all, bit| all | bit)));
        NegotiateAlgorithms {
            version: self.version,
            measurement_spec: MEASUREMENT_SPEC_DMTF,
            other_params: OtherParams::new().with_opaque_format_1(true),
            base_asym: AsymAlgo::EcdsaP256.bit() | AsymAlgo::EcdsaP384.bit(),
            base_hash: HashAlgo::Sha256.bit() | HashAlgo::Sha384.bit(),
            mel_spec: 0,
            extended_asym: ExtendedAlgorithms::default(),
            extended_hash: ExtendedAlgorithms::default(),
            tables: AlgorithmTables {
                dhe: bits(&[DheGroup::Secp256r1.bit(), DheGroup::Secp384r1.bit()]),
                aead: bits(&[AeadAlgo::Aes128Gcm.bit(), AeadAlgo::Aes256Gcm.bit()]),
                requester_asym: bits(&[1 << 4]),
                key_schedule: bits(&[KEY_SCHEDULE_SPDM]),
            },
        }
    }

    /// `GET_VERSION` … `ALGORITHMS`.
    fn connect(&mut self) {
        self.get_version();
        for request in [self.capabilities(), self.algorithms()] {
            let response = self.clear(&request);
            assert_eq!(response[1], request[1] & 0x7f, "refused: {response:02x?}");
            self.transcript.append_vca(&request);
            self.transcript.append_vca(&response);
        }
        self.transcript.agree(&*self.crypto, HashAlgo::Sha384);
    }

    fn get_digests(&self) -> Vec<u8> {
        bytes(|writer| GetDigests { version: self.version }.write(writer))
    }

    fn get_certificate(&self, slot: SlotId, offset: u16, length: u16) -> Vec<u8> {
        let request = GetCertificate { version: self.version, slot, slot_size: false, offset, length };
        bytes(|writer| request.write(writer))
    }

    fn context(&self) -> Option<msg::Context> {
        (self.version == Version::V1_3).then_some([7; 8])
    }

    fn challenge(&self, slot: SlotId, summary: SummaryHash) -> Vec<u8> {
        let request =
            Challenge { version: self.version, slot, summary, nonce: [1; 32], context: self.context() };
        bytes(|writer| request.write(writer))
    }

    fn get_measurements(&self, operation: MeasurementOperation, signed: Option<SlotId>) -> Vec<u8> {
        let request = GetMeasurements {
            version: self.version,
            signature: signed.map(|slot| SignatureRequest { nonce: [2; 32], slot }),
            raw: false,
            new: false,
            operation,
            context: self.context(),
        };
        bytes(|writer| request.write(writer))
    }

    fn key_exchange_request(&self, slot: SlotId, summary: SummaryHash, exchange: &[u8]) -> Vec<u8> {
        let versions = [VersionNumber(0x1000), VersionNumber(0x1100), VersionNumber(0x1200)];
        let mut list = VersionList::default();
        for version in versions {
            list.push(version).unwrap();
        }
        let opaque = bytes(|writer| write_supported_versions(writer, &list));
        let request = KeyExchange {
            version: self.version,
            summary,
            slot,
            session: 0xa5a5,
            policy: SessionPolicy::new(),
            random: [3; 32],
            exchange,
            opaque: &opaque,
        };
        bytes(|writer| request.write(writer))
    }

    /// `KEY_EXCHANGE`, everything in its response checked.
    fn key_exchange(&mut self, slot: SlotId, summary: SummaryHash) -> Talk {
        let ephemeral = self.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
        let request = self.key_exchange_request(slot, summary, ephemeral.public());
        let response = self.clear(&request);
        self.keyed(slot, summary, ephemeral, &request, response)
    }

    fn keyed(
        &mut self,
        slot: SlotId,
        summary: SummaryHash,
        ephemeral: Box<dyn crate::crypto::Ephemeral>,
        request: &[u8],
        response: Vec<u8>,
    ) -> Talk {
        let layout = self.layout();
        let answer = read(&response, |reader| KeyExchangeRsp::read(reader, &layout, summary.is_asked()));

        let chain = self.chain_digest(slot);
        let mut transcript = self.transcript.session(&chain).unwrap();
        transcript.append(request);
        transcript.append(&response[..response.len() - 96 - 48]);
        self.verify(slot, Context::KeyExchangeRsp, &transcript.digest(), answer.signature);
        transcript.append(answer.signature);
        let th1 = transcript.digest();
        let dhe = ephemeral.agree(answer.exchange).unwrap();
        let id = SessionId::new(0xa5a5, answer.session);
        let session =
            Session::new(&self.crypto, Self::suite(), self.version, id, Role::Requester, dhe, &th1).unwrap();
        let mac = session.finished_mac(Direction::Response, &th1).unwrap();
        assert_eq!(Some(&*mac), answer.verify_data);
        transcript.append(&mac);
        Talk { session, transcript, response }
    }

    fn chain_digest(&self, slot: SlotId) -> Digest {
        let chain =
            crate::x509::chain::build(&*self.crypto, HashAlgo::Sha384, &certificates(slot.number())).unwrap();
        self.crypto.digest(HashAlgo::Sha384, &chain)
    }

    fn verify(&self, slot: SlotId, context: Context, transcript: &Digest, signature: &[u8]) {
        let mine = |(place, key): &&(SlotId, PublicKey)| *place == slot && key.algo == AsymAlgo::EcdsaP384;
        let (_, key) = self.keys.iter().find(mine).unwrap();
        signing::verify(&*self.crypto, key, HashAlgo::Sha384, self.version, context, transcript, signature)
            .unwrap();
    }

    fn finish_request(&self, talk: &Talk) -> Vec<u8> {
        let head = [self.version.0, RequestCode::FINISH.0, 0, 0];
        let th = talk.transcript.digest_with(&[&head]);
        let mac = talk.session.finished_mac(Direction::Request, &th).unwrap();
        bytes(|writer| Finish { version: self.version, verify_data: &mac }.write(writer))
    }

    /// A session in its data phase.
    fn start(&mut self) -> Session {
        let mut talk = self.key_exchange(SlotId::ZERO, SummaryHash::None);
        self.finish(&mut talk);
        talk.session
    }

    fn finish(&mut self, talk: &mut Talk) {
        let request = self.finish_request(talk);
        let response = self.secured(&mut talk.session, &request);
        assert_eq!(response, [self.version.0, ResponseCode::FINISH_RSP.0, 0, 0]);
        let th2 = talk.transcript.digest_with(&[&request, &response]);
        talk.session.enter_data(&th2).unwrap();
    }

    /// A request that is its header.
    fn bare(&self, code: RequestCode) -> Vec<u8> {
        vec![self.version.0, code.0, 0, 0]
    }

    fn error(&self, code: ErrorCode) -> Vec<u8> {
        vec![self.version.0, ResponseCode::ERROR.0, code.0, 0]
    }

    fn vendor_request(&self, payload: &[u8]) -> Vec<u8> {
        bytes(|writer| VendorDefined::pci_sig(self.version, payload).write_request(writer))
    }
}

fn bytes(write: impl FnOnce(&mut Writer<'_>) -> Result<(), NoSpace>) -> Vec<u8> {
    let mut buffer = vec![0; 0x1_0000];
    msg::encode(&mut buffer, write).unwrap().to_vec()
}

fn read<'a, T>(message: &'a [u8], read: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>) -> T {
    msg::exact(message, read).unwrap_or_else(|error| panic!("{error}: {message:02x?}"))
}
