//! The rules that decide whether an image can replace the running module, as checks.
//!
//! One list serves `doctor --update`, `module plan` and `module update`. Nothing is called fulfilled that was
//! not looked at: what is not known is a check of its own state.

use std::cmp::Ordering;

use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;
use tdx_image::verify::Signer;
use tdx_image::{Checksum, HeaderVersion, cpus};
use tdx_module::profile::Svn;

use super::candidate::{Candidate, ImageFacts, Refusal, VersionSource};
use super::checks::{
    CPUS_ONLINE, IMAGE, IMAGE_CPU, IMAGE_HEADER, IMAGE_PRODUCTION, IMAGE_RELEASE, IMAGE_RELOCATIONS,
    IMAGE_SIGNATURE, IMAGE_SIGSTRUCT, IMAGE_SVN, MODULE_LINE, MODULE_ORDER, MODULE_STATE, SEAMLDR_VERSION,
    SEAMRET_VMCS, TD_PRESERVING, UPDATE_OFFERED, UPDATES_LEFT, UPLOAD_IDLE, X2APIC_IDS,
};
use super::host::{Fact, HostFacts, Unknown};
use super::layout::Layout;
use super::mapping::{Mapping, listed};
use super::version::same_line;
use crate::api::HostState;
use crate::doctor::Check;
use crate::sysfs::cpu_list;

/// x2APIC ids at or above this are refused by every public P-SEAMLDR.
pub const X2APIC_LIMIT: u32 = 1024;

/// What the user allows or asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Images that are signed for debugging may be taken.
    pub allow_debug: bool,
    /// First x2APIC id that P-SEAMLDR refuses.
    pub x2apic_limit: u32,
    /// Image header that the kernel takes, where the user knows better than the layout tells.
    pub header: Option<HeaderVersion>,
    /// Prefer a release that the mapping file calls strictly compatible with the running one.
    pub prefer_strict: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { allow_debug: false, x2apic_limit: X2APIC_LIMIT, header: None, prefer_strict: false }
    }
}

/// The module that an update starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Version.
    pub version: Fact<Version>,
    /// SVN.
    pub svn: Fact<Svn>,
}

impl Running {
    /// What runs on the host now.
    pub fn on(host: &HostFacts) -> Self {
        Self { version: host.module.clone(), svn: host.module_svn.clone() }
    }
}

/// Every check before an update of `host` to `candidate`.
pub fn preflight(host: &HostFacts, candidate: &Candidate, mapping: &Mapping, policy: Policy) -> Vec<Check> {
    let mut checks = fitness(host, candidate, mapping, policy);
    if candidate.image.is_ok() {
        checks.extend(step(&Running::on(host), candidate, mapping));
    }
    checks.extend(readiness(host, policy));
    checks
}

/// Does the image suit the machine, whatever module runs there?
pub fn fitness(host: &HostFacts, candidate: &Candidate, mapping: &Mapping, policy: Policy) -> Vec<Check> {
    const ADVICE: &str = "Get the file again, or look at it with `tdxhost module inspect`.";
    let image = match &candidate.image {
        Ok(image) => image,
        Err(refusal) => return vec![IMAGE.failed(refusal, ADVICE)],
    };
    let sum = match image.checksum {
        Checksum::Good => "checksum good",
        Checksum::Absent => "without checksum",
        Checksum::Wrong { .. } => "checksum wrong",
    };
    vec![
        IMAGE.ok(format!("header {}, {sum}", image.header)),
        header(host, image, policy),
        signature(host, image),
        production(image, policy),
        cpu(host, image),
        release(candidate, mapping),
        seamldr(host, candidate, mapping),
        fields(host, image),
        relocations(image),
    ]
}

/// May the image take over from this module with its TDs?
pub fn step(running: &Running, candidate: &Candidate, mapping: &Mapping) -> Vec<Check> {
    let mut checks = version_rules(running, candidate, mapping);
    if let Ok(image) = &candidate.image {
        checks.push(svn(running, image));
    }
    checks
}

/// Is the machine in a state in which an update works?
pub fn readiness(host: &HostFacts, policy: Policy) -> Vec<Check> {
    vec![
        alive(host),
        offered(host),
        vmcs(host),
        updates_left(host),
        cpus_online(host),
        x2apic(host, policy),
        idle(host),
    ]
}

/// What no check can see beforehand: TDs that are being built while the module is replaced.
pub fn td_builds(host: &HostFacts) -> Option<String> {
    let version = host.module.as_ref().ok()?;
    let guarded =
        host.module_features.as_ref().is_ok_and(|has| has.contains(Features0::UPDATE_COMPATIBILITY));
    let why = match (guarded, host.this_machine) {
        // Its host side asks the module.
        (true, false) => return None,
        (true, true) => "Linux 7.3 does not ask the module to wait for them".to_owned(),
        (false, _) => {
            format!("{version} cannot wait for them (UPDATE_COMPATIBILITY came with 1.5.24 and 2.0.14)")
        }
    };
    Some(format!("Let no TD be built during the update, or its measurement may be wrong: {why}."))
}

/// Where facts of the module and of P-SEAMLDR come from.
const OF_DEVICE: &str = "The tdx_host device tells it, in part to root only; without a device, `tdxhost doctor` says what is missing.";

fn header(host: &HostFacts, image: &ImageFacts, policy: Policy) -> Check {
    match policy.header.or(host.header) {
        Some(wanted) if wanted == image.header => IMAGE_HEADER.ok(format!("{wanted}, as it is")),
        Some(wanted) => {
            IMAGE_HEADER.ok(format!("{} in the file; {wanted} is what will be uploaded", image.header))
        }
        None => IMAGE_HEADER
            .unseen("no file tells which kernel this is", "Give `tdxhost module` the header with --header."),
    }
}

fn signature(host: &HostFacts, image: &ImageFacts) -> Check {
    match &image.signer {
        Ok(Signer::Intel) => IMAGE_SIGNATURE.ok("signed by Intel, signature and hash right"),
        Ok(Signer::TdxhostTestKey) if host.this_machine => IMAGE_SIGNATURE.failed(&Refusal::new("test-key", "signed with the test key of tdxhost, which no CPU trusts"),
            "Take an image that Intel published; test images are for software machines.",
        ),
        Ok(Signer::TdxhostTestKey) => IMAGE_SIGNATURE.ok("signed with the test key of tdxhost, which only a software machine trusts; signature and hash right",
        ),
        Err(refusal) => IMAGE_SIGNATURE.failed(refusal, "Get the file again from where it was published."),
    }
}

fn production(image: &ImageFacts, policy: Policy) -> Check {
    match (image.debug, policy.allow_debug) {
        (false, _) => IMAGE_PRODUCTION.ok("signed for production"),
        (true, true) => IMAGE_PRODUCTION.ok("signed for debugging, which is allowed"),
        (true, false) => IMAGE_PRODUCTION.failed(
            &Refusal::new("image-debug", "signed for debugging (module type bit 31)"),
            "Only a machine that is unlocked for debugging loads it: --allow-debug.",
        ),
    }
}

/// A CPU in words: its code name where it has one.
pub(super) fn cpu_in_words(cpuid_1_eax: u32) -> String {
    match cpus::code_name(cpuid_1_eax) {
        Some(model) => format!("{} ({cpuid_1_eax:#x})", model.code_name),
        None => format!("{cpuid_1_eax:#x}"),
    }
}

/// CPUs in words.
pub fn cpus_in_words(cpus: &[u32]) -> String {
    if cpus.is_empty() {
        return "no CPU".to_owned();
    }
    cpus.iter().map(|&cpu| cpu_in_words(cpu)).collect::<Vec<_>>().join(", ")
}

fn cpu(host: &HostFacts, image: &ImageFacts) -> Check {
    const ADVICE: &str = "Take a release for this CPU; Intel splits some releases by platform.";
    let listed = cpus_in_words(&image.cpus);
    match &host.cpuid_1_eax {
        Ok(here) if image.cpus.iter().any(|cpu| cpu & !0xF == here & !0xF) => {
            IMAGE_CPU.ok(format!("{} is in the list", cpu_in_words(*here)))
        }
        Ok(here) => {
            let sentence = format!("the image is for {listed}, this is {}", cpu_in_words(*here));
            IMAGE_CPU.failed(&Refusal::new("image-cpu-unsupported", sentence), ADVICE)
        }
        Err(why) => IMAGE_CPU.unseen(why, &format!("The image is for {listed}: compare it by hand.")),
    }
}

fn release(candidate: &Candidate, mapping: &Mapping) -> Check {
    const ADVICE: &str = "Get the newest mapping_file.json and give it with --mapping.";
    let Some(identity) = candidate.identity else {
        return IMAGE_RELEASE
            .unseen(
                "neither hash, record nor file name tells the version",
                "Name the file tdx_module_a.b.cc.blob.",
            )
            .because("version-unknown");
    };
    let version = identity.version;
    if mapping.find(version).is_none() {
        return IMAGE_RELEASE
            .unseen(format!("{} does not know {version}", mapping.source), ADVICE)
            .because("unknown-release");
    }
    let doubt = match (identity.name_says, identity.source) {
        (Some(named), _) => format!(", although the file's name says {named}"),
        (None, VersionSource::FileName) => " by the file's name".to_owned(),
        (None, _) => String::new(),
    };
    IMAGE_RELEASE.ok(format!("{version}{doubt}"))
}

fn version_rules(running: &Running, candidate: &Candidate, mapping: &Mapping) -> Vec<Check> {
    let unnamed = || Unknown("the version of the image is not known".to_owned());
    let versions = match (&running.version, candidate.version().ok_or_else(unnamed)) {
        (Ok(from), Ok(to)) => Ok((*from, to)),
        (Err(why), _) => Err(why.clone()),
        (_, Err(why)) => Err(why),
    };
    let (from, to) = match versions {
        Ok(versions) => versions,
        Err(why) => {
            return vec![
                MODULE_LINE.unseen(&why, OF_DEVICE),
                MODULE_ORDER.unseen(&why, OF_DEVICE),
                TD_PRESERVING.unseen(&why, OF_DEVICE),
            ];
        }
    };
    if !same_line(from, to) {
        let sentence = format!("{to} is of another line than the running {from}");
        let refusal = Refusal::new("version-line-differs", sentence);
        return vec![MODULE_LINE.failed(&refusal, "Only a cold boot changes the line.")];
    }
    let line = MODULE_LINE.ok(format!("{}.{}", to.major, to.minor));
    let order = match to.cmp(&from) {
        Ordering::Less => {
            let refusal = Refusal::new("version-older", format!("{to} is older than the running {from}"));
            MODULE_ORDER.failed(&refusal, "An older release is loaded at boot only.")
        }
        Ordering::Equal => MODULE_ORDER.ok(format!("{to} runs already; this installs it again")),
        Ordering::Greater => MODULE_ORDER.ok(format!("{from} → {to}")),
    };
    let floor = match mapping.find(to).map(|release| release.min_module_version_for_td_preserving) {
        Some(floor) if !same_line(floor, to) || floor.update > from.update => {
            let sentence = format!("{to} takes TDs over from {floor} on, {from} runs");
            let refusal = Refusal::new("running-too-old", sentence);
            TD_PRESERVING.failed(&refusal, "Go through a release in between: `tdxhost module plan`.")
        }
        Some(floor) => TD_PRESERVING.ok(format!("{to} takes TDs over from {floor} on")),
        None => {
            let why = Unknown(format!("{} does not know {to}", mapping.source));
            TD_PRESERVING.unseen(&why, "Give a newer mapping_file.json with --mapping.")
        }
    };
    vec![line, order, floor]
}

fn seamldr(host: &HostFacts, candidate: &Candidate, mapping: &Mapping) -> Check {
    const ADVICE: &str = "P-SEAMLDR comes with the BIOS: update it, or take another release.";
    let here = match &host.seamldr {
        Ok(here) => *here,
        Err(why) => return SEAMLDR_VERSION.unseen(why, OF_DEVICE),
    };
    let Some(release) = candidate.version().and_then(|version| mapping.find(version)) else {
        let why = Unknown(format!("{} does not know the release", mapping.source));
        return SEAMLDR_VERSION.unseen(&why, "Give a newer mapping_file.json with --mapping.");
    };
    let needed = &release.min_seamldr_versions;
    let all = listed(needed);
    if needed.iter().any(|least| same_line(*least, here) && least.update <= here.update) {
        return SEAMLDR_VERSION.ok(format!("{here}; the release needs {all}"));
    }
    let refusal = if needed.iter().any(|least| same_line(*least, here)) {
        Refusal::new("seamldr-too-old", format!("P-SEAMLDR {here} is older than the release needs ({all})"))
    } else {
        Refusal::new(
            "seamldr-line-differs",
            format!("P-SEAMLDR {here} is of another line than the release needs ({all})"),
        )
    };
    SEAMLDR_VERSION.failed(&refusal, ADVICE)
}

fn fields(host: &HostFacts, image: &ImageFacts) -> Check {
    let (line, result) = match &host.seamldr {
        Ok(here) if here.major >= 2 => ("2.0", &image.fields_2_0),
        Ok(_) => ("1.5", &image.fields_1_5),
        Err(why) => return IMAGE_SIGSTRUCT.unseen(why, OF_DEVICE),
    };
    match result {
        Ok(()) => IMAGE_SIGSTRUCT.ok(format!("as P-SEAMLDR {line} wants them")),
        Err(refusal) => IMAGE_SIGSTRUCT.failed(refusal, "Take a release for this P-SEAMLDR."),
    }
}

fn relocations(image: &ImageFacts) -> Check {
    match &image.relocations {
        Ok(()) => IMAGE_RELOCATIONS.ok("all inside the module"),
        Err(refusal) => IMAGE_RELOCATIONS.failed(refusal, "Get the file again from where it was published."),
    }
}

fn svn(running: &Running, image: &ImageFacts) -> Check {
    const ADVICE: &str = "P-SEAMLDR refuses it after the running module was shut down: take another release.";
    let to = image.svn;
    let from = match &running.svn {
        Ok(from) => *from,
        Err(why) => return IMAGE_SVN.unseen(why, "Compare it by hand: `tdxhost module inspect`."),
    };
    let words = |svn: Svn| format!("{}.{}", svn.major, svn.minor);
    let refusal = if to.major != from.major {
        let sentence = format!("SVN {} has another major number than the running {}", words(to), words(from));
        Refusal::new("image-svn-line-differs", sentence)
    } else if to.minor < from.minor {
        Refusal::new(
            "image-svn-older",
            format!("SVN {} is lower than the running {}", words(to), words(from)),
        )
    } else {
        return IMAGE_SVN.ok(format!("{}; {} runs", words(to), words(from)));
    };
    IMAGE_SVN.failed(&refusal, ADVICE)
}

fn alive(host: &HostFacts) -> Check {
    match (host.state, &host.module) {
        (Some(HostState::ModuleGone), _) => {
            let sentence = "an update failed for good: there is no module to update";
            MODULE_STATE.failed(&Refusal::new("module-gone", sentence), "Power-cycle the machine.")
        }
        (Some(HostState::ModuleDown), _) => {
            MODULE_STATE.ok("shut down by an update that failed; this one may bring it back")
        }
        (_, Ok(version)) => MODULE_STATE.ok(format!("{version} answers")),
        (Some(state), Err(_)) => {
            let sentence = format!("the machine has no module: {}", state.describe());
            let refusal = Refusal::new("update-not-offered", sentence);
            MODULE_STATE.failed(&refusal, "Bring TDX up first: `tdxhost status` says how far it is.")
        }
        (None, Err(why)) => MODULE_STATE.unseen(why, OF_DEVICE),
    }
}

fn offered(host: &HostFacts) -> Check {
    if let Some(upload) = &host.upload {
        return UPDATE_OFFERED.ok(upload.directory.display().to_string());
    }
    let (sentence, advice) = match (&host.module, &host.module_features) {
        (Err(why), _) => (
            format!("no upload directory; module: {why}"),
            "Bring TDX up first: `tdxhost doctor` says what is missing.",
        ),
        (Ok(_), Ok(features)) if !features.contains(Features0::TD_PRESERVING) => (
            "no upload directory: the running module cannot be replaced under TDs (TD_PRESERVING)".to_owned(),
            "Load a newer module at boot.",
        ),
        (Ok(_), _) if host.seamret_invd_vmcs == Ok(true) => (
            "no upload directory: the kernel hides updates on a CPU with the SEAMRET erratum".to_owned(),
            "Load a newer module at boot.",
        ),
        (Ok(version), _) => (
            format!("module {version} runs, but there is no upload directory"),
            "Linux has it since 7.3, with CONFIG_TDX_HOST_SERVICES and firmware upload.",
        ),
    };
    UPDATE_OFFERED.failed(&Refusal::new("update-not-offered", sentence), advice)
}

fn vmcs(host: &HostFacts) -> Check {
    match &host.seamret_invd_vmcs {
        Ok(false) => SEAMRET_VMCS.ok("the kernel lists no such erratum"),
        Ok(true) => SEAMRET_VMCS.failed(
            &Refusal::new("seamret-invd-vmcs", "the CPU has the erratum: calls to P-SEAMLDR lose the VMCS"),
            "Load the module at boot instead.",
        ),
        // Linux 7.3 registers the upload only on a CPU without it; earlier kernels did not know it.
        Err(_) if host.upload.is_some() && host.layout == Some(Layout::Linux7_3) => {
            SEAMRET_VMCS.ok("the kernel offers updates")
        }
        Err(why) => SEAMRET_VMCS.unseen(why, "Look for seamret_invd_vmcs in /proc/cpuinfo."),
    }
}

fn updates_left(host: &HostFacts) -> Check {
    match &host.remaining_updates {
        Ok(0) => UPDATES_LEFT.failed(
            &Refusal::new("update-log-full", "no update is left: the log of P-SEAMLDR is full"),
            "Only a platform reset empties the log.",
        ),
        Ok(left) => UPDATES_LEFT.ok(left.to_string()),
        Err(why) => UPDATES_LEFT.unseen(why, OF_DEVICE),
    }
}

fn cpus_online(host: &HostFacts) -> Check {
    const ADVICE: &str =
        "Take them online: P-SEAMLDR waits for all of them, and all TDs are lost when one is missing.";
    let (online, present) = match (&host.cpus_online, &host.cpus_present) {
        (Ok(online), Ok(present)) => (online, present),
        (Err(why), _) | (_, Err(why)) => return CPUS_ONLINE.unseen(why, ADVICE),
    };
    let list = |cpus: &mut dyn Iterator<Item = u32>| cpu_list(cpus);
    let missing = list(&mut present.difference(online).copied());
    if !missing.is_empty() {
        let refusal = Refusal::new("update-cpu-offline", format!("CPUs {missing} are offline"));
        return CPUS_ONLINE.failed(&refusal, ADVICE);
    }
    if let Ok(ids) = &host.x2apic_ids
        && ids.all
        && ids.ids.len() > online.len()
    {
        let sentence = format!(
            "{} CPUs are online, but {} counts {}: a boot option may have left some out",
            online.len(),
            ids.source,
            ids.ids.len()
        );
        return CPUS_ONLINE.failed(&Refusal::new("update-cpu-offline", sentence), ADVICE);
    }
    CPUS_ONLINE.ok(format!("{} are online", list(&mut online.iter().copied())))
}

fn x2apic(host: &HostFacts, policy: Policy) -> Check {
    const ADVICE: &str = "If P-SEAMLDR is known to take larger ids, say so with --x2apic-limit; otherwise all TDs would be \
                          lost.";
    let limit = policy.x2apic_limit;
    let ids = match &host.x2apic_ids {
        Ok(ids) => ids,
        Err(why) => return X2APIC_IDS.unseen(why, ADVICE),
    };
    let highest = ids.ids.last().copied().unwrap_or_default();
    if highest >= limit {
        let sentence = format!("x2APIC id {highest} ({}) is not below {limit}", ids.source);
        return X2APIC_IDS.failed(&Refusal::new("x2apic-id-too-large", sentence), ADVICE);
    }
    let everyone_online = matches!((&host.cpus_online, &host.cpus_present), (Ok(a), Ok(b)) if a == b);
    if ids.all || everyone_online {
        return X2APIC_IDS.ok(format!("the highest is {highest} ({})", ids.source));
    }
    let why = Unknown(format!("the ids of offline CPUs; the highest online one is {highest}"));
    X2APIC_IDS.unseen(&why, "Run this as root: then the firmware's MADT tells.")
}

fn idle(host: &HostFacts) -> Check {
    match host.upload.as_ref().map(|upload| &upload.status) {
        Some(Ok(status)) if status == "idle" => UPLOAD_IDLE.ok("idle"),
        Some(Ok(status)) => UPLOAD_IDLE.failed(
            &Refusal::new("update-running", format!("status is {status}")),
            "Wait for the other update; an upload that was left half way ends with `echo -1 > loading`.",
        ),
        Some(Err(why)) => UPLOAD_IDLE.unseen(why, "Read the file as root."),
        None => UPLOAD_IDLE.unseen("no upload directory", "See update-offered."),
    }
}
