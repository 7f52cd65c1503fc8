//! Somebody on the link.

use pcie::cap::Aer;
use proptest::prelude::*;

use tdx_abi::KeyId;

use super::*;
use crate::StreamEnd;
use crate::endpoint::DmaCommand;
use crate::ide::{ByteEnables, CompletionStatus, Packet, Tlp, TlpHeader};

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
fn a_stream_that_is_keyed_anew_is_secure_whatever_the_other_end_once_said() {
    let machine = machine();
    secure(&machine);
    let forged = LinkMove::Inject(Box::new(Packet::FailMessage(STREAM)));
    attack(&machine, LinkDirection::Up, 0, forged);
    read(&machine, SCRATCH);
    let port = Config(&machine, PORT);
    let on = StreamControl::new().with_stream_id(STREAM.0);
    port.write(port.block().control(), on.into_bits());
    program(&machine, KeySet::K0, 2);
    port.write(port.block().control(), on.with_enable(true).into_bits());
    assert_eq!(
        (port.state(), port.fail_message()),
        (StreamState::SECURE, true),
        "software has cleared nothing"
    );
}

#[test]
fn an_unprotected_request_is_never_trusted() {
    let machine = machine();
    secure(&machine);
    machine.watch_link(PORT, true);
    let address = register(&machine, DEVICE, SCRATCH).as_u64();
    let tlp = Tlp {
        trusted: true,
        header: TlpHeader::Write { requester: PORT.bdf, address, enables: ByteEnables::ALL },
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

/// Errors of a function that are not IDE's.
fn others(machine: &Machine, id: FunctionId) -> u32 {
    Aer::uncorrectable(&Config(machine, id)).expect("a function with AER").others()
}

fn completion(completer: Bdf, requester: Bdf, tag: u8, payload: Vec<u8>) -> Packet {
    let byte_count = u16::try_from(payload.len()).expect("short");
    let status = CompletionStatus::Success;
    let header = TlpHeader::Completion { completer, requester, tag, status, byte_count, lower_address: 0 };
    Packet::Clear(Tlp { trusted: false, header, payload })
}

/// The tag of the next read of the host.
fn next_tag(machine: &Machine) -> u8 {
    machine.watch_link(PORT, true);
    read(machine, SCRATCH);
    let tag = machine.watched_packets(PORT).into_iter().find_map(|(_, packet)| match packet {
        Packet::Clear(Tlp { header: TlpHeader::Read { tag, .. }, .. }) => Some(tag),
        _ => None,
    });
    machine.watch_link(PORT, false);
    tag.expect("a read") + 1
}

#[test]
fn an_answer_in_the_clear_to_a_request_of_a_secure_stream_is_none() {
    for is_secure in [false, true] {
        let machine = machine();
        write(&machine, SCRATCH, 7);
        let tag = next_tag(&machine);
        if is_secure {
            secure(&machine);
        }
        let forged = completion(DEVICE.bdf, PORT.bdf, tag, vec![0xee; 8]);
        attack(&machine, LinkDirection::Up, 0, LinkMove::Inject(Box::new(forged)));
        let expected = if is_secure { 7 } else { 0xeeee_eeee_eeee_eeee };
        assert_eq!(read(&machine, SCRATCH), expected);
        assert_eq!(others(&machine, PORT), 1 << 16, "one completion too many");
        assert!(!has_failed(&machine));
    }
}

#[test]
fn a_device_takes_answers_from_the_stream_of_its_request_alone() {
    let (from, to) = (0x1_0000_0000_u64, 0x1_0010_0000_u64);
    for is_secure in [false, true] {
        let machine = machine();
        if is_secure {
            secure(&machine);
        }
        machine.write(PhysAddr::new(from), KeyId::TME, &[7; 8]).expect("RAM");
        for (at, value) in [(reg::DMA_SOURCE, from), (reg::DMA_DESTINATION, to), (reg::DMA_LENGTH, 8)] {
            write(&machine, at, value);
        }
        // The command is the first packet down, the answer to the engine's read the second.
        let forged = completion(PORT.bdf, DEVICE.bdf, 0, vec![0xee; 8]);
        attack(&machine, LinkDirection::Down, 1, LinkMove::Inject(Box::new(forged)));
        let command = register(&machine, DEVICE, reg::DMA_COMMAND);
        machine.mmio_write(command, MmioWidth::Dword, DmaCommand::COPY.0.into());
        let mut copied = [0; 8];
        machine.read(PhysAddr::new(to), KeyId::TME, &mut copied).expect("RAM");
        assert_eq!(copied, [if is_secure { 7 } else { 0xee }; 8]);
    }
}

#[test]
fn a_completion_that_nobody_waits_for_is_noted_and_forgotten() {
    let machine = machine();
    let tag = next_tag(&machine);
    let read_down = Packet::Clear(Tlp {
        trusted: false,
        header: TlpHeader::Read {
            requester: PORT.bdf,
            tag,
            address: register(&machine, DEVICE, SCRATCH).as_u64(),
            dwords: 2,
        },
        payload: Vec::new(),
    });
    attack(&machine, LinkDirection::Down, 0, LinkMove::Inject(Box::new(read_down)));
    write(&machine, SCRATCH, 1);
    assert_eq!(others(&machine, PORT), 1 << 16);
    assert_eq!(read(&machine, SCRATCH), 1, "the answer of before has the same tag");
}

#[test]
fn what_is_no_tlp_is_dropped_and_noted() {
    let requester = DEVICE.bdf;
    let scratch = register(&machine(), DEVICE, SCRATCH).as_u64();
    let cut = ByteEnables { skip: 2, cut: 3 };
    for (header, payload) in [
        (TlpHeader::Write { requester, address: scratch, enables: cut }, vec![]),
        (TlpHeader::Write { requester, address: scratch, enables: cut }, vec![0xee; 4]),
        (TlpHeader::Write { requester, address: scratch + 1, enables: ByteEnables::ALL }, vec![0xee; 4]),
        (TlpHeader::Write { requester, address: u64::MAX, enables: cut }, vec![0xee; 8]),
        (TlpHeader::Read { requester, tag: 0, address: u64::MAX - 3, dwords: u16::MAX }, vec![]),
        (TlpHeader::Read { requester, tag: 0, address: scratch, dwords: 0 }, vec![]),
    ] {
        for (direction, end) in [(LinkDirection::Down, DEVICE), (LinkDirection::Up, PORT)] {
            let machine = machine();
            let packet = Packet::Clear(Tlp { trusted: true, header, payload: payload.clone() });
            attack(&machine, direction, 0, LinkMove::Inject(Box::new(packet)));
            assert_eq!(read(&machine, SCRATCH), 0, "{header:?}");
            assert_eq!(others(&machine, end), 1 << 18, "{direction:?} {header:?}");
        }
    }
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
