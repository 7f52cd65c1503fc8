use super::*;

struct Got {
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Got {
    fn read(&self, bench: &Bench, signed: bool) -> Measurements<'_> {
        let layout = bench.layout();
        read(&self.response, |reader| Measurements::read(reader, &layout, signed))
    }
}

impl Bench {
    fn measure(&mut self, operation: MeasurementOperation, signed: Option<SlotId>) -> Got {
        let request = self.get_measurements(operation, signed);
        let response = self.clear(&request);
        Got { request, response }
    }

    fn verify_measurements(&mut self, slot: SlotId, all: &[&Got]) {
        let last = all.last().unwrap();
        let (unsigned, signature) = last.response.split_at(last.response.len() - 96);
        let mut messages: Vec<&[u8]> =
            all[..all.len() - 1].iter().flat_map(|got| [&got.request[..], &got.response]).collect();
        messages.extend([&last.request[..], unsigned]);
        let digest = self.transcript.measurements().unwrap().digest_with(&messages);
        self.verify(slot, Context::Measurements, &digest, signature);
    }
}

#[test]
fn the_number_of_measurements_comes_without_any() {
    for version in Version::SPOKEN {
        let mut bench = Bench::connected(version);
        let got = bench.measure(MeasurementOperation::Total, None);
        let total = got.read(&bench, false);
        assert_eq!((total.total, total.blocks, total.record), (4, 0, &[][..]));
        assert_eq!(total.context, bench.context());
        assert_eq!((total.slot, total.content), (SlotId::ZERO, ContentChange::NotWatched));
    }
}

#[test]
fn one_measurement_is_the_same_block_as_among_all() {
    let mut bench = Bench::connected(Version::V1_2);
    let all = bench.measure(MeasurementOperation::All, None);
    let all = all.read(&bench, false);
    assert_eq!((all.total, all.blocks), (0, 4));
    let mut joined = Vec::new();
    for index in [1, 2, 0x10, 0xfe] {
        let one = bench.measure(MeasurementOperation::Index(index), None);
        let one = one.read(&bench, false);
        assert_eq!(one.blocks, 1);
        joined.extend_from_slice(one.record);
    }
    assert_eq!(joined, all.record);
}

#[test]
fn raw_bit_streams_are_given_where_they_may_leave_the_device() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut request = bench.get_measurements(MeasurementOperation::All, None);
    let values = |bench: &mut Bench, request: &[u8]| {
        let got = Got { request: request.to_vec(), response: bench.clear(request) };
        let record = got.read(bench, false).record;
        MeasurementBlocks::new(record)
            .map(|block| match block.unwrap().value {
                MeasurementValue::Raw(bytes) => (true, bytes.to_vec()),
                MeasurementValue::Digest(bytes) => (false, bytes.to_vec()),
            })
            .collect::<Vec<_>>()
    };
    let digest = |byte, size| AwsLc.digest(HashAlgo::Sha384, &vec![byte; size]).to_vec();
    let structured = [(true, b"1.0.7".to_vec()), (true, vec![0; 16])];
    let digests = [(false, digest(0x11, 100)), (false, digest(0x22, 200))];
    assert_eq!(values(&mut bench, &request), [&digests[..], &structured].concat());
    request[2] = 2;
    let raw = [(false, digest(0x11, 100)), (true, vec![0x22; 200])];
    assert_eq!(values(&mut bench, &request), [&raw[..], &structured].concat());
}

#[test]
fn a_measurement_that_there_is_not_is_refused() {
    let mut bench = Bench::connected(Version::V1_2);
    for index in (3..0xfe).filter(|index| *index != 0x10) {
        let request = bench.get_measurements(MeasurementOperation::Index(index), None);
        assert_eq!(bench.clear(&request), bench.error(ErrorCode::INVALID_REQUEST));
    }
}

#[test]
fn a_signature_stands_on_all_measurements_read_since_the_last_one() {
    for version in Version::SPOKEN {
        let mut bench = Bench::connected(version);
        for slot in [SlotId::ZERO, SLOT_4] {
            let first = bench.measure(MeasurementOperation::Total, None);
            let second = bench.measure(MeasurementOperation::Index(2), None);
            let third = bench.measure(MeasurementOperation::All, Some(slot));
            let signed = third.read(&bench, true);
            assert_eq!((signed.slot, signed.content), (slot, ContentChange::Unchanged));
            bench.verify_measurements(slot, &[&first, &second, &third]);
        }
    }
}

#[test]
fn any_other_request_and_any_refusal_begins_the_signed_measurements_anew() {
    let mut bench = Bench::connected(Version::V1_2);
    let between = [
        bench.get_digests(),
        bench.challenge(NOBODY, SummaryHash::None),
        bench.bare(RequestCode::PSK_EXCHANGE),
        bench.bare(RequestCode::HEARTBEAT),
        bench.get_measurements(MeasurementOperation::Index(7), None),
        bench.get_measurements(MeasurementOperation::All, Some(NOBODY)),
    ];
    for request in between {
        bench.measure(MeasurementOperation::Index(1), None);
        bench.clear(&request);
        let signed = bench.measure(MeasurementOperation::Index(1), Some(SlotId::ZERO));
        bench.verify_measurements(SlotId::ZERO, &[&signed]);
    }
}

#[test]
fn a_change_between_reads_is_told_even_if_it_was_undone() {
    let mut bench = Bench::connected(Version::V1_2);
    bench.measure(MeasurementOperation::Index(1), None);
    let before = core::mem::replace(&mut bench.device.measurements[1].value, MeasuredValue::Raw(vec![9]));
    bench.measure(MeasurementOperation::Index(1), None);
    bench.device.measurements[1].value = before;
    let signed = bench.measure(MeasurementOperation::Index(1), Some(SlotId::ZERO));
    assert_eq!(signed.read(&bench, true).content, ContentChange::Changed);
    let signed = bench.measure(MeasurementOperation::Index(1), Some(SlotId::ZERO));
    assert_eq!(signed.read(&bench, true).content, ContentChange::Unchanged);
}

#[test]
fn measurements_inside_a_session_have_a_transcript_of_their_own() {
    for version in Version::SPOKEN {
        let mut bench = Bench::connected(version);
        let mut session = bench.start();
        let outside = bench.measure(MeasurementOperation::Index(1), None);
        let request = bench.get_measurements(MeasurementOperation::All, Some(SLOT_4));
        let response = bench.secured(&mut session, &request);
        bench.verify_measurements(SLOT_4, &[&Got { request, response }]);
        let signed = bench.measure(MeasurementOperation::Index(1), Some(SlotId::ZERO));
        bench.verify_measurements(SlotId::ZERO, &[&outside, &signed]);
    }
}

#[test]
fn summaries_cover_the_trusted_computing_base_or_all() {
    let mut bench = Bench::connected(Version::V1_2);
    let all = bench.measure(MeasurementOperation::All, None);
    let record = all.read(&bench, false).record.to_vec();
    let layout = bench.layout();
    for (kind, part) in [(SummaryHash::Tcb, &record[..2 * 55]), (SummaryHash::All, &record[..])] {
        let response = bench.clear(&bench.challenge(SlotId::ZERO, kind));
        let auth = read(&response, |reader| ChallengeAuth::read(reader, &layout, true));
        assert_eq!(auth.summary, Some(&*bench.crypto.digest(HashAlgo::Sha384, part)));
        let talk = bench.key_exchange(SlotId::ZERO, kind);
        let response = read(&talk.response, |reader| KeyExchangeRsp::read(reader, &layout, true));
        assert_eq!(response.summary, auth.summary);
    }
}

#[test]
fn without_an_agreed_way_of_measuring_there_are_no_measurements() {
    let mut bench = Bench::new(Config::default());
    bench.get_version();
    bench.clear(&bench.capabilities());
    let mut offer = bench.offer();
    offer.measurement_spec = 0;
    bench.clear(&bytes(|writer| offer.write(writer)));
    let request = bench.get_measurements(MeasurementOperation::All, None);
    assert_eq!(bench.clear(&request), bench.error(ErrorCode::UNEXPECTED_REQUEST));
    let request = bench.challenge(SlotId::ZERO, SummaryHash::All);
    assert_eq!(bench.clear(&request), bench.error(ErrorCode::INVALID_REQUEST));
}

#[test]
fn unsigned_measurements_are_all_that_a_responder_without_signatures_has() {
    let flags = Config::default().flags.with_meas(1);
    let mut bench = Bench::new(Config { flags, ..Config::default() });
    bench.connect();
    assert_eq!(bench.measure(MeasurementOperation::All, None).response[1], ResponseCode::MEASUREMENTS.0);
    let request = bench.get_measurements(MeasurementOperation::All, Some(SlotId::ZERO));
    assert_eq!(bench.clear(&request), bench.error(ErrorCode::INVALID_REQUEST));
}

#[test]
fn a_device_that_misnumbers_its_measurements_is_not_believed() {
    for indices in [[0, 2], [1, 0xff], [2, 1], [3, 3]] {
        let mut bench = Bench::connected(Version::V1_2);
        bench.device.measurements.truncate(2);
        for (one, index) in bench.device.measurements.iter_mut().zip(indices) {
            one.index = index;
        }
        let request = bench.get_measurements(MeasurementOperation::All, None);
        assert_eq!(bench.clear(&request), bench.error(ErrorCode::UNSPECIFIED));
    }
}

#[test]
fn a_responder_of_raw_values_reports_raw_values() {
    let config = Config { measurement_hash: MeasurementHash::RawOnly, ..Config::default() };
    let mut bench = Bench::new(config);
    bench.connect();
    let got = bench.measure(MeasurementOperation::All, None);
    let layout = Layout::new(
        Version::V1_2,
        Suite { measurement_hash: Some(MeasurementHash::RawOnly), ..Bench::suite() },
    );
    let all = read(&got.response, |reader| Measurements::read(reader, &layout, false));
    for block in MeasurementBlocks::new(all.record) {
        assert!(matches!(block.unwrap().value, MeasurementValue::Raw(_)));
    }
    assert_eq!(all.blocks, 4);
}

#[test]
fn a_summary_of_no_measurements_is_zero() {
    let mut bench = Bench::connected(Version::V1_2);
    bench.device.measurements.retain(|one| !one.tcb);
    let response = bench.clear(&bench.challenge(SlotId::ZERO, SummaryHash::Tcb));
    let layout = bench.layout();
    let auth = read(&response, |reader| ChallengeAuth::read(reader, &layout, true));
    assert_eq!(auth.summary, Some(&[0; 48][..]));
}
