//! A host whose device and values a test sets.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};

use parking_lot::Mutex;
use pcie::FunctionId;
use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;
use tdx_host::traits::{CpuNumber, LogLevel};
use tdx_host::tsm::{Refresh, TsmError};
use tdx_host::{
    ConnectError, ConnectState, HostError, UpdateFailure, UpdateObserver, UpdatePhase, UpdateReport,
};
use tdx_platform::{LinkView, UeventRecord, UploadTarget, Uploader};
use tdxhost::api::{
    CpuFacts, ErrorFacts, HostFacts, HostSource, HostState, KeyIdFacts, KeyRangeFacts, LogLine, ModuleFacts,
    PhaseFacts, PhaseState, PlatformFacts, TdmrFacts, UpdateFacts,
};
use tdxhost::doctor::{MSRS, Snapshot};
use tdxhost::sysfs::{DeviceInstance, Errno, HostView, OfferedAttribute, PciView as _};

use crate::fake_pci::FakePci;

type Offer = (&'static str, u16, Result<&'static str, Errno>);

/// What a module with runtime update offers.
pub(crate) const UPDATABLE: [Offer; 3] = [
    ("version", 0o444, Ok("1.5.06")),
    ("seamldr_version", 0o400, Ok("1.5.02")),
    ("num_remaining_updates", 0o400, Ok("63")),
];

/// What a module without runtime update offers.
pub(crate) const FIXED: [Offer; 1] = [("version", 0o444, Ok("1.5.06"))];

/// A module whose updates a test lets end.
#[derive(Default)]
pub(crate) struct FakeModule {
    offered: AtomicBool,
    /// Images that came in.
    pub(crate) images: Mutex<Vec<Vec<u8>>>,
    /// How the next updates end; well, if nothing is said.
    pub(crate) ends: Mutex<Vec<HostError>>,
    /// Where an update waits for the test.
    gate: Mutex<Option<Receiver<()>>>,
    failure: Mutex<Option<UpdateFailure>>,
}

impl FakeModule {
    /// Updates wait until the sender says so, or is dropped.
    pub(crate) fn hold(&self) -> Sender<()> {
        let (go, gate) = mpsc::channel();
        *self.gate.lock() = Some(gate);
        go
    }
}

impl UploadTarget for FakeModule {
    fn takes_updates(&self) -> bool {
        self.offered.load(Ordering::SeqCst)
    }

    fn update(&self, image: &[u8], observer: &dyn UpdateObserver) -> Result<UpdateReport, HostError> {
        self.images.lock().push(image.to_vec());
        let end = self.ends.lock().pop();
        if !matches!(end, Some(HostError::UpdateLogFull)) {
            observer.phase_started(UpdatePhase::Shutdown);
            observer.phase_started(UpdatePhase::Install);
        }
        if let Some(gate) = &*self.gate.lock() {
            // Dropped by a test that has seen enough.
            let _ = gate.recv();
        }
        let Some(error) = end else {
            return Ok(UpdateReport {
                from: Version::new(1, 5, 6),
                to: Version::new(1, 5, 16),
                cpus: 4,
                was_down: false,
                install_sessions: 1,
                remaining_updates: Some(62),
                opted_in: Features0::default(),
                opt_in_lost: Features0::default(),
            });
        };
        let cpu = CpuNumber(3);
        *self.failure.lock() = Some(UpdateFailure { phase: UpdatePhase::Install, cpu, error });
        Err(error)
    }

    fn update_failure(&self) -> Option<UpdateFailure> {
        *self.failure.lock()
    }

    fn log(&self, _: LogLevel, _: fmt::Arguments<'_>) {}
}

pub(crate) struct FakeHost {
    device: Mutex<(u64, Option<Vec<Offer>>)>,
    pub(crate) updates: Arc<FakeModule>,
    uploader: Uploader,
    reads: AtomicU32,
    pub(crate) facts: Mutex<HostFacts>,
    pub(crate) has_module: bool,
    pub(crate) pci: FakePci,
}

impl FakeHost {
    /// A host whose device offers `attributes`.
    pub(crate) fn with_device(attributes: &[Offer]) -> Arc<Self> {
        let host = Arc::new(Self::bare(HostState::Ready, None, true));
        host.register(attributes);
        host
    }

    /// A host on which bring-up failed and no module is loaded.
    pub(crate) fn failed() -> Arc<Self> {
        let error = ErrorFacts {
            name: "seam-disabled".to_owned(),
            message: "SEAMRR is not enabled".to_owned(),
            blame: "platform".to_owned(),
            advice: "enable TDX in the firmware setup".to_owned(),
            status: Some("0xc000050500000000".to_owned()),
        };
        Arc::new(Self::bare(HostState::Failed, Some(error), false))
    }

    fn bare(state: HostState, error: Option<ErrorFacts>, has_module: bool) -> Self {
        let phase = |name: &str, total| PhaseFacts {
            name: name.to_owned(),
            state: if error.is_some() { PhaseState::Failed } else { PhaseState::Done },
            done: 4,
            total,
            milliseconds: 0.25,
        };
        let phases = vec![phase("lp-init", Some(4)), phase("metadata", None)];
        let updates = Arc::<FakeModule>::default();
        Self {
            device: Mutex::new((0, None)),
            uploader: Uploader::new(Arc::<FakeModule>::clone(&updates)),
            updates,
            reads: AtomicU32::new(0),
            facts: Mutex::new(HostFacts { state, phases, error, update: None }),
            has_module,
            pci: FakePci::default(),
        }
    }

    pub(crate) fn register(&self, attributes: &[Offer]) {
        let mut device = self.device.lock();
        device.0 += 1;
        device.1 = Some(attributes.to_vec());
        let offered = attributes.iter().any(|(name, ..)| *name == "num_remaining_updates");
        self.updates.offered.store(offered, Ordering::SeqCst);
    }

    pub(crate) fn remove_device(&self) {
        self.device.lock().1 = None;
        self.updates.offered.store(false, Ordering::SeqCst);
    }

    /// Waits until no update runs.
    pub(crate) fn wait(&self) {
        self.uploader.wait();
    }

    /// How often an attribute was asked of the device.
    pub(crate) fn reads(&self) -> u32 {
        self.reads.load(Ordering::Relaxed)
    }
}

impl HostView for FakeHost {
    fn device(&self) -> Option<DeviceInstance> {
        let device = self.device.lock();
        device.1.is_some().then_some(DeviceInstance(device.0))
    }

    fn attributes(&self) -> Vec<OfferedAttribute> {
        let device = self.device.lock();
        device
            .1
            .iter()
            .flatten()
            .map(|(name, mode, _)| OfferedAttribute { name: (*name).to_owned(), mode: *mode })
            .collect()
    }

    fn read_attribute(&self, name: &str) -> Result<String, Errno> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let device = self.device.lock();
        let offered = device.1.as_ref().ok_or(Errno::ENODEV)?;
        let (_, _, value) = offered.iter().find(|offer| offer.0 == name).ok_or(Errno::ENOENT)?;
        value.map(str::to_owned)
    }

    fn upload(&self) -> Option<&Uploader> {
        Some(&self.uploader)
    }

    fn cpu_signature(&self) -> u32 {
        0x806F8
    }

    fn cpus_present(&self) -> String {
        "0-3".to_owned()
    }

    fn cpus_online(&self) -> String {
        "0,2-3".to_owned()
    }
}

impl HostSource for FakeHost {
    fn platform(&self) -> PlatformFacts {
        PlatformFacts {
            simulated: true,
            name: "fake".to_owned(),
            description: "a host for tests".to_owned(),
            seed: 7,
            packages: 1,
            logical_processors: 4,
            memory_bytes: 4 << 30,
            keyids: KeyIdFacts { shared: 31, private: 32 },
            faults: vec!["no-vmx".to_owned()],
        }
    }

    fn host(&self) -> HostFacts {
        let update = self.uploader.last().as_ref().map(UpdateFacts::from);
        HostFacts { update, ..self.facts.lock().clone() }
    }

    fn module(&self) -> Option<ModuleFacts> {
        self.has_module.then(|| ModuleFacts {
            simulated: true,
            profile: "1.5.06".to_owned(),
            version: "1.5.06".to_owned(),
            state: "ready".to_owned(),
            initialised_processors: 4,
            configured_packages: 1,
            global_keyid: Some(32),
            keyids: vec![KeyRangeFacts { first: 32, last: 32, state: "reserved".to_owned() }],
            tdmrs: vec![TdmrFacts {
                base: "0x40000000".to_owned(),
                size_bytes: 1 << 30,
                initialised_bytes: 1 << 30,
                reserved_areas: 1,
                pamt_bytes: 4_206_592,
            }],
            seamldr_version: "1.5.02".to_owned(),
            remaining_updates: 63,
            calls: BTreeMap::from([("TDH.SYS.INIT".to_owned(), 1)]),
        })
    }

    fn cpus(&self) -> Vec<CpuFacts> {
        vec![CpuFacts {
            cpu: 0,
            package: 0,
            core: 0,
            thread: 0,
            x2apic_id: 0,
            node: 0,
            online: true,
            vmx: true,
        }]
    }

    fn hardware(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.cpu.flags.insert("vmx".to_owned());
        snapshot.set_msr(0, MSRS[0], 2);
        snapshot
    }

    fn connect_status(&self) -> ConnectState {
        if self.tsm().is_some() { ConnectState::On } else { ConnectState::Off(ConnectError::NotTried) }
    }

    fn links(&self) -> Vec<LinkView> {
        self.pci.links()
    }

    fn uevents_after(&self, after: u64) -> Vec<UeventRecord> {
        self.pci.uevents_after(after)
    }

    fn refresh(&self, device: FunctionId, what: Refresh) -> Result<(), TsmError> {
        self.pci.refresh(device, what)
    }

    fn log(&self) -> Vec<LogLine> {
        vec![LogLine { level: "info".to_owned(), text: "TDX module initialized".to_owned() }]
    }
}
