//! The platform's TEE security manager (TSM): devices are connected to it, which gives them an SPDM session
//! with the module and a link that is encrypted and checked.

pub mod attributes;
mod config;
pub mod error;

pub use attributes::{Content, Directory, LinkFacts, TSM_ATTRIBUTES, TsmAttribute, Visible};
pub use config::{Config, FunctionFacts};
pub use error::{TSM_ERRORS, TsmError};

/// What is made anew on a device that stays connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refresh {
    /// The keys of the SPDM session, by KEY_UPDATE.
    SessionKeys,
    /// The keys of the link: the other key set, while traffic runs.
    StreamKeys,
    /// The device information: certificates and measurements.
    Evidence,
}

impl Refresh {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SessionKeys, Self::StreamKeys, Self::Evidence];

    /// One word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SessionKeys => "session",
            Self::StreamKeys => "stream",
            Self::Evidence => "evidence",
        }
    }
}

/// The number in the name of a TSM, `tsm` and a decimal number; what follows a newline does not count.
pub fn parse_name(text: &str) -> Option<u32> {
    let name = text.split('\n').next().unwrap_or_default();
    let digits = name.strip_prefix("tsm")?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tsm_is_named_by_its_number() {
        for (text, number) in [
            ("tsm0", Some(0)),
            ("tsm0\n", Some(0)),
            ("tsm17\n", Some(17)),
            ("tsm", None),
            ("tsm-1", None),
            ("tsm 0", None),
            ("tsm0x", None),
            ("tpm0", None),
            ("", None),
            ("\ntsm0", None),
            ("tsm99999999999", None),
        ] {
            assert_eq!(parse_name(text), number, "{text:?}");
        }
    }
}
