//! Errors of the API as problem objects (RFC 9457).

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tdx_host::tsm::TsmError;
use tdx_host::{Blame, Errno};

use super::connect::TsmErrorFacts;

/// An `application/problem+json` body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the HTTP status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The HTTP status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// The failure of the TSM behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<TsmErrorFacts>>,
}

impl Problem {
    /// A problem of one HTTP status.
    pub(super) fn new(status: StatusCode, detail: String) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail,
            error: None,
        }
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<&TsmError> for Problem {
    fn from(error: &TsmError) -> Self {
        let status = match (error.blame(), error.errno()) {
            (Blame::Caller, Errno::ENOENT) => StatusCode::NOT_FOUND,
            (Blame::Caller, Errno::EINVAL) => StatusCode::UNPROCESSABLE_ENTITY,
            (Blame::Caller, Errno::ESHUTDOWN) => StatusCode::SERVICE_UNAVAILABLE,
            (Blame::Caller, _) => StatusCode::CONFLICT,
            (Blame::Device, _) => StatusCode::BAD_GATEWAY,
            (Blame::Host | Blame::Platform | Blame::Module, _) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { error: Some(Box::new(error.into())), ..Self::new(status, error.to_string()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
