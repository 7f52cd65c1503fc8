//! Somebody on the link.

use pcie::cap::Aer;
use proptest::prelude::*;

use super::*;
use crate::StreamEnd;
use crate::ide::Packet;

fn attack(machine: &Machine, direction: LinkDirection, after: u32, action: LinkMove) {
    machine.attack_link(PORT, LinkAttack { direction, after, action }).expect("a port");
}

/// Which end has noticed.
fn noticed(machine: &Machine) -> Option<StreamEnd> {
    machine.log().iter().find_map(|event| match event {
        Event::StreamFailed { noticed_by, .. } => Some(*noticed_by),
        _ => None,
    })
}

#[test]
fn whatever_is_done_to_a_packet_of_a_secure_stream_ends_the_stream_at_both_ends() {
    for (direction, end) in
        [(LinkDirection::Down, StreamEnd::Device), (LinkDirection::Up, StreamEnd::RootPort)]
    {
        for action in [
            LinkMove::Drop,
            LinkMove::Replay,
            LinkMove::Reorder,
            LinkMove::Flip { bit: 0x1000 },
            LinkMove::Flip { bit: 20 * 8 },
        ] {
            let machine = machine();
            secure(&machine);
            write(&machine, SCRATCH, 1);
            attack(&machine, direction, 0, action.clone());
            // A packet that is missing is missed by the next one.
            for _ in 0..2 {
                read(&machine, SCRATCH);
            }
            assert!(insecure(&machine), "{direction:?} {action:?}");
            assert_eq!(noticed(&machine), Some(end), "{direction:?} {action:?}");
            let (detects, told) = match end {
                StreamEnd::Device => (DEVICE, PORT),
                StreamEnd::RootPort => (PORT, DEVICE),
            };
            let failed =
                |id| Aer::uncorrectable(&Config(&machine, id)).map(|errors| errors.ide_check_failed());
            assert_eq!((failed(detects), failed(told)), (Some(true), Some(false)), "{action:?}");
            assert!(Config(&machine, told).fail_message() && !Config(&machine, detects).fail_message());
        }
    }
}

#[test]
fn in_the_clear_nobody_notices() {
    let machine = machine();
    write(&machine, SCRATCH, 0xff00);
    attack(&machine, LinkDirection::Up, 0, LinkMove::Flip { bit: 0 });
    assert_eq!(read(&machine, SCRATCH), 0xff01);
    attack(&machine, LinkDirection::Down, 0, LinkMove::Drop);
    write(&machine, SCRATCH, 1);
    assert_eq!(read(&machine, SCRATCH), 0xff00);
    assert!(!has_failed(&machine));
}

#[test]
fn a_packet_that_was_recorded_opens_once() {
    let machine = machine();
    secure(&machine);
    machine.watch_link(PORT, true);
    write(&machine, SCRATCH, 1);
    let (_, recorded) = machine.watched_packets(PORT).remove(0);
    write(&machine, SCRATCH, 2);
    attack(&machine, LinkDirection::Down, 0, LinkMove::Inject(Box::new(recorded)));
    write(&machine, SCRATCH, 3);
    assert!(insecure(&machine));
    machine.watch_link(PORT, false);
    assert_eq!(read(&machine, SCRATCH), 2, "the first value has not come back");
    assert!(machine.watched_packets(PORT).is_empty());
}

#[test]
fn a_fail_message_that_nobody_sent_ends_the_stream_where_it_arrives() {
    let machine = machine();
    secure(&machine);
    let forged = LinkMove::Inject(Box::new(Packet::FailMessage(STREAM)));
    attack(&machine, LinkDirection::Up, 0, forged);
    read(&machine, SCRATCH);
    assert_eq!(Config(&machine, PORT).state(), StreamState::INSECURE);
    let status = Config(&machine, PORT).block().status();
    assert!(Config(&machine, PORT).fail_message());
    Config(&machine, PORT).write(status, 1 << 31);
    assert!(!Config(&machine, PORT).fail_message(), "software clears it");
}

#[test]
fn an_unprotected_packet_is_never_trusted() {
    let machine = machine();
    secure(&machine);
    machine.watch_link(PORT, true);
    let address = register(&machine, DEVICE, SCRATCH).as_u64();
    let tlp = crate::ide::Tlp {
        trusted: true,
        header: crate::ide::TlpHeader::Write {
            requester: PORT.bdf,
            address,
            enables: crate::ide::ByteEnables::ALL,
        },
        payload: vec![7, 0, 0, 0],
    };
    attack(&machine, LinkDirection::Down, 0, LinkMove::Inject(Box::new(Packet::Clear(tlp))));
    assert_eq!(
        read(&machine, SCRATCH),
        7,
        "as a request without the T bit, of an interface that nobody locked"
    );
    assert!(!has_failed(&machine));
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Read(usize),
    Attack(LinkDirection, LinkMove),
    Refresh,
}

fn any_step() -> impl Strategy<Value = Step> {
    let direction = prop::sample::select(&[LinkDirection::Down, LinkDirection::Up][..]);
    let action = prop_oneof![
        Just(LinkMove::Drop),
        Just(LinkMove::Replay),
        Just(LinkMove::Reorder),
        (0..2000_u32).prop_map(|bit| LinkMove::Flip { bit }),
    ];
    prop_oneof![
        6 => (0..8_usize).prop_map(Step::Write),
        6 => (0..8_usize).prop_map(Step::Read),
        1 => (direction, action).prop_map(|(direction, action)| Step::Attack(direction, action)),
        1 => Just(Step::Refresh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The oracle is an array that every write reaches. As long as the stream is secure, what a read brings
    /// is in it; once something went wrong and the stream was used in both directions, no end is secure.
    #[test]
    fn what_was_sent_arrives_once_and_in_order_or_the_stream_is_insecure_at_both_ends(
        steps in prop::collection::vec(any_step(), 1..60),
    ) {
        let machine = machine();
        secure(&machine);
        let mut oracle = [0_u64; 8];
        let mut sent = 0;
        let (mut attacked, mut round) = (false, 1);
        for step in steps {
            if insecure(&machine) {
                break;
            }
            match step {
                Step::Write(at) => {
                    sent += 1;
                    oracle[at] = sent;
                    write(&machine, SCRATCH + 8 * at as u64, sent);
                }
                Step::Read(at) => {
                    let value = read(&machine, SCRATCH + 8 * at as u64);
                    if !attacked {
                        prop_assert_eq!(value, oracle[at]);
                    }
                    if !insecure(&machine) && value != u64::MAX {
                        // Posted writes in front of a read that are missing show with the next write.
                        prop_assert!(value <= sent);
                    }
                }
                Step::Attack(direction, action) => {
                    attacked = true;
                    attack(&machine, direction, 0, action);
                }
                Step::Refresh if !attacked => {
                    round += 1;
                    program(&machine, if round % 2 == 0 { KeySet::K1 } else { KeySet::K0 }, round % 16);
                }
                Step::Refresh => {}
            }
        }
        if attacked {
            // Each lane is used often enough for all that was done to show.
            for _ in 0..80 {
                write(&machine, SCRATCH, 1);
                read(&machine, SCRATCH);
            }
            prop_assert!(insecure(&machine));
            prop_assert!(has_failed(&machine));
        } else {
            prop_assert!(!insecure(&machine));
            prop_assert_eq!(carried(&machine).1, 0);
            for (at, value) in oracle.into_iter().enumerate() {
                prop_assert_eq!(read(&machine, SCRATCH + 8 * at as u64), value);
            }
        }
    }
}
