//! Explains the names of failures: of this project's host side, of module images, of Linux's uploads.

use tdx_host::CONNECT_ERRORS;
use tdx_host::error::{self, ERRORS, ErrorInfo};
use tdx_host::tsm::TSM_ERRORS;
use tdx_host::upload::UPLOAD_ERRORS;
use tdx_image::{Reason, find_reason};

use super::explanation::{Explanation, Fault, Interface};
use crate::text::nearest;
use crate::update::{checks, reasons, words};

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
        format!(
            "{} errors of the host side, {} reasons against images, {} words of Linux's uploads",
            host_errors().count(),
            image_reasons().count(),
            words::WORDS.len()
        ),
        "Each has a name that scenarios expect and commands print; words in braces stand for values.",
    );
    for info in host_errors() {
        explanation.fact(info.name, info.template);
    }
    for reason in image_reasons() {
        explanation.fact(reason.name, reason.template);
    }
    for word in words::WORDS {
        explanation.fact(word.name, word.meaning);
    }
    explanation.advise("`tdxhost explain error NAME` tells whose fault one is and what to try.");
    explanation
}

/// The failure named `name`.
pub fn explain(name: &str) -> Result<Explanation, NoSuchError> {
    let spelt = name.to_ascii_lowercase().replace('_', "-");
    let Some(info) = host_errors().find(|info| info.name == spelt) else {
        return of_image(&spelt).or_else(|| of_check(&spelt)).or_else(|| of_upload(&spelt)).ok_or_else(
            || {
                let of_host = host_errors().map(|info| info.name);
                let of_upload = words::WORDS.iter().map(|word| word.name);
                let of_checks = checks::RULES.into_iter().map(|rule| rule.id);
                let names = of_host.chain(image_reasons().map(|reason| reason.name));
                let names = names.chain(of_checks).chain(of_upload);
                NoSuchError { name: name.to_owned(), nearest: nearest(&spelt, names) }
            },
        );
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
            error::Blame::Device => "the PCIe device, its firmware or its slot".to_owned(),
        },
    });
    explanation.advise(info.advice);
    Ok(explanation)
}

/// Failures of the host side: its own, those of its firmware-upload files, of TDX Connect, and of devices.
fn host_errors() -> impl Iterator<Item = &'static ErrorInfo> {
    ERRORS.iter().chain(UPLOAD_ERRORS).chain(CONNECT_ERRORS).chain(TSM_ERRORS)
}

/// Reasons against an image: in itself, or on a host. What the host side knows as well is told by its table.
fn image_reasons() -> impl Iterator<Item = &'static Reason> {
    tdx_image::reasons().chain(reasons::REASONS).filter(|reason| error::find(reason.name).is_none())
}

/// The reason against an image named `name`.
fn of_image(name: &str) -> Option<Explanation> {
    let reason = find_reason(name).or_else(|| reasons::find(name))?;
    let mut explanation = Explanation::new(Interface::Image, reason.name, reason.template);
    explanation.name = Some(reason.name.to_owned());
    explanation.advise(reason.advice);
    Some(explanation)
}

/// The check before an update named `name`, which stands there for what could not be looked at.
fn of_check(name: &str) -> Option<Explanation> {
    let rule = checks::find(name)?;
    let text = format!("A check before an update. It expects: {}.", rule.expected);
    let mut explanation = Explanation::new(Interface::Image, rule.id, text);
    explanation.name = Some(rule.id.to_owned());
    explanation.advise("`tdxhost doctor --update IMAGE` tells what it saw, or why it saw nothing.");
    Some(explanation)
}

/// The word of Linux's firmware upload named `name`, alone or after the state that it stands behind.
fn of_upload(name: &str) -> Option<Explanation> {
    let word = words::find(name.rsplit_once(':').map_or(name, |(_, word)| word))?;
    let mut explanation = Explanation::new(Interface::Upload, word.name, word.meaning);
    explanation.name = Some(word.name.to_owned());
    explanation.advise(word.advice);
    Some(explanation)
}
