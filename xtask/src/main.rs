//! Chores of the repository.

mod coverage;
mod gen_module;
mod generate;
mod linux;
mod spec;
mod sysfs;
mod tables;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Chores of the repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Writes the generated tables from the crates' spec files.
    Gen(Check),
    /// Writes docs/coverage.md: check rows and their tests.
    Coverage(Check),
    /// Writes docs/sysfs.md: the files of a host in every layout.
    Sysfs(Check),
    /// Boots an unmodified Linux on the software module under QEMU and checks it from inside.
    Linux(linux::Arguments),
}

#[derive(Args)]
struct Check {
    /// Writes nothing; fails if what is there is stale.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Gen(Check { check: false }) => generate::write(&root()),
        Chore::Gen(Check { check: true }) => generate::check(&root()),
        Chore::Coverage(Check { check: false }) => coverage::write(&root()),
        Chore::Coverage(Check { check: true }) => coverage::check(&root()),
        Chore::Sysfs(Check { check: false }) => sysfs::write(&root()),
        Chore::Sysfs(Check { check: true }) => sysfs::check(&root()),
        Chore::Linux(arguments) => match linux::run(&root(), &arguments) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository that this program was built in.
fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_chores_are_known_and_others_refused() {
        for good in [
            &["gen"][..],
            &["gen", "--check"],
            &["coverage"],
            &["coverage", "--check"],
            &["sysfs"],
            &["sysfs", "--check"],
            &["linux"],
            &["linux", "--only", "update", "--keep", "--image", "a", "--image", "b"],
            &["linux", "--shell", "--kernel", "bzImage", "--cache", "/c", "--qemu", "/q"],
            &["linux", "--shell", "--smp", "4", "--option", "fault=module-missing", "--option", "seed=1"],
        ] {
            let line = ["cargo xtask"].iter().chain(good);
            assert!(Arguments::try_parse_from(line).is_ok(), "{good:?}");
        }
        for bad in [
            &[][..],
            &["generate"],
            &["gen", "--shell"],
            &["linux", "--shell", "--list"],
            &["linux", "--clean", "--can-run"],
            &["linux", "--image"],
            &["linux", "--option", "seed=1"],
            &["linux", "boots"],
        ] {
            let line = ["cargo xtask"].iter().chain(bad);
            assert!(Arguments::try_parse_from(line).is_err(), "{bad:?}");
        }
    }
}
