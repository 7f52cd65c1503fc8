//! Explains what TDCALL and TDG.VP.VMCALL returned to a guest.

use tdx_abi::leaf::{LeafWord, TdcallLeaf, VmcallLeaf};
use tdx_abi::status::{Blame, Status, StatusCode, VmcallStatus};

use super::explanation::{Explanation, Fault, Interface, LeafFacts};
use super::registers::CallRegisters;
use super::status::{self, leaf_in_words};
use crate::text::Word;

/// A guest leaf in the words of the table.
pub(super) fn leaf_facts(word: LeafWord) -> LeafFacts {
    let info = TdcallLeaf(word.leaf()).info();
    LeafFacts {
        number: u64::from(word.leaf()),
        version: word.version(),
        name: info.map(|info| info.name),
        meaning: info.map(|info| info.meaning),
    }
}

/// Explains `rax` of a TDCALL. Host and guest share the status codes.
pub fn explain_tdcall(leaf: Option<LeafWord>, rax: u64, registers: &CallRegisters) -> Explanation {
    let mut explanation = status::explain_status(rax, registers);
    explanation.interface = Interface::Guest;
    if let Some(facts) = leaf.map(leaf_facts) {
        explanation.headline = format!("{} from {}", explanation.headline, leaf_in_words(&facts));
        explanation.leaf = Some(facts);
    }
    if explanation.fault.as_ref().is_some_and(|fault| fault.who == "caller") {
        explanation.fault = Some(Fault::new(Blame::Caller, "the guest kernel that made the TDCALL"));
    }
    if let Some(leaf) = leaf.map(|word| TdcallLeaf(word.leaf())) {
        let status = Status::from_raw(rax);
        if leaf == TdcallLeaf::MEM_PAGE_ACCEPT && status.is(StatusCode::PAGE_SIZE_MISMATCH) {
            explanation.advice.clear();
            explanation
                .advise("Accept the page in smaller pieces: the host mapped it at the level in the detail.");
        } else if leaf == TdcallLeaf::MR_REPORT && status.is(StatusCode::OPERAND_INVALID) {
            explanation
                .fact("Linux", "a guest shows it as -ENXIO; OPERAND_BUSY as -EBUSY, anything else as -EIO");
        }
    }
    explanation
}

/// A guest leaf alone.
pub fn explain_tdcall_leaf(word: LeafWord) -> Explanation {
    let facts = leaf_facts(word);
    leaf_alone(Interface::Guest, leaf_in_words(&facts), facts)
}

/// The sub-function of a TDG.VP.VMCALL in the words of the table.
fn vmcall_facts(leaf: VmcallLeaf) -> LeafFacts {
    let info = leaf.info();
    LeafFacts {
        number: leaf.0,
        version: 0,
        name: info.map(|info| info.name),
        meaning: info.map(|info| info.meaning),
    }
}

/// A sub-function alone.
pub fn explain_vmcall_leaf(leaf: VmcallLeaf) -> Explanation {
    let facts = vmcall_facts(leaf);
    let mut explanation = leaf_alone(Interface::Vmcall, vmcall_in_words(&facts), facts);
    if let Some(info) = leaf.info() {
        explanation.basis(info.basis);
    }
    explanation
}

/// `MapGPA (sub-function 0x10001)`: the GHCI numbers them in hexadecimal.
fn vmcall_in_words(facts: &LeafFacts) -> String {
    match facts.name {
        Some(name) => format!("{name} (sub-function {:#x})", facts.number),
        None => format!("unknown sub-function {:#x}", facts.number),
    }
}

fn leaf_alone(interface: Interface, headline: String, facts: LeafFacts) -> Explanation {
    let meaning = facts.meaning.unwrap_or("No table here has this number.");
    let mut explanation = Explanation::new(interface, headline, meaning);
    explanation.known = facts.name.is_some();
    explanation.name = facts.name.map(str::to_owned);
    explanation.leaf = Some(facts);
    explanation
}

/// Explains R10 of a TDG.VP.VMCALL.
pub fn explain_vmcall(leaf: Option<VmcallLeaf>, r10: u64) -> Explanation {
    let facts = leaf.map(vmcall_facts);
    let from = facts.as_ref().map(|facts| format!(" from {}", vmcall_in_words(facts))).unwrap_or_default();
    let mut explanation = if let Some(info) = VmcallStatus(r10).info() {
        let headline = format!("{} ({}){from}", info.name, Word(r10));
        let mut explanation = Explanation::new(Interface::Vmcall, headline, info.meaning);
        explanation.name = Some(info.name.to_owned());
        explanation.fault = Some(Fault::new(info.blame, "the guest that made the TDG.VP.VMCALL"));
        explanation.advise(info.advice);
        explanation
    } else {
        let mut explanation = Explanation::new(
            Interface::Vmcall,
            format!("unknown result {}{from}", Word(r10)),
            "The GHCI does not define this value of R10. After a vendor call (R10 other than 0 at the \
             call) it is that vendor's result.",
        );
        explanation.known = false;
        explanation
    };
    explanation.value = Some(Word(r10));
    explanation.leaf = facts;
    explanation
}
