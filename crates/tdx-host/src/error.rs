//! Everything that can go wrong on the host side: each with a name, a sentence, the one to blame and what
//! to try.

mod table;
mod terms;

use tdx_image::ImageError;

use crate::errno::Errno;
use crate::traits::MemoryFault;

pub use table::{ERRORS, HostError};
pub use terms::{CpuFeature, CpuidSubleaf, SensitiveWork};

/// Who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Whoever made the request: it came at the wrong time or asked for something that is not there.
    Caller,
    /// The host system: its configuration, memory layout or another kernel component.
    Host,
    /// The platform: CPU, BIOS settings or microcode.
    Platform,
    /// The TDX module or P-SEAMLDR.
    Module,
    /// A PCIe device.
    Device,
}

impl Blame {
    /// One word for tables and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Host => "host",
            Self::Platform => "platform",
            Self::Module => "module",
            Self::Device => "device",
        }
    }
}

/// A row of [`ERRORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorInfo {
    /// Stable name.
    pub name: &'static str,
    /// The sentence with the names of its values in braces.
    pub template: &'static str,
    /// Who has to act.
    pub blame: Blame,
    /// Error number that a device shows.
    pub errno: Errno,
    /// What to try.
    pub advice: &'static str,
}

/// An enum of failures and the table of their rows: for each variant name, blame, error number, sentence and
/// advice.
macro_rules! failures {
    (
        $(#[$enum_meta:meta])*
        pub enum $failure:ident;
        $(#[$table_meta:meta])*
        pub const $table:ident;
        $(
            $(#[$meta:meta])*
            $variant:ident $({ $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })?
                = $name:literal, $blame:ident, $errno:ident,
                $sentence:literal,
                $advice:literal;
        )*
    ) => {
        $(#[$enum_meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum $failure {
            $(
                $(#[$meta])*
                #[error($sentence)]
                $variant $({ $($(#[$field_meta])* $field: $type,)* })?,
            )*
        }

        impl $failure {
            /// The row of the table that describes this failure.
            pub const fn info(&self) -> &'static $crate::error::ErrorInfo {
                match self {
                    $(Self::$variant { .. } => &$crate::error::ErrorInfo {
                        name: $name,
                        template: $sentence,
                        blame: $crate::error::Blame::$blame,
                        errno: $crate::errno::Errno::$errno,
                        advice: $advice,
                    },)*
                }
            }

            /// Stable name in kebab-case.
            pub const fn name(&self) -> &'static str {
                self.info().name
            }

            /// Who has to act.
            pub const fn blame(&self) -> $crate::error::Blame {
                self.info().blame
            }

            /// What to try.
            pub const fn advice(&self) -> &'static str {
                self.info().advice
            }

            /// Error number that a device shows.
            pub const fn errno(&self) -> $crate::errno::Errno {
                self.info().errno
            }
        }

        $(#[$table_meta])*
        pub const $table: &[$crate::error::ErrorInfo] = &[
            $($crate::error::ErrorInfo {
                name: $name,
                template: $sentence,
                blame: $crate::error::Blame::$blame,
                errno: $crate::errno::Errno::$errno,
                advice: $advice,
            },)*
        ];
    };
}

pub(crate) use failures;

/// The row of a name; `None` if no failure has it.
pub fn find(name: &str) -> Option<&'static ErrorInfo> {
    ERRORS.iter().find(|info| info.name == name)
}

impl From<ImageError> for HostError {
    fn from(reason: ImageError) -> Self {
        Self::ImageRefused { reason }
    }
}

impl From<MemoryFault> for HostError {
    fn from(fault: MemoryFault) -> Self {
        Self::MemoryAccessFailed { fault }
    }
}
