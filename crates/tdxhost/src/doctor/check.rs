//! What one check says.

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As expected.
    Ok,
    /// Not as expected: TDX does not work, or not fully, because of it.
    Failed,
    /// It could not be looked at.
    Unknown,
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub id: &'static str,
    /// Result.
    pub state: State,
    /// Name of what is wrong, where one exists: `tdxhost explain error NAME` tells more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// What was seen.
    pub seen: String,
    /// What a TDX host has.
    pub expected: &'static str,
    /// What to do; nothing if all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    /// A check that saw what it expects.
    pub fn ok(id: &'static str, expected: &'static str, seen: impl Into<String>) -> Self {
        Self { id, state: State::Ok, reason: None, seen: seen.into(), expected, advice: None }
    }

    /// A check that saw something else.
    pub fn failed(
        id: &'static str,
        expected: &'static str,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            id,
            state: State::Failed,
            reason: None,
            seen: seen.into(),
            expected,
            advice: Some(advice.into()),
        }
    }

    /// A check that could not look.
    pub fn unknown(
        id: &'static str,
        expected: &'static str,
        seen: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            id,
            state: State::Unknown,
            reason: None,
            seen: seen.into(),
            expected,
            advice: Some(advice.into()),
        }
    }

    /// The check with the name of what is wrong.
    #[must_use]
    pub fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }
}
