//! The plugin's trace: every SEAMCALL that Linux made, and whether its answer is one that the tables name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Where the reasons stand for which the module and the P-SEAMLDR refuse a call.
const CHECKS: &str = "crates/tdx-module/spec/checks.toml";

/// Answers to a call that was accepted. An interrupted one goes on with the next call.
const ACCEPTED: [&str; 3] = ["SUCCESS", "INTERRUPTED_RESUMABLE", "INTERRUPTED_RESTARTABLE"];

/// Answers of the CPU itself, when a call reaches no software.
const NO_SOFTWARE: [&str; 3] = ["VMfailInvalid", "#GP", "#UD"];

/// A SEAMCALL.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Call {
    /// The LP that made it.
    pub(super) lp: u32,
    /// Name of the leaf.
    pub(super) leaf: String,
    /// Name of the status, `VMfailInvalid`, or the exception.
    pub(super) result: String,
}

impl Call {
    /// The name of its answer without the prefix of the ABI's names.
    fn answer(&self) -> &str {
        self.result.strip_prefix("TDX_").unwrap_or(&self.result)
    }

    fn is_accepted(&self) -> bool {
        ACCEPTED.contains(&self.answer())
    }
}

/// The platform when power came on or the machine was reset.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Power {
    /// `power-on` or `reset`.
    pub(super) event: String,
    /// The module that firmware loaded; none if it is missing.
    #[serde(default)]
    pub(super) module: Option<Module>,
    /// Version of the P-SEAMLDR.
    #[serde(default)]
    pub(super) seamldr: Option<String>,
    /// Places that are free in its log.
    #[serde(default)]
    pub(super) remaining_updates: Option<u64>,
}

/// The module as the platform has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Module {
    pub(super) version: String,
}

/// A whole trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) power: Vec<Power>,
    pub(super) calls: Vec<Call>,
}

impl Trace {
    /// Reads a trace. Its last line may be cut short: QEMU may have been ended while it wrote.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut trace = Self::default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for (number, line) in (1..).zip(whole.lines()) {
            let value: serde_json::Value = serde_json::from_str(line)
                .with_context(|| format!("line {number} of the trace is no JSON"))?;
            let wrong = || format!("line {number} of the trace is not as it should be: {line}");
            match value.get("event").and_then(serde_json::Value::as_str) {
                Some("power-on" | "reset") => {
                    trace.power.push(serde_json::from_value(value).with_context(wrong)?);
                }
                Some(_) => {}
                None => trace.calls.push(serde_json::from_value(value).with_context(wrong)?),
            }
        }
        Ok(trace)
    }

    /// How many calls of a leaf came to their end with success.
    pub(super) fn succeeded(&self, leaf: &str) -> usize {
        self.calls.iter().filter(|call| call.leaf == leaf && call.answer() == "SUCCESS").count()
    }

    /// That every call was accepted, or refused for a reason that the table names and the boot expects. The
    /// sentence says how many there were, or which one was wrong.
    pub(super) fn check(&self, reasons: &Reasons, expected: &[Refusal]) -> Result<String, String> {
        if self.calls.is_empty() {
            return Err("Linux made no SEAMCALL".to_owned());
        }
        let mut refused: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for call in self.calls.iter().filter(|call| !call.is_accepted()) {
            *refused.entry((&call.leaf, call.answer())).or_default() += 1;
        }
        for (leaf, answer) in refused.keys().copied() {
            let is_expected = expected.iter().any(|refusal| refusal.is(leaf, answer));
            // A call that reaches no software at all has no row: only the boot can expect it.
            if !is_expected {
                return Err(format!("{leaf} was answered with {answer}, which this boot does not expect"));
            }
            if !NO_SOFTWARE.contains(&answer) && !reasons.names(leaf, answer) {
                return Err(format!("{leaf} was refused with {answer}, for which {CHECKS} has no row"));
            }
        }
        for refusal in expected {
            if !refused.keys().any(|(leaf, answer)| refusal.is(leaf, answer)) {
                return Err(format!("{} was never answered with {}", refusal.leaf, refusal.answer));
            }
        }
        let count = self.calls.len();
        let refused: Vec<String> =
            refused.iter().map(|((leaf, answer), times)| format!("{leaf} {answer} ({times}×)")).collect();
        Ok(if refused.is_empty() {
            format!("{count} SEAMCALLs, all accepted")
        } else {
            format!("{count} SEAMCALLs, refused as expected: {}", refused.join(", "))
        })
    }
}

/// An answer that a boot expects to a leaf, at least once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) leaf: &'static str,
    pub(super) answer: &'static str,
}

impl Refusal {
    pub(super) const fn of(leaf: &'static str, answer: &'static str) -> Self {
        Self { leaf, answer }
    }

    fn is(&self, leaf: &str, answer: &str) -> bool {
        self.leaf == leaf && self.answer == answer
    }
}

/// The answers of the checks' rows, by leaf.
#[derive(Clone, Debug, Default)]
pub(super) struct Reasons(BTreeMap<String, BTreeSet<String>>);

#[derive(Deserialize)]
struct Checks {
    row: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    result: String,
}

/// The rows that hold for all leaves of the module, and for all of the P-SEAMLDR.
const COMMON: [(&str, &str); 2] = [("TDH.", "DISPATCH"), ("SEAMLDR.", "SEAMLDR")];

impl Reasons {
    /// Reads the table of the repository.
    pub(super) fn read(repository: &Path) -> Result<Self> {
        let path = repository.join(CHECKS);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("parse {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let checks: Checks = toml::from_str(text)?;
        let mut reasons = Self::default();
        for row in checks.row {
            // "1.0:TDH.SYS.LP.INIT-3": a release, a leaf, a number.
            let leaf = row.id.rsplit_once('-').map_or(row.id.as_str(), |(leaf, _)| leaf);
            let leaf = leaf.split_once(':').map_or(leaf, |(_, leaf)| leaf);
            let words = row.result.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            let words = words.filter(|word| word.len() > 3).map(ToOwned::to_owned);
            reasons.0.entry(leaf.to_owned()).or_default().extend(words);
        }
        if reasons.0.is_empty() {
            bail!("it holds no rows");
        }
        Ok(reasons)
    }

    /// Whether a row of the leaf has this answer.
    fn names(&self, leaf: &str, answer: &str) -> bool {
        let common = COMMON.iter().filter(|(start, _)| leaf.starts_with(start)).map(|(_, common)| *common);
        common.chain([leaf]).any(|leaf| self.0.get(leaf).is_some_and(|answers| answers.contains(answer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(leaf: &str, result: &str) -> Call {
        Call { lp: 0, leaf: leaf.into(), result: result.into() }
    }

    fn trace(calls: &[(&str, &str)]) -> Trace {
        Trace { power: vec![], calls: calls.iter().map(|(leaf, result)| call(leaf, result)).collect() }
    }

    #[test]
    fn a_trace_is_read_line_by_line_and_may_end_in_the_middle_of_one() {
        let text = concat!(
            r#"{"event":"power-on","platform":"p","vcpus":1,"cmrs":[[4096,8192]],"module":{"profile":"connect","version":"2.1.00"},"seamldr":"2.0.00","remaining_updates":15,"exact_flags":true}"#,
            "\n",
            r#"{"event":"note","text":"fault"}"#,
            "\n",
            r#"{"n":1,"lp":0,"leaf":"TDH.SYS.INIT","version":0,"in":{},"result":"TDX_SUCCESS","raw":"0x0","out":{}}"#,
            "\n",
            r#"{"n":2,"lp":0,"le"#,
        );
        let trace = Trace::parse(text).unwrap();
        assert_eq!(trace.calls, [call("TDH.SYS.INIT", "TDX_SUCCESS")]);
        assert_eq!(trace.power[0].module, Some(Module { version: "2.1.00".into() }));
        assert_eq!(trace.power[0].remaining_updates, Some(15));
        assert_eq!(trace.succeeded("TDH.SYS.INIT"), 1);
        for bad in ["{\n", "{\"leaf\":\"TDH.SYS.INIT\"}\n", "{\"event\":\"power-on\",\"module\":3}\n"] {
            assert!(Trace::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn calls_are_accepted_or_refused_as_table_and_boot_say() {
        let reasons = Reasons::read(&crate::root()).unwrap();
        let refused = Refusal::of("TDH.SYS.INIT", "SYS_INIT_NOT_PENDING");
        let good = trace(&[("TDH.SYS.INIT", "TDX_SUCCESS"), ("TDH.SYS.RD", "TDX_SUCCESS")]);
        assert_eq!(good.check(&reasons, &[]).unwrap(), "2 SEAMCALLs, all accepted");
        let error = good.check(&reasons, &[refused]).unwrap_err();
        assert_eq!(error, "TDH.SYS.INIT was never answered with SYS_INIT_NOT_PENDING");

        let twice = trace(&[("TDH.SYS.INIT", "TDX_SUCCESS"), ("TDH.SYS.INIT", "TDX_SYS_INIT_NOT_PENDING")]);
        let sentence = twice.check(&reasons, &[refused]).unwrap();
        assert_eq!(sentence, "2 SEAMCALLs, refused as expected: TDH.SYS.INIT SYS_INIT_NOT_PENDING (1×)");
        let error = twice.check(&reasons, &[]).unwrap_err();
        assert!(error.contains("which this boot does not expect"), "{error}");
        assert_eq!(trace(&[]).check(&reasons, &[]).unwrap_err(), "Linux made no SEAMCALL");
    }

    #[test]
    fn an_answer_that_no_row_names_is_wrong_even_if_it_is_expected() {
        let reasons = Reasons::read(&crate::root()).unwrap();
        let odd = trace(&[("TDH.SYS.INIT", "TDX_TD_FATAL")]);
        let error = odd.check(&reasons, &[Refusal::of("TDH.SYS.INIT", "TD_FATAL")]).unwrap_err();
        assert!(error.contains("has no row"), "{error}");
        let absent = trace(&[("TDH.SYS.INIT", "VMfailInvalid")]);
        assert!(absent.check(&reasons, &[Refusal::of("TDH.SYS.INIT", "VMfailInvalid")]).is_ok());
    }

    #[test]
    fn rows_of_the_dispatcher_hold_for_every_leaf_of_the_module_only() {
        let reasons = Reasons::read(&crate::root()).unwrap();
        assert!(reasons.names("TDH.SYS.RD", "SYS_SHUTDOWN"));
        assert!(!reasons.names("SEAMLDR.INFO", "SYS_SHUTDOWN"));
        assert!(reasons.names("SEAMLDR.INSTALL", "EBADSIG"));
        assert!(reasons.names("TDH.SYS.LP.INIT", "SYS_LP_INIT_DONE"));
    }
}
