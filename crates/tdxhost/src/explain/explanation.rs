//! What is told of one status, leaf, field or error, and how it is printed.

use std::io;

use serde::Serialize;
use tdx_abi::leaf::Basis;
use tdx_abi::status::{Blame, Status};

use crate::text::{Format, Output, Tone, Word};

/// Which table of numbers an explanation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interface {
    /// SEAMCALL to the TDX module.
    Module,
    /// SEAMCALL to the P-SEAMLDR.
    Seamldr,
    /// TDCALL of a guest.
    Guest,
    /// TDG.VP.VMCALL of a guest to its host.
    Vmcall,
    /// Metadata fields.
    Field,
    /// Failures of this project's host side.
    HostError,
    /// What speaks against an image of the TDX module.
    Image,
    /// Words of Linux's firmware upload.
    Upload,
    /// A line of a kernel log that carries no status.
    KernelLog,
}

/// A leaf, with the version that the call asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct LeafFacts {
    /// Number, without the version.
    pub number: u64,
    /// Version, bits 23:16 of RAX.
    #[serde(skip_serializing_if = "is_zero")]
    pub version: u8,
    /// Name, if the number has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    /// What the leaf does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<&'static str>,
}

// serde hands out references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(version: &u8) -> bool {
    *version == 0
}

/// The flags and the class of a status word.
// Bits of a word are independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct StatusBits {
    /// Bit 63.
    pub error: bool,
    /// Bit 62.
    pub non_recoverable: bool,
    /// Bit 61.
    pub fatal: bool,
    /// Bit 60.
    pub host_recoverability_hint: bool,
    /// Bits 47:40.
    pub class: u8,
    /// What the class is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_name: Option<&'static str>,
    /// Bits 31:0.
    pub detail: u32,
}

impl StatusBits {
    /// The bits of `status`.
    pub fn of(status: Status) -> Self {
        Self {
            error: status.is_error(),
            non_recoverable: status.is_non_recoverable(),
            fatal: status.is_fatal(),
            host_recoverability_hint: status.host_recoverability_hint(),
            class: status.class().0,
            class_name: status.class().name(),
            detail: status.detail(),
        }
    }

    fn in_words(&self) -> String {
        let class = self.class_name.map_or_else(|| format!("unknown class {:#x}", self.class), str::to_owned);
        let outcome = match (self.error, self.non_recoverable) {
            (true, true) => "an error that the same call will meet again",
            (true, false) => "an error that a later call may not meet",
            (false, true) => "no error of the call, but what it served cannot go on",
            (false, false) => "no error",
        };
        let mut text = format!("{class}: {outcome}");
        if self.fatal {
            text.push_str("; the TD is dead (bit 61)");
        }
        if self.host_recoverability_hint {
            text.push_str("; the host may call again with the same hint (bit 60)");
        }
        text
    }
}

/// One more thing to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Fact {
    /// What it is about, one word.
    pub what: &'static str,
    /// The fact.
    pub text: String,
}

/// Who can change something.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Fault {
    /// One word: caller, object, host, platform, firmware, module or nobody.
    pub who: &'static str,
    /// The same in words.
    pub text: String,
}

impl Fault {
    /// The fault that the tables of the ABI assign, `caller` being what calls through the interface.
    pub fn new(blame: Blame, caller: &str) -> Self {
        let (who, text) = match blame {
            Blame::Caller => ("caller", format!("the caller ({caller})")),
            Blame::Object => {
                ("object", "the object that the call names: it is in another state than needed".to_owned())
            }
            Blame::Platform => ("platform", "the platform: CPU, memory or devices".to_owned()),
            Blame::Firmware => {
                ("firmware", "the firmware: BIOS, microcode, TDX module or its loader".to_owned())
            }
            Blame::Nobody => ("nobody", "nobody".to_owned()),
        };
        Self { who, text }
    }
}

/// Everything that is told of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Explanation {
    /// Table of numbers.
    pub interface: Interface,
    /// One line: name, number, where from.
    pub headline: String,
    /// False if the number is in no table.
    pub known: bool,
    /// Name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number that is explained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Word>,
    /// The leaf that returned it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaf: Option<LeafFacts>,
    /// The parts of a status word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<StatusBits>,
    /// What it means.
    pub meaning: String,
    /// What else is to be known: decoded details, registers, other names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
    /// Whose fault it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What to try.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
}

impl Explanation {
    /// An explanation with nothing but its headline and meaning.
    pub fn new(interface: Interface, headline: impl Into<String>, meaning: impl Into<String>) -> Self {
        Self {
            interface,
            headline: headline.into(),
            known: true,
            name: None,
            value: None,
            leaf: None,
            bits: None,
            meaning: meaning.into(),
            facts: Vec::new(),
            fault: None,
            advice: Vec::new(),
        }
    }

    /// Adds a fact.
    pub fn fact(&mut self, what: &'static str, text: impl Into<String>) {
        self.facts.push(Fact { what, text: text.into() });
    }

    /// Adds how well the explained number is known, unless it is certain.
    pub fn basis(&mut self, basis: Basis) {
        let text = match basis {
            Basis::Certain => return,
            Basis::Inferred => "inferred from an earlier interface, believed unchanged",
            Basis::Assumed => "nothing public tells it; assumed by this project",
            Basis::Ghci => "from the public GHCI document only",
            Basis::Conflict => "public sources contradict each other",
        };
        self.fact("certainty", text);
    }

    /// Adds advice, once.
    pub fn advise(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !text.is_empty() && !self.advice.contains(&text) {
            self.advice.push(text);
        }
    }

    /// The explanation in the output's form.
    pub fn print(&self, output: &mut Output<'_>) -> io::Result<()> {
        match output.format {
            Format::Json => output.document(self),
            Format::Text => self.print_text(output, ""),
        }
    }

    /// Lines for people, each after `indent`.
    pub(super) fn print_text(&self, output: &mut Output<'_>, indent: &str) -> io::Result<()> {
        let headline = output.paint.paint(Tone::Strong, &self.headline);
        writeln!(output.out, "{indent}{headline}")?;
        let mut line = |label: &str, text: &str| output.paragraph(&format!("{indent}  {label:<9} "), text);
        line("means", &self.meaning)?;
        for fact in &self.facts {
            line(fact.what, &fact.text)?;
        }
        if let Some(bits) = &self.bits {
            line("class", &bits.in_words())?;
        }
        if let Some(fault) = &self.fault {
            line("fault of", &fault.text)?;
        }
        for advice in &self.advice {
            line("try", advice)?;
        }
        Ok(())
    }
}
