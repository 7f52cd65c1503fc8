//! `coverage`: writes `docs/coverage.md`, leaf × check row × test; `coverage --check` compares, and
//! fails for a row that has neither a test nor a reason why it cannot be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

const DOCUMENT: &str = "docs/coverage.md";
const SPEC: &str = "crates/tdx-module/spec";
/// Where tests name rows.
const TESTS: [&str; 3] = ["crates/tdx-module/tests", "crates/tdx-module/src", "tests/tests"];

#[derive(Deserialize)]
struct Checks {
    row: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    condition: String,
    result: String,
    since: Option<String>,
    mark: Option<String>,
}

#[derive(Deserialize)]
struct Unreachable {
    #[serde(default)]
    row: Vec<UnreachableRow>,
}

#[derive(Deserialize)]
struct UnreachableRow {
    id: String,
    reason: String,
}

/// What the tests say of one row.
#[derive(Default)]
struct Evidence {
    /// Tests (or tables of tests) that name the row.
    tests: BTreeSet<String>,
    /// Rows that this one is shown to answer before.
    before: BTreeSet<String>,
}

/// Writes the document.
pub(crate) fn write(root: &Path) -> Result<()> {
    let (text, _) = document(root)?;
    let path = root.join(DOCUMENT);
    std::fs::create_dir_all(root.join("docs"))?;
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Fails if the document is stale or a row has neither test nor reason.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (text, bare) = document(root)?;
    if let Some(id) = bare.first() {
        bail!("{id} has neither a test nor a reason in {SPEC}/unreachable.toml ({} such rows)", bare.len());
    }
    if std::fs::read_to_string(root.join(DOCUMENT)).ok().as_deref() != Some(text.as_str()) {
        bail!("{DOCUMENT} is stale: run `cargo xtask coverage`");
    }
    Ok(())
}

/// The document, and the rows without test and reason.
fn document(root: &Path) -> Result<(String, Vec<String>)> {
    let checks: Checks = read(&root.join(SPEC).join("checks.toml"))?;
    let unreachable: Unreachable = read(&root.join(SPEC).join("unreachable.toml"))?;
    let reasons: BTreeMap<&str, &str> =
        unreachable.row.iter().map(|row| (row.id.as_str(), row.reason.as_str())).collect();
    let ids: BTreeSet<&str> = checks.row.iter().map(|row| row.id.as_str()).collect();
    let evidence = evidence(root, &ids)?;

    let mut leaves: Vec<(&str, Vec<&Row>)> = Vec::new();
    for row in &checks.row {
        let leaf = row.id.rsplit_once('-').map_or(row.id.as_str(), |(leaf, _)| leaf);
        match leaves.last_mut() {
            Some((name, rows)) if *name == leaf => rows.push(row),
            _ => leaves.push((leaf, vec![row])),
        }
    }
    let bare: Vec<String> = checks
        .row
        .iter()
        .filter(|row| !evidence.contains_key(row.id.as_str()) && !reasons.contains_key(row.id.as_str()))
        .map(|row| row.id.clone())
        .collect();

    let mut text = String::from(
        "# Check rows and their tests\n\n\
         Written by `cargo xtask coverage` from `crates/tdx-module/spec/checks.toml` and the tests that name\n\
         the rows. Rows stand in the order in which a leaf looks; numbers are permanent names. \"Tests\" names\n\
         tests and the tables that tests go through. \"Before\" names\n\
         the rows that a test violates together with this one to show that this one answers.\n\n",
    );
    let tested = checks.row.iter().filter(|row| evidence.contains_key(row.id.as_str())).count();
    writeln!(
        text,
        "{tested} of {} rows have a test, {} cannot be reached, {} have neither.\n",
        checks.row.len(),
        checks.row.iter().filter(|row| reasons.contains_key(row.id.as_str())).count(),
        bare.len()
    )?;
    for (leaf, rows) in leaves {
        writeln!(text, "## {leaf}\n\n| Row | Refuses | Answer | Tests | Before |\n|---|---|---|---|---|")?;
        for row in rows {
            write_row(&mut text, row, evidence.get(row.id.as_str()), reasons.get(row.id.as_str()).copied())?;
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok((text, bare))
}

fn write_row(text: &mut String, row: &Row, evidence: Option<&Evidence>, reason: Option<&str>) -> Result<()> {
    let number = row.id.rsplit_once('-').map_or(row.id.as_str(), |(_, number)| number);
    let mut condition = row.condition.clone();
    if let Some(since) = &row.since {
        write!(condition, " ({since})")?;
    }
    if let Some(mark) = row.mark.as_deref().filter(|&mark| mark != "certain") {
        write!(condition, " *{mark}*")?;
    }
    let tests = match (evidence, reason) {
        (Some(evidence), _) => {
            evidence.tests.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join("<br>")
        }
        (None, Some(reason)) => format!("cannot be reached: {reason}"),
        (None, None) => "**none**".into(),
    };
    let before = evidence.map_or_else(String::new, |evidence| {
        let shorten = |id: &String| id.rsplit_once('-').map_or(id.clone(), |(_, number)| number.to_owned());
        evidence.before.iter().map(shorten).collect::<Vec<_>>().join(", ")
    });
    let cell = |text: &str| text.replace('|', "\\|");
    writeln!(
        text,
        "| {number} | {} | `{}` | {} | {before} |",
        cell(&condition),
        cell(&row.result),
        cell(&tests)
    )?;
    Ok(())
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

/// Collects the rows that string literals of the tests name.
fn evidence(root: &Path, ids: &BTreeSet<&str>) -> Result<BTreeMap<String, Evidence>> {
    let mut found: BTreeMap<String, Evidence> = BTreeMap::new();
    for directory in TESTS {
        let directory = root.join(directory);
        for file in rust_files(&directory)? {
            let text = std::fs::read_to_string(&file)?;
            let Some(tests) = test_part(&file, root, &text) else { continue };
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let mut item = String::new();
            for line in tests.lines() {
                if let Some(name) = item_name(line) {
                    item = format!("{stem}::{name}");
                }
                for literal in literals(line) {
                    // The message of an assertion may go on after the name.
                    let names = literal.split(": ").next().unwrap_or(literal);
                    let rows: Vec<&str> = names.split(" before ").filter_map(|id| row_of(id, ids)).collect();
                    for row in &rows {
                        found.entry((*row).to_owned()).or_default().tests.insert(item.clone());
                    }
                    if let [upper, lower] = rows[..] {
                        found.entry(upper.to_owned()).or_default().before.insert(lower.to_owned());
                    }
                }
            }
        }
    }
    Ok(found)
}

/// The part of a file that is tests: all of it, or from `#[cfg(test)]` on under `src`.
fn test_part<'a>(file: &Path, root: &Path, text: &'a str) -> Option<&'a str> {
    let inside = file.strip_prefix(root).unwrap_or(file);
    if inside.starts_with("crates/tdx-module/src") {
        return text.find("#[cfg(test)]").map(|start| &text[start..]);
    }
    Some(text)
}

fn rust_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(directory) = waiting.pop() {
        if !directory.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Name of the function, constant or static that starts on `line`.
fn item_name(line: &str) -> Option<&str> {
    let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
    let rest = ["fn ", "const ", "static "].iter().find_map(|keyword| line.strip_prefix(keyword))?;
    let end = rest.find(|letter: char| !(letter.is_alphanumeric() || letter == '_'))?;
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

/// The string literals on `line`, without regard to escapes: row names have none.
fn literals(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2)
}

/// The row that `id` names: itself, or without the letter of a macro (`-1/e`), the release
/// (`-8@1.5.05`) or the letter of a condition (`-6c`).
fn row_of<'a>(id: &str, ids: &BTreeSet<&'a str>) -> Option<&'a str> {
    let base = id.split(['/', '@']).next().unwrap_or(id);
    let plain = base.strip_suffix(|letter: char| letter.is_ascii_lowercase());
    [Some(id), Some(base), plain].into_iter().flatten().find_map(|id| ids.get(id).copied())
}
