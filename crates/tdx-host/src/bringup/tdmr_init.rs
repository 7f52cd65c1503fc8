//! The keys of the packages and the PAMTs: the part of bring-up in which the module writes to memory.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tdx_abi::PhysRange;
use tdx_abi::addr::SIZE_1G;
use tdx_abi::tdmr::MAX_TDMRS;

use super::config::OptIn;
use super::{Phase, Walk, transport};
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::{HostMemory, write_caches_back};
use crate::tdmr::TdmrLimits;
use crate::traits::{CpuNumber, CpuPin, PackageId, Platform, first_online};

/// Most calls for one GiB: a module that needs more makes no progress. 256 are usual.
const MAX_CALLS_PER_GIB: u64 = 1 << 12;

/// Calls in one visit to a CPU, which is not preempted meanwhile: some milliseconds.
const CALLS_PER_VISIT: u64 = 64;

/// How far one TDMR is. One CPU works on it; the others read.
struct Reached {
    /// Bytes from its base on that the module may have described; 0 before the first call.
    touched: AtomicU64,
    /// Bytes from its base on that are initialised, in whole GiB.
    done: AtomicU64,
    calls: AtomicU64,
    finished: AtomicBool,
}

impl Reached {
    const fn new() -> Self {
        Self {
            touched: AtomicU64::new(0),
            done: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            finished: AtomicBool::new(false),
        }
    }

    fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
}

impl<C, K, P> Walk<'_, C, K, P>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: Sync,
    P: Platform + ?Sized,
{
    /// From a configured module to a ready one; packages and calls of TDMR.INIT.
    ///
    /// After an error the PAMTs are the host's again, cleared where the module may have written.
    pub(super) fn finish<B>(
        &self,
        memory: &mut HostMemory<B, P::Leaks>,
        limits: &TdmrLimits,
        opted: &OptIn,
        boot: CpuNumber,
    ) -> Result<(u64, u64), HostError> {
        let reached = [const { Reached::new() }; MAX_TDMRS];
        let result = self
            .refresh_metadata(boot)
            .and_then(|()| self.configure_keys())
            .and_then(|packages| self.init_tdmrs(memory, &reached).map(|()| packages))
            .and_then(|packages| self.enable_connect(memory, opted, boot).map(|()| packages));
        match result {
            Ok(packages) => {
                let calls = reached.iter().map(|tdmr| tdmr.calls.load(Ordering::Relaxed)).sum();
                Ok((packages, calls))
            }
            Err(error) => {
                write_caches_back(self.platform);
                let clear = self.host.partial_write_erratum();
                let touched =
                    |index: usize| reached.get(index).map_or(0, |tdmr| tdmr.touched.load(Ordering::Relaxed));
                memory.tdmrs.reclaim(self.platform, clear, limits, touched);
                memory.reclaim_pool(self.platform);
                Err(error)
            }
        }
    }

    /// Programs the global key on each package, one after the other.
    fn configure_keys(&self) -> Result<u64, HostError> {
        let packages = self.platform.packages();
        self.progress.phase_started(Phase::KeyConfig, u64::from(packages));
        write_caches_back(self.platform);
        let port = self.host.port(self.platform);
        for package in (0..packages).map(PackageId) {
            let cpu = first_online(self.platform, |cpu| self.platform.package_of(cpu) == package);
            let cpu = cpu.ok_or(HostError::PackageOffline { package })?;
            self.platform.on_cpu(cpu, &|pin| {
                let done = port.sys_key_config(pin).map(|_| ());
                done.map_err(|error| {
                    transport(error).unwrap_or(HostError::KeyConfigFailed { package, error })
                })
            })?;
            self.progress.advanced(Phase::KeyConfig, 1);
        }
        self.progress.phase_done(Phase::KeyConfig, u64::from(packages));
        Ok(u64::from(packages))
    }

    /// Initialises all TDMRs: the i-th by the (i mod n)-th of the n CPUs that take part.
    ///
    /// In rounds of short visits, so that the CPUs can do other work in between.
    fn init_tdmrs<B>(
        &self,
        memory: &HostMemory<B, P::Leaks>,
        reached: &[Reached; MAX_TDMRS],
    ) -> Result<(), HostError> {
        let gib = memory.tdmrs.bytes() / SIZE_1G;
        self.progress.phase_started(Phase::TdmrInit, gib);
        let mut ranges = [PhysRange::default(); MAX_TDMRS];
        for (range, tdmr) in ranges.iter_mut().zip(memory.tdmrs.iter()) {
            *range = tdmr.range();
        }
        let ranges = ranges.get(..memory.tdmrs.len()).unwrap_or_default();
        let online = (0..self.platform.possible()).map(CpuNumber).filter(|&cpu| self.platform.is_online(cpu));
        let mut workers = [CpuNumber::default(); MAX_TDMRS];
        let mut count = 0;
        for (worker, cpu) in workers.iter_mut().zip(online).take(ranges.len()) {
            *worker = cpu;
            count += 1;
        }
        let workers = workers.get(..count).unwrap_or_default();
        let share = |first: usize| ranges.iter().zip(reached).skip(first).step_by(count.max(1));
        let failed = AtomicBool::new(false);
        let visit = |pin: &CpuPin<'_>| {
            let first = workers.iter().position(|&cpu| cpu == pin.cpu()).unwrap_or(0);
            let mut calls = 0;
            for (range, reached) in share(first) {
                // One failure ends them all.
                while !reached.is_finished() && calls < CALLS_PER_VISIT && !failed.load(Ordering::Relaxed) {
                    calls += 1;
                    self.init_step(pin, *range, reached)
                        .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                }
            }
            Ok(())
        };
        loop {
            let mut busy = [CpuNumber::default(); MAX_TDMRS];
            let mut count = 0;
            let unfinished = |first: &usize| share(*first).any(|(_, reached)| !reached.is_finished());
            let with_work = (0..workers.len()).filter(unfinished).filter_map(|first| workers.get(first));
            for (place, cpu) in busy.iter_mut().zip(with_work) {
                *place = *cpu;
                count += 1;
            }
            if count == 0 {
                break;
            }
            self.platform.on_cpus(busy.get(..count).unwrap_or_default(), &visit)?;
        }
        self.progress.phase_done(Phase::TdmrInit, gib);
        Ok(())
    }

    /// One call of TDH.SYS.TDMR.INIT.
    fn init_step(&self, pin: &CpuPin<'_>, range: PhysRange, reached: &Reached) -> Result<(), HostError> {
        let port = self.host.port(self.platform);
        let (tdmr, size) = (range.start(), range.size());
        let calls = reached.calls.load(Ordering::Relaxed);
        if calls == size / SIZE_1G * MAX_CALLS_PER_GIB {
            return Err(HostError::TdmrInitStuck { tdmr, calls });
        }
        reached.calls.store(calls + 1, Ordering::Relaxed);
        let done = reached.done.load(Ordering::Relaxed);
        // The answer is rounded down to a GiB, so that one GiB more may have been begun.
        reached.touched.store((done + SIZE_1G).min(size), Ordering::Relaxed);
        let next = port
            .sys_tdmr_init(pin, tdmr)
            .map_err(|error| transport(error).unwrap_or(HostError::TdmrInitFailed { tdmr, error }))?
            .unwrap_or(range.end());
        let now = next.offset_from(tdmr).unwrap_or(0).min(size);
        if now > done {
            self.progress.advanced(Phase::TdmrInit, (now - done) / SIZE_1G);
            reached.done.store(now, Ordering::Relaxed);
        }
        reached.finished.store(next >= range.end(), Ordering::Relaxed);
        Ok(())
    }
}
