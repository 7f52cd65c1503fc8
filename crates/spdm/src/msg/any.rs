//! Whichever message the bytes hold.

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{
    Algorithms, Capabilities, Certificate, Challenge, ChallengeAuth, ChunkGet, ChunkResponse, ChunkSend,
    ChunkSendAck, Digests, EndSession, EndSessionAck, ErrorResponse, Finish, FinishRsp, GetCapabilities,
    GetCertificate, GetDigests, GetMeasurements, GetVersion, Header, Heartbeat, HeartbeatAck, KeyExchange,
    KeyExchangeRsp, KeyUpdate, KeyUpdateAck, Layout, Measurements, NegotiateAlgorithms, RequestCode,
    RespondIfReady, ResponseCode, VendorDefined, VersionResponse,
};

/// What a connection has agreed on so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing: a message is of the version that it says, if that is spoken.
    Start,
    /// The version.
    Version(Version),
    /// The version and the algorithms.
    Agreed(Layout),
}

impl Stage {
    fn version(self, header: Header) -> Result<Version, DecodeError> {
        match self {
            Self::Start if header.version.is_spoken() => Ok(header.version),
            Self::Start => Err(DecodeError::Version { found: header.version.0, expected: Version::V1_3.0 }),
            Self::Version(version) => Ok(version),
            Self::Agreed(layout) => Ok(layout.version),
        }
    }

    fn layout(&self, header: Header) -> Result<&Layout, DecodeError> {
        match self {
            Self::Agreed(layout) => Ok(layout),
            Self::Start | Self::Version(_) => Err(DecodeError::NoAlgorithms(header.code)),
        }
    }
}

/// What a request has asked for, as far as the layout of its response depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A summary of measurements.
    pub summary: bool,
    /// A signature.
    pub signature: bool,
}

impl Asked {
    /// By that request.
    pub const fn by(request: &Request<'_>) -> Self {
        let (summary, signature) = match request {
            Request::Challenge(request) => (request.summary.is_asked(), true),
            Request::KeyExchange(request) => (request.summary.is_asked(), true),
            Request::GetMeasurements(request) => (false, request.signature.is_some()),
            _ => (false, false),
        };
        Self { summary, signature }
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the message of its name")]
pub enum Request<'a> {
    GetVersion(GetVersion),
    GetCapabilities(GetCapabilities),
    NegotiateAlgorithms(NegotiateAlgorithms<'a>),
    GetDigests(GetDigests),
    GetCertificate(GetCertificate),
    Challenge(Challenge),
    GetMeasurements(GetMeasurements),
    KeyExchange(KeyExchange<'a>),
    Finish(Finish<'a>),
    Heartbeat(Heartbeat),
    KeyUpdate(KeyUpdate),
    EndSession(EndSession),
    VendorDefined(VendorDefined<'a>),
    RespondIfReady(RespondIfReady),
    ChunkSend(ChunkSend<'a>),
    ChunkGet(ChunkGet),
}

impl<'a> Request<'a> {
    /// Reads the request that `reader` begins with.
    pub fn read(reader: &mut Reader<'a>, stage: &Stage) -> Result<Self, DecodeError> {
        let header = Header::read(&mut reader.clone())?;
        let version = || stage.version(header);
        let layout = || stage.layout(header);
        Ok(match RequestCode(header.code) {
            RequestCode::GET_VERSION => Self::GetVersion(GetVersion::read(reader)?),
            RequestCode::GET_CAPABILITIES => {
                Self::GetCapabilities(GetCapabilities::read(reader, version()?)?)
            }
            RequestCode::NEGOTIATE_ALGORITHMS => {
                Self::NegotiateAlgorithms(NegotiateAlgorithms::read(reader, version()?)?)
            }
            RequestCode::GET_DIGESTS => Self::GetDigests(GetDigests::read(reader, version()?)?),
            RequestCode::GET_CERTIFICATE => Self::GetCertificate(GetCertificate::read(reader, version()?)?),
            RequestCode::CHALLENGE => Self::Challenge(Challenge::read(reader, version()?)?),
            RequestCode::GET_MEASUREMENTS => {
                Self::GetMeasurements(GetMeasurements::read(reader, version()?)?)
            }
            RequestCode::KEY_EXCHANGE => Self::KeyExchange(KeyExchange::read(reader, layout()?)?),
            RequestCode::FINISH => Self::Finish(Finish::read(reader, layout()?)?),
            RequestCode::HEARTBEAT => Self::Heartbeat(Heartbeat::read(reader, version()?)?),
            RequestCode::KEY_UPDATE => Self::KeyUpdate(KeyUpdate::read(reader, version()?)?),
            RequestCode::END_SESSION => Self::EndSession(EndSession::read(reader, version()?)?),
            RequestCode::VENDOR_DEFINED => {
                Self::VendorDefined(VendorDefined::read_request(reader, version()?)?)
            }
            RequestCode::RESPOND_IF_READY => Self::RespondIfReady(RespondIfReady::read(reader, version()?)?),
            RequestCode::CHUNK_SEND => Self::ChunkSend(ChunkSend::read(reader, version()?)?),
            RequestCode::CHUNK_GET => Self::ChunkGet(ChunkGet::read(reader, version()?)?),
            RequestCode(code) => return Err(DecodeError::UnknownCode(code)),
        })
    }

    /// Writes the request.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        match self {
            Self::GetVersion(message) => message.write(writer),
            Self::GetCapabilities(message) => message.write(writer),
            Self::NegotiateAlgorithms(message) => message.write(writer),
            Self::GetDigests(message) => message.write(writer),
            Self::GetCertificate(message) => message.write(writer),
            Self::Challenge(message) => message.write(writer),
            Self::GetMeasurements(message) => message.write(writer),
            Self::KeyExchange(message) => message.write(writer),
            Self::Finish(message) => message.write(writer),
            Self::Heartbeat(message) => message.write(writer),
            Self::KeyUpdate(message) => message.write(writer),
            Self::EndSession(message) => message.write(writer),
            Self::VendorDefined(message) => message.write_request(writer),
            Self::RespondIfReady(message) => message.write(writer),
            Self::ChunkSend(message) => message.write(writer),
            Self::ChunkGet(message) => message.write(writer),
        }
    }

    /// The request code.
    pub const fn code(&self) -> RequestCode {
        match self {
            Self::GetVersion(_) => RequestCode::GET_VERSION,
            Self::GetCapabilities(_) => RequestCode::GET_CAPABILITIES,
            Self::NegotiateAlgorithms(_) => RequestCode::NEGOTIATE_ALGORITHMS,
            Self::GetDigests(_) => RequestCode::GET_DIGESTS,
            Self::GetCertificate(_) => RequestCode::GET_CERTIFICATE,
            Self::Challenge(_) => RequestCode::CHALLENGE,
            Self::GetMeasurements(_) => RequestCode::GET_MEASUREMENTS,
            Self::KeyExchange(_) => RequestCode::KEY_EXCHANGE,
            Self::Finish(_) => RequestCode::FINISH,
            Self::Heartbeat(_) => RequestCode::HEARTBEAT,
            Self::KeyUpdate(_) => RequestCode::KEY_UPDATE,
            Self::EndSession(_) => RequestCode::END_SESSION,
            Self::VendorDefined(_) => RequestCode::VENDOR_DEFINED,
            Self::RespondIfReady(_) => RequestCode::RESPOND_IF_READY,
            Self::ChunkSend(_) => RequestCode::CHUNK_SEND,
            Self::ChunkGet(_) => RequestCode::CHUNK_GET,
        }
    }
}

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the message of its name")]
pub enum Response<'a> {
    Version(VersionResponse),
    Capabilities(Capabilities),
    Algorithms(Algorithms<'a>),
    Digests(Digests<'a>),
    Certificate(Certificate<'a>),
    ChallengeAuth(ChallengeAuth<'a>),
    Measurements(Measurements<'a>),
    KeyExchangeRsp(KeyExchangeRsp<'a>),
    FinishRsp(FinishRsp<'a>),
    HeartbeatAck(HeartbeatAck),
    KeyUpdateAck(KeyUpdateAck),
    EndSessionAck(EndSessionAck),
    VendorDefined(VendorDefined<'a>),
    Error(ErrorResponse<'a>),
    ChunkSendAck(ChunkSendAck<'a>),
    ChunkResponse(ChunkResponse<'a>),
}

impl<'a> Response<'a> {
    /// Reads the response that `reader` begins with.
    pub fn read(reader: &mut Reader<'a>, stage: &Stage, asked: Asked) -> Result<Self, DecodeError> {
        let header = Header::read(&mut reader.clone())?;
        let version = || stage.version(header);
        let layout = || stage.layout(header);
        Ok(match ResponseCode(header.code) {
            ResponseCode::VERSION => Self::Version(VersionResponse::read(reader)?),
            ResponseCode::CAPABILITIES => Self::Capabilities(Capabilities::read(reader, version()?)?),
            ResponseCode::ALGORITHMS => Self::Algorithms(Algorithms::read(reader, version()?)?),
            ResponseCode::DIGESTS => Self::Digests(Digests::read(reader, layout()?)?),
            ResponseCode::CERTIFICATE => Self::Certificate(Certificate::read(reader, version()?)?),
            ResponseCode::CHALLENGE_AUTH => {
                Self::ChallengeAuth(ChallengeAuth::read(reader, layout()?, asked.summary)?)
            }
            ResponseCode::MEASUREMENTS => {
                Self::Measurements(Measurements::read(reader, layout()?, asked.signature)?)
            }
            ResponseCode::KEY_EXCHANGE_RSP => {
                Self::KeyExchangeRsp(KeyExchangeRsp::read(reader, layout()?, asked.summary)?)
            }
            ResponseCode::FINISH_RSP => Self::FinishRsp(FinishRsp::read(reader, layout()?)?),
            ResponseCode::HEARTBEAT_ACK => Self::HeartbeatAck(HeartbeatAck::read(reader, version()?)?),
            ResponseCode::KEY_UPDATE_ACK => Self::KeyUpdateAck(KeyUpdateAck::read(reader, version()?)?),
            ResponseCode::END_SESSION_ACK => Self::EndSessionAck(EndSessionAck::read(reader, version()?)?),
            ResponseCode::VENDOR_DEFINED => {
                Self::VendorDefined(VendorDefined::read_response(reader, version()?)?)
            }
            // An error may come before there is a version.
            ResponseCode::ERROR => {
                Self::Error(ErrorResponse::read(reader, version().unwrap_or(Version::V1_0))?)
            }
            ResponseCode::CHUNK_SEND_ACK => Self::ChunkSendAck(ChunkSendAck::read(reader, version()?)?),
            ResponseCode::CHUNK_RESPONSE => Self::ChunkResponse(ChunkResponse::read(reader, version()?)?),
            ResponseCode(code) => return Err(DecodeError::UnknownCode(code)),
        })
    }

    /// Writes the response.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        match self {
            Self::Version(message) => message.write(writer),
            Self::Capabilities(message) => message.write(writer),
            Self::Algorithms(message) => message.write(writer),
            Self::Digests(message) => message.write(writer),
            Self::Certificate(message) => message.write(writer),
            Self::ChallengeAuth(message) => message.write(writer),
            Self::Measurements(message) => message.write(writer),
            Self::KeyExchangeRsp(message) => message.write(writer),
            Self::FinishRsp(message) => message.write(writer),
            Self::HeartbeatAck(message) => message.write(writer),
            Self::KeyUpdateAck(message) => message.write(writer),
            Self::EndSessionAck(message) => message.write(writer),
            Self::VendorDefined(message) => message.write_response(writer),
            Self::Error(message) => message.write(writer),
            Self::ChunkSendAck(message) => message.write(writer),
            Self::ChunkResponse(message) => message.write(writer),
        }
    }

    /// The response code.
    pub const fn code(&self) -> ResponseCode {
        match self {
            Self::Version(_) => ResponseCode::VERSION,
            Self::Capabilities(_) => ResponseCode::CAPABILITIES,
            Self::Algorithms(_) => ResponseCode::ALGORITHMS,
            Self::Digests(_) => ResponseCode::DIGESTS,
            Self::Certificate(_) => ResponseCode::CERTIFICATE,
            Self::ChallengeAuth(_) => ResponseCode::CHALLENGE_AUTH,
            Self::Measurements(_) => ResponseCode::MEASUREMENTS,
            Self::KeyExchangeRsp(_) => ResponseCode::KEY_EXCHANGE_RSP,
            Self::FinishRsp(_) => ResponseCode::FINISH_RSP,
            Self::HeartbeatAck(_) => ResponseCode::HEARTBEAT_ACK,
            Self::KeyUpdateAck(_) => ResponseCode::KEY_UPDATE_ACK,
            Self::EndSessionAck(_) => ResponseCode::END_SESSION_ACK,
            Self::VendorDefined(_) => ResponseCode::VENDOR_DEFINED,
            Self::Error(_) => ResponseCode::ERROR,
            Self::ChunkSendAck(_) => ResponseCode::CHUNK_SEND_ACK,
            Self::ChunkResponse(_) => ResponseCode::CHUNK_RESPONSE,
        }
    }
}
