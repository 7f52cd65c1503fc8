//! Names of the check rows: what each leaf refuses, in the order in which it looks.

pub(crate) use crate::generated::rows::Switch;
use crate::generated::rows::{ROWS, UNREACHABLE};

/// One thing that a leaf refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckRow {
    /// Permanent name, such as "TDH.SYS.CONFIG-13".
    pub id: &'static str,
    /// When the row answers.
    pub condition: &'static str,
    /// What it answers.
    pub result: &'static str,
    /// Releases that have the row, if not all.
    pub since: Option<&'static str>,
    /// How well the row is known.
    pub mark: Mark,
    /// A profile lists the row if it has it, and a configuration can turn it on or off.
    pub switch: bool,
}

/// How well a row is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// From the source of a release.
    Certain,
    /// Follows from neighbouring facts.
    Inferred,
    /// Chosen by this project.
    Assumed,
    /// Belongs to a release that does not exist.
    Synthetic,
}

/// A row that no caller can reach in this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreachableRow {
    /// Its name.
    pub id: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// All rows, leaf by leaf, in the order of evaluation.
pub fn rows() -> &'static [CheckRow] {
    ROWS
}

/// Rows that cannot be reached, and why.
pub fn unreachable() -> &'static [UnreachableRow] {
    UNREACHABLE
}

/// The row that `id` names. A letter at the end names one condition of a row with several.
pub fn find(id: &str) -> Option<&'static CheckRow> {
    let row = |id: &str| ROWS.iter().find(|row| row.id == id);
    row(id).or_else(|| row(id.strip_suffix(|letter: char| letter.is_ascii_lowercase())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_names_a_condition_of_its_row() {
        assert_eq!(find("TDH.SYS.LP.INIT-6c").map(|row| row.id), Some("TDH.SYS.LP.INIT-6"));
        assert_eq!(find("TDH.SYS.LP.INIT-6"), find("TDH.SYS.LP.INIT-6a"));
        assert_eq!(find("TDH.SYS.LP.INIT-99"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn every_switch_is_a_row_that_says_so() {
        for (id, _) in Switch::ALL {
            assert!(find(id).is_some_and(|row| row.switch), "{id}");
        }
        assert_eq!(ROWS.iter().filter(|row| row.switch).count(), Switch::ALL.len());
    }
}
