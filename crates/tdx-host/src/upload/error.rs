//! How an upload fails: the words of Linux, and the names of what they stand for.

use core::fmt;

use tdx_image::HeaderVersion;

use crate::errno::Errno;
use crate::error::{Blame, ErrorInfo, HostError};

/// Linux's words for a failed upload (`FW_UPLOAD_ERR_…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FailureWord {
    /// The device failed.
    HwError = 1,
    /// The device did not answer in time. No driver of TDX says so.
    Timeout = 2,
    /// The user cancelled the upload.
    UserAbort = 3,
    /// The device cannot take an update now.
    DeviceBusy = 4,
    /// The image has a size that cannot be.
    InvalidFileSize = 5,
    /// Bytes could not be moved.
    ReadWriteError = 6,
    /// The device takes no more updates.
    FlashWearout = 7,
    /// The image will not do.
    FirmwareInvalid = 8,
}

impl FailureWord {
    /// All of them, in Linux's order.
    pub const ALL: [Self; 8] = [
        Self::HwError,
        Self::Timeout,
        Self::UserAbort,
        Self::DeviceBusy,
        Self::InvalidFileSize,
        Self::ReadWriteError,
        Self::FlashWearout,
        Self::FirmwareInvalid,
    ];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HwError => "hw-error",
            Self::Timeout => "timeout",
            Self::UserAbort => "user-abort",
            Self::DeviceBusy => "device-busy",
            Self::InvalidFileSize => "invalid-file-size",
            Self::ReadWriteError => "read-write-error",
            Self::FlashWearout => "flash-wearout",
            Self::FirmwareInvalid => "firmware-invalid",
        }
    }

    /// The word for an error number of the update, as the postings of 2025-09 to 2026-01 chose it.
    const fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::EBUSY => Self::DeviceBusy,
            Errno::EIO => Self::HwError,
            Errno::ENOSPC => Self::FlashWearout,
            Errno::ENOMEM => Self::ReadWriteError,
            _ => Self::FirmwareInvalid,
        }
    }

    pub(super) const fn bits(self) -> u8 {
        self as u8
    }

    pub(super) fn from_bits(bits: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.bits() == bits)
    }
}

impl fmt::Display for FailureWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the word for a failed update is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WordRule {
    /// `firmware-invalid`, whatever it was.
    OneForAll,
    /// By the error number of the update: `device-busy` (-EBUSY), `hw-error` (-EIO), `flash-wearout`
    /// (-ENOSPC), `read-write-error` (-ENOMEM), else `firmware-invalid`.
    ByErrno,
}

/// The driver behind an upload directory: kernels differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UploadRules {
    /// The only image header that it takes.
    pub header: HeaderVersion,
    /// How it names failures.
    pub words: WordRule,
    /// Whether an update that did not begin to replace the module can be cancelled.
    pub heeds_cancel: bool,
}

impl UploadRules {
    /// Linux 7.3.
    pub const LINUX_7_3: Self =
        Self { header: HeaderVersion::V0x200, words: WordRule::OneForAll, heeds_cancel: false };
    /// Postings of 2025-09 to 2026-01 (versions 1 to 3).
    pub const POSTING_2025_09: Self =
        Self { header: HeaderVersion::V0x100, words: WordRule::ByErrno, heeds_cancel: true };
    /// The posting of 2025-03.
    pub const POSTING_2025_03: Self =
        Self { header: HeaderVersion::V0x100, words: WordRule::OneForAll, heeds_cancel: true };

    /// Refuses an image whose header this driver does not know. What is no image at all is left to the
    /// update to refuse, by a better name.
    pub fn check_header(&self, image: &[u8]) -> Result<(), UploadError> {
        match tdx_image::Image::parse(image) {
            Ok(image) if image.header() != self.header => {
                Err(UploadError::HeaderNotTaken { found: image.header(), taken: self.header })
            }
            _ => Ok(()),
        }
    }

    /// The word that this driver has for `error`.
    pub const fn word(&self, error: &UploadError) -> FailureWord {
        match (error, self.words) {
            (UploadError::Cancelled, _) => FailureWord::UserAbort,
            (UploadError::Interrupted, _) => FailureWord::HwError,
            (UploadError::HeaderNotTaken { .. }, _) | (UploadError::Update(_), WordRule::OneForAll) => {
                FailureWord::FirmwareInvalid
            }
            (UploadError::Update(error), WordRule::ByErrno) => FailureWord::of_errno(error.errno()),
        }
    }
}

/// Why an upload failed: the name and the sentence that Linux throws away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// The image is one, but its header is that of another kernel.
    #[error("the image has header {found}; this upload directory takes {taken} only")]
    HeaderNotTaken {
        /// Header of the image.
        found: HeaderVersion,
        /// Header that would do.
        taken: HeaderVersion,
    },
    /// The user asked for it in time.
    #[error("the update was cancelled before it began; nothing was changed")]
    Cancelled,
    /// The worker ended without a result.
    #[error("the update was interrupted by a fault of the host software; the module's state is not known")]
    Interrupted,
    /// The update failed.
    #[error(transparent)]
    Update(#[from] HostError),
}

const HEADER_NOT_TAKEN: ErrorInfo = ErrorInfo {
    name: "upload-header-not-taken",
    template: "the image has header {found}; this upload directory takes {taken} only",
    blame: Blame::Caller,
    errno: Errno::EINVAL,
    advice: "give the image the other header: tdxhost module convert --to HEADER; signature and module stay as \
             they are",
};

const CANCELLED: ErrorInfo = ErrorInfo {
    name: "upload-cancelled",
    template: "the update was cancelled before it began; nothing was changed",
    blame: Blame::Caller,
    errno: Errno::ECANCELED,
    advice: "upload the image again",
};

const INTERRUPTED: ErrorInfo = ErrorInfo {
    name: "upload-interrupted",
    template: "the update was interrupted by a fault of the host software; the module's state is not known",
    blame: Blame::Host,
    errno: Errno::EIO,
    advice: "read version to see whether the module answers, and report the fault with the log",
};

/// Failures of an upload that the update itself does not know.
pub const UPLOAD_ERRORS: &[ErrorInfo] = &[HEADER_NOT_TAKEN, CANCELLED, INTERRUPTED];

/// The row of [`UPLOAD_ERRORS`] with this name.
pub fn find(name: &str) -> Option<&'static ErrorInfo> {
    UPLOAD_ERRORS.iter().find(|info| info.name == name)
}

impl UploadError {
    /// The row that describes this failure.
    pub const fn info(&self) -> &'static ErrorInfo {
        match self {
            Self::HeaderNotTaken { .. } => &HEADER_NOT_TAKEN,
            Self::Cancelled => &CANCELLED,
            Self::Interrupted => &INTERRUPTED,
            Self::Update(error) => error.info(),
        }
    }

    /// Stable name in kebab-case.
    pub const fn name(&self) -> &'static str {
        self.info().name
    }

    /// Who has to act.
    pub const fn blame(&self) -> Blame {
        self.info().blame
    }

    /// What to try.
    pub const fn advice(&self) -> &'static str {
        self.info().advice
    }
}
