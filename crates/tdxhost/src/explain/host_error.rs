//! Explains the names of failures of this project's host side.

use tdx_host::error::{self, ERRORS};

use super::explanation::{Explanation, Fault, Interface};
use crate::text::nearest;

/// No failure has the name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no error is named `{name}`{}; `tdxhost explain error` lists them", nearest.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default())]
pub struct NoSuchError {
    /// The name.
    pub name: String,
    /// The name that was probably meant.
    pub nearest: Option<&'static str>,
}

/// All failures, one sentence each.
pub(super) fn explain_all() -> Explanation {
    let mut explanation = Explanation::new(
        Interface::HostError,
        format!("{} errors of the host side", ERRORS.len()),
        "Each has a name that scenarios expect and commands print; words in braces stand for values.",
    );
    for info in ERRORS {
        explanation.fact(info.name, info.template);
    }
    explanation.advise("`tdxhost explain error NAME` tells whose fault one is and what to try.");
    explanation
}

/// The failure named `name`.
pub fn explain(name: &str) -> Result<Explanation, NoSuchError> {
    let spelt = name.to_ascii_lowercase().replace('_', "-");
    let Some(info) = error::find(&spelt) else {
        let names = ERRORS.iter().map(|info| info.name);
        return Err(NoSuchError { name: name.to_owned(), nearest: nearest(&spelt, names) });
    };
    let mut explanation = Explanation::new(Interface::HostError, info.name, info.template);
    explanation.name = Some(info.name.to_owned());
    explanation.fact("errno", info.errno.to_string());
    explanation.fault = Some(Fault {
        who: info.blame.name(),
        text: match info.blame {
            error::Blame::Caller => "whoever made the request".to_owned(),
            error::Blame::Host => {
                "the host system: its configuration, memory layout or another kernel component".to_owned()
            }
            error::Blame::Platform => "the platform: CPU, BIOS settings or microcode".to_owned(),
            error::Blame::Module => "the TDX module or P-SEAMLDR".to_owned(),
        },
    });
    explanation.advise(info.advice);
    Ok(explanation)
}
