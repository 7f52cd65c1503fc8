//! The facts of the machine that this program runs on.

use std::cell::OnceCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tdx_abi::msr::MsrIndex;

use super::cpu::CpuIdentity;
use super::facts::{Facts, Unseen};

/// Most bytes of the kernel log that are looked at.
const LOG_LIMIT: usize = 16 << 20;

/// A host seen through `/proc`, `/sys` and `/dev` below a root directory.
#[derive(Clone, Debug)]
pub struct RealHost {
    root: PathBuf,
    /// Online CPUs with their package: asked for once, a large machine has thousands.
    cpus: OnceCell<Result<Vec<(u32, u32)>, Unseen>>,
}

impl RealHost {
    /// The host whose files are below `root`: `/` for this machine.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), cpus: OnceCell::new() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Online CPUs with their package, in ascending order of the CPU.
    fn cpus(&self) -> Result<&[(u32, u32)], Unseen> {
        self.cpus.get_or_init(|| self.read_cpus()).as_deref().map_err(Clone::clone)
    }

    fn read_cpus(&self) -> Result<Vec<(u32, u32)>, Unseen> {
        let directory = "/sys/devices/system/cpu";
        let entries = fs::read_dir(self.path(directory)).map_err(|error| unseen(directory, &error))?;
        let mut cpus = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(cpu) = name.to_str().and_then(|name| name.strip_prefix("cpu")?.parse::<u32>().ok())
            else {
                continue;
            };
            // An offline CPU has no topology.
            let topology = format!("{directory}/cpu{cpu}/topology/physical_package_id");
            let Ok(text) = self.read_file(&topology) else { continue };
            if let Ok(package) = text.trim().parse::<u32>() {
                cpus.push((cpu, package));
            }
        }
        cpus.sort_unstable();
        Ok(cpus)
    }
}

impl Facts for RealHost {
    fn cpu(&self) -> Result<CpuIdentity, Unseen> {
        self.read_file("/proc/cpuinfo").map(|text| CpuIdentity::from_cpuinfo(&text))
    }

    fn packages(&self) -> Result<Vec<u32>, Unseen> {
        let mut packages: Vec<u32> = self.cpus()?.iter().map(|&(_, package)| package).collect();
        packages.sort_unstable();
        packages.dedup();
        Ok(packages)
    }

    fn rdmsr(&self, package: u32, msr: MsrIndex) -> Result<u64, Unseen> {
        let cpu = self.cpus()?.iter().find(|&&(_, of)| of == package).map(|&(cpu, _)| cpu);
        let cpu = cpu.ok_or_else(|| Unseen::Missing(format!("package {package}")))?;
        let name = format!("/dev/cpu/{cpu}/msr");
        let file = File::open(self.path(&name)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unseen::NoMsrDriver(name.clone()),
            _ => unseen(&name, &error),
        })?;
        let mut bytes = [0; 8];
        match file.read_exact_at(&mut bytes, u64::from(msr.0)) {
            Ok(()) => Ok(u64::from_le_bytes(bytes)),
            // The driver turns #GP into EIO.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Err(Unseen::NoMsr(msr)),
            Err(error) => Err(unseen(&format!("{name}, MSR {:#x}", msr.0), &error)),
        }
    }

    fn read_file(&self, path: &str) -> Result<String, Unseen> {
        match fs::read(self.path(path)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(unseen(path, &error)),
        }
    }

    fn kernel_log(&self) -> Result<String, Unseen> {
        let name = "/dev/kmsg";
        read_log(&self.path(name)).map_err(|error| unseen(name, &error))
    }
}

fn unseen(what: &str, error: &io::Error) -> Unseen {
    match error.kind() {
        io::ErrorKind::NotFound => Unseen::Missing(what.to_owned()),
        io::ErrorKind::PermissionDenied => Unseen::Denied(what.to_owned()),
        _ => Unseen::Failed { what: what.to_owned(), why: error.to_string() },
    }
}

/// Reads what the log holds now. `/dev/kmsg` gives one record for each read and would block at the end.
fn read_log(path: &Path) -> io::Result<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut log = Vec::new();
    let mut record = vec![0; 8192];
    while log.len() < LOG_LIMIT {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(length) => log.extend_from_slice(record.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The record was overwritten before it was read: go on with the next one.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&log).into_owned())
}
