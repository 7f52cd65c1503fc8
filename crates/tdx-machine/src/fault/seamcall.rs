//! A SEAMCALL that fails without its software having run.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};
use tdx_abi::leaf::{LeafWord, SeamcallLeaf, SeamldrLeaf};
use tdx_abi::status::{SeamldrStatus, StatusCode};

use crate::spec::parse_u64;

/// A leaf of SEAMCALL, of the module in any version or of the P-SEAMLDR. In a platform file: its
/// name (`"TDH.SYS.INIT"`, `"SEAMLDR.INSTALL"`) or its number, with bit 63 for the P-SEAMLDR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallLeaf {
    /// A leaf of the module.
    Module(SeamcallLeaf),
    /// A leaf of the P-SEAMLDR.
    Seamldr(SeamldrLeaf),
}

impl CallLeaf {
    /// The leaf that a call with this RAX asks for.
    pub const fn of(rax: u64) -> Self {
        let word = LeafWord::from_raw(rax);
        if word.is_seamldr() {
            Self::Seamldr(SeamldrLeaf(word.leaf()))
        } else {
            Self::Module(SeamcallLeaf(word.leaf()))
        }
    }

    /// True if the leaf's interface has a number of this form: nothing but leaf and bit 63.
    fn from_number(rax: u64) -> Option<Self> {
        let word = LeafWord::from_raw(rax);
        (word.version() == 0 && word.reserved() == 0).then(|| Self::of(rax))
    }
}

impl fmt::Display for CallLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Module(leaf) => match leaf.info() {
                Some(info) => f.write_str(info.name),
                None => write!(f, "{:#x}", leaf.0),
            },
            Self::Seamldr(leaf) => match leaf.info() {
                Some(info) => f.write_str(info.name),
                None => write!(f, "{:#x}", LeafWord::seamldr(leaf).raw()),
            },
        }
    }
}

/// Neither the name nor the number of a leaf, or of a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}")]
pub struct UnknownName {
    /// What was written.
    pub text: String,
    /// What was wanted.
    pub what: &'static str,
}

impl FromStr for CallLeaf {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let named = || {
            let seamldr = SeamldrLeaf::from_name(text).filter(|_| starts_with(text, "SEAMLDR."));
            seamldr.map(Self::Seamldr).or_else(|| SeamcallLeaf::from_name(text).map(Self::Module))
        };
        named()
            .or_else(|| Self::from_number(parse_u64(text)?))
            .ok_or_else(|| UnknownName { text: text.to_owned(), what: "leaf of SEAMCALL" })
    }
}

fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
}

/// What a call gets instead of an answer. In a platform file: `"vmfailinvalid"`, the name of a
/// status (`"TDX_SYS_BUSY"`, `"ENOENTROPY"`), or RAX as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// CF = 1, registers unchanged.
    VmFailInvalid,
    /// This in RAX; for the P-SEAMLDR also 0 in RDX. Other registers unchanged.
    Status(u64),
}

const VM_FAIL_INVALID: &str = "vmfailinvalid";

/// Statuses of the P-SEAMLDR by name.
const SEAMLDR_STATUSES: [SeamldrStatus; 12] = [
    SeamldrStatus::EBADPARAM,
    SeamldrStatus::EBADCALL,
    SeamldrStatus::EBADHANDOFF,
    SeamldrStatus::ECLEANUPREQ,
    SeamldrStatus::EUNSUPPORTED,
    SeamldrStatus::ENOMEM,
    SeamldrStatus::EUNSPECERR,
    SeamldrStatus::EUNSUPCPU,
    SeamldrStatus::EBADSIG,
    SeamldrStatus::EBADHASH,
    SeamldrStatus::EINTERRUPT,
    SeamldrStatus::ENOENTROPY,
];

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::VmFailInvalid => f.write_str(VM_FAIL_INVALID),
            Self::Status(raw) => write!(f, "{raw:#x}"),
        }
    }
}

impl FromStr for Answer {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        if text.eq_ignore_ascii_case(VM_FAIL_INVALID) {
            return Ok(Self::VmFailInvalid);
        }
        let seamldr = SEAMLDR_STATUSES
            .into_iter()
            .find(|status| status.info().is_some_and(|info| info.name.eq_ignore_ascii_case(text)));
        seamldr
            .map(|status| status.0)
            .or_else(|| StatusCode::from_name(text).map(|code| code.plain().raw()))
            .or_else(|| parse_u64(text))
            .map(Self::Status)
            .ok_or_else(|| UnknownName { text: text.to_owned(), what: "status of SEAMCALL" })
    }
}

macro_rules! as_text {
    ($($type:ty),*) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Written {
                    Number(u64),
                    Text(String),
                }
                match Written::deserialize(deserializer)? {
                    Written::Number(number) => number.to_string().parse(),
                    Written::Text(text) => text.parse(),
                }
                .map_err(de::Error::custom)
            }
        }
    )* };
}

as_text!(CallLeaf, Answer);

/// The fault `seamcall-fails` while it lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailingCall {
    leaf: CallLeaf,
    lp: u32,
    answer: Answer,
    times: u32,
}

impl FailingCall {
    pub(crate) const fn new(leaf: CallLeaf, lp: u32, answer: Answer, times: u32) -> Self {
        Self { leaf, lp, answer, times }
    }

    /// What a call gets, if it is one of those that fail.
    pub(crate) fn take(&mut self, lp: u32, rax: u64) -> Option<Answer> {
        if self.lp != lp || self.leaf != CallLeaf::of(rax) {
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        Some(self.answer)
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.times == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_read_by_name_and_by_number() {
        for (text, leaf) in [
            ("SEAMLDR.INSTALL", CallLeaf::Seamldr(SeamldrLeaf::INSTALL)),
            ("seamldr.install", CallLeaf::Seamldr(SeamldrLeaf::INSTALL)),
            ("0x8000000000000001", CallLeaf::Seamldr(SeamldrLeaf::INSTALL)),
            ("TDH.SYS.INIT", CallLeaf::Module(SeamcallLeaf::SYS_INIT)),
            ("SYS.INIT", CallLeaf::Module(SeamcallLeaf::SYS_INIT)),
            ("33", CallLeaf::Module(SeamcallLeaf::SYS_INIT)),
            ("0x1234", CallLeaf::Module(SeamcallLeaf(0x1234))),
        ] {
            assert_eq!(text.parse(), Ok(leaf), "{text}");
            assert_eq!(leaf.to_string().parse(), Ok(leaf), "{text} written");
        }
        for text in ["", "TDH.SYS.NOTHING", "0x10021", "0x4000000000000021"] {
            assert!(text.parse::<CallLeaf>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_answer_is_read_by_name_and_by_number() {
        for (text, answer) in [
            ("vmfailinvalid", Answer::VmFailInvalid),
            ("VMfailInvalid", Answer::VmFailInvalid),
            ("ENOENTROPY", Answer::Status(SeamldrStatus::ENOENTROPY.0)),
            ("TDX_SYS_BUSY", Answer::Status(StatusCode::SYS_BUSY.plain().raw())),
            ("0x8000000000020001", Answer::Status(SeamldrStatus::EBADHASH.0)),
        ] {
            assert_eq!(text.parse(), Ok(answer), "{text}");
            assert_eq!(answer.to_string().parse(), Ok(answer), "{text} written");
        }
        assert!("bad luck".parse::<Answer>().is_err());
    }

    #[test]
    fn a_failing_call_ends_after_its_number() {
        let mut failing =
            FailingCall::new(CallLeaf::Module(SeamcallLeaf::SYS_INIT), 1, Answer::VmFailInvalid, 2);
        assert_eq!(failing.take(0, 33), None, "another LP");
        assert_eq!(failing.take(1, 34), None, "another leaf");
        assert_eq!(failing.take(1, 33), Some(Answer::VmFailInvalid));
        assert!(!failing.is_over());
        assert_eq!(failing.take(1, 0x1_0021), Some(Answer::VmFailInvalid), "any version");
        assert!(failing.is_over());
        assert_eq!(failing.take(1, 33), None);
    }
}
