//! A failed call as words, for cells that CPUs share without a lock.

use tdx_abi::leaf::LeafWord;
use tdx_abi::status::{SeamldrStatus, Status};

use super::{SeamcallCause, SeamcallError};
use crate::traits::SeamcallFault;

const STATUS: u64 = 0;
const LOADER: u64 = 1;
const INVALID_OPCODE: u64 = 2;
const GENERAL_PROTECTION: u64 = 3;
const VM_FAIL_INVALID: u64 = 4;
const GOING_DOWN: u64 = 5;
const DOWN: u64 = 6;
const GONE: u64 = 7;

impl SeamcallError {
    /// Cause, its value, leaf, RCX, RDX.
    pub(crate) const fn to_words(self) -> [u64; 5] {
        let (cause, value) = match self.cause {
            SeamcallCause::Status(status) => (STATUS, status.raw()),
            SeamcallCause::Loader(status) => (LOADER, status.0),
            SeamcallCause::Fault(SeamcallFault::InvalidOpcode) => (INVALID_OPCODE, 0),
            SeamcallCause::Fault(SeamcallFault::GeneralProtection) => (GENERAL_PROTECTION, 0),
            SeamcallCause::Fault(SeamcallFault::VmFailInvalid) => (VM_FAIL_INVALID, 0),
            SeamcallCause::GoingDown => (GOING_DOWN, 0),
            SeamcallCause::Down => (DOWN, 0),
            SeamcallCause::Gone => (GONE, 0),
        };
        [cause, value, self.leaf.raw(), self.rcx, self.rdx]
    }

    /// The failure of [`Self::to_words`].
    pub(crate) const fn from_words([cause, value, leaf, rcx, rdx]: [u64; 5]) -> Self {
        let cause = match cause {
            LOADER => SeamcallCause::Loader(SeamldrStatus(value)),
            INVALID_OPCODE => SeamcallCause::Fault(SeamcallFault::InvalidOpcode),
            GENERAL_PROTECTION => SeamcallCause::Fault(SeamcallFault::GeneralProtection),
            VM_FAIL_INVALID => SeamcallCause::Fault(SeamcallFault::VmFailInvalid),
            GOING_DOWN => SeamcallCause::GoingDown,
            DOWN => SeamcallCause::Down,
            GONE => SeamcallCause::Gone,
            _ => SeamcallCause::Status(Status::from_raw(value)),
        };
        Self { leaf: LeafWord::from_raw(leaf), cause, rcx, rdx }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_every_cause() {
        let causes = [
            SeamcallCause::Status(Status::from_raw(0x8000_0512_0003_0000)),
            SeamcallCause::Loader(SeamldrStatus::ENOENTROPY),
            SeamcallCause::Fault(SeamcallFault::InvalidOpcode),
            SeamcallCause::Fault(SeamcallFault::GeneralProtection),
            SeamcallCause::Fault(SeamcallFault::VmFailInvalid),
            SeamcallCause::GoingDown,
            SeamcallCause::Down,
            SeamcallCause::Gone,
        ];
        for cause in causes {
            let error = SeamcallError { leaf: LeafWord::from_raw(0x1_0035), cause, rcx: 7, rdx: 1 };
            assert_eq!(SeamcallError::from_words(error.to_words()), error);
        }
    }
}
