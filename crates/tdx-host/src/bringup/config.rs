//! TDH.SYS.CONFIG: the tables it reads, the call, and what it may have changed.

use tdx_abi::PAGE_SIZE;
use tdx_abi::features::Features0;
use tdx_abi::status::{OperandId, Status, StatusCode};
use tdx_abi::tdmr::TDMR_INFO_ALIGN;
use zerocopy::IntoBytes;

use super::{Phase, Walk, transport};
use crate::connect::{ConnectError, ConnectState};
use crate::cpu::CpuSlot;
use crate::error::HostError;
use crate::ext::ExtError;
use crate::host::HostMemory;
use crate::seamcall::{ConfigRequest, SeamcallError};
use crate::sync::SeqCell;
use crate::sync::atomic::Ordering;
use crate::sysinfo::{self, SysInfo};
use crate::tdmr::{TdmrLimits, TdmrTable};
use crate::traits::{AllocRequest, CpuNumber, LogLevel, OwnedPages, Platform};

/// Add-on features that this host has a use for, and therefore asks for by itself.
pub const SUPPORTED_ADDONS: Features0 = Features0::TDX_CONNECT;

/// The opt-in bitmap of TDH.SYS.CONFIG and TDH.SYS.UPDATE: what this build supports or was `asked` for, of
/// what the module has `advertised`, without what the user `disabled`.
///
/// The extensions as such are not asked for: what needs them brings them.
pub const fn addon_features(advertised: Features0, asked: Features0, disabled: Features0) -> Features0 {
    let wanted = SUPPORTED_ADDONS.union(asked).difference(Features0::EXT);
    wanted.intersection(advertised).difference(disabled)
}

/// How TDH.SYS.CONFIG ended.
pub(super) struct OptIn {
    /// Add-on features that are on.
    pub(super) on: Features0,
    /// Those that the module refused.
    pub(super) refused: Features0,
    /// Why TDX Connect is not among them.
    connect_off: Option<ConnectError>,
}

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
        self.progress.phase_done(Phase::Config, if opted.refused.is_empty() { 1 } else { 2 });
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

    /// Features to ask for, and why TDX Connect is not one of them.
    fn choose_addons(&self, info: &SysInfo) -> (Features0, Option<ConnectError>) {
        let advertised = info.features0();
        let wanted = addon_features(advertised, self.options.opt_in, self.options.disabled);
        let unfit = self.host.unfit_addons();
        if !advertised.contains(Features0::TDX_CONNECT) {
            (wanted, Some(ConnectError::NotOffered))
        } else if !wanted.contains(Features0::TDX_CONNECT) {
            (wanted, Some(ConnectError::Disabled))
        } else if unfit.contains(Features0::TDX_CONNECT) {
            (wanted.difference(unfit), Some(ConnectError::PartialWriteErratum))
        } else {
            (wanted, None)
        }
    }

    fn call_config(
        &self,
        request: ConfigRequest,
        info: &SysInfo,
        boot: CpuNumber,
    ) -> Result<OptIn, HostError> {
        let port = self.host.port(self.platform);
        let (wanted, connect_off) = self.choose_addons(info);
        let refusal = SeqCell::<5>::new();
        self.platform.on_cpu(boot, &|pin| {
            let error = match port.sys_config(pin, request, wanted) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if wanted.is_empty() || !opt_in_refused(&error) {
                return Err(self.judge_config(error));
            }
            // The same KeyID: the refused call may have reserved it already.
            refusal.publish(&error.to_words());
            let without = Features0::EMPTY;
            port.sys_config(pin, request, without).map_err(|error| self.judge_config(error))?;
            self.platform.log(
                LogLevel::Error,
                format_args!("add-on features {wanted} stay off, the module refused them: {error}"),
            );
            Ok(())
        })?;
        let none = Features0::default();
        Ok(match refusal.read().map(SeamcallError::from_words) {
            None => OptIn { on: wanted, refused: none, connect_off },
            Some(error) => {
                let connect_off = connect_off.or(Some(ConnectError::TooOld { error }));
                OptIn { on: none, refused: wanted, connect_off }
            }
        })
    }

    /// Makes the module ready for TDX Connect, if that is on. A failure leaves TDX without it; the error is
    /// the host's own end.
    pub(super) fn enable_connect<B>(
        &self,
        memory: &mut HostMemory<B, P::Leaks>,
        opted: &OptIn,
        boot: CpuNumber,
    ) -> Result<(), HostError> {
        let enabled = match opted.connect_off {
            Some(reason) => Err(ExtError::Off(reason)),
            None => self.start_connect(memory, boot),
        };
        let reason = match enabled {
            Ok(()) => ConnectError::NotStarted,
            Err(ExtError::Off(reason)) => reason,
            Err(ExtError::GoingDown) => return Err(HostError::GoingDown),
        };
        let expected =
            matches!(reason, ConnectError::NotStarted | ConnectError::NotOffered | ConnectError::Disabled);
        if !expected {
            self.platform.log(LogLevel::Error, format_args!("TDX Connect is off: {reason}"));
        }
        self.host.connect.state.set(ConnectState::Off(reason));
        self.host.connect.usable.store(reason == ConnectError::NotStarted, Ordering::Release);
        Ok(())
    }

    fn start_connect<B>(
        &self,
        memory: &mut HostMemory<B, P::Leaks>,
        boot: CpuNumber,
    ) -> Result<(), ExtError> {
        self.host.read_connect_metadata(self.platform)?;
        self.host.start_extensions(self.platform, &mut memory.pool, self.platform.node_of(boot))
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
