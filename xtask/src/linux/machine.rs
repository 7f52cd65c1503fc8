//! One boot of one virtual machine: QEMU's command line, waiting for its end, and what it left behind.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::qemu::Qemu;

/// The CPU: one whose kernel code for TDX has no errata to work around, with its physical addresses as wide as they
/// are once KeyIDs are taken off.
const CPU: &str = "max,vendor=GenuineIntel,family=6,model=173,stepping=1,phys-bits=46,+vmx,+ss,+movdir64b,-svm,\
                   x-force-features=on";
/// The kernel's arguments. A panic ends the machine. The watchdog of the TSC can stop Linux 7.3 for good early in a
/// boot: its timer waits for another CPU, which waits in `stop_machine` for the change of the clock source, and the
/// clock that limits the wait is jiffies, which then stand still.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 tsc=nowatchdog";
/// How often a running machine is looked at.
const LOOK: Duration = Duration::from_millis(5);

const CONSOLE: &str = "console.log";
const ANSWERS: &str = "answers.jsonl";
/// The plugin's trace, in the boot's folder.
pub(super) const TRACE: &str = "trace.jsonl";
const PLUGIN: &str = "libtdx_qemu.so";

/// A virtual machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// `-smp`.
    pub(super) processors: String,
    /// MiB of RAM.
    pub(super) memory: u32,
    /// More properties of the CPU.
    pub(super) cpu: String,
    /// The plugin's arguments; none: no plugin.
    pub(super) plugin: Option<Vec<String>>,
    /// More kernel arguments.
    pub(super) kernel_arguments: String,
    /// Whether the guest may restart; else a restart ends QEMU.
    pub(super) restarts: bool,
}

/// The files that a boot has beside it.
#[derive(Clone, Debug)]
pub(super) struct Files<'a> {
    pub(super) kernel: &'a Path,
    pub(super) plugin: &'a Path,
    /// Archives that make the initial file system.
    pub(super) initramfs: &'a [&'a [u8]],
    /// Other files that the plugin reads, by name.
    pub(super) others: &'a [(String, Vec<u8>)],
}

/// What a boot left behind.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) console: String,
    pub(super) answers: String,
    pub(super) trace: String,
    /// What QEMU and the plugin said.
    pub(super) said: String,
    pub(super) end: End,
    /// When a line with the awaited text was on the console, from QEMU's start.
    pub(super) reached: Option<Duration>,
    /// How long it ran.
    pub(super) took: Duration,
}

/// How a boot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// QEMU ended.
    Exited(ExitStatus),
    /// It ran too long and was killed.
    TimedOut(Duration),
}

impl Machine {
    /// QEMU's arguments for a boot in its own folder.
    fn arguments(&self) -> Vec<String> {
        let cpu = format!("{CPU}{}", self.cpu);
        let kernel_arguments = format!("{KERNEL_ARGUMENTS} {}", self.kernel_arguments);
        let mut arguments: Vec<String> = [
            ("-machine", "q35"),
            ("-accel", "tcg,thread=multi"),
            ("-cpu", &cpu),
            ("-smp", &self.processors),
            ("-m", &self.memory.to_string()),
            ("-display", "none"),
            ("-kernel", "bzImage"),
            ("-initrd", "initramfs.cpio"),
            ("-append", kernel_arguments.trim_end()),
        ]
        .iter()
        .flat_map(|(option, value)| [(*option).to_owned(), (*value).to_owned()])
        .collect();
        arguments.push("-nodefaults".to_owned());
        if !self.restarts {
            arguments.push("-no-reboot".to_owned());
        }
        if let Some(options) = &self.plugin {
            arguments.push("-plugin".to_owned());
            let file = format!("file=./{PLUGIN}");
            arguments.push(
                std::iter::once(&file).chain(options).map(String::as_str).collect::<Vec<_>>().join(","),
            );
        }
        arguments
    }

    /// Puts the files of a boot into its folder.
    fn lay_out(&self, folder: &Path, files: &Files<'_>) -> Result<()> {
        super::cache::remove(folder)?;
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let place = |from: &Path, name: &str| {
            fs::copy(from, folder.join(name)).with_context(|| format!("copy {}", from.display()))
        };
        place(files.kernel, "bzImage")?;
        if self.plugin.is_some() {
            place(files.plugin, PLUGIN)?;
        }
        let write = |name: &str, content: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))
        };
        write("initramfs.cpio", &files.initramfs.concat())?;
        for (name, content) in files.others {
            write(name, content)?;
        }
        for log in [CONSOLE, ANSWERS, TRACE] {
            write(log, b"")?;
        }
        Ok(())
    }

    /// Runs the machine until it ends or its time is over. `await_text` is looked for on the console.
    pub(super) fn run(
        &self,
        qemu: &Qemu,
        folder: &Path,
        files: &Files<'_>,
        limit: Duration,
        await_text: Option<&str>,
    ) -> Result<Outcome> {
        self.lay_out(folder, files)?;
        let mut command = qemu.command(folder)?;
        command.args(self.arguments()).args(["-monitor", "none"]);
        for port in [CONSOLE, ANSWERS] {
            command.args(["-serial", &format!("file:{port}")]);
        }
        let text = format!("{command:?}\n");
        fs::write(folder.join("command.txt"), text).context("write the command of the boot")?;
        let said = File::create(folder.join("qemu.log")).context("write the log of QEMU")?;
        command
            .stdin(Stdio::null())
            .stdout(said.try_clone().context("duplicate a file descriptor")?)
            .stderr(said)
            .process_group(0);
        let start = Instant::now();
        let mut child = Group::start(&mut command)?;
        let (end, reached) = watch(&mut child, &folder.join(CONSOLE), limit, await_text)?;
        drop(child);
        let took = start.elapsed();
        let read = |name: &str| {
            fs::read(folder.join(name))
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default()
        };
        let outcome = Outcome {
            console: read(CONSOLE),
            answers: read(ANSWERS),
            trace: read(TRACE),
            said: read("qemu.log"),
            end,
            reached,
            took,
        };
        // What is large and can be made again is of no use in a folder of logs.
        for name in ["bzImage", "initramfs.cpio", PLUGIN] {
            super::cache::remove(&folder.join(name))?;
        }
        Ok(outcome)
    }

    /// Runs the machine with its console on the terminal.
    pub(super) fn interact(&self, qemu: &Qemu, folder: &Path, files: &Files<'_>) -> Result<ExitStatus> {
        self.lay_out(folder, files)?;
        let mut command = qemu.command(folder)?;
        command.args(self.arguments()).args(["-serial", "mon:stdio", "-serial", &format!("file:{ANSWERS}")]);
        command.status().context("QEMU cannot be started")
    }
}

/// A program and all that it started; killed when this is dropped.
struct Group(Child);

impl Group {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command
            .spawn()
            .with_context(|| format!("{} cannot be started", command.get_program().display()))?;
        Ok(Self(child))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group that is gone needs no killing, and its leader no waiting.
        if let Ok(id) = i32::try_from(self.0.id()) {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}

/// Waits for the end, and notes when the awaited text shows.
fn watch(
    child: &mut Group,
    console: &Path,
    limit: Duration,
    await_text: Option<&str>,
) -> Result<(End, Option<Duration>)> {
    let start = Instant::now();
    let mut reached = None;
    let mut seen = 0;
    loop {
        let length = fs::metadata(console).map_or(0, |metadata| metadata.len());
        if let Some(text) = await_text
            && reached.is_none()
            && length != seen
        {
            seen = length;
            let so_far = fs::read(console).unwrap_or_default();
            if so_far.windows(text.len()).any(|window| window == text.as_bytes()) {
                reached = Some(start.elapsed());
            }
        }
        if let Some(status) = child.0.try_wait().context("wait for QEMU")? {
            return Ok((End::Exited(status), reached));
        }
        if start.elapsed() >= limit {
            return Ok((End::TimedOut(limit), reached));
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            processors: "2".into(),
            memory: 1024,
            cpu: String::new(),
            plugin: Some(vec!["profile=connect".into(), "fault=module-missing".into()]),
            kernel_arguments: String::new(),
            restarts: false,
        }
    }

    #[test]
    fn the_command_line_says_what_the_machine_is() {
        let line = machine().arguments().join(" ");
        for part in [
            "-smp 2",
            "-m 1024",
            "-append console=ttyS0 panic=-1 tsc=nowatchdog",
            "-no-reboot",
            "-plugin file=./libtdx_qemu.so,profile=connect,fault=module-missing",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        let other = Machine {
            plugin: None,
            cpu: ",-movdir64b".into(),
            kernel_arguments: "nokaslr".into(),
            restarts: true,
            ..machine()
        };
        let line = other.arguments().join(" ");
        assert!(!line.contains("-plugin") && !line.contains("-no-reboot"), "{line}");
        assert!(
            line.contains("x-force-features=on,-movdir64b") && line.contains("tsc=nowatchdog nokaslr"),
            "{line}"
        );
    }

    #[test]
    fn a_program_that_ends_is_waited_for_and_one_that_hangs_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let console = folder.path().join("console");
        let mut command = Command::new("sh");
        command.args(["-c", "echo up > console; exit 3"]).current_dir(folder.path()).process_group(0);
        let mut child = Group::start(&mut command).unwrap();
        let (end, _) = watch(&mut child, &console, Duration::from_secs(60), Some("up")).unwrap();
        assert!(matches!(end, End::Exited(status) if status.code() == Some(3)), "{end:?}");

        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo $! > child; echo up > console; wait"]);
        command.current_dir(folder.path()).process_group(0);
        fs::remove_file(&console).unwrap();
        let mut child = Group::start(&mut command).unwrap();
        let limit = Duration::from_millis(300);
        let (end, reached) = watch(&mut child, &console, limit, Some("up")).unwrap();
        assert_eq!(end, End::TimedOut(limit));
        assert!(reached.is_some(), "the awaited text was there");
        drop(child);
        let id: i32 = fs::read_to_string(folder.path().join("child")).unwrap().trim().parse().unwrap();
        let gone = |id| match nix::sys::signal::kill(Pid::from_raw(id), None) {
            Err(nix::errno::Errno::ESRCH) => true,
            // Killed, and not yet taken away by its new parent.
            _ => fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") Z")),
        };
        let end = Instant::now() + Duration::from_secs(10);
        while !gone(id) {
            assert!(Instant::now() < end, "the child lives on");
            std::thread::yield_now();
        }
    }
}
