//! Running other programs: what they print goes to a log, what went wrong is one line.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A program that is killed when this one ends, however it ends.
pub(super) fn guarded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A folder that serves as the root of other programs.
#[derive(Clone, Debug)]
pub(super) struct Chroot {
    root: PathBuf,
}

impl Chroot {
    /// The chroot at this path.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// A path of the chroot as seen from outside.
    pub(super) fn outside(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// A path below the chroot as programs in it see it.
    pub(super) fn inside(&self, outside: &Path) -> Option<PathBuf> {
        Some(Path::new("/").join(outside.strip_prefix(&self.root).ok()?))
    }

    /// Waits until the programs of a run that was broken off have gone: killed as they are, they may still be at
    /// the end of a write. Not for ever: somebody may be at work there by hand.
    pub(super) fn settle(&self) {
        let end = Instant::now() + SETTLE;
        while Instant::now() < end && has_programs(&self.root) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A program of the chroot, in mount and process namespaces of its own: its mounts and whatever it starts
    /// are gone when it ends, and it ends when this program does.
    pub(super) fn command(&self, folder: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = guarded("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"])
            .arg(format!("--root={}", self.root.display()))
            .arg(format!("--wd={folder}"))
            .arg("--")
            .arg(program);
        clean_environment(&mut command);
        command
    }
}

/// How long programs of an earlier run are waited for.
const SETTLE: Duration = Duration::from_secs(30);

/// Whether a program has its root there.
fn has_programs(root: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .into_iter()
        .any(|process| fs::read_link(process.path().join("root")).is_ok_and(|path| path == root))
}

/// What programs of a chroot get of the environment: the way to the network and nothing else.
fn clean_environment(command: &mut Command) {
    let kept = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TERM"];
    let kept: Vec<_> = kept.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))).collect();
    command.env_clear().envs(kept).envs([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
    ]);
}

/// Runs a program to its end with its output in `log`. An error says what was being done, what the program said
/// last and what to try.
pub(super) fn run(what: &str, command: &mut Command, log: &Path, advice: &str) -> Result<()> {
    let file = open(log)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("duplicate a file descriptor")?)
        .stderr(file)
        .status()
        .with_context(|| {
            format!("{what}: {} cannot be started; {advice}", command.get_program().display())
        })?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read(log).unwrap_or_default();
    let said = telling_line(&String::from_utf8_lossy(&said)).unwrap_or("it said nothing").to_owned();
    bail!("{what} failed ({status}): {said}; {advice} (log: {})", log.display())
}

/// What a program prints, if it ends well.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{name} cannot be started"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, telling_line(&said).unwrap_or("it said nothing"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn open(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    File::create(log).with_context(|| format!("write {}", log.display()))
}

/// The line that says most about a failure: the first that calls itself an error, else the last.
fn telling_line(log: &str) -> Option<&str> {
    let is_error = |line: &&str| {
        line.starts_with("E: ") || line.contains("error:") || line.contains("fatal:") || line.contains("*** ")
    };
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines().find(is_error).or_else(|| lines().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_done_what_was_said_and_what_to_try() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("logs/x.log");
        let mut command = Command::new("sh");
        command.args(["-c", "echo begin; echo 'E: no such package' >&2; echo end; exit 3"]);
        let error = run("install packages", &mut command, &log, "try later").unwrap_err().to_string();
        assert!(error.starts_with("install packages failed (exit status: 3): E: no such package; try later"));
        assert!(error.contains("x.log") && !error.contains('\n'), "{error}");
        let error = run("look", &mut Command::new("no-such-program"), &log, "install it").unwrap_err();
        assert_eq!(error.to_string(), "look: no-such-program cannot be started; install it");
        run("look", &mut Command::new("true"), &log, "nothing").unwrap();
    }

    #[test]
    fn the_telling_line_is_the_first_error_or_the_last_line() {
        for (log, line) in [
            ("", None),
            ("\n \n", None),
            ("a\nb\n\n", Some("b")),
            ("a\nx.c:3: error: bad\nmake: *** [all] Error 1\n", Some("x.c:3: error: bad")),
            ("ld\nmake: *** [all] Error 1\nend\n", Some("make: *** [all] Error 1")),
        ] {
            assert_eq!(telling_line(log), line, "{log:?}");
        }
    }

    #[test]
    fn programs_are_found_by_their_root() {
        assert!(has_programs(Path::new("/")), "this one, at least");
        assert!(!has_programs(Path::new("/no/such/root")));
    }

    #[test]
    fn paths_of_a_chroot_are_seen_from_both_sides() {
        let chroot = Chroot::new("/cache/trixie".into());
        assert_eq!(chroot.outside("/usr/src/x"), Path::new("/cache/trixie/usr/src/x"));
        assert_eq!(chroot.inside(Path::new("/cache/trixie/run/a")).as_deref(), Some(Path::new("/run/a")));
        assert_eq!(chroot.inside(Path::new("/cache/other")), None);
    }
}
