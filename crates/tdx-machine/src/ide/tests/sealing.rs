//! One TLP, or one aggregate, at a time.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::*;

#[test]
fn every_kind_of_tlp_arrives_as_it_was_sent() {
    let mut link = Link::new();
    for tlp in
        [write(512, 1), write(4, 2), read(7), completion(vec![3; 128]), completion(vec![]), write(64, 4)]
    {
        let sealed = link.device.seal(ID, tlp.clone()).unwrap();
        assert_eq!((sealed.stream(), sealed.set(), sealed.count()), (ID, KeySet::K0, 1));
        assert_eq!(sealed.sub_stream(), tlp.sub_stream());
        assert!(tlp.payload.is_empty() || sealed.text() != tlp.payload, "it is encrypted");
        assert_eq!(Sealed::from_bytes(&sealed.to_bytes()), Ok(sealed.clone()));
        assert_eq!(link.root.open(sealed), Ok(vec![tlp]));
    }
}

/// The same with a bare cipher, from what the tables say of vector and MAC.
#[test]
fn vector_and_mac_are_those_of_the_tables() {
    let mut link = Link::new();
    let slot = KeySlot { set: KeySet::K0, direction: Direction::Tx, sub_stream: SubStream::Completion };
    let bare = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key(slot, 0).bytes()).unwrap());
    for invocation in 1..=3 {
        let sealed = link.device.seal(ID, completion(vec![7; 64])).unwrap();
        let bytes = sealed.to_bytes();
        let (heads, rest) = bytes.split_at(20);
        assert_eq!(heads[..4], [0xa0, 2, 3, 0], "M and T bit, completions, stream 3");
        assert_eq!(heads[4..8], [0x4a, 0, 0, 16], "completion with data, 16 dwords");
        let mut vector = [0; 12];
        vector[0] = 0x20;
        vector[11] = invocation;
        let mut text = rest.to_vec();
        let plain =
            bare.open_in_place(Nonce::assume_unique_for_key(vector), Aad::from(heads), &mut text).unwrap();
        assert_eq!(plain, [7; 64]);
        assert_eq!(sealed.mac().on_the_link(), rest[64..76]);
    }
}

#[test]
fn payloads_are_permitted_up_to_the_maximum() {
    for (max, fits) in [(128, 128), (256, 256), (512, 512), (1024, 1024), (2048, 2048), (4096, 4096)] {
        let max = MaxPayload::new(max).unwrap();
        let mut link = Link::bare(max);
        link.program(KeySet::K0, 0);
        link.go(KeySet::K0);
        assert_eq!(link.send_up(write(fits, 1)), Ok(vec![write(fits, 1)]));
        let too_large = BadTlp::TooLarge { bytes: fits + 4, max: fits };
        assert_eq!(link.device.seal(ID, write(fits + 4, 1)), Err(SealError::Tlp(too_large)));
        assert_eq!(link.send_up(write(4, 2)), Ok(vec![write(4, 2)]), "what was refused did not count");
    }
    for none in [0, 64, 129, 8192] {
        assert_eq!(MaxPayload::new(none), None, "{none}");
    }
}

#[test]
fn what_is_no_tlp_is_not_sent() {
    let at = |address, size| Tlp {
        header: TlpHeader::Write { requester: device(), address, enables: ByteEnables::ALL },
        ..write(size, 0)
    };
    let reads = |dwords| Tlp {
        header: TlpHeader::Read { requester: device(), tag: 0, address: 0, dwords },
        ..read(0)
    };
    let answer = |byte_count, lower_address, payload| Tlp {
        header: TlpHeader::Completion {
            completer: device(),
            requester: root(),
            tag: 0,
            status: CompletionStatus::Success,
            byte_count,
            lower_address,
        },
        payload,
        trusted: false,
    };
    let rows = [
        (at(0x1000, 0), BadTlp::Payload(0)),
        (at(0x1000, 6), BadTlp::Payload(6)),
        (at(0x1002, 4), BadTlp::Address { address: 0x1002, bytes: 4 }),
        (at(0x1ffc, 8), BadTlp::Address { address: 0x1ffc, bytes: 8 }),
        (reads(0), BadTlp::ReadSize(0)),
        (reads(1025), BadTlp::ReadSize(1025)),
        (Tlp { payload: vec![0; 4], ..read(0) }, BadTlp::Payload(4)),
        (answer(0, 0, vec![]), BadTlp::Completion { byte_count: 0, lower_address: 0 }),
        (answer(4097, 0, vec![]), BadTlp::Completion { byte_count: 4097, lower_address: 0 }),
        (answer(4, 0, vec![0; 8]), BadTlp::Completion { byte_count: 4, lower_address: 0 }),
        (answer(4, 0x80, vec![]), BadTlp::Completion { byte_count: 4, lower_address: 0x80 }),
        (Tlp { payload: vec![0; 4], ..completion(vec![]) }, BadTlp::Payload(4)),
    ];
    let mut link = Link::new();
    for (tlp, bad) in rows {
        assert_eq!(link.device.seal(ID, tlp.clone()), Err(SealError::Tlp(bad)), "{tlp:?}");
    }
    assert!(link.device.seal(ID, at(0x1ff8, 8)).is_ok());
}

#[test]
fn tlps_are_aggregated_up_to_what_the_stream_permits() {
    for (aggregation, most) in
        [(Aggregation::Off, 1), (Aggregation::Two, 2), (Aggregation::Four, 4), (Aggregation::Eight, 8)]
    {
        let mut link = Link::new();
        link.device.stream_mut(ID).unwrap().set_aggregation(SubStream::Posted, aggregation);
        let stream = link.device.stream_mut(ID).unwrap();
        let tlps: Vec<Tlp> = (0..9).map(|at| write(usize::from(at) * 16 + 16, at)).collect();
        for count in 1..=9 {
            let sealed = stream.seal_aggregated(&tlps[..count]);
            if count > most {
                assert_eq!(sealed, Err(SealError::Aggregation { count, limit: most }));
                continue;
            }
            let sealed = sealed.unwrap();
            assert_eq!(Sealed::from_bytes(&sealed.to_bytes()), Ok(sealed.clone()));
            assert_eq!(link.root.open(sealed), Ok(tlps[..count].to_vec()), "{count} TLPs under one MAC");
        }
        assert_eq!(stream.seal_aggregated(&[]), Err(SealError::Aggregation { count: 0, limit: 1 }));
    }
    assert_eq!([0, 1, 2, 3].map(|bits| Aggregation::from_bits(bits).most()), [1, 2, 4, 8]);
}

#[test]
fn aggregation_is_of_one_sub_stream() {
    let mut link = Link::new();
    let stream = link.device.stream_mut(ID).unwrap();
    stream.set_aggregation(SubStream::Posted, Aggregation::Eight);
    assert_eq!(stream.seal_aggregated(&[write(4, 0), read(0)]), Err(SealError::MixedSubStreams));
    let two = SealError::Aggregation { count: 2, limit: 1 };
    assert_eq!(stream.seal_aggregated(&[read(0), read(1)]), Err(two), "each sub-stream has its own limit");
}

#[test]
fn a_stream_that_is_not_enabled_or_not_keyed_neither_sends_nor_receives() {
    let mut link = Link::new();
    let sealed = link.device.seal(ID, write(4, 0)).unwrap();
    link.root.stream_mut(ID).unwrap().set_enabled(false);
    assert_eq!(link.root.open(sealed), Err(OpenError::Insecure(ID)));
    assert_eq!(link.root.seal(ID, write(4, 0)), Err(SealError::Insecure(ID)));
    let mut link = Link::bare(MaxPayload::MIN);
    link.program(KeySet::K0, 0);
    assert_eq!(link.secure(), (false, false), "keys alone are not in use");
    let [.., last] = KeySlot::of_set(KeySet::K0);
    for slot in KeySlot::of_set(KeySet::K0) {
        assert_eq!(link.device.seal(ID, write(4, 0)), Err(SealError::Insecure(ID)), "before {slot}");
        link.device.go(ID, slot).unwrap();
    }
    assert_eq!(link.secure(), (true, false));
    link.device.stop(ID, last);
    assert_eq!(link.secure(), (false, false));
    assert!(link.device.go(ID, last).is_err(), "the key is gone");
}

#[test]
fn what_is_for_no_stream_or_from_a_stranger_is_misrouted() {
    let mut link = Link::new();
    assert_eq!(link.device.seal(StreamId(9), write(4, 0)), Err(SealError::NoStream(StreamId(9))));
    let mut other = link.device.seal(ID, write(4, 0)).unwrap().to_bytes();
    other[2] = 9;
    let misrouted = link.root.open(Sealed::from_bytes(&other).unwrap()).unwrap_err();
    assert_eq!(misrouted, OpenError::MisroutedStream(StreamId(9)));
    assert_eq!(misrouted.uncorrectable_error(), Some(29));
    assert_eq!(link.secure(), (true, true), "no stream is to blame");
    let mut link = Link::new();
    for (routing_id, known) in [(0x3b00, true), (0x3b07, true), (0x3b08, false), (0x3aff, false)] {
        let sender = Bdf::from_routing_id(routing_id);
        let tlp = Tlp {
            header: TlpHeader::Write { requester: sender, address: 0, enables: ByteEnables::ALL },
            ..write(4, 0)
        };
        let expected = if known {
            Ok(vec![tlp.clone()])
        } else {
            Err(OpenError::MisroutedSender { stream: ID, sender })
        };
        assert_eq!(link.send_up(tlp), expected);
        assert_eq!(link.secure(), (true, true), "it is authentic, so what follows it is too");
    }
}

#[test]
fn an_integrity_failure_makes_both_ends_insecure_until_they_are_keyed_anew() {
    let mut link = Link::new();
    let mut bytes = link.device.seal(ID, write(64, 1)).unwrap().to_bytes();
    bytes[30] ^= 1;
    let failed = link.root.open(Sealed::from_bytes(&bytes).unwrap()).unwrap_err();
    assert_eq!(failed, OpenError::IntegrityFail { stream: ID, sub_stream: SubStream::Posted });
    assert_eq!(failed.uncorrectable_error(), Some(28));
    assert_eq!(u32::from(link.root.status(ID).unwrap()), 0);
    assert_eq!(u32::from(link.device.status(ID).unwrap()), 2, "not told yet");
    link.device.fail_message(ID);
    assert_eq!(u32::from(link.device.status(ID).unwrap()), 1 << 31);
    assert_eq!(link.device.seal(ID, write(4, 0)), Err(SealError::Insecure(ID)));
    link.program(KeySet::K0, 1);
    link.go(KeySet::K0);
    assert_eq!(link.secure(), (false, false), "keys alone do not mend it");
    for port in [&mut link.device, &mut link.root] {
        let stream = port.stream_mut(ID).unwrap();
        stream.set_enabled(false);
        stream.clear_fail_message();
        stream.set_enabled(true);
    }
    assert_eq!(link.secure(), (false, false), "keys do not outlive the stream");
    link.program(KeySet::K0, 2);
    link.go(KeySet::K0);
    assert_eq!(u32::from(link.device.status(ID).unwrap()), 2);
    assert_eq!(link.send_up(write(64, 1)), Ok(vec![write(64, 1)]));
}

#[test]
fn a_counter_ends_before_it_would_repeat() {
    let mut link = Link::new();
    link.device.stream_mut(ID).unwrap().set_counter_limit(4);
    for _ in 1..4 {
        assert!(link.send_up(write(4, 0)).is_ok());
    }
    let exhausted = SealError::CounterExhausted { stream: ID, sub_stream: SubStream::Posted };
    assert_eq!(link.device.seal(ID, write(4, 0)), Err(exhausted));
    assert!(link.send_up(read(0)).is_ok(), "each sub-stream has its own counter");
    link.program(KeySet::K1, 1);
    link.go(KeySet::K1);
    assert!(link.send_up(write(4, 0)).is_ok(), "new keys begin at 1");
    link.root.stream_mut(ID).unwrap().set_counter_limit(2);
    let sealed = link.device.seal(ID, write(4, 0)).unwrap();
    let exhausted = OpenError::CounterExhausted { stream: ID, sub_stream: SubStream::Posted };
    assert_eq!(link.root.open(sealed), Err(exhausted));
}

#[test]
fn bytes_that_are_no_sealed_tlps_are_refused_without_keys() {
    let good = Link::new().device.seal(ID, write(64, 1)).unwrap().to_bytes();
    for end in 0..good.len() {
        let refused = Sealed::from_bytes(&good[..end]);
        assert!(matches!(refused, Err(BadSealed::Length { .. })), "{end} bytes: {refused:?}");
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(Sealed::from_bytes(&longer), Err(BadSealed::Length { bytes: 101, expected: 100 }));
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Sealed::from_bytes(&bytes).unwrap_err()
    };
    assert_eq!(changed(0, 0x81), BadSealed::Prefix(0), "an undefined bit");
    assert_eq!(changed(1, 1), BadSealed::Prefix(0), "a write is no read");
    assert_eq!(changed(3, 1), BadSealed::Prefix(0));
    assert_eq!(changed(4, 0x61), BadSealed::Tlp(BadTlp::Type(0x61)));
    assert_eq!(changed(11, 0x0f), BadSealed::Tlp(BadTlp::Type(0x60)), "byte enables");
    assert!(
        matches!(changed(0, 0x20), BadSealed::Tlp(_) | BadSealed::Prefix(_)),
        "no MAC follows, but another prefix"
    );
    let mut nine = good[..20].repeat(9);
    nine.iter_mut().step_by(20).for_each(|flags| *flags = 0);
    assert_eq!(Sealed::from_bytes(&nine), Err(BadSealed::NoMac));
}
