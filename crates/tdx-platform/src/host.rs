//! The host side of one boot, with one method per walk.

use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use tdx_abi::features::Features0;
use tdx_abi::metadata::FieldId;
use tdx_abi::seamldr::{SeamldrInfo, Version};
use tdx_abi::{KeyId, PhysRange};
use tdx_host::cpu::CpuSlot;
use tdx_host::device::{Attribute, TdxHostDevice};
use tdx_host::memory::MemoryBlock;
use tdx_host::seamcall::SeamcallError;
use tdx_host::sync::Spin;
use tdx_host::sysinfo::SysInfo;
use tdx_host::traits::{CpuNumber, CpuPin, Cpus};
use tdx_host::vmx::VmxClient;
use tdx_host::{
    BringUpOptions, BringUpReport, ConnectState, HostError, HostMemory, HostState, Lifecycle, Preflight,
    Progress, SuspendKind, TdmrRules, UpdateFailure, UpdateObserver, UpdateOptions, UpdateReport,
};
use tdx_image::Image;

use crate::allocator::{Leaks, PageAccounts};
use crate::platform::{Platform, lp};
use crate::tsm::Devices;

/// Room for memory blocks. Maps of real machines have some dozens.
const MAX_MEMORY_BLOCKS: usize = 16_384;

/// What the embedder chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostOptions {
    /// How TDMRs are made.
    pub tdmr_rules: TdmrRules,
    /// Add-on features to switch on where the module offers them, besides those that the host supports.
    pub opt_in: Features0,
    /// Add-on features to leave off.
    pub disabled: Features0,
    /// Take IOMMUs into trusted mode with the device's appearance, if the module has TDX Connect.
    pub connect: bool,
    /// IOMMU and PCI are up by the time of bring-up, so that the device appears with it. Otherwise
    /// [`TdxHost::platform_is_ready`] gives the signal.
    pub platform_ready: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            tdmr_rules: TdmrRules::default(),
            opt_in: Features0::default(),
            disabled: Features0::default(),
            connect: true,
            platform_ready: true,
        }
    }
}

/// A TDMR, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdmrSummary {
    /// The memory.
    pub range: PhysRange,
    /// Where its PAMT lies.
    pub pamt: Option<PhysRange>,
    /// What stays with the host.
    pub reserved: Vec<PhysRange>,
}

/// The state of the host side at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// Where in its life it is.
    pub lifecycle: Lifecycle,
    /// Possible CPUs.
    pub cpus_possible: u32,
    /// CPUs that are online.
    pub cpus_online: u32,
    /// CPUs that ran TDH.SYS.LP.INIT.
    pub cpus_initialised: u32,
    /// CPUs in VMX operation.
    pub cpus_in_vmx: u32,
    /// Version of the module; none before it was read, and while no module runs.
    pub version: Option<Version>,
    /// TDX_FEATURES0, as long as there is a version.
    pub features0: Option<Features0>,
    /// The module's own KeyID, once the split is known.
    pub global_keyid: Option<KeyId>,
    /// KeyIDs for TDs.
    pub guest_keyids: u32,
    /// KeyIDs that TDs have.
    pub guest_keyids_in_use: u32,
    /// True while the device is there.
    pub device_present: bool,
    /// What bring-up did, if it succeeded.
    pub report: Option<BringUpReport>,
    /// What the last update did that succeeded.
    pub last_update: Option<UpdateReport>,
    /// Where the last update stopped, if it reached its lockstep and failed.
    pub update: Option<UpdateFailure>,
    /// Why the last walk failed.
    pub last_error: Option<HostError>,
    /// Where the pages are.
    pub pages: PageAccounts,
    /// Whether TDX Connect works.
    pub connect: ConnectState,
}

/// How the last walk ended.
#[derive(Debug, Default)]
struct Outcome {
    report: Option<BringUpReport>,
    last_update: Option<UpdateReport>,
    last_error: Option<HostError>,
}

/// The host side of one boot. After [`Platform::power_cycle`] a new one is made.
pub struct TdxHost {
    platform: Arc<Platform>,
    options: HostOptions,
    state: HostState<Box<[CpuSlot]>, Spin>,
    memory: Mutex<Box<HostMemory<Vec<MemoryBlock>, Leaks>>>,
    device: TdxHostDevice,
    outcome: Mutex<Outcome>,
    /// Held over an update, so that an orderly shutdown waits for its end.
    update: Mutex<()>,
    /// Held while Connect as a whole is switched on or off: the TSM comes and goes with it.
    pub(crate) connect_walk: Mutex<()>,
    pub(crate) devices: OnceLock<Devices>,
}

impl TdxHost {
    /// A host on which nothing happened yet.
    pub fn new(platform: Arc<Platform>, options: HostOptions) -> Self {
        let cpus = (0..platform.possible()).map(|_| CpuSlot::new()).collect();
        let device = TdxHostDevice::new();
        if options.platform_ready {
            device.platform_is_ready();
        }
        let blocks = platform.memory().len().min(MAX_MEMORY_BLOCKS);
        Self {
            platform,
            options,
            state: HostState::new(cpus, Spin::default()),
            memory: Mutex::new(Box::new(HostMemory::new(vec![MemoryBlock::default(); blocks]))),
            device,
            outcome: Mutex::new(Outcome::default()),
            update: Mutex::new(()),
            connect_walk: Mutex::new(()),
            devices: OnceLock::new(),
        }
    }

    /// The platform.
    pub fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The state that is shared between CPUs: KeyIDs, metadata, VMX references.
    pub fn state(&self) -> &HostState<Box<[CpuSlot]>, Spin> {
        &self.state
    }

    pub(crate) const fn options(&self) -> &HostOptions {
        &self.options
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Box<HostMemory<Vec<MemoryBlock>, Leaks>>> {
        self.memory.lock()
    }

    fn note<T>(&self, result: Result<T, HostError>) -> Result<T, HostError> {
        if let Err(error) = &result {
            self.outcome.lock().last_error = Some(*error);
        }
        result
    }

    /// Checks the platform. Done by [`Self::bring_up`] if it was not called.
    pub fn early_init(&self) -> Result<(), HostError> {
        self.note(self.state.early_init(&*self.platform))
    }

    /// Takes the module from power-on to ready, and the device into being if the platform is ready.
    pub fn bring_up(&self, progress: &dyn Progress) -> Result<BringUpReport, HostError> {
        self.early_init()?;
        let HostOptions { tdmr_rules, opt_in, disabled, .. } = self.options;
        let options = BringUpOptions { tdmr_rules, opt_in, disabled };
        let result = {
            let _no_hotplug = self.platform.hotplug.read();
            let mut memory = self.memory.lock();
            self.state.bring_up(&*self.platform, &mut memory, &options, progress)
        };
        let report = self.note(result)?;
        *self.outcome.lock() = Outcome { report: Some(report), ..Outcome::default() };
        if self.options.platform_ready {
            self.note(self.device.probe(&self.state, &*self.platform))?;
            self.start_connect();
        }
        Ok(report)
    }

    /// Replaces the module by that of the file `image`.
    ///
    /// `observer` may ask for the status, crash the host or cut the machine's power. It must not wait for
    /// anything that runs on a CPU, such as a read of the device: all CPUs wait for it.
    pub fn update(
        &self,
        image: &[u8],
        options: &UpdateOptions,
        observer: &dyn UpdateObserver,
    ) -> Result<UpdateReport, HostError> {
        let report = self.note(self.try_update(image, options, observer))?;
        let mut outcome = self.outcome.lock();
        outcome.last_update = Some(report);
        outcome.last_error = None;
        Ok(report)
    }

    fn try_update(
        &self,
        image: &[u8],
        options: &UpdateOptions,
        observer: &dyn UpdateObserver,
    ) -> Result<UpdateReport, HostError> {
        let image = Image::parse(image)?;
        let Some(_alone) = self.update.try_lock() else {
            return Err(if self.state.is_going_down() {
                HostError::GoingDown
            } else {
                HostError::UpdateRunning
            });
        };
        let ended = self.state.update(&*self.platform, &image, options, observer);
        if matches!(self.state.connect_state(), ConnectState::Dead(_)) {
            self.tsm_unregister();
        }
        ended
    }

    /// Judges whether the module can be replaced by that of the file `image`, without touching it. `refused`
    /// is told every reason that speaks against it; the error is the first of them.
    pub fn preflight(
        &self,
        image: &[u8],
        options: &UpdateOptions,
        refused: &mut dyn FnMut(HostError),
    ) -> Result<Preflight, HostError> {
        match Image::parse(image) {
            Ok(image) => self.state.preflight(&*self.platform, &image, options, refused),
            Err(reason) => {
                let error = HostError::from(reason);
                refused(error);
                Err(error)
            }
        }
    }

    /// IOMMU and PCI are up: the device appears if the module is ready.
    pub fn platform_is_ready(&self) -> Result<(), HostError> {
        self.device.platform_is_ready();
        self.note(self.device.probe(&self.state, &*self.platform))?;
        self.start_connect();
        Ok(())
    }

    /// The device, while it is there.
    pub fn device(&self) -> Option<DeviceView<'_>> {
        self.device.is_present().then_some(DeviceView { host: self })
    }

    /// Takes the device away, and TDX Connect with it; waits for its readers.
    pub fn remove_device(&self) {
        self.connect_exit();
        self.device.remove();
    }

    /// The module's metadata; `None` before it was read, and while no module runs.
    pub fn sysinfo(&self) -> Option<SysInfo> {
        self.state.sysinfo()
    }

    /// SEAMLDR_INFO, asked of P-SEAMLDR.
    pub fn seamldr_info(&self) -> Result<SeamldrInfo, HostError> {
        self.note(self.state.seamldr().info(&*self.platform, &self.state.port(&*self.platform)))
    }

    /// One TDH.SYS.RD on the CPU of `pin`.
    pub fn sys_rd(&self, pin: &CpuPin<'_>, field: FieldId) -> Result<u64, SeamcallError> {
        self.state.port(&*self.platform).sys_rd(pin, field)
    }

    /// Takes `cpu` offline.
    pub fn cpu_offline(&self, cpu: CpuNumber) -> Result<(), HostError> {
        let _alone = self.platform.hotplug.write();
        let gone = self
            .state
            .may_go_offline(&*self.platform, cpu)
            .and_then(|()| CpuPin::enter(cpu, |pin| self.state.cpu_goes_offline(&*self.platform, pin)));
        self.note(gone)?;
        self.platform.machine().offline(lp(cpu));
        Ok(())
    }

    /// Brings `cpu` online; it stays offline if the module does not take it.
    pub fn cpu_online(&self, cpu: CpuNumber) -> Result<(), HostError> {
        let _alone = self.platform.hotplug.write();
        if cpu.0 >= self.platform.possible() {
            return self.note(Err(HostError::UnknownCpu { cpu }));
        }
        if self.platform.is_online(cpu) {
            return Ok(());
        }
        self.platform.machine().online(lp(cpu));
        let came = CpuPin::enter(cpu, |pin| self.state.cpu_came_online(&*self.platform, pin));
        if came.is_err() {
            self.platform.machine().offline(lp(cpu));
        }
        self.note(came)
    }

    /// Sleeps. Suspend-to-idle keeps everything as it is.
    pub fn suspend(&self, kind: SuspendKind) -> Result<(), HostError> {
        self.note(self.state.may_suspend(kind))
    }

    /// Wakes up: nothing was lost, as only suspend-to-idle goes with an initialised module.
    pub fn resume(&self) -> Result<(), HostError> {
        if self.state.is_going_down() { self.note(Err(HostError::GoingDown)) } else { Ok(()) }
    }

    /// Judges memory that is about to go online.
    pub fn memory_may_go_online(&self, range: PhysRange) -> Result<(), HostError> {
        let memory = self.memory.lock();
        let judged = self.state.memory_may_go_online(&memory, range);
        drop(memory);
        self.note(judged)
    }

    /// Ends the module in order. The device goes first; an update that runs ends before.
    pub fn shutdown(&self) -> Result<(), HostError> {
        let _no_update = self.update.lock();
        let _no_connect = self.connect_walk.lock();
        self.tsm_unregister();
        self.device.remove();
        let result = {
            let mut memory = self.memory.lock();
            self.state.shutdown(&*self.platform, &mut memory)
        };
        self.note(result)
    }

    /// Ends everything as a crash does: takes no lock, may interrupt any other walk.
    pub fn crash(&self) {
        self.state.crash();
        for cpu in (0..self.platform.possible()).map(CpuNumber) {
            CpuPin::enter(cpu, |pin| self.state.crash_on_cpu(&*self.platform, pin));
        }
    }

    /// A number for another user of VMX operation.
    pub fn register_vmx_client(&self) -> Result<VmxClient, HostError> {
        self.note(self.state.vmx_clients().register())
    }

    /// Gives a number back; refused while the client holds references.
    pub fn unregister_vmx_client(&self, client: VmxClient) -> Result<(), HostError> {
        self.note(self.state.vmx_clients().unregister(self.state.cpus(), client))
    }

    /// Takes a VMX reference on every online CPU. After an error none is held.
    pub fn vmx_get_everywhere(&self, client: VmxClient) -> Result<(), HostError> {
        let vmx = self.state.vmx(&*self.platform);
        let taken = Mutex::new(Vec::new());
        let result = self.platform.on_each_cpu(&|pin| {
            vmx.get(pin, client)?;
            taken.lock().push(pin.cpu());
            Ok(())
        });
        if result.is_err() {
            let taken = taken.into_inner();
            self.platform.on_cpus(&taken, &|pin| vmx.put(pin, client))?;
        }
        self.note(result)
    }

    /// Gives a VMX reference back on every online CPU.
    pub fn vmx_put_everywhere(&self, client: VmxClient) -> Result<(), HostError> {
        let vmx = self.state.vmx(&*self.platform);
        self.note(self.platform.on_each_cpu(&|pin| vmx.put(pin, client)))
    }

    /// The TDMRs.
    pub fn tdmrs(&self) -> Vec<TdmrSummary> {
        let memory = self.memory.lock();
        let summary = |tdmr: &tdx_host::tdmr::Tdmr<Leaks>| TdmrSummary {
            range: tdmr.range(),
            pamt: tdmr.pamt(),
            reserved: tdmr.reserved().to_vec(),
        };
        memory.tdmrs.iter().map(summary).collect()
    }

    /// Both of the same moment: a host that is ready has the version of the module that runs.
    fn lifecycle_and_info(&self) -> (Lifecycle, Option<SysInfo>) {
        loop {
            let lifecycle = self.state.lifecycle();
            let info = self.state.sysinfo();
            // An update may have begun or ended between, or even both.
            let between = lifecycle == Lifecycle::Ready && info.is_none();
            if self.state.lifecycle() == lifecycle && !between {
                return (lifecycle, info);
            }
            std::hint::spin_loop();
        }
    }

    /// The state at this moment.
    pub fn status(&self) -> HostStatus {
        let (lifecycle, info) = self.lifecycle_and_info();
        let count = |wanted: fn(&CpuSlot) -> bool| {
            u32::try_from(self.state.cpus().iter().filter(|slot| wanted(slot)).count()).unwrap_or(u32::MAX)
        };
        let outcome = self.outcome.lock();
        HostStatus {
            lifecycle,
            cpus_possible: self.platform.possible(),
            cpus_online: u32::try_from(self.platform.online_cpus().len()).unwrap_or(u32::MAX),
            cpus_initialised: count(CpuSlot::lp_initialised),
            cpus_in_vmx: count(CpuSlot::vmx_on),
            version: info.map(|info| info.version()),
            features0: info.map(|info| info.features0()),
            global_keyid: self.state.keyids().global(),
            guest_keyids: self.state.keyids().guest_count(),
            guest_keyids_in_use: self.state.keyids().in_use(),
            device_present: self.device.is_present(),
            report: outcome.report,
            last_update: outcome.last_update,
            update: self.state.update_failure(),
            last_error: outcome.last_error,
            pages: self.platform.page_accounts(),
            connect: self.state.connect_state(),
        }
    }
}

/// The `tdx_host` device of a [`TdxHost`].
///
/// The device may go while a view exists; reads then fail with `device-gone`.
#[derive(Clone, Copy)]
pub struct DeviceView<'a> {
    host: &'a TdxHost,
}

impl DeviceView<'_> {
    /// The attributes that it has.
    pub fn attributes(&self) -> impl Iterator<Item = &'static Attribute> {
        self.host.device.attributes()
    }

    /// The value of an attribute with its newline. Waits for the end of a lockstep, in which nobody else
    /// runs.
    pub fn read(&self, name: &str) -> Result<String, HostError> {
        let _between_locksteps = self.host.platform.hotplug.read_recursive();
        let mut buffer = [0; 4096];
        let size = self.host.device.read(&self.host.state, &*self.host.platform, name, &mut buffer)?;
        Ok(String::from_utf8_lossy(buffer.get(..size).unwrap_or_default()).into_owned())
    }
}
