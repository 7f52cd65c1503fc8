//! The platform of a guest: what the options ask for, on the memory and the processors that it has.

use std::fs;
use std::path::Path;

use tdx_abi::PhysRange;
use tdx_machine::fault::Breaks;
use tdx_machine::presets;
use tdx_machine::spec::{ChaosSpec, CpuKind, CpuSpec, KeyIdSpec, ModuleSpec, SeamldrSpec, X2apicSpec};
use tdx_machine::{Fault, PlatformSpec, SpecError};

use crate::near::nearest;
use crate::options::Options;

/// Why there is no platform.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// Neither a file nor a preset.
    #[error(
        "platform `{name}` is neither a file nor a preset{}; presets are {}",
        nearest.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default(),
        presets::names().collect::<Vec<_>>().join(", ")
    )]
    Unknown {
        /// What was written.
        name: String,
        /// The preset that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The file cannot be read.
    #[error("platform file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// The platform is refused.
    #[error("{0}")]
    Refused(#[from] SpecError),
    /// The guest has other processors than the platform.
    #[error("platform `{platform}` has {lps} logical processors, the guest {vcpus}: give QEMU `{}`", smp(*packages, *cores, *threads))]
    Topology {
        /// Name of the platform.
        platform: String,
        /// Its LPs.
        lps: u64,
        /// vCPUs of the guest.
        vcpus: u32,
        /// Packages of the platform.
        packages: u32,
        /// Cores of a package.
        cores: u32,
        /// Threads of a core.
        threads: u32,
    },
    /// A fault of what a guest has from QEMU or from its own kernel.
    #[error("fault `{fault}` does not reach a guest: {instead}")]
    FaultOutOfReach {
        /// Its name.
        fault: &'static str,
        /// What to do instead.
        instead: &'static str,
    },
    /// More processors than a package has cores.
    #[error("{vcpus} vCPUs do not fit one package; name a platform with more packages by `platform`")]
    TooManyVcpus {
        /// vCPUs of the guest.
        vcpus: u32,
    },
}

/// The option of QEMU for a topology.
pub(crate) fn smp(packages: u32, cores: u32, threads: u32) -> String {
    let all = u64::from(packages) * u64::from(cores) * u64::from(threads);
    format!("-smp {all},sockets={packages},cores={cores},threads={threads}")
}

/// Most cores of a package.
const MAX_CORES: u32 = 512;

/// The platform of a guest with this memory and this number of vCPUs.
pub(crate) fn platform(
    options: &Options,
    ram: &[PhysRange],
    vcpus: u32,
) -> Result<PlatformSpec, PlatformError> {
    let mut spec = match &options.platform {
        Some(name) => {
            let spec = named(name)?;
            let CpuSpec { packages, cores, threads, .. } = spec.cpu;
            let lps = u64::from(packages) * u64::from(cores) * u64::from(threads);
            if lps != u64::from(vcpus) {
                let platform = spec.name;
                return Err(PlatformError::Topology { platform, lps, vcpus, packages, cores, threads });
            }
            spec.with_guest(ram, packages, cores, threads)?
        }
        None if vcpus > MAX_CORES => return Err(PlatformError::TooManyVcpus { vcpus }),
        None => plain(options)?.with_guest(ram, 1, vcpus, 1)?,
    };
    if let Some(updates) = options.remaining_updates {
        spec.seamldr.remaining_updates = updates;
    }
    if let Some(version) = &options.seamldr {
        spec.seamldr.version.clone_from(version);
        // That of the platform goes with its own version.
        spec.seamldr.generation = None;
    }
    if spec.chaos == ChaosSpec::default() {
        // Locks of a real module are held by its callers, never by chance. Linux counts on that: one
        // BUSY among its thousands of calls ends the bring-up, and so does one key that lacks entropy.
        // A platform that sets rates keeps them.
        spec.chaos.busy = 0;
        spec.chaos.no_entropy = 0;
    }
    let faults: Vec<_> = options.faults.iter().filter_map(|name| Fault::by_name(name, &spec)).collect();
    spec.faults.extend(faults);
    if let Some((fault, instead)) = spec.faults.iter().find_map(out_of_reach) {
        return Err(PlatformError::FaultOutOfReach { fault, instead });
    }
    spec.validate()?;
    Ok(spec)
}

/// A preset by its name, or a file.
fn named(name: &str) -> Result<PlatformSpec, PlatformError> {
    if let Some(preset) = presets::find(name) {
        return Ok(preset.spec()?);
    }
    match fs::read_to_string(Path::new(name)) {
        Ok(text) => Ok(PlatformSpec::from_toml(&text)?),
        Err(reason) if reason.kind() == std::io::ErrorKind::NotFound => {
            Err(PlatformError::Unknown { name: name.to_owned(), nearest: nearest(name, presets::names()) })
        }
        Err(reason) => Err(PlatformError::Unreadable { path: name.to_owned(), reason }),
    }
}

/// One package of Granite Rapids.
fn plain(options: &Options) -> Result<PlatformSpec, PlatformError> {
    // The rest is that of a small preset; memory and processors become the guest's.
    let small = presets::find("tiny").map_or_else(|| PlatformSpec::from_toml(""), presets::Preset::spec)?;
    let mut module = ModuleSpec::default();
    if let Some(profile) = &options.profile {
        module.profile.clone_from(profile);
    }
    Ok(PlatformSpec {
        name: "guest".to_owned(),
        description: "one package, as large as the guest".to_owned(),
        cpu: CpuSpec {
            kind: CpuKind::GraniteRapids,
            packages: 1,
            cores: 1,
            threads: 1,
            x2apic: X2apicSpec::default(),
        },
        keyids: options.private_keyids.map_or_else(KeyIdSpec::default, keyids),
        module,
        seamldr: SeamldrSpec::default(),
        chaos: ChaosSpec::default(),
        ..small
    })
}

/// A split of the KeyIDs that has room for so many private ones: half of the KeyIDs are shared.
fn keyids(private: u32) -> KeyIdSpec {
    let usual = KeyIdSpec::default();
    let mut keys = KeyIdSpec { tdx: private, ..usual };
    while keys.tdx > keys.mktme + 1 {
        keys.bits += 1;
        keys.mktme = keys.mktme * 2 + 1;
    }
    keys
}

/// A fault of something that a guest does not have from the machine, and how else to come by it.
fn out_of_reach(fault: &Fault) -> Option<(&'static str, &'static str)> {
    let instead = match fault {
        Fault::NoVmx => "give QEMU `-vmx` with `-cpu`",
        Fault::NoXsave => "give QEMU `-xsave` with `-cpu`",
        Fault::NoMovdir64b => "give QEMU `-movdir64b` with `-cpu`",
        Fault::NoSelfsnoop => "give QEMU `-ss` with `-cpu`",
        Fault::TooManyTdmrs | Fault::TooManyReservedAreas => "its memory map is QEMU's",
        Fault::NoContiguousPamt => "its kernel has a page allocator of its own",
        Fault::HibernationPossible => "leave `nohibernate` out of the kernel's command line",
        Fault::VmxeAlreadySet => "its firmware clears CR4 before a kernel looks",
        _ if fault.info().breaks == Breaks::Connect => {
            "its IOMMUs, its ACPI tables and its devices are QEMU's"
        }
        _ => return None,
    };
    Some((fault.name(), instead))
}

#[cfg(test)]
mod tests;
