//! Process 1: mounts, runs the plan, and ends the machine.

/// Prints on the console; unlike `println!`, which panics, it lets a console be that takes nothing.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($what)*);
    }};
}

mod boots;
mod files;
mod log;
mod mounts;
mod power;
mod report;
mod steps;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result};
use tdx_linux_guest::plan::{Answer, End, PLAN_PATH, Plan, Step};

use self::{
    boots::Boots,
    report::Report,
    steps::{Finding, World},
};

/// Runs as process 1 and never returns.
pub(crate) fn run() -> ! {
    // A panic is a failed step, not the end of process 1, which would be a kernel panic.
    let end = catch_unwind(whole_run).unwrap_or_else(|_| {
        say!("init: panicked outside of a step");
        End::PowerOff
    });
    power::end(end)
}

fn whole_run() -> End {
    for problem in mounts::mount_all() {
        say!("init: {problem}");
    }
    let mut report = Report::open();
    match std::fs::read(PLAN_PATH) {
        Ok(json) => match Plan::parse(&json) {
            Ok(plan) => run_plan(&plan, &mut report),
            Err(error) => {
                report.give_up(&format!("{PLAN_PATH} is no plan: {error}"));
                End::PowerOff
            }
        },
        Err(_) => without_plan(),
    }
}

/// A boot without a plan is somebody's trial: shows what the kernel says of TDX, and gives a shell if the kernel's
/// command line has the word `shell`.
fn without_plan() -> End {
    let tdx_host = steps::module::load_tdx_host();
    match log::read() {
        Ok(records) => {
            for record in records {
                if record.text.contains("tdx") || tdx_linux_guest::kernel_log::is_alarm(&record.text) {
                    say!(
                        "[{:>12.6}] {}",
                        std::time::Duration::from_micros(record.us).as_secs_f64(),
                        record.text
                    );
                }
            }
        }
        Err(error) => say!("init: {error:#}"),
    }
    match tdx_host {
        Some(Ok(())) => say!("init: tdx-host.ko is loaded"),
        Some(Err(errno)) => say!("init: tdx-host.ko does not load: {errno}"),
        None => say!("init: the initramfs has no {}", tdx_linux_guest::plan::TDX_HOST_MODULE),
    }
    for (name, value) in steps::attributes::read_all() {
        say!("init: {name} = {value}");
    }
    if std::fs::read_to_string("/proc/cmdline")
        .is_ok_and(|line| line.split_ascii_whitespace().any(|w| w == "shell"))
    {
        End::Shell
    } else {
        End::PowerOff
    }
}

/// Where this boot goes on: the first step to run, and the restart before it that has thereby succeeded. None: the
/// plan has fewer restarts than lie behind this boot.
fn resume(plan: &Plan, restarts: u8) -> Option<(usize, Option<usize>)> {
    let Some(last) = restarts.checked_sub(1) else { return Some((0, None)) };
    let mut reboots = (plan.steps.iter().enumerate()).filter(|(_, step)| matches!(step, Step::Reboot {}));
    let (step, _) = reboots.nth(usize::from(last))?;
    Some((step.saturating_add(1), Some(step)))
}

fn run_plan(plan: &Plan, report: &mut Report) -> End {
    // The store of the boot count is looked for only when a plan restarts the machine.
    let restarts_at_all = plan.steps.iter().any(|step| matches!(step, Step::Reboot {}));
    let boots = restarts_at_all.then(Boots::begin);
    let begin = match &boots {
        Some(Ok(boots)) => resume(plan, boots.restarts()),
        Some(Err(error @ boots::Error::Unasked)) => {
            report.give_up(&error.to_string());
            return End::PowerOff;
        }
        // Without the store only the step that restarts fails.
        Some(Err(boots::Error::Store(_))) | None => Some((0, None)),
    };
    let Some((first, restarted)) = begin else {
        report.give_up("the machine was restarted more often than the plan says");
        return End::PowerOff;
    };
    if let Some(step) = restarted {
        report.answer(&reboot_answer(step, Ok(Finding::new("the kernel has come up again"))));
    }

    let mut world = World::begin();
    for (index, step) in plan.steps.iter().enumerate().skip(first) {
        if matches!(step, Step::Reboot {}) {
            let restarted = match &boots {
                Some(Ok(boots)) => boots.restart(report),
                Some(Err(error)) => Err(anyhow::anyhow!("{error}")),
                None => Ok(()),
            };
            // A restart does not come back here.
            let why = restarted.err().unwrap_or_else(|| anyhow::anyhow!("the kernel did not restart"));
            report.answer(&reboot_answer(index, Err(why)));
            continue;
        }
        let found = catch_unwind(AssertUnwindSafe(|| steps::run(step, &mut world)))
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the step panicked")));
        report.answer(&answer(index, step.name(), found));
    }
    if let Some(Ok(boots)) = &boots
        && let Err(error) = boots.forget().context("the boot count stays")
    {
        say!("init: {error:#}");
    }
    report.done();
    plan.end
}

fn reboot_answer(index: usize, found: Result<Finding>) -> Answer {
    answer(index, Step::Reboot {}.name(), found)
}

fn answer(step: usize, name: &str, found: Result<Finding>) -> Answer {
    let name = name.to_owned();
    match found {
        Ok(Finding { detail, numbers }) => Answer { step, name, ok: true, detail, numbers },
        Err(error) => Answer {
            step,
            name,
            ok: false,
            detail: format!("{error:#}"),
            numbers: std::collections::BTreeMap::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use tdx_linux_guest::plan::Step;

    use super::*;

    fn plan() -> Plan {
        let steps = vec![
            Step::Initialised {},
            Step::Reboot {},
            Step::Initialised {},
            Step::Initialised {},
            Step::Reboot {},
        ];
        Plan { steps, end: End::PowerOff }
    }

    #[test]
    fn a_boot_goes_on_behind_the_restart_that_led_to_it() {
        assert_eq!(resume(&plan(), 0), Some((0, None)));
        assert_eq!(resume(&plan(), 1), Some((2, Some(1))));
        assert_eq!(resume(&plan(), 2), Some((5, Some(4))));
    }

    #[test]
    fn more_restarts_than_the_plan_has_are_found() {
        assert_eq!(resume(&plan(), 3), None);
        assert_eq!(resume(&Plan::default(), 1), None);
    }

    #[test]
    fn a_failed_step_answers_with_the_whole_chain_of_reasons() {
        let error = anyhow::anyhow!("EIO").context("the boot count cannot be written");
        let answer = answer(3, "reboot", Err(error));
        assert!(!answer.ok);
        assert_eq!(answer.detail, "the boot count cannot be written: EIO");
    }
}
