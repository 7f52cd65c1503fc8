use crate::algo::Suite;
use crate::ids::Version;

/// What a connection has agreed on, as far as the layout of messages depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Version of all messages.
    pub version: Version,
    /// Sizes of digests, signatures and exchanged values.
    pub suite: Suite,
    /// `HANDSHAKE_IN_THE_CLEAR_CAP` of both sides: moves the verification data of the responder from
    /// `KEY_EXCHANGE_RSP` to `FINISH_RSP`.
    pub handshake_in_clear: bool,
}

impl Layout {
    /// The layout of a connection whose handshakes are encrypted, as DOE wants them.
    pub const fn new(version: Version, suite: Suite) -> Self {
        Self { version, suite, handshake_in_clear: false }
    }

    /// Size of a digest in bytes.
    pub const fn digest(&self) -> usize {
        self.suite.digest_size()
    }

    /// Size of a signature of the responder in bytes.
    pub const fn signature(&self) -> usize {
        self.suite.signature_size()
    }

    /// Size of an exchanged value in bytes.
    pub const fn exchange(&self) -> usize {
        self.suite.exchange_size()
    }
}
