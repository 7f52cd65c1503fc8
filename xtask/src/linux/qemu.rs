//! QEMU: the system's if it is new enough, else the one of the chroot.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::command::{Chroot, guarded, output};

/// The program.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";
/// The first that has version 7 of the plugin API.
const FIRST: QemuVersion = QemuVersion(11, 1, 0);

/// A version of QEMU: major, minor, micro.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct QemuVersion(u32, u32, u32);

impl QemuVersion {
    /// Out of what `--version` prints: `QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)`.
    fn parse(text: &str) -> Option<Self> {
        let version = text.lines().next()?.split_once(" version ")?.1;
        let version = version.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut numbers = version.split('.').map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self(next()?, next()?, next().unwrap_or(0)))
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A QEMU that can load the plugin.
#[derive(Clone, Debug)]
pub(super) struct Qemu {
    program: PathBuf,
    chroot: Option<Chroot>,
    version: QemuVersion,
}

impl Qemu {
    /// The program that the user names; it must be new enough.
    pub(super) fn named(program: &Path) -> Result<Self> {
        let version = version(&mut Command::new(program))
            .with_context(|| format!("{} is no QEMU that can be used", program.display()))?;
        if version < FIRST {
            bail!("{} is QEMU {version}: the plugin needs {FIRST} or newer", program.display());
        }
        Ok(Self { program: program.to_owned(), chroot: None, version })
    }

    /// The system's, if it is new enough.
    pub(super) fn of_the_system() -> Option<Self> {
        Self::named(Path::new(PROGRAM)).ok()
    }

    /// That of a chroot.
    pub(super) fn of(chroot: &Chroot) -> Result<Self> {
        let version = version(&mut chroot.command("/", PROGRAM))?;
        if version < FIRST {
            bail!(
                "Debian's backports hold QEMU {version}: the plugin needs {FIRST} or newer; give one with --qemu"
            );
        }
        Ok(Self { program: PROGRAM.into(), chroot: Some(chroot.clone()), version })
    }

    /// Its version, and where it is from.
    pub(super) fn description(&self) -> String {
        let place = if self.chroot.is_some() { "in the chroot" } else { "of the system" };
        format!("QEMU {} {place}", self.version)
    }

    /// The folder in which boots have their files: where this QEMU can see it.
    pub(super) fn boots(&self, cache: &Path) -> PathBuf {
        match &self.chroot {
            Some(chroot) => chroot.outside("/var/tmp/tdxhost"),
            None => cache.join("boots"),
        }
    }

    /// A call of it with `folder` as its working directory. It ends when this program does.
    pub(super) fn command(&self, folder: &Path) -> Result<Command> {
        let Some(chroot) = &self.chroot else {
            let mut command = guarded(&self.program);
            command.current_dir(folder);
            return Ok(command);
        };
        let inside = chroot
            .inside(folder)
            .with_context(|| format!("{} is not in the chroot of QEMU", folder.display()))?;
        Ok(chroot.command(&inside.display().to_string(), &self.program))
    }
}

fn version(command: &mut Command) -> Result<QemuVersion> {
    let text = output(command.arg("--version"))?;
    QemuVersion::parse(&text)
        .with_context(|| format!("it answers --version with {:?}", text.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_read_out_of_the_greeting() {
        for (text, version) in [
            (
                "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\nCopyright\n",
                Some(QemuVersion(11, 1, 3)),
            ),
            ("QEMU emulator version 10.0.13", Some(QemuVersion(10, 0, 13))),
            ("QEMU emulator version 11.1.50-rc1", Some(QemuVersion(11, 1, 50))),
            ("QEMU emulator version 12.0", Some(QemuVersion(12, 0, 0))),
            ("QEMU emulator version x", None),
            ("busybox 1.37", None),
            ("", None),
        ] {
            assert_eq!(QemuVersion::parse(text), version, "{text}");
        }
    }

    #[test]
    fn the_plugin_interface_sets_the_lowest_version() {
        assert!(QemuVersion(11, 0, 9) < FIRST);
        assert!(QemuVersion(11, 1, 0) >= FIRST);
        assert!(QemuVersion(12, 0, 0) >= FIRST);
    }

    #[test]
    fn a_program_that_is_no_qemu_is_refused_in_a_line() {
        let error = format!("{:#}", Qemu::named(Path::new("/bin/true")).unwrap_err());
        assert!(error.contains("/bin/true is no QEMU") && !error.contains('\n'), "{error}");
        let error = format!("{:#}", Qemu::named(Path::new("/nowhere/qemu")).unwrap_err());
        assert!(error.contains("cannot be started"), "{error}");
    }
}
