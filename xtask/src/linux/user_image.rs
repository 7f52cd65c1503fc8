//! Boots with an image of the user's, such as a module that Intel published: as firmware's module, and as the target
//! of an update.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tdx_image::{Image, Sigstruct};
use tdx_linux_guest::plan::{Attributes, Expected, Outcome, Step};
use tdx_machine::spec::CpuKind;
use tdx_machine::{PlatformSpec, PowerOn, presets};
use tdx_module::profile::{self, Profile};

use super::boots::{Boot, update_to};
use super::machine::TRACE;

/// CPUs that have no erratum in the way of an update: their kind, CPUID.1.EAX, and QEMU's model number.
const CPUS: [(CpuKind, u32, &str); 2] =
    [(CpuKind::GraniteRapids, 0xA06D1, ""), (CpuKind::SierraForest, 0xA06F3, ",model=175,stepping=3")];

/// The boots of one image.
pub(super) fn boots(path: &Path) -> Result<Vec<Boot>> {
    let file = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    of_file(&name, &file).with_context(|| format!("{} cannot be used", path.display()))
}

fn of_file(name: &str, file: &[u8]) -> Result<Vec<Boot>> {
    let image = Image::parse(file).map_err(|reason| anyhow::anyhow!("{reason}; {}", reason.advice()))?;
    let sigstruct = image.sigstruct();
    let Some((kind, _, model)) = CPUS.into_iter().find(|(_, cpu, _)| sigstruct.covers_cpu(*cpu)) else {
        bail!("it is for none of the CPUs that a virtual machine can be here (CPUID.1.EAX 0xa06dx, 0xa06fx)");
    };
    let version = version_of(kind, file)?;
    let mut boots = vec![at_power_on(name, &version, kind, model, file)?];
    if let Some(base) = base(sigstruct) {
        boots.push(as_target(name, &version, base, kind, model, file)?);
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

/// The version that a platform with this image as firmware's module has.
fn version_of(kind: CpuKind, file: &[u8]) -> Result<String> {
    let machine = PowerOn::new(platform(kind, None)?).module_image(file).switch_on()?;
    let module = machine.seam().module.context("no module comes of it")?;
    Ok(module.version.to_string())
}

/// The oldest published release that can be updated to an image.
fn base(sigstruct: &Sigstruct) -> Option<&'static Profile> {
    profile::all()
        .filter(|profile| {
            !profile.synthetic
                && profile.svn.major == sigstruct.major_svn
                && profile.svn.minor <= sigstruct.minor_svn
                && profile.handoff.module_hv >= sigstruct.min_update_handoff_version()
                && profile.cpus.iter().any(|cpu| sigstruct.covers_cpu(*cpu))
        })
        .min_by_key(|profile| (profile.svn, profile.version))
}

fn boot(name: &str, about: &str, spec: &PlatformSpec, model: &str, steps: Vec<Step>) -> Result<Boot> {
    let mut boot = Boot::new(name, about, 2, steps);
    model.clone_into(&mut boot.machine.cpu);
    boot.plugin_files.push(("platform.toml".to_owned(), spec.to_toml()?.into_bytes()));
    boot.machine.plugin = Some(vec!["platform=platform.toml".to_owned(), format!("trace={TRACE}")]);
    Ok(boot)
}

fn at_power_on(name: &str, version: &str, kind: CpuKind, model: &str, file: &[u8]) -> Result<Boot> {
    let attributes = Attributes::from([("version", Expected::from(version))]);
    let steps = vec![
        Step::Initialised {},
        Step::Attributes { expect: attributes.clone() },
        Step::Healthy { expect: attributes, offline: 0 },
        Step::Taint { allow: 0 },
    ];
    let about = format!("{version} of the user's, loaded by firmware");
    let mut boot = boot(&format!("image-{name}"), &about, &platform(kind, None)?, model, steps)?;
    boot.plugin_files.push(("module.bin".to_owned(), file.to_vec()));
    Ok(boot.option("module=module.bin"))
}

fn as_target(
    name: &str,
    version: &str,
    base: &Profile,
    kind: CpuKind,
    model: &str,
    file: &[u8],
) -> Result<Boot> {
    let before = base.version.to_string();
    let then = Attributes::from([("version", Expected::from(version))]);
    let steps = vec![
        Step::Initialised {},
        Step::Attributes { expect: Attributes::from([("version", Expected::from(before.as_str()))]) },
        update_to("/images/user", Outcome::Done, then.clone()),
        Step::Healthy { expect: then, offline: 0 },
        Step::Taint { allow: 0 },
    ];
    let about = format!("an update from {before} to {version} of the user's");
    let spec = platform(kind, Some(base.name))?;
    let boot = boot(&format!("image-{name}-update"), &about, &spec, model, steps)?;
    Ok(boot.guest_file("/images/user", file.to_vec()).accepted("TDH.SYS.UPDATE", 1))
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
    fn a_file_that_is_no_image_is_refused_with_the_reason() {
        let error = format!("{:#}", boots(Path::new("/nowhere/x.bin")).unwrap_err());
        assert!(error.contains("read /nowhere/x.bin"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"no image").unwrap();
        let error = format!("{:#}", boots(file.path()).unwrap_err());
        assert!(error.contains("cannot be used") && !error.contains('\n'), "{error}");
    }
}
