//! The shape of `crates/tdx-abi/spec/*.toml`. Unknown keys are refused, so that a typing error
//! cannot drop a fact silently.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;

/// Reads one file.
pub(crate) fn read<T: DeserializeOwned>(directory: &Path, name: &str) -> Result<T> {
    let path = directory.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("{}", path.display()))
}

/// A 64-bit number, which TOML can hold only as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Word(pub(crate) u64);

impl TryFrom<String> for Word {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a number of the form 0x…"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leaves {
    pub(crate) seamcall: Vec<Leaf>,
    pub(crate) seamldr: Vec<Leaf>,
    pub(crate) tdcall: Vec<Leaf>,
    pub(crate) vmcall: Vec<Leaf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leaf {
    pub(crate) name: String,
    pub(crate) number: u64,
    #[serde(rename = "const")]
    pub(crate) constant: String,
    pub(crate) basis: String,
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    pub(crate) meaning: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatusCodes {
    pub(crate) class: BTreeMap<String, String>,
    pub(crate) status: Vec<Status>,
    pub(crate) seamldr: Vec<Status>,
    pub(crate) vmcall: Vec<Status>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Status {
    #[serde(rename = "const")]
    pub(crate) constant: String,
    pub(crate) name: String,
    pub(crate) value: Word,
    #[serde(default)]
    pub(crate) detail: String,
    #[serde(default)]
    pub(crate) since: String,
    #[serde(default)]
    pub(crate) basis: String,
    pub(crate) legacy_name: Option<String>,
    pub(crate) blame: String,
    pub(crate) meaning: String,
    pub(crate) advice: String,
    #[serde(default)]
    pub(crate) also: Vec<Also>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Also {
    #[serde(rename = "const")]
    pub(crate) constant: String,
    pub(crate) name: String,
    pub(crate) since: String,
    pub(crate) meaning: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operands {
    pub(crate) operand: Vec<Operand>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Operand {
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) meaning: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fields {
    pub(crate) sys: Vec<Field>,
    pub(crate) td: Vec<Field>,
    pub(crate) vp: Vec<Field>,
    pub(crate) vmcs: Vec<Field>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) id: Word,
    pub(crate) bytes: u64,
    pub(crate) elements: u64,
    pub(crate) fields: u64,
    #[serde(default)]
    pub(crate) host_read: bool,
    #[serde(default)]
    pub(crate) guest_read: bool,
    #[serde(default)]
    pub(crate) linux_reads: bool,
    pub(crate) since: String,
    pub(crate) basis: String,
    #[serde(default)]
    pub(crate) other_ids: Vec<Word>,
    pub(crate) form: Option<String>,
    pub(crate) meaning: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Features {
    pub(crate) bit: Vec<Feature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Feature {
    pub(crate) bit: u32,
    pub(crate) name: String,
    pub(crate) basis: String,
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    pub(crate) meaning: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Msrs {
    pub(crate) msr: Vec<Msr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Msr {
    pub(crate) name: String,
    pub(crate) number: u64,
    pub(crate) last: Option<u64>,
    pub(crate) meaning: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExitReasons {
    pub(crate) reason: Vec<ExitReason>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExitReason {
    pub(crate) name: String,
    pub(crate) number: u64,
}
