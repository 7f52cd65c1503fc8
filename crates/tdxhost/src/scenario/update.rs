//! Steps that replace the module: what is installed, and what goes wrong on the way.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use serde::Deserialize;
use tdx_host::update::UpdatePhase;
use tdx_host::{UpdateObserver, UpdateOptions};
use tdx_image::container::word_sum;
use tdx_image::{HeaderVersion, Svn, build};
use tdx_platform::TdxHost;

use super::phases::UpdateClock;
use super::report::PhaseReport;
use crate::update::build::spec_for;
use crate::update::candidate::read_image;
use crate::update::version;

/// What an `update` step installs: an image that is built for it and signed with the test key, or a file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UpdateStep {
    /// Version of the image, such as `1.5.08`.
    pub version: Option<String>,
    /// Profile that the module plays; that of the version unless given.
    pub profile: Option<String>,
    /// An image file instead.
    pub file: Option<std::path::PathBuf>,
    /// Header of the file: `0x200` unless given.
    pub header: Option<String>,
    /// SVN as [major, minor] instead of the profile's.
    pub svn: Option<[u8; 2]>,
    /// CPUID.1:EAX values instead of the profile's.
    pub cpus: Option<Vec<u32>>,
    /// Pages that the memory pool of its extensions needs, instead of the profile's.
    pub pool_pages: Option<u32>,
    /// Devices that somebody begins to connect when the first phase begins; they must be connected at the end.
    #[serde(default)]
    pub meanwhile: Vec<String>,
    /// What is wrong with it.
    pub damage: Option<Damage>,
    /// Try it although an x2APIC id is beyond what P-SEAMLDR counts.
    #[serde(default)]
    pub ignore_x2apic_limit: bool,
    /// How often it is installed, one after the other; once unless given.
    pub times: Option<NonZeroU32>,
    /// Name of the error in which the step must end.
    pub expect: Option<String>,
}

impl UpdateStep {
    /// The bytes to install, or why there are none.
    pub fn image(&self) -> Result<Vec<u8>, String> {
        let mut file = match (&self.file, &self.version) {
            (Some(_), None) if self.says_how_to_build() => {
                return Err(
                    "`file` is taken as it is: what an image is built from goes with `version`".into()
                );
            }
            (Some(path), None) => read_image(path).map_err(|error| format!("{}: {error}", path.display()))?,
            (None, Some(version)) => self.build(version)?,
            _ => return Err("give either `version` or `file`".into()),
        };
        match self.damage {
            None | Some(Damage::Relocation) => {}
            Some(Damage::Cut) => file.truncate(file.len().saturating_sub(1)),
            Some(Damage::Checksum) => flip(&mut file, CHECKSUM_AT),
            Some(Damage::Signature) => flip_and_sum(&mut file, SIGNATURE_AT),
            Some(Damage::Module) => flip_and_sum(&mut file, MODULE_AT),
        }
        Ok(file)
    }

    /// The options that the step asks for.
    pub(super) fn options(&self) -> UpdateOptions {
        UpdateOptions { ignore_x2apic_limit: self.ignore_x2apic_limit, ..UpdateOptions::default() }
    }

    fn says_how_to_build(&self) -> bool {
        self.profile.is_some()
            || self.header.is_some()
            || self.svn.is_some()
            || self.cpus.is_some()
            || self.pool_pages.is_some()
            || self.damage == Some(Damage::Relocation)
    }

    fn build(&self, version: &str) -> Result<Vec<u8>, String> {
        let version = version::version(version).map_err(|error| error.to_string())?;
        let spec = spec_for(version, self.profile.as_deref());
        let mut spec = spec.map_err(|error| error.to_string())?;
        if let Some([major, minor]) = self.svn {
            spec.svn = Svn { major, minor };
        }
        if let Some(cpus) = &self.cpus {
            spec.cpus.clone_from(cpus);
        }
        spec.pool_pages = self.pool_pages;
        spec.relocation_outside = self.damage == Some(Damage::Relocation);
        let header = self.header.as_deref().map_or(Ok(HeaderVersion::V0x200), str::parse);
        let header = header.map_err(|error| error.to_string())?;
        build::image(&spec, header).map_err(|error| error.to_string())
    }
}

/// Places in a file of either header, whose SIGSTRUCT has one page.
const CHECKSUM_AT: usize = 2;
const SIGNATURE_AT: usize = 0x1000 + 0x204;
const MODULE_AT: usize = 0x2000 + 0x1800;

fn flip(file: &mut [u8], at: usize) {
    if let Some(byte) = file.get_mut(at) {
        *byte ^= 1;
    }
}

/// Inverts a bit and makes the checksum right again.
fn flip_and_sum(file: &mut [u8], at: usize) {
    flip(file, at);
    if let Some(field) = file.get_mut(CHECKSUM_AT..CHECKSUM_AT + 2) {
        field.fill(0);
    }
    let sum = word_sum(file);
    if let Some(field) = file.get_mut(CHECKSUM_AT..CHECKSUM_AT + 2) {
        field.copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    }
}

/// What is wrong with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// The file is cut short.
    Cut,
    /// One bit of the header's checksum.
    Checksum,
    /// One bit of the signature; the checksum is right.
    Signature,
    /// One bit of the module; the checksum is right.
    Module,
    /// A relocation points out of the module; signature and checksum are right.
    Relocation,
}

/// A phase by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseName {
    /// TDH.SYS.SHUTDOWN.
    Shutdown,
    /// SEAMLDR.INSTALL.
    Install,
    /// TDH.SYS.INIT and TDH.SYS.LP.INIT.
    Init,
    /// TDH.SYS.UPDATE.
    Update,
}

impl From<PhaseName> for UpdatePhase {
    fn from(name: PhaseName) -> Self {
        match name {
            PhaseName::Shutdown => Self::Shutdown,
            PhaseName::Install => Self::Install,
            PhaseName::Init => Self::Init,
            PhaseName::Update => Self::Update,
        }
    }
}

impl PhaseName {
    /// The fault that lets the call of the phase on `cpu` fail, once and for good: `status`, or one that
    /// no retry mends.
    pub fn fault(self, cpu: u32, status: Option<&str>) -> toml::Value {
        let (leaf, hopeless) = match self {
            Self::Shutdown => ("TDH.SYS.SHUTDOWN", "TDX_OPERAND_INVALID"),
            Self::Install => ("SEAMLDR.INSTALL", "EUNSPECERR"),
            Self::Init => ("TDH.SYS.LP.INIT", "TDX_SYS_STATE_INCORRECT"),
            Self::Update => ("TDH.SYS.UPDATE", "TDX_SYS_INVALID_HANDOFF"),
        };
        let call = [
            ("leaf", leaf.into()),
            ("lp", i64::from(cpu).into()),
            ("status", status.unwrap_or(hopeless).into()),
            ("times", 1.into()),
        ];
        table([("seamcall-fails", table(call))])
    }
}

fn table<const N: usize>(entries: [(&str, toml::Value); N]) -> toml::Value {
    toml::Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// What ends the host when an update gets to a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel crashes.
    Crash,
    /// The machine loses power.
    PowerLoss,
}

/// Times the phases of an update, and strikes once when it begins the one that is named.
pub(super) struct Strike<'a> {
    host: &'a TdxHost,
    clock: UpdateClock,
    end: Option<(UpdatePhase, End)>,
    struck: AtomicBool,
    /// Who waits for the first phase.
    waiting: Mutex<Vec<Sender<()>>>,
}

impl<'a> Strike<'a> {
    /// Ends `host` as `end` says; `None` lets the update be.
    pub(super) fn new(host: &'a TdxHost, end: Option<(UpdatePhase, End)>) -> Self {
        let (clock, struck) = (UpdateClock::default(), AtomicBool::new(false));
        Self { host, clock, end, struck, waiting: Mutex::new(Vec::new()) }
    }

    /// What hears of the first phase.
    pub(super) fn signal(&self) -> Receiver<()> {
        let (sender, receiver) = channel();
        self.waiting.lock().push(sender);
        receiver
    }

    /// The update is over: whoever still waits waits in vain.
    pub(super) fn hang_up(&self) {
        self.waiting.lock().clear();
    }

    /// The phases that went by.
    pub(super) fn phases(self, cpus: u32) -> Vec<PhaseReport> {
        self.clock.finish(cpus)
    }

    /// True once it has struck.
    pub(super) fn has_struck(&self) -> bool {
        self.struck.load(Ordering::Acquire)
    }
}

impl UpdateObserver for Strike<'_> {
    fn phase_started(&self, phase: UpdatePhase) {
        self.clock.phase_started(phase);
        for waiting in self.waiting.lock().drain(..) {
            // It waits for nothing else.
            let _ = waiting.send(());
        }
        let Some((at, end)) = self.end else { return };
        if at != phase || self.struck.swap(true, Ordering::AcqRel) {
            return;
        }
        match end {
            End::Crash => self.host.crash(),
            End::PowerLoss => self.host.platform().machine().cut_power(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tdx_image::verify;
    use tdx_image::{Image, ImageError};
    use tdx_machine::Fault;

    use super::*;

    fn built(damage: Option<Damage>) -> Vec<u8> {
        UpdateStep { version: Some("1.5.34".into()), damage, ..UpdateStep::default() }.image().unwrap()
    }

    #[test]
    fn an_undamaged_image_is_the_release_that_its_version_names() {
        let file = built(None);
        let image = Image::parse(&file).unwrap();
        assert_eq!(image.header(), HeaderVersion::V0x200);
        assert!(verify::image(&image).is_ok());
        assert_eq!(image.sigstruct().svn(), Svn { major: 1, minor: 15 });
        assert!(image.sigstruct().covers_cpu(0x806F8));
    }

    #[test]
    fn each_damage_is_found_where_it_is_and_nowhere_before() {
        assert!(matches!(Image::parse(&built(Some(Damage::Cut))), Err(ImageError::LengthMismatch { .. })));
        assert!(matches!(
            Image::parse(&built(Some(Damage::Checksum))),
            Err(ImageError::ChecksumWrong { .. })
        ));
        for (damage, name) in
            [(Damage::Signature, "image-signature-wrong"), (Damage::Module, "image-module-hash-wrong")]
        {
            let file = built(Some(damage));
            let image = Image::parse(&file).unwrap();
            assert_eq!(verify::image(&image).unwrap_err().name(), name);
        }
        let file = built(Some(Damage::Relocation));
        let image = Image::parse(&file).unwrap();
        assert!(verify::image(&image).is_ok());
        assert!(tdx_image::elf::check_relocations(image.module()).is_err());
    }

    #[test]
    fn a_step_that_names_no_image_or_two_is_refused() {
        let both = UpdateStep {
            version: Some("1.5.34".into()),
            file: Some("image".into()),
            ..UpdateStep::default()
        };
        for step in [UpdateStep::default(), both] {
            assert_eq!(step.image().unwrap_err(), "give either `version` or `file`");
        }
        let file = || UpdateStep { file: Some("image".into()), ..UpdateStep::default() };
        for step in [
            UpdateStep { profile: Some("1.5.34".into()), ..file() },
            UpdateStep { header: Some("0x100".into()), ..file() },
            UpdateStep { svn: Some([1, 15]), ..file() },
            UpdateStep { cpus: Some(vec![0x806F0]), ..file() },
            UpdateStep { pool_pages: Some(1), ..file() },
            UpdateStep { damage: Some(Damage::Relocation), ..file() },
        ] {
            assert!(step.image().unwrap_err().starts_with("`file` is taken as it is"), "{step:?}");
        }
        assert!(toml::from_str::<UpdateStep>("version = '1.5.34'\ntimes = 0").is_err());
        for version in ["1.5", "9.9.99"] {
            let step = UpdateStep { version: Some(version.into()), ..UpdateStep::default() };
            assert!(step.image().unwrap_err().contains(version));
        }
    }

    #[test]
    fn the_failure_of_each_phase_is_a_fault_of_the_catalogue() {
        for phase in [PhaseName::Shutdown, PhaseName::Install, PhaseName::Init, PhaseName::Update] {
            for status in [None, Some("vmfailinvalid"), Some("0xc000010000000000")] {
                let fault: Result<Fault, _> = phase.fault(3, status).try_into();
                assert!(matches!(fault, Ok(Fault::SeamcallFails { lp: 3, times: 1, .. })), "{fault:?}");
            }
            let fault: Result<Fault, _> = phase.fault(3, Some("no-status")).try_into();
            assert!(fault.is_err());
        }
    }
}
