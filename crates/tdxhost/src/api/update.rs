//! Updates of the module as the API tells them.

use serde::{Deserialize, Serialize};
use tdx_host::HostError;
use tdx_host::upload::UploadError;
use tdx_platform::{UploadedUpdate, Uploader};

use super::facts::ErrorFacts;

/// How an update stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateState {
    /// Under way.
    Running,
    /// The new module runs.
    Succeeded,
    /// Ended in its error.
    Failed,
}

/// An update of the module that came through the firmware-upload files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateFacts {
    /// How it stands.
    pub state: UpdateState,
    /// Size of the image in bytes.
    pub image_bytes: u32,
    /// The phase of the lockstep that began last; `None` if nothing was touched.
    pub phase: Option<String>,
    /// The CPU on which that phase failed.
    pub cpu: Option<u32>,
    /// Version of the module before, once the update succeeded.
    pub from: Option<String>,
    /// Version of the module now, once the update succeeded.
    pub to: Option<String>,
    /// Updates that P-SEAMLDR took at that time, once the update succeeded and if it told.
    pub remaining_updates: Option<u32>,
    /// Why it failed.
    pub error: Option<ErrorFacts>,
    /// Name of what is wrong with an image that was refused.
    pub reason: Option<String>,
}

impl From<&UploadedUpdate> for UpdateFacts {
    fn from(update: &UploadedUpdate) -> Self {
        let report = update.outcome.and_then(Result::ok);
        let error = update.outcome.and_then(Result::err);
        Self {
            state: match update.outcome {
                None => UpdateState::Running,
                Some(Ok(_)) => UpdateState::Succeeded,
                Some(Err(_)) => UpdateState::Failed,
            },
            image_bytes: update.bytes,
            phase: update.phase.map(|phase| phase.name().to_owned()),
            cpu: update.stopped.map(|stopped| stopped.cpu.0),
            from: report.map(|report| report.from.to_string()),
            to: report.map(|report| report.to.to_string()),
            remaining_updates: report.and_then(|report| report.remaining_updates),
            error: error.as_ref().map(ErrorFacts::from),
            reason: error.and_then(reason).map(str::to_owned),
        }
    }
}

/// What is wrong with the image, where that is why the update failed.
fn reason(error: UploadError) -> Option<&'static str> {
    match error {
        UploadError::Update(HostError::ImageRefused { reason }) => Some(reason.name()),
        UploadError::Update(HostError::SigstructRefused { reason }) => Some(reason.name()),
        _ => None,
    }
}

/// The firmware-upload files of the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadFacts {
    /// Whether an image is coming in.
    pub loading: bool,
    /// Text of `status`.
    pub status: String,
    /// Text of `error`; `None` if there is none, or not yet.
    pub error: Option<String>,
    /// Bytes of the last image that were not transferred.
    pub remaining_size: u32,
    /// The last update that was committed, told in full.
    pub last: Option<UpdateFacts>,
}

impl UploadFacts {
    /// The files of `upload`; `None` while it has none.
    pub fn of(upload: &Uploader) -> Option<Self> {
        let view = upload.view().ok()?;
        Some(Self {
            loading: view.loading,
            status: view.status.name().to_owned(),
            error: view.failure.map(|failure| failure.to_string()),
            remaining_size: view.remaining_size,
            // Behind the files: whoever sees `idle` finds how the update ended.
            last: upload.last().as_ref().map(UpdateFacts::from),
        })
    }
}
