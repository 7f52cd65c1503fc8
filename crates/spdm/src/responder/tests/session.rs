use super::*;

#[test]
fn a_session_goes_from_get_version_to_finish_and_its_end() {
    for version in Version::SPOKEN {
        let mut bench = Bench::connected(version);
        let mut talk = bench.key_exchange(SlotId::ZERO, SummaryHash::All);
        assert!(bench.device.heard.is_empty());
        bench.finish(&mut talk);
        let mut session = talk.session;
        assert_eq!(bench.device.heard, [Heard::Started(session.id())]);

        let response = bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT));
        assert_eq!(response, [version.0, ResponseCode::HEARTBEAT_ACK.0, 0, 0]);
        let response = bench.secured(&mut session, &bench.bare(RequestCode::END_SESSION));
        assert_eq!(response, [version.0, ResponseCode::END_SESSION_ACK.0, 0, 0]);
        assert_eq!(bench.device.heard[1..], [Heard::Ended(session.id(), SessionEnd::Asked)]);
        assert_eq!(bench.responder.sessions().count(), 0);
    }
}

#[test]
fn every_slot_can_open_a_session() {
    let mut bench = Bench::connected(Version::V1_2);
    for slot in [SlotId::ZERO, SLOT_4] {
        let mut talk = bench.key_exchange(slot, SummaryHash::None);
        bench.finish(&mut talk);
        let id = talk.session.id();
        let info = SessionInfo { id, phase: Phase::Data, slot };
        assert_eq!(bench.responder.sessions().last(), Some(info));
    }
}

#[test]
fn key_exchange_chooses_the_preferred_version_of_secured_messages() {
    let mut bench = Bench::connected(Version::V1_2);
    let talk = bench.key_exchange(SlotId::ZERO, SummaryHash::None);
    let layout = bench.layout();
    let response = read(&talk.response, |reader| KeyExchangeRsp::read(reader, &layout, false));
    let chosen = OpaqueData::parse(response.opaque).unwrap().selected_version();
    assert_eq!(chosen, Ok(Some(VersionNumber(0x1200))));
    assert_eq!((response.heartbeat, response.mutual_auth), (0x20, MutualAuth::None));
}

#[test]
fn a_key_exchange_that_cannot_be_is_refused_and_leaves_no_session() {
    let mut bench = Bench::connected(Version::V1_3);
    let ephemeral = bench.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
    let sound = bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, ephemeral.public());
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut request = sound.clone();
        change(&mut request);
        request
    };
    let opaque = 40 + 96;
    let requests = [
        changed(&|request| request[3] = 3),
        changed(&|request| request[3] = 0xff),
        changed(&|request| request[2] = 2),
        changed(&|request| request[2] = 0xfe),
        changed(&|request| request[6] = 2),
        changed(&|request| request[7] = 1),
        changed(&|request| request[opaque..opaque + 2].fill(0xff)),
        changed(&|request| request[opaque..].fill(0)),
        changed(&|request| request.truncate(opaque)),
        // The versions of secured messages: only 1.0.
        changed(&|request| request[opaque + 2 + 4 + 8..].fill(0x10)),
        // A point that is not on the curve.
        changed(&|request| request[40 + 95] ^= 1),
        changed(&|request| request[40..40 + 96].fill(0)),
    ];
    for (index, request) in requests.iter().enumerate() {
        assert_eq!(bench.clear(request), bench.error(ErrorCode::INVALID_REQUEST), "request {index}");
    }
    assert_eq!(bench.responder.sessions().count(), 0);
    assert_eq!(bench.clear(&sound)[1], ResponseCode::KEY_EXCHANGE_RSP.0);
}

#[test]
fn sessions_need_opaque_data_of_format_1() {
    let mut bench = Bench::new(Config::default());
    bench.get_version();
    bench.clear(&bench.capabilities());
    let mut offer = bench.offer();
    offer.other_params = OtherParams::new();
    bench.clear(&bytes(|writer| offer.write(writer)));
    let ephemeral = bench.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
    let request = bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, ephemeral.public());
    assert_eq!(bench.clear(&request), bench.error(ErrorCode::INVALID_REQUEST));
}

#[test]
fn more_sessions_than_the_limit_are_refused_until_one_ends() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut sessions: Vec<Session> = (0..4).map(|_| bench.start()).collect();
    let mut ids: Vec<SessionId> = sessions.iter().map(Session::id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    let ephemeral = bench.crypto.ephemeral(DheGroup::Secp384r1).unwrap();
    let request = bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, ephemeral.public());
    assert_eq!(bench.clear(&request), bench.error(ErrorCode::SESSION_LIMIT_EXCEEDED));
    bench.secured(&mut sessions[1], &bench.bare(RequestCode::END_SESSION));
    assert_eq!(bench.clear(&request)[1], ResponseCode::KEY_EXCHANGE_RSP.0);
    // The others have not noticed.
    for index in [0, 2, 3] {
        let response = bench.secured(&mut sessions[index], &bench.bare(RequestCode::HEARTBEAT));
        assert_eq!(response[1], ResponseCode::HEARTBEAT_ACK.0);
    }
}

#[test]
fn a_half_of_a_session_id_is_not_0_and_not_taken() {
    let mut bench = Bench::connected(Version::V1_2);
    let halves = [0xfffe, 0xfffe].map(|last| {
        bench.responder.last_session = last;
        [(); 2].map(|()| bench.key_exchange(SlotId::ZERO, SummaryHash::None).session.id().responder())
    });
    assert_eq!(halves, [[0xffff, 1], [2, 3]]);
}

#[test]
fn a_handshake_accepts_nothing_but_finish() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut talk = bench.key_exchange(SlotId::ZERO, SummaryHash::None);
    for request in [
        bench.bare(RequestCode::GET_VERSION),
        bench.capabilities(),
        bench.algorithms(),
        bench.get_digests(),
        bench.get_certificate(SlotId::ZERO, 0, 10),
        bench.challenge(SlotId::ZERO, SummaryHash::None),
        bench.get_measurements(MeasurementOperation::Total, None),
        bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, &[0; 96]),
        bench.bare(RequestCode::HEARTBEAT),
        vec![0x12, RequestCode::KEY_UPDATE.0, 1, 0],
        bench.bare(RequestCode::END_SESSION),
        bench.vendor_request(&[1, 2]),
    ] {
        let response = bench.secured(&mut talk.session, &request);
        assert_eq!(response, bench.error(ErrorCode::UNEXPECTED_REQUEST), "{request:02x?}");
    }
    bench.finish(&mut talk);
}

#[test]
fn the_data_phase_refuses_what_belongs_before_it() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    for request in [
        vec![0x10, RequestCode::GET_VERSION.0, 0, 0],
        bench.capabilities(),
        bench.algorithms(),
        bench.challenge(SlotId::ZERO, SummaryHash::None),
        bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, &[0; 96]),
        bench.bare(RequestCode::FINISH),
    ] {
        let response = bench.secured(&mut session, &request);
        assert_eq!(response, bench.error(ErrorCode::UNEXPECTED_REQUEST), "{request:02x?}");
    }
    assert_eq!(bench.secured(&mut session, &bench.get_digests())[1], ResponseCode::DIGESTS.0);
}

#[test]
fn a_malformed_finish_is_refused_and_a_sound_one_still_works() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut talk = bench.key_exchange(SlotId::ZERO, SummaryHash::None);
    let sound = bench.finish_request(&talk);
    let mut signed = sound.clone();
    signed[2] = 1;
    let mut slot = sound.clone();
    slot[3] = 1;
    let short = sound[..4].to_vec();
    let long = [&sound[..], &[0]].concat();
    for request in [signed, slot, short, long] {
        let response = bench.secured(&mut talk.session, &request);
        assert_eq!(response, bench.error(ErrorCode::INVALID_REQUEST));
    }
    let mut other = sound;
    other[0] = 0x13;
    let response = bench.secured(&mut talk.session, &other);
    assert_eq!(response, bench.error(ErrorCode::VERSION_MISMATCH));
    bench.finish(&mut talk);
}

#[test]
fn a_finish_that_proves_nothing_ends_the_session_unheard() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut talk = bench.key_exchange(SlotId::ZERO, SummaryHash::None);
    let mut request = bench.finish_request(&talk);
    request[20] ^= 1;
    let response = bench.secured(&mut talk.session, &request);
    assert_eq!(response, bench.error(ErrorCode::DECRYPT_ERROR));
    assert_eq!(bench.responder.sessions().count(), 0);
    assert!(bench.device.heard.is_empty());
    bench.start();
}

#[test]
fn a_forged_message_ends_its_session_and_no_other() {
    let mut bench = Bench::connected(Version::V1_2);
    let (mut one, mut other) = (bench.start(), bench.start());
    let mut object = Vec::new();
    one.seal(&bench.bare(RequestCode::HEARTBEAT), &mut object).unwrap();
    *object.last_mut().unwrap() ^= 1;
    let reply = bench.exchange(Kind::Secured, &object).unwrap();
    assert_eq!(reply, Reply { kind: Kind::Clear, payload: bench.error(ErrorCode::DECRYPT_ERROR) });
    let ended = Heard::Ended(one.id(), SessionEnd::NotAuthentic);
    assert_eq!(bench.device.heard.last(), Some(&ended));
    assert_eq!(bench.exchange(Kind::Secured, &object), None, "nobody is there any more");
    let response = bench.secured(&mut other, &bench.bare(RequestCode::HEARTBEAT));
    assert_eq!(response[1], ResponseCode::HEARTBEAT_ACK.0);
}

#[test]
fn a_replayed_message_ends_the_session() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    let mut object = Vec::new();
    session.seal(&bench.vendor_request(&[1]), &mut object).unwrap();
    assert!(bench.exchange(Kind::Secured, &object).is_some());
    let reply = bench.exchange(Kind::Secured, &object).unwrap();
    assert_eq!(reply.payload, bench.error(ErrorCode::DECRYPT_ERROR));
    assert_eq!(bench.responder.sessions().count(), 0);
}

#[test]
fn secured_messages_that_are_none_are_dropped_and_break_nothing() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    let mut object = Vec::new();
    session.seal(&bench.bare(RequestCode::HEARTBEAT), &mut object).unwrap();
    let mut stranger = object.clone();
    stranger[0] ^= 1;
    let mut length = object.clone();
    length[4] ^= 0xff;
    let long = [&object[..], &[0; 4]].concat();
    for dropped in [&[][..], &[1, 2, 3], &object[..6], &stranger, &length, &long] {
        assert_eq!(bench.exchange(Kind::Secured, dropped), None);
    }
    let reply = bench.exchange(Kind::Secured, &object).unwrap();
    assert_eq!(session.open(&reply.payload).unwrap()[1], ResponseCode::HEARTBEAT_ACK.0);
}

#[test]
fn a_message_inside_a_session_has_no_padding() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    let request = [&bench.bare(RequestCode::HEARTBEAT)[..], &[0]].concat();
    assert_eq!(bench.secured(&mut session, &request), bench.error(ErrorCode::INVALID_REQUEST));
}

#[test]
fn silence_for_twice_the_heartbeat_period_ends_a_session() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut heard = bench.start();
    let silent = bench.start();
    bench.now += Duration::from_secs(63);
    bench.secured(&mut heard, &bench.bare(RequestCode::HEARTBEAT));
    bench.responder.tick(bench.now, &mut bench.device);
    assert_eq!(bench.responder.sessions().count(), 2);
    bench.now += Duration::from_secs(1);
    bench.responder.tick(bench.now, &mut bench.device);
    let ended = Heard::Ended(silent.id(), SessionEnd::Heartbeat);
    assert_eq!(bench.device.heard.last(), Some(&ended));
    assert_eq!(bench.responder.sessions().map(|info| info.id).collect::<Vec<_>>(), [heard.id()]);

    bench.now += Duration::from_secs(63);
    let mut object = Vec::new();
    heard.seal(&bench.bare(RequestCode::HEARTBEAT), &mut object).unwrap();
    assert_eq!(bench.exchange(Kind::Secured, &object), None, "too late by a second");
    let ended = Heard::Ended(heard.id(), SessionEnd::Heartbeat);
    assert_eq!(bench.device.heard.last(), Some(&ended));
}

#[test]
fn a_handshake_that_is_not_finished_gives_its_place_up_in_time() {
    let config = Config { max_sessions: 1, ..Config::default() };
    let mut bench = Bench::new(config);
    bench.connect();
    bench.key_exchange(SlotId::ZERO, SummaryHash::None);
    bench.now += Duration::from_secs(64);
    bench.start();
    assert_eq!(bench.device.heard.len(), 1, "nobody hears of a session that never started");
}

#[test]
fn without_heartbeats_a_session_lasts_and_refuses_them() {
    let mut bench = Bench::new(Config { heartbeat_period: 0, ..Config::default() });
    bench.connect();
    let mut session = bench.start();
    bench.now += Duration::from_secs(1_000_000);
    let response = bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT));
    assert_eq!(response, bench.error(ErrorCode::UNEXPECTED_REQUEST));

    let mut bench = Bench::new(Config::default());
    bench.flags.set_hbeat(false);
    bench.connect();
    let mut session = bench.start();
    bench.now += Duration::from_secs(1_000_000);
    let response = bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT));
    assert_eq!(response[2..], [ErrorCode::UNSUPPORTED_REQUEST.0, RequestCode::HEARTBEAT.0]);
}

impl Bench {
    fn key_update(&mut self, session: &mut Session, operation: u8, tag: u8) -> Vec<u8> {
        let request = [self.version.0, RequestCode::KEY_UPDATE.0, operation, tag];
        self.secured(session, &request)
    }

    /// `KEY_UPDATE` whose acknowledgement is sealed with the responder's new key.
    fn update_all(&mut self, session: &mut Session, tag: u8) {
        let mut object = Vec::new();
        session.seal(&[self.version.0, RequestCode::KEY_UPDATE.0, 2, tag], &mut object).unwrap();
        let reply = self.exchange(Kind::Secured, &object).unwrap();
        session.prepare_update(Direction::Response).unwrap();
        let response = session.open(&reply.payload).unwrap();
        assert_eq!(response[..], [self.version.0, ResponseCode::KEY_UPDATE_ACK.0, 2, tag]);
        session.commit(Direction::Response);
        session.prepare_update(Direction::Request).unwrap();
    }
}

#[test]
fn one_or_all_keys_are_updated_and_verified() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    for round in 0..3 {
        let ack = ResponseCode::KEY_UPDATE_ACK.0;
        assert_eq!(bench.key_update(&mut session, 1, round), [0x12, ack, 1, round]);
        session.prepare_update(Direction::Request).unwrap();
        assert_eq!(bench.key_update(&mut session, 3, 0x80), [0x12, ack, 3, 0x80]);
        bench.update_all(&mut session, round);
        assert_eq!(bench.key_update(&mut session, 3, 0x81), [0x12, ack, 3, 0x81]);
        let response = bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT));
        assert_eq!(response[1], ResponseCode::HEARTBEAT_ACK.0);
    }
    assert_eq!((session.updates(Direction::Request), session.updates(Direction::Response)), (6, 3));
}

#[test]
fn nothing_comes_between_an_update_and_its_verification() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    bench.key_update(&mut session, 1, 1);
    session.prepare_update(Direction::Request).unwrap();
    let unexpected = bench.error(ErrorCode::UNEXPECTED_REQUEST);
    assert_eq!(bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT)), unexpected);
    assert_eq!(bench.key_update(&mut session, 1, 1), unexpected);
    assert_eq!(bench.key_update(&mut session, 2, 2), unexpected);
    assert_eq!(bench.key_update(&mut session, 3, 3)[1], ResponseCode::KEY_UPDATE_ACK.0);
    let response = bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT));
    assert_eq!(response[1], ResponseCode::HEARTBEAT_ACK.0);
}

#[test]
fn there_is_nothing_to_verify_without_an_update() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    let unexpected = bench.error(ErrorCode::UNEXPECTED_REQUEST);
    assert_eq!(bench.key_update(&mut session, 3, 1), unexpected);
    for operation in [0, 4, 0xff] {
        assert_eq!(bench.key_update(&mut session, operation, 1), bench.error(ErrorCode::INVALID_REQUEST));
    }
    bench.key_update(&mut session, 1, 1);
    session.prepare_update(Direction::Request).unwrap();
    bench.key_update(&mut session, 3, 2);
    assert_eq!(bench.key_update(&mut session, 3, 2), unexpected, "a second time");
}

#[test]
fn an_update_asked_for_again_with_the_old_key_makes_our_half_only_once() {
    for (tag, again) in [(9, true), (10, false)] {
        let mut bench = Bench::connected(Version::V1_2);
        let mut session = bench.start();
        let ask = |bench: &mut Bench, session: &mut Session, tag| {
            let mut object = Vec::new();
            session.seal(&[0x12, RequestCode::KEY_UPDATE.0, 2, tag], &mut object).unwrap();
            bench.exchange(Kind::Secured, &object).unwrap()
        };
        let first = ask(&mut bench, &mut session, 9);
        session.prepare_update(Direction::Response).unwrap();
        session.open(&first.payload).unwrap();

        // The requester's half is undone by its old key; whether ours was made, the tag tells.
        let second = ask(&mut bench, &mut session, tag);
        if !again {
            session.prepare_update(Direction::Response).unwrap();
        }
        assert_eq!(session.open(&second.payload).unwrap()[1], ResponseCode::KEY_UPDATE_ACK.0);
        session.prepare_update(Direction::Request).unwrap();
        assert_eq!(bench.key_update(&mut session, 3, 1)[1], ResponseCode::KEY_UPDATE_ACK.0);
        assert_eq!(session.updates(Direction::Response), if again { 1 } else { 2 });
    }
}

#[test]
fn an_update_that_the_requester_took_back_leaves_the_session_as_it_was() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    bench.key_update(&mut session, 1, 1);
    // Still the old key: whatever the requester asks for is answered, and the update is off.
    let response = bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT));
    assert_eq!(response[1], ResponseCode::HEARTBEAT_ACK.0);
    assert_eq!(bench.key_update(&mut session, 3, 1), bench.error(ErrorCode::UNEXPECTED_REQUEST));
    assert_eq!(bench.key_update(&mut session, 1, 1)[1], ResponseCode::KEY_UPDATE_ACK.0);
    session.prepare_update(Direction::Request).unwrap();
    assert_eq!(bench.key_update(&mut session, 3, 2)[1], ResponseCode::KEY_UPDATE_ACK.0);
}

#[test]
fn vendor_defined_requests_reach_the_device_and_its_errors_the_requester() {
    let mut bench = Bench::connected(Version::V1_3);
    let mut session = bench.start();
    let request = bench.vendor_request(&[1, 2, 3]);
    let response = bench.secured(&mut session, &request);
    let response = read(&response, |reader| VendorDefined::read_response(reader, Version::V1_3));
    assert!(response.is_pci_sig());
    assert_eq!(response.payload, [3, 2, 1]);
    for (error, code) in [
        (VendorError::Invalid, ErrorCode::INVALID_REQUEST),
        (VendorError::Unexpected, ErrorCode::UNEXPECTED_REQUEST),
        (VendorError::Busy, ErrorCode::BUSY),
        (VendorError::Failed, ErrorCode::UNSPECIFIED),
    ] {
        bench.device.vendor_error = Some(error);
        assert_eq!(bench.secured(&mut session, &request), bench.error(code));
    }
    bench.device.vendor_error = Some(VendorError::Unsupported);
    let refused = [0x13, ResponseCode::ERROR.0, ErrorCode::UNSUPPORTED_REQUEST.0, 0xfe];
    assert_eq!(bench.secured(&mut session, &request), refused);
}

#[test]
fn a_session_ends_when_its_sequence_numbers_are_used_up() {
    let mut bench = Bench::new(Config { sequence_limit: Some(3), ..Config::default() });
    bench.connect();
    let mut session = bench.start();
    for _ in 0..3 {
        bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT));
    }
    let mut object = Vec::new();
    session.seal(&bench.bare(RequestCode::HEARTBEAT), &mut object).unwrap();
    let reply = bench.exchange(Kind::Secured, &object).unwrap();
    assert_eq!(reply, Reply { kind: Kind::Clear, payload: bench.error(ErrorCode::UNSPECIFIED) });
    let ended = Heard::Ended(session.id(), SessionEnd::SequenceExhausted);
    assert_eq!(bench.device.heard.last(), Some(&ended));
}

#[test]
fn requests_in_the_clear_go_on_beside_a_session() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    assert_eq!(bench.clear(&bench.get_digests())[1], ResponseCode::DIGESTS.0);
    let mut other = bench.start();
    for session in [&mut session, &mut other] {
        let response = bench.secured(session, &bench.get_digests());
        assert_eq!(response[1], ResponseCode::DIGESTS.0);
    }
}

#[test]
fn other_algorithms_open_sessions_too() {
    let mut bench = Bench::new(Config { asyms: vec![AsymAlgo::EcdsaP256], ..Config::default() });
    bench.get_version();
    let mut offer = bench.offer();
    offer.base_hash = HashAlgo::Sha256.bit();
    offer.tables.dhe = Some(AlgorithmTable::new(DheGroup::Secp256r1.bit()));
    offer.tables.aead = Some(AlgorithmTable::new(AeadAlgo::Aes128Gcm.bit()));
    let negotiate = bytes(|writer| offer.write(writer));
    for request in [bench.capabilities(), negotiate] {
        let response = bench.clear(&request);
        bench.transcript.append_vca(&request);
        bench.transcript.append_vca(&response);
    }
    let suite = Suite {
        hash: HashAlgo::Sha256,
        asym: AsymAlgo::EcdsaP256,
        dhe: Some(DheGroup::Secp256r1),
        aead: Some(AeadAlgo::Aes128Gcm),
        measurement_hash: Some(MeasurementHash::Hash(HashAlgo::Sha384)),
    };
    let crypto = Arc::clone(&bench.crypto);
    bench.transcript.agree(&*crypto, suite.hash);
    let chain = crate::x509::chain::build(&*crypto, suite.hash, &certificates(0)).unwrap();

    let ephemeral = crypto.ephemeral(DheGroup::Secp256r1).unwrap();
    let request = bench.key_exchange_request(SlotId::ZERO, SummaryHash::None, ephemeral.public());
    let response = bench.clear(&request);
    let layout = Layout::new(Version::V1_2, suite);
    let answer = read(&response, |reader| KeyExchangeRsp::read(reader, &layout, false));
    let mut transcript = bench.transcript.session(&crypto.digest(suite.hash, &chain)).unwrap();
    transcript.append(&request);
    transcript.append(&response[..response.len() - 64 - 32]);
    let (_, key) = &bench.keys[0];
    let context = Context::KeyExchangeRsp;
    let th = transcript.digest();
    signing::verify(&*crypto, key, suite.hash, Version::V1_2, context, &th, answer.signature).unwrap();
    transcript.append(answer.signature);
    let th1 = transcript.digest();
    let dhe = ephemeral.agree(answer.exchange).unwrap();
    let id = SessionId::new(0xa5a5, answer.session);
    let session = Session::new(&crypto, suite, Version::V1_2, id, Role::Requester, dhe, &th1).unwrap();
    let mac = session.finished_mac(Direction::Response, &th1).unwrap();
    assert_eq!(answer.verify_data, Some(&*mac));
    transcript.append(&mac);
    bench.finish(&mut Talk { session, transcript, response: response.clone() });
}

#[test]
fn the_proof_of_an_update_may_have_to_be_asked_for_again() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    assert_eq!(bench.key_update(&mut session, 1, 7)[1], ResponseCode::KEY_UPDATE_ACK.0);
    session.prepare_update(Direction::Request).unwrap();
    bench.device.not_ready = 1;
    let response = bench.key_update(&mut session, 3, 8);
    assert_eq!(response[2], ErrorCode::RESPONSE_NOT_READY.0);
    let again = [0x12, RequestCode::RESPOND_IF_READY.0, RequestCode::KEY_UPDATE.0, response[6]];
    assert_eq!(bench.secured(&mut session, &again), [0x12, ResponseCode::KEY_UPDATE_ACK.0, 3, 8]);
    assert_eq!(
        bench.secured(&mut session, &bench.bare(RequestCode::HEARTBEAT))[1],
        ResponseCode::HEARTBEAT_ACK.0
    );
}
