//! Explains the names of failures of this project's host side.

use tdx_host::error::{self, ERRORS};

use super::explanation::{Explanation, Fault, Interface};

/// No failure has the name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no error is named `{name}`; the names are: {known}")]
pub struct NoSuchError {
    /// The name.
    pub name: String,
    /// All names.
    pub known: String,
}

/// The failure named `name`.
pub fn explain(name: &str) -> Result<Explanation, NoSuchError> {
    let Some(info) = error::find(name) else {
        let known: Vec<&str> = ERRORS.iter().map(|info| info.name).collect();
        return Err(NoSuchError { name: name.to_owned(), known: known.join(", ") });
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
