//! Whatever is written in whatever order: what lacks a key is not secure, and no key is used twice.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Any register of the unit.
    Write {
        dword: u32,
        value: u32,
    },
    /// A key into a slot of its place; the next key that there is.
    Put {
        slot: usize,
    },
    /// Primes the sets whose bits are set, both directions.
    Prime {
        bits: u32,
    },
    Select {
        set: u32,
    },
    Enable {
        on: bool,
    },
    /// Enable of the port's own register.
    Port {
        on: bool,
    },
    /// The link goes down.
    Down,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        1 => (0..(RX_IVS + 8 * SLOTS) / 4 + 4, any::<u32>()).prop_map(|(dword, value)| Step::Write { dword, value }),
        8 => (0..KeySlot::COUNT).prop_map(|slot| Step::Put { slot }),
        4 => (1..4u32).prop_map(|bits| Step::Prime { bits }),
        3 => (0..4u32).prop_map(|set| Step::Select { set }),
        2 => any::<bool>().prop_map(|on| Step::Enable { on }),
        2 => any::<bool>().prop_map(|on| Step::Port { on }),
        1 => Just(Step::Down),
    ];
    proptest::collection::vec(step, 0..120)
}

fn all_slots() -> Vec<KeySlot> {
    KeySet::ALL.into_iter().flat_map(KeySlot::of_set).collect()
}

proptest! {
    #[test]
    fn no_stream_is_secure_with_a_key_missing(secure in any::<bool>(), steps in steps()) {
        let bench = Bench::new();
        if secure {
            bench.set_up();
            prop_assert!(bench.is_secure());
        }
        bench.name_slots(KeySet::K0);
        bench.name_slots(KeySet::K1);
        bench.write(CONTROL, u64::from(ID.0) << 24 | u64::from(secure));
        let mut round = 0;
        for step in steps {
            match step {
                Step::Write { dword, value } => bench.write(dword * 4, value.into()),
                Step::Put { slot } => {
                    round += 1;
                    let slot = all_slots()[slot];
                    bench.put(slot, &key(slot, round));
                }
                Step::Prime { bits } => {
                    bench.prime(u64::from(bits & 1) << 8 | u64::from(bits >> 1) << 16);
                }
                Step::Select { set } => bench.write(TX_CONTROL, set.into()),
                Step::Enable { on } => bench.write(CONTROL, u64::from(ID.0) << 24 | u64::from(on)),
                Step::Port { on } => bench.stream(1, ID, |stream| stream.set_enabled(on)),
                Step::Down => {
                    bench.ports.0.lock().values_mut().for_each(Port::link_down);
                }
            }
            let enabled = |block: u32| bench.read(CONTROL + block * BLOCK) & 1 != 0;
            let id = |block: u32| bench.read(CONTROL + block * BLOCK) >> 24;
            for (number, stream) in [(1, ID), (2, OTHER)] {
                let keyed = (0..2).any(|block| enabled(block) && id(block) == u64::from(stream.0));
                let has = |direction| bench.stream(number, stream, |stream| {
                    KeySet::ALL.into_iter().any(|set| {
                        SubStream::ALL.into_iter().all(|sub| stream.has_key(slot(set, direction, sub)))
                    })
                });
                let any = bench.stream(number, stream, |stream| {
                    all_slots().into_iter().any(|slot| stream.has_key(slot))
                });
                let secure = bench.stream(number, stream, |stream| stream.status().state == StreamState::Secure);
                prop_assert!(!any || keyed, "keys only below an enabled block");
                prop_assert!(!secure || has(Direction::Tx) && has(Direction::Rx), "{stream} lacks a key");
            }
        }
    }

    /// Keys that went to the port are gone from the unit: a nonce of the cipher never comes twice.
    #[test]
    fn no_tlp_is_sealed_twice_alike(steps in steps()) {
        let bench = Bench::new();
        bench.set_up();
        let mut macs = BTreeSet::new();
        let mut round = 0;
        for step in steps {
            match step {
                Step::Put { slot } => {
                    round += 1;
                    let slot = all_slots()[slot];
                    bench.put(slot, &key(slot, round));
                }
                Step::Prime { bits } => {
                    bench.prime(u64::from(bits & 1) << 8 | u64::from(bits >> 1) << 16);
                }
                Step::Select { set } => bench.write(TX_CONTROL, set.into()),
                Step::Enable { on } => bench.write(CONTROL, u64::from(ID.0) << 24 | u64::from(on)),
                Step::Port { on } => bench.stream(1, ID, |stream| stream.set_enabled(on)),
                Step::Write { .. } | Step::Down => {}
            }
            let requester = Bdf::from_routing_id(0x3b00);
            let header = crate::ide::TlpHeader::Read { requester, tag: 0, address: 0, dwords: 1 };
            let tlp = crate::ide::Tlp { trusted: true, header, payload: vec![] };
            if let Ok(sealed) = bench.stream(1, ID, |stream| stream.seal(tlp)) {
                prop_assert!(macs.insert(format!("{:?}", sealed.mac())), "a key was used twice");
            }
        }
    }
}
