//! Wrong objects, and none at all.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::bench::{Bench, start_session, until_session};
use super::bending::Expected;
use crate::Kind;
use crate::msg::{ErrorCode, SummaryHash};
use crate::requester::{Blame, Operation, RequesterError, TransportFailure};

/// What happens to the answer of an exchange.
type Tamper = fn(&mut Kind, &mut Vec<u8>) -> Result<(), TransportFailure>;

/// The number of the exchange of `FINISH`; that of `HEARTBEAT` follows.
fn first_secured(bench: &mut Bench) -> usize {
    bench.run_all(until_session().into_iter().take(3)).unwrap();
    bench.line.exchanges + 1
}

#[test]
fn secured_messages_must_be_the_next_ones_of_their_session() {
    let cases: [(&str, Tamper, Expected); 6] = [
        (
            "another session",
            |_, object| {
                object[0] ^= 1;
                Ok(())
            },
            |error| matches!(error, RequesterError::WrongSession { .. }),
        ),
        (
            "another length",
            |_, object| {
                object[4] ^= 1;
                Ok(())
            },
            |error| matches!(error, RequesterError::Open { .. }),
        ),
        (
            "another byte",
            |_, object| {
                object[8] ^= 1;
                Ok(())
            },
            |error| matches!(error, RequesterError::Open { .. }),
        ),
        (
            "an error in the clear",
            |kind, object| {
                *kind = Kind::Clear;
                *object = vec![0x13, 0x7f, 6, 0];
                Ok(())
            },
            |error| matches!(error, RequesterError::SessionLost { code: ErrorCode::DECRYPT_ERROR, .. }),
        ),
        (
            "an answer in the clear",
            |kind, object| {
                *kind = Kind::Clear;
                *object = vec![0x13, 0x65, 0, 0];
                Ok(())
            },
            |error| matches!(error, RequesterError::WrongKind { .. }),
        ),
        (
            "nothing",
            |_, object| {
                object.clear();
                Ok(())
            },
            |error| matches!(error, RequesterError::Open { .. }),
        ),
    ];
    for behind in [0, 1] {
        for (what, tamper, expected) in cases {
            let mut bench = Bench::new();
            let at = first_secured(&mut bench) + behind;
            bench.line.tamper = Box::new(
                move |number, kind, object| {
                    if number == at { tamper(kind, object) } else { Ok(()) }
                },
            );
            let operations = [start_session(SummaryHash::None), Operation::Heartbeat];
            let error = bench.run_all(operations).unwrap_err();
            assert!(expected(&error), "{what}: {error:?}");
            assert_eq!(error.blame(), Blame::Responder);
            bench.works_again();
        }
    }
}

#[test]
fn a_secured_answer_to_a_request_in_the_clear_is_refused() {
    let mut bench = Bench::new();
    bench.line.tamper = Box::new(|_, kind, _| {
        *kind = Kind::Secured;
        Ok(())
    });
    assert!(matches!(bench.session(), Err(RequesterError::WrongKind { .. })));
    bench.works_again();
}

#[test]
fn a_replayed_answer_is_no_answer() {
    let mut bench = Bench::new();
    bench.session().unwrap();
    let mut kept: Option<Vec<u8>> = None;
    bench.line.tamper = Box::new(move |_, _, object| {
        match &kept {
            Some(old) => object.clone_from(old),
            None => kept = Some(object.clone()),
        }
        Ok(())
    });
    bench.run(Operation::Heartbeat).unwrap();
    assert!(matches!(bench.run(Operation::Heartbeat), Err(RequesterError::Open { .. })));
    bench.works_again();
}

#[test]
fn silence_and_errors_of_the_line_are_named_at_every_message() {
    for failure in [TransportFailure::Silence, TransportFailure::DoeError, TransportFailure::Closed] {
        let mut number = 0;
        loop {
            let mut bench = Bench::new();
            bench.line.tamper = Box::new(move |at, _, _| if at == number { Err(failure) } else { Ok(()) });
            let operations = until_session().into_iter().chain([Operation::Heartbeat]);
            let Err(error) = bench.run_all(operations) else { break };
            assert!(matches!(error, RequesterError::Transport { failure: found, .. } if found == failure));
            assert_eq!(error.blame(), Blame::Transport);
            bench.works_again();
            number += 1;
        }
        assert_eq!(number, 9, "every message was tried");
    }
}
