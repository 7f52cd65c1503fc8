//! PCI functions as the host keeps them, and the TSM over them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};
use pcie::FunctionId;
use pcie::cap::PortType;
use pcie::doe::ObjectType;
use tdx_abi::connect::ids::SpdmId;
use tdx_host::doe::Mailbox;
use tdx_host::link::{BridgeStreams, KeySet, Place, PortStreams};
use tdx_host::sync::RawLock;
use tdx_host::traits::{HostBridge, Log, LogLevel, PciBus, PciFunction};
use tdx_host::tsm::{Dsm, FunctionFacts, Tsm, TsmClass, TsmError};

use crate::allocator::Leaks;
use crate::platform::Platform;

/// A lock that sleeps.
#[derive(Debug, Default)]
pub(crate) struct SleepLock {
    taken: Mutex<bool>,
    free: Condvar,
}

impl RawLock for SleepLock {
    fn lock(&self) {
        let mut taken = self.taken.lock();
        self.free.wait_while(&mut taken, |taken| *taken);
        *taken = true;
    }

    fn unlock(&self) {
        *self.taken.lock() = false;
        self.free.notify_one();
    }
}

/// The TSM of a host.
pub(crate) type HostTsm = Tsm<SleepLock, Vec<BridgeStreams>, Vec<PortStreams>>;

/// What readers see of a DSM while somebody else has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DsmState {
    pub(crate) tsm: Option<u32>,
    pub(crate) link: Option<LinkState>,
    pub(crate) last_error: Option<TsmError>,
}

/// What readers see of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) place: Place,
    pub(crate) stream_id: u8,
    pub(crate) key_set: KeySet,
    pub(crate) key_refreshes: u64,
    pub(crate) session: SpdmId,
    pub(crate) session_key_updates: u64,
    pub(crate) messages: u64,
    pub(crate) dev_info_bytes: usize,
}

impl DsmState {
    pub(crate) fn of(dsm: &Dsm<Leaks>) -> Self {
        let link = dsm.session().zip(dsm.stream()).zip(dsm.wire());
        let link = link.map(|((session, stream), wire)| LinkState {
            place: *stream.place(),
            stream_id: stream.id(),
            key_set: stream.key_set(),
            key_refreshes: stream.refreshes(),
            session: session.id(),
            session_key_updates: wire.key_updates(),
            messages: wire.messages(),
            dev_info_bytes: session.information_bytes(),
        });
        Self { tsm: dsm.tsm(), link, last_error: dsm.last_error() }
    }
}

/// The DSM of a device.
pub(crate) struct DsmSlot {
    /// Held while messages go to and fro, and nothing else is. Empty once the function was taken out:
    /// whoever waited for it finds nobody.
    pub(crate) dsm: Mutex<Option<Dsm<Leaks>>>,
    pub(crate) state: RwLock<DsmState>,
}

/// A function that was enumerated.
pub(crate) struct Function {
    pub(crate) facts: FunctionFacts,
    pub(crate) instance: u64,
    pub(crate) features: Vec<ObjectType>,
    /// For a function in which a DSM can answer.
    pub(crate) slot: Option<DsmSlot>,
    /// For another function: the connected DSM that manages it.
    pub(crate) managed_by: RwLock<Option<FunctionId>>,
}

impl Function {
    pub(crate) fn id(&self) -> FunctionId {
        self.facts.function.id
    }

    /// The state of its DSM, if it has one.
    pub(crate) fn state(&self) -> Option<DsmState> {
        self.slot.as_ref().map(|slot| slot.state.read().clone())
    }
}

/// Everything that the host keeps of PCI functions.
pub(crate) struct Devices {
    pub(crate) class: TsmClass,
    pub(crate) tsm: HostTsm,
    functions: RwLock<BTreeMap<FunctionId, Arc<Function>>>,
    /// Held while the TSM comes or goes.
    pub(crate) registration: Mutex<()>,
    /// Held while functions come or go.
    pub(crate) enumeration: Mutex<()>,
    instances: AtomicU64,
}

impl Devices {
    /// Enumerates all functions, and asks their mailboxes what they take.
    pub(crate) fn enumerate(platform: &Platform) -> Self {
        let mut found = Vec::new();
        platform.functions(&mut |function| {
            found.push(FunctionFacts::read(platform, function));
            ControlFlow::Continue(())
        });
        let mut bridges: Vec<HostBridge> = found.iter().map(|facts| facts.function.bridge).collect();
        bridges.sort();
        bridges.dedup();
        let bridges: Vec<BridgeStreams> = bridges.into_iter().map(BridgeStreams::new).collect();
        let root_ports = found.iter().filter(|facts| facts.port_type == Some(PortType::ROOT_PORT));
        let root_ports = root_ports.filter_map(|facts| streams_of(platform, &bridges, &facts.function));
        let root_ports = root_ports.collect();
        let devices = Self {
            class: TsmClass::new(),
            tsm: Tsm::new(SleepLock::default(), bridges, root_ports),
            functions: RwLock::default(),
            registration: Mutex::new(()),
            enumeration: Mutex::new(()),
            instances: AtomicU64::new(0),
        };
        for facts in found {
            devices.add(platform, facts);
        }
        devices
    }

    /// Takes a function in.
    pub(crate) fn add(&self, platform: &Platform, facts: FunctionFacts) -> Arc<Function> {
        let id = facts.function.id;
        let (mut features, mut for_spdm) = (Vec::new(), None);
        Mailbox::all(platform, id, |mut mailbox| {
            if let Err(error) = mailbox.discover(platform) {
                platform.log(LogLevel::Warning, format_args!("{id}: a DOE mailbox is left out: {error}"));
                return;
            }
            features.extend_from_slice(mailbox.types());
            if for_spdm.is_none() && mailbox.takes(ObjectType::SPDM) {
                for_spdm = Some(mailbox);
            }
        });
        features.sort();
        features.dedup();
        let endpoint = if facts.dsm_capable() {
            streams_of(platform, self.tsm.bridges(), &facts.function)
        } else {
            None
        };
        let slot = endpoint.map(|endpoint| {
            let dsm = Mutex::new(Some(Dsm::new(facts, for_spdm, endpoint)));
            DsmSlot { dsm, state: RwLock::default() }
        });
        let instance = self.instances.fetch_add(1, Ordering::Relaxed) + 1;
        let managed_by = RwLock::new(None);
        let function = Arc::new(Function { facts, instance, features, slot, managed_by });
        self.functions.write().insert(id, Arc::clone(&function));
        function
    }

    /// Forgets a function.
    pub(crate) fn remove(&self, id: FunctionId) -> Option<Arc<Function>> {
        self.functions.write().remove(&id)
    }

    /// A function.
    pub(crate) fn get(&self, id: FunctionId) -> Option<Arc<Function>> {
        self.functions.read().get(&id).cloned()
    }

    /// All functions, ascending.
    pub(crate) fn all(&self) -> Vec<Arc<Function>> {
        self.functions.read().values().cloned().collect()
    }
}

fn streams_of(platform: &Platform, bridges: &[BridgeStreams], function: &PciFunction) -> Option<PortStreams> {
    let bridge = bridges.iter().find(|bridge| bridge.bridge() == function.bridge)?;
    Some(PortStreams::scan(platform, function.id, bridge))
}
