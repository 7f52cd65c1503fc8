//! TDH.IDE.STREAM leaves.

use pcie::ide::{AddressAssociation, RidAssociation};
use tdx_abi::Registers;
use tdx_abi::connect::ids::{KmOperation, SpdmId};
use tdx_abi::connect::pages::{HpaArray, ReleaseOperand};
use tdx_abi::connect::stream::StreamInfo;
use tdx_abi::leaf::{LeafWord, SeamcallLeaf};

use super::{Marshalled, MessagePages, SeamPort, SeamcallError};
use crate::traits::{CpuPin, Seam};

/// Operands of TDH.IDE.STREAM.CREATE. The control register is 0: no PCRC, traffic class 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRequest {
    /// The root port.
    pub info: StreamInfo,
    /// The session with the device.
    pub session: SpdmId,
    /// Pages for the module.
    pub pages: HpaArray,
    /// Functions of the device.
    pub functions: RidAssociation,
    /// Memory of the device.
    pub memory: AddressAssociation,
}

/// What TDH.IDE.STREAM.CREATE says of the new stream. Neither number was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedStream {
    /// Stream id.
    pub stream_id: u64,
    /// Register block of the root port.
    pub root_port_block: u64,
}

impl<S: Seam + ?Sized> SeamPort<'_, S> {
    /// TDH.IDE.STREAM.CREATE: programs the root port's end of a stream, disabled.
    pub fn ide_stream_create(
        &self,
        pin: &CpuPin<'_>,
        request: StreamRequest,
    ) -> Result<CreatedStream, SeamcallError> {
        let [rid_1, rid_2] = request.functions.encode();
        let [address_1, address_2, address_3] = request.memory.encode();
        let input = || Registers {
            rcx: request.info.0,
            rdx: request.session.0,
            r8: request.pages.raw(),
            r9: 0,
            r10: rid_1.into(),
            r11: rid_2.into(),
            r12: address_1.into(),
            r13: address_2.into(),
            r14: address_3.into(),
            ..Registers::default()
        };
        let leaf = LeafWord::module(SeamcallLeaf::IDE_STREAM_CREATE, 0);
        let out = self.call_plain(pin, leaf, input)?;
        Ok(CreatedStream { stream_id: out.rcx, root_port_block: out.rdx })
    }

    /// TDH.IDE.STREAM.KM: keys of both ends.
    pub fn ide_stream_km(
        &self,
        pin: &CpuPin<'_>,
        session: SpdmId,
        stream_id: u64,
        operation: KmOperation,
        messages: MessagePages,
    ) -> Result<Marshalled, SeamcallError> {
        self.marshalled(pin, SeamcallLeaf::IDE_STREAM_KM, || Registers {
            rcx: session.0,
            rdx: stream_id,
            r8: operation.0,
            r9: messages.to_module.as_u64(),
            r10: messages.to_device.as_u64(),
            ..Registers::default()
        })
    }

    /// TDH.IDE.STREAM.BLOCK: the root port's end goes off, whatever the device says.
    pub fn ide_stream_block(
        &self,
        pin: &CpuPin<'_>,
        session: SpdmId,
        stream_id: u64,
    ) -> Result<(), SeamcallError> {
        let input = || Registers { rcx: session.0, rdx: stream_id, ..Registers::default() };
        self.call_plain(pin, LeafWord::module(SeamcallLeaf::IDE_STREAM_BLOCK, 0), input).map(|_| ())
    }

    /// TDH.IDE.STREAM.DELETE: takes the pages of a blocked stream back; RCX describes them.
    pub fn ide_stream_delete(
        &self,
        pin: &CpuPin<'_>,
        session: SpdmId,
        stream_id: u64,
        release: ReleaseOperand,
    ) -> Result<u64, SeamcallError> {
        let input = || Registers { rcx: session.0, rdx: stream_id, r8: release.0, ..Registers::default() };
        let leaf = LeafWord::module(SeamcallLeaf::IDE_STREAM_DELETE, 0);
        self.call_plain(pin, leaf, input).map(|out| out.rcx)
    }
}
