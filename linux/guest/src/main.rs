//! The first program of a small Linux.

use std::process::ExitCode;

mod init;

fn main() -> ExitCode {
    // It ends by switching the machine off, which nobody wants of a program started by mistake.
    if std::process::id() != 1 {
        eprintln!("tdx-linux-guest is the /init of an initramfs: it runs as process 1 only");
        return ExitCode::FAILURE;
    }
    init::run()
}
