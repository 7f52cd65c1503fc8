//! `tdxhost serve`: a machine brought up and kept, with its files and its API.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::api::{ApiServer, ErrorFacts, HostSource, HostState, ServiceFacts, default_socket};
use crate::fuse::{self, Mounted, Unmounted};
use crate::scenario::RulesName;
use crate::sysfs::{HostView, Layout, SoftwareHost, sysfs};
use crate::text;

/// Arguments of `tdxhost serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Platform to power on: a name of `tdxhost platform list`, or a file
    #[arg(long, value_name = "NAME|FILE", default_value = "default")]
    pub platform: String,
    /// Directory on which the sysfs files are mounted; none are without it
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Socket of the API [default: tdxhost.sock in $XDG_RUNTIME_DIR or /run]
    #[arg(long, value_name = "SOCKET")]
    pub api: Option<PathBuf>,
    /// Kernel whose paths and formats the sysfs files have
    #[arg(long, value_enum, value_name = "LAYOUT", default_value_t)]
    pub sysfs_layout: Layout,
    /// Seed of interrupts, entropy failures and contention
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true, value_parser = text::number)]
    pub seed: u64,
    /// How TDMRs are built
    #[arg(long, value_enum, value_name = "RULES", default_value = "tdxhost")]
    pub tdmr_rules: RulesName,
    /// End with exit status 1 if the host does not come up
    #[arg(long)]
    pub strict: bool,
    /// Report readiness as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Report nothing on standard output
    #[arg(long, short)]
    pub quiet: bool,
}

/// A host that can be brought up and served.
pub trait ServedHost: HostSource {
    /// Takes the host from power-on to the `tdx_host` device. Called once, on a thread of its own;
    /// everything else may be asked at the same time.
    fn bring_up(&self) -> Result<(), ErrorFacts>;

    /// Does what is due from time to time, such as new keys for links. Called on a thread of its own.
    fn tick(&self);

    /// Ends what runs in order: the TSM with its connections, the device, the module. Nothing to do for a host
    /// that did not come up.
    fn shut_down(&self) -> Result<(), ErrorFacts>;
}

/// Powers the platform on and serves it until a signal comes.
pub fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let host = SoftwareHost::power_on(&args.platform, args.seed, args.tdmr_rules.into())?;
    serve(Arc::new(host), args)
}

/// Serves `host` until SIGINT, SIGTERM or SIGHUP.
pub fn serve(host: Arc<dyn ServedHost>, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let (events, event) = mpsc::channel();
    // Before anything is mounted: from then on, no signal may end the process unheard.
    forward_signals(events.clone())?;

    let started = Instant::now();
    let mut service = Service::open(Arc::clone(&host), args, started)?;
    let ticks = Ticks::start(Arc::clone(&host))?;
    bring_up_aside(host, events)?;
    let mut code = ExitCode::SUCCESS;
    while let Ok(event) = event.recv() {
        match event {
            Event::Stop => break,
            Event::BroughtUp(Err(error)) if args.strict => {
                ticks.stop();
                service.close()?;
                anyhow::bail!("{}", sentence(&error));
            }
            Event::BroughtUp(outcome) => {
                if let Err(error) = &outcome {
                    eprintln!("tdxhost: {}", sentence(error));
                }
                service.report_ready(outcome.err(), args);
            }
            Event::Panicked => {
                code = ExitCode::FAILURE;
                break;
            }
        }
    }
    ticks.stop();
    service.close()?;
    Ok(code)
}

/// How often the host looks for what is due.
const TICK: Duration = Duration::from_secs(1);

/// The thread on which the host does what is due.
struct Ticks {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Ticks {
    fn start(host: Arc<dyn ServedHost>) -> anyhow::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let tick = move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                host.tick();
            }
        };
        let thread = thread::Builder::new().name("ticks".to_owned()).spawn(tick);
        Ok(Self { stop, thread: thread.context("cannot start the thread for what is due")? })
    }

    /// Waits for what is under way.
    fn stop(self) {
        drop(self.stop);
        // A panic in the thread has been printed already.
        let _ = self.thread.join();
    }
}

enum Event {
    Stop,
    BroughtUp(Result<(), ErrorFacts>),
    /// The bring-up thread ended without a result; it has printed why.
    Panicked,
}

fn forward_signals(events: Sender<Event>) -> anyhow::Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot take over SIGINT and SIGTERM")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            // Once nobody listens any more, the process is ending.
            for _ in &mut signals {
                if events.send(Event::Stop).is_err() {
                    break;
                }
            }
        })
        .context("cannot start the signal thread")?;
    Ok(())
}

fn bring_up_aside(host: Arc<dyn ServedHost>, events: Sender<Event>) -> anyhow::Result<()> {
    thread::Builder::new()
        .name("bring-up".to_owned())
        .spawn(move || {
            let last_word = LastWord(events);
            let outcome = host.bring_up();
            last_word.say(Event::BroughtUp(outcome));
        })
        .context("cannot start the bring-up thread")?;
    Ok(())
}

/// Tells the main thread how the bring-up thread ended, even if it unwinds.
struct LastWord(Sender<Event>);

impl LastWord {
    fn say(self, event: Event) {
        // The receiver goes only when the process ends.
        let _ = self.0.send(event);
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.0.send(Event::Panicked);
        }
    }
}

fn sentence(error: &ErrorFacts) -> String {
    format!("{}: {}; {}", error.name, error.message, error.advice)
}

/// What stands while the host is served.
struct Service {
    host: Arc<dyn ServedHost>,
    api: ApiServer,
    mounted: Option<Mounted>,
    layout: Layout,
    started: Instant,
}

impl Service {
    fn open(host: Arc<dyn ServedHost>, args: &ServeArgs, started: Instant) -> anyhow::Result<Self> {
        let mount_point: Arc<OnceLock<PathBuf>> = Arc::default();
        let layout = args.sysfs_layout;
        let facts = {
            let mount_point = Arc::clone(&mount_point);
            move || ServiceFacts {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_seconds: started.elapsed().as_secs_f64(),
                mount: mount_point.get().cloned(),
                sysfs_layout: layout.name().to_owned(),
            }
        };
        let socket = args.api.clone().unwrap_or_else(default_socket);
        let source: Arc<dyn HostSource> = host.clone();
        let api = ApiServer::start(&socket, source, Arc::new(facts))?;

        let mounted = match &args.mount {
            Some(point) => {
                let view: Arc<dyn HostView> = host.clone();
                let mounted = fuse::mount(sysfs(&view, layout), point)?;
                mount_point.get_or_init(|| mounted.point().to_owned());
                Some(mounted)
            }
            None => None,
        };
        Ok(Self { host, api, mounted, layout, started })
    }

    fn report_ready(&self, error: Option<ErrorFacts>, args: &ServeArgs) {
        if args.quiet {
            return;
        }
        let report = Ready {
            event: "ready",
            platform: self.host.platform().name,
            state: self.host.host().state,
            seconds: self.started.elapsed().as_secs_f64(),
            module_version: self.host.read_attribute("version").ok(),
            error,
            mount: self.mounted.as_ref().map(|mounted| mounted.point().to_owned()),
            sysfs_layout: self.layout.name(),
            api: self.api.path().to_owned(),
        };
        let line = if args.json {
            serde_json::to_string(&report).unwrap_or_else(|error| error.to_string())
        } else {
            report.line(self.layout)
        };
        // A service goes on when whoever started it has stopped listening.
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    /// Ends the host while its files and events are still to be seen, then unmounts and stops listening; says so
    /// if somebody still used the files.
    fn close(&mut self) -> anyhow::Result<()> {
        if let Err(error) = self.host.shut_down() {
            eprintln!("tdxhost: {}", sentence(&error));
        }
        let Some(mounted) = self.mounted.take() else {
            return Ok(());
        };
        let point = mounted.point().to_owned();
        match mounted.unmount()? {
            Unmounted::Clean => {}
            Unmounted::Detached => {
                eprintln!("tdxhost: files under {} were still open; the mount is detached", point.display());
            }
            Unmounted::Already => {
                eprintln!("tdxhost: {} had been unmounted already", point.display());
            }
        }
        Ok(())
    }
}

/// The one line on standard output.
#[derive(Debug, Serialize)]
struct Ready {
    event: &'static str,
    platform: String,
    state: HostState,
    seconds: f64,
    module_version: Option<String>,
    error: Option<ErrorFacts>,
    mount: Option<PathBuf>,
    sysfs_layout: &'static str,
    api: PathBuf,
}

impl Ready {
    fn line(&self, layout: Layout) -> String {
        let mut parts = vec![match (&self.error, &self.module_version) {
            (Some(error), _) => format!("ready: {} without TDX ({})", self.platform, error.name),
            (None, Some(version)) => {
                format!("ready: {}, TDX module {version} in {:.2} s", self.platform, self.seconds)
            }
            (None, None) => format!("ready: {} in {:.2} s", self.platform, self.seconds),
        }];
        if let Some(mount) = &self.mount {
            parts.push(if self.error.is_none() {
                mount.join(layout.device_path()).display().to_string()
            } else {
                mount.display().to_string()
            });
        }
        parts.push(format!("api {}", self.api.display()));
        parts.join("; ")
    }
}
