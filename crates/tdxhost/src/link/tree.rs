//! The files of PCI/TSM and PCI/IDE below one sysfs directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pcie::{FunctionId, Segment};

/// Why a device cannot be connected or disconnected, or its files not be read.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No function has the address.
    #[error("no PCI function {device} in {directory}: look for it there, or rescan the bus")]
    NoFunction {
        /// Its address.
        device: FunctionId,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// There is no TSM.
    #[error("no TSM in {0}: TDX Connect is off on this host, or the kernel has no PCI/TSM")]
    NoTsm(PathBuf),
    /// There are several.
    #[error("there are several TSMs ({}): name one with --tsm", .0.join(", "))]
    SeveralTsms(Vec<String>),
    /// The function is none that is connected.
    #[error(
        "{device} has no {file}: only function 0 of a device with IDE or TEE-IO is connected, and its DSM answers for the others"
    )]
    NoFile {
        /// The function.
        device: FunctionId,
        /// The file.
        file: &'static str,
    },
    /// It is not connected.
    #[error("{device} is not connected")]
    NotConnected {
        /// The function.
        device: FunctionId,
    },
    /// The kernel refused.
    #[error("{device}: the kernel refuses `{text}` in {file}: {cause}")]
    Refused {
        /// The function.
        device: FunctionId,
        /// The file.
        file: &'static str,
        /// What was written.
        text: String,
        /// The system's answer.
        cause: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
}

/// A stream between a host bridge and an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    /// The host bridge, `pci0000:3a`.
    pub bridge: String,
    /// Name of the link, `stream0.0.0`: slot of the bridge, register block of the root port and of the endpoint.
    pub name: String,
    /// The endpoint, as the link's target names it.
    pub endpoint: String,
}

/// A host bridge with an IDE pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bridge {
    /// `pci0000:3a`.
    pub name: String,
    /// Streams that are left.
    pub available: u32,
}

/// The tree.
#[derive(Clone, Debug)]
pub struct PciTree {
    sysfs: PathBuf,
}

const CONNECT: &str = "tsm/connect";
const DISCONNECT: &str = "tsm/disconnect";

impl PciTree {
    /// The files below `sysfs`, which is `/sys` or a mounted tree.
    pub fn new(sysfs: &Path) -> Self {
        Self { sysfs: sysfs.to_owned() }
    }

    /// Names of the TSMs that are registered, ascending.
    pub fn tsms(&self) -> Vec<String> {
        names(&self.sysfs.join("class/tsm"))
    }

    /// The TSM to use: the one that was named, or the only one.
    pub fn tsm(&self, named: Option<&str>) -> Result<String, LinkError> {
        if let Some(name) = named {
            return Ok(name.to_owned());
        }
        let mut tsms = self.tsms();
        match (tsms.len(), tsms.pop()) {
            (1, Some(only)) => Ok(only),
            (_, None) => Err(LinkError::NoTsm(self.sysfs.join("class/tsm"))),
            (_, Some(last)) => {
                tsms.push(last);
                Err(LinkError::SeveralTsms(tsms))
            }
        }
    }

    /// The TSM that a device is connected to; `None` if it is not.
    pub fn connected(&self, device: FunctionId) -> Result<Option<String>, LinkError> {
        let path = self.file(device, CONNECT)?;
        let text = fs::read_to_string(&path).map_err(|cause| LinkError::Read { path, cause })?;
        Ok(Some(text.trim().to_owned()).filter(|name| !name.is_empty()))
    }

    /// Connects a device to a TSM.
    pub fn connect(&self, device: FunctionId, tsm: &str) -> Result<(), LinkError> {
        self.write(device, CONNECT, tsm)
    }

    /// Disconnects a device from the TSM that it is connected to; the name of that.
    pub fn disconnect(&self, device: FunctionId) -> Result<String, LinkError> {
        let tsm = self.connected(device)?.ok_or(LinkError::NotConnected { device })?;
        self.write(device, DISCONNECT, &tsm)?;
        Ok(tsm)
    }

    /// Streams of all host bridges, ascending.
    pub fn streams(&self) -> Vec<Stream> {
        let mut streams: Vec<Stream> = self
            .bridge_names()
            .into_iter()
            .flat_map(|bridge| {
                let directory = self.sysfs.join("devices").join(&bridge);
                let links = names(&directory).into_iter().filter(|name| name.starts_with("stream"));
                let stream = |name: String| {
                    let target = fs::read_link(directory.join(&name)).ok()?;
                    let endpoint = target.file_name()?.to_string_lossy().into_owned();
                    Some(Stream { bridge: bridge.clone(), name, endpoint })
                };
                links.filter_map(stream).collect::<Vec<_>>()
            })
            .collect();
        streams.sort();
        streams
    }

    /// Host bridges with an IDE pool, ascending.
    pub fn bridges(&self) -> Vec<Bridge> {
        let pool = |name: String| {
            let path = self.sysfs.join("devices").join(&name).join("available_secure_streams");
            let available = fs::read_to_string(path).ok()?.trim().parse().ok()?;
            Some(Bridge { name, available })
        };
        self.bridge_names().into_iter().filter_map(pool).collect()
    }

    fn bridge_names(&self) -> Vec<String> {
        let all = names(&self.sysfs.join("devices"));
        all.into_iter().filter(|name| name.starts_with("pci") && name.contains(':')).collect()
    }

    /// A file of a device; which of the two is missing is told.
    fn file(&self, device: FunctionId, file: &'static str) -> Result<PathBuf, LinkError> {
        let directory = self.sysfs.join("bus/pci/devices");
        let function = directory.join(device.to_string());
        if !function.exists() {
            return Err(LinkError::NoFunction { device, directory });
        }
        let path = function.join(file);
        if path.exists() {
            Ok(path)
        } else if self.tsms().is_empty() {
            Err(LinkError::NoTsm(self.sysfs.join("class/tsm")))
        } else {
            Err(LinkError::NoFile { device, file })
        }
    }

    fn write(&self, device: FunctionId, file: &'static str, text: &str) -> Result<(), LinkError> {
        let path = self.file(device, file)?;
        // Not created if it is gone by now.
        let opened = fs::OpenOptions::new().write(true).open(path);
        let written = opened.and_then(|mut opened| io::Write::write_all(&mut opened, text.as_bytes()));
        written.map_err(|cause| LinkError::Refused { device, file, text: text.to_owned(), cause })
    }
}

/// Names in a directory, ascending; none if it cannot be read.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// A device's address with or without a segment: `0000:3b:00.0` or `3b:00.0`.
pub fn address(text: &str) -> Result<FunctionId, String> {
    if let Ok(function) = text.parse::<FunctionId>() {
        return Ok(function);
    }
    let bdf = text.parse::<pcie::Bdf>();
    bdf.map(|bdf| FunctionId::new(Segment(0), bdf))
        .map_err(|_| format!("`{text}` is no PCI address: they look like 0000:3b:00.0 or 3b:00.0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Ordinary files in the places of a kernel's.
    struct Fake(tempfile::TempDir);

    impl Fake {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let device = root.path().join("devices/pci0000:3a/0000:3a:01.0/0000:3b:00.0");
            fs::create_dir_all(device.join("tsm")).unwrap();
            fs::create_dir_all(root.path().join("bus/pci/devices")).unwrap();
            symlink(&device, root.path().join("bus/pci/devices/0000:3b:00.0")).unwrap();
            fs::write(device.join("tsm/connect"), "\n").unwrap();
            fs::write(device.join("tsm/disconnect"), "").unwrap();
            fs::write(root.path().join("devices/pci0000:3a/available_secure_streams"), "8\n").unwrap();
            Self(root)
        }

        fn tree(&self) -> PciTree {
            PciTree::new(self.0.path())
        }

        fn register(&self, name: &str) {
            fs::create_dir_all(self.0.path().join("class/tsm").join(name)).unwrap();
        }
    }

    fn device() -> FunctionId {
        address("3b:00.0").unwrap()
    }

    #[test]
    fn an_address_needs_no_segment() {
        assert_eq!(address("0000:3b:00.0").unwrap(), device());
        assert_eq!(address("0001:3b:00.0").unwrap().segment, Segment(1));
        for bad in ["", "3b:00", "3b:20.0", "3b:00.8", "eth0"] {
            assert!(address(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn the_only_tsm_is_taken_and_one_of_several_must_be_named() {
        let fake = Fake::new();
        assert!(matches!(fake.tree().tsm(None), Err(LinkError::NoTsm(_))));
        fake.register("tsm0");
        assert_eq!(fake.tree().tsm(None).unwrap(), "tsm0");
        fake.register("tsm1");
        let Err(LinkError::SeveralTsms(names)) = fake.tree().tsm(None) else { panic!("one was taken") };
        assert_eq!(names, ["tsm0", "tsm1"]);
        assert_eq!(fake.tree().tsm(Some("tsm1")).unwrap(), "tsm1");
    }

    #[test]
    fn names_are_written_to_the_files_of_the_device() {
        let fake = Fake::new();
        fake.register("tsm0");
        assert_eq!(fake.tree().connected(device()).unwrap(), None);
        assert!(matches!(fake.tree().disconnect(device()), Err(LinkError::NotConnected { .. })));
        fake.tree().connect(device(), "tsm0").unwrap();
        assert_eq!(fake.tree().connected(device()).unwrap().as_deref(), Some("tsm0"));
        assert_eq!(fake.tree().disconnect(device()).unwrap(), "tsm0");
        let written = fake.0.path().join("bus/pci/devices/0000:3b:00.0/tsm/disconnect");
        assert_eq!(fs::read_to_string(written).unwrap(), "tsm0");
    }

    #[test]
    fn what_is_missing_is_told() {
        let fake = Fake::new();
        let absent = address("0000:99:00.0").unwrap();
        assert!(matches!(fake.tree().connect(absent, "tsm0"), Err(LinkError::NoFunction { .. })));
        fs::remove_file(fake.0.path().join("bus/pci/devices/0000:3b:00.0/tsm/connect")).unwrap();
        assert!(matches!(fake.tree().connect(device(), "tsm0"), Err(LinkError::NoTsm(_))));
        fake.register("tsm0");
        assert!(matches!(
            fake.tree().connect(device(), "tsm0"),
            Err(LinkError::NoFile { file: "tsm/connect", .. })
        ));
    }

    #[test]
    fn streams_are_the_links_of_the_bridges() {
        let fake = Fake::new();
        assert_eq!(fake.tree().streams(), []);
        let bridge = fake.0.path().join("devices/pci0000:3a");
        symlink("0000:3a:01.0/0000:3b:00.0", bridge.join("stream0.1.2")).unwrap();
        let stream = Stream {
            bridge: "pci0000:3a".into(),
            name: "stream0.1.2".into(),
            endpoint: "0000:3b:00.0".into(),
        };
        assert_eq!(fake.tree().streams(), [stream]);
        assert_eq!(fake.tree().bridges(), [Bridge { name: "pci0000:3a".into(), available: 8 }]);
    }
}
