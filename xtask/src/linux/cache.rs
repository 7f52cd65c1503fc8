//! The folder outside the checkout that keeps what was prepared, and the lines that preparing prints.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::stamp::Stamp;

/// What a preparation from nothing needs of the disk: chroot, kernel sources and objects.
const NEEDED_BYTES: u64 = 5 << 30;

/// The file that is there as long as the folder, and shows that it is a cache.
const LOCK: &str = "lock";

/// The cache while this program has it for itself.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Cache {
    /// The folder for a user who names none.
    pub(super) fn default_folder() -> Result<PathBuf> {
        let base = std::env::var_os("XDG_CACHE_HOME")
            .filter(|path| Path::new(path).is_absolute())
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
            .context(
                "there is neither XDG_CACHE_HOME nor HOME to keep a cache in: name a folder with --cache",
            )?;
        Ok(base.join("tdxhost").join("linux"))
    }

    /// Takes the cache, made if it is not there.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let cannot =
            || format!("{} cannot be used as a cache: name another folder with --cache", folder.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        let folder = folder.canonicalize().with_context(cannot)?;
        let lock = folder.join(LOCK);
        // What is in a cache gets removed.
        if !lock.exists() && fs::read_dir(&folder).with_context(cannot)?.next().is_some() {
            bail!(
                "{} has files that are none of this cache: name an empty folder or a new one with --cache",
                folder.display()
            );
        }
        let lock = File::create(lock).with_context(cannot)?;
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { folder, _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "another `cargo xtask linux` uses {}: wait for its end or name another folder with --cache",
                folder.display()
            ),
            Err((_, error)) => Err(error).with_context(cannot),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The log of a step.
    pub(super) fn log(&self, step: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{step}.log"))
    }

    /// The stamp of a step.
    pub(super) fn stamp(&self, step: &str) -> Stamp {
        Stamp::new(&self.folder, step)
    }

    /// Removes everything that was prepared.
    pub(super) fn clean(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder).with_context(|| format!("read {}", self.folder.display()))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == LOCK) {
                continue;
            }
            remove(&path)?;
        }
        Ok(())
    }
}

/// Removes a file or a folder, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    gone.with_context(|| format!("remove {}", path.display()))
}

/// Why the disk of `folder` (or of what is above it) is too small for a preparation, if it is.
pub(super) fn lack_of_space(folder: &Path) -> Option<String> {
    let existing = folder.ancestors().find(|path| path.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    too_small(free, folder)
}

fn too_small(free: u64, folder: &Path) -> Option<String> {
    (free < NEEDED_BYTES).then(|| {
        format!(
            "{} has {} MiB free and the parts take up to {} MiB: make room or name another folder with --cache",
            folder.display(),
            free >> 20,
            NEEDED_BYTES >> 20,
        )
    })
}

/// Does one step of the preparation with one line for it: its name, what it makes, and how long that took.
pub(super) fn step<T>(name: &str, what: &str, ready: bool, work: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{name:<12}{what} ... ");
    // A terminal that is gone is no reason to stop.
    let _ = std::io::stdout().flush();
    let start = Instant::now();
    let result = work();
    match &result {
        Ok(_) if ready => println!("as before"),
        Ok(_) => println!("{}", duration(start.elapsed())),
        Err(_) => println!("failed"),
    }
    result
}

/// A time as a reader wants it: `0.4 s`, `12 s`, `5 min 31 s`.
pub(super) fn duration(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        seconds @ 10..120 => format!("{seconds} s"),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_had_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        let first = Cache::open(&path).unwrap();
        let error = Cache::open(&path).unwrap_err().to_string();
        assert!(error.contains("another `cargo xtask linux` uses") && error.contains("--cache"), "{error}");
        drop(first);
        Cache::open(&path).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Cache::open(&file.path().join("x")).unwrap_err().to_string();
        assert!(error.contains("cannot be used as a cache"), "{error}");
    }

    #[test]
    fn a_folder_of_other_files_is_no_cache() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("letter"), "x").unwrap();
        let error = Cache::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("none of this cache"), "{error}");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["letter"]);
    }

    #[test]
    fn cleaning_leaves_nothing_but_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        fs::create_dir_all(folder.path().join("trixie/usr/src")).unwrap();
        fs::write(folder.path().join("trixie/usr/src/a"), "x").unwrap();
        std::os::unix::fs::symlink("/nowhere", folder.path().join("link")).unwrap();
        cache.clean().unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
        remove(&folder.path().join("not there")).unwrap();
    }

    #[test]
    fn a_disk_that_is_too_small_is_told_before_anything_is_fetched() {
        let path = Path::new("/c");
        assert_eq!(too_small(NEEDED_BYTES, path), None);
        let reason = too_small(NEEDED_BYTES - 1, path).unwrap();
        assert!(reason.starts_with("/c has 5119 MiB free and the parts take up to 5120 MiB"), "{reason}");
    }

    #[test]
    fn times_are_short_to_read() {
        for (seconds, text) in [(0.42, "0.4 s"), (12.9, "12 s"), (119.0, "119 s"), (331.0, "5 min 31 s")] {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
    }
}
