//! The `tdxhost` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tdxhost::cli::main()
}
