//! The platform's TEE security manager (TSM): devices are connected to it, which gives them an SPDM session
//! with the module and a link that is encrypted and checked.

pub mod attributes;
mod config;
mod connect;
mod dsm;
pub mod error;
mod events;
mod health;
mod registration;

use core::time::Duration;

use crate::link::{BridgeStreams, PortStreams};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use registration::NOBODY;

pub use attributes::{Content, Directory, LinkFacts, TSM_ATTRIBUTES, TsmAttribute, Visible};
pub use config::{Config, FunctionFacts};
pub use connect::Loss;
pub use dsm::Dsm;
pub use error::{TSM_ERRORS, TsmError};
pub use events::DevPath;
pub use registration::TsmClass;

/// Keys of a stream are made anew after this time, if nobody chooses another. A stream takes far longer to
/// use its keys up; what was sent under a key that leaks is less that way.
pub const DEFAULT_KEY_REFRESH: Duration = Duration::from_secs(60 * 60);

const DEFAULT_NANOSECONDS: u64 = DEFAULT_KEY_REFRESH.as_secs() * 1_000_000_000;

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

/// The number in the name of a TSM as it is written to `tsm/connect`: `tsm` and a decimal number.
///
/// As lax as Linux: white space before the number, a minus sign, and whatever follows do not matter. What is no
/// number of a TSM, such as a negative one, is none that is registered.
pub fn parse_name(text: &str) -> Option<u32> {
    let number = text.strip_prefix("tsm")?.trim_ascii_start();
    let negative = number.starts_with('-');
    let digits = number.strip_prefix('-').unwrap_or(number);
    let end = digits.bytes().take_while(u8::is_ascii_digit).count();
    let digits = digits.get(..end).filter(|digits| !digits.is_empty())?;
    Some(if negative { NOBODY } else { digits.parse().unwrap_or(NOBODY) })
}

/// True if `text`, as it is written to `tsm/disconnect`, is the name of the TSM of that number.
pub fn is_name(text: &str, number: u32) -> bool {
    let digits = text.strip_suffix('\n').unwrap_or(text).strip_prefix("tsm");
    // The one form that the number is printed in.
    let canonical = |digits: &&str| !digits.starts_with(['0', '+']) || *digits == "0";
    digits.filter(canonical).and_then(|digits| digits.parse().ok()) == Some(number)
}

/// A TSM: what is shared between all devices. Everything in it can be used at any time by anybody.
///
/// `E` is held over each call of the module's extension, which takes one at a time: a lock that sleeps.
/// `B` stores the host bridges, `R` the root ports.
#[derive(Debug)]
pub struct Tsm<E, B, R> {
    extension: E,
    bridges: B,
    root_ports: R,
    number: AtomicU32,
    instance: AtomicU64,
    /// Pages that the module kept.
    kept: AtomicU64,
    /// Nanoseconds between two sets of keys of a stream, 0 for never.
    key_refresh: AtomicU64,
}

impl<E, B: AsRef<[BridgeStreams]>, R: AsRef<[PortStreams]>> Tsm<E, B, R> {
    /// A TSM that is not registered.
    pub const fn new(extension: E, bridges: B, root_ports: R) -> Self {
        Self {
            extension,
            bridges,
            root_ports,
            number: AtomicU32::new(NOBODY),
            instance: AtomicU64::new(0),
            kept: AtomicU64::new(0),
            key_refresh: AtomicU64::new(DEFAULT_NANOSECONDS),
        }
    }

    /// The host bridges.
    pub fn bridges(&self) -> &[BridgeStreams] {
        self.bridges.as_ref()
    }

    /// The root ports.
    pub fn root_ports(&self) -> &[PortStreams] {
        self.root_ports.as_ref()
    }

    /// Pages that the module kept although it should have given them back; unless it is 0 the TSM is broken
    /// and connects nothing any more.
    pub fn pages_kept(&self) -> u64 {
        self.kept.load(Ordering::Acquire)
    }

    /// Makes the keys of each stream anew after this time; `None` for never. Streams that are there begin
    /// to count when they are looked after next.
    pub fn set_key_refresh(&self, every: Option<Duration>) {
        let nanoseconds = every.map_or(0, |every| u64::try_from(every.as_nanos()).unwrap_or(u64::MAX));
        self.key_refresh.store(nanoseconds, Ordering::Release);
    }

    /// Time between two sets of keys of a stream.
    pub fn key_refresh(&self) -> Option<Duration> {
        let nanoseconds = self.key_refresh.load(Ordering::Acquire);
        (nanoseconds != 0).then(|| Duration::from_nanos(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tsm_is_connected_to_by_a_name_that_begins_right() {
        for (text, number) in [
            ("tsm0", Some(0)),
            ("tsm0\n", Some(0)),
            ("tsm17\n", Some(17)),
            ("tsm 0", Some(0)),
            ("tsm\n0", Some(0)),
            ("tsm+3", None),
            ("tsm0x", Some(0)),
            ("tsm-1", Some(NOBODY)),
            ("tsm99999999999", Some(NOBODY)),
            ("tsm", None),
            ("tsm-", None),
            ("tsmx", None),
            ("tpm0", None),
            ("", None),
            ("\ntsm0", None),
        ] {
            assert_eq!(parse_name(text), number, "{text:?}");
        }
    }

    #[test]
    fn a_tsm_is_disconnected_from_by_its_name_and_no_other() {
        for (text, number, same) in [
            ("tsm0", 0, true),
            ("tsm0\n", 0, true),
            ("tsm10\n", 10, true),
            ("tsm1", 0, false),
            ("tsm0\n\n", 0, false),
            ("tsm00", 0, false),
            ("tsm+0", 0, false),
            ("tsm01", 1, false),
            ("tsm 0", 0, false),
            ("tsm", 0, false),
            ("", 0, false),
        ] {
            assert_eq!(is_name(text, number), same, "{text:?}");
        }
    }
}
