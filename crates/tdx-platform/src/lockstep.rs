//! All CPUs through phases together, in two ways.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use tdx_host::HostError;
use tdx_host::traits::{CpuNumber, CpuPin, LockstepError, LockstepFn};

fn visit(cpu: CpuNumber, phase: u32, visitor: &LockstepFn<'_>) -> Result<(), HostError> {
    CpuPin::enter(cpu, |pin| visitor(pin, phase))
}

/// One CPU after the other in each phase: for thousands of them. The first failure is the last visit.
pub(crate) fn one_by_one(
    cpus: &[CpuNumber],
    phases: u32,
    visitor: &LockstepFn<'_>,
) -> Result<(), LockstepError> {
    for phase in 0..phases {
        for &cpu in cpus {
            visit(cpu, phase, visitor).map_err(|error| LockstepError { phase, cpu, error })?;
        }
    }
    Ok(())
}

/// How one CPU's visit ended.
enum Ended {
    Well,
    Failed(HostError),
    Panicked(Box<dyn Any + Send>),
}

/// Each CPU on a thread of its own, with a barrier behind each phase.
pub(crate) fn on_threads(
    cpus: &[CpuNumber],
    phases: u32,
    visitor: &LockstepFn<'_>,
) -> Result<(), LockstepError> {
    let together = Barrier::new(cpus.len());
    // The first phase in which a CPU failed. Not a flag: a fast CPU may fail in the next phase before a slow
    // one has looked.
    let failed_in = AtomicU32::new(u32::MAX);
    let run = |cpu: CpuNumber| {
        together.wait();
        for phase in 0..phases {
            // A panic must not leave the others waiting.
            let ended = match catch_unwind(AssertUnwindSafe(|| visit(cpu, phase, visitor))) {
                Ok(Ok(())) => Ended::Well,
                Ok(Err(error)) => Ended::Failed(error),
                Err(panic) => Ended::Panicked(panic),
            };
            if !matches!(ended, Ended::Well) {
                failed_in.fetch_min(phase, Ordering::AcqRel);
            }
            together.wait();
            if failed_in.load(Ordering::Acquire) <= phase {
                return (phase, ended);
            }
        }
        (phases, Ended::Well)
    };
    let ends: Vec<_> = thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = cpus.iter().map(|&cpu| scope.spawn(move || run(cpu))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let mut result = Ok(());
    for (&cpu, (phase, ended)) in cpus.iter().zip(ends) {
        match ended {
            Ended::Panicked(panic) => resume_unwind(panic),
            Ended::Failed(error) if result.is_ok() => result = Err(LockstepError { phase, cpu, error }),
            Ended::Failed(_) | Ended::Well => {}
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    type Lockstep = fn(&[CpuNumber], u32, &LockstepFn<'_>) -> Result<(), LockstepError>;
    const BOTH: [Lockstep; 2] = [one_by_one, on_threads];

    fn cpus(count: u32) -> Vec<CpuNumber> {
        (0..count).map(CpuNumber).collect()
    }

    #[test]
    fn no_cpu_enters_a_phase_before_all_ended_the_one_before() {
        for lockstep in BOTH {
            let ended = AtomicUsize::new(0);
            let visits = Mutex::new(Vec::new());
            let result = lockstep(&cpus(8), 50, &|pin, phase| {
                assert!(ended.load(Ordering::SeqCst) >= 8 * phase as usize, "{} in {phase}", pin.cpu());
                visits.lock().unwrap().push((phase, pin.cpu()));
                ended.fetch_add(1, Ordering::SeqCst);
                Ok(())
            });
            assert_eq!(result, Ok(()));
            let mut visits = visits.into_inner().unwrap();
            visits.sort_unstable();
            let each = (0..50).flat_map(|phase| cpus(8).into_iter().map(move |cpu| (phase, cpu)));
            assert!(visits.into_iter().eq(each));
        }
    }

    #[test]
    fn a_failure_stops_all_in_its_phase_and_the_lowest_cpu_is_named() {
        for lockstep in BOTH {
            for failing in [vec![0], vec![7], vec![3, 5]] {
                let latest = AtomicU32::new(0);
                let result = lockstep(&cpus(8), 9, &|pin, phase| {
                    latest.fetch_max(phase, Ordering::SeqCst);
                    let cpu = pin.cpu();
                    if phase == 4 && failing.contains(&cpu.0) {
                        Err(HostError::CpuOffline { cpu })
                    } else {
                        Ok(())
                    }
                });
                let cpu = CpuNumber(failing[0]);
                let error = HostError::CpuOffline { cpu };
                assert_eq!(result, Err(LockstepError { phase: 4, cpu, error }));
                assert_eq!(latest.into_inner(), 4);
            }
        }
    }

    #[test]
    fn failures_in_phases_that_follow_each_other_leave_nobody_waiting() {
        for _ in 0..200 {
            let failed = AtomicU32::new(0);
            let result = on_threads(&cpus(4), 3, &|pin, phase| {
                failed.fetch_max(phase, Ordering::SeqCst);
                if pin.cpu().0 == phase { Err(HostError::NoCpuOnline) } else { Ok(()) }
            });
            assert_eq!(result.unwrap_err().phase, 0);
            assert_eq!(failed.into_inner(), 0);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        for lockstep in BOTH {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                lockstep(&cpus(4), 3, &|pin, phase| {
                    assert!(phase != 1 || pin.cpu().0 != 2, "here");
                    Ok(())
                })
            }));
            assert!(caught.is_err());
        }
    }
}
