//! A TEE-IO device behind a root port of the fake machine: SPDM, IDE_KM and TDISP, without a mailbox.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pcie::FuncId;
use pcie::doe::{Object, ObjectType};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use spdm::Kind;
use spdm::algo::AsymAlgo;
use spdm::crypto::CryptoError;
use spdm::crypto::aws_lc::{AwsLc, EcdsaSigner};
use spdm::ide_km::{
    self, IdeKey, IdePort, Ifv, KeyGeneration, KeyManager, KeyRefused, KeySlot, PortIndex, PortLocation,
    StreamChange, StreamId,
};
use spdm::ids::{SessionId, SlotId};
use spdm::msg::{MeasurementKind, RequestCode, VendorDefined};
use spdm::responder::{
    Config, Delay, Device, Identity, MeasuredValue, Measurement, Responder, SessionEnd, Stage, VendorError,
};
use spdm::tdisp::{
    self, InterfaceId, LockInterface, NotConfigured, Report, TdiConfig, TdiPlatform, TdiSet, TdiState,
};

/// The function with the mailbox: below the first root port of unit 0.
pub(crate) const FUNCTION: u32 = 0x1100;
/// IDE capability: selective streams and IDE_KM.
const IDE_CAPABILITY: u32 = 1 << 1 | 1 << 6;

/// What a device did with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyEvent {
    Programmed(u8, KeySlot, IdeKey),
    Go(u8, KeySlot),
    Stopped(u8, KeySlot),
}

/// The end of the link.
#[derive(Debug, Default)]
pub(crate) struct DevicePort {
    pub(crate) events: Vec<KeyEvent>,
    pub(crate) keys: BTreeMap<(u8, KeySlot), IdeKey>,
    pub(crate) capability: u32,
    pub(crate) refuses_keys: bool,
}

impl IdePort for DevicePort {
    fn max_port(&self) -> PortIndex {
        PortIndex(0)
    }

    fn location(&self, _: PortIndex) -> PortLocation {
        PortLocation { segment: 0, bus: 0x11, device_function: 0 }
    }

    fn registers(&self, _: PortIndex, out: &mut Vec<u32>) {
        out.extend([self.capability, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    }

    fn has_stream(&self, _: PortIndex, _: StreamId) -> bool {
        true
    }

    fn program(
        &mut self,
        _: PortIndex,
        stream: StreamId,
        slot: KeySlot,
        key: &IdeKey,
        ifv: Ifv,
    ) -> Result<(), KeyRefused> {
        assert_eq!(ifv, Ifv::INITIAL);
        if self.refuses_keys {
            return Err(KeyRefused);
        }
        self.events.push(KeyEvent::Programmed(stream.0, slot, key.clone()));
        self.keys.insert((stream.0, slot), key.clone());
        Ok(())
    }

    fn go(&mut self, _: PortIndex, stream: StreamId, slot: KeySlot) -> Result<(), KeyRefused> {
        self.events.push(KeyEvent::Go(stream.0, slot));
        Ok(())
    }

    fn stop(&mut self, _: PortIndex, stream: StreamId, slot: KeySlot) {
        self.events.push(KeyEvent::Stopped(stream.0, slot));
        self.keys.remove(&(stream.0, slot));
    }

    fn changed(&mut self, _: PortIndex, _: StreamId, _: StreamChange) {}
}

/// No interface is ever locked here.
struct Unlocked;

impl TdiPlatform for Unlocked {
    fn keyed(&self, _: InterfaceId, _: StreamId, _: SessionId) -> Option<KeyGeneration> {
        None
    }

    fn random(&mut self, _: &mut [u8; 32]) -> Result<(), CryptoError> {
        Err(CryptoError::Entropy)
    }

    fn check(&mut self, _: InterfaceId, _: &LockInterface) -> Result<(), NotConfigured> {
        Err(NotConfigured)
    }

    fn report(&mut self, _: InterfaceId, _: &LockInterface) -> Report {
        Report::default()
    }

    fn entered(&mut self, _: InterfaceId, _: TdiState, _: TdiState) {}
}

/// Bends a response while it is made.
pub(crate) type Bend = Box<dyn FnMut(Stage, &mut Vec<u8>) + Send>;

/// The device's security manager.
pub(crate) struct Dsm {
    pub(crate) port: DevicePort,
    keys: KeyManager,
    tdis: TdiSet,
    pub(crate) bend: Bend,
    /// Requests that are not ready: code, and how often.
    pub(crate) not_ready: Option<(RequestCode, u32)>,
    pub(crate) version: u8,
    /// Bytes of the measurement.
    pub(crate) measured: usize,
    pub(crate) sessions: u32,
    pub(crate) ended: Vec<SessionEnd>,
}

impl Device for Dsm {
    fn measurements(&mut self) -> Vec<Measurement> {
        let value = MeasuredValue::Either(vec![self.version; self.measured]);
        vec![Measurement { index: 1, kind: MeasurementKind(1), tcb: true, value }]
    }

    fn vendor(
        &mut self,
        session: SessionId,
        request: &VendorDefined<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), VendorError> {
        match request.payload.first() {
            Some(&ide_km::PROTOCOL) => self
                .keys
                .handle(session, request.payload, &mut self.port, out)
                .map_err(|_| VendorError::Invalid),
            Some(&tdisp::PROTOCOL) => self
                .tdis
                .handle(session, request.payload, &mut Unlocked, out)
                .map_err(|_| VendorError::Invalid),
            _ => Err(VendorError::Unsupported),
        }
    }

    fn session_started(&mut self, _: SessionId) {
        self.sessions += 1;
    }

    fn session_ended(&mut self, session: SessionId, why: SessionEnd) {
        self.ended.push(why);
        self.keys.session_ended(session, &mut self.port);
    }

    fn not_ready(&mut self, request: RequestCode) -> Option<Delay> {
        let (code, left) = self.not_ready.as_mut()?;
        let now = *code == request && *left > 0;
        *left -= u32::from(now);
        now.then_some(Delay { exponent: 3, multiplier: 4 })
    }

    fn shape(&mut self, stage: Stage, response: &mut Vec<u8>) {
        (self.bend)(stage, response);
    }
}

/// A device that answers data objects.
pub(crate) struct Responding {
    responder: Responder,
    pub(crate) dsm: Dsm,
    pub(crate) exchanges: usize,
}

/// A chain of root and leaf, and the leaf's key, made once.
fn identity() -> &'static (Vec<Vec<u8>>, Vec<u8>) {
    static IDENTITY: OnceLock<(Vec<Vec<u8>>, Vec<u8>)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let key = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let named = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut root = named("test root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root_key = key();
        let root_der = root.self_signed(&root_key).expect("a root").der().to_vec();
        let issuer = Issuer::new(root, root_key);
        let mut leaf = named("test device");
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let leaf_key = key();
        let leaf_der = leaf.signed_by(&leaf_key, &issuer).expect("a leaf").der().to_vec();
        (vec![root_der, leaf_der], leaf_key.serialize_der())
    })
}

impl Responding {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    /// A device whose mailbox belongs to that function.
    pub(crate) fn of(function: FuncId) -> Self {
        let mut device = Self::new();
        device.dsm.tdis.add(InterfaceId(function));
        device
    }

    pub(crate) fn with(config: Config) -> Self {
        let (certificates, key) = identity();
        let chain = |slot| Identity {
            slot: SlotId::new(slot).expect("a slot"),
            certificates: certificates.clone(),
            signer: Box::new(EcdsaSigner::from_pkcs8(AsymAlgo::EcdsaP384, key).expect("a key")),
        };
        let responder =
            Responder::new(config, vec![chain(0), chain(3)], Arc::new(AwsLc)).expect("a responder");
        let mut tdis = TdiSet::new(TdiConfig::default());
        tdis.add(InterfaceId(FuncId(FUNCTION)));
        let dsm = Dsm {
            port: DevicePort { capability: IDE_CAPABILITY, ..DevicePort::default() },
            keys: KeyManager::new(),
            tdis,
            bend: Box::new(|_, _| {}),
            not_ready: None,
            version: 1,
            measured: 64,
            sessions: 0,
            ended: Vec::new(),
        };
        Self { responder, dsm, exchanges: 0 }
    }

    /// Answers a complete object with another one.
    pub(crate) fn answer(&mut self, object: &[u8]) -> Vec<u8> {
        self.exchanges += 1;
        let object = Object::parse(object).expect("an object");
        let kind = match object.object_type {
            ObjectType::SPDM => Kind::Clear,
            ObjectType::SECURED_SPDM => Kind::Secured,
            other => panic!("{other}"),
        };
        let reply = self
            .responder
            .handle(kind, object.payload, &mut self.dsm, Duration::ZERO, &mut ())
            .expect("an answer");
        let object_type = match reply.kind {
            Kind::Clear => ObjectType::SPDM,
            Kind::Secured => ObjectType::SECURED_SPDM,
        };
        let mut buffer = vec![0; 4096];
        let size = Object { object_type, payload: &reply.payload }.write(&mut buffer).expect("it fits");
        buffer.truncate(size);
        buffer
    }

    /// The device was reset.
    pub(crate) fn reset(&mut self) {
        self.responder.reset(&mut self.dsm);
    }
}
