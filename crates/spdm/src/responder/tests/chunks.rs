use super::*;

/// A requester that takes 128 bytes at once.
fn small(version: Version) -> Bench {
    let mut bench = Bench::new(Config { data_transfer_size: 128, ..Config::default() });
    bench.version = version;
    bench.data_transfer_size = 128;
    bench.connect();
    bench
}

/// Chunks of a request, none larger than `size` bytes.
fn chunks(version: Version, handle: u8, request: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (head, rest) = request.split_at(size - 16);
    let count = rest.chunks(size - 12).count();
    let all = core::iter::once(head).chain(rest.chunks(size - 12));
    all.enumerate()
        .map(|(index, chunk)| {
            let sequence = u16::try_from(index).unwrap();
            let large_size = (index == 0).then(|| u32::try_from(request.len()).unwrap());
            let chunk = ChunkSend { version, last: index == count, handle, sequence, large_size, chunk };
            bytes(|writer| chunk.write(writer))
        })
        .collect()
}

impl Bench {
    /// Sends the same way that `exchange` does; fetches a large response in chunks.
    fn fetch(&mut self, mut exchange: impl FnMut(&mut Self, &[u8]) -> Vec<u8>, request: &[u8]) -> Vec<u8> {
        let response = exchange(self, request);
        let version = self.version;
        let error = read(&response, |reader| ErrorResponse::read(reader, version));
        assert_eq!(error.code, ErrorCode::LARGE_RESPONSE, "{response:02x?}");
        let ErrorData::LargeResponse(handle) = error.extended else { panic!("no handle") };
        self.fetch_chunks(exchange, handle)
    }

    fn fetch_chunks(&mut self, mut exchange: impl FnMut(&mut Self, &[u8]) -> Vec<u8>, handle: u8) -> Vec<u8> {
        let version = self.version;
        let mut large = Vec::new();
        for sequence in 0.. {
            let get = bytes(|writer| ChunkGet { version, handle, sequence }.write(writer));
            let response = exchange(self, &get);
            assert!(response.len() <= 128);
            let chunk = read(&response, |reader| ChunkResponse::read(reader, version));
            assert_eq!((chunk.handle, chunk.sequence), (handle, sequence));
            large.extend_from_slice(chunk.chunk);
            if chunk.last {
                break;
            }
            assert_eq!(response.len(), 128, "every chunk but the last is full");
        }
        large
    }

    /// Sends a large request in chunks; the response to it.
    fn send_chunks(
        &mut self,
        mut exchange: impl FnMut(&mut Self, &[u8]) -> Vec<u8>,
        handle: u8,
        request: &[u8],
    ) -> Vec<u8> {
        let size = usize::try_from(self.responder.config().data_transfer_size).unwrap();
        let chunks = chunks(self.version, handle, request, size);
        let version = self.version;
        let mut last = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let response = exchange(self, chunk);
            let ack = read(&response, |reader| ChunkSendAck::read(reader, version));
            assert!(!ack.early_error);
            assert_eq!((ack.handle, usize::from(ack.sequence)), (handle, index));
            assert_eq!(ack.response.is_empty(), index + 1 < chunks.len());
            last = ack.response.to_vec();
        }
        last
    }
}

#[test]
fn a_large_response_comes_in_chunks() {
    for version in Version::SPOKEN {
        let mut bench = small(version);
        let request = bench.get_certificate(SlotId::ZERO, 0, 0xffff);
        let response = bench.fetch(Bench::clear, &request);
        let certificate = read(&response, |reader| Certificate::read(reader, version));
        let digest = bench.crypto.digest(HashAlgo::Sha384, certificate.portion);
        assert_eq!((certificate.remainder, digest), (0, bench.chain_digest(SlotId::ZERO)));
    }
}

#[test]
fn a_large_message_counts_in_transcripts_as_if_it_had_come_at_once() {
    let mut bench = small(Version::V1_3);
    let request = bench.challenge(SlotId::ZERO, SummaryHash::All);
    let response = bench.fetch(Bench::clear, &request);
    let signature = response.len() - 96;
    let log = bench.transcript.authentication().unwrap();
    let digest = log.digest_with(&[&request, &response[..signature]]);
    bench.verify(SlotId::ZERO, Context::ChallengeAuth, &digest, &response[signature..]);
}

#[test]
fn chunks_do_not_break_off_what_is_measured() {
    let mut bench = small(Version::V1_2);
    let request = bench.get_measurements(MeasurementOperation::All, None);
    let unsigned = bench.fetch(Bench::clear, &request);
    let asked = bench.get_measurements(MeasurementOperation::All, Some(SlotId::ZERO));
    let signed = bench.fetch(Bench::clear, &asked);
    let signature = signed.len() - 96;
    let log = bench.transcript.measurements().unwrap();
    let digest = log.digest_with(&[&request, &unsigned, &asked, &signed[..signature]]);
    bench.verify(SlotId::ZERO, Context::Measurements, &digest, &signed[signature..]);
}

#[test]
fn a_large_request_with_a_large_response_opens_a_session_and_chunks_go_on_inside_of_it() {
    for version in Version::SPOKEN {
        let mut bench = small(version);
        let ephemeral = bench.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
        let request = bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, ephemeral.public());
        assert!(request.len() > 128);
        let refused = bench.send_chunks(Bench::clear, 7, &request);
        let error = read(&refused, |reader| ErrorResponse::read(reader, version));
        let ErrorData::LargeResponse(handle) = error.extended else { panic!("{refused:02x?}") };
        let response = bench.fetch_chunks(Bench::clear, handle);
        let mut talk = bench.keyed(SlotId::ZERO, SummaryHash::None, ephemeral, &request, response);
        bench.finish(&mut talk);

        let mut session = talk.session;
        let mut secured = |bench: &mut Bench, message: &[u8]| bench.secured(&mut session, message);
        let payload: Vec<u8> = (0..=255).collect();
        let request = bench.vendor_request(&payload);
        let refused = bench.send_chunks(&mut secured, 8, &request);
        let error = read(&refused, |reader| ErrorResponse::read(reader, version));
        let ErrorData::LargeResponse(handle) = error.extended else { panic!("{refused:02x?}") };
        let response = bench.fetch_chunks(&mut secured, handle);
        let response = read(&response, |reader| VendorDefined::read_response(reader, version));
        assert!(response.payload.iter().rev().eq(&payload));
    }
}

#[test]
fn a_finish_in_chunks_starts_the_session() {
    // NEGOTIATE_ALGORITHMS fits in one object, FINISH does not.
    let mut bench = Bench::new(Config { data_transfer_size: 48, ..Config::default() });
    bench.connect();
    let ephemeral = bench.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
    let request = bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, ephemeral.public());
    let response = bench.send_chunks(Bench::clear, 1, &request);
    let mut talk = bench.keyed(SlotId::ZERO, SummaryHash::None, ephemeral, &request, response);
    let request = bench.finish_request(&talk);
    let mut response = Vec::new();
    for chunk in chunks(Version::V1_2, 1, &request, 48) {
        response = bench.secured(&mut talk.session, &chunk);
    }
    let ack = read(&response, |reader| ChunkSendAck::read(reader, Version::V1_2));
    assert_eq!(ack.response, [0x12, ResponseCode::FINISH_RSP.0, 0, 0]);
    let th2 = talk.transcript.digest_with(&[&request, ack.response]);
    talk.session.enter_data(&th2).unwrap();
    bench.secured(&mut talk.session, &bench.bare(RequestCode::HEARTBEAT));
}

#[test]
fn a_refused_large_request_is_refused_in_the_last_acknowledgement() {
    let mut bench = small(Version::V1_2);
    let ephemeral = bench.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
    let request = bench.key_exchange_request(NOBODY, SummaryHash::None, ephemeral.public());
    let refused = bench.error(ErrorCode::INVALID_REQUEST);
    assert_eq!(bench.send_chunks(Bench::clear, 1, &request), refused);
    let mut mismatch = request.clone();
    mismatch[0] = 0x13;
    let refused = bench.error(ErrorCode::VERSION_MISMATCH);
    assert_eq!(bench.send_chunks(Bench::clear, 2, &mismatch), refused);
    let mut get_version = request.clone();
    get_version[1] = RequestCode::GET_VERSION.0;
    let chunk = chunks(Version::V1_2, 4, &[0; 400], 200).remove(0);
    for nested in [get_version, chunk] {
        let refused = bench.error(ErrorCode::INVALID_REQUEST);
        assert_eq!(bench.send_chunks(Bench::clear, 3, &nested), refused);
    }
    assert_eq!(bench.clear(&bench.bare(RequestCode::HEARTBEAT)), bench.error(ErrorCode::SESSION_REQUIRED));
}

#[test]
fn a_transfer_is_not_interrupted_but_by_get_version() {
    let mut bench = small(Version::V1_2);
    let unexpected = bench.error(ErrorCode::UNEXPECTED_REQUEST);
    let version = bench.version;
    let response = bench.clear(&bench.get_certificate(SlotId::ZERO, 0, 0xffff));
    let handle = *response.last().unwrap();
    let get = |sequence, handle| bytes(|writer| ChunkGet { version, handle, sequence }.write(writer));
    for request in [bench.get_digests(), chunks(version, 1, &[0; 200], 128)[0].clone()] {
        assert_eq!(bench.clear(&request), unexpected);
    }
    for wrong in [get(1, handle), get(0, handle ^ 1)] {
        assert_eq!(bench.clear(&wrong), bench.error(ErrorCode::INVALID_REQUEST));
    }
    assert_eq!(bench.clear(&get(0, handle))[1], ResponseCode::CHUNK_RESPONSE.0);
    assert_eq!(bench.clear(&bench.get_digests()), unexpected);
    bench.connect();
    assert_eq!(bench.clear(&bench.get_digests())[1], ResponseCode::DIGESTS.0);
    assert_eq!(bench.clear(&get(1, handle)), unexpected);

    let all = chunks(version, 1, &[0; 300], 128);
    bench.clear(&all[0]);
    for request in [bench.get_digests(), get(0, handle)] {
        assert_eq!(bench.clear(&request), unexpected);
    }
    assert_eq!(bench.clear(&all[1])[1], ResponseCode::CHUNK_SEND_ACK.0);
    bench.connect();
    assert_eq!(bench.clear(&bench.get_digests())[1], ResponseCode::DIGESTS.0);
}

#[test]
fn a_transfer_belongs_to_the_session_that_began_it() {
    let mut bench = small(Version::V1_2);
    let ephemeral = bench.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
    let request = bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, ephemeral.public());
    let refused = bench.send_chunks(Bench::clear, 7, &request);
    let response = bench.fetch_chunks(Bench::clear, *refused.last().unwrap());
    let mut talk = bench.keyed(SlotId::ZERO, SummaryHash::None, ephemeral, &request, response);
    bench.finish(&mut talk);
    let large = bench.get_certificate(SlotId::ZERO, 0, 500);
    let response = bench.secured(&mut talk.session, &large);
    let handle = *response.last().unwrap();
    let get = bytes(|writer| ChunkGet { version: Version::V1_2, handle, sequence: 0 }.write(writer));
    assert_eq!(bench.clear(&get), bench.error(ErrorCode::UNEXPECTED_REQUEST));
    assert_eq!(bench.clear(&bench.get_digests())[1], ResponseCode::DIGESTS.0, "the clear has no transfer");
    assert_eq!(bench.secured(&mut talk.session, &get)[1], ResponseCode::CHUNK_RESPONSE.0);
}

#[test]
fn chunks_out_of_line_end_the_transfer_with_an_early_error() {
    type Change = fn(&mut ChunkSend<'_>);
    let version = Version::V1_2;
    let sound = chunks(version, 5, &[0xe4; 400], 128);
    let wrong: [(usize, Change); 8] = [
        (0, |chunk| chunk.last = true),
        (0, |chunk| chunk.large_size = Some(0x1_2001)),
        (0, |chunk| chunk.large_size = Some(112)),
        (1, |chunk| chunk.handle = 6),
        (1, |chunk| chunk.sequence = 2),
        (1, |chunk| chunk.last = true),
        (1, |chunk| chunk.chunk = &chunk.chunk[..29]),
        (3, |chunk| chunk.last = false),
    ];
    for (index, (at, change)) in wrong.into_iter().enumerate() {
        let mut bench = small(version);
        for chunk in &sound[..at] {
            bench.clear(chunk);
        }
        let mut chunk = read(&sound[at], |reader| ChunkSend::read(reader, version));
        change(&mut chunk);
        let response = bench.clear(&bytes(|writer| chunk.write(writer)));
        let ack = read(&response, |reader| ChunkSendAck::read(reader, version));
        assert!(ack.early_error, "change {index}");
        let code = if index == 1 { ErrorCode::REQUEST_TOO_LARGE } else { ErrorCode::INVALID_REQUEST };
        assert_eq!(ack.response, bench.error(code), "change {index}");
        assert_eq!(bench.clear(&bench.get_digests())[1], ResponseCode::DIGESTS.0, "the transfer is over");
    }
}

#[test]
fn a_chunk_larger_than_one_object_may_be_is_refused() {
    let mut bench = small(Version::V1_2);
    let response = bench.clear(&chunks(Version::V1_2, 1, &[0; 400], 129)[0]);
    let ack = read(&response, |reader| ChunkSendAck::read(reader, Version::V1_2));
    assert!(ack.early_error);
    let response = bench.clear(&chunks(Version::V1_2, 1, &[0; 400], 128)[0]);
    let ack = read(&response, |reader| ChunkSendAck::read(reader, Version::V1_2));
    assert!(!ack.early_error);
}

#[test]
fn a_response_that_no_chunks_can_carry_is_too_large_and_nothing_happens() {
    let mut bench = Bench::new(Config::default());
    (bench.data_transfer_size, bench.max_message_size) = (64, 181);
    bench.connect();
    let request = bench.challenge(SlotId::ZERO, SummaryHash::None);
    let response = bench.clear(&request);
    let error = read(&response, |reader| ErrorResponse::read(reader, Version::V1_2));
    assert_eq!((error.code, error.extended), (ErrorCode::RESPONSE_TOO_LARGE, ErrorData::TooLarge(182)));

    bench.max_message_size = 300;
    bench.connect();
    let ephemeral = bench.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
    let request = bench.key_exchange_request(SlotId::ZERO, SummaryHash::All, ephemeral.public());
    let response = bench.clear(&request);
    assert_eq!(response[2], ErrorCode::RESPONSE_TOO_LARGE.0);
    assert_eq!(bench.responder.sessions().count(), 0);
}

#[test]
fn a_response_that_is_not_ready_is_asked_for_again() {
    for version in Version::SPOKEN {
        let mut bench = Bench::connected(version);
        bench.device.not_ready = 2;
        let request = bench.challenge(SlotId::ZERO, SummaryHash::None);
        let mut response = bench.clear(&request);
        for _ in 0..2 {
            let error = read(&response, |reader| ErrorResponse::read(reader, version));
            let ErrorData::NotReady(not_ready) = error.extended else { panic!("{response:02x?}") };
            assert_eq!((not_ready.exponent, not_ready.multiplier), (5, 3));
            assert_eq!(not_ready.request, RequestCode::CHALLENGE);
            let (request, token) = (not_ready.request, not_ready.token);
            response = bench.clear(&bytes(|writer| RespondIfReady { version, request, token }.write(writer)));
        }
        // RESPOND_IF_READY is part of no transcript.
        let signature = response.len() - 96;
        let log = bench.transcript.authentication().unwrap();
        let digest = log.digest_with(&[&request, &response[..signature]]);
        bench.verify(SlotId::ZERO, Context::ChallengeAuth, &digest, &response[signature..]);
    }
}

#[test]
fn a_session_waits_for_its_own_responses() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut talk = bench.key_exchange(SlotId::ZERO, SummaryHash::None);
    bench.device.not_ready = 1;
    let request = bench.finish_request(&talk);
    let response = bench.secured(&mut talk.session, &request);
    assert_eq!(response[2], ErrorCode::RESPONSE_NOT_READY.0);
    let again = [0x12, RequestCode::RESPOND_IF_READY.0, RequestCode::FINISH.0, response[6]];
    assert_eq!(bench.clear(&again), bench.error(ErrorCode::UNEXPECTED_REQUEST));
    let response = bench.secured(&mut talk.session, &again);
    assert_eq!(response[1], ResponseCode::FINISH_RSP.0);
    let th2 = talk.transcript.digest_with(&[&request, &response]);
    talk.session.enter_data(&th2).unwrap();
    let response = bench.secured(&mut talk.session, &again);
    assert_eq!(response, bench.error(ErrorCode::UNEXPECTED_REQUEST), "it was answered");
}

#[test]
fn a_question_for_another_response_than_the_one_that_waits_is_refused() {
    let mut bench = Bench::connected(Version::V1_2);
    let ask = |request: RequestCode, token| [0x12, RequestCode::RESPOND_IF_READY.0, request.0, token];
    let unexpected = bench.error(ErrorCode::UNEXPECTED_REQUEST);
    assert_eq!(bench.clear(&ask(RequestCode::GET_DIGESTS, 1)), unexpected);
    bench.device.not_ready = 1;
    let token = bench.clear(&bench.get_digests())[6];
    let invalid = bench.error(ErrorCode::INVALID_REQUEST);
    assert_eq!(bench.clear(&ask(RequestCode::CHALLENGE, token)), invalid);
    assert_eq!(bench.clear(&ask(RequestCode::GET_DIGESTS, token ^ 1)), invalid);
    assert_eq!(bench.clear(&ask(RequestCode::GET_DIGESTS, token))[1], ResponseCode::DIGESTS.0);

    bench.device.not_ready = 1;
    let token = bench.clear(&bench.get_digests())[6];
    assert_eq!(bench.clear(&bench.get_digests())[1], ResponseCode::DIGESTS.0);
    let dropped = bench.clear(&ask(RequestCode::GET_DIGESTS, token));
    assert_eq!(dropped, unexpected, "another request took its place");
}
