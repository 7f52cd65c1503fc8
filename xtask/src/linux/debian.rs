//! A Debian in a folder: what the system lacks comes from there. Debian 13 "trixie" with its backports has a QEMU
//! and kernel sources that are new enough.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cache::{Cache, lack_of_space, remove, step};
use super::command::{Chroot, guarded, output, run};
use super::stamp::{Inputs, Stamp};

/// Where packages come from unless the user says otherwise.
pub(super) const MIRROR: &str = "http://deb.debian.org/debian";
/// The release.
const SUITE: &str = "trixie";
/// Where its newer packages are.
pub(super) const BACKPORTS: &str = "trixie-backports";
/// The first kernel whose TDX host side is whole: bring-up at boot, update at run time.
const FIRST_KERNEL: (u32, u32) = (7, 3);
/// The chroot's folder in the cache.
const FOLDER: &str = "trixie";

/// What builds a kernel.
const BUILD_PACKAGES: [&str; 12] = [
    "gcc",
    "make",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "libssl-dev",
    "xz-utils",
    "zstd",
    "lz4",
    "cpio",
    "kmod",
];

/// What is wanted of the chroot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// QEMU.
    pub(super) qemu: bool,
    /// Kernel sources and what builds them.
    pub(super) kernel: bool,
}

/// The chroot with its packages.
#[derive(Clone, Debug)]
pub(super) struct Debian {
    pub(super) chroot: Chroot,
    /// Name and version of the package with kernel sources, such as `linux-source-7.3` and `7.3.4-1~bpo13+1`.
    pub(super) source: Option<(String, String)>,
}

impl Debian {
    /// The chroot with what is wanted, made or completed.
    pub(super) fn prepare(cache: &Cache, mirror: &str, wanted: Wanted) -> Result<Self> {
        let root = cache.folder().join(FOLDER);
        let chroot = Chroot::new(root.clone());
        chroot.settle();
        let missing: Vec<Group> =
            wanted.groups().into_iter().filter(|group| !group.is_installed(cache.folder(), mirror)).collect();
        let ready = missing.is_empty();
        if !root.is_dir()
            && let Some(reason) = lack_of_space(cache.folder())
        {
            bail!(reason);
        }
        step("debian", &format!("Debian {SUITE} in {}", root.display()), root.is_dir(), || {
            if root.is_dir() { Ok(()) } else { bootstrap(cache, mirror, &root) }
        })?;
        let names: Vec<&str> = wanted.groups().iter().map(|group| group.what).collect();
        step("packages", &names.join(", "), ready, || {
            if ready {
                return Ok(());
            }
            install(cache, &chroot, mirror, &missing)?;
            missing.iter().try_for_each(|group| group.stamp(cache.folder()).finish(&group.inputs(mirror)))
        })?;
        let source = if wanted.kernel { Some(installed_source(&chroot)?) } else { None };
        Ok(Self { chroot, source })
    }

    /// True if a cache has this already.
    pub(super) fn is_ready(folder: &Path, mirror: &str, wanted: Wanted) -> bool {
        wanted.groups().iter().all(|group| group.is_installed(folder, mirror))
    }

    /// The busybox that runs without libraries.
    pub(super) fn busybox(&self) -> Result<Vec<u8>> {
        let path = self.chroot.outside("/usr/bin/busybox");
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    }
}

/// Packages that are installed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    /// What they are, and the name of the stamp.
    what: &'static str,
    packages: &'static [&'static str],
    /// The newest kernel sources belong to it.
    sources: bool,
}

const SHELL: Group = Group { what: "busybox", packages: &["busybox-static"], sources: false };
const QEMU: Group = Group { what: "QEMU", packages: &["qemu-system-x86"], sources: false };
const KERNEL: Group = Group { what: "kernel sources and compiler", packages: &BUILD_PACKAGES, sources: true };

impl Group {
    fn inputs(&self, mirror: &str) -> Inputs {
        Inputs::default().with("mirror", mirror).with("packages", &self.packages.join(" "))
    }

    fn stamp(&self, cache: &Path) -> Stamp {
        Stamp::new(cache, &format!("packages-{}", self.what.replace(' ', "-")))
    }

    fn is_installed(&self, cache: &Path, mirror: &str) -> bool {
        cache.join(FOLDER).is_dir() && self.stamp(cache).holds(&self.inputs(mirror))
    }
}

impl Wanted {
    fn groups(self) -> Vec<Group> {
        let mut groups = vec![SHELL];
        groups.extend(self.qemu.then_some(QEMU));
        groups.extend(self.kernel.then_some(KERNEL));
        groups
    }
}

/// Why a chroot cannot be made here, if so.
pub(super) fn obstacle() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some(
            "a Debian in a folder can only be made by root: run this as root (in a VM or a container), or give \
             QEMU 11.1 with --qemu and a kernel with --kernel",
        );
    }
    if !has("debootstrap") && !has("apt-get") {
        return Some(
            "debootstrap is missing and there is no apt-get to install it with: install debootstrap, or give QEMU \
             11.1 with --qemu and a kernel with --kernel",
        );
    }
    if !has("unshare") || !has("setpriv") {
        return Some("unshare and setpriv are missing: install util-linux");
    }
    None
}

/// Whether a program is in the path.
pub(super) fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

const NETWORK_ADVICE: &str =
    "see that the network and the mirror can be reached, or name another with --mirror";

fn bootstrap(cache: &Cache, mirror: &str, root: &Path) -> Result<()> {
    if let Some(reason) = obstacle() {
        bail!(reason);
    }
    let log = cache.log("debian");
    if !has("debootstrap") {
        let advice = "install debootstrap and debian-archive-keyring";
        run("apt-get update", guarded("apt-get").args(["-q", "update"]), &log, advice)?;
        let mut install = guarded("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive");
        install.args(["-qy", "--no-install-recommends", "install", "debootstrap", "debian-archive-keyring"]);
        run("the installation of debootstrap", &mut install, &log, advice)?;
    }
    let part = root.with_extension("part");
    remove(&part)?;
    let mut command = guarded("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--", "debootstrap"]);
    command.args(["--variant=minbase", "--force-check-gpg", SUITE]).arg(&part).arg(mirror);
    run("debootstrap", &mut command, &log, NETWORK_ADVICE)?;
    fs::rename(&part, root).with_context(|| format!("rename {}", part.display()))
}

fn install(cache: &Cache, chroot: &Chroot, mirror: &str, groups: &[Group]) -> Result<()> {
    let log = cache.log("packages");
    let list = chroot.outside("/etc/apt/sources.list");
    fs::write(&list, format!("deb {mirror} {SUITE} main\ndeb {mirror} {BACKPORTS} main\n"))
        .with_context(|| format!("write {}", list.display()))?;
    // The names of the network as of now: it may be another than when the chroot was made.
    if let Ok(names) = fs::read("/etc/resolv.conf") {
        fs::write(chroot.outside("/etc/resolv.conf"), names).context("write resolv.conf of the chroot")?;
    }
    // Half installed packages of a run that was broken off.
    run("dpkg --configure -a", chroot.command("/", "dpkg").args(["--configure", "-a"]), &log, "try --clean")?;
    let mut update = chroot.command("/", "apt-get");
    run(
        "apt-get update",
        update.args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]),
        &log,
        NETWORK_ADVICE,
    )?;
    let mut packages: Vec<String> =
        groups.iter().flat_map(|group| group.packages).map(ToString::to_string).collect();
    if groups.iter().any(|group| group.sources) {
        let names = output(chroot.command("/", "apt-cache").args(["pkgnames", "linux-source-"]))?;
        packages.push(newest_source(&names, mirror)?);
    }
    let mut install = chroot.command("/", "apt-get");
    install.args(["-qy", "--no-install-recommends", "-t", BACKPORTS, "install"]).args(&packages);
    run("the installation of packages", &mut install, &log, NETWORK_ADVICE)?;
    run("apt-get clean", chroot.command("/", "apt-get").arg("clean"), &log, "try --clean")
}

/// The newest package with kernel sources among names of packages.
fn newest_source(names: &str, mirror: &str) -> Result<String> {
    let version = |name: &str| -> Option<(u32, u32)> {
        let (major, minor) = name.strip_prefix("linux-source-")?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let newest = names.lines().filter_map(|name| Some((version(name.trim())?, name.trim()))).max();
    match newest {
        Some((version, name)) if version >= FIRST_KERNEL => Ok(name.to_owned()),
        other => bail!(
            "{BACKPORTS} of {mirror} holds no linux-source of {}.{} or newer (the newest is {}): name another mirror \
             with --mirror, or give a kernel with --kernel",
            FIRST_KERNEL.0,
            FIRST_KERNEL.1,
            other.map_or("none", |(_, name)| name)
        ),
    }
}

/// Name and version of the newest installed package with kernel sources.
fn installed_source(chroot: &Chroot) -> Result<(String, String)> {
    let mut query = Command::new("chroot");
    query.arg(chroot.outside("/")).args([
        "dpkg-query",
        "-W",
        "-f",
        "${Package} ${Version}\\n",
        "linux-source-*",
    ]);
    let list = output(&mut query).context("no kernel sources are installed in the chroot: try --clean")?;
    let names: String =
        list.lines().filter_map(|line| Some(format!("{}\n", line.split_once(' ')?.0))).collect();
    let name = newest_source(&names, "the chroot")?;
    let version = list
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")))
        .with_context(|| format!("dpkg knows no version of {name}"))?;
    Ok((name, version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_sources_are_taken() {
        let names = "linux-source-6.12\nlinux-source-7.3\nlinux-source-7.2\nlinux-source-x\nlinux-source\n";
        assert_eq!(newest_source(names, MIRROR).unwrap(), "linux-source-7.3");
        let names = "linux-source-7.9\nlinux-source-7.10\n";
        assert_eq!(newest_source(names, MIRROR).unwrap(), "linux-source-7.10", "numbers, not letters");
    }

    #[test]
    fn a_mirror_without_new_enough_sources_is_told_with_what_it_has() {
        let error = newest_source("linux-source-6.12\nlinux-source-7.2\n", MIRROR).unwrap_err().to_string();
        assert!(error.contains("(the newest is linux-source-7.2)") && error.contains("--mirror"), "{error}");
        let error = newest_source("", MIRROR).unwrap_err().to_string();
        assert!(error.contains("(the newest is none)"), "{error}");
    }

    #[test]
    fn only_what_is_wanted_is_asked_for() {
        assert_eq!(Wanted { qemu: false, kernel: false }.groups(), [SHELL]);
        assert_eq!(Wanted { qemu: true, kernel: false }.groups(), [SHELL, QEMU]);
        assert_eq!(Wanted { qemu: false, kernel: true }.groups(), [SHELL, KERNEL]);
    }

    #[test]
    fn what_was_installed_stays_ready_when_less_or_more_is_wanted() {
        let cache = tempfile::tempdir().unwrap();
        let ready = |qemu, kernel| Debian::is_ready(cache.path(), MIRROR, Wanted { qemu, kernel });
        for group in [SHELL, QEMU] {
            group.stamp(cache.path()).finish(&group.inputs(MIRROR)).unwrap();
        }
        assert!(!ready(true, false), "stamps without a chroot");
        std::fs::create_dir(cache.path().join(FOLDER)).unwrap();
        assert!(ready(true, false) && ready(false, false));
        assert!(!ready(true, true) && !ready(false, true));
        KERNEL.stamp(cache.path()).finish(&KERNEL.inputs(MIRROR)).unwrap();
        assert!(ready(true, true) && ready(true, false));
        assert!(!Debian::is_ready(cache.path(), "http://other", Wanted { qemu: true, kernel: true }));
    }
}
