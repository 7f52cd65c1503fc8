//! The time of a lockstep, and a lockstep of threads.

use std::cell::Cell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use tdx_host::traits::{CpuNumber, CpuPin, LockstepError, LockstepFn};

thread_local! {
    /// This thread is a CPU with interrupts off. Threads that are not may sleep on.
    static OFF: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn interrupts_are_off() -> bool {
    OFF.get()
}

/// The time in which interrupts are off. It ends in a panic too.
pub(super) struct InterruptsOff<'a>(&'a AtomicBool);

impl<'a> InterruptsOff<'a> {
    pub(super) fn new(off: &'a AtomicBool) -> Self {
        off.store(true, Ordering::SeqCst);
        OFF.set(true);
        Self(off)
    }
}

impl Drop for InterruptsOff<'_> {
    fn drop(&mut self) {
        OFF.set(false);
        self.0.store(false, Ordering::SeqCst);
    }
}

/// A lockstep with a thread for each CPU.
pub(super) fn on_threads(
    cpus: &[CpuNumber],
    phases: u32,
    visitor: &LockstepFn<'_>,
) -> Result<(), LockstepError> {
    let ended = Barrier::new(cpus.len());
    let failed_in = AtomicU32::new(u32::MAX);
    let run = |cpu: CpuNumber| {
        OFF.set(true);
        for phase in 0..phases {
            let visit = CpuPin::enter(cpu, |pin| visitor(pin, phase));
            if visit.is_err() {
                failed_in.fetch_min(phase, Ordering::SeqCst);
            }
            ended.wait();
            if failed_in.load(Ordering::SeqCst) <= phase {
                return visit.map_err(|error| LockstepError { phase, cpu, error });
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = cpus.iter().map(|&cpu| scope.spawn(move || run(cpu))).collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        results.into_iter().collect()
    })
}
