//! The kernel: Debian's sources with the small configuration of `linux/kernel.fragment`, or one of the user.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cache::{Cache, remove, step};
use super::command::{guarded, run};
use super::debian::Debian;
use super::stamp::Inputs;

/// The configuration, in the repository.
const FRAGMENT: &str = "linux/kernel.fragment";
/// The bench module's sources, in the repository.
const BENCH_SOURCES: &str = "linux/bench-module";
/// The source tree, in the chroot.
const TREE: &str = "/usr/src/tdx-linux";
/// The bench module's build folder, in the chroot.
const BENCH: &str = "/usr/src/tdx-bench";
/// The kernel's image in a tree.
const IMAGE: &str = "arch/x86/boot/bzImage";
/// The driver of the `tdx_host` device in a tree, unless it is built in.
const TDX_HOST: &str = "drivers/virt/coco/tdx-host/tdx-host.ko";

/// A kernel to boot.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// Its image.
    pub(super) image: PathBuf,
    /// The driver of the `tdx_host` device if it is a module.
    pub(super) tdx_host: Option<PathBuf>,
    /// The bench module, or why there is none.
    pub(super) bench: Result<PathBuf, String>,
    /// What it calls itself, such as `7.3.4`.
    pub(super) release: String,
}

impl Kernel {
    /// Debian's sources in the chroot, built if that was not done before.
    pub(super) fn build(cache: &Cache, debian: &Debian, repository: &Path) -> Result<Self> {
        let (package, version) =
            debian.source.as_ref().context("the chroot was made without kernel sources")?;
        let fragment = repository.join(FRAGMENT);
        let fragment =
            fs::read_to_string(&fragment).with_context(|| format!("read {}", fragment.display()))?;
        let inputs = Inputs::default()
            .with("source", &format!("{package} {version}"))
            .with("fragment", &options(&fragment));
        let stamp = cache.stamp("kernel");
        let tree = debian.chroot.outside(TREE);
        let image = tree.join(IMAGE);
        let ready = stamp.holds(&inputs) && image.is_file();
        step("kernel", &format!("Linux {version}"), ready, || {
            if ready {
                return Ok(());
            }
            stamp.begin()?;
            unpack(cache, debian, package, version)?;
            compile(cache, debian, &fragment)?;
            stamp.finish(&inputs)
        })?;
        let tdx_host = Some(tree.join(TDX_HOST)).filter(|path| path.is_file());
        let bench = Some(bench_in_chroot(cache, debian, repository, &inputs)?);
        let release = image_release(&image)?;
        let bench = bench.ok_or_else(String::new);
        Ok(Self { image, tdx_host, bench, release })
    }

    /// The user's: an image, or a tree in which one was built.
    pub(super) fn of_user(path: &Path, cache: &Cache, repository: &Path) -> Result<Self> {
        if !path.is_dir() {
            let release = image_release(path)?;
            let bench =
                Err("a kernel image without its tree: the bench module cannot be built for it".to_owned());
            return Ok(Self { image: path.to_owned(), tdx_host: None, bench, release });
        }
        let image = path.join(IMAGE);
        if !image.is_file() {
            bail!("{} holds no {IMAGE}: build the kernel there first", path.display());
        }
        let release = image_release(&image)?;
        let tdx_host = Some(path.join(TDX_HOST)).filter(|path| path.is_file());
        let bench = bench_of_user(path, cache, repository)
            .map_err(|error| format!("the bench module was not built: {error:#}"));
        Ok(Self { image, tdx_host, bench, release })
    }
}

/// Whether a cache holds a built kernel. It may still be of older sources or of another configuration.
pub(super) fn is_built(folder: &Path) -> bool {
    folder.join("stamps/kernel").is_file()
}

fn unpack(cache: &Cache, debian: &Debian, package: &str, version: &str) -> Result<()> {
    let inputs = Inputs::default().with("source", &format!("{package} {version}"));
    let stamp = cache.stamp("kernel-source");
    let tree = debian.chroot.outside(TREE);
    if stamp.holds(&inputs) && tree.is_dir() {
        return Ok(());
    }
    stamp.begin()?;
    let part = debian.chroot.outside("/usr/src/tdx-linux.part");
    remove(&part)?;
    remove(&tree)?;
    fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    let mut tar = debian.chroot.command("/usr/src/tdx-linux.part", "tar");
    tar.arg("-xf").arg(format!("/usr/src/{package}.tar.xz")).arg("--strip-components=1");
    run("unpacking the kernel's sources", &mut tar, &cache.log("kernel"), "try --clean")?;
    fs::rename(&part, &tree).with_context(|| format!("rename {}", part.display()))?;
    stamp.finish(&inputs)
}

fn compile(cache: &Cache, debian: &Debian, fragment: &str) -> Result<()> {
    let log = cache.log("kernel");
    let tree = debian.chroot.outside(TREE);
    fs::write(tree.join("tdx.fragment"), fragment).context("write the kernel's configuration")?;
    let advice = "see the log for the compiler's words";
    let make = || debian.chroot.command(TREE, "make");
    run("make tinyconfig", make().arg("tinyconfig"), &log, advice)?;
    let mut merge = debian.chroot.command(TREE, "scripts/kconfig/merge_config.sh");
    run("merging the kernel's configuration", merge.args(["-m", ".config", "tdx.fragment"]), &log, advice)?;
    run("make olddefconfig", make().arg("olddefconfig"), &log, advice)?;
    let config = fs::read_to_string(tree.join(".config")).context("read the kernel's configuration")?;
    let lost = lost_options(fragment, &config);
    if let Some(option) = lost.iter().find(|option| MUST_HAVE.contains(option)) {
        bail!(
            "{option} of {FRAGMENT} did not make it into the configuration: this kernel has other dependencies"
        );
    }
    let jobs = format!("-j{}", jobs());
    run("the kernel's build", make().args([jobs.as_str(), "bzImage", "modules"]), &log, advice)
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Options without which there is nothing to check.
const MUST_HAVE: [&str; 7] = [
    "CONFIG_INTEL_TDX_HOST",
    "CONFIG_TDX_HOST_SERVICES",
    "CONFIG_KVM_INTEL_TDX",
    "CONFIG_FW_UPLOAD",
    "CONFIG_MODULES",
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_SERIAL_8250_CONSOLE",
];

/// The fragment without what stands in it for readers.
fn options(fragment: &str) -> String {
    let is_option =
        |line: &&str| !line.is_empty() && (!line.starts_with('#') || line.ends_with(" is not set"));
    let lines: Vec<&str> = fragment.lines().map(str::trim).filter(is_option).collect();
    lines.join("\n")
}

/// Options that the fragment switches on and the configuration has not.
fn lost_options<'a>(fragment: &'a str, config: &str) -> Vec<&'a str> {
    fragment
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(_, value)| matches!(*value, "y" | "m"))
        .map(|(option, _)| option)
        .filter(|option| {
            let has = |value| config.lines().any(|line| line == format!("{option}={value}"));
            !has("y") && !has("m")
        })
        .collect()
}

/// The bench module for the kernel of the chroot.
fn bench_in_chroot(cache: &Cache, debian: &Debian, repository: &Path, kernel: &Inputs) -> Result<PathBuf> {
    let sources = bench_sources(repository)?;
    let mut inputs = kernel.clone();
    for (name, content) in &sources {
        inputs = inputs.with_content(name, content);
    }
    let stamp = cache.stamp("bench-module");
    let folder = debian.chroot.outside(BENCH);
    let ready = stamp.holds(&inputs) && built_module(&folder).is_ok();
    step("bench", "the kernel module that measures SEAMCALLs", ready, || {
        if ready {
            return built_module(&folder);
        }
        stamp.begin()?;
        place(&sources, &folder)?;
        let mut make = debian.chroot.command(TREE, "make");
        make.arg(format!("M={BENCH}")).arg("modules");
        run(
            "the bench module's build",
            &mut make,
            &cache.log("bench-module"),
            "see the log for the compiler's words",
        )?;
        let module = built_module(&folder)?;
        stamp.finish(&inputs)?;
        Ok(module)
    })
}

/// The bench module for the user's kernel, with the user's compiler.
fn bench_of_user(tree: &Path, cache: &Cache, repository: &Path) -> Result<PathBuf> {
    let folder = cache.folder().join("bench-module");
    place(&bench_sources(repository)?, &folder)?;
    let mut make = guarded("make");
    make.arg("-C").arg(tree).arg(format!("M={}", folder.display())).arg("modules");
    run(
        "its build",
        &mut make,
        &cache.log("bench-module"),
        "build modules in that tree once (make modules)",
    )?;
    built_module(&folder)
}

/// Names and contents of the bench module's sources.
fn bench_sources(repository: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = repository.join(BENCH_SOURCES);
    let mut sources = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            sources.push((name, fs::read(&path).with_context(|| format!("read {}", path.display()))?));
        }
    }
    sources.sort();
    Ok(sources)
}

fn place(sources: &[(String, Vec<u8>)], folder: &Path) -> Result<()> {
    remove(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for (name, content) in sources {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The module that a build left in a folder.
fn built_module(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "ko"))
        .with_context(|| format!("no module was built in {}", folder.display()))
}

/// What a kernel image calls itself: the first word of the version string that its boot header points to.
fn image_release(path: &Path) -> Result<String> {
    let image = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let release = || -> Option<String> {
        if image.get(0x202..0x206)? != b"HdrS" {
            return None;
        }
        let pointer = u16::from_le_bytes(image.get(0x20e..0x210)?.try_into().ok()?);
        let text = image.get(usize::from(pointer) + 0x200..)?;
        let word = text.split(|byte| *byte == 0 || *byte == b' ').next()?;
        Some(std::str::from_utf8(word).ok()?.to_owned()).filter(|word| !word.is_empty())
    };
    release().with_context(|| format!("{} is no kernel image (bzImage) and no folder", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_the_configuration_dropped_are_found() {
        let fragment = "CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=n\nCONFIG_D=64\n# CONFIG_E is not set\nCONFIG_F=y\nCONFIG_G=m\n";
        let config = "CONFIG_A=y\nCONFIG_B=y\n# CONFIG_F is not set\nCONFIG_GG=m\n";
        assert_eq!(lost_options(fragment, config), ["CONFIG_F", "CONFIG_G"]);
    }

    #[test]
    fn words_for_readers_do_not_make_another_kernel() {
        let fragment = "# why\nCONFIG_A=y\n\n  CONFIG_B=m\n# CONFIG_C is not set\n";
        assert_eq!(options(fragment), "CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set");
    }

    #[test]
    fn the_fragment_of_the_repository_asks_for_all_that_must_be_had() {
        let fragment = fs::read_to_string(crate::root().join(FRAGMENT)).unwrap();
        let lost = lost_options(&fragment, "");
        for option in MUST_HAVE {
            assert!(lost.contains(&option), "{option}");
        }
    }

    fn image(release: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x300 + release.len()].copy_from_slice(release);
        image
    }

    #[test]
    fn a_kernel_image_says_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bzImage");
        fs::write(&path, image(b"7.3.4 (root@x) #1 SMP\0")).unwrap();
        assert_eq!(image_release(&path).unwrap(), "7.3.4");
        for bad in [image(b""), vec![0; 0x400], image(b"7.3.4")[..0x280].to_vec(), vec![]] {
            fs::write(&path, bad).unwrap();
            let error = image_release(&path).unwrap_err().to_string();
            assert!(error.contains("is no kernel image"), "{error}");
        }
    }

    #[test]
    fn the_users_kernel_is_an_image_or_a_tree_with_one() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("cache")).unwrap();
        let path = folder.path().join("bzImage");
        fs::write(&path, image(b"7.4.0 x\0")).unwrap();
        let kernel = Kernel::of_user(&path, &cache, &crate::root()).unwrap();
        assert_eq!((kernel.release.as_str(), kernel.tdx_host), ("7.4.0", None));
        assert!(kernel.bench.unwrap_err().contains("without its tree"));
        let error = Kernel::of_user(folder.path(), &cache, &crate::root()).unwrap_err().to_string();
        assert!(error.contains("holds no arch/x86/boot/bzImage: build the kernel there first"), "{error}");
        let error = Kernel::of_user(Path::new("/nowhere"), &cache, &crate::root()).unwrap_err().to_string();
        assert_eq!(error, "read /nowhere");
    }
}
