//! The keys of the packages and the PAMTs: the part of bring-up in which the module writes to memory.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tdx_abi::PhysRange;
use tdx_abi::addr::SIZE_1G;
use tdx_abi::tdmr::MAX_TDMRS;

use super::{Phase, Walk, transport};
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::HostMemory;
use crate::tdmr::TdmrLimits;
use crate::traits::{CpuNumber, CpuPin, PackageId, Platform, first_online};

/// Most calls for one GiB: a module that needs more makes no progress. 256 are usual.
const MAX_CALLS_PER_GIB: u64 = 1 << 12;

/// How far the TDMRs are.
struct Reached {
    /// For each TDMR the bytes from its base on that the module may have described; 0 before its first
    /// call.
    touched: [AtomicU64; MAX_TDMRS],
    calls: AtomicU64,
    failed: AtomicBool,
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
        boot: CpuNumber,
    ) -> Result<(u64, u64), HostError> {
        let reached = Reached {
            touched: [const { AtomicU64::new(0) }; MAX_TDMRS],
            calls: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        };
        let result = self
            .refresh_metadata(boot)
            .and_then(|()| self.configure_keys())
            .and_then(|packages| self.init_tdmrs(memory, &reached).map(|()| packages));
        match result {
            Ok(packages) => Ok((packages, reached.calls.into_inner())),
            Err(error) => {
                self.write_caches_back();
                let clear = self.host.partial_write_erratum();
                let touched = |index: usize| {
                    reached.touched.get(index).map_or(0, |bytes| bytes.load(Ordering::Relaxed))
                };
                memory.tdmrs.reclaim(self.platform, clear, limits, touched);
                Err(error)
            }
        }
    }

    /// WBINVD everywhere: no line of one key may be written back over memory that has another.
    fn write_caches_back(&self) {
        let flush = |pin: &CpuPin<'_>| {
            self.platform.wbinvd(pin);
            Ok(())
        };
        // The visitor does not fail.
        let _ = self.platform.on_each_cpu(&flush);
    }

    /// Programs the global key on each package, one after the other.
    fn configure_keys(&self) -> Result<u64, HostError> {
        let packages = self.platform.packages();
        self.progress.phase_started(Phase::KeyConfig, u64::from(packages));
        self.write_caches_back();
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
    fn init_tdmrs<B>(&self, memory: &HostMemory<B, P::Leaks>, reached: &Reached) -> Result<(), HostError> {
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
        self.platform.on_cpus(workers, &|pin| {
            let first = workers.iter().position(|&cpu| cpu == pin.cpu()).unwrap_or(0);
            for (range, touched) in ranges.iter().zip(&reached.touched).skip(first).step_by(count.max(1)) {
                // One failure ends them all.
                if reached.failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if let Err(error) = self.init_tdmr(pin, *range, touched, &reached.calls) {
                    reached.failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        })?;
        self.progress.phase_done(Phase::TdmrInit, gib);
        Ok(())
    }

    fn init_tdmr(
        &self,
        pin: &CpuPin<'_>,
        range: PhysRange,
        touched: &AtomicU64,
        total_calls: &AtomicU64,
    ) -> Result<(), HostError> {
        let port = self.host.port(self.platform);
        let (tdmr, size) = (range.start(), range.size());
        let most = size / SIZE_1G * MAX_CALLS_PER_GIB;
        // The answer is rounded down to a GiB, so that one GiB more may have been begun.
        touched.store(SIZE_1G.min(size), Ordering::Relaxed);
        let (mut calls, mut done) = (0, 0);
        let result = loop {
            if calls == most {
                break Err(HostError::TdmrInitStuck { tdmr, calls });
            }
            calls += 1;
            let next = match port.sys_tdmr_init(pin, tdmr) {
                Ok(next) => next.unwrap_or(range.end()),
                Err(error) => {
                    break Err(transport(error).unwrap_or(HostError::TdmrInitFailed { tdmr, error }));
                }
            };
            let reached = next.offset_from(tdmr).unwrap_or(0).min(size);
            if reached > done {
                self.progress.advanced(Phase::TdmrInit, (reached - done) / SIZE_1G);
                done = reached;
                touched.store((done + SIZE_1G).min(size), Ordering::Relaxed);
            }
            if next >= range.end() {
                break Ok(());
            }
        };
        total_calls.fetch_add(calls, Ordering::Relaxed);
        result
    }
}
