//! The mount table: what is mounted where, what is stale, and how to get rid of it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::MountError;
use super::privileges::HELPERS;

/// Beginning of the source of our mounts in the mount table.
const SOURCE: &str = "tdxhost:";

/// A source that no other mount has: the kernel gives mount ids and device numbers again as soon as
/// they are free, so they do not tell our mount from a later one at the same point.
pub(super) fn unique_source() -> String {
    static MOUNTS: AtomicU64 = AtomicU64::new(0);
    let number = MOUNTS.fetch_add(1, Ordering::Relaxed);
    format!("{SOURCE}{}:{number}", std::process::id())
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    point: PathBuf,
    kind: String,
    pub(super) source: String,
}

impl MountEntry {
    pub(super) fn is_ours(&self) -> bool {
        self.source.starts_with(SOURCE) && (self.kind == "fuse" || self.kind.starts_with("fuse."))
    }
}

/// The mount that is visible at `point`, if `point` is a mount point.
pub(super) fn topmost(point: &Path) -> Result<Option<MountEntry>, MountError> {
    let table = std::fs::read("/proc/self/mountinfo").map_err(MountError::MountTable)?;
    // Later lines cover earlier ones at the same point.
    Ok(table.split(|byte| *byte == b'\n').rev().filter_map(parse_line).find(|entry| entry.point == point))
}

/// Fields: id, parent, device, root, mount point, options, optional fields up to a lone `-`, then
/// file system type and source. See proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let point = unescape(fields.nth(4)?);
    let mut after = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(after.next()?).into_owned();
    let source = String::from_utf8_lossy(after.next()?).into_owned();
    Some(MountEntry { point: PathBuf::from(point), kind, source })
}

/// Space, tab, newline and backslash stand as three octal digits after a backslash.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            bytes.push(byte);
            rest = after.get(3..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    OsString::from_vec(bytes)
}

/// `point` with every link resolved, without touching `point` itself if it is a dead mount.
pub(super) fn absolute(point: &Path) -> io::Result<PathBuf> {
    match point.canonicalize() {
        Err(error) if is_stale(&error) => {
            let parent = match point.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            let name = point.file_name().ok_or(error)?;
            Ok(parent.canonicalize()?.join(name))
        }
        result => result,
    }
}

/// Whether an error says that the process behind a mount is gone.
pub(super) fn is_stale(error: &io::Error) -> bool {
    [Errno::ENOTCONN, Errno::ECONNABORTED].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Takes the mount at `point` out of the name space at once; it ends when its last user goes.
pub(super) fn detach(point: &Path) -> io::Result<()> {
    match umount2(point, MntFlags::MNT_DETACH) {
        Err(Errno::EPERM) => detach_by_helper(point),
        result => Ok(result?),
    }
}

fn detach_by_helper(point: &Path) -> io::Result<()> {
    for helper in HELPERS {
        let status = Command::new(helper)
            .args(["-u", "-z", "--"])
            .arg(point)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        match status {
            Ok(status) if status.success() => return Ok(()),
            Ok(status) => return Err(io::Error::other(format!("{helper} failed ({status})"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EPERM.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_gives_point_type_and_source_past_any_optional_fields() {
        for line in [
            "36 35 0:45 / /run/sysfs\\040view rw,nosuid - fuse tdxhost:7:0 rw,user_id=0",
            "36 35 0:45 / /run/sysfs\\040view rw,nosuid shared:7 master:1 - fuse tdxhost:7:0 rw",
        ] {
            let entry = parse_line(line.as_bytes()).unwrap();
            assert_eq!(entry.point, Path::new("/run/sysfs view"));
            assert!(entry.is_ours());
        }
    }

    #[test]
    fn mounts_of_other_sources_and_types_are_not_ours() {
        for line in [
            "36 35 0:45 / /mnt rw - fuse sshfs rw",
            "36 35 0:45 / /mnt rw - fuse tdxhost-other rw",
            "36 35 0:45 / /mnt rw - tmpfs tdxhost:7:0 rw",
        ] {
            assert!(!parse_line(line.as_bytes()).unwrap().is_ours());
        }
    }

    #[test]
    fn a_line_without_source_is_no_mount() {
        for line in ["", "36 35 0:45 /", "36 35 0:45 / /mnt rw shared:7", "36 35 0:45 / /mnt rw - fuse"] {
            assert_eq!(parse_line(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn no_two_mounts_have_the_same_source() {
        let (first, second) = (unique_source(), unique_source());
        assert_ne!(first, second);
        assert!([&first, &second].iter().all(|source| source.starts_with(SOURCE)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let parsed = parse_line(&line);
            prop_assert!(parsed.is_none_or(|entry| !entry.kind.contains(' ')));
        }

        #[test]
        fn escaped_points_come_back(name in "[ \\t\\n\\\\a-z/]{1,40}") {
            let mut escaped = Vec::new();
            for byte in name.bytes() {
                match byte {
                    b' ' | b'\t' | b'\n' | b'\\' => {
                        escaped.extend_from_slice(format!("\\{byte:03o}").as_bytes());
                    }
                    other => escaped.push(other),
                }
            }
            let field = unescape(&escaped);
            prop_assert_eq!(field.as_bytes(), name.as_bytes());
        }
    }

    #[test]
    fn only_a_lost_connection_is_stale() {
        assert!(is_stale(&Errno::ENOTCONN.into()));
        assert!(is_stale(&Errno::ECONNABORTED.into()));
        assert!(!is_stale(&Errno::ENOENT.into()));
        assert!(!is_stale(&Errno::EACCES.into()));
    }

    #[test]
    fn the_root_is_a_mount_point_of_somebody_else() {
        let root = topmost(Path::new("/")).unwrap().unwrap();
        assert!(!root.is_ours());
        assert_eq!(topmost(Path::new("/proc/self/mountinfo")).unwrap(), None);
    }
}
