use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use spdm::ide_km::ObjectId;
use spdm::msg::RequestCode;
use spdm::tdisp::MessageType;

/// A request that a fault is tied to, by its name: of SPDM, `IDE_KM` or TDISP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum At {
    /// A request of SPDM. `VENDOR_DEFINED_REQUEST` stands for all of the other two protocols.
    Spdm(RequestCode),
    /// A request of `IDE_KM`.
    IdeKm(ObjectId),
    /// A request of TDISP.
    Tdisp(MessageType),
}

/// Requests of `IDE_KM`.
const IDE_KM: [ObjectId; 4] = [ObjectId::QUERY, ObjectId::KEY_PROG, ObjectId::K_SET_GO, ObjectId::K_SET_STOP];

impl At {
    /// `GET_VERSION`.
    pub const GET_VERSION: Self = Self::Spdm(RequestCode::GET_VERSION);
    /// `GET_DIGESTS`.
    pub const GET_DIGESTS: Self = Self::Spdm(RequestCode::GET_DIGESTS);
    /// `GET_CERTIFICATE`.
    pub const GET_CERTIFICATE: Self = Self::Spdm(RequestCode::GET_CERTIFICATE);
    /// `NEGOTIATE_ALGORITHMS`.
    pub const NEGOTIATE_ALGORITHMS: Self = Self::Spdm(RequestCode::NEGOTIATE_ALGORITHMS);
    /// `K_SET_GO`.
    pub const K_SET_GO: Self = Self::IdeKm(ObjectId::K_SET_GO);
    /// `HEARTBEAT`.
    pub const HEARTBEAT: Self = Self::Spdm(RequestCode::HEARTBEAT);

    /// The requests in the clear of a requester that wants to know everything, in their order.
    pub const CLEAR: [Self; 8] = [
        Self::GET_VERSION,
        Self::Spdm(RequestCode::GET_CAPABILITIES),
        Self::NEGOTIATE_ALGORITHMS,
        Self::GET_DIGESTS,
        Self::GET_CERTIFICATE,
        Self::Spdm(RequestCode::CHALLENGE),
        Self::Spdm(RequestCode::GET_MEASUREMENTS),
        Self::Spdm(RequestCode::KEY_EXCHANGE),
    ];

    /// The requests inside a session, in their order.
    pub const SECURED: [Self; 15] = [
        Self::Spdm(RequestCode::FINISH),
        Self::HEARTBEAT,
        Self::Spdm(RequestCode::KEY_UPDATE),
        Self::IdeKm(ObjectId::QUERY),
        Self::IdeKm(ObjectId::KEY_PROG),
        Self::K_SET_GO,
        Self::Tdisp(MessageType::GET_TDISP_VERSION),
        Self::Tdisp(MessageType::GET_TDISP_CAPABILITIES),
        Self::Tdisp(MessageType::LOCK_INTERFACE_REQUEST),
        Self::Tdisp(MessageType::GET_DEVICE_INTERFACE_STATE),
        Self::Tdisp(MessageType::GET_DEVICE_INTERFACE_REPORT),
        Self::Tdisp(MessageType::START_INTERFACE_REQUEST),
        Self::Tdisp(MessageType::STOP_INTERFACE_REQUEST),
        Self::IdeKm(ObjectId::K_SET_STOP),
        Self::Spdm(RequestCode::END_SESSION),
    ];

    /// Requests of TDISP that name an interface.
    pub const TDISP: [Self; 7] = [
        Self::Tdisp(MessageType::GET_TDISP_VERSION),
        Self::Tdisp(MessageType::GET_TDISP_CAPABILITIES),
        Self::Tdisp(MessageType::LOCK_INTERFACE_REQUEST),
        Self::Tdisp(MessageType::GET_DEVICE_INTERFACE_STATE),
        Self::Tdisp(MessageType::GET_DEVICE_INTERFACE_REPORT),
        Self::Tdisp(MessageType::START_INTERFACE_REQUEST),
        Self::Tdisp(MessageType::STOP_INTERFACE_REQUEST),
    ];

    /// The SPDM request that carries it.
    pub const fn carrier(self) -> RequestCode {
        match self {
            Self::Spdm(code) => code,
            Self::IdeKm(_) | Self::Tdisp(_) => RequestCode::VENDOR_DEFINED,
        }
    }

    /// Whether a fault at this request shows at `request`.
    pub(super) fn covers(self, request: Self) -> bool {
        self == request
            || self == Self::Spdm(request.carrier()) && self == Self::Spdm(RequestCode::VENDOR_DEFINED)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spdm(code) => code.fmt(f),
            Self::IdeKm(object) => object.fmt(f),
            Self::Tdisp(message) => message.fmt(f),
        }
    }
}

/// No request has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no request of SPDM, IDE_KM or TDISP, such as \"GET_DIGESTS\"")]
pub struct UnknownRequest(String);

impl FromStr for At {
    type Err = UnknownRequest;

    fn from_str(text: &str) -> Result<Self, UnknownRequest> {
        let spdm = RequestCode::ALL.iter().map(|&code| Self::Spdm(code));
        let ide_km = IDE_KM.into_iter().map(Self::IdeKm);
        let tdisp = MessageType::ALL
            .iter()
            .filter(|message| message.is_request())
            .map(|&message| Self::Tdisp(message));
        let mut all = spdm.chain(ide_km).chain(tdisp);
        all.find(|at| at.to_string() == text).ok_or_else(|| UnknownRequest(text.to_owned()))
    }
}

impl TryFrom<String> for At {
    type Error = UnknownRequest;

    fn try_from(text: String) -> Result<Self, UnknownRequest> {
        text.parse()
    }
}

impl From<At> for String {
    fn from(at: At) -> Self {
        at.to_string()
    }
}
