use super::*;

#[test]
fn digests_are_those_of_the_chains_that_get_certificate_gives() {
    for version in Version::SPOKEN {
        let mut bench = Bench::connected(version);
        let response = bench.clear(&bench.get_digests());
        let layout = bench.layout();
        let digests = read(&response, |reader| Digests::read(reader, &layout));
        assert_eq!(digests.provisioned, 0b1_0001);
        assert_eq!(digests.supported, if version == Version::V1_3 { 0b1_0001 } else { 0 });
        for slot in [SlotId::ZERO, SLOT_4] {
            assert_eq!(digests.digest(slot), Some(&*bench.chain_digest(slot)));
            let mut chain = Vec::new();
            loop {
                let offset = u16::try_from(chain.len()).unwrap();
                let response = bench.clear(&bench.get_certificate(slot, offset, 1000));
                let portion = read(&response, |reader| Certificate::read(reader, version));
                assert_eq!(portion.slot, slot);
                chain.extend_from_slice(portion.portion);
                assert_eq!(usize::from(portion.remainder), 4 + 48 + 2400 + 3 * 4 - chain.len());
                if portion.remainder == 0 {
                    break;
                }
                assert_eq!(portion.portion.len(), 1000);
            }
            assert_eq!(bench.crypto.digest(HashAlgo::Sha384, &chain), bench.chain_digest(slot));
        }
    }
}

#[test]
fn an_empty_slot_and_an_offset_behind_the_chain_are_refused() {
    let mut bench = Bench::connected(Version::V1_3);
    let end = 4 + 48 + 2412;
    assert_eq!(bench.clear(&bench.get_certificate(SlotId::ZERO, end - 1, 1))[1], ResponseCode::CERTIFICATE.0);
    let invalid = bench.error(ErrorCode::INVALID_REQUEST);
    for request in [
        bench.get_certificate(SlotId::ZERO, end, 1),
        bench.get_certificate(SlotId::ZERO, 0xffff, 0xffff),
        bench.get_certificate(NOBODY, 0, 1),
        bench.challenge(NOBODY, SummaryHash::None),
        bench.get_measurements(MeasurementOperation::Total, Some(NOBODY)),
    ] {
        assert_eq!(bench.clear(&request), invalid);
    }
    for slot in 8..=0xff {
        let mut request = bench.get_certificate(SlotId::ZERO, 0, 1);
        request[2] = slot;
        assert_eq!(bench.clear(&request), invalid, "slot {slot}");
    }
}

#[test]
fn the_size_of_a_slot_is_told_whatever_offset_and_length_say() {
    let mut bench = Bench::connected(Version::V1_3);
    let mut request = bench.get_certificate(SLOT_4, 0xffff, 0xaa55);
    request[3] = 1;
    let response = bench.clear(&request);
    let certificate = read(&response, |reader| Certificate::read(reader, Version::V1_3));
    assert_eq!((certificate.remainder, certificate.portion), (4 + 48 + 2412, &[][..]));
    let mut older = Bench::connected(Version::V1_2);
    request[0] = 0x12;
    assert_eq!(older.clear(&request), older.error(ErrorCode::INVALID_REQUEST));
}

#[test]
fn a_requester_without_chunks_gets_portions_that_it_can_take() {
    let mut bench = Bench::new(Config::default());
    bench.flags.set_chunk(false);
    (bench.data_transfer_size, bench.max_message_size) = (300, 300);
    bench.connect();
    let response = bench.clear(&bench.get_certificate(SlotId::ZERO, 0, 0xffff));
    let portion = read(&response, |reader| Certificate::read(reader, Version::V1_2)).portion;
    assert_eq!(portion.len(), 292);
}

/// `CHALLENGE` with everything checked; `read` are the messages of M1/M2 before it.
fn challenge(bench: &mut Bench, slot: SlotId, summary: SummaryHash, read_before: &[Vec<u8>]) {
    let request = bench.challenge(slot, summary);
    let response = bench.clear(&request);
    let layout = bench.layout();
    let auth = read(&response, |reader| ChallengeAuth::read(reader, &layout, summary.is_asked()));
    assert_eq!((auth.slot, auth.slot_mask), (slot, 0b1_0001));
    assert_eq!(auth.chain_hash, &*bench.chain_digest(slot));
    assert_eq!(auth.context, bench.context());
    let before: Vec<&[u8]> = read_before.iter().map(Vec::as_slice).collect();
    let signed = [&before[..], &[&request, &response[..response.len() - 96]]].concat();
    let log = bench.transcript.authentication().unwrap();
    assert!(log.is_empty());
    let digest = log.digest_with(&signed);
    bench.verify(slot, Context::ChallengeAuth, &digest, auth.signature);
}

impl Bench {
    /// Sends a request; it and its response, for a transcript.
    fn pair(&mut self, request: Vec<u8>) -> [Vec<u8>; 2] {
        let response = self.clear(&request);
        assert_ne!(response[1], ResponseCode::ERROR.0, "{response:02x?}");
        [request, response]
    }
}

#[test]
fn a_challenge_signs_what_was_read_before_it() {
    for version in Version::SPOKEN {
        for slot in [SlotId::ZERO, SLOT_4] {
            for summary in [SummaryHash::None, SummaryHash::Tcb, SummaryHash::All] {
                let mut bench = Bench::connected(version);
                challenge(&mut bench, slot, summary, &[]);
                let digests = bench.pair(bench.get_digests());
                challenge(&mut bench, slot, summary, &digests);
                let digests = bench.pair(bench.get_digests());
                let certificate = bench.pair(bench.get_certificate(slot, 0, 0x400));
                challenge(&mut bench, slot, summary, &[digests, certificate].concat());
            }
        }
    }
}

#[test]
fn get_digests_begins_what_a_challenge_signs_anew() {
    let mut bench = Bench::connected(Version::V1_2);
    bench.pair(bench.get_certificate(SLOT_4, 0, 100));
    bench.pair(bench.get_digests());
    let again = bench.pair(bench.get_digests());
    challenge(&mut bench, SlotId::ZERO, SummaryHash::None, &again);
}

#[test]
fn a_later_request_drops_what_a_challenge_would_sign_until_one_was_answered() {
    let mut bench = Bench::connected(Version::V1_2);
    bench.pair(bench.get_digests());
    bench.pair(bench.get_measurements(MeasurementOperation::Total, None));
    challenge(&mut bench, SlotId::ZERO, SummaryHash::None, &[]);
    let kept = bench.pair(bench.get_digests());
    bench.pair(bench.get_measurements(MeasurementOperation::Total, None));
    challenge(&mut bench, SlotId::ZERO, SummaryHash::None, &kept);
}

#[test]
fn a_refused_request_is_not_signed() {
    let mut bench = Bench::connected(Version::V1_2);
    let digests = bench.pair(bench.get_digests());
    bench.clear(&bench.get_certificate(NOBODY, 0, 100));
    bench.clear(&bench.challenge(NOBODY, SummaryHash::None));
    challenge(&mut bench, SlotId::ZERO, SummaryHash::None, &digests);
}

#[test]
fn a_summary_of_another_kind_is_refused() {
    let mut bench = Bench::connected(Version::V1_2);
    for kind in [2, 0x80, 0xfe] {
        let mut request = bench.challenge(SlotId::ZERO, SummaryHash::None);
        request[3] = kind;
        assert_eq!(bench.clear(&request), bench.error(ErrorCode::INVALID_REQUEST));
    }
}

#[test]
fn what_is_read_inside_a_session_is_not_part_of_a_challenge() {
    let mut bench = Bench::connected(Version::V1_2);
    challenge(&mut bench, SlotId::ZERO, SummaryHash::None, &[]);
    let mut session = bench.start();
    let request = bench.get_certificate(SLOT_4, 0, 100);
    assert_eq!(bench.secured(&mut session, &request)[1], ResponseCode::CERTIFICATE.0);
    challenge(&mut bench, SlotId::ZERO, SummaryHash::None, &[]);
}

#[test]
fn a_device_that_bends_a_response_before_its_signature_has_it_signed() {
    let mut bench = Bench::connected(Version::V1_3);
    bench.device.bend = Some(Stage::BeforeSignature(ResponseCode::CHALLENGE_AUTH));
    let request = bench.challenge(SlotId::ZERO, SummaryHash::None);
    let response = bench.clear(&request);
    let layout = bench.layout();
    let auth = read(&response, |reader| ChallengeAuth::read(reader, &layout, false));
    assert_eq!(auth.context, Some([7, 7, 7, 7, 7, 7, 7, 6]));
    let log = bench.transcript.authentication().unwrap();
    let digest = log.digest_with(&[&request, &response[..response.len() - 96]]);
    bench.verify(SlotId::ZERO, Context::ChallengeAuth, &digest, auth.signature);
}

#[test]
fn a_device_that_bends_a_finished_response_breaks_its_signature() {
    let mut bench = Bench::connected(Version::V1_2);
    let sound = bench.clear(&bench.get_digests());
    bench.device.bend = Some(Stage::BeforeSeal(ResponseCode::DIGESTS));
    let mut bent = bench.clear(&bench.get_digests());
    assert_ne!(bent, sound);
    *bent.last_mut().unwrap() ^= 1;
    assert_eq!(bent, sound);
}

#[test]
fn a_portion_is_not_larger_than_what_chunks_can_carry() {
    let mut bench = Bench::new(Config::default());
    (bench.data_transfer_size, bench.max_message_size) = (64, 500);
    bench.connect();
    let response = bench.clear(&bench.get_certificate(SlotId::ZERO, 0, 0xffff));
    assert_eq!(response[2], ErrorCode::LARGE_RESPONSE.0);
    let get = ChunkGet { version: Version::V1_2, handle: response[4], sequence: 0 };
    let response = bench.clear(&bytes(|writer| get.write(writer)));
    let chunk = read(&response, |reader| ChunkResponse::read(reader, Version::V1_2));
    assert_eq!(chunk.large_size, Some(500));
}
