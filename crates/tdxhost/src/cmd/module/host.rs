//! Arguments of the commands that look at a host, and how its facts are printed.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tdx_image::HeaderVersion;

use crate::doctor::{Check, State};
use crate::sysfs::cpu_list;
use crate::text::{Output, Tone};
use crate::update::rules::{Policy, X2APIC_LIMIT, cpus_in_words};
use crate::update::{Fact, HostFacts, Mapping, Sources};

/// Which host, and what the user knows better than its files.
#[derive(Args, Clone, Debug)]
pub(super) struct HostArgs {
    /// Root of the host's sysfs tree
    #[arg(long, value_name = "DIR", default_value = "/sys")]
    pub(super) sysfs: PathBuf,
    /// Socket of the machine that serves the tree: tells its CPUs, and why it refused an update
    #[arg(long, value_name = "SOCKET")]
    pub(super) api: Option<PathBuf>,
    /// Table of releases [default: mapping_file.json beside the images, else the built-in one]
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// Image header that the kernel takes [default: what the layout of the files tells]
    #[arg(long, value_name = "HEADER")]
    header: Option<HeaderVersion>,
    /// Take images that are signed for debugging too
    #[arg(long)]
    allow_debug: bool,
    /// First x2APIC id that P-SEAMLDR refuses
    #[arg(long, value_name = "ID", default_value_t = X2APIC_LIMIT)]
    x2apic_limit: u32,
}

impl HostArgs {
    pub(super) fn sources(&self) -> Sources {
        Sources { sysfs: self.sysfs.clone(), root: None, api: self.api.clone() }
    }

    pub(super) fn policy(&self, prefer_strict: bool) -> Policy {
        Policy {
            allow_debug: self.allow_debug,
            x2apic_limit: self.x2apic_limit,
            header: self.header,
            prefer_strict,
        }
    }

    /// The table for the images of a directory.
    pub(super) fn mapping(&self, directory: &Path) -> anyhow::Result<Mapping> {
        match &self.mapping {
            Some(file) => Ok(Mapping::from_file(file)?),
            None => Mapping::of_directory(directory),
        }
    }

    /// The table for one image.
    pub(super) fn mapping_for(&self, image: &Path) -> anyhow::Result<Mapping> {
        match &self.mapping {
            Some(file) => Ok(Mapping::from_file(file)?),
            None => Mapping::for_image(image),
        }
    }
}

/// A fact in a document: its value, or why it is not known.
#[derive(Serialize)]
#[serde(untagged)]
enum Told {
    Value(String),
    Number(u32),
    Unknown { unknown: String },
}

fn told<T>(fact: &Fact<T>, form: impl Fn(&T) -> String) -> Told {
    match fact {
        Ok(value) => Told::Value(form(value)),
        Err(why) => Told::Unknown { unknown: why.to_string() },
    }
}

/// The host in a document.
#[derive(Serialize)]
pub(super) struct HostDocument {
    layout: Option<&'static str>,
    header: Option<String>,
    module: Told,
    svn: Told,
    seamldr: Told,
    remaining_updates: Told,
    cpu: Told,
    cpus_online: Told,
    cpus_present: Told,
    highest_x2apic_id: Told,
}

impl HostDocument {
    pub(super) fn new(host: &HostFacts, policy: Policy) -> Self {
        let number = |fact: Fact<u32>| match fact {
            Ok(value) => Told::Number(value),
            Err(why) => Told::Unknown { unknown: why.to_string() },
        };
        let highest = host.x2apic_ids.as_ref().map(|ids| ids.ids.last().copied().unwrap_or_default());
        Self {
            layout: host.layout.map(crate::update::Layout::name),
            header: policy.header.or(host.header).map(|header| header.to_string()),
            module: told(&host.module, ToString::to_string),
            svn: told(&host.module_svn, |svn| format!("{}.{}", svn.major, svn.minor)),
            seamldr: told(&host.seamldr, ToString::to_string),
            remaining_updates: number(host.remaining_updates.clone()),
            cpu: told(&host.cpuid_1_eax, |cpu| format!("{cpu:#x}")),
            cpus_online: told(&host.cpus_online, |cpus| cpu_list(cpus.iter().copied())),
            cpus_present: told(&host.cpus_present, |cpus| cpu_list(cpus.iter().copied())),
            highest_x2apic_id: number(highest.map_err(Clone::clone)),
        }
    }
}

/// The host in three lines.
pub(super) fn print_host(host: &HostFacts, output: &mut Output<'_>) -> io::Result<()> {
    fn or_unknown<T>(fact: &Fact<T>, form: impl Fn(&T) -> String) -> String {
        fact.as_ref().map_or_else(|why| format!("unknown ({why})"), form)
    }
    let module = or_unknown(&host.module, |version| {
        let svn = host.module_svn.as_ref();
        let svn = svn.map(|svn| format!(", SVN {}.{}", svn.major, svn.minor)).unwrap_or_default();
        format!("{version}{svn}")
    });
    output.paragraph("running     ", &module)?;
    let left = or_unknown(&host.remaining_updates, |left| format!("{left} left"));
    let seamldr = or_unknown(&host.seamldr, ToString::to_string);
    output.paragraph("P-SEAMLDR   ", &format!("{seamldr}; updates: {left}"))?;
    let cpu = or_unknown(&host.cpuid_1_eax, |cpu| cpus_in_words(&[*cpu]));
    output.paragraph("CPU         ", &cpu)?;
    let layout = match (host.layout, host.header) {
        (Some(layout), Some(header)) => format!("layout {}, image header {header}", layout.name()),
        _ => "no tdx_host device and no upload directory".to_owned(),
    };
    output.paragraph("kernel      ", &layout)
}

/// Checks that did not end well, each in a line of its own.
pub(super) fn print_checks(checks: &[Check], output: &mut Output<'_>) -> io::Result<()> {
    for check in checks {
        let (word, tone) = match check.state {
            State::Ok => continue,
            State::Failed => ("FAILED     ", Tone::Bad),
            State::Unknown => ("unchecked  ", Tone::Doubtful),
        };
        let name = check.reason.unwrap_or(check.id);
        let label = output.paint.paint(tone, word);
        writeln!(output.out, "{label} {name}: {}", check.seen)?;
        if let (State::Failed, Some(advice)) = (check.state, &check.advice) {
            output.paragraph("            ", advice)?;
        }
    }
    Ok(())
}
