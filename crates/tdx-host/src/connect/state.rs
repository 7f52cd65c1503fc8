//! Whether Connect works, as words that readers take without a lock.

use core::fmt;

use super::ConnectError;
use super::error::WORDS;
use crate::sync::SeqCell;

/// Whether TDX Connect works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectState {
    /// It does not, and can in this boot only if the reason is that nobody took IOMMUs into service yet.
    Off(ConnectError),
    /// It works.
    On,
    /// It worked, until an update of the module. Devices that were connected are lost; TDX goes on.
    Dead(ConnectError),
}

impl ConnectState {
    /// True if devices can be connected.
    pub const fn is_on(&self) -> bool {
        matches!(self, Self::On)
    }

    /// Why they cannot.
    pub const fn reason(&self) -> Option<ConnectError> {
        match self {
            Self::Off(reason) | Self::Dead(reason) => Some(*reason),
            Self::On => None,
        }
    }

    /// One word for tables and documents.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Off(_) => "off",
            Self::On => "on",
            Self::Dead(_) => "dead",
        }
    }
}

impl fmt::Display for ConnectState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => f.write_str("on"),
            Self::Off(reason) => write!(f, "off: {reason}"),
            Self::Dead(reason) => write!(f, "dead: {reason}"),
        }
    }
}

const OFF: u64 = 0;
const ON: u64 = 1;
const DEAD: u64 = 2;

/// A [`ConnectState`] that is never seen torn.
#[derive(Debug, Default)]
pub(crate) struct StateCell(SeqCell<{ WORDS + 1 }>);

impl StateCell {
    pub(crate) const fn new() -> Self {
        Self(SeqCell::new())
    }

    pub(crate) fn set(&self, state: ConnectState) {
        let kind = match state {
            ConnectState::Off(_) => OFF,
            ConnectState::On => ON,
            ConnectState::Dead(_) => DEAD,
        };
        let mut words = [kind; WORDS + 1];
        if let (Some(reason), Some(place)) = (state.reason(), words.get_mut(1..)) {
            place.copy_from_slice(&reason.to_words());
        }
        self.0.publish(&words);
    }

    pub(crate) fn get(&self) -> ConnectState {
        let Some([kind, words @ ..]) = self.0.read() else {
            return ConnectState::Off(ConnectError::NotTried);
        };
        let reason = ConnectError::from_words(words);
        match kind {
            ON => ConnectState::On,
            DEAD => ConnectState::Dead(reason),
            _ => ConnectState::Off(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_keeps_state_and_reason() {
        let cell = StateCell::new();
        assert_eq!(cell.get(), ConnectState::Off(ConnectError::NotTried));
        let reason = ConnectError::PoolTooSmall { pages: 7 };
        for state in [ConnectState::On, ConnectState::Off(reason), ConnectState::Dead(reason)] {
            cell.set(state);
            assert_eq!(cell.get(), state);
            assert_eq!((state.is_on(), state.reason().is_none()), (state.name() == "on", state.is_on()));
        }
    }
}
