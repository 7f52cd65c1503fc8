//! Devices that bend their responses: what is wrong is named, and the next session works.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::bench::Bench;
use crate::msg::ResponseCode;
use crate::requester::{Blame, Operation, RequesterError};
use crate::responder::Stage;

/// What is bent.
pub(super) type Bend = fn(&mut Vec<u8>);

/// Whether the error is the expected one.
pub(super) type Expected = fn(&RequesterError) -> bool;

/// Runs the operations against a device that bends every response at that stage.
pub(super) fn refused(stage: Stage, bend: Bend, operations: &[Operation]) -> RequesterError {
    let mut bench = Bench::new();
    bench.line.device.bend = Box::new(move |at, bytes| {
        if at == stage {
            bend(bytes);
        }
    });
    let error = bench.run_all(operations.to_vec()).unwrap_err();
    bench.works_again();
    error
}

pub(super) fn check(stage: Stage, operations: &[Operation], cases: &[(&str, Bend, Expected)]) {
    for (what, bend, expected) in cases {
        let error = refused(stage, *bend, operations);
        assert!(expected(&error), "{what}: {error:?}");
        assert_eq!(error.blame(), Blame::Responder, "{what}");
    }
}

pub(super) const fn sealed(code: ResponseCode) -> Stage {
    Stage::BeforeSeal(code)
}

pub(super) fn is_decode(error: &RequesterError) -> bool {
    matches!(error, RequesterError::Decode { .. })
}

pub(super) fn last_mut(bytes: &mut [u8], from_the_end: usize) -> &mut u8 {
    let len = bytes.len();
    &mut bytes[len - from_the_end]
}
