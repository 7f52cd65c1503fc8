//! Speed: how fast a SEAMCALL is against an empty callback of QEMU's, and how long the bring-up takes against the
//! same boot without the plugin.

use tdx_linux_guest::plan::{Hex, Step};

use super::boots::{Boot, TAINT_OUT_OF_TREE};
use super::machine::{Outcome, TRACE};
use super::verdict::{Check, answers};

/// SEAMCALLs of one measurement.
const CALLS: u64 = 500_000;
/// Measurements of each kind in one boot, by turns; the best one counts, because neighbours on the machine only slow
/// down.
const TIMES: usize = 8;
/// RAX of the SEAMCALL that the plugin answers with nothing.
const EMPTY_CALL: u64 = i64::MAX as u64;
/// Boots of each kind whose time is taken; their median counts.
const BOOTS: usize = 5;
/// The share of the rate of an empty callback that TDH.SYS.RD must reach.
const LEAST_RATE: f64 = 0.5;
/// The most that the plugin may prolong the way to the initialised module.
const MOST_TIME: f64 = 1.3;

const INITIALISED: &str = "virt/tdx: TDX-Module initialized";
/// What the same initcall says, at the same moment of the boot, on a machine without TDX.
const UNSUPPORTED: &str = "virt/tdx: TDX not supported by the host platform";

/// What a boot measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    /// The rate of TDH.SYS.RD, and of SEAMCALLs that the plugin answers with nothing.
    Rates,
    /// Time to the initialised module.
    Time,
    /// Time to the same initcall without the plugin.
    TimeWithout,
}

/// The boots that measure.
pub(super) fn boots() -> Vec<Boot> {
    let mut boots = vec![rates()];
    // By turns, so that what else the machine does meets both alike.
    for number in 1..=BOOTS {
        boots.push(time(number, Measure::Time));
        boots.push(time(number, Measure::TimeWithout));
    }
    boots
}

/// The text whose appearance on the console is timed.
pub(super) fn awaited(boot: &Boot) -> Option<&'static str> {
    match boot.measure? {
        Measure::Time => Some(INITIALISED),
        Measure::TimeWithout => Some(UNSUPPORTED),
        Measure::Rates => None,
    }
}

fn rates() -> Boot {
    let bench = |leaf: Option<u64>| Step::Bench {
        module: "/bench.ko".to_owned(),
        calls: CALLS,
        all_cpus: false,
        field: None,
        leaf: leaf.map(Hex),
        status: Hex(0),
    };
    let turn = [bench(None), bench(Some(EMPTY_CALL))];
    let mut steps: Vec<Step> = std::iter::repeat_n(turn, TIMES).flatten().collect();
    steps.push(Step::Taint { allow: TAINT_OUT_OF_TREE });
    let about =
        "TDH.SYS.RD from a kernel module, and SEAMCALLs that the plugin answers with nothing, by turns";
    let mut boot = without_trace(Boot::new("bench-rate", about, 1, steps)).option("bench=empty");
    boot.tainted = true;
    boot.measure = Some(Measure::Rates);
    boot
}

fn time(number: usize, measure: Measure) -> Boot {
    let (name, about, step) = match measure {
        Measure::TimeWithout => (
            "bench-time-without",
            "time to the same initcall without the plugin",
            Step::DmesgHas { text: UNSUPPORTED.to_owned() },
        ),
        _ => ("bench-time", "time to the initialised module", Step::Initialised {}),
    };
    let steps = vec![step, Step::Taint { allow: 0 }];
    let mut boot = without_trace(Boot::new(&format!("{name}-{number}"), about, 1, steps));
    if measure == Measure::TimeWithout {
        boot.machine.plugin = None;
    }
    boot.measure = Some(measure);
    boot
}

/// The trace of a SEAMCALL costs more than the call.
fn without_trace(mut boot: Boot) -> Boot {
    if let Some(plugin) = &mut boot.machine.plugin {
        plugin.retain(|option| *option != format!("trace={TRACE}"));
    }
    boot
}

/// What was measured so far: calls per second, and seconds.
#[derive(Debug, Default)]
pub(super) struct Measured {
    full: Vec<f64>,
    empty: Vec<f64>,
    with: Vec<f64>,
    without: Vec<f64>,
}

impl Measured {
    /// Takes the numbers of a boot. A boot that should have one and has none gets a failed check.
    pub(super) fn add(&mut self, boot: &Boot, outcome: &Outcome, checks: &mut Vec<Check>) {
        let nothing = || Check::new("measurement", Err("there is no number".to_owned()));
        let times = match boot.measure {
            None => return,
            Some(Measure::Rates) => {
                let before = self.full.len() + self.empty.len();
                for answer in answers(&outcome.answers) {
                    // Rates are far below 2^32.
                    let rate =
                        answer.numbers.get("calls_per_second").and_then(|&rate| u32::try_from(rate).ok());
                    let kind = if answer.step % 2 == 0 { &mut self.full } else { &mut self.empty };
                    kind.extend(rate.map(f64::from));
                }
                if self.full.len() + self.empty.len() == before {
                    checks.push(nothing());
                }
                return;
            }
            Some(Measure::Time) => &mut self.with,
            Some(Measure::TimeWithout) => &mut self.without,
        };
        match outcome.reached {
            None => checks.push(nothing()),
            Some(time) => {
                // One of many alike: what went well in it needs no line of its own.
                checks.retain(|check| !check.passed());
                checks.push(Check::new("measurement", Ok(format!("{:.2} s", time.as_secs_f64()))));
                times.push(time.as_secs_f64());
            }
        }
    }

    /// Compares what can be compared.
    pub(super) fn checks(&self) -> Vec<Check> {
        let rate = best(&self.full).zip(best(&self.empty)).map(|(full, empty)| {
            let share = full / empty;
            let sentence = format!(
                "{:.2} M TDH.SYS.RD/s, {:.2} M empty calls/s: {share:.2} of them (at least {LEAST_RATE})",
                full / 1e6,
                empty / 1e6,
            );
            Check::new("rate", verdict(share >= LEAST_RATE, sentence))
        });
        let time = median(&self.with).zip(median(&self.without)).map(|(with, without)| {
            let share = with / without;
            let sentence = format!(
                "{with:.2} s to the initialised module, {without:.2} s to the same initcall without the plugin: \
                 {share:.2} times (at most {MOST_TIME})"
            );
            Check::new("time", verdict(share <= MOST_TIME, sentence))
        });
        rate.into_iter().chain(time).collect()
    }
}

fn verdict(good: bool, sentence: String) -> Result<String, String> {
    if good { Ok(sentence) } else { Err(sentence) }
}

fn best(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::machine::End;
    use std::os::unix::process::ExitStatusExt as _;
    use std::time::Duration;

    fn outcome(answers: &str, reached: Option<f64>) -> Outcome {
        Outcome {
            console: String::new(),
            answers: answers.to_owned(),
            trace: String::new(),
            said: String::new(),
            end: End::Exited(std::process::ExitStatus::from_raw(0)),
            reached: reached.map(Duration::from_secs_f64),
            took: Duration::from_secs(2),
        }
    }

    fn boot(measure: Measure) -> Boot {
        boots().into_iter().find(|boot| boot.measure == Some(measure)).unwrap()
    }

    fn rates(rates: &[u32]) -> String {
        let line = |(step, rate)| {
            format!(
                "{{\"step\":{step},\"name\":\"bench\",\"ok\":true,\"detail\":\"\",\"numbers\":{{\"calls_per_second\":{rate}}}}}\n"
            )
        };
        (0..).zip(rates).map(line).collect()
    }

    #[test]
    fn the_best_rates_and_the_median_times_are_compared_with_the_limits() {
        for (full, empty, with, without, good) in [
            (1_000_000, 2_000_000, 1.3, 1.0, [true, true]),
            (990_000, 2_000_000, 1.0, 1.0, [false, true]),
            (2_000_000, 2_000_000, 1.4, 1.0, [true, false]),
        ] {
            let mut measured = Measured::default();
            let mut checks = Vec::new();
            let by_turns = rates(&[10, 1_000_000, full, empty, 500_000, 5]);
            measured.add(&boot(Measure::Rates), &outcome(&by_turns, None), &mut checks);
            for time in [9.0, with, 0.1] {
                measured.add(&boot(Measure::Time), &outcome("", Some(time)), &mut checks);
            }
            measured.add(&boot(Measure::TimeWithout), &outcome("", Some(without)), &mut checks);
            assert!(checks.iter().all(Check::passed));
            let passed: Vec<bool> = measured.checks().iter().map(Check::passed).collect();
            assert_eq!(passed, good, "{full} {empty} {with} {without}");
        }
    }

    #[test]
    fn a_boot_without_its_number_fails_and_nothing_is_compared_with_nothing() {
        let mut measured = Measured::default();
        for measure in [Measure::Rates, Measure::Time] {
            let mut checks = Vec::new();
            measured.add(&boot(measure), &outcome("", None), &mut checks);
            assert_eq!(checks.len(), 1);
            assert!(!checks[0].passed());
        }
        assert!(measured.checks().is_empty());
    }

    #[test]
    fn both_rates_are_measured_by_turns() {
        let steps = boot(Measure::Rates).plan.steps;
        for (number, step) in steps.iter().take(2 * TIMES).enumerate() {
            let empty = matches!(step, Step::Bench { leaf: Some(Hex(EMPTY_CALL)), .. });
            assert_eq!(empty, number % 2 == 1, "{number}");
        }
    }

    #[test]
    fn boots_that_are_timed_differ_in_the_plugin_alone() {
        let (with, without) = (boot(Measure::Time), boot(Measure::TimeWithout));
        assert!(with.machine.plugin.is_some() && without.machine.plugin.is_none());
        assert_eq!(with.machine.memory, without.machine.memory);
        assert_eq!(with.machine.processors, without.machine.processors);
        assert_eq!(boots().iter().filter(|boot| boot.measure == Some(Measure::Time)).count(), BOOTS);
    }
}
