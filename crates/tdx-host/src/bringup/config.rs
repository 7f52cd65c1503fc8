//! TDH.SYS.CONFIG: the tables it reads, the call, and what it may have changed.

use crate::sync::atomic::{AtomicBool, Ordering};

use tdx_abi::PAGE_SIZE;
use tdx_abi::features::Features0;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::tdmr::TDMR_INFO_ALIGN;
use zerocopy::IntoBytes;

use super::{Phase, Walk, transport};
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::host::HostMemory;
use crate::seamcall::{ConfigRequest, SeamcallError};
use crate::sysinfo::{self, SysInfo};
use crate::tdmr::{TdmrLimits, TdmrTable};
use crate::traits::{AllocRequest, CpuNumber, LogLevel, OwnedPages, Platform};

/// Add-on features that are on, and those that the module refused.
type OptIn = (Features0, Features0);

impl<C, K, P> Walk<'_, C, K, P>
where
    C: AsRef<[CpuSlot]> + Sync,
    K: Sync,
    P: Platform + ?Sized,
{
    /// Gives TDMRs and KeyID to the module.
    ///
    /// After an error the PAMTs are as they were: the module never took them.
    pub(super) fn configure<B>(
        &self,
        memory: &mut HostMemory<B, P::Leaks>,
        info: &SysInfo,
        limits: &TdmrLimits,
        boot: CpuNumber,
    ) -> Result<OptIn, HostError> {
        self.progress.phase_started(Phase::Config, 1);
        let global_key = self.host.keyids().global().ok_or(HostError::EarlyInitMissing)?;
        let count = memory.tdmrs.len() as u64;
        // The array of addresses fills the first 512 bytes, the structures follow.
        let bytes = (TDMR_INFO_ALIGN * (count + 1)).next_multiple_of(PAGE_SIZE);
        let node = self.platform.node_of(boot);
        let request = AllocRequest { bytes, align: PAGE_SIZE, node, avoid: &[] };
        let tables = self.platform.alloc_contiguous(request).ok_or(HostError::NoMemory { bytes })?;
        let result = self.write_tables(&tables, &memory.tdmrs, limits).and_then(|()| {
            memory.tdmrs.donate();
            let request = ConfigRequest { tdmr_array: tables.start(), count, global_key };
            self.call_config(request, info, boot)
        });
        // The module copied the tables.
        self.platform.free(tables);
        let opted = result?;
        self.progress.phase_done(Phase::Config, if opted.1.is_empty() { 1 } else { 2 });
        Ok(opted)
    }

    fn write_tables(
        &self,
        tables: &OwnedPages<P::Leaks>,
        tdmrs: &TdmrTable<P::Leaks>,
        limits: &TdmrLimits,
    ) -> Result<(), HostError> {
        let start = tables.start().as_u64();
        for (index, tdmr) in (0u64..).zip(tdmrs.iter()) {
            let offset = TDMR_INFO_ALIGN * (index + 1);
            self.platform.write(tables, offset, tdmr.info(limits).as_bytes())?;
            self.platform.write(tables, 8 * index, &(start + offset).to_le_bytes())?;
        }
        Ok(())
    }

    fn call_config(
        &self,
        request: ConfigRequest,
        info: &SysInfo,
        boot: CpuNumber,
    ) -> Result<OptIn, HostError> {
        let port = self.host.port(self.platform);
        // The extensions as such are not asked for: what needs them brings them.
        let wanted = self.options.opt_in.difference(Features0::EXT).intersection(info.features0());
        let refused = AtomicBool::new(false);
        self.platform.on_cpu(boot, &|pin| {
            let first = if wanted.is_empty() {
                port.sys_config(pin, request)
            } else {
                port.sys_config_v1(pin, request, wanted)
            };
            let error = match first {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if wanted.is_empty() || !opt_in_refused(&error) {
                return Err(self.judge_config(error));
            }
            // The same KeyID: the refused call may have reserved it already.
            refused.store(true, Ordering::Relaxed);
            port.sys_config(pin, request).map_err(|error| self.judge_config(error))?;
            self.platform.log(
                LogLevel::Error,
                format_args!("add-on features {wanted} stay off, the module refused them: {error}"),
            );
            Ok(())
        })?;
        let none = Features0::default();
        Ok(if refused.into_inner() { (none, wanted) } else { (wanted, none) })
    }

    fn judge_config(&self, error: SeamcallError) -> HostError {
        if error.is(StatusCode::SYS_CONFIG_NOT_PENDING) {
            let initialised = self.host.cpus().iter().filter(|slot| slot.lp_initialised()).count();
            let initialised = u32::try_from(initialised).unwrap_or(u32::MAX);
            return HostError::LpNotInitialised { initialised, possible: self.platform.possible(), error };
        }
        transport(error).unwrap_or(HostError::ConfigFailed { error })
    }

    /// Reads again what CONFIG may have changed.
    pub(super) fn refresh_metadata(&self, boot: CpuNumber) -> Result<(), HostError> {
        let port = self.host.port(self.platform);
        let cell = self.host.sysinfo_cell();
        self.platform.on_cpu(boot, &|pin| {
            let mut info = cell.get().ok_or(HostError::NotInitialised)?;
            sysinfo::refresh_after_config(&port, pin, &mut info)?;
            cell.set(&info);
            Ok(())
        })
    }
}

/// True if version 1 of CONFIG or UPDATE was refused for what version 0 lacks: R9, R11, or the version
/// itself, which modules that do not know it refuse as RAX.
pub(crate) fn opt_in_refused(error: &SeamcallError) -> bool {
    let operand = error.status().filter(|status| status.is(StatusCode::OPERAND_INVALID));
    let operand = operand.and_then(Status::operand);
    matches!(operand, Some(OperandId::RAX | OperandId::R9 | OperandId::R11))
}
