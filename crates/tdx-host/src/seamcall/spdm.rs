//! TDH.SPDM leaves.

use pcie::FuncId;
use tdx_abi::connect::NO_PAGE;
use tdx_abi::connect::ids::{MngOperation, SpdmId};
use tdx_abi::connect::pages::{HpaArray, ReleaseOperand};
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::status::StatusCode;
use tdx_abi::{PhysAddr, Registers};

use super::{Resume, SeamPort, SeamcallError};
use crate::traits::{CpuPin, Seam};

/// Pages by which messages go: one object each, from offset 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessagePages {
    /// The device's answer, for the module.
    pub to_module: PhysAddr,
    /// The module's request, for the device.
    pub to_device: PhysAddr,
}

/// How far a leaf that talks to a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marshalled {
    /// To its end.
    Done {
        /// Bytes of output, for leaves that have some.
        bytes: u64,
    },
    /// An object of so many bytes, as the module says, has to go to the device, and its answer into the
    /// page for the module.
    Send {
        /// Bytes of the object, header included.
        bytes: u64,
    },
    /// The keys of the session are used up: they have to be made anew first.
    KeysUsedUp,
}

impl<S: Seam + ?Sized> SeamPort<'_, S> {
    /// A leaf that may want a message exchanged. Interrupted, it goes on with the operands of its start.
    pub(super) fn marshalled(
        &self,
        pin: &CpuPin<'_>,
        leaf: SeamcallLeaf,
        input: impl Fn() -> Registers,
    ) -> Result<Marshalled, SeamcallError> {
        let ended = self.call_plain_resumed(pin, LeafWord::module(leaf, 0), Resume::Same, input);
        match ended {
            Ok(registers) => Ok(Marshalled::Done { bytes: registers.rcx }),
            Err(error) if error.is(StatusCode::SPDM_REQUEST) => Ok(Marshalled::Send { bytes: error.rcx }),
            Err(error) if error.is(StatusCode::SPDM_SESSION_KEY_REQUIRE_REFRESH) => {
                Ok(Marshalled::KeysUsedUp)
            }
            Err(error) => Err(error),
        }
    }

    /// TDH.SPDM.CREATE: gives the module the pages of a session with the DSM in `function`.
    pub fn spdm_create(
        &self,
        pin: &CpuPin<'_>,
        function: FuncId,
        pages: HpaArray,
    ) -> Result<SpdmId, SeamcallError> {
        let input = || Registers { rcx: function.0.into(), rdx: pages.raw(), ..Registers::default() };
        let leaf = LeafWord::module(SeamcallLeaf::SPDM_CREATE, 0);
        self.call_plain(pin, leaf, input).map(|out| SpdmId(out.rcx))
    }

    /// TDH.SPDM.DELETE: takes the pages back; RCX describes them.
    pub fn spdm_delete(
        &self,
        pin: &CpuPin<'_>,
        session: SpdmId,
        release: ReleaseOperand,
    ) -> Result<u64, SeamcallError> {
        let input = || Registers { rcx: session.0, rdx: release.0, ..Registers::default() };
        let leaf = LeafWord::module(SeamcallLeaf::SPDM_DELETE, 0);
        self.call_plain(pin, leaf, input).map(|out| out.rcx)
    }

    /// TDH.SPDM.CONNECT: everything from GET_VERSION to an established session. Done, it tells the bytes of
    /// device information in `information`.
    pub fn spdm_connect(
        &self,
        pin: &CpuPin<'_>,
        session: SpdmId,
        config: PhysAddr,
        messages: MessagePages,
        information: HpaArray,
    ) -> Result<Marshalled, SeamcallError> {
        self.marshalled(pin, SeamcallLeaf::SPDM_CONNECT, || Registers {
            rcx: session.0,
            rdx: config.as_u64(),
            r8: messages.to_module.as_u64(),
            r9: messages.to_device.as_u64(),
            r10: information.raw(),
            ..Registers::default()
        })
    }

    /// TDH.SPDM.DISCONNECT: END_SESSION.
    pub fn spdm_disconnect(
        &self,
        pin: &CpuPin<'_>,
        session: SpdmId,
        messages: MessagePages,
    ) -> Result<Marshalled, SeamcallError> {
        self.marshalled(pin, SeamcallLeaf::SPDM_DISCONNECT, || Registers {
            rcx: session.0,
            rdx: messages.to_module.as_u64(),
            r8: messages.to_device.as_u64(),
            ..Registers::default()
        })
    }

    /// TDH.SPDM.MNG: an operation on an established session. `information` is for the device information
    /// that is collected anew, and `None` else.
    pub fn spdm_mng(
        &self,
        pin: &CpuPin<'_>,
        session: SpdmId,
        operation: MngOperation,
        messages: MessagePages,
        information: Option<HpaArray>,
    ) -> Result<Marshalled, SeamcallError> {
        self.marshalled(pin, SeamcallLeaf::SPDM_MNG, || Registers {
            rcx: session.0,
            rdx: operation.0,
            r8: NO_PAGE,
            r9: messages.to_module.as_u64(),
            r10: messages.to_device.as_u64(),
            r11: information.map_or(NO_PAGE, HpaArray::raw),
            ..Registers::default()
        })
    }
}
