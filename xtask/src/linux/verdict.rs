//! What a boot showed, check by check.

use tdx_linux_guest::plan::{Answer, Line, Step};

use super::boots::Boot;
use super::cache::duration;
use super::console::{complaints, last_words};
use super::machine::{End, Outcome};
use super::trace::{Power, Reasons, Trace};

/// One check: what it is about, and a sentence on how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) result: Result<String, String>,
}

impl Check {
    pub(super) fn new(name: &str, result: Result<String, String>) -> Self {
        Self { name: name.to_owned(), result }
    }

    pub(super) fn passed(&self) -> bool {
        self.result.is_ok()
    }

    /// Its line in the list.
    pub(super) fn line(&self) -> String {
        match &self.result {
            Ok(sentence) => format!("  ok      {}: {sentence}", self.name),
            Err(sentence) => format!("  FAILED  {}: {sentence}", self.name),
        }
    }
}

/// What the guest answered.
pub(super) fn answers(text: &str) -> Vec<Answer> {
    let answer = |line| match Line::parse(line) {
        Some(Line::Answer(answer)) => Some(answer),
        _ => None,
    };
    text.lines().filter_map(answer).collect()
}

/// Every check of a boot.
pub(super) fn checks(boot: &Boot, outcome: &Outcome, reasons: &Reasons) -> Vec<Check> {
    let mut checks = steps(boot, outcome);
    checks.push(Check::new("end", ended(outcome)));
    checks.push(Check::new("console", console(boot, outcome)));
    if boot.is_traced() {
        match Trace::parse(&outcome.trace) {
            Err(error) => checks.push(Check::new("trace", Err(format!("{error:#}")))),
            Ok(trace) => checks.extend(of_trace(boot, &trace, reasons)),
        }
    }
    checks
}

/// A check for every step of the plan.
fn steps(boot: &Boot, outcome: &Outcome) -> Vec<Check> {
    let answers = answers(&outcome.answers);
    let of_step = |(number, step): (usize, &Step)| {
        let result = match answers.iter().find(|answer| answer.step == number) {
            Some(answer) if answer.name != step.name() => {
                Err(format!("the guest answered to {} instead", answer.name))
            }
            Some(answer) if answer.ok => Ok(answer.detail.clone()),
            Some(answer) => Err(answer.detail.clone()),
            None => Err("the guest did not come to it".to_owned()),
        };
        Check::new(step.name(), result)
    };
    boot.plan.steps.iter().enumerate().map(of_step).collect()
}

/// That the machine ended by itself behind the whole plan.
fn ended(outcome: &Outcome) -> Result<String, String> {
    let done = outcome.answers.lines().find_map(|line| match Line::parse(line) {
        Some(Line::Done(done)) => Some(done),
        _ => None,
    });
    if let Some(error) = done.as_ref().and_then(|done| done.error.clone()) {
        return Err(format!("the guest could not read its plan: {error}"));
    }
    let said = || {
        let said = last_words(&outcome.said, 1);
        let said = said.first().map_or_else(String::new, |line| format!("; QEMU said: {line}"));
        let last = last_words(&outcome.console, 3).join(" | ");
        let last =
            if last.is_empty() { String::new() } else { format!("; the console's last lines: {last}") };
        format!("{said}{last}")
    };
    match outcome.end {
        End::TimedOut(limit) => {
            Err(format!("it was still running after {} s and was killed{}", limit.as_secs(), said()))
        }
        End::Exited(status) if !status.success() => Err(format!("QEMU ended with {status}{}", said())),
        End::Exited(_) if done.is_none() => Err(format!("it ended before the guest was done{}", said())),
        End::Exited(_) => {
            Ok(format!("the guest was done and the machine went off after {}", duration(outcome.took)))
        }
    }
}

fn console(boot: &Boot, outcome: &Outcome) -> Result<String, String> {
    if outcome.console.trim().is_empty() {
        return Err("the kernel said nothing".to_owned());
    }
    match complaints(&outcome.console, boot.tainted).first() {
        Some(line) => Err(format!("the kernel complains: {line}")),
        None => Ok("no warning, no bug, no taint".to_owned()),
    }
}

fn of_trace(boot: &Boot, trace: &Trace, reasons: &Reasons) -> Vec<Check> {
    let mut checks = Vec::new();
    match (power(boot, trace), &boot.platform) {
        (Err(error), _) => checks.push(Check::new("platform", Err(error))),
        (Ok(()), None) => {}
        (Ok(()), Some(expected)) => checks.push(Check::new("platform", platform(&trace.power, expected))),
    }
    let calls = match (boot.calls, trace.calls.len()) {
        (true, _) => trace.check(reasons, &boot.refusals),
        (false, 0) => Ok("Linux made none".to_owned()),
        (false, count) => Err(format!("Linux made {count}, and should have made none")),
    };
    checks.push(Check::new("seamcalls", calls));
    for (leaf, times) in &boot.accepted {
        let count = trace.succeeded(leaf);
        let sentence = format!("went well {count}×");
        let result = if count >= *times { Ok(sentence) } else { Err(format!("{sentence}, not {times}×")) };
        checks.push(Check::new(leaf, result));
    }
    checks
}

/// That power came on once, and that the machine was reset where the plan says so and nowhere else.
fn power(boot: &Boot, trace: &Trace) -> Result<(), String> {
    let resets = boot.plan.steps.iter().filter(|step| matches!(step, Step::Reboot {})).map(|_| "reset");
    let expected: Vec<&str> = std::iter::once("power-on").chain(resets).collect();
    let found: Vec<&str> = trace.power.iter().map(|power| power.event.as_str()).collect();
    if found == expected { Ok(()) } else { Err(format!("the trace has {found:?}, not {expected:?}")) }
}

/// That the platform says each time what Linux is asked to show.
fn platform(power: &[Power], expected: &super::boots::Platform) -> Result<String, String> {
    let wanted =
        (Some(expected.version.as_str()), Some(expected.seamldr.as_str()), Some(expected.remaining_updates));
    for power in power {
        let version = power.module.as_ref().map(|module| module.version.as_str());
        let says = (version, power.seamldr.as_deref(), power.remaining_updates);
        if says != wanted {
            return Err(format!("it has module, P-SEAMLDR and updates {says:?}, not {wanted:?}"));
        }
    }
    Ok(format!(
        "module {}, P-SEAMLDR {}, {} updates left, as the guest is asked to find them",
        expected.version, expected.seamldr, expected.remaining_updates
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;
    use std::time::Duration;

    const CONSOLE: &str = "[    0.0] Linux version 7.3.4\r\n[    0.6] virt/tdx: TDX-Module initialized\r\n";
    const ANSWERS: &str = concat!(
        "{\"step\":0,\"name\":\"initialised\",\"ok\":true,\"detail\":\"it is\"}\r\n",
        "{\"step\":1,\"name\":\"taint\",\"ok\":true,\"detail\":\"none\"}\r\n",
        "{\"done\":true}\r\n",
    );
    const POWER: &str = "{\"event\":\"power-on\",\"module\":{\"version\":\"2.1.00\"},\"seamldr\":\"2.0.00\",\"remaining_updates\":15}\n";
    const CALL: &str = "{\"n\":1,\"lp\":0,\"leaf\":\"TDH.SYS.INIT\",\"result\":\"TDX_SUCCESS\"}\n";

    fn boot() -> Boot {
        let steps = vec![Step::Initialised {}, Step::Taint { allow: 0 }];
        Boot::new("b", "a boot", 1, steps).accepted("TDH.SYS.INIT", 1)
    }

    fn outcome() -> Outcome {
        Outcome {
            console: CONSOLE.into(),
            answers: ANSWERS.into(),
            trace: format!("{POWER}{CALL}"),
            said: String::new(),
            end: End::Exited(ExitStatus::from_raw(0)),
            reached: None,
            took: Duration::from_secs(2),
        }
    }

    fn failures(boot: &Boot, outcome: &Outcome) -> Vec<String> {
        let reasons = Reasons::read(&crate::root()).unwrap();
        checks(boot, outcome, &reasons)
            .into_iter()
            .filter_map(|check| Some(format!("{}: {}", check.name, check.result.err()?)))
            .collect()
    }

    #[test]
    fn a_boot_that_went_well_fails_no_check() {
        assert_eq!(failures(&boot(), &outcome()), [""; 0]);
    }

    #[test]
    fn each_thing_that_goes_wrong_fails_its_check() {
        let with = |change: fn(&mut Outcome)| {
            let mut outcome = outcome();
            change(&mut outcome);
            failures(&boot(), &outcome).join("\n")
        };
        for (what, failure) in [
            (with(|o| o.answers = ANSWERS.replacen("true", "false", 1)), "initialised: it is"),
            (with(|o| o.answers = ANSWERS.replace("taint", "kaslr")), "taint: the guest answered to kaslr"),
            (
                with(|o| o.answers = ANSWERS.lines().take(1).collect()),
                "taint: the guest did not come to it\nend: it ended before the guest was done",
            ),
            (
                with(|o| o.answers = "{\"done\":false,\"error\":\"no plan\"}".into()),
                "end: the guest could not read its plan: no plan",
            ),
            (with(|o| o.end = End::TimedOut(Duration::from_secs(7))), "end: it was still running after 7 s"),
            (
                with(|o| {
                    o.end = End::Exited(ExitStatus::from_raw(1 << 8));
                    o.said = "the plugin says no\n".into();
                }),
                "end: QEMU ended with exit status: 1; QEMU said: the plugin says no",
            ),
            (with(|o| o.console.push_str("WARNING: CPU: 0\n")), "console: the kernel complains: WARNING"),
            (with(|o| o.console.clear()), "console: the kernel said nothing"),
            (with(|o| o.trace = "{\n".into()), "trace: line 1 of the trace is no JSON"),
            (with(|o| o.trace.clear()), "platform: the trace has [], not [\"power-on\"]"),
            (
                with(|o| o.trace.push_str(&POWER.replace("power-on", "reset"))),
                "platform: the trace has [\"power-on\", \"reset\"], not [\"power-on\"]",
            ),
            (with(|o| o.trace.clear()), "seamcalls: Linux made no SEAMCALL"),
            (with(|o| o.trace.clear()), "TDH.SYS.INIT: went well 0×, not 1×"),
            (
                with(|o| o.trace = o.trace.replace("SUCCESS", "SYS_BUSY")),
                "seamcalls: TDH.SYS.INIT was answered with SYS_BUSY, which this boot does not expect",
            ),
        ] {
            assert!(what.contains(failure), "{what}\ninstead of\n{failure}");
        }
    }

    #[test]
    fn the_platform_must_say_what_linux_is_asked_to_show() {
        let mut boot = boot();
        boot.platform = Some(super::super::boots::Platform {
            version: "2.1.00".into(),
            seamldr: "2.0.00".into(),
            remaining_updates: 15,
        });
        let reset = POWER.replace("power-on", "reset");
        boot.plan.steps.push(Step::Reboot {});
        let answers = ANSWERS.replace(
            "{\"done\"",
            "{\"step\":2,\"name\":\"reboot\",\"ok\":true,\"detail\":\"up\"}\r\n{\"done\"",
        );
        let with = |power: &str, reset: &str| {
            let trace = format!("{power}{CALL}{reset}");
            failures(&boot, &Outcome { trace, answers: answers.clone(), ..outcome() }).join("\n")
        };
        assert_eq!(with(POWER, &reset), "");
        for (is, other) in [("15", "14"), ("2.1.00", "2.1.01"), ("2.0.00", "2.0.01")] {
            assert!(with(&POWER.replace(is, other), &reset).contains("platform: it has module"), "{is}");
            assert!(with(POWER, &reset.replace(is, other)).contains("platform: it has module"), "{is}");
        }
        assert!(with(POWER, "").contains("platform: the trace has"));
    }

    #[test]
    fn a_boot_without_seamcalls_may_have_an_empty_trace_but_no_call() {
        let mut boot = boot();
        boot.accepted.clear();
        boot.calls = false;
        let outcome = |trace: &str| Outcome { trace: format!("{POWER}{trace}"), ..outcome() };
        assert_eq!(failures(&boot, &outcome("")), [""; 0]);
        assert_eq!(failures(&boot, &outcome(CALL)), ["seamcalls: Linux made 1, and should have made none"]);
    }
}
