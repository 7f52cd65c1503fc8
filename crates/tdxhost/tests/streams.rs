//! What happens when standard output takes nothing.

use std::fs::File;
use std::process::{Command, Stdio};

#[test]
fn a_full_disk_is_told_in_one_line_and_fails() {
    for args in [
        &["demo", "--platform", "tiny"][..],
        &["demo", "--platform", "tiny", "--json"],
        &["platform", "list"],
        &["platform", "show", "tiny", "--json"],
        &["explain", "33"],
        &["explain", "error", "--json"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tdxhost"));
        let output = command.args(args).stdin(Stdio::null()).stdout(full).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {errors}");
        assert!(errors.starts_with("tdxhost: cannot write the output: "), "{args:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
    }
}
