use std::io::{self, Write};

use serde::{Serialize, Serializer};

use super::{Case, Verdict};
use crate::text::{Paint, Tone};

/// One case, tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What was sent, and when.
    pub sent: &'static str,
    /// What had to come back.
    pub expected: String,
    /// What came back; `None` if the case could not be tried.
    pub answer: Option<String>,
    /// What is to be said of it.
    #[serde(serialize_with = "words")]
    pub verdict: Verdict,
}

impl Row {
    pub(super) fn new(case: &Case, answer: Option<String>, verdict: Verdict) -> Self {
        Self { name: case.name, sent: case.sent, expected: case.expected.to_string(), answer, verdict }
    }
}

fn words<S: Serializer>(verdict: &Verdict, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(verdict.name())
}

/// All cases that were tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The responder's address.
    pub address: String,
    /// Nothing was accepted, and every next session worked.
    pub ok: bool,
    /// The cases.
    pub cases: Vec<Row>,
}

impl Report {
    /// Of these rows.
    pub fn new(address: String, cases: Vec<Row>) -> Self {
        Self { address, ok: !cases.iter().any(|row| row.verdict.is_failure()), cases }
    }

    /// The line below the table.
    pub fn summary(&self) -> String {
        let count =
            |wanted: &dyn Fn(&Verdict) -> bool| self.cases.iter().filter(|row| wanted(&row.verdict)).count();
        let failed = count(&Verdict::is_failure);
        let not_tried = count(&|verdict| matches!(verdict, Verdict::NotTried(_)));
        let otherwise = count(&|verdict| matches!(verdict, Verdict::Otherwise | Verdict::NoAnswer));
        format!(
            "{} cases: {} refused, {otherwise} refused otherwise than is due, {failed} failed, {not_tried} not tried",
            self.cases.len(),
            self.cases.len() - failed - not_tried - otherwise,
        )
    }

    /// The table.
    pub fn print(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let widest = |text: &dyn Fn(&Row) -> usize| self.cases.iter().map(text).max().unwrap_or(0);
        let name = widest(&|row| row.name.len()).max("case".len());
        let sent = widest(&|row| row.sent.len()).max("what was sent".len());
        let came = |row: &Row| row.answer.clone().unwrap_or_else(|| "-".to_owned());
        let answer = widest(&|row| came(row).len()).max("what came back".len());
        let heading =
            format!("{:<name$}  {:<sent$}  {:<answer$}  verdict", "case", "what was sent", "what came back");
        writeln!(out, "{}", paint.paint(Tone::Strong, &heading))?;
        for row in &self.cases {
            let due = match row.verdict {
                Verdict::Refused | Verdict::Bounded | Verdict::Ignored | Verdict::NotTried(_) => {
                    String::new()
                }
                _ => format!(" (due: {})", row.expected),
            };
            let tone = match row.verdict {
                Verdict::Refused | Verdict::Bounded => Tone::Good,
                ref verdict if verdict.is_failure() => Tone::Bad,
                _ => Tone::Doubtful,
            };
            let verdict = paint.paint(tone, &row.verdict.to_string());
            writeln!(
                out,
                "{:<name$}  {:<sent$}  {:<answer$}  {verdict}{due}",
                row.name,
                row.sent,
                came(row)
            )?;
        }
        writeln!(out, "{}", self.summary())
    }
}
