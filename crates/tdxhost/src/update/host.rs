//! Facts of the host that an update depends on, each known or with the reason why not.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs;
use tdx_abi::features::Features0;
use tdx_abi::msr::MsrIndex;
use tdx_abi::seamldr::Version;
use tdx_image::HeaderVersion;
use tdx_module::profile::{self, Svn};

use super::cpus::{
    cpuinfo_apic_ids, cpuinfo_has_bug, madt_x2apic_ids, modalias_signature, parse_cpu_list, signature,
};
use super::layout::{Layout, Places};
use super::version::version;
use crate::api::{self, CpusFacts, HostState};
use crate::doctor::{CpuIdentity, Facts, RealHost, Snapshot, Unseen};
use crate::text::glimpse;

/// A fact, or why it is not known.
pub type Fact<T> = Result<T, Unknown>;

/// Why a fact is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown(pub String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn unknown<T>(why: impl Into<String>) -> Fact<T> {
    Err(Unknown(why.into()))
}

/// x2APIC ids, and who told them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X2ApicIds {
    /// The ids.
    pub ids: BTreeSet<u32>,
    /// True if they are those of every processor that the platform counts, not of the online ones alone.
    pub all: bool,
    /// Who told them.
    pub source: &'static str,
}

/// How the upload directory stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadState {
    /// The directory.
    pub directory: PathBuf,
    /// Text of its `status`.
    pub status: Fact<String>,
}

/// What an update depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Version of the module that runs.
    pub module: Fact<Version>,
    /// SVN of the module that runs, where its release is known.
    pub module_svn: Fact<Svn>,
    /// TDX_FEATURES0 of the module that runs, where its release is known.
    pub module_features: Fact<Features0>,
    /// Version of P-SEAMLDR.
    pub seamldr: Fact<Version>,
    /// Updates that are left.
    pub remaining_updates: Fact<u32>,
    /// CPUs that are online.
    pub cpus_online: Fact<BTreeSet<u32>>,
    /// CPUs that the kernel counts.
    pub cpus_present: Fact<BTreeSet<u32>>,
    /// CPUID.1:EAX; the stepping may be 0.
    pub cpuid_1_eax: Fact<u32>,
    /// x2APIC ids.
    pub x2apic_ids: Fact<X2ApicIds>,
    /// SEAMRET of P-SEAMLDR loses the current VMCS on this CPU (X86_BUG_SEAMRET_INVD_VMCS).
    pub seamret_invd_vmcs: Fact<bool>,
    /// Where a served machine says that it stands, by its API or by the error of `version`; `None` for
    /// other hosts.
    pub state: Option<HostState>,
    /// The upload directory; `None` if the kernel does not offer updates.
    pub upload: Option<UploadState>,
    /// The layout of the files.
    pub layout: Option<Layout>,
    /// Image header that the kernel takes.
    pub header: Option<HeaderVersion>,
    /// True if the facts are of the machine that this program runs on.
    pub this_machine: bool,
}

/// Where to look for the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Root of the sysfs tree.
    pub sysfs: PathBuf,
    /// Directory whose `proc` and `dev` belong to the tree; `/` if the tree is this kernel's.
    pub root: Option<PathBuf>,
    /// Socket of the machine that serves the tree.
    pub api: Option<PathBuf>,
}

impl Sources {
    /// Reads the facts.
    pub fn read(&self) -> anyhow::Result<HostFacts> {
        anyhow::ensure!(
            self.sysfs.is_dir(),
            "{} is no directory: the root of a sysfs tree is wanted",
            self.sysfs.display()
        );
        let places = Places::find(&self.sysfs);
        let this_machine = self.api.is_none() && is_sysfs(&self.sysfs);
        let root = match &self.root {
            Some(root) => Some(root.clone()),
            None if this_machine => Some(PathBuf::from("/")),
            None => None,
        };
        let cpu = match (&self.api, &root) {
            (Some(socket), _) => MachineFacts::of_served(socket)?,
            (None, Some(root)) => MachineFacts::of_computer(root, &self.sysfs),
            (None, None) => MachineFacts::of_tree(&self.sysfs),
        };
        Ok(HostFacts::new(&self.sysfs, &places, cpu, this_machine))
    }
}

/// True if this kernel's own sysfs is mounted there, and not a tree that another machine serves.
fn is_sysfs(path: &Path) -> bool {
    statfs::statfs(path).is_ok_and(|stat| stat.filesystem_type() == statfs::SYSFS_MAGIC)
}

/// What is known of the machine from elsewhere than its tdx_host device.
struct MachineFacts {
    state: Option<HostState>,
    signature: Fact<u32>,
    x2apic_ids: Fact<X2ApicIds>,
    seamret_invd_vmcs: Fact<bool>,
}

const NO_CPU: &str = "not a tree of this kernel, and nothing in it tells; give --api SOCKET of the machine";

impl MachineFacts {
    fn of_served(socket: &Path) -> anyhow::Result<Self> {
        let routes = ["/v1/hardware", "/v1/cpus", "/v1/host"];
        let mut answers = api::get(socket, &routes)?.into_iter();
        let hardware: Snapshot = api::facts(answers.next(), routes[0])?;
        let cpus: CpusFacts = api::facts(answers.next(), routes[1])?;
        let host: api::HostFacts = api::facts(answers.next(), routes[2])?;
        let ids = cpus.cpus.iter().map(|cpu| cpu.x2apic_id).collect();
        Ok(Self {
            state: Some(host.state),
            signature: signature_of(&hardware.cpu),
            x2apic_ids: Ok(X2ApicIds { ids, all: true, source: "the served machine" }),
            seamret_invd_vmcs: loses_vmcs(&hardware),
        })
    }

    fn of_computer(root: &Path, sysfs: &Path) -> Self {
        let path = root.join("proc/cpuinfo");
        let cpuinfo = read(&path);
        let identity = cpuinfo.clone().and_then(|text| signature_of(&CpuIdentity::from_cpuinfo(&text)));
        let online = cpuinfo.clone().and_then(|text| {
            let ids = cpuinfo_apic_ids(&text);
            if ids.is_empty() {
                return unknown(format!("{} has no APIC ids", path.display()));
            }
            Ok(X2ApicIds { ids, all: false, source: "/proc/cpuinfo" })
        });
        Self {
            state: None,
            signature: identity,
            x2apic_ids: madt(sysfs).or(online),
            // Kernels before 7.3 do not list it, whatever the CPU.
            seamret_invd_vmcs: match cpuinfo {
                Ok(text) if cpuinfo_has_bug(&text, "seamret_invd_vmcs") => Ok(true),
                _ => loses_vmcs(&RealHost::new(root)),
            },
        }
    }

    fn of_tree(sysfs: &Path) -> Self {
        let modalias = read(&sysfs.join("devices/system/cpu/modalias")).ok();
        let signature = modalias.as_deref().and_then(modalias_signature);
        Self {
            state: None,
            signature: signature.ok_or_else(|| Unknown(NO_CPU.to_owned())),
            x2apic_ids: madt(sysfs).map_err(|_| Unknown(NO_CPU.to_owned())),
            seamret_invd_vmcs: unknown(NO_CPU),
        }
    }
}

/// IA32_VMX_BASIC: SEAMRET of P-SEAMLDR keeps the current VMCS.
const NO_SEAMRET_INVD_VMCS: u64 = 1 << 60;

/// Asks the MSR of each package: one CPU with the erratum is enough.
fn loses_vmcs(facts: &dyn Facts) -> Fact<bool> {
    let told = |why: Unseen| Unknown(why.to_string());
    let packages = facts.packages().map_err(told)?;
    if packages.is_empty() {
        return unknown("no package has an online CPU");
    }
    for package in packages {
        if facts.rdmsr(package, MsrIndex::IA32_VMX_BASIC).map_err(told)? & NO_SEAMRET_INVD_VMCS == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn signature_of(cpu: &CpuIdentity) -> Fact<u32> {
    if !cpu.is_intel() {
        return unknown(format!("the CPU is of {:?}, not of Intel", cpu.vendor));
    }
    Ok(signature(cpu.family, cpu.model, cpu.stepping))
}

fn madt(sysfs: &Path) -> Fact<X2ApicIds> {
    let path = sysfs.join("firmware/acpi/tables/APIC");
    let table = bytes(&path).map_err(|error| cannot(&path, &error))?;
    match madt_x2apic_ids(&table) {
        Some(ids) => Ok(X2ApicIds { ids, all: true, source: "the firmware's MADT" }),
        None => unknown(format!("{} is no MADT", path.display())),
    }
}

/// Bytes of a file that are read: `/proc/cpuinfo` of 8,192 CPUs fits.
const READ_LIMIT: u64 = 32 << 20;

/// The bytes of a file of the kernel, or of what stands for one.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(READ_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text(path: &Path) -> io::Result<String> {
    let text =
        String::from_utf8(bytes(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(text.trim_end().to_owned())
}

fn read(path: &Path) -> Fact<String> {
    text(path).map_err(|error| cannot(path, &error))
}

fn cannot(path: &Path, error: &io::Error) -> Unknown {
    let path = path.display();
    Unknown(match error.kind() {
        io::ErrorKind::NotFound => format!("{path} does not exist"),
        io::ErrorKind::PermissionDenied => format!("{path}: permission denied, run this as root"),
        _ => format!("{path}: {error}"),
    })
}

fn parsed(text: &str) -> Fact<Version> {
    version(text).map_err(|error| Unknown(error.to_string()))
}

/// The module's version. A served machine tells by its error what became of the module; Linux itself has
/// ENXIO for both.
fn module_version(path: &Path) -> (Fact<Version>, Option<HostState>) {
    let lost = |what: &str, errno: Errno| unknown(format!("{what} ({}: {errno:?})", path.display()));
    match text(path) {
        Ok(text) => (parsed(&text), None),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(errno @ Errno::EBUSY) => {
                (lost("an update that failed shut the module down", errno), Some(HostState::ModuleDown))
            }
            Some(errno @ Errno::ENODEV) => {
                (lost("an update that failed left no module", errno), Some(HostState::ModuleGone))
            }
            Some(errno @ Errno::ENXIO) => (lost("an update that failed shut the module down", errno), None),
            _ => (Err(cannot(path, &error)), None),
        },
    }
}

/// A file that may not exist; `what` is said if it does not.
fn offered(place: Option<&PathBuf>, what: &str) -> Fact<String> {
    place.map_or_else(|| unknown(what), |path| read(path))
}

impl HostFacts {
    fn new(sysfs: &Path, places: &Places, cpu: MachineFacts, this_machine: bool) -> Self {
        let missing = format!("no tdx_host device below {}", sysfs.display());
        let (module, state) = match &places.version {
            Some(path) => module_version(path),
            None => (unknown(missing.as_str()), None),
        };
        let hidden = match &places.version {
            Some(_) => "the kernel does not show it: the module or the CPU cannot be updated at run time",
            None => missing.as_str(),
        };
        let cpus = |name: &str| {
            let path = sysfs.join("devices/system/cpu").join(name);
            read(&path).and_then(|text| {
                parse_cpu_list(&text).ok_or_else(|| Unknown(format!("{}: no list of CPUs", path.display())))
            })
        };
        let profile = module.clone().and_then(|running| {
            release_profile(running).ok_or_else(|| Unknown(format!("{running} is no published release")))
        });
        let module_svn = profile.clone().map(|profile| profile.svn);
        let module_features = profile.map(|profile| profile.features0);
        Self {
            module,
            module_svn,
            module_features,
            seamldr: offered(places.seamldr_version.as_ref(), hidden).and_then(|text| parsed(&text)),
            remaining_updates: offered(places.remaining_updates.as_ref(), hidden).and_then(|text| {
                text.parse().map_err(|_| {
                    Unknown(format!("`{}` in num_remaining_updates is no number", glimpse(&text)))
                })
            }),
            cpus_online: cpus("online"),
            cpus_present: cpus("present"),
            cpuid_1_eax: cpu.signature,
            x2apic_ids: cpu.x2apic_ids,
            seamret_invd_vmcs: cpu.seamret_invd_vmcs,
            state: cpu.state.or(state),
            upload: places.upload.as_ref().map(|directory| UploadState {
                directory: directory.clone(),
                status: read(&directory.join("status")),
            }),
            layout: places.layout,
            header: places.header(),
            this_machine,
        }
    }
}

/// The profile of a release by its version; synthetic ones count, a software machine runs them.
pub fn release_profile(version: Version) -> Option<&'static profile::Profile> {
    profile::all().find(|profile| profile.version == version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (file, content) in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn facts(root: &tempfile::TempDir, with_proc: bool) -> HostFacts {
        let own = with_proc.then(|| root.path().to_owned());
        Sources { sysfs: root.path().join("sys"), root: own, api: None }.read().unwrap()
    }

    const FILES: [(&str, &[u8]); 6] = [
        ("sys/devices/faux/tdx_host/version", b"1.5.06\n"),
        ("sys/devices/faux/tdx_host/seamldr_version", b"1.5.00\n"),
        ("sys/devices/faux/tdx_host/num_remaining_updates", b"254\n"),
        ("sys/class/firmware/tdx_module/status", b"idle\n"),
        ("sys/devices/system/cpu/online", b"0-1\n"),
        ("sys/devices/system/cpu/present", b"0-2\n"),
    ];
    const CPUINFO: &[u8] = b"processor: 0\nvendor_id: GenuineIntel\ncpu family: 6\nmodel: 143\nstepping: 8\n\
                             apicid: 0\nbugs: seamret_invd_vmcs\n\nprocessor: 1\napicid: 2\n";

    #[test]
    fn a_tree_tells_versions_and_masks_but_no_cpu_of_its_own() {
        let root = tree(&FILES);
        let host = facts(&root, false);
        assert_eq!(host.module, Ok(Version::new(1, 5, 6)));
        assert_eq!(host.module_svn, Ok(Svn { major: 1, minor: 6 }));
        assert_eq!(host.seamldr, Ok(Version::new(1, 5, 0)));
        assert_eq!(host.remaining_updates, Ok(254));
        assert_eq!(host.cpus_online, Ok(BTreeSet::from([0, 1])));
        assert_eq!(host.cpus_present, Ok(BTreeSet::from([0, 1, 2])));
        assert_eq!(host.upload.as_ref().map(|upload| &upload.status), Some(&Ok("idle".to_owned())));
        assert_eq!((host.layout, host.header), (Some(Layout::Linux7_3), Some(HeaderVersion::V0x200)));
        // The computer under the test must not lend its CPU to another machine's tree.
        assert!(!host.this_machine);
        for unknown in [host.cpuid_1_eax.err(), host.x2apic_ids.err(), host.seamret_invd_vmcs.err()] {
            assert_eq!(unknown, Some(Unknown(NO_CPU.to_owned())));
        }
    }

    #[test]
    fn files_of_the_tree_tell_the_cpu_where_they_are() {
        let mut madt = b"APIC".to_vec();
        madt.resize(44, 0);
        madt.extend([0, 8, 0, 7, 1, 0, 0, 0]);
        let modalias = b"cpu:type:x86,ven0000fam0006mod00AF:feature:,0000\n";
        let more: [(&str, &[u8]); 2] =
            [("sys/devices/system/cpu/modalias", modalias), ("sys/firmware/acpi/tables/APIC", &madt)];
        let root = tree(&[&FILES[..], &more].concat());
        let host = facts(&root, false);
        assert_eq!(host.cpuid_1_eax, Ok(0xA06F0));
        let ids = host.x2apic_ids.unwrap();
        assert_eq!((ids.ids, ids.all), (BTreeSet::from([7]), true));
    }

    #[test]
    fn cpuinfo_tells_the_cpu_and_only_the_ids_of_online_ones() {
        let root = tree(&[&FILES[..], &[("proc/cpuinfo", CPUINFO)]].concat());
        let host = facts(&root, true);
        assert_eq!(host.cpuid_1_eax, Ok(0x806F8));
        assert_eq!(host.seamret_invd_vmcs, Ok(true));
        let ids = host.x2apic_ids.unwrap();
        assert_eq!((ids.ids, ids.all, ids.source), (BTreeSet::from([0, 2]), false, "/proc/cpuinfo"));
    }

    #[test]
    fn the_msr_tells_of_the_erratum_where_the_kernel_does_not_list_it() {
        let mut told = Snapshot::default();
        assert!(loses_vmcs(&told).is_err(), "nobody looked");
        told.set_msr(0, MsrIndex::IA32_VMX_BASIC, NO_SEAMRET_INVD_VMCS | 1);
        assert_eq!(loses_vmcs(&told), Ok(false));
        told.set_msr(1, MsrIndex::IA32_VMX_BASIC, 1);
        assert_eq!(loses_vmcs(&told), Ok(true));
        told.remove_msr(1, MsrIndex::IA32_VMX_BASIC);
        assert!(loses_vmcs(&told).is_err());
        let silent = String::from_utf8(CPUINFO.to_vec()).unwrap().replace("seamret_invd_vmcs", "spectre_v1");
        let root = tree(&[&FILES[..], &[("proc/cpuinfo", silent.as_bytes())]].concat());
        assert!(facts(&root, true).seamret_invd_vmcs.is_err());
    }

    #[test]
    fn what_is_not_there_is_unknown_with_its_reason() {
        let root = tree(&[]);
        let sys = root.path().join("sys");
        let sources = Sources { sysfs: sys.clone(), root: None, api: None };
        let error = sources.read().unwrap_err().to_string();
        assert_eq!(error, format!("{} is no directory: the root of a sysfs tree is wanted", sys.display()));
        fs::create_dir(&sys).unwrap();
        let host = facts(&root, true);
        let text = |fact: Fact<Version>| fact.unwrap_err().to_string();
        assert_eq!(text(host.module), format!("no tdx_host device below {}", sys.display()));
        assert_eq!(text(host.seamldr), format!("no tdx_host device below {}", sys.display()));
        assert!(host.cpus_online.unwrap_err().0.ends_with("cpu/online does not exist"));
        assert!(host.cpuid_1_eax.unwrap_err().0.ends_with("cpuinfo does not exist"));
        assert_eq!((host.upload, host.layout, host.header), (None, None, None));
    }

    #[test]
    fn broken_texts_are_unknown_not_zero() {
        let root = tree(&[
            ("sys/devices/faux/tdx_host/version", b"x\n"),
            ("sys/devices/faux/tdx_host/num_remaining_updates", b"many\n"),
            ("sys/devices/system/cpu/online", b"all\n"),
            ("proc/cpuinfo", b"vendor_id: AuthenticAMD\n"),
        ]);
        let host = facts(&root, true);
        assert!(host.module.is_err() && host.module_svn.is_err());
        assert_eq!(
            host.remaining_updates.unwrap_err().to_string(),
            "`many` in num_remaining_updates is no number"
        );
        assert!(host.cpus_online.unwrap_err().0.ends_with("no list of CPUs"));
        assert_eq!(host.cpuid_1_eax.unwrap_err().0, "the CPU is of \"AuthenticAMD\", not of Intel");
        assert!(host.x2apic_ids.unwrap_err().0.ends_with("no APIC ids"));
    }
}
