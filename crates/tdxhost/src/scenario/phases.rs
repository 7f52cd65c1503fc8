//! How long the phases of a bring-up take, and a progress bar for who watches.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use tdx_host::update::UpdatePhase;
use tdx_host::{Phase, Progress, UpdateObserver};

use super::report::PhaseReport;

/// Times phases as they go by.
pub struct PhaseClock {
    running: Mutex<Option<Instant>>,
    done: Mutex<Vec<PhaseReport>>,
    bar: ProgressBar,
    each: Option<fn(&PhaseReport)>,
}

impl PhaseClock {
    /// A clock. `bar` shows a progress bar where standard error is a terminal; `each` is told of every
    /// phase that ended.
    pub fn new(bar: bool, each: Option<fn(&PhaseReport)>) -> Self {
        let target = if bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(1), target);
        if let Ok(style) = ProgressStyle::with_template("  {msg:<16} [{bar:40}] {pos}/{len}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { running: Mutex::new(None), done: Mutex::new(Vec::new()), bar, each }
    }

    /// The phases that ended, in order.
    pub fn finish(self) -> Vec<PhaseReport> {
        self.bar.finish_and_clear();
        self.done.into_inner()
    }
}

impl Progress for PhaseClock {
    fn phase_started(&self, phase: Phase, total: u64) {
        *self.running.lock() = Some(Instant::now());
        self.bar.set_position(0);
        // Phases that are one stroke count nothing beforehand: their bar is empty, not full.
        self.bar.set_length(total.max(1));
        self.bar.set_message(phase.name());
    }

    fn advanced(&self, _: Phase, steps: u64) {
        self.bar.inc(steps);
    }

    fn phase_done(&self, phase: Phase, count: u64) {
        let took = self.running.lock().take().map_or(Duration::ZERO, |since| since.elapsed());
        let report = PhaseReport {
            name: phase.name().into(),
            count,
            counts: counts(phase, count),
            seconds: took.as_secs_f64(),
        };
        if let Some(each) = self.each {
            self.bar.suspend(|| each(&report));
        }
        self.done.lock().push(report);
    }
}

/// Times the phases of an update. All of them together are the blackout: no TD runs meanwhile.
#[derive(Default)]
pub(super) struct UpdateClock {
    started: Mutex<Vec<(UpdatePhase, Instant)>>,
}

impl UpdateClock {
    /// The phases in order; the last one ends now. `cpus` took part.
    pub(super) fn finish(self, cpus: u32) -> Vec<PhaseReport> {
        let started = self.started.into_inner();
        let ends = started.iter().skip(1).map(|&(_, begin)| begin).chain([Instant::now()]);
        let report = |(&(phase, begin), end): (&(UpdatePhase, Instant), Instant)| PhaseReport {
            name: phase.name().into(),
            count: if on_each_cpu(phase) { cpus.into() } else { 1 },
            counts: if on_each_cpu(phase) && cpus != 1 { "CPUs" } else { "CPU" },
            seconds: end.saturating_duration_since(begin).as_secs_f64(),
        };
        started.iter().zip(ends).map(report).collect()
    }
}

impl UpdateObserver for UpdateClock {
    fn phase_started(&self, phase: UpdatePhase) {
        self.started.lock().push((phase, Instant::now()));
    }
}

const fn on_each_cpu(phase: UpdatePhase) -> bool {
    matches!(phase, UpdatePhase::Install | UpdatePhase::Init)
}

/// What a phase counts, `count` of it.
const fn counts(phase: Phase, count: u64) -> &'static str {
    let (one, more) = match phase {
        Phase::PlatformChecks | Phase::CpuInit => ("CPU", "CPUs"),
        Phase::Metadata => ("convertible memory range", "convertible memory ranges"),
        Phase::Memory => ("memory block", "memory blocks"),
        Phase::Tdmrs => ("TDMR", "TDMRs"),
        Phase::Config => ("call", "calls"),
        Phase::KeyConfig => ("package", "packages"),
        Phase::TdmrInit => ("GiB", "GiB"),
    };
    if count == 1 { one } else { more }
}
