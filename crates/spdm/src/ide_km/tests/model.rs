//! The key manager against a table of what each slot has.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Program(KeySlot),
    Go(KeySlot),
    Stop(KeySlot),
    SessionEnds,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let slot = (0..12_usize).prop_map(|at| {
        let set = KeySet::ALL[at / 6];
        KeySlot::of_set(set)[at % 6]
    });
    let step = prop_oneof![
        6 => slot.clone().prop_map(Step::Program),
        6 => slot.clone().prop_map(Step::Go),
        1 => slot.prop_map(Step::Stop),
    ];
    let whole = prop_oneof![Just(KeySet::K0), Just(KeySet::K1)].prop_map(|set| {
        let slots = KeySlot::of_set(set);
        slots.map(Step::Program).into_iter().chain(slots.map(Step::Go)).collect::<Vec<_>>()
    });
    let part = prop_oneof![
        4 => step.prop_map(|step| alloc::vec![step]),
        2 => whole,
        1 => Just(alloc::vec![Step::SessionEnds]),
    ];
    prop::collection::vec(part, 1..12).prop_map(|parts| parts.concat())
}

/// What a slot has: `None`, or whether its key waits.
#[derive(Default)]
struct Table {
    waits: [Option<bool>; 12],
    /// The set that each lane uses.
    uses: [Option<KeySet>; 6],
}

impl Table {
    fn keyed(&self) -> bool {
        self.uses.iter().all(Option::is_some)
    }

    fn forget(&mut self, slot: KeySlot) {
        self.waits[slot.index()] = None;
        if self.uses[slot.lane()] == Some(slot.set) {
            self.uses[slot.lane()] = None;
        }
    }
}

proptest! {
    #[test]
    fn a_stream_is_keyed_exactly_if_every_lane_uses_a_key(steps in steps()) {
        let mut device = Device::default();
        let mut table = Table::default();
        for step in steps {
            match step {
                Step::Program(slot) => {
                    prop_assert_eq!(device.key_prog_status(&key_prog(target(slot))), KpStatus::SUCCESS);
                    table.forget(slot);
                    table.waits[slot.index()] = Some(true);
                }
                Step::Go(slot) => {
                    let may = table.waits[slot.index()] == Some(true) || table.uses[slot.lane()] == Some(slot.set);
                    prop_assert_eq!(device.ask(&key_set_go(target(slot))).is_ok(), may, "{}", slot);
                    if may {
                        table.waits[slot.index()] = Some(false);
                        table.uses[slot.lane()] = Some(slot.set);
                    }
                }
                Step::Stop(slot) => {
                    prop_assert_eq!(device.ask(&key_set_stop(target(slot))), Ok(ack(slot)));
                    table.forget(slot);
                }
                Step::SessionEnds => {
                    device.manager.session_ended(SESSION, &mut device.ports);
                    table = Table::default();
                }
            }
            prop_assert_eq!(device.manager.keyed(STREAM).is_some(), table.keyed());
            prop_assert_eq!(device.ports.keys.len(), table.waits.iter().flatten().count());
        }
        // The stream turned secure and insecure by turns, and is now what it was turned last.
        let turns: Vec<bool> =
            device.ports.changes.iter().map(|change| matches!(change, StreamChange::Keyed(_))).collect();
        prop_assert!(turns.windows(2).all(|pair| pair[0] || pair[1]), "lost twice");
    }

    #[test]
    fn any_bytes_get_a_message_or_a_reason(session in any::<u32>(), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut device = Device::default();
        if let Ok(answer) = device.ask_in(SessionId(session), &bytes) {
            prop_assert_eq!(answer[0], PROTOCOL);
            let object = Message::read(&answer[1..]).unwrap().object();
            prop_assert!(matches!(object, ObjectId::QUERY_RESP | ObjectId::KP_ACK | ObjectId::K_GOSTOP_ACK));
        }
    }

    #[test]
    fn a_message_reads_as_it_was_written(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(message) = Message::read(&bytes) {
            prop_assert_eq!(&payload(&message)[1..], &bytes[..]);
        }
    }
}
