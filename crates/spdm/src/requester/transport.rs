//! Who moves the objects, and the loop that drives a requester over it.

use alloc::vec::Vec;
use core::time::Duration;

use super::{Operation, Outcome, Progress, Requester, RequesterError};
use crate::Kind;

/// Why an object did not get to the other side, or no answer came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportFailure {
    /// No answer in the time that the transport allows.
    #[error("no answer came")]
    Silence,
    /// The mailbox reports an error, or gave something that is no data object.
    #[error("the DOE mailbox reports an error")]
    DoeError,
    /// The exchange was broken off.
    #[error("the exchange was aborted")]
    Aborted,
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
    /// The object is larger than the transport carries.
    #[error("the object is too large for the transport")]
    TooLarge,
}

/// Carries one object there and one back.
pub trait Transport {
    /// Sends the payload of an object and waits for the answer's; padding may stay on it.
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), TransportFailure>;

    /// Lets time pass before a request is repeated.
    fn wait(&mut self, time: Duration);

    /// The time, since 1970-01-01 00:00 UTC.
    fn now(&mut self) -> Duration;
}

/// Carries out `operation` to its end.
///
/// # Errors
/// As of [`Requester::start`] and [`Requester::receive`].
pub fn drive(
    requester: &mut Requester,
    operation: Operation,
    transport: &mut dyn Transport,
) -> Result<Outcome, RequesterError> {
    requester.start(operation)?;
    loop {
        let out = requester.transmit().ok_or(RequesterError::Idle)?;
        let (kind, payload) = match transport.exchange(out.kind, &out.payload) {
            Ok(answer) => answer,
            Err(failure) => return Err(requester.fail(failure)),
        };
        match requester.receive(kind, &payload, transport.now())? {
            Progress::More => {}
            Progress::RetryAfter(time) => transport.wait(time),
            Progress::Done(outcome) => return Ok(outcome),
        }
    }
}
