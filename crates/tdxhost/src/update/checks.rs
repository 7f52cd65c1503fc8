//! The checks before an update: what each is called, and what it expects.

use std::fmt;

use super::candidate::Refusal;
use crate::doctor::Check;

/// One check of an image, of a step or of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Stable name; `--ignore` takes it.
    pub id: &'static str,
    /// What an update needs.
    pub expected: &'static str,
}

impl Rule {
    /// It is as expected.
    pub(super) fn ok(self, seen: impl Into<String>) -> Check {
        Check::ok(self.id, self.expected, seen)
    }

    /// It is not. The refusal's own advice counts for more than that of the rule.
    pub(super) fn failed(self, refusal: &Refusal, advice: &str) -> Check {
        let advice = if refusal.advice.is_empty() { advice.to_owned() } else { sentence(refusal.advice) };
        Check::failed(self.id, self.expected, refusal.sentence.clone(), advice).because(refusal.name)
    }

    /// It could not be looked at.
    pub(super) fn unseen(self, why: impl fmt::Display, advice: &str) -> Check {
        Check::unknown(self.id, self.expected, why.to_string(), advice)
    }
}

/// Advice of an error, as a sentence.
pub(super) fn sentence(advice: &str) -> String {
    let mut letters = advice.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

pub(super) const IMAGE: Rule =
    Rule { id: "image", expected: "a well-formed image with header 0x100 or 0x200" };
pub(super) const IMAGE_HEADER: Rule =
    Rule { id: "image-header", expected: "a header that the kernel takes, or that can be converted" };
pub(super) const IMAGE_SIGNATURE: Rule =
    Rule { id: "image-signature", expected: "signed by Intel, signature and hash right" };
pub(super) const IMAGE_PRODUCTION: Rule = Rule { id: "image-production", expected: "a production module" };
pub(super) const IMAGE_CPU: Rule =
    Rule { id: "image-cpu", expected: "the CPU stands in the image's list (stepping ignored)" };
pub(super) const IMAGE_RELEASE: Rule =
    Rule { id: "image-release", expected: "a release that the table of releases knows" };
pub(super) const SEAMLDR_VERSION: Rule =
    Rule { id: "seamldr-version", expected: "a P-SEAMLDR of a line and an age that loads the release" };
pub(super) const IMAGE_SIGSTRUCT: Rule =
    Rule { id: "image-sigstruct", expected: "SIGSTRUCT fields that the running P-SEAMLDR accepts" };
pub(super) const IMAGE_RELOCATIONS: Rule = Rule {
    id: "image-relocations",
    expected: "relocations that P-SEAMLDR can apply: it looks when the old module is gone",
};
pub(super) const MODULE_LINE: Rule =
    Rule { id: "module-line", expected: "the same major.minor as the running module" };
pub(super) const MODULE_ORDER: Rule =
    Rule { id: "module-order", expected: "not older than the running module" };
pub(super) const TD_PRESERVING: Rule = Rule {
    id: "td-preserving",
    expected: "the running module is new enough for its TDs to survive the step",
};
pub(super) const IMAGE_SVN: Rule =
    Rule { id: "image-svn", expected: "the same major SVN as the running module, a minor SVN not lower" };
pub(super) const MODULE_STATE: Rule = Rule {
    id: "module-state",
    expected: "a module that answers, or that an update shut down which can go on",
};
pub(super) const UPDATE_OFFERED: Rule = Rule {
    id: "update-offered",
    expected: "the kernel offers updates: class/firmware/tdx_module, or seamldr_upload before 2026",
};
pub(super) const SEAMRET_VMCS: Rule = Rule {
    id: "seamret-vmcs",
    expected: "SEAMRET of P-SEAMLDR keeps the current VMCS (IA32_VMX_BASIC bit 60)",
};
pub(super) const UPDATES_LEFT: Rule =
    Rule { id: "updates-left", expected: "a number of remaining updates above 0" };
pub(super) const CPUS_ONLINE: Rule =
    Rule { id: "cpus-online", expected: "every processor that the platform counts is online" };
pub(super) const X2APIC_IDS: Rule = Rule {
    id: "x2apic-ids",
    expected: "every x2APIC id below the limit of P-SEAMLDR (1024 in all public ones)",
};
pub(super) const UPLOAD_IDLE: Rule =
    Rule { id: "upload-idle", expected: "no update is running (status idle)" };

/// All checks, in the order in which they are made.
pub const RULES: [Rule; 20] = [
    IMAGE,
    IMAGE_HEADER,
    IMAGE_SIGNATURE,
    IMAGE_PRODUCTION,
    IMAGE_CPU,
    IMAGE_RELEASE,
    SEAMLDR_VERSION,
    IMAGE_SIGSTRUCT,
    IMAGE_RELOCATIONS,
    MODULE_LINE,
    MODULE_ORDER,
    TD_PRESERVING,
    IMAGE_SVN,
    MODULE_STATE,
    UPDATE_OFFERED,
    SEAMRET_VMCS,
    UPDATES_LEFT,
    CPUS_ONLINE,
    X2APIC_IDS,
    UPLOAD_IDLE,
];

/// The check with this name.
pub fn find(id: &str) -> Option<Rule> {
    RULES.into_iter().find(|rule| rule.id == id)
}
