//! The sysfs tree as a mounted file system.
//!
//! The mount is never set to unmount itself when the process dies: that needs a set-user-id helper
//! even as root. A mount that outlives its process is found and cleared by the next one instead.

mod filesystem;
mod inodes;
mod mounts;
mod privileges;

use std::io;
use std::path::{Path, PathBuf};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::errno::Errno;

use self::filesystem::SysfsFilesystem;
use self::privileges::Privileges;
use crate::sysfs::Tree;

/// Requests that are worked on at the same time: a slow attribute does not hold up the others.
const THREADS: usize = 4;

/// Why the tree could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point cannot be used.
    #[error("cannot mount on {point}: {reason}")]
    Point {
        /// The directory that was asked for.
        point: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process serves its tree here.
    #[error("cannot mount on {point}: another tdxhost serves there")]
    Occupied {
        /// The directory that was asked for.
        point: PathBuf,
    },
    /// This user may not mount.
    #[error("cannot mount on {point}: {missing}")]
    Missing {
        /// The directory that was asked for.
        point: PathBuf,
        /// What this user lacks, and what to do.
        missing: String,
    },
    /// The mount table cannot be read.
    #[error("cannot read /proc/self/mountinfo: {0}")]
    MountTable(io::Error),
    /// A stale mount could not be cleared.
    #[error("cannot clear the stale mount on {point}: {cause}")]
    Stale {
        /// The mount point.
        point: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// The system refused the mount.
    #[error("cannot mount on {point}: {cause}")]
    Mount {
        /// The directory that was asked for.
        point: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// The system refused to unmount, even lazily.
    #[error("cannot unmount {point}: {cause}")]
    Unmount {
        /// The mount point.
        point: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
}

/// How an unmount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used the tree.
    Clean,
    /// Files were still open: the tree is detached, and their users get errors from now on.
    Detached,
    /// Somebody else had unmounted it already.
    Already,
}

/// A mounted tree. Dropping it unmounts it, lazily if need be.
pub struct Mounted {
    point: PathBuf,
    /// Source of the mount in the mount table.
    source: String,
    session: Option<BackgroundSession>,
}

/// Mounts `tree` on the directory `point`, clearing a stale mount of a killed process first.
pub fn mount(tree: Tree, point: &Path) -> Result<Mounted, MountError> {
    let point = usable(point)?;
    let privileges = Privileges::of_this_process();
    if let Some(missing) = privileges.missing() {
        return Err(MountError::Missing { point, missing });
    }

    let source = mounts::unique_source();
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(source.clone()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.acl = if privileges.may_let_others_in() { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(THREADS);

    let refused = |cause| MountError::Mount { point: point.clone(), cause };
    let session = Session::new(SysfsFilesystem::new(tree), &point, &config).map_err(refused)?;
    let session = session.spawn().map_err(refused)?;
    Ok(Mounted { point, source, session: Some(session) })
}

/// The mount point with every link resolved and no stale mount on it.
fn usable(point: &Path) -> Result<PathBuf, MountError> {
    let point = mounts::absolute(point)
        .map_err(|error| MountError::Point { point: point.to_owned(), reason: error.to_string() })?;
    loop {
        let on_point = mounts::topmost(&point)?;
        match (point.metadata(), on_point) {
            (Ok(_), Some(mount)) if mount.is_ours() => {
                return Err(MountError::Occupied { point });
            }
            (Ok(metadata), _) if metadata.is_dir() => return Ok(point),
            (Ok(_), _) => {
                return Err(MountError::Point { point, reason: "not a directory".to_owned() });
            }
            (Err(error), Some(mount)) if mount.is_ours() && mounts::is_stale(&error) => {
                mounts::detach(&point).map_err(|cause| MountError::Stale { point: point.clone(), cause })?;
            }
            (Err(error), Some(mount)) if mounts::is_stale(&error) => {
                let reason = format!("a stale mount of {} is there; clear it with umount -l", mount.source);
                return Err(MountError::Point { point, reason });
            }
            (Err(error), _) => {
                return Err(MountError::Point { point, reason: error.to_string() });
            }
        }
    }
}

impl Mounted {
    /// The directory on which the tree is mounted, with every link resolved.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts; detaches the tree if files in it are still open.
    pub fn unmount(mut self) -> Result<Unmounted, MountError> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<Unmounted, MountError> {
        let Some(session) = self.session.take() else {
            return Ok(Unmounted::Already);
        };
        let ours = mounts::topmost(&self.point)?.is_some_and(|mount| mount.source == self.source);
        if !ours {
            // The session would unmount whatever stands there now, so it must not be dropped; its
            // threads have ended or will end with the process.
            std::mem::forget(session);
            return Ok(Unmounted::Already);
        }
        match session.umount_and_join() {
            Ok(()) => Ok(Unmounted::Clean),
            Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => mounts::detach(&self.point)
                .map(|()| Unmounted::Detached)
                .map_err(|cause| MountError::Unmount { point: self.point.clone(), cause }),
            Err(cause) => Err(MountError::Unmount { point: self.point.clone(), cause }),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nobody is left to be told; the next mount on this point clears what remains.
        let _ = self.take_down();
    }
}
