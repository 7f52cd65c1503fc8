//! `linux`: an unmodified Linux as the host of the software module, under QEMU with the plugin. Prepares what that
//! takes from Debian's packages, boots, has a program inside check, and prints the list.

mod bench;
mod boots;
mod build;
mod cache;
mod can_run;
mod command;
mod console;
mod cpio;
mod debian;
mod faults;
mod images;
mod initramfs;
mod kernel;
mod machine;
mod qemu;
mod stamp;
mod trace;
mod user_image;
mod verdict;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use tdx_linux_guest::plan::{End, Plan};

use boots::Boot;
use cache::{Cache, step};
use debian::{Debian, Wanted};
use kernel::Kernel;
use machine::Files;
use qemu::Qemu;
use trace::Reasons;
use verdict::Check;

/// Options of `linux`.
#[derive(clap::Args, Debug)]
// Each is a switch of its own on the command line.
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Arguments {
    /// A shell in the booted guest instead of the checks
    #[arg(long, conflicts_with_all = ["list", "only", "image", "bench", "can_run"])]
    shell: bool,
    /// vCPUs of the guest with the shell
    #[arg(long, value_name = "N", default_value_t = 2, requires = "shell")]
    smp: u32,
    /// One more option of the plugin for the guest with the shell, such as fault=module-missing (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", requires = "shell")]
    option: Vec<String>,
    /// Lists the boots and ends
    #[arg(long, conflicts_with_all = ["can_run", "clean"])]
    list: bool,
    /// Only boots whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Another kernel: an image (bzImage), or a tree in which one was built
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Another QEMU, 11.1 or newer
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
    /// A real module image: firmware's module in one boot, the target of an update in another (may be repeated)
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Only the boots that measure speed, which are left out otherwise; for a machine that does nothing else
    #[arg(long, conflicts_with = "only")]
    bench: bool,
    /// Folder of what is prepared [default: tdxhost/linux in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Where Debian's packages come from
    #[arg(long, value_name = "URL", default_value = debian::MIRROR)]
    mirror: String,
    /// Removes everything that was prepared, and ends
    #[arg(long)]
    clean: bool,
    /// Keeps the logs of boots that went well, too
    #[arg(long)]
    keep: bool,
    /// Says whether the checks can run here, and if not why; ends with failure then
    #[arg(long, conflicts_with = "clean")]
    can_run: bool,
}

/// Runs the chore.
pub(crate) fn run(repository: &Path, arguments: &Arguments) -> Result<ExitCode> {
    if arguments.list {
        let boots = chosen(arguments)?;
        let width = boots.iter().map(|boot| boot.name.len()).max().unwrap_or(0);
        for boot in &boots {
            println!("{:<width$}  {}", boot.name, boot.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let folder = arguments.cache.clone().map_or_else(Cache::default_folder, Ok);
    if arguments.can_run {
        // Whoever asks reads the reason on standard output, whichever it is.
        let obstacle = match &folder {
            Ok(folder) => can_run::obstacle(folder, arguments),
            Err(reason) => Some(format!("{reason:#}")),
        };
        return Ok(match obstacle {
            None => ExitCode::SUCCESS,
            Some(reason) => {
                println!("{reason}");
                ExitCode::FAILURE
            }
        });
    }
    let cache = Cache::open(&folder?)?;
    if arguments.clean {
        cache.clean()?;
        println!("{} is empty", cache.folder().display());
        return Ok(ExitCode::SUCCESS);
    }
    let parts = Parts::prepare(&cache, repository, arguments)?;
    if arguments.shell {
        return shell(&parts, arguments);
    }
    check(&parts, repository, arguments)
}

/// The boots that the arguments choose; none is an error.
fn chosen(arguments: &Arguments) -> Result<Vec<Boot>> {
    let mut boots = if arguments.bench { Vec::new() } else { boots::all()? };
    for image in &arguments.image {
        boots.extend(user_image::boots(image)?);
    }
    // What neighbours on the machine do would decide: nobody gets them unasked.
    if arguments.bench || arguments.list || arguments.only.is_some() {
        boots.extend(bench::boots());
    }
    if let Some(name) = &arguments.only {
        boots.retain(|boot| boot.name.contains(name.as_str()));
        if boots.is_empty() {
            bail!("no boot has {name:?} in its name: --list shows them");
        }
    }
    Ok(boots)
}

/// Everything that a boot is made of.
struct Parts {
    qemu: Qemu,
    kernel: Kernel,
    plugin: PathBuf,
    initramfs: Vec<u8>,
    boots: PathBuf,
}

impl Parts {
    fn prepare(cache: &Cache, repository: &Path, arguments: &Arguments) -> Result<Self> {
        let own_qemu = match &arguments.qemu {
            Some(program) => Some(Qemu::named(program)?),
            None => Qemu::of_the_system(),
        };
        let wanted = Wanted { qemu: own_qemu.is_none(), kernel: arguments.kernel.is_none() };
        // Cargo goes first: what does not compile should not cost a download.
        let program =
            step("guest", "the program that checks from inside", false, || build::guest_program(repository))?;
        let plugin = step("plugin", "the plugin of QEMU", false, || build::plugin(repository))?;
        let debian = if wanted.qemu || wanted.kernel || debian::obstacle().is_none() {
            Some(Debian::prepare(cache, &arguments.mirror, wanted)?)
        } else {
            None
        };
        let qemu = match (own_qemu, &debian) {
            (Some(qemu), _) => qemu,
            (None, Some(debian)) => Qemu::of(&debian.chroot)?,
            (None, None) => bail!("there is no QEMU"),
        };
        let kernel = match (&arguments.kernel, &debian) {
            (Some(path), _) => Kernel::of_user(path, cache, repository)?,
            (None, Some(debian)) => Kernel::build(cache, debian, repository)?,
            (None, None) => bail!("there is no kernel"),
        };
        println!("{:<12}{}, Linux {}", "ready", qemu.description(), kernel.release);
        let busybox = debian.as_ref().map(Debian::busybox).transpose()?;
        if busybox.is_none() && arguments.shell {
            bail!("--shell needs busybox, which comes from Debian's packages: run as root");
        }
        let initramfs = initramfs::common(&program, busybox.as_deref(), &kernel)?;
        let boots = qemu.boots(cache.folder());
        Ok(Self { qemu, kernel, plugin, initramfs, boots })
    }

    /// Boots one machine to its end.
    fn boot(&self, boot: &Boot, await_text: Option<&str>) -> Result<machine::Outcome> {
        let own = initramfs::of_boot(&boot.plan, &boot.guest_files)?;
        let files = Files {
            kernel: &self.kernel.image,
            plugin: &self.plugin,
            initramfs: &[&self.initramfs, &own],
            others: &boot.plugin_files,
        };
        boot.machine.run(&self.qemu, &self.boots.join(&boot.name), &files, boot.limit, await_text)
    }
}

fn shell(parts: &Parts, arguments: &Arguments) -> Result<ExitCode> {
    let boot = Boot::new("shell", "a shell", arguments.smp, Vec::new());
    let boot = arguments.option.iter().fold(boot, Boot::option);
    let plan = Plan { steps: Vec::new(), end: End::Shell };
    let own = initramfs::of_boot(&plan, &[])?;
    let files = Files {
        kernel: &parts.kernel.image,
        plugin: &parts.plugin,
        initramfs: &[&parts.initramfs, &own],
        others: &[],
    };
    println!("Ctrl-A X ends QEMU; so does leaving the shell");
    let status = boot.machine.interact(&parts.qemu, &parts.boots.join("shell"), &files)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Counts of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    /// Counts and prints.
    fn add(&mut self, checks: &[Check]) -> bool {
        for check in checks {
            println!("{}", check.line());
            *if check.passed() { &mut self.passed } else { &mut self.failed } += 1;
        }
        checks.iter().all(Check::passed)
    }

    /// Failure if anything failed, or if there was nothing.
    fn code(self) -> ExitCode {
        if self.failed == 0 && self.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn line(self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }
}

fn check(parts: &Parts, repository: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let reasons = Reasons::read(repository)?;
    let boots = chosen(arguments)?;
    cache::remove(&parts.boots)?;
    let mut tally = Tally::default();
    let mut measured = bench::Measured::default();
    for boot in &boots {
        if let (true, Err(reason)) = (boot.tainted, &parts.kernel.bench) {
            println!("\n{}: left out: {reason}", boot.name);
            continue;
        }
        println!("\n{}: {}", boot.name, boot.about);
        let outcome = parts.boot(boot, bench::awaited(boot))?;
        let mut checks = verdict::checks(boot, &outcome, &reasons);
        measured.add(boot, &outcome, &mut checks);
        let folder = parts.boots.join(&boot.name);
        if !tally.add(&checks) || arguments.keep {
            println!("  logs    {}", folder.display());
        } else {
            cache::remove(&folder)?;
        }
    }
    let checks = measured.checks();
    if !checks.is_empty() {
        println!("\nspeed");
        tally.add(&checks);
    }
    println!("\n{}", tally.line());
    Ok(tally.code())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(line: &[&str]) -> Arguments {
        Line::parse_from([&["linux"], line].concat()).arguments
    }

    #[test]
    fn boots_are_chosen_by_a_part_of_their_name() {
        let names = |line: &[&str]| -> Vec<String> {
            chosen(&arguments(line)).unwrap().into_iter().map(|boot| boot.name).collect()
        };
        let all = names(&[]);
        assert!(!all.iter().any(|name| name.starts_with("bench")));
        assert!(all.contains(&"2-cpus".to_owned()) && all.contains(&"fault-module-missing".to_owned()));
        assert_eq!(names(&["--only", "fault-module-m"]), ["fault-module-missing"]);
        assert_eq!(names(&["--only", "bench-rate"]), ["bench-rate"]);
        assert!(names(&["--bench"]).iter().all(|name| name.starts_with("bench")));
        let error = chosen(&arguments(&["--only", "nothing"])).unwrap_err().to_string();
        assert_eq!(error, "no boot has \"nothing\" in its name: --list shows them");
    }

    #[test]
    fn the_last_line_counts() {
        let mut tally = Tally::default();
        let ok = Check::new("a", Ok("well".into()));
        let failed = Check::new("b", Err("not".into()));
        assert!(tally.add(&[ok.clone(), ok.clone()]));
        assert!(!tally.add(&[ok, failed]));
        assert_eq!(tally.line(), "3 passed, 1 failed");
        let codes = [(3, 1), (0, 0), (3, 0)].map(|(passed, failed)| Tally { passed, failed }.code());
        assert_eq!(codes, [ExitCode::FAILURE, ExitCode::FAILURE, ExitCode::SUCCESS]);
    }
}
