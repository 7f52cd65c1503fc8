//! One message of each kind from a handful of numbers.

use alloc::vec::Vec;

use proptest::prelude::*;

use super::super::*;
use super::written;
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use crate::ids::{SlotId, Version};

/// The numbers that messages are made of.
#[derive(Clone, Debug)]
pub(super) struct Seed {
    pub(super) layout: Layout,
    /// Small choices.
    pub(super) choice: [u8; 12],
    /// What stands in fields that may hold anything.
    pub(super) word: u32,
    /// What stands in fields of bytes.
    pub(super) pool: Vec<u8>,
}

pub(super) const fn layout(version: Version) -> Layout {
    Layout::new(
        version,
        Suite {
            hash: HashAlgo::Sha384,
            asym: AsymAlgo::EcdsaP256,
            dhe: Some(DheGroup::Secp384r1),
            aead: Some(AeadAlgo::Aes256Gcm),
            measurement_hash: Some(MeasurementHash::Hash(HashAlgo::Sha256)),
        },
    )
}

impl Seed {
    /// The same numbers every time.
    pub(super) fn plain(version: Version) -> Self {
        Self {
            layout: layout(version),
            choice: [1; 12],
            word: 0x0403_0201,
            pool: (0..=255).cycle().take(512).collect(),
        }
    }

    fn bit(&self, at: usize) -> bool {
        self.choice[at] & 1 != 0
    }

    fn is_1_3(&self) -> bool {
        self.layout.version == Version::V1_3
    }

    fn bytes(&self, at: usize, size: usize) -> &[u8] {
        &self.pool[at..at + size]
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes(at, N).try_into().expect("as many as asked for")
    }

    fn any_size(&self, at: usize) -> &[u8] {
        self.bytes(0, usize::from(self.choice[at]))
    }

    fn slot(&self) -> SlotId {
        SlotId::new(self.choice[0] & 7).expect("below 8")
    }

    fn context(&self) -> Option<Context> {
        self.is_1_3().then(|| self.array(77))
    }

    fn summary(&self) -> SummaryHash {
        [SummaryHash::None, SummaryHash::Tcb, SummaryHash::All][usize::from(self.choice[1] % 3)]
    }

    fn half(&self) -> u16 {
        (self.word & 0xffff) as u16
    }

    fn operation(&self) -> KeyOperation {
        [KeyOperation::UpdateKey, KeyOperation::UpdateAllKeys, KeyOperation::VerifyNewKey]
            [usize::from(self.choice[1] % 3)]
    }

    fn summary_bytes(&self) -> Option<&[u8]> {
        self.summary().is_asked().then(|| self.bytes(60, self.layout.digest()))
    }

    pub(super) fn asked(&self) -> Asked {
        Asked { summary: self.summary().is_asked(), signature: self.bit(2) }
    }

    fn requester_flags(&self) -> RequesterFlags {
        let made_up = RequesterFlags::from(self.word & RequesterFlags::known(self.layout.version));
        let sound = RequesterFlags::new()
            .with_cert(self.bit(3))
            .with_encrypt(true)
            .with_mac(true)
            .with_key_ex(true)
            .with_hbeat(self.bit(4))
            .with_key_upd(self.bit(5))
            .with_chunk(self.bit(6));
        self.first_sound(made_up, sound, |flags| GetCapabilities { flags, ..self.get_capabilities(sound) })
    }

    /// The made-up flags if the message can be read back with them.
    fn first_sound(
        &self,
        made_up: RequesterFlags,
        sound: RequesterFlags,
        message: impl Fn(RequesterFlags) -> GetCapabilities,
    ) -> RequesterFlags {
        let bytes = written(|writer| message(made_up.with_chunk(true)).write(writer));
        match exact(&bytes, |reader| GetCapabilities::read(reader, self.layout.version)) {
            Ok(_) => made_up,
            Err(_) => sound,
        }
    }

    fn get_capabilities(&self, flags: RequesterFlags) -> GetCapabilities {
        let transfer = 42 + (self.word & 0xfff);
        GetCapabilities {
            version: self.layout.version,
            wants_algorithms: self.is_1_3() && flags.chunk() && self.bit(7),
            ct_exponent: self.choice[8] & 31,
            flags,
            data_transfer_size: transfer,
            max_message_size: if flags.chunk() { transfer + (self.word >> 16) } else { transfer },
        }
    }

    fn responder_flags(&self) -> ResponderFlags {
        ResponderFlags::new()
            .with_cert(true)
            .with_chal(self.bit(3))
            .with_meas(self.choice[4] % 3)
            .with_encrypt(true)
            .with_mac(true)
            .with_key_ex(true)
            .with_key_upd(self.bit(5))
            .with_hbeat(self.bit(4))
            .with_chunk(self.bit(6))
            .with_alias_cert(self.bit(7))
            .with_mel(self.is_1_3() && self.bit(8))
    }

    fn other_params(&self) -> OtherParams {
        OtherParams::new().with_opaque_format_1(true).with_multi_key(self.is_1_3() && self.bit(9))
    }

    fn table(&self, at: usize, algorithms: u16) -> Option<AlgorithmTable<'static>> {
        self.bit(at).then(|| AlgorithmTable::new(algorithms))
    }

    /// Every request.
    pub(super) fn requests(&self) -> Vec<Request<'_>> {
        let version = self.layout.version;
        alloc::vec![
            Request::GetVersion(GetVersion),
            Request::GetCapabilities(self.get_capabilities(self.requester_flags())),
            Request::NegotiateAlgorithms(NegotiateAlgorithms {
                version,
                measurement_spec: self.choice[1] & 1,
                other_params: self.other_params(),
                base_asym: self.word & 0xfff,
                base_hash: self.word >> 8 & 0x7f,
                mel_spec: u8::from(self.is_1_3() && self.bit(2)),
                extended_asym: algorithms::ExtendedAlgorithms::default(),
                extended_hash: algorithms::ExtendedAlgorithms::default(),
                tables: AlgorithmTables {
                    dhe: self.table(3, self.half() & 0x7f),
                    aead: self.table(4, self.half() & 0xf),
                    requester_asym: self.table(5, self.half() & 0xfff),
                    key_schedule: self.table(6, 1),
                },
            }),
            Request::GetDigests(GetDigests { version }),
            Request::GetCertificate(GetCertificate {
                version,
                slot: self.slot(),
                slot_size: self.is_1_3() && self.bit(1),
                offset: self.half(),
                length: (self.word >> 16) as u16,
            }),
            Request::Challenge(Challenge {
                version,
                slot: self.slot(),
                summary: self.summary(),
                nonce: self.array(9),
                context: self.context(),
            }),
            Request::GetMeasurements(GetMeasurements {
                version,
                signature: self.bit(2).then(|| SignatureRequest { nonce: self.array(8), slot: self.slot() }),
                raw: self.bit(3),
                new: self.is_1_3() && self.bit(4),
                operation: match self.choice[5] {
                    0 => MeasurementOperation::Total,
                    0xff => MeasurementOperation::All,
                    index => MeasurementOperation::Index(index),
                },
                context: self.context(),
            }),
            Request::KeyExchange(KeyExchange {
                version,
                summary: self.summary(),
                slot: self.slot(),
                session: self.half(),
                policy: SessionPolicy::new()
                    .with_survives_update(self.bit(3))
                    .with_all_events(self.is_1_3() && self.bit(4)),
                random: self.array(5),
                exchange: self.bytes(10, self.layout.exchange()),
                opaque: self.any_size(6),
            }),
            Request::Finish(Finish { version, verify_data: self.bytes(3, self.layout.digest()) }),
            Request::Heartbeat(Heartbeat { version }),
            Request::KeyUpdate(KeyUpdate { version, operation: self.operation(), tag: self.choice[2] }),
            Request::EndSession(EndSession { version, clear_negotiated: self.bit(1) }),
            Request::VendorDefined(VendorDefined::pci_sig(version, self.any_size(7))),
            Request::VendorDefined(VendorDefined {
                version,
                standard_id: StandardId::IANA_CBOR,
                vendor_id: self.bytes(0, usize::from(self.choice[8] & 15)),
                payload: self.any_size(9),
            }),
            Request::RespondIfReady(RespondIfReady {
                version,
                request: RequestCode(self.choice[1] | 0x80),
                token: self.choice[2],
            }),
            Request::ChunkSend(ChunkSend {
                version,
                last: self.bit(1),
                handle: self.choice[2],
                sequence: 0,
                large_size: Some(512 + (self.word >> 3)),
                chunk: self.bytes(0, 1 + usize::from(self.choice[3])),
            }),
            Request::ChunkGet(ChunkGet { version, handle: self.choice[1], sequence: self.half() }),
        ]
    }

    /// A sound record of two blocks.
    pub(super) fn record(&self) -> Vec<u8> {
        let digest = match self.layout.suite.measurement_hash {
            Some(MeasurementHash::Hash(hash)) => hash.size(),
            _ => 0,
        };
        let first = MeasurementBlock {
            index: 1 + self.choice[1] % 100,
            kind: MeasurementKind(self.choice[2] & 0x7f),
            value: MeasurementValue::Digest(self.bytes(8, digest)),
        };
        let second = MeasurementBlock {
            index: measurement_block::INDEX_DEVICE_MODE,
            kind: MeasurementKind::DEVICE_MODE,
            value: MeasurementValue::Raw(self.any_size(3)),
        };
        written(|writer| {
            first.write(writer)?;
            second.write(writer)
        })
    }

    /// Every response; the record is that of [`Self::record`].
    pub(super) fn responses<'a>(&'a self, record: &'a [u8]) -> Vec<Response<'a>> {
        let version = self.layout.version;
        let digest = self.layout.digest();
        let provisioned = self.choice[3];
        let flags = self.responder_flags();
        let capabilities = self.get_capabilities(RequesterFlags::new().with_chunk(flags.chunk()));
        let verify_data = Some(self.bytes(33, digest));
        let in_clear = self.layout.handshake_in_clear;
        let one_of = |bits: u32| 1_u32 << (u32::from(self.choice[2]) % bits);
        let selected = |at, bits| self.table(at, (one_of(bits) & 0xffff) as u16);
        let mutual_auth =
            [MutualAuth::None, MutualAuth::Plain, MutualAuth::Encapsulated, MutualAuth::WithDigests]
                [usize::from(self.choice[5] & 3)];
        alloc::vec![
            Response::Version(VersionResponse {
                versions: VersionList::released(&[Version::V1_0, version]).expect("two versions"),
            }),
            Response::Capabilities(Capabilities {
                version,
                ct_exponent: capabilities.ct_exponent,
                flags,
                data_transfer_size: capabilities.data_transfer_size,
                max_message_size: capabilities.max_message_size,
            }),
            Response::Algorithms(Algorithms {
                version,
                measurement_spec: self.choice[1] & 1,
                other_params: self.other_params(),
                measurement_hash: one_of(8),
                base_asym: one_of(12),
                base_hash: one_of(7),
                mel_spec: u8::from(self.is_1_3() && self.bit(2)),
                tables: AlgorithmTables {
                    dhe: selected(3, 7),
                    aead: selected(4, 4),
                    requester_asym: selected(5, 12),
                    key_schedule: selected(6, 1),
                },
            }),
            Response::Digests(Digests {
                version,
                supported: if self.is_1_3() { provisioned | self.choice[4] } else { 0 },
                provisioned,
                digests: self.bytes(0, digest * provisioned.count_ones() as usize),
            }),
            Response::Certificate(Certificate {
                version,
                slot: self.slot(),
                model: if self.is_1_3() { self.choice[1] & 3 } else { 0 },
                remainder: self.half() >> 1,
                portion: self.any_size(3),
            }),
            Response::ChallengeAuth(ChallengeAuth {
                version,
                slot: self.slot(),
                slot_mask: self.choice[3],
                chain_hash: self.bytes(40, digest),
                nonce: self.array(2),
                summary: self.summary_bytes(),
                opaque: self.any_size(4),
                context: self.context(),
                signature: self.bytes(50, self.layout.signature()),
            }),
            Response::Measurements(Measurements {
                version,
                total: 0,
                slot: if self.bit(2) { self.slot() } else { SlotId::ZERO },
                content: if self.bit(2) && self.bit(3) {
                    ContentChange::Unchanged
                } else {
                    ContentChange::NotWatched
                },
                blocks: 2,
                record,
                nonce: self.array(70),
                opaque: self.any_size(4),
                context: self.context(),
                signature: self.bit(2).then(|| self.bytes(80, self.layout.signature())),
            }),
            Response::KeyExchangeRsp(KeyExchangeRsp {
                version,
                heartbeat: self.choice[4],
                session: self.half(),
                mutual_auth,
                requester_slot: if mutual_auth == MutualAuth::None { 0 } else { self.choice[6] & 0xf },
                random: self.array(5),
                exchange: self.bytes(7, self.layout.exchange()),
                summary: self.summary_bytes(),
                opaque: self.any_size(7),
                signature: self.bytes(90, self.layout.signature()),
                verify_data: verify_data.filter(|_| !in_clear),
            }),
            Response::FinishRsp(FinishRsp { version, verify_data: verify_data.filter(|_| in_clear) }),
            Response::HeartbeatAck(HeartbeatAck { version }),
            Response::KeyUpdateAck(KeyUpdateAck {
                version,
                operation: self.operation(),
                tag: self.choice[2]
            }),
            Response::EndSessionAck(EndSessionAck { version }),
            Response::VendorDefined(VendorDefined::pci_sig(version, self.any_size(7))),
            Response::Error(ErrorResponse::new(version, ErrorCode::UNSUPPORTED_REQUEST, self.choice[1])),
            Response::Error(ErrorResponse::new(Version::V1_0, ErrorCode::VERSION_MISMATCH, 0)),
            Response::Error(ErrorResponse::large_response(version, self.choice[1])),
            Response::Error(ErrorResponse {
                version,
                code: ErrorCode::RESPONSE_TOO_LARGE,
                data: 0,
                extended: ErrorData::TooLarge(self.word),
            }),
            Response::Error(ErrorResponse::not_ready(
                version,
                NotReady {
                    exponent: self.choice[1],
                    request: RequestCode(self.choice[2]),
                    token: self.choice[3],
                    multiplier: self.choice[4],
                },
            )),
            Response::ChunkResponse(ChunkResponse {
                version,
                last: self.bit(1),
                handle: self.choice[2],
                sequence: self.half() | 1,
                large_size: None,
                chunk: self.bytes(0, 1 + usize::from(self.choice[3])),
            }),
        ]
    }

    /// The responses that end in a field without a length.
    pub(super) fn open_ended(&self) -> Vec<Response<'_>> {
        let version = self.layout.version;
        alloc::vec![
            Response::ChunkSendAck(ChunkSendAck {
                version,
                early_error: self.bit(1),
                handle: self.choice[2],
                sequence: self.half(),
                response: self.any_size(3),
            }),
            Response::Error(ErrorResponse {
                version,
                code: ErrorCode::VENDOR_DEFINED,
                data: self.choice[1],
                extended: ErrorData::Vendor(self.bytes(0, usize::from(self.choice[2] & 31))),
            }),
        ]
    }
}

fn suites() -> impl Strategy<Value = Suite> {
    let hash = prop::sample::select(HashAlgo::ALL.to_vec());
    (
        hash.clone(),
        prop::sample::select(AsymAlgo::ALL.to_vec()),
        prop::option::of(prop::sample::select(DheGroup::ALL.to_vec())),
        prop::option::of(prop::sample::select(AeadAlgo::ALL.to_vec())),
        hash,
    )
        .prop_map(|(hash, asym, dhe, aead, measurement)| Suite {
            hash,
            asym,
            dhe,
            aead,
            measurement_hash: Some(MeasurementHash::Hash(measurement)),
        })
}

/// Any numbers.
pub(super) fn seeds() -> impl Strategy<Value = Seed> {
    let layouts = (prop::sample::select(Version::SPOKEN.to_vec()), suites(), any::<bool>())
        .prop_map(|(version, suite, handshake_in_clear)| Layout { version, suite, handshake_in_clear });
    (layouts, any::<[u8; 12]>(), any::<u32>(), prop::collection::vec(any::<u8>(), 512))
        .prop_map(|(layout, choice, word, pool)| Seed { layout, choice, word, pool })
}
