//! Boots with an image of the user's, such as a module that Intel published: as firmware's module, and as the target
//! of an update.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tdx_image::build::wrap;
use tdx_image::{HeaderVersion, Image, Sigstruct};
use tdx_linux_guest::plan::{Attributes, Expected, Outcome, Step};
use tdx_machine::spec::CpuKind;
use tdx_machine::{PlatformSpec, PowerOn, presets};
use tdx_module::profile::{self, Profile};

use super::boots::{Boot, update_to};
use super::machine::TRACE;
use super::trace::Refusal;

/// A CPU that a virtual machine can be here.
#[derive(Clone, Copy)]
struct Cpu {
    kind: CpuKind,
    /// CPUID.1.EAX.
    id: u32,
    /// What makes QEMU's CPU this one.
    properties: &'static str,
    /// False: it has the erratum for which Linux hides everything of P-SEAMLDR.
    updates: bool,
}

/// Those, the ones without erratum first.
const CPUS: [Cpu; 3] = [
    Cpu { kind: CpuKind::GraniteRapids, id: 0xA06D1, properties: "", updates: true },
    Cpu { kind: CpuKind::SierraForest, id: 0xA06F3, properties: ",model=175,stepping=3", updates: true },
    Cpu { kind: CpuKind::SapphireRapids, id: 0x806F8, properties: ",model=143,stepping=8", updates: false },
];

/// The boots of one image.
pub(super) fn boots(path: &Path) -> Result<Vec<Boot>> {
    let file = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    of_file(&folder_name(path), &file).with_context(|| format!("{} cannot be used", path.display()))
}

/// The name of a file as a part of a folder's name.
fn folder_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

fn of_file(name: &str, file: &[u8]) -> Result<Vec<Boot>> {
    let image = Image::parse(file).map_err(|reason| anyhow::anyhow!("{reason}; {}", reason.advice()))?;
    let sigstruct = image.sigstruct();
    let Some(cpu) = CPUS.into_iter().find(|cpu| sigstruct.covers_cpu(cpu.id)) else {
        bail!(
            "it is for none of the CPUs that a virtual machine can be here (CPUID.1.EAX 0xa06dx, 0xa06fx, 0x806fx)"
        );
    };
    let played = played(cpu.kind, file)?;
    let mut boots = vec![at_power_on(name, &played, cpu, file)?];
    if let Some(base) = base(sigstruct, &played).filter(|_| cpu.updates) {
        // Linux takes the newer header only; what is behind it is the same.
        let target = wrap(HeaderVersion::V0x200, sigstruct, image.module())
            .map_err(|reason| anyhow::anyhow!("{reason}; {}", reason.advice()))?;
        boots.push(as_target(name, &played, base, cpu, target)?);
    }
    Ok(boots)
}

/// A platform of two LPs that boots with this profile.
fn platform(kind: CpuKind, profile: Option<&str>) -> Result<PlatformSpec> {
    let preset = presets::find("tiny").context("there is no platform named tiny")?;
    let mut spec = preset.spec().context("read the platform tiny")?;
    spec.cpu.kind = kind;
    spec.chaos.busy = 0;
    if let Some(profile) = profile {
        profile.clone_into(&mut spec.module.profile);
    }
    Ok(spec)
}

/// What the machine makes of an image.
struct Played {
    version: String,
    profile: &'static Profile,
}

impl Played {
    /// Linux 7.3 reads MAX_VCPUS_PER_TD, and takes no module that does not have it.
    fn is_for_linux(&self) -> bool {
        is_for_linux(self.profile)
    }

    /// The answers that its boots get. Linux calls TDH.SYS.DISABLE whether it is there or not.
    fn refusals(&self) -> Vec<Refusal> {
        let has_disable = self.profile.leaves.iter().any(|leaf| leaf.0 == SYS_DISABLE);
        if !self.is_for_linux() {
            vec![Refusal::of("TDH.SYS.RD", "METADATA_FIELD_ID_INCORRECT")]
        } else if has_disable {
            Vec::new()
        } else {
            vec![Refusal::of("TDH.SYS.DISABLE", "OPERAND_INVALID")]
        }
    }
}

/// Number of TDH.SYS.DISABLE.
const SYS_DISABLE: u16 = 69;

fn is_for_linux(profile: &Profile) -> bool {
    profile.max_vcpus_per_td.is_some()
}

/// What a platform with this image as firmware's module has.
fn played(kind: CpuKind, file: &[u8]) -> Result<Played> {
    let machine = PowerOn::new(platform(kind, None)?).module_image(file).switch_on()?;
    let module = machine.seam().module.context("no module comes of it")?;
    Ok(Played { version: module.version.to_string(), profile: module.profile })
}

/// The release that Linux updates to an image: the newest published one before it, or that of the image itself.
fn base(sigstruct: &Sigstruct, played: &Played) -> Option<&'static Profile> {
    let fits = |profile: &&Profile| {
        !profile.synthetic
            && is_for_linux(profile)
            && profile.svn.major == sigstruct.major_svn
            && profile.svn.minor <= sigstruct.minor_svn
            && profile.handoff.module_hv >= sigstruct.min_update_handoff_version()
            && profile.cpus.iter().any(|cpu| sigstruct.covers_cpu(*cpu))
    };
    let older = profile::all().filter(fits).filter(|profile| profile.version < played.profile.version);
    older.max_by_key(|profile| profile.version).or_else(|| Some(played.profile).filter(fits))
}

fn boot(name: &str, about: &str, spec: &PlatformSpec, cpu: Cpu, steps: Vec<Step>) -> Result<Boot> {
    let mut boot = Boot::new(name, about, 2, steps);
    cpu.properties.clone_into(&mut boot.machine.cpu);
    boot.plugin_files.push(("platform.toml".to_owned(), spec.to_toml()?.into_bytes()));
    boot.machine.plugin = Some(vec!["platform=platform.toml".to_owned(), format!("trace={TRACE}")]);
    Ok(boot)
}

fn at_power_on(name: &str, played: &Played, cpu: Cpu, file: &[u8]) -> Result<Boot> {
    let mut attributes = Attributes::from([("version", Expected::from(played.version.as_str()))]);
    let mut steps = Vec::new();
    if !played.is_for_linux() {
        steps.push(Step::NotInitialised { text: "TDX-Module initialization failed (-5)".to_owned() });
    } else if cpu.updates {
        steps.push(Step::Initialised {});
        steps.push(Step::Attributes { expect: attributes.clone() });
        steps.push(Step::Healthy { expect: attributes, offline: 0 });
    } else {
        attributes.0.insert("seamldr_version".to_owned(), Expected::Absent(()));
        steps.push(Step::Initialised {});
        steps.push(Step::Attributes { expect: attributes });
    }
    steps.push(Step::Taint { allow: 0 });
    let about = format!("{} of the user's, loaded by firmware", played.version);
    let mut boot = boot(&format!("image-{name}"), &about, &platform(cpu.kind, None)?, cpu, steps)?;
    boot.plugin_files.push(("module.bin".to_owned(), file.to_vec()));
    Ok(boot.option("module=module.bin").refused(&played.refusals()))
}

fn as_target(name: &str, played: &Played, base: &Profile, cpu: Cpu, file: Vec<u8>) -> Result<Boot> {
    let before = base.version.to_string();
    let version = played.version.as_str();
    let then = Attributes::from([("version", Expected::from(version))]);
    let steps = vec![
        Step::Initialised {},
        Step::Attributes { expect: Attributes::from([("version", Expected::from(before.as_str()))]) },
        update_to("/images/user", Outcome::Done, then.clone()),
        Step::Healthy { expect: then, offline: 0 },
        Step::Taint { allow: 0 },
    ];
    let about = format!("an update from {before} to {version} of the user's");
    let spec = platform(cpu.kind, Some(base.name))?;
    let boot = boot(&format!("image-{name}-update"), &about, &spec, cpu, steps)?;
    Ok(boot.guest_file("/images/user", file).refused(&played.refusals()).accepted("TDH.SYS.UPDATE", 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::images;

    #[test]
    fn an_image_gives_a_boot_with_it_and_an_update_to_it() {
        let image = images::built("2.0.18", 0).unwrap();
        let boots = of_file("x", &image).unwrap();
        let names: Vec<&str> = boots.iter().map(|boot| boot.name.as_str()).collect();
        assert_eq!(names, ["image-x", "image-x-update"]);
        assert!(
            boots[0].about.contains("2.0.18") && boots[1].about.contains("to 2.0.18"),
            "{}",
            boots[1].about
        );
        assert!(boots[1].guest_files.iter().any(|(path, _)| path == "/images/user"));
    }

    #[test]
    fn an_image_with_the_older_header_is_converted_for_linux_alone() {
        let old = images::with_old_header("2.0.18", 0).unwrap();
        let boots = of_file("x", &old).unwrap();
        assert_eq!(boots[0].plugin_files.iter().find(|(name, _)| name == "module.bin").unwrap().1, old);
        assert_eq!(boots[1].guest_files[0].1, images::built("2.0.18", 0).unwrap());
    }

    #[test]
    fn the_first_release_of_a_line_is_updated_to_itself_and_one_that_linux_does_not_take_to_nothing() {
        let boots = of_file("x", &images::built("2.0.02", 0).unwrap()).unwrap();
        assert_eq!(boots[1].about, "an update from 2.0.02 to 2.0.02 of the user's");
        let boots = of_file("x", &images::built("1.5.01", 0).unwrap()).unwrap();
        assert_eq!(boots.len(), 1);
        assert!(matches!(boots[0].plan.steps[0], Step::NotInitialised { .. }));
        assert_eq!(boots[0].refusals, [Refusal::of("TDH.SYS.RD", "METADATA_FIELD_ID_INCORRECT")]);
        let boots = of_file("x", &images::built(images::PROFILE, 0).unwrap()).unwrap();
        assert!(boots.iter().all(|boot| boot.refusals.is_empty()), "it has TDH.SYS.DISABLE");
    }

    #[test]
    fn a_files_name_becomes_that_of_a_folder() {
        for (path, name) in [("/a/TDX_module_2.0.08.blob", "tdx-module-2.0.08"), ("/a/b c,d", "b-c-d")] {
            assert_eq!(folder_name(Path::new(path)), name);
        }
    }

    #[test]
    fn a_file_that_is_no_image_is_refused_with_the_reason() {
        let error = format!("{:#}", boots(Path::new("/nowhere/x.bin")).unwrap_err());
        assert!(error.contains("read /nowhere/x.bin"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"no image").unwrap();
        let error = format!("{:#}", boots(file.path()).unwrap_err());
        assert!(error.contains("cannot be used") && !error.contains('\n'), "{error}");
    }
}
