use super::{
    DsmCapabilities, ErrorResponse, GetCapabilities, GetReport, Header, InterfaceId, InterfaceState,
    LockInterface, LockResponse, MessageType, P2pStream, ReportPortion, SetMmioAttribute, StartInterface,
    TDISP_1_0, Vdm, VersionList,
};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// Any message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The interface that it is about.
    pub interface: InterfaceId,
    /// What follows the header.
    pub body: Body<'a>,
}

/// What follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// `GET_TDISP_VERSION`.
    GetVersion,
    /// `TDISP_VERSION`.
    Version(VersionList<'a>),
    /// `GET_TDISP_CAPABILITIES`.
    GetCapabilities(GetCapabilities),
    /// `TDISP_CAPABILITIES`.
    Capabilities(DsmCapabilities),
    /// `LOCK_INTERFACE_REQUEST`.
    Lock(LockInterface),
    /// `LOCK_INTERFACE_RESPONSE`.
    Locked(LockResponse),
    /// `GET_DEVICE_INTERFACE_REPORT`.
    GetReport(GetReport),
    /// `DEVICE_INTERFACE_REPORT`.
    Report(ReportPortion<'a>),
    /// `GET_DEVICE_INTERFACE_STATE`.
    GetState,
    /// `DEVICE_INTERFACE_STATE`.
    State(InterfaceState),
    /// `START_INTERFACE_REQUEST`.
    Start(StartInterface),
    /// `START_INTERFACE_RESPONSE`.
    Started,
    /// `STOP_INTERFACE_REQUEST`.
    Stop,
    /// `STOP_INTERFACE_RESPONSE`.
    Stopped,
    /// `BIND_P2P_STREAM_REQUEST`.
    BindP2p(P2pStream),
    /// `BIND_P2P_STREAM_RESPONSE`.
    P2pBound,
    /// `UNBIND_P2P_STREAM_REQUEST`.
    UnbindP2p(P2pStream),
    /// `UNBIND_P2P_STREAM_RESPONSE`.
    P2pUnbound,
    /// `SET_MMIO_ATTRIBUTE_REQUEST`.
    SetMmioAttribute(SetMmioAttribute),
    /// `SET_MMIO_ATTRIBUTE_RESPONSE`.
    MmioAttributeSet,
    /// `VDM_REQUEST`.
    Vdm(Vdm<'a>),
    /// `VDM_RESPONSE`.
    VdmResponse(Vdm<'a>),
    /// `TDISP_ERROR`.
    Error(ErrorResponse<'a>),
}

impl<'a> Message<'a> {
    /// Reads a message of TDISP 1.0 that fills `bytes`, which begin behind the protocol id.
    pub fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let header = Header::read(&mut reader)?;
        if header.version != TDISP_1_0 {
            return Err(DecodeError::Value { field: "TDISP version", value: header.version.into() });
        }
        let body = Body::read(header.message, &mut reader)?;
        reader.finish()?;
        Ok(Self { interface: header.interface, body })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::new(self.body.message_type(), self.interface).write(writer)?;
        self.body.write(writer)
    }
}

impl<'a> Body<'a> {
    /// Reads what follows a header of that type.
    pub fn read(message: MessageType, reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(match message {
            MessageType::GET_TDISP_VERSION => Self::GetVersion,
            MessageType::TDISP_VERSION => Self::Version(VersionList::read(reader)?),
            MessageType::GET_TDISP_CAPABILITIES => Self::GetCapabilities(GetCapabilities::read(reader)?),
            MessageType::TDISP_CAPABILITIES => Self::Capabilities(DsmCapabilities::read(reader)?),
            MessageType::LOCK_INTERFACE_REQUEST => Self::Lock(LockInterface::read(reader)?),
            MessageType::LOCK_INTERFACE_RESPONSE => Self::Locked(LockResponse::read(reader)?),
            MessageType::GET_DEVICE_INTERFACE_REPORT => Self::GetReport(GetReport::read(reader)?),
            MessageType::DEVICE_INTERFACE_REPORT => Self::Report(ReportPortion::read(reader)?),
            MessageType::GET_DEVICE_INTERFACE_STATE => Self::GetState,
            MessageType::DEVICE_INTERFACE_STATE => Self::State(InterfaceState::read(reader)?),
            MessageType::START_INTERFACE_REQUEST => Self::Start(StartInterface::read(reader)?),
            MessageType::START_INTERFACE_RESPONSE => Self::Started,
            MessageType::STOP_INTERFACE_REQUEST => Self::Stop,
            MessageType::STOP_INTERFACE_RESPONSE => Self::Stopped,
            MessageType::BIND_P2P_STREAM_REQUEST => Self::BindP2p(P2pStream::read(reader)?),
            MessageType::BIND_P2P_STREAM_RESPONSE => Self::P2pBound,
            MessageType::UNBIND_P2P_STREAM_REQUEST => Self::UnbindP2p(P2pStream::read(reader)?),
            MessageType::UNBIND_P2P_STREAM_RESPONSE => Self::P2pUnbound,
            MessageType::SET_MMIO_ATTRIBUTE_REQUEST => {
                Self::SetMmioAttribute(SetMmioAttribute::read(reader)?)
            }
            MessageType::SET_MMIO_ATTRIBUTE_RESPONSE => Self::MmioAttributeSet,
            MessageType::VDM_REQUEST => Self::Vdm(Vdm::read(reader)?),
            MessageType::VDM_RESPONSE => Self::VdmResponse(Vdm::read(reader)?),
            MessageType::TDISP_ERROR => Self::Error(ErrorResponse::read(reader)?),
            MessageType(code) => return Err(DecodeError::UnknownCode(code)),
        })
    }

    /// What the message is.
    pub const fn message_type(&self) -> MessageType {
        match self {
            Self::GetVersion => MessageType::GET_TDISP_VERSION,
            Self::Version(_) => MessageType::TDISP_VERSION,
            Self::GetCapabilities(_) => MessageType::GET_TDISP_CAPABILITIES,
            Self::Capabilities(_) => MessageType::TDISP_CAPABILITIES,
            Self::Lock(_) => MessageType::LOCK_INTERFACE_REQUEST,
            Self::Locked(_) => MessageType::LOCK_INTERFACE_RESPONSE,
            Self::GetReport(_) => MessageType::GET_DEVICE_INTERFACE_REPORT,
            Self::Report(_) => MessageType::DEVICE_INTERFACE_REPORT,
            Self::GetState => MessageType::GET_DEVICE_INTERFACE_STATE,
            Self::State(_) => MessageType::DEVICE_INTERFACE_STATE,
            Self::Start(_) => MessageType::START_INTERFACE_REQUEST,
            Self::Started => MessageType::START_INTERFACE_RESPONSE,
            Self::Stop => MessageType::STOP_INTERFACE_REQUEST,
            Self::Stopped => MessageType::STOP_INTERFACE_RESPONSE,
            Self::BindP2p(_) => MessageType::BIND_P2P_STREAM_REQUEST,
            Self::P2pBound => MessageType::BIND_P2P_STREAM_RESPONSE,
            Self::UnbindP2p(_) => MessageType::UNBIND_P2P_STREAM_REQUEST,
            Self::P2pUnbound => MessageType::UNBIND_P2P_STREAM_RESPONSE,
            Self::SetMmioAttribute(_) => MessageType::SET_MMIO_ATTRIBUTE_REQUEST,
            Self::MmioAttributeSet => MessageType::SET_MMIO_ATTRIBUTE_RESPONSE,
            Self::Vdm(_) => MessageType::VDM_REQUEST,
            Self::VdmResponse(_) => MessageType::VDM_RESPONSE,
            Self::Error(_) => MessageType::TDISP_ERROR,
        }
    }

    /// Size in bytes.
    pub const fn size(&self) -> usize {
        match self {
            Self::GetVersion
            | Self::GetState
            | Self::Started
            | Self::Stop
            | Self::Stopped
            | Self::P2pBound
            | Self::P2pUnbound
            | Self::MmioAttributeSet => 0,
            Self::Version(list) => 1 + list.0.len(),
            Self::GetCapabilities(_) => GetCapabilities::SIZE,
            Self::Capabilities(_) => DsmCapabilities::SIZE,
            Self::Lock(_) => LockInterface::SIZE,
            Self::Locked(_) => LockResponse::SIZE,
            Self::GetReport(_) => GetReport::SIZE,
            Self::Report(portion) => ReportPortion::MIN_SIZE + portion.bytes.len(),
            Self::State(_) => InterfaceState::SIZE,
            Self::Start(_) => StartInterface::SIZE,
            Self::BindP2p(_) | Self::UnbindP2p(_) => P2pStream::SIZE,
            Self::SetMmioAttribute(_) => SetMmioAttribute::SIZE,
            Self::Vdm(vdm) | Self::VdmResponse(vdm) => vdm.size(),
            Self::Error(error) => match &error.extended {
                None => ErrorResponse::MIN_SIZE,
                Some(extended) => ErrorResponse::MIN_SIZE + extended.size(),
            },
        }
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        match self {
            Self::GetVersion
            | Self::GetState
            | Self::Started
            | Self::Stop
            | Self::Stopped
            | Self::P2pBound
            | Self::P2pUnbound
            | Self::MmioAttributeSet => Ok(()),
            Self::Version(body) => body.write(writer),
            Self::GetCapabilities(body) => body.write(writer),
            Self::Capabilities(body) => body.write(writer),
            Self::Lock(body) => body.write(writer),
            Self::Locked(body) => body.write(writer),
            Self::GetReport(body) => body.write(writer),
            Self::Report(body) => body.write(writer),
            Self::State(body) => body.write(writer),
            Self::Start(body) => body.write(writer),
            Self::BindP2p(body) | Self::UnbindP2p(body) => body.write(writer),
            Self::SetMmioAttribute(body) => body.write(writer),
            Self::Vdm(body) | Self::VdmResponse(body) => body.write(writer),
            Self::Error(body) => body.write(writer),
        }
    }
}
