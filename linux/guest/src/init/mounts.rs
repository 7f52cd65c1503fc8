//! The file systems that the steps look into.

use nix::{errno::Errno, mount::MsFlags};

const MOUNTS: [(&str, &str); 4] =
    [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("debugfs", "/sys/kernel/debug")];

/// Mounts them all and returns a sentence for each that fails.
pub(super) fn mount_all() -> Vec<String> {
    let mut problems = Vec::new();
    for (kind, place) in MOUNTS {
        // The directory of debugfs comes with sysfs; the others may be missing in a small initramfs.
        if let Err(error) = std::fs::create_dir_all(place) {
            problems.push(format!("{place} cannot be made: {error}"));
        }
        match nix::mount::mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(errno) => problems.push(format!("{kind} cannot be mounted on {place}: {errno}")),
        }
    }
    problems
}
