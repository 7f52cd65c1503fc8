//! What can be told of an update that failed, from the files before and after it.

use super::checks::sentence;
use super::host::HostFacts;
use super::upload::KernelWord;
use super::words;
use crate::api::UpdateFacts;
use crate::doctor::{Check, State};

/// What is known of a refusal: how far the update got, and what the machine tells, else what the kernel's word
/// means and what was not in order before.
pub fn refusal(
    word: &KernelWord,
    told: Option<&UpdateFacts>,
    before: &HostFacts,
    after: &HostFacts,
    checks: &[Check],
) -> Vec<String> {
    if let Some(told) = told {
        let mut lines = vec![progress(before, after)];
        lines.extend(details(told));
        return lines;
    }
    let mut lines = Vec::new();
    let known = words::find(&word.word);
    lines.extend(known.map(|known| known.meaning.to_owned()));
    lines.push(progress(before, after));
    for check in checks.iter().filter(|check| check.state == State::Failed) {
        lines.push(format!("It may be {}: {}.", check.reason.unwrap_or(check.id), check.seen));
    }
    let unknown: Vec<&str> =
        checks.iter().filter(|check| check.state == State::Unknown).map(|check| check.id).collect();
    if !unknown.is_empty() {
        lines.push(format!("What was not checked before: {}.", unknown.join(", ")));
    }
    lines.extend(known.map(|known| known.advice.to_owned()));
    lines
}

/// What a served machine tells besides its reason: where it happened, and what to do.
fn details(update: &UpdateFacts) -> Vec<String> {
    let mut lines = Vec::new();
    match (&update.phase, update.cpu) {
        (Some(phase), Some(cpu)) => lines.push(format!("It failed in phase {phase} on CPU {cpu}.")),
        (Some(phase), None) => lines.push(format!("It failed in phase {phase}.")),
        (None, _) => lines.push("It failed before the first phase: nothing was touched.".to_owned()),
    }
    if let Some(error) = &update.error {
        lines.extend(
            error.status.as_ref().map(|status| format!("Status {status}: `tdxhost explain {status}`.")),
        );
        lines.push(sentence(&error.advice));
    }
    lines
}

/// How far it got.
fn progress(before: &HostFacts, after: &HostFacts) -> String {
    let installed = match (&before.remaining_updates, &after.remaining_updates) {
        (Ok(before), Ok(after)) => Some(after < before),
        _ => None,
    };
    match (&before.module, &after.module, installed) {
        (Ok(old), Ok(now), Some(true)) if old == now => format!(
            "P-SEAMLDR installed the image (the counter went down), but {now} is still shown: the new module \
             did not take over."
        ),
        (Ok(old), Ok(now), _) if old == now => {
            format!("{now} is still shown: it was refused before the running module was shut down.")
        }
        (_, Ok(now), _) => format!("{now} is shown now."),
        (_, Err(_), Some(true)) => {
            "P-SEAMLDR installed the image (the counter went down), but no module is shown: the \
                                    new one did not start, all TDs are lost."
                .to_owned()
        }
        (_, Err(why), _) => {
            format!("No module is shown any more ({why}): the running one had been shut down.")
        }
    }
}
