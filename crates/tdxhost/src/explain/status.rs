//! Explains what a SEAMCALL to the TDX module returned.

use tdx_abi::leaf::{LeafWord, SeamcallLeaf};
use tdx_abi::status::{Detail, DetailKind, Status, StatusClass, StatusCode, StatusInfo};

use super::context::{self, Situation};
use super::explanation::{Explanation, Fault, Interface, LeafFacts, StatusBits};
use super::registers::{self, CallRegisters};
use super::seamldr;
use crate::text::Word;

/// Who makes a SEAMCALL.
const CALLER: &str = "the host kernel or VMM that made the SEAMCALL";

/// Explains `rax` of the call `leaf`, if the call is known, with the other registers that it returned.
///
/// A leaf with bit 63, and a status whose class and code are 0 but whose error bit is set, belong to the
/// P-SEAMLDR.
pub fn explain(leaf: Option<LeafWord>, rax: u64, registers: &CallRegisters) -> Explanation {
    let to_seamldr = match leaf {
        Some(leaf) => leaf.is_seamldr(),
        None => seamldr::is_status(rax),
    };
    if to_seamldr && !is_software(rax) {
        return seamldr::explain(leaf, rax, registers);
    }
    explain_module(leaf, rax, registers)
}

/// Explains a status of the module or of the host's wrapper, without a leaf.
pub(super) fn explain_status(rax: u64, registers: &CallRegisters) -> Explanation {
    explain_module(None, rax, registers)
}

/// Explains a status of which only the name is known.
pub(super) fn explain_code(code: StatusCode) -> Explanation {
    let mut explanation = explain_status(code.plain().raw(), &CallRegisters::default());
    // Nobody said that bits 31:0 are 0.
    explanation.facts.retain(|fact| fact.what != "detail");
    explanation
}

fn is_software(rax: u64) -> bool {
    Status::from_raw(rax).class() == StatusClass::SOFTWARE
}

fn explain_module(word: Option<LeafWord>, rax: u64, registers: &CallRegisters) -> Explanation {
    let status = Status::from_raw(rax);
    let facts = word.map(leaf_facts);
    let leaf = word.filter(|word| !word.is_seamldr()).map(|word| SeamcallLeaf(word.leaf()));
    let from = facts.as_ref().map(|facts| format!(" from {}", leaf_in_words(facts))).unwrap_or_default();

    let mut explanation = match status.info() {
        Some(info) => known(info, status, leaf, &from),
        None => unknown(status, &from),
    };
    explanation.value = Some(Word(rax));
    explanation.leaf = facts;
    explanation.bits = Some(StatusBits::of(status));
    registers::explain(&mut explanation, leaf, status, registers);
    explanation
}

/// A leaf of the module or of the P-SEAMLDR in the words of the tables.
pub(super) fn leaf_facts(word: LeafWord) -> LeafFacts {
    if word.is_seamldr() {
        return seamldr::leaf_facts(word);
    }
    let info = SeamcallLeaf(word.leaf()).info();
    LeafFacts {
        number: u64::from(word.leaf()),
        version: word.version(),
        name: info.map(|info| info.name),
        meaning: info.map(|info| info.meaning),
    }
}

/// `TDH.SYS.INIT (leaf 33)`.
pub(super) fn leaf_in_words(facts: &LeafFacts) -> String {
    let version = if facts.version == 0 { String::new() } else { format!(", version {}", facts.version) };
    match facts.name {
        Some(name) => format!("{name} (leaf {}{version})", facts.number),
        None => format!("unknown leaf {}{version}", facts.number),
    }
}

fn known(info: &'static StatusInfo, status: Status, leaf: Option<SeamcallLeaf>, from: &str) -> Explanation {
    let headline = format!("{} ({}){from}", info.name, Word(status.raw()));
    let mut explanation = Explanation::new(Interface::Module, headline, info.meaning);
    explanation.name = Some(info.name.to_owned());
    detail(&mut explanation, info, status, leaf);

    let situation = context::find(leaf, status);
    if let Some(Situation { why, .. }) = situation {
        explanation.fact("here", *why);
    }
    if let Some(errno) = linux_errno(status) {
        explanation.fact("Linux", errno);
    }
    if let Some(name) = info.legacy_name {
        explanation.fact("also", format!("{name} in the interface of 2023"));
    }
    for also in info.also {
        explanation.fact("also", format!("{} (TDX {}): {}", also.name, also.since, also.meaning));
    }
    explanation.basis(info.basis);

    let (blame, advice) =
        situation.map_or((info.blame, info.advice), |situation| (situation.blame, situation.advice));
    explanation.fault = Some(Fault::new(blame, CALLER));
    explanation.advise(advice);
    explanation
}

/// Adds bits 31:0 in words, if they say something.
fn detail(explanation: &mut Explanation, info: &StatusInfo, status: Status, leaf: Option<SeamcallLeaf>) {
    // The low half of these tells codes apart, it holds nothing of its own.
    if status.class() == StatusClass::SOFTWARE {
        return;
    }
    // Only TD exits have an exit reason: elsewhere a plain success would read as exit reason 0.
    if info.detail == DetailKind::ExitReason && leaf != Some(SeamcallLeaf::VP_ENTER) && status.detail() == 0 {
        return;
    }
    let decoded = status.decoded_detail();
    match decoded {
        Detail::None => {}
        Detail::Operand(operand) => {
            let meaning = operand.meaning().map(|meaning| format!(": {meaning}")).unwrap_or_default();
            explanation.fact("detail", format!("operand {operand} ({}){meaning}", operand.0));
        }
        Detail::Msr(msr) => {
            let meaning = msr.info().map(|info| format!(": {}", info.meaning)).unwrap_or_default();
            explanation.fact("detail", format!("{decoded}{meaning}"));
        }
        _ => explanation.fact("detail", decoded.to_string()),
    }
}

/// What Linux makes of a status of its own wrapper.
fn linux_errno(status: Status) -> Option<&'static str> {
    match status.code() {
        StatusCode::SEAMCALL_VMFAILINVALID => {
            Some("returns -ENODEV (-19); at SYS.INIT it logs \"module not loaded\"")
        }
        StatusCode::SEAMCALL_GP => Some("returns -EOPNOTSUPP (-95), without a line in the log"),
        StatusCode::SEAMCALL_UD => Some("returns -EACCES (-13), without a line in the log"),
        _ => None,
    }
}

fn unknown(status: Status, from: &str) -> Explanation {
    let class = status.class();
    let code = status.code().0 >> 32 & 0xff;
    let headline = format!("unknown status {}{from}", Word(status.raw()));
    let mut meaning = match class.name() {
        Some(name) => format!(
            "No table here has this number. Its class is {:#04x} ({name}), code {code:#x} in it",
            class.0
        ),
        None => format!(
            "No table here has this number. Its class {:#04x} is unknown too, code {code:#x} in it",
            class.0
        ),
    };
    if status.raw() >> 48 & 0xfff != 0 {
        meaning.push_str("; bits 59:48 are set, which no status has: it may be no status at all");
    }
    meaning.push('.');
    let mut explanation = Explanation::new(Interface::Module, headline, meaning);
    explanation.known = false;
    if status.detail() != 0 {
        explanation.fact("detail", format!("{:#x} in bits 31:0", status.detail()));
    }
    if status.is_error() {
        let later = if status.is_non_recoverable() {
            "Compare the number with what was logged. Repeating the call will not help."
        } else {
            "Compare the number with what was logged. The error is marked as recoverable: repeat the call."
        };
        explanation.advise(later);
    }
    explanation
}

/// Explains a leaf alone.
pub fn explain_leaf(word: LeafWord) -> Explanation {
    let facts = leaf_facts(word);
    let interface = if word.is_seamldr() { Interface::Seamldr } else { Interface::Module };
    let mut explanation = Explanation::new(
        interface,
        leaf_in_words(&facts),
        facts.meaning.unwrap_or("No table here has this leaf number."),
    );
    explanation.known = facts.name.is_some();
    explanation.name = facts.name.map(str::to_owned);
    explanation.value = Some(Word(word.raw()));
    if !word.is_seamldr()
        && let Some(info) = SeamcallLeaf(word.leaf()).info()
    {
        if !info.aliases.is_empty() {
            explanation.fact("also", info.aliases.join(", "));
        }
        explanation.basis(info.basis);
    }
    if word.reserved() != 0 {
        explanation.fact("reserved", format!("bits {:#x} are set: the call is refused", word.reserved()));
    }
    explanation.leaf = Some(facts);
    explanation.advise(if explanation.known {
        "To explain what it returned, give RAX after it: `tdxhost explain LEAF RAX [RCX RDX R8 R9 R10 R11]`."
    } else {
        "Check the number: it is decimal unless written 0x; `--seamldr`, `--guest` and `--vmcall` are the \
         other interfaces."
    });
    explanation
}

/// Explains a status of the P-SEAMLDR, without a leaf.
pub(super) fn explain_seamldr(rax: u64) -> Explanation {
    seamldr::explain(None, rax, &CallRegisters::default())
}
