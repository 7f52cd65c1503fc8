//! Versions as people and files write them.

use serde::Serializer;
use tdx_abi::seamldr::Version;

use crate::text::glimpse;

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no version: it is written major.minor.update, such as 1.5.06")]
pub struct VersionError(String);

/// Reads `1.5.06` or `1.5.6`: Linux printed the update with one digit until 2026-03.
pub fn version(text: &str) -> Result<Version, VersionError> {
    let number = |part: &str| -> Option<u16> {
        let digits = (1..=5).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits { part.parse().ok() } else { None }
    };
    let mut parts = text.split('.').map(number);
    match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten(), parts.next()) {
        (Some(major), Some(minor), Some(update), None) => Ok(Version::new(major, minor, update)),
        _ => Err(VersionError(glimpse(text))),
    }
}

/// Serializes a version as users see it.
// serde hands out references.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) fn as_text<S: Serializer>(version: &Version, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

/// Serializes versions as users see them.
pub(super) fn as_texts<S: Serializer>(versions: &[Version], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(versions.iter().map(ToString::to_string))
}

/// True if the two are of one line: same major and minor version.
pub fn same_line(a: Version, b: Version) -> bool {
    (a.major, a.minor) == (b.major, b.minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_update_may_have_one_or_two_digits() {
        assert_eq!(version("1.5.06"), Ok(Version::new(1, 5, 6)));
        assert_eq!(version("1.5.6"), Ok(Version::new(1, 5, 6)));
        assert_eq!(version("2.0.128"), Ok(Version::new(2, 0, 128)));
    }

    #[test]
    fn anything_else_is_named() {
        for text in ["", "1.5", "1.5.06.1", "1.5.x", "1..6", "+1.5.6", "1.5.-6", "1.5.70000", "1.5.6 "] {
            assert_eq!(version(text), Err(VersionError(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn a_text_of_many_lines_does_not_flood_the_message() {
        let error = version(&"x\n".repeat(1 << 20)).unwrap_err().to_string();
        assert_eq!((error.lines().count(), error.len() < 200), (1, true), "{error}");
    }

    #[test]
    fn a_line_is_major_and_minor() {
        let version = Version::new;
        assert!(same_line(version(1, 5, 1), version(1, 5, 34)));
        assert!(!same_line(version(1, 5, 1), version(2, 0, 1)));
        assert!(!same_line(version(1, 5, 1), version(1, 4, 1)));
    }
}
