//! The plugin's trace: every SEAMCALL that Linux made, and whether its answer is one that the tables name.

use std::collections::BTreeMap;
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
    /// The status as a number.
    #[serde(default)]
    pub(super) raw: Option<String>,
    /// The rows of the table that answer so, operand included.
    #[serde(default)]
    pub(super) rows: Vec<String>,
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
            let (leaf, answer) = (call.leaf.as_str(), call.answer());
            if !expected.iter().any(|refusal| refusal.is(leaf, answer)) {
                return Err(format!("{leaf} was answered with {answer}, which this boot does not expect"));
            }
            // A call that reaches no software at all has no row: only the boot can expect it.
            if !NO_SOFTWARE.contains(&answer) && !reasons.explain(call) {
                let raw = call.raw.as_deref().unwrap_or("no number");
                return Err(format!(
                    "{leaf} was refused with {answer} ({raw}), for which {CHECKS} has no row"
                ));
            }
            *refused.entry((leaf, answer)).or_default() += 1;
        }
        for refusal in expected {
            if !refused.keys().any(|(leaf, answer)| refusal.is(leaf, answer)) {
                return Err(format!("{} was never answered with {}", refusal.leaf, refusal.answer));
            }
        }
        let count = match self.calls.len() {
            1 => "1 SEAMCALL".to_owned(),
            count => format!("{count} SEAMCALLs"),
        };
        let refused: Vec<String> =
            refused.iter().map(|((leaf, answer), times)| format!("{leaf} {answer} ({times}×)")).collect();
        Ok(if refused.is_empty() {
            format!("{count}, all accepted")
        } else {
            format!("{count}, refused as expected: {}", refused.join(", "))
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

/// The results of the checks' rows, by their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Reasons(BTreeMap<String, String>);

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
/// The result of a row of TDX 1.0 that stands for rows of later releases.
const BORROWED: &str = "as 1.5";

impl Reasons {
    /// Reads the table of the repository.
    pub(super) fn read(repository: &Path) -> Result<Self> {
        let path = repository.join(CHECKS);
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("parse {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let checks: Checks = toml::from_str(text)?;
        let reasons = Self(checks.row.into_iter().map(|row| (row.id, row.result)).collect());
        if reasons.0.is_empty() {
            bail!("it holds no rows");
        }
        Ok(reasons)
    }

    /// Whether the call names rows, and each of them is one of its leaf that has its answer.
    fn explain(&self, call: &Call) -> bool {
        let has_answer = |result: &String| {
            let mut words = result.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            result == BORROWED || words.any(|word| word == call.answer())
        };
        let explains = |row: &String| is_of(row, &call.leaf) && self.0.get(row).is_some_and(has_answer);
        !call.rows.is_empty() && call.rows.iter().all(explains)
    }
}

/// Whether a row is about the leaf, or about all of its software.
fn is_of(row: &str, leaf: &str) -> bool {
    // "1.0:TDH.SYS.LP.INIT-3": a release, a leaf, a number.
    let family = row.rsplit_once('-').map_or(row, |(family, _)| family);
    let family = family.split_once(':').map_or(family, |(_, family)| family);
    family == leaf || COMMON.iter().any(|(start, common)| leaf.starts_with(start) && family == *common)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(leaf: &str, result: &str) -> Call {
        Call { lp: 0, leaf: leaf.into(), result: result.into(), raw: None, rows: vec![] }
    }

    fn refused_by(rows: &[&str], leaf: &str, result: &str) -> Call {
        Call { rows: rows.iter().map(|row| (*row).to_owned()).collect(), ..call(leaf, result) }
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
            r#"{"n":1,"lp":0,"leaf":"TDH.SYS.INIT","version":0,"in":{},"result":"TDX_SUCCESS","out":{}}"#,
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

        let mut twice = good.clone();
        twice.calls[1] = refused_by(&["TDH.SYS.INIT-4"], "TDH.SYS.INIT", "TDX_SYS_INIT_NOT_PENDING");
        let sentence = twice.check(&reasons, &[refused]).unwrap();
        assert_eq!(sentence, "2 SEAMCALLs, refused as expected: TDH.SYS.INIT SYS_INIT_NOT_PENDING (1×)");
        let error = twice.check(&reasons, &[]).unwrap_err();
        assert!(error.contains("which this boot does not expect"), "{error}");
        let sentence = trace(&[("TDH.SYS.INIT", "TDX_SUCCESS")]).check(&reasons, &[]).unwrap();
        assert_eq!(sentence, "1 SEAMCALL, all accepted");
        assert_eq!(trace(&[]).check(&reasons, &[]).unwrap_err(), "Linux made no SEAMCALL");
    }

    #[test]
    fn a_refusal_that_no_row_explains_is_wrong_even_if_it_is_expected() {
        let reasons = Reasons::read(&crate::root()).unwrap();
        let check = |call: Call, leaf, answer| {
            let trace = Trace { calls: vec![call], ..Trace::default() };
            trace.check(&reasons, &[Refusal::of(leaf, answer)])
        };
        for (leaf, answer, rows, good) in [
            ("TDH.SYS.INIT", "SYS_INIT_NOT_PENDING", &["TDH.SYS.INIT-4"][..], true),
            ("TDH.SYS.INIT", "SYS_INIT_NOT_PENDING", &[], false),
            ("TDH.SYS.INIT", "SYS_INIT_NOT_PENDING", &["TDH.SYS.INIT-3"], false),
            ("TDH.SYS.INIT", "SYS_INIT_NOT_PENDING", &["TDH.SYS.INIT-4", "TDH.SYS.INIT-999"], false),
            ("TDH.SYS.INIT", "TD_FATAL", &["TDH.SYS.INIT-4"], false),
            ("TDH.SYS.RD", "SYS_INIT_NOT_PENDING", &["TDH.SYS.INIT-4"], false),
            ("TDH.SYS.RD", "SYS_SHUTDOWN", &["DISPATCH-4"], true),
            ("SEAMLDR.INFO", "SYS_SHUTDOWN", &["DISPATCH-4"], false),
            ("TDH.SYS.INIT", "VMfailInvalid", &[], true),
            ("TDH.SYS.INIT", "#GP", &[], true),
        ] {
            let result = check(refused_by(rows, leaf, answer), leaf, answer);
            assert_eq!(result.is_ok(), good, "{leaf} {answer} {rows:?}");
        }
        let call = Call { raw: Some("0xc000".into()), ..call("TDH.SYS.INIT", "TDX_TD_FATAL") };
        let error = check(call, "TDH.SYS.INIT", "TD_FATAL").unwrap_err();
        assert!(error.starts_with("TDH.SYS.INIT was refused with TD_FATAL (0xc000), for which "), "{error}");
    }
}
