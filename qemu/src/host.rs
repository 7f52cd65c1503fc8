//! Everything that the plugin keeps of one QEMU.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use parking_lot::Mutex;
use tdx_abi::PhysRange;
use tdx_image::{Image, ImageError};
use tdx_machine::{Event, LpIndex, Machine, PowerOn, Ram, SpecError};

use crate::exec::VmxState;
use crate::observe::Observe;
use crate::options::Options;
use crate::spec::{PlatformError, platform};
use crate::trace::{Trace, TraceError};

/// Takes a line for the user, without a line end.
pub type Report = fn(&str);

/// Why the plugin does not start. One line each.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The platform is refused.
    #[error("{0}")]
    Platform(#[from] PlatformError),
    /// The image of the module cannot be read.
    #[error("module image {}: {reason}", path.display())]
    ModuleUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: std::io::Error,
    },
    /// The file is no image of the module.
    #[error("module image {}: {}: {reason}; {}", path.display(), reason.name(), reason.advice())]
    ModuleRefused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: ImageError,
    },
    /// The machine cannot be switched on.
    #[error("{0}")]
    PowerOn(#[from] SpecError),
    /// The trace cannot be written.
    #[error("{0}")]
    Trace(#[from] TraceError),
}

/// The machine below the guest, with what the plugin itself remembers.
pub struct Host {
    /// The machine.
    pub machine: Machine,
    /// What CPUID told the guest.
    pub observe: Observe,
    pub(crate) vmx: VmxState,
    pub(crate) trace: Trace,
    report: Report,
    /// Warnings of the machine since power-on that were passed on.
    noted: Mutex<BTreeSet<String>>,
}

impl Host {
    /// Switches a machine on whose memory is the guest's RAM at `ranges`.
    pub fn new(
        options: &Options,
        ram: Box<dyn Ram>,
        ranges: &[PhysRange],
        vcpus: u32,
        report: Report,
    ) -> Result<Self, HostError> {
        let spec = platform(options, ranges, vcpus)?;
        let mut power = PowerOn::new(spec).seed(options.seed).over(ram);
        if let Some(path) = &options.module {
            let bytes = fs::read(path)
                .map_err(|reason| HostError::ModuleUnreadable { path: path.clone(), reason })?;
            Image::parse(&bytes).map_err(|reason| HostError::ModuleRefused { path: path.clone(), reason })?;
            power = power.module_image(bytes);
        }
        // Last, so that nothing is overwritten by a start that fails for another reason.
        let machine = power.switch_on()?;
        let trace = Trace::new(options.trace.as_deref(), report)?;
        let errata = machine.spec().errata();
        Ok(Self {
            observe: Observe::new(&machine),
            vmx: VmxState::new(machine.lps().len(), errata.seamret_invd_vmcs),
            trace,
            report,
            noted: Mutex::default(),
            machine,
        })
    }

    /// The guest is about to run. `exact_flags`: CF and ZF of a VMX instruction reach every
    /// instruction behind it, not conditional jumps only.
    pub fn started(&self, exact_flags: bool) {
        self.trace.power_on(&self.machine, exact_flags);
        self.note_events();
        for fault in self.machine.faults() {
            self.trace.note(&format!("fault {}: {}", fault.name(), fault.info().description));
        }
    }

    /// The guest was reset: power is cycled.
    pub fn reset(&self) {
        self.machine.power_cycle();
        self.vmx.reset();
        self.observe.reset();
        self.noted.lock().clear();
        self.trace.reset(&self.machine);
        self.note_events();
    }

    /// `lp` got INIT and SIPI: VMX is off and CR4.VMXE is clear.
    pub fn restarted(&self, lp: LpIndex) {
        self.machine.offline(lp);
        self.vmx.leave(lp);
        self.machine.online(lp);
    }

    /// Says something to the user.
    pub fn report(&self, line: &str) {
        (self.report)(line);
    }

    /// The guest reads how many KeyIDs are private: what it will not like is said now.
    pub(crate) fn guest_looks_at_tdx(&self) {
        if !self.observe.has_looked() {
            self.observe.look();
            self.complain();
        }
    }

    pub(crate) fn complain(&self) {
        for line in self.observe.complaints() {
            self.report(&line);
            self.trace.note(&line);
        }
    }

    /// Passes on what the machine has to say that no register shows.
    pub(crate) fn note_events(&self) {
        for event in self.machine.log() {
            let worth = event.is_warning()
                || matches!(event, Event::SeamMachineCheck { .. } | Event::LpShutdown { .. });
            let line = event.to_string();
            if worth && self.noted.lock().insert(line.clone()) {
                self.report(&line);
                self.trace.note(&line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tdx_abi::seamldr::Version;
    use tdx_image::HeaderVersion;
    use tdx_image::build::{self, ModuleSpec};

    use crate::testing::{host, try_host};

    fn refusal(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        let module = format!("module={}", file.path().display());
        let text = try_host(&[&module], 1).err().expect("refused").to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn an_image_is_the_module_from_power_on() {
        let version = Version::new(2, 0, 8);
        let image = build::image(&ModuleSpec::new(version, ""), HeaderVersion::V0x200).expect("built");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), image).expect("written");
        let (host, _) = host(&[&format!("module={}", file.path().display())], 1);
        let module = |host: &super::Host| host.machine.seam().module.map(|module| module.version);
        assert_eq!(module(&host), Some(version));
        host.reset();
        assert_eq!(module(&host), Some(version), "firmware loads it again");
    }

    #[test]
    fn a_file_that_is_no_image_is_refused_by_the_name_of_its_fault() {
        let text = refusal(b"short");
        assert!(text.starts_with("module image /") && text.contains(": image-too-short: "), "{text}");
        let text = refusal(&[0x7F; 9000]);
        assert!(text.contains(": not-an-image: "), "{text}");
        let text = try_host(&["module=/nowhere.bin"], 1).err().expect("refused").to_string();
        assert!(text.starts_with("module image /nowhere.bin: "), "{text}");
    }

    #[test]
    fn a_platform_that_is_refused_switches_nothing_on() {
        let text = try_host(&["platform=tiny"], 3).err().expect("refused").to_string();
        assert!(text.ends_with("`-smp 2,sockets=1,cores=2,threads=1`"), "{text}");
    }
}
