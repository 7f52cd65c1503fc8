//! Annotates kernel logs: every line about TDX gets its meaning, whose fault it is and what to try.
//!
//! Lines may carry any prefix: time stamps, log levels, host names of journals, quotation marks of mails.

mod call;
mod message;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;

use serde::Serialize;
use tdx_abi::leaf::LeafWord;
use tdx_abi::status::{Blame, Status};

use super::explanation::{Explanation, Fault, Interface};
use super::registers::CallRegisters;
use super::status;
use crate::text::{Format, Output, Tone};
use call::{Call, CallResult};
pub use message::Mood;
use message::Step;

/// A log with its explanations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log<'a> {
    entries: Vec<Entry<'a>>,
    outcome: Outcome,
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry<'a> {
    /// Number of the line, from 1.
    pub line: usize,
    /// The line as it is.
    pub text: &'a str,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Kind {
    /// Nothing about TDX.
    Passed,
    /// Registers of the SEAMCALL in an earlier line.
    Continues {
        /// Number of that line.
        of: usize,
    },
    /// A line about TDX.
    Explained {
        /// Good or bad news.
        mood: Mood,
        /// What it means.
        explanation: Box<Explanation>,
    },
}

/// What a whole log says about bring-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Outcome {
    /// The module is initialized.
    Initialized,
    /// The module is initialized, and something failed afterwards.
    Troubled {
        /// The first failure after bring-up.
        sentence: String,
        /// What to try.
        advice: String,
    },
    /// Bring-up failed.
    Failed {
        /// The first reason.
        sentence: String,
        /// What to try.
        advice: String,
    },
    /// The firmware offers TDX, but the log neither tells success nor failure.
    Unfinished {
        /// What is missing.
        sentence: String,
        /// What to try.
        advice: String,
    },
    /// Nothing about TDX.
    Silent,
}

/// What a line was recognised as, before registers of later lines are known.
enum Found {
    Nothing,
    Registers(CallRegisters),
    Call(Call),
    Message(&'static message::Message),
    Unknown,
}

/// Explains a log.
pub fn annotate(text: &str) -> Log<'_> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found: Vec<Found> = lines.iter().map(|line| classify(&without_colours(line))).collect();
    let owners = gather_registers(&mut found);
    let mut entries = Vec::with_capacity(lines.len());
    let mut progress = Progress::default();
    for (index, (text, found)) in lines.iter().copied().zip(&found).enumerate() {
        let line = index + 1;
        let kind = match found {
            Found::Nothing => Kind::Passed,
            Found::Registers(_) => match owners.get(&index) {
                Some(owner) => Kind::Continues { of: owner + 1 },
                None => Kind::Passed,
            },
            Found::Call(call) => explain_call(call),
            Found::Message(message) => {
                progress.step(message.step);
                explain_message(message, text)
            }
            Found::Unknown => Kind::Explained {
                mood: Mood::Info,
                explanation: Box::new(Explanation {
                    known: false,
                    ..Explanation::new(
                        Interface::KernelLog,
                        "no known message",
                        "The line is about TDX, but no table here has its wording.",
                    )
                }),
            },
        };
        progress.see(&kind);
        entries.push(Entry { line, text, kind });
    }
    Log { entries, outcome: progress.outcome() }
}

/// Gives the registers of the lines after a failed call to that call; tells which line belongs to which.
fn gather_registers(found: &mut [Found]) -> HashMap<usize, usize> {
    let mut owners = HashMap::new();
    let mut owner = None;
    let mut late: Vec<(usize, CallRegisters)> = Vec::new();
    for (index, found) in found.iter().enumerate() {
        match found {
            // Lines of other CPUs and drivers may stand between.
            Found::Nothing => {}
            Found::Registers(registers) => {
                if let Some(owner) = owner {
                    owners.insert(index, owner);
                    late.push((owner, *registers));
                }
            }
            Found::Call(_) => owner = Some(index),
            Found::Message(_) | Found::Unknown => owner = None,
        }
    }
    for (owner, registers) in late {
        if let Some(Found::Call(call)) = found.get_mut(owner) {
            call.registers.merge(registers);
        }
    }
    owners
}

/// A line without the escape sequences that `dmesg --color` and pagers leave in it.
fn without_colours(line: &str) -> Cow<'_, str> {
    const ESCAPE: &str = "\u{1b}[";
    if !line.contains(ESCAPE) {
        return Cow::Borrowed(line);
    }
    let mut parts = line.split(ESCAPE);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Parameters and intermediates, then one final letter.
        let text = part.trim_start_matches(|c: char| matches!(c, ' '..='?'));
        let mut letters = text.chars();
        letters.next();
        plain.push_str(letters.as_str());
    }
    Cow::Owned(plain)
}

fn classify(line: &str) -> Found {
    let body = body(line);
    if let Some(registers) = call::parse_registers(body) {
        // A call that prints its registers itself is a call.
        if call::parse(body).is_none() {
            return Found::Registers(registers);
        }
    }
    if !is_about_tdx(body) {
        return Found::Nothing;
    }
    let lower = body.to_ascii_lowercase();
    if let Some(call) = call::parse(body) {
        return Found::Call(call);
    }
    match message::find(&lower) {
        Some(message) => Found::Message(message),
        None => Found::Unknown,
    }
}

/// The message of a line, without what log daemons and mails put before it.
fn body(line: &str) -> &str {
    let line = line.split_once(" kernel: ").map_or(line, |(_, rest)| rest);
    let mut rest = line;
    loop {
        let before = rest;
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '>' | '`' | '|' | '+'));
        // Time stamps and thread ids `[    7.5928]`, levels `<6>`, headers of /dev/kmsg `6,123,456,-;`.
        rest = strip_group(rest, '[', ']').or_else(|| strip_group(rest, '<', '>')).unwrap_or(rest);
        rest = strip_kmsg_header(rest).unwrap_or(rest);
        if rest.len() == before.len() {
            return rest;
        }
    }
}

fn strip_kmsg_header(text: &str) -> Option<&str> {
    let (header, message) = text.split_once(';')?;
    let of_header = |byte: u8| byte.is_ascii_digit() || matches!(byte, b',' | b'-' | b'c' | b'+');
    (header.contains(',') && header.bytes().all(of_header)).then_some(message)
}

fn strip_group(text: &str, open: char, close: char) -> Option<&str> {
    let (inside, rest) = text.strip_prefix(open)?.split_once(close)?;
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'.' | b':' | b'+' | b'-' | b',');
    // A firmware bug tag belongs to the message.
    (inside.bytes().all(plain) && !inside.eq_ignore_ascii_case("firmware bug")).then_some(rest)
}

/// True if a word of the message is one of TDX; names of CPUs and hosts that contain the letters are none.
fn is_about_tdx(body: &str) -> bool {
    const WORDS: [&str; 14] = [
        "tdx",
        "tdx-module",
        "seamcall",
        "seamldr",
        "seamrr",
        "tdmr",
        "tdmrs",
        "pamt",
        "hkid",
        "cmr",
        "tme",
        "mktme",
        "vmxon",
        "kvm_intel.tdx",
    ];
    const STARTS: [&str; 5] = ["tdx_", "tdh_", "tdh.", "tdg.", "kvm_intel.tdx"];
    call::words(body).any(|word| {
        let word = word.to_ascii_lowercase();
        WORDS.contains(&word.as_str()) || STARTS.iter().any(|start| word.starts_with(start))
    })
}

fn explain_call(call: &Call) -> Kind {
    let (mood, mut explanation) = match call.result {
        CallResult::Status(rax) => {
            let explanation = status::explain(call.leaf, rax, &call.registers);
            let good = !Status::from_raw(rax).is_error();
            (if good { Mood::Info } else { Mood::Problem }, explanation)
        }
        CallResult::Errno(number) => (Mood::Problem, explain_errno(call.leaf, number)),
    };
    if let Some(cpu) = call.cpu {
        explanation.fact("CPU", cpu.to_string());
    }
    Kind::Explained { mood, explanation: Box::new(explanation) }
}

fn explain_errno(leaf: Option<LeafWord>, number: u64) -> Explanation {
    let name = message::errno_name(number).map_or_else(|| format!("-{number}"), str::to_owned);
    let leaf = leaf.map(status::leaf_facts);
    let from =
        leaf.as_ref().map(|facts| format!(" from {}", status::leaf_in_words(facts))).unwrap_or_default();
    let mut explanation = Explanation::new(
        Interface::KernelLog,
        format!("error number {name}{from}"),
        "The kernel's own error number, not what the module returned.",
    );
    explanation.leaf = leaf;
    explanation.fact("detail", message::errno_meaning(number));
    explanation
}

fn explain_message(message: &'static message::Message, line: &str) -> Kind {
    let mut explanation = Explanation::new(Interface::KernelLog, message.title, message.meaning);
    if let Some(numbers) = message.numbers.and_then(|numbers| numbers(line)) {
        explanation.fact("detail", numbers);
    }
    if message.mood == Mood::Problem && message.blame != Blame::Nobody {
        explanation.fault =
            Some(Fault::new(message.blame, "the host: its kernel, its options or its set-up"));
    }
    explanation.advise(message.advice);
    Kind::Explained { mood: message.mood, explanation: Box::new(explanation) }
}

/// What the lines so far say about bring-up.
#[derive(Default)]
struct Progress {
    offered: bool,
    initialized: bool,
    problem: Option<(String, String)>,
}

impl Progress {
    fn step(&mut self, step: Step) {
        match step {
            Step::None => {}
            Step::Offered => {
                // A log of several boots: what counts is the last one.
                *self = Self { offered: true, ..Self::default() };
            }
            // What failed before was overcome.
            Step::Initialized => *self = Self { offered: self.offered, initialized: true, problem: None },
        }
    }

    fn see(&mut self, kind: &Kind) {
        if let Kind::Explained { mood: Mood::Problem, explanation } = kind {
            self.problem.get_or_insert_with(|| {
                let advice = explanation.advice.first().cloned().unwrap_or_default();
                // What the status means in this call says more than what it means in general.
                let here = explanation.facts.iter().find(|fact| fact.what == "here");
                let reason = here.map_or(explanation.meaning.as_str(), |fact| fact.text.as_str());
                (format!("{}: {reason}", explanation.headline), advice)
            });
        }
    }

    fn outcome(self) -> Outcome {
        match (self.initialized, self.problem, self.offered) {
            (true, None, _) => Outcome::Initialized,
            (true, Some((sentence, advice)), _) => Outcome::Troubled { sentence, advice },
            (false, Some((sentence, advice)), _) => Outcome::Failed { sentence, advice },
            (false, None, true) => Outcome::Unfinished {
                sentence: "The BIOS offers private KeyIDs, but the log tells neither success nor failure \
                           of bring-up."
                    .to_owned(),
                advice: "Older kernels bring TDX up when kvm_intel is loaded with `tdx=1`: check that. A \
                         SEAMCALL that raises #GP or #UD leaves no line in the log of 6.8 and later, so \
                         check MSR 0x1401 bit 11 too (`tdxhost doctor`)."
                    .to_owned(),
            },
            (false, None, false) => Outcome::Silent,
        }
    }
}

impl Log<'_> {
    /// Every line, in order.
    pub fn entries(&self) -> &[Entry<'_>] {
        &self.entries
    }

    /// What the whole log says.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Prints the lines about TDX with their explanations, or all lines.
    pub fn print(&self, output: &mut Output<'_>, all: bool) -> io::Result<()> {
        let shown = self.entries.iter().filter(|entry| all || entry.kind != Kind::Passed);
        if output.format == Format::Json {
            #[derive(Serialize)]
            struct Document<'a> {
                lines: usize,
                outcome: &'a Outcome,
                entries: Vec<&'a Entry<'a>>,
            }
            let document =
                Document { lines: self.entries.len(), outcome: &self.outcome, entries: shown.collect() };
            return output.document(&document);
        }
        let mut explained: HashMap<&Explanation, usize> = HashMap::new();
        for entry in shown {
            let (tone, explanation) = match &entry.kind {
                Kind::Passed | Kind::Continues { .. } => (Tone::Faint, None),
                Kind::Explained { mood, explanation } => {
                    let tone = match mood {
                        Mood::Good => Tone::Good,
                        Mood::Info => Tone::Strong,
                        Mood::Problem => Tone::Bad,
                    };
                    (tone, Some(explanation.as_ref()))
                }
            };
            let text = output.paint.paint(tone, &printable(entry.text));
            writeln!(output.out, "{}: {text}", entry.line)?;
            if let Some(explanation) = explanation {
                // The same failure is often logged a hundred times.
                if let Some(line) = explained.get(explanation) {
                    writeln!(output.out, "    as line {line}")?;
                } else {
                    explanation.print_text(output, "    ")?;
                    explained.insert(explanation, entry.line);
                }
            }
        }
        self.print_outcome(output)
    }

    fn print_outcome(&self, output: &mut Output<'_>) -> io::Result<()> {
        match &self.outcome {
            Outcome::Initialized => output.paragraph("in short: ", "the TDX module came up."),
            Outcome::Failed { sentence, advice } | Outcome::Unfinished { sentence, advice } => {
                output.paragraph("in short: ", sentence)?;
                output.paragraph("to do:    ", advice)
            }
            Outcome::Troubled { sentence, advice } => {
                output.paragraph("in short: ", &format!("the TDX module came up; later: {sentence}"))?;
                output.paragraph("to do:    ", advice)
            }
            Outcome::Silent => {
                output.paragraph("in short: ", "no line about bring-up of the TDX module.")?;
                output.paragraph("to do:    ", SILENT)
            }
        }
    }
}

/// What to do about a log that says nothing.
const SILENT: &str = "Look whether the log starts at boot. If it does, the kernel has no TDX \
                      (CONFIG_INTEL_TDX_HOST), or the BIOS offers none: turn on TME-MT and TDX in the BIOS; \
                      `tdxhost doctor` checks the machine it runs on.";

/// A line without control characters: a log must not move the cursor of who reads it.
fn printable(text: &str) -> String {
    without_colours(text).chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// One run of a fuzzer: any bytes can be annotated and printed, and every line is accounted for once.
pub fn fuzz_body(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let log = annotate(&text);
    assert_eq!(log.entries().len(), text.lines().count(), "lines were lost or invented");
    for (index, (entry, line)) in log.entries().iter().zip(text.lines()).enumerate() {
        assert_eq!((entry.line, entry.text), (index + 1, line), "lines were mixed up");
        if let Kind::Continues { of } = entry.kind {
            assert!(of < entry.line, "a line continues a later one");
        }
    }
    for format in [Format::Text, Format::Json] {
        let mut sink = io::sink();
        let mut output = Output { out: &mut sink, format, paint: crate::text::Paint::PLAIN };
        log.print(&mut output, true).expect("a sink takes everything");
    }
}
