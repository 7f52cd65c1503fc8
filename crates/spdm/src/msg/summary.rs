use crate::wire::DecodeError;

/// Which measurements a `CHALLENGE` or `KEY_EXCHANGE` wants summarised in the response
/// (`HashType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SummaryHash {
    /// None; the response has no such field.
    #[default]
    None,
    /// Those of the trusted computing base.
    Tcb,
    /// All.
    All,
}

impl SummaryHash {
    /// Whether the response has the field.
    pub const fn is_asked(self) -> bool {
        !matches!(self, Self::None)
    }

    /// The code on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Tcb => 1,
            Self::All => 0xff,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<Self, DecodeError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Tcb),
            0xff => Ok(Self::All),
            _ => Err(DecodeError::Value { field: "MeasurementSummaryHashType", value: code.into() }),
        }
    }
}
