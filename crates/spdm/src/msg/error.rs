//! `ERROR`: header and, for some codes, extended data.

use core::time::Duration;

use crate::ids::Version;
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

use super::{ErrorCode, Header, RequestCode, ResponseCode};

/// Largest extended data.
pub const MAX_EXTENDED: usize = 32;

/// Extended data of `ResponseNotReady`: 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// The response is ready after 2^n µs.
    pub exponent: u8,
    /// The request that it answers.
    pub request: RequestCode,
    /// What `RESPOND_IF_READY` names it by.
    pub token: u8,
    /// It is thrown away after this many times that delay.
    pub multiplier: u8,
}

impl NotReady {
    /// When to ask again; an exponent of 64 and more is as good as never.
    pub fn delay(&self) -> Duration {
        Duration::from_micros(1_u64.checked_shl(self.exponent.into()).unwrap_or(u64::MAX))
    }
}

/// Extended data of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorData<'a> {
    /// None.
    None,
    /// Of `ResponseNotReady`.
    NotReady(NotReady),
    /// Of `LargeResponse`: the handle for `CHUNK_GET`.
    LargeResponse(u8),
    /// Of `ResponseTooLarge`: the size of the response in bytes.
    TooLarge(u32),
    /// Of `VendorDefined`: length of a vendor id, vendor id, and what the vendor defines.
    Vendor(&'a [u8]),
}

/// `ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorResponse<'a> {
    /// Version of the message.
    pub version: Version,
    /// What is wrong.
    pub code: ErrorCode,
    /// Depends on the code; for `UnsupportedRequest` the request code.
    pub data: u8,
    /// Extended data: of the kind that the code has.
    pub extended: ErrorData<'a>,
}

impl<'a> ErrorResponse<'a> {
    /// An error without extended data.
    pub const fn new(version: Version, code: ErrorCode, data: u8) -> Self {
        Self { version, code, data, extended: ErrorData::None }
    }

    /// `ResponseNotReady`.
    pub const fn not_ready(version: Version, not_ready: NotReady) -> Self {
        let extended = ErrorData::NotReady(not_ready);
        Self { version, code: ErrorCode::RESPONSE_NOT_READY, data: 0, extended }
    }

    /// `LargeResponse`.
    pub const fn large_response(version: Version, handle: u8) -> Self {
        let extended = ErrorData::LargeResponse(handle);
        Self { version, code: ErrorCode::LARGE_RESPONSE, data: 0, extended }
    }

    /// Reads the message, which must be of that version or of 1.0: so answers a responder that has no
    /// version yet, or not this one.
    pub fn read(reader: &mut Reader<'a>, version: Version) -> Result<Self, DecodeError> {
        let version = match Header::peek(reader.clone().rest()) {
            Ok(header) if header.version == Version::V1_0 => Version::V1_0,
            _ => version,
        };
        let header = Header::expect(reader, version, ResponseCode::ERROR.0)?;
        let code = ErrorCode(header.param1);
        let extended = match code {
            ErrorCode::RESPONSE_NOT_READY => {
                let [exponent, request, token, multiplier] = reader.array("the data of ResponseNotReady")?;
                ErrorData::NotReady(NotReady { exponent, request: RequestCode(request), token, multiplier })
            }
            ErrorCode::LARGE_RESPONSE => ErrorData::LargeResponse(reader.u8("Handle")?),
            ErrorCode::RESPONSE_TOO_LARGE => ErrorData::TooLarge(reader.u32("ActualSize")?),
            ErrorCode::VENDOR_DEFINED => {
                let bytes = reader.rest();
                if bytes.len() > MAX_EXTENDED {
                    let (field, value) = ("ExtendedErrorData", bytes.len());
                    return Err(DecodeError::Length { field, value, limit: MAX_EXTENDED });
                }
                ErrorData::Vendor(bytes)
            }
            _ => ErrorData::None,
        };
        Ok(Self { version, code, data: header.param2, extended })
    }

    /// Writes the message.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
        Header::write(writer, self.version, ResponseCode::ERROR.0, self.code.0, self.data)?;
        match self.extended {
            ErrorData::None => Ok(()),
            ErrorData::NotReady(NotReady { exponent, request, token, multiplier }) => {
                writer.bytes(&[exponent, request.0, token, multiplier])
            }
            ErrorData::LargeResponse(handle) => writer.u8(handle),
            ErrorData::TooLarge(size) => writer.u32(size),
            ErrorData::Vendor(bytes) => writer.bytes(bytes),
        }
    }
}
