/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends inside a field.
    #[error("the message ends in {field}: {needed} bytes needed, {left} left")]
    Truncated {
        /// The field.
        field: &'static str,
        /// Its size.
        needed: usize,
        /// What was there.
        left: usize,
    },
    /// Bytes follow behind the message.
    #[error("{extra} bytes follow behind the message")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A reserved field or bit is set.
    #[error("reserved {field} is {value:#x}, not 0")]
    Reserved {
        /// The field.
        field: &'static str,
        /// What stands in it.
        value: u64,
    },
    /// A field has a value that it must not have.
    #[error("{field} must not be {value:#x}")]
    Value {
        /// The field.
        field: &'static str,
        /// What stands in it.
        value: u64,
    },
    /// A length does not agree with another one, or exceeds its limit.
    #[error("{field} of {value} bytes does not fit {limit}")]
    Length {
        /// The field.
        field: &'static str,
        /// The length found.
        value: usize,
        /// The length allowed or expected.
        limit: usize,
    },
    /// The version is not the one of the connection.
    #[error("SPDM version {found:#x}, not {expected:#x}")]
    Version {
        /// In the message.
        found: u8,
        /// Of the connection.
        expected: u8,
    },
    /// The request or response code is another one.
    #[error("message code {found:#x}, not {expected:#x}")]
    Code {
        /// In the message.
        found: u8,
        /// Expected here.
        expected: u8,
    },
    /// The code belongs to no message that is known.
    #[error("message code {0:#x} is not known")]
    UnknownCode(u8),
    /// The size of the message depends on algorithms that are not agreed on yet.
    #[error("message code {0:#x} before algorithms are agreed on")]
    NoAlgorithms(u8),
}
