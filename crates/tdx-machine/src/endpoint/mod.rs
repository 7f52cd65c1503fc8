//! A TEE-IO endpoint: a device with its own certification authority, a device security manager (DSM),
//! memory-mapped registers, a DMA engine and virtual functions.
//!
//! An [`Endpoint`] is made from an [`EndpointSpec`], a TOML file that says everything in which one
//! device differs from another. Its DSM is reached with whole SPDM messages
//! ([`Endpoint::exchange`]) or through the DOE mailbox in the configuration space of function 0.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`], [`devices`] | the device file, and those that are built in |
//! | [`ca`] | the certification authority |
//! | [`mmio`], [`dma`] | what is behind BAR 0 |
//! | [`fault`] | what may be wrong with a device |

pub mod ca;
mod config;
pub mod devices;
pub mod dma;
mod dsm;
pub mod fault;
mod function;
mod hardware;
pub(crate) mod link;
pub mod mmio;
mod outside;
pub mod spec;
#[cfg(test)]
mod tests;

pub use ca::{Ca, CaError, Issued, Validity};
pub use dma::{Dma, DmaAccess, DmaCommand, DmaFault, DmaStatus};
pub use fault::{Answered, DeviceFault};
pub use link::Upstream;
pub use mmio::{MmioAccess, MmioFault};
pub use outside::{MailboxObserver, OutsideDsm, OutsideError};
pub use spec::{EndpointSpec, EndpointSpecError, EndpointSpecIssue};

use std::sync::Arc;
use std::time::Duration;

use pcie::FunctionId;
use pcie::cap::SrIovRegisters;
use pcie::config::{BuildError, ExtendedId, find_extended};
use pcie::doe::{Capability, Mailbox, SupportedTypes};
use spdm::Kind as Travel;
use spdm::algo::MeasurementHash;
use spdm::crypto::aws_lc::{AwsLc, EcdsaSigner};
use spdm::crypto::{Crypto, CryptoError};
use spdm::ide_km::{KeyManager, PortIndex, StreamId};
use spdm::ids::SlotId;
use spdm::observe::Observer;
use spdm::responder::{Config, ConfigError, Identity, Responder, SessionInfo};
use spdm::tdisp::{InterfaceId, TdiConfig, TdiSet, TdiState};

use crate::ide::{OpenError, SealError, Sealed, Tlp};
use dsm::Dsm;
use fault::{Faults, Shows, Spoilable};
use function::{Function, Kind, interface};
use hardware::Hardware;

/// Routing ids of the physical functions of a device without ARI.
const PHYSICAL: u16 = 8;
/// What a data object has beside the message that it carries: its header, and those of a secured message.
const OBJECT_OVERHEAD: u32 = 8 + 64;

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The device file is none.
    #[error(transparent)]
    Spec(#[from] EndpointSpecError),
    /// A certificate cannot be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The key of a certificate is refused.
    #[error("cannot use the key of the device: {0}")]
    Key(#[from] CryptoError),
    /// A configuration space is none that a function can have.
    #[error("the configuration space of {function}: {source}")]
    Config {
        /// The function.
        function: FunctionId,
        /// What is wrong.
        source: BuildError,
    },
    /// A function has no address.
    #[error("function {0} of the device lies beyond the last bus, or its segment above 0xff")]
    Address(u16),
    /// The responder refuses what the file says.
    #[error("the responder of the device: {0}")]
    Responder(#[from] ConfigError),
}

/// What is known of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionFacts {
    /// Where it is.
    pub id: FunctionId,
    /// Its interface.
    pub interface: InterfaceId,
    /// It is a virtual function.
    pub is_virtual: bool,
    /// The physical function of a virtual one.
    pub physical: Option<FunctionId>,
    /// State of the interface.
    pub state: TdiState,
    /// Where its window lies, if it answers accesses to memory.
    pub window: Option<u64>,
}

/// A TEE-IO device.
pub struct Endpoint {
    spec: EndpointSpec,
    /// Who it is, from the first time on that somebody asks.
    identity: Option<DeviceIdentity>,
    dsm: Dsm,
    mailbox: Mailbox<Vec<u32>>,
    /// Offset of the mailbox' capability in function 0.
    doe: Option<u16>,
    /// The mailbox fails whatever it is given, until the device is reset.
    mailbox_dead: bool,
    /// Somebody else who answers in place of the responder.
    outside: Option<Box<dyn OutsideDsm>>,
    /// Data objects that the mailbox has answered or dropped.
    exchanges: u64,
    /// The number of the one that is not answered.
    stop_at: Option<u64>,
    stopped: bool,
    made: Made,
    faults: Faults,
}

/// The authority of a device, and the responder with the keys that it certifies.
struct DeviceIdentity {
    ca: Ca,
    responder: Responder,
}

impl DeviceIdentity {
    fn new(spec: &EndpointSpec, made: Made, faults: &Faults) -> Result<Self, EndpointError> {
        let ca = Ca::new(spec.spdm.signature.0, made.validity)?;
        let responder = responder_of(spec, &ca, made, faults, Arc::new(AwsLc))?;
        Ok(Self { ca, responder })
    }
}

/// When a device was made, and as which one.
#[derive(Clone, Copy, Debug)]
struct Made {
    validity: Validity,
    seed: u64,
}

impl Endpoint {
    /// A device that is powered on at `now`, the time since 1970. Its keys are fresh whatever the seed,
    /// which only numbers the device.
    pub fn new(spec: &EndpointSpec, seed: u64, now: Duration) -> Result<Self, EndpointError> {
        let mut endpoint = Self::without_identity(spec, seed, now)?;
        endpoint.identify()?;
        Ok(endpoint)
    }

    /// The same, but keys and certificates are made when the first data object comes: a machine with many
    /// devices would wait for them.
    pub fn without_identity(spec: &EndpointSpec, seed: u64, now: Duration) -> Result<Self, EndpointError> {
        spec.validate()?;
        let made = Made { validity: Validity::around(now), seed };
        let faults = Faults::new(&spec.faults);
        let functions = functions(spec)?;
        let doe = functions.first().and_then(|first| find_extended(&first.config, ExtendedId::DOE));
        let doe = doe.map(|found| found.offset);
        let tdis = TdiSet::new(TdiConfig {
            address_width: spec.tdisp.address_width,
            requests_this: spec.tdisp.requests_this,
            requests_all: spec.tdisp.requests_all,
            fresh_keys: spec.tdisp.fresh_keys,
            ..TdiConfig::default()
        });
        let hardware = Hardware::new(functions, spec.tdisp.address_width, spec.ide, Arc::new(AwsLc));
        let measurements = dsm::measurements(&spec.measurements);
        let dsm = Dsm { measurements, keys: KeyManager::new(), tdis, hardware };
        let dwords = (spec.spdm.data_transfer_size + OBJECT_OVERHEAD).div_ceil(4);
        let buffer = vec![0; usize::try_from(dwords).unwrap_or(usize::MAX)];
        let mailbox = Mailbox::new(buffer, SupportedTypes::SPDM, Capability::new());
        let mut endpoint = Self {
            spec: spec.clone(),
            identity: None,
            dsm,
            mailbox,
            doe,
            mailbox_dead: false,
            outside: None,
            exchanges: 0,
            stop_at: None,
            stopped: false,
            made,
            faults,
        };
        endpoint.power_on();
        Ok(endpoint)
    }

    /// Makes keys and certificates, if there are none yet.
    pub fn identify(&mut self) -> Result<(), EndpointError> {
        if self.identity.is_none() {
            self.identity = Some(DeviceIdentity::new(&self.spec, self.made, &self.faults)?);
        }
        Ok(())
    }

    /// Whether keys and certificates have been made.
    pub const fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// The device file.
    pub const fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    /// The root certificate of the device's authority in DER: what a verifier has to trust. Empty as long as
    /// there is [none](Self::has_identity).
    pub fn root(&self) -> &[u8] {
        self.identity.as_ref().map_or(&[], |identity| identity.ca.root())
    }

    /// What is wrong with the device now.
    pub fn faults(&self) -> &[DeviceFault] {
        self.faults.list()
    }

    /// Other faults, or none, from now on. Where those differ that a device is made with
    /// ([`Shows::FromPowerOn`]), it is reset and comes back with new keys of the same authority.
    pub fn set_faults(&mut self, faults: &[DeviceFault]) -> Result<(), EndpointError> {
        let made_with = |list: &[DeviceFault]| -> Vec<DeviceFault> {
            list.iter().filter(|fault| fault.shows() == Shows::FromPowerOn).copied().collect()
        };
        let anew = made_with(faults) != made_with(self.faults.list());
        self.faults.set(faults);
        if anew {
            self.reset();
            if let Some(identity) = &mut self.identity {
                identity.responder =
                    responder_of(&self.spec, &identity.ca, self.made, &self.faults, Arc::new(AwsLc))?;
            }
        }
        Ok(())
    }

    /// The functions that are there now, physical ones first.
    pub fn functions(&self) -> impl Iterator<Item = FunctionFacts> + '_ {
        let functions = self.dsm.hardware.functions.iter().enumerate();
        functions.filter(|(_, function)| function.present).map(|(index, function)| FunctionFacts {
            id: function.id,
            interface: function.interface,
            is_virtual: matches!(function.kind, Kind::Virtual { .. }),
            physical: match function.kind {
                Kind::Physical { .. } => None,
                Kind::Virtual { parent, .. } => {
                    self.dsm.hardware.functions.get(parent).map(|parent| parent.id)
                }
            },
            state: function.state,
            window: self.dsm.hardware.window(index),
        })
    }

    /// The state of the function's interface, if the function is there.
    pub fn state(&self, function: FunctionId) -> Option<TdiState> {
        let index = self.dsm.hardware.find(function)?;
        self.dsm.hardware.functions.get(index).map(|function| function.state)
    }

    /// Gives the payload of a data object to the DSM, and its answer back; `None`: silence. `now` is a
    /// time that does not go backwards.
    pub fn exchange(
        &mut self,
        kind: Travel,
        payload: &[u8],
        now: Duration,
        observer: &mut dyn Observer,
    ) -> Option<(Travel, Vec<u8>)> {
        self.answer(kind, payload, now, observer).object()
    }

    /// The same, where silence is not an error of the mailbox.
    pub fn answer(
        &mut self,
        kind: Travel,
        payload: &[u8],
        now: Duration,
        observer: &mut dyn Observer,
    ) -> Answered {
        if let Some(outside) = &mut self.outside {
            return outside::answer(outside.as_mut(), kind, payload);
        }
        // Without keys nobody can be asked.
        if self.identify().is_err() {
            return Answered::DoeError;
        }
        let Some(DeviceIdentity { responder, .. }) = &mut self.identity else { return Answered::DoeError };
        let payload = self.faults.request(kind, payload);
        let mut device = self.faults.device(&mut self.dsm);
        let reply = responder.handle(kind, &payload, &mut device, now, observer);
        self.faults.answer(reply.map(|reply| (reply.kind, reply.payload)))
    }

    /// The sessions of the device, handshakes included.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo> + '_ {
        self.identity.iter().flat_map(|identity| identity.responder.sessions())
    }

    /// Lets the time pass: sessions without a heartbeat end.
    pub fn tick(&mut self, now: Duration) {
        if let Some(identity) = &mut self.identity {
            identity.responder.tick(now, &mut self.dsm);
        }
    }

    /// The requester is gone: sessions end.
    pub fn disconnect(&mut self) {
        if let Some(identity) = &mut self.identity {
            identity.responder.reset(&mut self.dsm);
        }
        if let Some(outside) = &mut self.outside {
            outside.reset();
        }
    }

    /// A conventional reset, or the loss of the link: the device is as after power-on.
    pub fn reset(&mut self) {
        self.disconnect();
        self.mailbox.reset();
        self.mailbox_dead = false;
        self.power_on();
    }

    /// Opens what arrived at a port over one of its streams. After an integrity failure the stream is
    /// insecure, interfaces on it are in ERROR, and the other end is to be told.
    pub fn receive(&mut self, port: PortIndex, sealed: Sealed) -> Result<Vec<Tlp>, OpenError> {
        let stream = sealed.stream();
        let link = self.dsm.hardware.links.get_mut(usize::from(port.0));
        let opened = link.ok_or(OpenError::MisroutedStream(stream))?.open(sealed);
        if let Err(Some(lost)) = opened.as_ref().map_err(OpenError::lost_stream) {
            self.dsm.stream_failed(port, lost);
        }
        opened
    }

    /// Seals what the device sends at a port over one of its streams.
    pub fn send(&mut self, port: PortIndex, stream: StreamId, tlp: Tlp) -> Result<Sealed, SealError> {
        let link = self.dsm.hardware.links.get_mut(usize::from(port.0));
        link.ok_or(SealError::NoStream(stream))?.seal(stream, tlp)
    }

    /// The other end of a stream says that an integrity check failed there: it is insecure here too.
    pub fn fail_message(&mut self, port: PortIndex, stream: StreamId) {
        if let Some(link) = self.dsm.hardware.links.get_mut(usize::from(port.0)) {
            link.fail_message(stream);
        }
        self.dsm.stream_failed(port, stream);
        self.dsm.hardware.set_stream_failed(port, stream);
    }

    /// Reads a register behind BAR 0 of a function; unused bytes are 0.
    pub fn mmio_read(&self, function: FunctionId, access: MmioAccess) -> Result<u64, MmioFault> {
        let index = self.decodes(function)?;
        let function = self.dsm.hardware.functions.get(index).ok_or(MmioFault::NoFunction)?;
        function.mmio.read(access, function.view())
    }

    /// Writes a register behind BAR 0 of a function. A command of the DMA engine has been carried out on
    /// `dma` when this returns.
    pub fn mmio_write(
        &mut self,
        function: FunctionId,
        access: MmioAccess,
        value: u64,
        dma: &mut dyn Dma,
    ) -> Result<(), MmioFault> {
        let index = self.decodes(function)?;
        let permit = self.dsm.hardware.permit(index);
        let function = self.dsm.hardware.functions.get_mut(index).ok_or(MmioFault::NoFunction)?;
        let view = function.view();
        function.mmio.write(access, value, view, permit, dma)
    }

    /// How the last command of a function's DMA engine ended.
    pub fn dma_status(&self, function: FunctionId) -> Option<DmaStatus> {
        let index = self.dsm.hardware.find(function)?;
        self.dsm.hardware.functions.get(index).map(|function| function.mmio.dma_status())
    }

    fn decodes(&self, function: FunctionId) -> Result<usize, MmioFault> {
        let index = self.dsm.hardware.find(function).ok_or(MmioFault::NoFunction)?;
        self.dsm.hardware.window(index).map(|_| index).ok_or(MmioFault::Disabled)
    }

    fn power_on(&mut self) {
        self.dsm.reset();
        let mut next = self.spec.pci.window.0;
        for index in 0..self.dsm.hardware.functions.len() {
            let Some(function) = self.dsm.hardware.functions.get_mut(index) else { return };
            let Kind::Physical { .. } = function.kind else { continue };
            function.reset();
            if self.spec.pci.configured {
                next = function.configure(next);
            }
            let count = SrIovRegisters::find(&function.config).map_or(0, |registers| registers.count());
            self.dsm.tdis.add(function.interface);
            self.virtual_functions(index, 0);
            self.virtual_functions(index, count);
        }
        if self.spec.pci.configured {
            let of =
                |function: &&mut Function| matches!(function.kind, Kind::Virtual { .. }) && function.present;
            for function in self.dsm.hardware.functions.iter_mut().filter(of) {
                function.configure(0);
            }
        }
    }
}

/// The responder, with the identities that `ca` certifies.
fn responder_of(
    spec: &EndpointSpec,
    ca: &Ca,
    made: Made,
    faults: &Faults,
    crypto: Arc<dyn Crypto>,
) -> Result<Responder, EndpointError> {
    let asym = spec.spdm.signature.0;
    let Made { validity, seed } = made;
    let mut identities = Vec::new();
    for slot in spec.spdm.slots.iter().filter_map(|&slot| SlotId::new(slot)) {
        let serial = format!("{seed:016x}-{slot}");
        let issued = fault::certify(ca, asym, &serial, validity, faults.list())?;
        let signer = Box::new(EcdsaSigner::from_pkcs8(asym, &issued.key)?);
        let signer = Box::new(Spoilable { signer, fault: faults.signatures() });
        identities.push(Identity { slot, certificates: issued.chain, signer });
    }
    let sequence_limit = faults.sequence_limit();
    Ok(Responder::new(Config { sequence_limit, ..config_of(spec) }, identities, crypto)?)
}

fn config_of(spec: &EndpointSpec) -> Config {
    let spdm = &spec.spdm;
    let mut hashes: Vec<_> = spdm.hashes.iter().map(|hash| hash.0).collect();
    let mut groups: Vec<_> = spdm.groups.iter().map(|group| group.0).collect();
    let mut ciphers: Vec<_> = spdm.ciphers.iter().map(|cipher| cipher.0).collect();
    // The strongest is preferred.
    hashes.sort_by_key(|hash| std::cmp::Reverse(hash.size()));
    groups.sort_by_key(|group| std::cmp::Reverse(group.exchange_size()));
    ciphers.sort_by_key(|cipher| std::cmp::Reverse(cipher.key_size()));
    Config {
        versions: spdm.versions.iter().map(|version| version.0).collect(),
        hashes,
        asyms: vec![spdm.signature.0],
        dhes: groups,
        aeads: ciphers,
        measurement_hash: MeasurementHash::Hash(spdm.measurement_hash.0),
        ct_exponent: spdm.ct_exponent,
        data_transfer_size: spdm.data_transfer_size,
        max_message_size: spdm.max_message_size,
        heartbeat_period: spdm.heartbeat,
        max_sessions: spdm.sessions.into(),
        ..Config::default()
    }
}

/// All functions that the device can have, physical ones first.
fn functions(spec: &EndpointSpec) -> Result<Vec<Function>, EndpointError> {
    let first = spec.pci.address.0;
    let at = |distance: u16| {
        let bdf = first.bdf.checked_add(distance).ok_or(EndpointError::Address(distance))?;
        let id = FunctionId::new(first.segment, bdf);
        Ok::<_, EndpointError>((id, interface(id).ok_or(EndpointError::Address(distance))?))
    };
    let refused = |function| move |source| EndpointError::Config { function, source };
    let mut physical: Vec<_> = spec.functions.clone();
    physical.sort_by_key(|function| function.number);
    let mut functions = Vec::new();
    let mut next = PHYSICAL;
    for (port, function) in (0..).zip(&physical) {
        let number = u16::from(function.number);
        let (id, interface) = at(number)?;
        let port = (port < spec.ide.ports).then_some(port);
        let made =
            Function::physical(spec, function, id, interface, port, next - number).map_err(refused(id))?;
        functions.push(made);
        next += function.virtual_functions;
    }
    let mut next = PHYSICAL;
    for (parent, function) in physical.iter().enumerate() {
        for index in 0..function.virtual_functions {
            let (id, interface) = at(next + index)?;
            let memory = function.memory.0;
            let made =
                Function::virtual_of(spec, id, interface, parent, index, memory).map_err(refused(id))?;
            functions.push(made);
        }
        next += function.virtual_functions;
    }
    Ok(functions)
}
