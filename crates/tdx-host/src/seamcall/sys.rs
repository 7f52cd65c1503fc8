//! TDH.SYS leaves.

use tdx_abi::features::Features0;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::metadata::FieldId;
use tdx_abi::status::StatusCode;
use tdx_abi::{KeyId, PhysAddr, Registers};

use super::{SeamPort, SeamcallError, unexpected};
use crate::traits::{CpuPin, Seam};

/// Operands of TDH.SYS.CONFIG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigRequest {
    /// Array of the addresses of the TDMR_INFO structures, 512-byte aligned.
    pub tdmr_array: PhysAddr,
    /// Entries in it.
    pub count: u64,
    /// The module's own KeyID.
    pub global_key: KeyId,
}

/// Version of the data that a module leaves to its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandoffVersion(pub u16);

/// Bit of RCX of TDH.SYS.SHUTDOWN.
const AVOID_COMPAT_SENSITIVE: u32 = 16;

/// What TDH.SYS.KEY.CONFIG did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyConfigured {
    /// It programmed the key of this package.
    Now,
    /// The package had its key before.
    Before,
}

/// Where TDH.SYS.TDMR.INIT goes on, a multiple of 1 GiB; `None` if the TDMR was finished before the call.
pub type NextAddress = Option<PhysAddr>;

impl<S: Seam + ?Sized> SeamPort<'_, S> {
    /// TDH.SYS.INIT: starts the module, once per machine, on any CPU.
    pub fn sys_init(&self, pin: &CpuPin<'_>) -> Result<(), SeamcallError> {
        self.call_plain(pin, LeafWord::module(SeamcallLeaf::SYS_INIT, 0), Registers::default).map(|_| ())
    }

    /// TDH.SYS.LP.INIT: makes this CPU known to the module, once per CPU.
    pub fn sys_lp_init(&self, pin: &CpuPin<'_>) -> Result<(), SeamcallError> {
        self.call_plain(pin, LeafWord::module(SeamcallLeaf::SYS_LP_INIT, 0), Registers::default).map(|_| ())
    }

    /// TDH.SYS.RD: reads one global metadata field.
    #[inline]
    pub fn sys_rd(&self, pin: &CpuPin<'_>, field: FieldId) -> Result<u64, SeamcallError> {
        let input = || Registers { rdx: field.0, ..Registers::default() };
        self.call_plain(pin, LeafWord::module(SeamcallLeaf::SYS_RD, 0), input).map(|out| out.r8)
    }

    /// TDH.SYS.CONFIG: gives the module its memory and its KeyID, and switches on the add-on features of
    /// `opt_in`; version 0 if there are none.
    pub fn sys_config(
        &self,
        pin: &CpuPin<'_>,
        request: ConfigRequest,
        opt_in: Features0,
    ) -> Result<(), SeamcallError> {
        // R10 and R11 stay 0: nothing is defined for them that this host would ask for.
        let input = || Registers {
            rcx: request.tdmr_array.as_u64(),
            rdx: request.count,
            r8: u64::from(request.global_key.number()),
            r9: opt_in.bits(),
            ..Registers::default()
        };
        let leaf = LeafWord::module(SeamcallLeaf::SYS_CONFIG, version_with(opt_in));
        self.call_plain(pin, leaf, input).map(|_| ())
    }

    /// TDH.SYS.KEY.CONFIG: programs the global key on this CPU's package.
    pub fn sys_key_config(&self, pin: &CpuPin<'_>) -> Result<KeyConfigured, SeamcallError> {
        let leaf = LeafWord::module(SeamcallLeaf::SYS_KEY_CONFIG, 0);
        let mut registers = Registers::default();
        let status = self.call(pin, leaf, &mut registers, Registers::default)?;
        match status.code() {
            StatusCode::SUCCESS => Ok(KeyConfigured::Now),
            StatusCode::KEY_CONFIGURED => Ok(KeyConfigured::Before),
            _ => Err(unexpected(leaf, status, &registers)),
        }
    }

    /// TDH.SYS.TDMR.INIT: one step of the TDMR that begins at `base`.
    pub fn sys_tdmr_init(&self, pin: &CpuPin<'_>, base: PhysAddr) -> Result<NextAddress, SeamcallError> {
        let leaf = LeafWord::module(SeamcallLeaf::SYS_TDMR_INIT, 0);
        let mut registers = Registers::default();
        let input = || Registers { rcx: base.as_u64(), ..Registers::default() };
        let status = self.call(pin, leaf, &mut registers, input)?;
        match status.code() {
            StatusCode::SUCCESS => Ok(Some(PhysAddr::new(registers.rdx))),
            StatusCode::TDMR_ALREADY_INITIALIZED => Ok(None),
            _ => Err(unexpected(leaf, status, &registers)),
        }
    }

    /// TDH.SYS.SHUTDOWN: ends the module, which leaves its state to a successor that understands hand-off
    /// version `handoff`.
    ///
    /// With `avoid_sensitive` it refuses while TDs are at a point that does not survive; only for a module
    /// that was told UPDATE_COMPATIBILITY.
    pub fn sys_shutdown(
        &self,
        pin: &CpuPin<'_>,
        handoff: HandoffVersion,
        avoid_sensitive: bool,
    ) -> Result<(), SeamcallError> {
        let rcx = u64::from(handoff.0) | u64::from(avoid_sensitive) << AVOID_COMPAT_SENSITIVE;
        let input = || Registers { rcx, ..Registers::default() };
        self.call_plain(pin, LeafWord::module(SeamcallLeaf::SYS_SHUTDOWN, 0), input).map(|_| ())
    }

    /// TDH.SYS.UPDATE: takes over from the module that was shut down, and switches on the add-on features of
    /// `opt_in`; version 0 if there are none.
    pub fn sys_update(&self, pin: &CpuPin<'_>, opt_in: Features0) -> Result<(), SeamcallError> {
        let input = || Registers { r9: opt_in.bits(), ..Registers::default() };
        let leaf = LeafWord::module(SeamcallLeaf::SYS_UPDATE, version_with(opt_in));
        self.call_plain(pin, leaf, input).map(|_| ())
    }

    /// TDH.SYS.DISABLE: ends the module until it is loaded again.
    pub fn sys_disable(&self, pin: &CpuPin<'_>) -> Result<(), SeamcallError> {
        self.call_plain(pin, LeafWord::module(SeamcallLeaf::SYS_DISABLE, 0), Registers::default).map(|_| ())
    }
}

/// Version of a leaf of which version 1 is version 0 with the add-on features of R9.
fn version_with(opt_in: Features0) -> u8 {
    u8::from(!opt_in.is_empty())
}
