//! Failures of the host side as the API tells them.

use tdx_host::seamcall::{SeamcallCause, SeamcallError};
use tdx_host::tsm::TsmError;
use tdx_host::upload::UploadError;
use tdx_host::{ConnectError, HostError};

use super::facts::ErrorFacts;

impl From<&HostError> for ErrorFacts {
    fn from(error: &HostError) -> Self {
        Self {
            name: error.name().to_owned(),
            message: error.to_string(),
            blame: error.blame().name().to_owned(),
            advice: error.advice().to_owned(),
            status: failed_call(error).and_then(raw_status).map(|status| format!("{status:#018x}")),
        }
    }
}

impl From<&UploadError> for ErrorFacts {
    fn from(error: &UploadError) -> Self {
        match error {
            UploadError::Update(error) => error.into(),
            UploadError::HeaderNotTaken { .. } | UploadError::Cancelled | UploadError::Interrupted => Self {
                name: error.name().to_owned(),
                message: error.to_string(),
                blame: error.blame().name().to_owned(),
                advice: error.advice().to_owned(),
                status: None,
            },
        }
    }
}

impl From<&ConnectError> for ErrorFacts {
    fn from(error: &ConnectError) -> Self {
        Self {
            name: error.name().to_owned(),
            message: error.to_string(),
            blame: error.blame().name().to_owned(),
            advice: error.advice().to_owned(),
            status: None,
        }
    }
}

impl From<&TsmError> for ErrorFacts {
    fn from(error: &TsmError) -> Self {
        let call = match error {
            TsmError::HostFailed { error, .. } => failed_call(error),
            TsmError::CallFailed { error, .. }
            | TsmError::DeviceRefused { error, .. }
            | TsmError::NotAuthentic { error, .. }
            | TsmError::KeysRefused { error, .. }
            | TsmError::KeysNotReady { error, .. } => Some(error),
            _ => None,
        };
        Self {
            name: error.name().to_owned(),
            message: error.to_string(),
            blame: error.blame().name().to_owned(),
            advice: error.advice().to_owned(),
            status: call.and_then(raw_status).map(|status| format!("{status:#018x}")),
        }
    }
}

/// The SEAMCALL that failed, where one did.
fn failed_call(error: &HostError) -> Option<&SeamcallError> {
    match error {
        HostError::SeamDisabled { error }
        | HostError::ModuleNotLoaded { error }
        | HostError::NotInVmxOperation { error }
        | HostError::IncorrectMsr { error, .. }
        | HostError::InconsistentMsr { error, .. }
        | HostError::IncorrectCpuid { error, .. }
        | HostError::InconsistentCpuid { error, .. }
        | HostError::SysInitFailed { error }
        | HostError::LpInitFailed { error, .. }
        | HostError::ModuleTooOld { error }
        | HostError::MetadataReadFailed { error, .. }
        | HostError::LpNotInitialised { error, .. }
        | HostError::ConfigFailed { error }
        | HostError::KeyConfigFailed { error, .. }
        | HostError::TdmrInitFailed { error, .. }
        | HostError::DisableFailed { error }
        | HostError::TdBuildInProgress { error, .. }
        | HostError::UpdateShutdownRefused { error, .. }
        | HostError::InstallFailedRecoverable { error, .. }
        | HostError::InstallFailed { error, .. }
        | HostError::UpdateInitFailed { error, .. }
        | HostError::HandoffRefused { error, .. }
        | HostError::SeamldrInfoFailed { error } => Some(error),
        _ => None,
    }
}

fn raw_status(error: &SeamcallError) -> Option<u64> {
    match error.cause {
        SeamcallCause::Status(status) => Some(status.raw()),
        SeamcallCause::Loader(status) => Some(status.0),
        SeamcallCause::Fault(_) | SeamcallCause::GoingDown | SeamcallCause::Down | SeamcallCause::Gone => {
            None
        }
    }
}
