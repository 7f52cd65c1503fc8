//! How far the bring-up is, for readers on other threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tdx_host::{Phase, Progress};

use crate::api::{PhaseFacts, PhaseState};

/// The phases that have begun.
#[derive(Debug, Default)]
pub(super) struct Phases {
    begun: Mutex<Vec<Begun>>,
    /// Steps of the running phase. Not under the lock: millions of calls count here.
    steps: AtomicU64,
}

#[derive(Debug)]
struct Begun {
    phase: Phase,
    state: PhaseState,
    total: Option<u64>,
    done: u64,
    since: Instant,
    took: Duration,
}

impl Phases {
    /// The running phase failed.
    pub(super) fn fail(&self) {
        let steps = self.steps.load(Ordering::Relaxed);
        if let Some(running) = running(&mut self.begun.lock()) {
            running.end(PhaseState::Failed, steps);
        }
    }

    pub(super) fn facts(&self) -> Vec<PhaseFacts> {
        let begun = self.begun.lock();
        let facts = |phase: &Begun| {
            let running = phase.state == PhaseState::Running;
            let took = if running { phase.since.elapsed() } else { phase.took };
            PhaseFacts {
                name: phase.phase.name().to_owned(),
                state: phase.state,
                done: if running { self.steps.load(Ordering::Relaxed) } else { phase.done },
                total: phase.total,
                milliseconds: took.as_secs_f64() * 1e3,
            }
        };
        begun.iter().map(facts).collect()
    }
}

impl Begun {
    fn end(&mut self, state: PhaseState, done: u64) {
        self.state = state;
        self.done = done;
        self.took = self.since.elapsed();
    }
}

fn running(begun: &mut [Begun]) -> Option<&mut Begun> {
    begun.last_mut().filter(|phase| phase.state == PhaseState::Running)
}

impl Progress for Phases {
    fn phase_started(&self, phase: Phase, total: u64) {
        let mut begun = self.begun.lock();
        self.steps.store(0, Ordering::Relaxed);
        begun.push(Begun {
            phase,
            state: PhaseState::Running,
            total: (total > 0).then_some(total),
            done: 0,
            since: Instant::now(),
            took: Duration::ZERO,
        });
    }

    fn advanced(&self, _: Phase, steps: u64) {
        self.steps.fetch_add(steps, Ordering::Relaxed);
    }

    fn phase_done(&self, phase: Phase, count: u64) {
        let mut begun = self.begun.lock();
        if let Some(running) = running(&mut begun).filter(|running| running.phase == phase) {
            let done = running.total.unwrap_or(count);
            running.end(PhaseState::Done, done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stand(phases: &Phases) -> Vec<(String, PhaseState, u64, Option<u64>)> {
        let facts = phases.facts().into_iter();
        facts.map(|phase| (phase.name, phase.state, phase.done, phase.total)).collect()
    }

    #[test]
    fn a_running_phase_counts_and_one_that_ended_keeps_its_count() {
        let phases = Phases::default();
        phases.phase_started(Phase::CpuInit, 4);
        phases.advanced(Phase::CpuInit, 3);
        assert_eq!(stand(&phases), [("cpu-init".to_owned(), PhaseState::Running, 3, Some(4))]);
        phases.advanced(Phase::CpuInit, 1);
        phases.phase_done(Phase::CpuInit, 4);
        phases.phase_started(Phase::Metadata, 0);
        phases.phase_done(Phase::Metadata, 9);
        assert_eq!(
            stand(&phases),
            [
                ("cpu-init".to_owned(), PhaseState::Done, 4, Some(4)),
                ("metadata".to_owned(), PhaseState::Done, 9, None),
            ]
        );
    }

    #[test]
    fn only_the_running_phase_can_fail() {
        let phases = Phases::default();
        phases.phase_started(Phase::CpuInit, 4);
        phases.phase_done(Phase::CpuInit, 4);
        phases.fail();
        phases.phase_started(Phase::KeyConfig, 2);
        phases.advanced(Phase::KeyConfig, 1);
        phases.fail();
        assert_eq!(
            stand(&phases),
            [
                ("cpu-init".to_owned(), PhaseState::Done, 4, Some(4)),
                ("key-config".to_owned(), PhaseState::Failed, 1, Some(2)),
            ]
        );
    }
}
