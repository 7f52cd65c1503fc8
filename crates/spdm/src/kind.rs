use core::fmt;

/// How a message travels: which type its DOE object is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// In the clear: DOE type 1. Up to three zero bytes may follow the message.
    Clear,
    /// A secured message of a session: DOE type 2. Up to three zero bytes may follow it.
    Secured,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clear => "in the clear",
            Self::Secured => "secured",
        })
    }
}
