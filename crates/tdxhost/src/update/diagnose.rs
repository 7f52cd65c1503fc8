//! What can be told of an update that failed, from the files before and after it.

use super::host::HostFacts;
use super::upload::KernelWord;
use super::words;
use crate::doctor::{Check, State};

/// What is known of a refusal: what the word means, how far the update got, what was not checked before.
pub fn refusal(word: &KernelWord, before: &HostFacts, after: &HostFacts, checks: &[Check]) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(known) = words::find(&word.word) {
        lines.push(known.meaning.to_owned());
    }
    lines.push(progress(before, after));
    for check in checks.iter().filter(|check| check.state != State::Ok) {
        let name = check.reason.unwrap_or(check.id);
        lines.push(format!("It may be {name}: {}.", check.seen));
    }
    if let Some(known) = words::find(&word.word) {
        lines.push(known.advice.to_owned());
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
            format!("The module's version is gone ({why}): the running module had been shut down.")
        }
    }
}
