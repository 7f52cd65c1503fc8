//! The program as a process, and trees of a kernel that a thread plays.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_tdxhost");

/// Runs the program. One that hangs is ended: the kernel in these tests answers only what it was told to.
pub(crate) fn tdxhost(args: &[&str]) -> Output {
    Command::new("timeout").arg("60").arg(BINARY).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a run that must go well and say nothing else.
pub(crate) fn good(args: &[&str]) -> String {
    let output = tdxhost(args);
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{args:?}: {}{errors}", text(&output.stdout));
    assert_eq!(errors, "", "{args:?}");
    text(&output.stdout)
}

/// Standard output, and the one line on standard error of a run that must fail.
pub(crate) fn bad(args: &[&str]) -> (String, String) {
    let output = tdxhost(args);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}{errors}", text(&output.stdout));
    assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
    let line = errors.strip_prefix("tdxhost: ").unwrap_or_else(|| panic!("{errors}")).trim_end().to_owned();
    (text(&output.stdout), line)
}

/// The JSON document of a run, and whether it went well.
pub(crate) fn document(args: &[&str]) -> (Value, bool) {
    let output = tdxhost(args);
    assert_eq!(text(&output.stderr), "", "{args:?}");
    let text = text(&output.stdout);
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (value, output.status.success())
}

/// A temporary directory, and paths in it as text.
pub(crate) struct Folder(pub(crate) TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Builds an image with the program.
    pub(crate) fn build(&self, name: &str, args: &[&str]) -> String {
        let out = self.text(name);
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        good(&[&["module", "build", "--out", &out], args].concat());
        out
    }
}

/// Where one generation of the kernel has its files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) layout: &'static str,
    pub(crate) header: &'static str,
    pub(crate) version: &'static str,
    pub(crate) seamldr: &'static str,
    pub(crate) updates: &'static str,
    pub(crate) upload: &'static str,
}

pub(crate) const LINUX_7_3: Places = Places {
    layout: "7.3",
    header: "0x200",
    version: "devices/faux/tdx_host/version",
    seamldr: "devices/faux/tdx_host/seamldr_version",
    updates: "devices/faux/tdx_host/num_remaining_updates",
    upload: "class/firmware/tdx_module",
};

pub(crate) const ALL_PLACES: [Places; 5] = [
    LINUX_7_3,
    Places {
        layout: "2025-09",
        header: "0x100",
        version: "devices/faux/tdx_host/version",
        seamldr: "devices/faux/tdx_host/seamldr/version",
        updates: "devices/faux/tdx_host/seamldr/num_remaining_updates",
        upload: "class/firmware/seamldr_upload",
    },
    // The same attributes with the upload directory of 2026-02.
    Places {
        layout: "2025-09",
        header: "0x100",
        version: "devices/faux/tdx_host/version",
        seamldr: "devices/faux/tdx_host/seamldr/version",
        updates: "devices/faux/tdx_host/seamldr/num_remaining_updates",
        upload: "class/firmware/tdx_module",
    },
    Places {
        layout: "2025-03",
        header: "0x100",
        version: "devices/virtual/tdx/tdx_tsm/version",
        seamldr: "devices/virtual/tdx/seamldr/version",
        updates: "devices/virtual/tdx/seamldr/num_remaining_updates",
        upload: "class/firmware/seamldr_upload",
    },
    // What one text of Intel's script expects.
    Places {
        layout: "2026-intermediate",
        header: "0x100",
        version: "devices/faux/tdx_host/version",
        seamldr: "devices/faux/tdx_host/seamldr/version",
        updates: "devices/faux/tdx_host/num_remaining_updates",
        upload: "class/firmware/seamldr_upload",
    },
];

/// A sysfs tree of plain files: Sapphire Rapids with four CPUs, 1.5.06, P-SEAMLDR 1.5.00, 10 updates left.
pub(crate) struct Tree {
    pub(crate) folder: Folder,
    pub(crate) places: Places,
}

impl Tree {
    pub(crate) fn new(places: Places) -> Self {
        let folder = Folder::new();
        for (path, content) in [
            (places.version, "1.5.06\n"),
            (places.seamldr, "1.5.00\n"),
            (places.updates, "10\n"),
            ("devices/system/cpu/online", "0-3\n"),
            ("devices/system/cpu/present", "0-3\n"),
            ("devices/system/cpu/modalias", "cpu:type:x86,ven0000fam0006mod008F:feature:,0000\n"),
        ] {
            folder.write(path, content.as_bytes());
        }
        folder.write("firmware/acpi/tables/APIC", &madt(&[0, 1, 2, 3]));
        for (name, content) in [("status", "idle\n"), ("loading", "0\n"), ("data", ""), ("error", "")] {
            folder.write(&format!("{}/{name}", places.upload), content.as_bytes());
        }
        Self { folder, places }
    }

    pub(crate) fn sysfs(&self) -> &str {
        self.folder.0.path().to_str().unwrap()
    }

    pub(crate) fn set(&self, path: &str, content: &str) {
        self.folder.write(path, content.as_bytes());
    }

    fn path(&self, name: &str) -> PathBuf {
        match name {
            "version" => self.folder.path(self.places.version),
            "updates" => self.folder.path(self.places.updates),
            name => self.folder.path(self.places.upload).join(name),
        }
    }

    /// A kernel that goes through `acts`, one after the other. Its files are pipes: the kernel waits for
    /// whoever reads or writes, and they for the kernel. What was written is handed out at the end.
    pub(crate) fn kernel(&self, acts: Vec<Act>) -> Receiver<Vec<Vec<u8>>> {
        self.pipes();
        self.play(acts)
    }

    /// Makes the files pipes, which wait for a kernel.
    pub(crate) fn pipes(&self) {
        for name in ["version", "status", "loading", "data", "error"] {
            fs::remove_file(self.path(name)).unwrap();
            mkfifo(&self.path(name), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
    }

    /// The kernel behind the pipes.
    pub(crate) fn play(&self, acts: Vec<Act>) -> Receiver<Vec<Vec<u8>>> {
        let acts: Vec<(Act, PathBuf)> = acts.into_iter().map(|act| (act, self.path(act.name()))).collect();
        let (written, receiver) = channel();
        thread::spawn(move || written.send(acts.iter().filter_map(|(act, path)| act.play(path)).collect()));
        receiver
    }
}

/// A kernel that was asked everything ends at once; one that was not never does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What the kernel does next.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// Answers a reader of a file.
    Answers(&'static str, &'static str),
    /// Takes what somebody writes to a file.
    Takes(&'static str),
    /// Changes a file that is none of the pipes.
    Shows(&'static str, &'static str),
    /// Signals a process that has opened a file to write, then takes what it writes.
    Signals(&'static str, Pid, Signal),
}

impl Act {
    fn name(self) -> &'static str {
        match self {
            Self::Answers(name, _) | Self::Takes(name) | Self::Shows(name, _) | Self::Signals(name, ..) => {
                name
            }
        }
    }

    fn play(self, path: &Path) -> Option<Vec<u8>> {
        match self {
            Self::Answers(_, text) | Self::Shows(_, text) => {
                fs::write(path, text).unwrap();
                None
            }
            Self::Takes(_) => Some(fs::read(path).unwrap()),
            Self::Signals(_, process, signal) => {
                let mut file = fs::File::open(path).unwrap();
                kill(process, signal).unwrap();
                let mut written = Vec::new();
                file.read_to_end(&mut written).unwrap();
                Some(written)
            }
        }
    }
}

/// An ACPI MADT with these processors.
pub(crate) fn madt(ids: &[u32]) -> Vec<u8> {
    let mut table = b"APIC".to_vec();
    table.resize(44, 0);
    for id in ids {
        table.extend([9, 16, 0, 0]);
        table.extend(id.to_le_bytes());
        table.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    }
    table
}
