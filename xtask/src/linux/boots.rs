//! The boots: what each machine is, what its guest checks, and what its trace must show.

use std::time::Duration;

use anyhow::{Context, Result};
use tdx_linux_guest::plan::{Attributes, End, Expected, Hex, Outcome, Plan, Step};
use tdx_machine::{Fault, presets};

use super::bench::Measure;
use super::images::{self, PROFILE};
use super::machine::{Machine, TRACE};
use super::trace::Refusal;

/// Places in the P-SEAMLDR's log that are free when power comes on.
const PLACES: u64 = 15;
/// Version of the P-SEAMLDR.
const SEAMLDR: &str = "2.0.00";
/// What Linux says of an upload that the driver could not finish.
const INVALID: &str = "transferring:firmware-invalid";
/// The taint of a module from outside the kernel's tree.
pub(super) const TAINT_OUT_OF_TREE: u64 = 1 << 12;

/// One boot, or a boot with its restarts.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    /// What it is called, and chosen by.
    pub(super) name: String,
    /// What it is for.
    pub(super) about: String,
    pub(super) machine: Machine,
    /// What the guest does.
    pub(super) plan: Plan,
    /// Files of the guest beside the plan.
    pub(super) guest_files: Vec<(String, Vec<u8>)>,
    /// Files of the plugin.
    pub(super) plugin_files: Vec<(String, Vec<u8>)>,
    /// Answers other than success that SEAMCALLs may get.
    pub(super) refusals: Vec<Refusal>,
    /// Leaves, and how often a call of each must have been accepted at least.
    pub(super) accepted: Vec<(&'static str, usize)>,
    /// What the platform must say of itself when power comes on.
    pub(super) platform: Option<Platform>,
    /// False for a boot in which Linux makes no SEAMCALL at all.
    pub(super) calls: bool,
    /// True if a module from outside the tree is loaded.
    pub(super) tainted: bool,
    /// What it measures, if it is there to measure.
    pub(super) measure: Option<Measure>,
    /// When it has taken too long.
    pub(super) limit: Duration,
}

/// What the platform says when power comes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Platform {
    pub(super) version: String,
    pub(super) seamldr: String,
    pub(super) remaining_updates: u64,
}

impl Platform {
    /// That of a profile with a full supply of updates.
    pub(super) fn of(profile: &str) -> Result<Self> {
        let version = images::version(profile, 0)?;
        Ok(Self { version, seamldr: SEAMLDR.to_owned(), remaining_updates: PLACES })
    }

    /// The attributes that Linux must show.
    fn attributes(&self) -> Attributes {
        attributes(&self.version, self.remaining_updates)
    }
}

fn attributes(version: &str, remaining: u64) -> Attributes {
    Attributes::from([
        ("version", Expected::from(version)),
        ("seamldr_version", SEAMLDR.into()),
        ("num_remaining_updates", remaining.into()),
    ])
}

impl Boot {
    /// A boot with so many CPUs of one package, whose guest switches itself off.
    pub(super) fn new(name: &str, about: &str, cpus: u32, steps: Vec<Step>) -> Self {
        Self {
            name: name.to_owned(),
            about: about.to_owned(),
            machine: Machine {
                processors: cpus.to_string(),
                memory: if cpus > 2 { 2048 } else { 1024 },
                cpu: String::new(),
                plugin: Some(vec![
                    format!("profile={PROFILE}"),
                    "private_keyids=32".to_owned(),
                    format!("trace={TRACE}"),
                ]),
                kernel_arguments: String::new(),
                restarts: false,
            },
            plan: Plan { steps, end: End::PowerOff },
            guest_files: Vec::new(),
            plugin_files: Vec::new(),
            refusals: Vec::new(),
            accepted: Vec::new(),
            platform: None,
            calls: true,
            tainted: false,
            measure: None,
            limit: Duration::from_secs(if cpus > 2 { 300 } else { 180 }),
        }
    }

    /// One more argument of the plugin.
    pub(super) fn option(mut self, option: impl Into<String>) -> Self {
        if let Some(plugin) = &mut self.machine.plugin {
            plugin.push(option.into());
        }
        self
    }

    /// Whether the plugin writes down every SEAMCALL.
    pub(super) fn is_traced(&self) -> bool {
        self.machine.plugin.iter().flatten().any(|option| option.starts_with("trace="))
    }

    /// One more file of the guest.
    pub(super) fn guest_file(mut self, path: &str, content: Vec<u8>) -> Self {
        self.guest_files.push((path.to_owned(), content));
        self
    }

    /// Answers that SEAMCALLs may get.
    pub(super) fn refused(mut self, refusals: &[Refusal]) -> Self {
        self.refusals.extend_from_slice(refusals);
        self
    }

    /// A leaf that must have been called with success so many times.
    pub(super) fn accepted(mut self, leaf: &'static str, times: usize) -> Self {
        self.accepted.push((leaf, times));
        self
    }

    fn on(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }
}

/// Every boot but for the benches and those that the user adds.
pub(super) fn all() -> Result<Vec<Boot>> {
    let mut boots = Vec::new();
    for cpus in [1, 2, 8] {
        boots.push(bring_up(cpus)?);
    }
    for cpus in [2, 8] {
        boots.push(update(cpus)?);
    }
    boots.push(two_packages()?);
    boots.push(published_release()?);
    boots.push(ciphertext()?);
    boots.push(update_while_read()?);
    boots.push(update_with_a_cpu_offline()?);
    boots.extend(refused_updates()?);
    boots.push(restart()?);
    boots.extend(super::faults::all()?);
    Ok(boots)
}

/// A step that puts a CPU away and one that takes it back.
fn off_and_on(cpu: u32) -> [Step; 2] {
    [Step::CpuOffline { cpu, expect: Outcome::Done }, Step::CpuOnline { cpu, expect: Outcome::Done }]
}

/// A step that updates to an image of the guest's.
pub(super) fn update_to(image: &str, expect: Outcome, then: Attributes) -> Step {
    Step::Update { image: image.to_owned(), expect, then, time_limit: 120 }
}

fn bring_up(cpus: u32) -> Result<Boot> {
    let platform = Platform::of(PROFILE)?;
    let steps = vec![
        Step::Initialised {},
        Step::DmesgHas { text: "virt/tdx: BIOS enabled: private KeyID range [32, 64)".into() },
        Step::Msr { msr: 0x87, expect: Hex(32 << 32 | 31) },
        Step::Attributes { expect: platform.attributes() },
        Step::CpuCount { expect: cpus },
        Step::Kaslr { expect: true },
        Step::Healthy { expect: platform.attributes(), offline: 0 },
        Step::Taint { allow: 0 },
    ];
    let plural = if cpus == 1 { "" } else { "s" };
    let boot = Boot::new(&format!("{cpus}-cpu{plural}"), "bring-up", cpus, steps);
    let lps = usize::try_from(cpus)?;
    Ok(boot
        .on(platform)
        .accepted("TDH.SYS.INIT", 1)
        .accepted("TDH.SYS.LP.INIT", lps)
        .accepted("TDH.SYS.CONFIG", 1)
        .accepted("TDH.SYS.KEY.CONFIG", 1)
        .accepted("TDH.SYS.TDMR.INIT", 1)
        .accepted("TDH.SYS.DISABLE", 1))
}

fn update(cpus: u32) -> Result<Boot> {
    let platform = Platform::of(PROFILE)?;
    let (first, second) = (images::version(PROFILE, 1)?, images::version(PROFILE, 2)?);
    let last = cpus - 1;
    let mut steps = vec![Step::Initialised {}, Step::Attributes { expect: platform.attributes() }];
    steps.extend(off_and_on(last));
    // What the driver itself refuses costs nothing: the module goes on.
    for image in ["/images/no-image", "/images/old-header"] {
        steps.push(update_to(image, Outcome::Refused(INVALID.into()), platform.attributes()));
    }
    steps.push(Step::GiveUpUpdate { image: "/images/first".into() });
    steps.push(update_to("/images/first", Outcome::Done, attributes(&first, PLACES - 1)));
    steps.extend(off_and_on(last));
    steps.push(update_to("/images/second", Outcome::Done, attributes(&second, PLACES - 2)));
    steps.push(Step::Healthy { expect: attributes(&second, PLACES - 2), offline: 0 });
    steps.push(Step::Taint { allow: 0 });
    let name = format!("update-{cpus}-cpus");
    Ok(Boot::new(&name, "two updates at run time, CPUs offline and online around them", cpus, steps)
        .on(platform)
        .guest_file("/images/no-image", b"no image at all".repeat(1000))
        .guest_file("/images/old-header", images::with_old_header(PROFILE, 1)?)
        .guest_file("/images/first", images::built(PROFILE, 1)?)
        .guest_file("/images/second", images::built(PROFILE, 2)?)
        .accepted("TDH.SYS.SHUTDOWN", 2)
        .accepted("SEAMLDR.INSTALL", 2 * usize::try_from(cpus)?)
        .accepted("TDH.SYS.UPDATE", 2)
        .accepted("TDH.SYS.DISABLE", 1))
}

fn update_while_read() -> Result<Boot> {
    let platform = Platform::of(PROFILE)?;
    let then = attributes(&images::version(PROFILE, 1)?, PLACES - 1);
    let steps = vec![
        Step::Initialised {},
        Step::Stress {
            image: "/images/first".into(),
            readers: 4,
            expect: Outcome::Done,
            then: then.clone(),
            time_limit: 120,
        },
        Step::Healthy { expect: then, offline: 0 },
        Step::Taint { allow: 0 },
    ];
    Ok(Boot::new("update-while-read", "an update while threads read the attributes", 4, steps)
        .on(platform)
        .guest_file("/images/first", images::built(PROFILE, 1)?)
        .accepted("TDH.SYS.UPDATE", 1))
}

/// What is left when an update fails behind the shutdown of the module that was to be replaced.
struct Left {
    /// What TDH.SYS.RD, TDH.SYS.INIT and TDH.SYS.DISABLE then answer. None: what they answer to a module that was
    /// shut down in order; the last of them is accepted.
    answer: Option<&'static str>,
    /// What bringing a CPU online ends with.
    online: &'static str,
}

/// The module that was shut down.
const OLD: Left = Left { answer: None, online: "errno:EIO" };
/// No module.
const NONE: Left = Left { answer: Some("VMfailInvalid"), online: "errno:ENODEV" };

impl Left {
    fn refusals(&self) -> Vec<Refusal> {
        let answer = self.answer.unwrap_or("SYS_SHUTDOWN");
        let mut refusals = vec![Refusal::of("TDH.SYS.RD", answer), Refusal::of("TDH.SYS.INIT", answer)];
        refusals.extend(self.answer.map(|answer| Refusal::of("TDH.SYS.DISABLE", answer)));
        refusals
    }
}

/// Updates that the P-SEAMLDR refuses. Linux has shut the module down by then: there is none until the next boot,
/// and the kernel must be able to live with that.
fn refused_updates() -> Result<Vec<Boot>> {
    // Of each: name, what it is for, image, free places of the log, INSTALL's answer, what is left.
    type Row = (&'static str, &'static str, Vec<u8>, u64, &'static str, Left);
    let signature = images::badly_signed(PROFILE, 1)?;
    let hash = images::damaged(PROFILE, 1)?;
    let good = images::built(PROFILE, 1)?;
    let rows: [Row; 4] = [
        ("refused-signature", "an image whose signature is wrong", signature, PLACES, "EBADSIG", OLD),
        ("refused-hash", "an image that was changed after it was signed", hash, PLACES, "EBADHASH", NONE),
        (
            "refused-older",
            "an image of a lower security version",
            images::older(PROFILE)?,
            PLACES,
            "EBADSIG",
            OLD,
        ),
        ("refused-log-full", "an update when the log has no place left", good.clone(), 0, "EBADCALL", OLD),
    ];
    let boots = rows.into_iter().map(|(name, about, image, places, answer, left)| {
        let mut platform = Platform::of(PROFILE)?;
        platform.remaining_updates = places;
        let gone = module_gone(places);
        let refused = || Outcome::Refused(INVALID.to_owned());
        let mut steps = vec![Step::Initialised {}, Step::Attributes { expect: platform.attributes() }];
        steps.extend(off_and_on(1));
        steps.push(update_to("/images/refused", refused(), gone.clone()));
        steps.push(Step::Healthy { expect: gone.clone(), offline: 0 });
        // Not even a good image comes through now.
        steps.push(update_to("/images/good", refused(), gone.clone()));
        steps.push(Step::CpuOffline { cpu: 1, expect: Outcome::Done });
        steps.push(Step::CpuOnline { cpu: 1, expect: Outcome::Refused(left.online.to_owned()) });
        steps.push(Step::Healthy { expect: gone, offline: 1 });
        steps.push(Step::Taint { allow: 0 });
        Ok(Boot::new(name, about, 2, steps)
            .on(platform)
            .option(format!("remaining_updates={places}"))
            .guest_file("/images/refused", image)
            .guest_file("/images/good", good.clone())
            .refused(&[Refusal::of("SEAMLDR.INSTALL", answer)])
            .refused(&left.refusals())
            .accepted("TDH.SYS.SHUTDOWN", 1))
    });
    boots.collect()
}

/// The attributes of a kernel whose module is gone.
fn module_gone(remaining: u64) -> Attributes {
    Attributes::from([
        ("version", Expected::from("errno:ENXIO")),
        ("seamldr_version", SEAMLDR.into()),
        ("num_remaining_updates", remaining.into()),
    ])
}

/// The P-SEAMLDR installs when every CPU has called, and Linux lets those call that are online.
fn update_with_a_cpu_offline() -> Result<Boot> {
    let gone = Attributes::from([("version", Expected::from("errno:ENXIO"))]);
    let steps = vec![
        Step::Initialised {},
        Step::CpuOffline { cpu: 1, expect: Outcome::Done },
        update_to("/images/first", Outcome::Refused(INVALID.to_owned()), gone.clone()),
        Step::CpuOnline { cpu: 1, expect: Outcome::Refused(NONE.online.to_owned()) },
        Step::Healthy { expect: gone, offline: 1 },
        Step::Taint { allow: 0 },
    ];
    Ok(Boot::new("update-cpu-offline", "an update while a CPU is offline", 2, steps)
        .on(Platform::of(PROFILE)?)
        .guest_file("/images/first", images::built(PROFILE, 1)?)
        .refused(&[
            Refusal::of("TDH.SYS.INIT", "VMfailInvalid"),
            Refusal::of("TDH.SYS.DISABLE", "VMfailInvalid"),
        ])
        .accepted("SEAMLDR.INSTALL", 1))
}

/// A machine of two packages: each gets its key.
fn two_packages() -> Result<Boot> {
    let platform = Platform::of(PROFILE)?;
    let steps = vec![
        Step::Initialised {},
        Step::Attributes { expect: platform.attributes() },
        Step::Healthy { expect: platform.attributes(), offline: 0 },
        Step::Taint { allow: 0 },
    ];
    let boot = Boot::new("2-packages", "bring-up on two packages", 2, steps).on(platform);
    Ok(on_two_packages(boot, None)?.accepted("TDH.SYS.KEY.CONFIG", 2).accepted("TDH.SYS.DISABLE", 1))
}

/// The boot on two packages of one CPU each, with a fault of the second if one is named.
pub(super) fn on_two_packages(mut boot: Boot, fault: Option<&str>) -> Result<Boot> {
    let preset = presets::find("default").context("there is no platform named default")?;
    let mut spec = preset.spec().context("read the platform default")?;
    spec.cpu.packages = 2;
    spec.cpu.cores = 1;
    spec.cpu.threads = 1;
    spec.iommus.clear();
    // Linux does not try again where a lock is busy.
    spec.chaos.busy = 0;
    if let Some(name) = fault {
        spec.faults = vec![Fault::by_name(name, &spec).with_context(|| format!("there is no fault {name}"))?];
    }
    boot.plugin_files.push(("platform.toml".to_owned(), spec.to_toml()?.into_bytes()));
    "2,sockets=2,cores=1,threads=1".clone_into(&mut boot.machine.processors);
    boot.machine.plugin = Some(vec!["platform=platform.toml".to_owned(), format!("trace={TRACE}")]);
    Ok(boot)
}

/// A module as published has no SYS.DISABLE, and Linux tries it all the same.
fn published_release() -> Result<Boot> {
    let (old, new) = ("2.0.14", "2.0.18");
    let platform = Platform::of(old)?;
    let then = attributes(&images::version(new, 0)?, PLACES - 1);
    let steps = vec![
        Step::Initialised {},
        Step::Attributes { expect: platform.attributes() },
        update_to("/images/new", Outcome::Done, then.clone()),
        Step::Healthy { expect: then, offline: 0 },
        Step::Taint { allow: 0 },
    ];
    let mut boot = Boot::new("release-2.0", "the release 2.0.14, updated to 2.0.18", 2, steps)
        .on(platform)
        .guest_file("/images/new", images::built(new, 0)?)
        .refused(&[Refusal::of("TDH.SYS.DISABLE", "OPERAND_INVALID")])
        .accepted("TDH.SYS.UPDATE", 1);
    boot.machine.plugin =
        Some(vec![format!("profile={old}"), "private_keyids=32".to_owned(), format!("trace={TRACE}")]);
    Ok(boot)
}

/// What the module keeps for itself reads as ciphertext.
fn ciphertext() -> Result<Boot> {
    let steps = vec![
        Step::Initialised {},
        Step::Ciphertext { module: "/bench.ko".to_owned() },
        Step::Taint { allow: TAINT_OUT_OF_TREE },
    ];
    let mut boot = Boot::new("ciphertext", "the module's own memory as the kernel reads it", 2, steps)
        .on(Platform::of(PROFILE)?);
    boot.tainted = true;
    Ok(boot)
}

/// A restart: the platform is as at power-on, firmware loads its own module again, and the log of updates is empty.
fn restart() -> Result<Boot> {
    let platform = Platform::of(PROFILE)?;
    let steps = vec![
        Step::Initialised {},
        update_to("/images/first", Outcome::Done, attributes(&images::version(PROFILE, 1)?, PLACES - 1)),
        Step::Reboot {},
        Step::Initialised {},
        Step::Attributes { expect: platform.attributes() },
        Step::Healthy { expect: platform.attributes(), offline: 0 },
        Step::Taint { allow: 0 },
    ];
    let mut boot =
        Boot::new("restart", "a restart initialises the module that firmware loads again", 2, steps)
            .on(platform)
            .guest_file("/images/first", images::built(PROFILE, 1)?)
            .accepted("TDH.SYS.CONFIG", 2)
            .accepted("TDH.SYS.DISABLE", 2);
    boot.machine.restarts = true;
    boot.limit = Duration::from_secs(300);
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_boot_has_a_name_of_its_own_that_is_a_folders() {
        let boots = all().unwrap();
        let names: BTreeSet<&str> = boots.iter().map(|boot| boot.name.as_str()).collect();
        assert_eq!(names.len(), boots.len());
        for name in names {
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b)),
                "{name}"
            );
        }
    }

    #[test]
    fn every_boot_checks_something_and_looks_at_the_kernels_health_last() {
        for boot in all().unwrap() {
            let last = boot.plan.steps.last().map(Step::name);
            assert_eq!(last, Some("taint"), "{}", boot.name);
            assert!(boot.plan.steps.len() > 1, "{}", boot.name);
            assert!(!boot.about.is_empty() && boot.limit >= Duration::from_secs(60), "{}", boot.name);
        }
    }

    #[test]
    fn every_image_that_a_plan_names_is_in_the_guest() {
        for boot in all().unwrap() {
            for step in &boot.plan.steps {
                let (Step::Update { image, .. } | Step::GiveUpUpdate { image } | Step::Stress { image, .. }) =
                    step
                else {
                    continue;
                };
                assert!(boot.guest_files.iter().any(|(path, _)| path == image), "{}: {image}", boot.name);
            }
        }
    }

    #[test]
    fn no_option_of_the_plugin_holds_a_comma_and_every_boot_has_a_trace() {
        for boot in all().unwrap() {
            let plugin = boot.machine.plugin.unwrap();
            assert!(plugin.iter().all(|option| !option.contains(',')), "{}", boot.name);
            assert!(plugin.contains(&format!("trace={TRACE}")), "{}", boot.name);
        }
    }

    #[test]
    fn a_cpu_that_a_plan_takes_away_is_there_and_not_the_first() {
        for boot in all().unwrap() {
            let cpus: u32 = boot.machine.processors.split(',').next().unwrap().parse().unwrap();
            for step in &boot.plan.steps {
                if let Step::CpuOffline { cpu, .. } | Step::CpuOnline { cpu, .. } = step {
                    assert!((1..cpus).contains(cpu), "{}", boot.name);
                }
            }
        }
    }
}
