//! What happened, phase by phase.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::transport::Traffic;
use crate::text::{Paint, Tone};

/// One phase of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub phase: &'static str,
    /// Data objects in both directions.
    pub messages: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Whether it succeeded.
    pub ok: bool,
    /// What came of it.
    pub what: String,
}

impl Row {
    /// A phase between two looks at the traffic.
    pub fn new(
        phase: &'static str,
        traffic: (Traffic, Traffic),
        elapsed: Duration,
        ok: bool,
        what: String,
    ) -> Self {
        let (before, after) = traffic;
        Self {
            phase,
            messages: after.objects.saturating_sub(before.objects),
            bytes: after.bytes.saturating_sub(before.bytes),
            seconds: elapsed.as_secs_f64(),
            ok,
            what,
        }
    }
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The responder's address.
    pub address: String,
    /// Everything that was asked for was done.
    pub ok: bool,
    /// The phases.
    pub phases: Vec<Row>,
    /// Data objects of all phases.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How long all phases took together.
    pub seconds: f64,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<&'static str>,
}

impl Report {
    /// Sums the phases up.
    pub fn new(
        address: String,
        phases: Vec<Row>,
        error: Option<String>,
        advice: Option<&'static str>,
    ) -> Self {
        Self {
            address,
            ok: error.is_none() && phases.iter().all(|row| row.ok),
            messages: phases.iter().map(|row| row.messages).sum(),
            bytes: phases.iter().map(|row| row.bytes).sum(),
            seconds: phases.iter().map(|row| row.seconds).sum(),
            phases,
            error,
            advice,
        }
    }

    /// The table.
    pub fn print(&self, out: &mut dyn Write, paint: Paint) -> io::Result<()> {
        let heading = format!("{:<14} {:>8} {:>8} {:>10}  what", "phase", "messages", "bytes", "ms");
        writeln!(out, "{}", paint.paint(Tone::Strong, &heading))?;
        for row in &self.phases {
            let tone = if row.ok { Tone::Good } else { Tone::Bad };
            let phase = paint.paint(tone, &format!("{:<14}", row.phase));
            let milliseconds = row.seconds * 1e3;
            writeln!(out, "{phase} {:>8} {:>8} {milliseconds:>10.2}  {}", row.messages, row.bytes, row.what)?;
        }
        let milliseconds = self.seconds * 1e3;
        writeln!(out, "{:<14} {:>8} {:>8} {milliseconds:>10.2}", "all", self.messages, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(error: Option<String>) -> Report {
        let traffic = |objects, bytes| Traffic { objects, bytes };
        let rows = vec![
            Row::new(
                "connect",
                (traffic(0, 0), traffic(6, 200)),
                Duration::from_micros(1500),
                true,
                "1.3".into(),
            ),
            Row::new(
                "session",
                (traffic(6, 200), traffic(10, 900)),
                Duration::from_millis(6),
                error.is_none(),
                "up".into(),
            ),
        ];
        Report::new("127.0.0.1:2323".to_owned(), rows, error, None)
    }

    #[test]
    fn a_table_has_a_line_for_each_phase_and_one_for_all() {
        let mut text = Vec::new();
        report(None).print(&mut text, Paint::PLAIN).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "phase          messages    bytes         ms  what",
                "connect               6      200       1.50  1.3",
                "session               4      700       6.00  up",
                "all                  10      900       7.50",
            ]
        );
    }

    #[test]
    fn a_run_with_an_error_is_not_ok() {
        assert!(report(None).ok);
        let failed = report(Some("why".to_owned()));
        assert!(!failed.ok);
        let json = serde_json::to_value(&failed).unwrap();
        assert_eq!(json["error"], "why");
        assert_eq!(json["phases"][1]["ok"], false);
        assert!(json.get("advice").is_none());
    }
}
