//! How a command prints: form, colour, numbers and wrapped paragraphs.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};

/// Columns of a wrapped paragraph.
const WIDTH: usize = 100;

/// What a command prints its facts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

/// What a piece of text stands for; the colour follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// A failure.
    Bad,
    /// Not known, or worth a look.
    Doubtful,
    /// A heading.
    Strong,
    /// Of less interest.
    Faint,
}

impl Paint {
    /// No colours.
    pub const PLAIN: Self = Self { on: false };

    /// Colours if standard output is a terminal and `NO_COLOR` is unset or empty.
    pub fn for_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { on: !refused && io::stdout().is_terminal() }
    }

    /// Colours always: for tests of what they look like.
    pub const fn always() -> Self {
        Self { on: true }
    }

    /// `text` in the colour of `tone`.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31;1",
            Tone::Doubtful => "33",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A stream whose reader may go away: what is left to write is dropped, and the work goes on.
#[derive(Debug)]
pub struct Unheard<W>(pub W);

impl<W: Write> Write for Unheard<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// Where a command writes, and how.
pub struct Output<'a> {
    /// The stream.
    pub out: &'a mut dyn Write,
    /// The form.
    pub format: Format,
    /// The colours.
    pub paint: Paint,
}

impl<'a> Output<'a> {
    /// Standard output of a command with or without `--json`.
    pub fn of_command(out: &'a mut dyn Write, json: bool) -> Self {
        let format = if json { Format::Json } else { Format::Text };
        Self { out, format, paint: Paint::for_stdout() }
    }

    /// Plain text on `out`.
    pub fn plain(out: &'a mut dyn Write) -> Self {
        Self { out, format: Format::Text, paint: Paint::PLAIN }
    }

    /// A JSON document on `out`.
    pub fn json(out: &'a mut dyn Write) -> Self {
        Self { out, format: Format::Json, paint: Paint::PLAIN }
    }

    /// Writes `document` and a newline.
    pub fn document(&mut self, document: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *self.out, document)?;
        writeln!(self.out)
    }

    /// Writes `text` wrapped, with `label` in front of the first line and the others indented as far.
    pub fn paragraph(&mut self, label: &str, text: &str) -> io::Result<()> {
        let indent = label.chars().count();
        for (number, line) in wrap(text, WIDTH.saturating_sub(indent)).into_iter().enumerate() {
            if number == 0 {
                writeln!(self.out, "{label}{line}")?;
            } else {
                writeln!(self.out, "{:indent$}{line}", "")?;
            }
        }
        Ok(())
    }
}

/// The beginning of a text from outside, for messages: one line, and not all of a large file.
pub fn glimpse(text: &str) -> String {
    const MOST: usize = 40;
    let mut shown: String = text.chars().take(MOST).collect::<String>().escape_debug().collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

/// `text` cut at spaces into lines of at most `width` characters, longer words left whole.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > width {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += word_length;
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// A 64-bit word as the documents print it: `0x` and sixteen digits. JSON has no exact 64-bit numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Word(pub u64);

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl serde::Serialize for Word {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The name that somebody who wrote `word` probably meant: a third of it may be wrong.
pub fn nearest(word: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let letters = word.chars().count();
    names
        .map(|name| (distance(word, name), name))
        .filter(|&(wrong, _)| wrong * 3 <= letters)
        .min_by_key(|&(wrong, _)| wrong)
        .map(|(_, name)| name)
}

/// Letters to change, add or remove until `a` is `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (above, x) in a.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        let mut next = vec![left];
        for (y, &up) in b.chars().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(x != y)).min(up + 1).min(left + 1);
            next.push(left);
            diagonal = up;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// A size of memory in words, rounded to what people say.
pub fn gib(bytes: u64) -> String {
    let gib = (bytes >> 30) + (bytes >> 29 & 1);
    if gib >= 4096 && gib.is_multiple_of(1024) { format!("{} TiB", gib / 1024) } else { format!("{gib} GiB") }
}

/// `1 byte`, `2 bytes`.
pub fn plural(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// Why a word of the command line is no number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    /// No digits, or something else than digits.
    #[error("`{0}` is no number: write it in decimal, or in hexadecimal with 0x in front")]
    Malformed(String),
    /// More than 64 bits.
    #[error("`{0}` does not fit into 64 bits")]
    TooLarge(String),
}

/// Reads a number: decimal, or hexadecimal after `0x`; `_` between digits is ignored.
pub fn number(word: &str) -> Result<u64, NumberError> {
    let malformed = || NumberError::Malformed(word.to_owned());
    let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None => (word, 10),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return Err(malformed());
    }
    let mut value = 0_u64;
    for c in digits.chars().filter(|&c| c != '_') {
        let digit = c.to_digit(radix).ok_or_else(malformed)?;
        value = value
            .checked_mul(u64::from(radix))
            .and_then(|value| value.checked_add(u64::from(digit)))
            .ok_or_else(|| NumberError::TooLarge(word.to_owned()))?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_unless_written_0x() {
        assert_eq!(number("33"), Ok(33));
        assert_eq!(number("0x21"), Ok(33));
        assert_eq!(number("0xc0000921_00000122"), Ok(0xc000_0921_0000_0122));
        assert_eq!(number("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn a_malformed_number_is_named() {
        for word in ["", "0x", "c0000921", "0xg", "-5", "_1", "1 2", "0x_1"] {
            assert_eq!(number(word), Err(NumberError::Malformed(word.to_owned())), "{word:?}");
        }
        for word in ["18446744073709551616", "0x10000000000000000"] {
            assert_eq!(number(word), Err(NumberError::TooLarge(word.to_owned())));
        }
    }

    #[test]
    fn the_nearest_name_is_near() {
        let names = || ["no-tdx", "no-vmx", "too-few-keyids"].into_iter();
        assert_eq!(nearest("no-txd", names()), Some("no-tdx"));
        assert_eq!(nearest("to-few-keyid", names()), Some("too-few-keyids"));
        assert_eq!(nearest("nonsense", names()), None);
        assert_eq!(nearest("", names()), None);
    }

    #[test]
    fn sizes_are_rounded_and_things_are_counted() {
        assert_eq!(gib(4_118_409_216), "4 GiB");
        assert_eq!(gib(24 << 40), "24 TiB");
        assert_eq!(gib(u64::MAX), "16777216 TiB");
        assert_eq!(plural(1, "package"), "1 package");
        assert_eq!(plural(0, "package"), "0 packages");
    }

    #[test]
    fn paragraphs_are_wrapped_at_spaces_only() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("a-very-long-word b", 4), ["a-very-long-word", "b"]);
        assert!(wrap("  ", 4).is_empty());
    }

    #[test]
    fn plain_paint_adds_nothing() {
        assert_eq!(Paint::PLAIN.paint(Tone::Bad, "x"), "x");
        assert_eq!(Paint::always().paint(Tone::Good, "x"), "\x1b[32mx\x1b[0m");
    }
}
