//! Explains what a SEAMCALL to the P-SEAMLDR returned.

use tdx_abi::leaf::{LeafWord, SeamldrLeaf};
use tdx_abi::status::SeamldrStatus;

use super::explanation::{Explanation, Fault, Interface, LeafFacts};
use super::registers::CallRegisters;
use super::status::leaf_in_words;
use crate::text::Word;

/// True for a word that only the P-SEAMLDR returns: the error bit, but neither class nor code of the module.
pub(super) fn is_status(rax: u64) -> bool {
    rax >> 32 == 1 << 31
}

/// A leaf of the P-SEAMLDR in the words of the table.
pub(super) fn leaf_facts(word: LeafWord) -> LeafFacts {
    let info = SeamldrLeaf(word.leaf()).info();
    LeafFacts {
        number: u64::from(word.leaf()),
        version: word.version(),
        name: info.map(|info| info.name),
        meaning: info.map(|info| info.meaning),
    }
}

/// Explains `rax` of the call `leaf`.
pub(super) fn explain(leaf: Option<LeafWord>, rax: u64, registers: &CallRegisters) -> Explanation {
    let facts = leaf.map(leaf_facts);
    let from = facts.as_ref().map(|facts| format!(" from {}", leaf_in_words(facts))).unwrap_or_default();
    let code = SeamldrStatus(rax);
    let call = leaf.map(|word| SeamldrLeaf(word.leaf()));
    let mut explanation = if let Some(info) = code.info() {
        let headline = format!("P-SEAMLDR {} ({}){from}", info.name, Word(rax));
        let mut explanation = Explanation::new(Interface::Seamldr, headline, info.meaning);
        explanation.name = Some(info.name.to_owned());
        explanation.fault = Some(Fault::new(info.blame, "the host that called the P-SEAMLDR"));
        explanation.advise(info.advice);
        explanation
    } else {
        let mut explanation = Explanation::new(
            Interface::Seamldr,
            format!("unknown P-SEAMLDR status {}{from}", Word(rax)),
            "No table here has this number of the P-SEAMLDR; its newest generation is not public.",
        );
        explanation.known = false;
        explanation
    };
    explanation.value = Some(Word(rax));
    explanation.leaf = facts;
    if code == SeamldrStatus::EBADCALL && call == Some(SeamldrLeaf::INSTALL) {
        explanation.fact(
            "here",
            "if every LP called INSTALL once and in one session, and neither SHUTDOWN nor CLEANUP is under way, \
             no update is left (num_remaining_updates is 0); a platform reset refills the counter, and so do \
             LOAD and CLEANUP, in which all TDs are lost",
        );
    }
    if call == Some(SeamldrLeaf::INSTALL) && rax != 0 {
        explanation.fact(
            "registers",
            match registers.rdx {
                Some(0) => "RDX = 0: the old module is still there and reachable, but after SYS.SHUTDOWN \
                            it only answers SYS_SHUTDOWN; a successful INSTALL still saves the TDs"
                    .to_owned(),
                Some(1) => {
                    "RDX = 1: the old module is gone; all TDs are lost and a LOAD is needed".to_owned()
                }
                Some(value) => {
                    format!("RDX = {value:#x}, where 0 (old module still there) or 1 (gone) is expected")
                }
                None => "not given; RDX would tell whether the old module is still there (0) or gone (1)"
                    .to_owned(),
            },
        );
    }
    explanation
}
