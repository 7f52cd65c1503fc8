use super::*;

#[test]
fn get_version_lists_the_versions_of_the_configuration() {
    let response = Bench::new(Config::default()).get_version();
    assert_eq!(response, [0x10, ResponseCode::VERSION.0, 0, 0, 0, 2, 0, 0x12, 0, 0x13]);
    let mut only = Bench::new(Config { versions: vec![Version::V1_3], ..Config::default() });
    assert_eq!(only.get_version(), [0x10, ResponseCode::VERSION.0, 0, 0, 0, 1, 0, 0x13]);
}

#[test]
fn get_version_of_another_version_than_1_0_is_refused_and_ends_nothing() {
    let mut bench = Bench::connected(Version::V1_2);
    let session = bench.start();
    let response = bench.clear(&[0x12, RequestCode::GET_VERSION.0, 0, 0]);
    assert_eq!(response, bench.error(ErrorCode::VERSION_MISMATCH));
    assert_eq!(bench.responder.sessions().map(|info| info.id).collect::<Vec<_>>(), [session.id()]);
}

#[test]
fn requests_before_their_turn_are_unexpected() {
    let mut bench = Bench::new(Config::default());
    let refused = [0x10, ResponseCode::ERROR.0, ErrorCode::UNEXPECTED_REQUEST.0, 0];
    assert_eq!(bench.clear(&bench.capabilities()), refused, "before GET_VERSION");
    bench.get_version();
    assert_eq!(bench.clear(&bench.algorithms()), refused, "before GET_CAPABILITIES");
    assert_eq!(bench.clear(&bench.get_digests()), refused, "before GET_CAPABILITIES");
    let response = bench.clear(&bench.capabilities());
    assert_eq!(response[1], ResponseCode::CAPABILITIES.0);
    assert_eq!(bench.clear(&bench.get_digests()), bench.error(ErrorCode::UNEXPECTED_REQUEST));
    let response = bench.clear(&bench.algorithms());
    assert_eq!(response[1], ResponseCode::ALGORITHMS.0);
    assert_eq!(bench.clear(&bench.get_digests())[1], ResponseCode::DIGESTS.0);
}

#[test]
fn the_same_capabilities_again_get_the_same_answer_and_count_once() {
    let mut bench = Bench::new(Config::default());
    bench.get_version();
    for request in [bench.capabilities(), bench.algorithms()] {
        let response = bench.clear(&request);
        assert_eq!(bench.clear(&request), response);
        bench.transcript.append_vca(&request);
        bench.transcript.append_vca(&response);
    }
    let crypto = Arc::clone(&bench.crypto);
    bench.transcript.agree(&*crypto, HashAlgo::Sha384);
    // The signature stands on VCA with each message once.
    bench.key_exchange(SlotId::ZERO, SummaryHash::None);
}

#[test]
fn other_capabilities_or_algorithms_than_before_are_unexpected() {
    let mut bench = Bench::connected(Version::V1_2);
    let unexpected = bench.error(ErrorCode::UNEXPECTED_REQUEST);
    assert_eq!(bench.clear(&bench.capabilities()), unexpected, "GET_CAPABILITIES behind ALGORITHMS");
    bench.get_version();
    bench.clear(&bench.capabilities());
    let mut other = bench.capabilities();
    other[3] = 1;
    assert_eq!(bench.clear(&other), unexpected, "a reserved byte is no way around the order");
    bench.flags.set_hbeat(false);
    assert_eq!(bench.clear(&bench.capabilities()), unexpected);
    let algorithms = bench.algorithms();
    bench.clear(&algorithms);
    let mut other = algorithms.clone();
    other[3] = 1;
    assert_eq!(bench.clear(&other), unexpected);
    bench.clear(&bench.get_digests());
    assert_eq!(bench.clear(&algorithms), unexpected, "the same one, but not at once");
}

#[test]
fn versions_that_were_not_agreed_on_are_a_mismatch() {
    let mut bench = Bench::new(Config::default());
    bench.get_version();
    for version in [0x10, 0x11, 0x14, 0xff] {
        let mut request = bench.capabilities();
        request[0] = version;
        let refused = [0x10, ResponseCode::ERROR.0, ErrorCode::VERSION_MISMATCH.0, 0];
        assert_eq!(bench.clear(&request), refused);
    }
    bench.connect();
    for version in [0x10, 0x11, 0x13, 0x14] {
        for mut request in [bench.get_digests(), bench.challenge(SlotId::ZERO, SummaryHash::None)] {
            request[0] = version;
            assert_eq!(bench.clear(&request), bench.error(ErrorCode::VERSION_MISMATCH));
        }
    }
}

#[test]
fn a_malformed_get_capabilities_is_refused_in_its_version_and_a_sound_one_still_works() {
    let mut bench = Bench::new(Config::default());
    bench.version = Version::V1_3;
    bench.get_version();
    let sound = bench.capabilities();
    bench.flags.set_mac(false);
    bench.flags.set_encrypt(false);
    let no_cipher = bench.capabilities();
    bench.flags.set_mac(true);
    bench.data_transfer_size = 41;
    let too_small = bench.capabilities();
    let short = sound[..16].to_vec();
    for request in [no_cipher, too_small, short] {
        assert_eq!(bench.clear(&request), bench.error(ErrorCode::INVALID_REQUEST));
    }
    assert_eq!(bench.clear(&sound)[1], ResponseCode::CAPABILITIES.0);
}

#[test]
fn more_than_three_bytes_of_padding_or_padding_that_is_not_zero_is_refused() {
    let mut bench = Bench::connected(Version::V1_2);
    let digests = bench.get_digests();
    for padding in [&[][..], &[0], &[0, 0], &[0, 0, 0]] {
        let reply = bench.exchange(Kind::Clear, &[&digests[..], padding].concat()).unwrap();
        assert_eq!(reply.payload[1], ResponseCode::DIGESTS.0);
    }
    for padding in [&[0, 0, 0, 0][..], &[1], &[0, 0, 1]] {
        let reply = bench.exchange(Kind::Clear, &[&digests[..], padding].concat()).unwrap();
        assert_eq!(reply.payload, bench.error(ErrorCode::INVALID_REQUEST));
    }
}

#[test]
fn a_message_without_a_whole_header_is_invalid() {
    let mut bench = Bench::connected(Version::V1_2);
    for size in 0..4 {
        let reply = bench.exchange(Kind::Clear, &bench.get_digests()[..size]).unwrap();
        assert_eq!(reply.payload, bench.error(ErrorCode::INVALID_REQUEST));
    }
}

#[test]
fn algorithms_are_the_responders_preference_out_of_what_is_offered() {
    let mut bench = Bench::new(Config { asyms: AsymAlgo::ALL.to_vec(), ..Config::default() });
    let mut negotiate = |offer: &dyn Fn(&mut NegotiateAlgorithms<'_>)| {
        bench.get_version();
        bench.clear(&bench.capabilities());
        let mut request = bench.offer();
        offer(&mut request);
        bench.clear(&bytes(|writer| request.write(writer)))
    };
    let all = negotiate(&|_| {});
    let all = read(&all, |reader| Algorithms::read(reader, Version::V1_2));
    assert_eq!((all.base_hash, all.base_asym), (HashAlgo::Sha384.bit(), AsymAlgo::EcdsaP256.bit()));
    assert_eq!(all.measurement_hash, HashAlgo::Sha384.measurement_bit());
    assert_eq!(all.tables.dhe.unwrap().algorithms, DheGroup::Secp384r1.bit());
    assert_eq!(all.tables.aead.unwrap().algorithms, AeadAlgo::Aes256Gcm.bit());
    assert_eq!(all.tables.requester_asym.unwrap().algorithms, 0, "no mutual authentication");
    assert!(all.other_params.opaque_format_1());

    let few = negotiate(&|offer| {
        offer.base_hash = HashAlgo::Sha256.bit();
        offer.base_asym = AsymAlgo::EcdsaP384.bit();
        offer.measurement_spec = 0;
        offer.tables.aead = Some(AlgorithmTable::new(AeadAlgo::Aes128Gcm.bit()));
        offer.tables.requester_asym = None;
        offer.other_params = OtherParams::new();
    });
    let few = read(&few, |reader| Algorithms::read(reader, Version::V1_2));
    assert_eq!((few.base_hash, few.base_asym), (HashAlgo::Sha256.bit(), AsymAlgo::EcdsaP384.bit()));
    assert_eq!((few.measurement_spec, few.measurement_hash), (0, 0));
    assert_eq!(few.tables.aead.unwrap().algorithms, AeadAlgo::Aes128Gcm.bit());
    assert_eq!(few.tables.requester_asym, None);
    assert!(!few.other_params.opaque_format_1());
}

#[test]
fn nothing_in_common_is_refused() {
    type Offer = fn(&mut NegotiateAlgorithms<'_>);
    let offers: [Offer; 5] = [
        |offer| offer.base_hash = 1 << 2,
        |offer| offer.base_asym = AsymAlgo::EcdsaP256.bit(),
        |offer| offer.tables.dhe = Some(AlgorithmTable::new(1)),
        |offer| offer.tables.aead = None,
        |offer| offer.tables.key_schedule = None,
    ];
    for offer in offers {
        let mut bench = Bench::new(Config::default());
        bench.get_version();
        bench.clear(&bench.capabilities());
        let mut request = bench.offer();
        offer(&mut request);
        let response = bench.clear(&bytes(|writer| request.write(writer)));
        assert_eq!(response, bench.error(ErrorCode::INVALID_REQUEST));
        assert_eq!(bench.clear(&bench.algorithms())[1], ResponseCode::ALGORITHMS.0);
    }
}

#[test]
fn what_is_not_built_is_unsupported() {
    let mut bench = Bench::connected(Version::V1_3);
    let mut session = bench.start();
    for code in [
        RequestCode::PSK_EXCHANGE,
        RequestCode::PSK_FINISH,
        RequestCode::GET_ENCAPSULATED_REQUEST,
        RequestCode::DELIVER_ENCAPSULATED_RESPONSE,
        RequestCode::GET_CSR,
        RequestCode::SET_CERTIFICATE,
        RequestCode::GET_ENDPOINT_INFO,
        RequestCode::GET_MEASUREMENT_EXTENSION_LOG,
        RequestCode::SLOT_MANAGEMENT,
        RequestCode(0x99),
        RequestCode(ResponseCode::DIGESTS.0),
        RequestCode(ResponseCode::ERROR.0),
    ] {
        let refused = [0x13, ResponseCode::ERROR.0, ErrorCode::UNSUPPORTED_REQUEST.0, code.0];
        let request = bench.bare(code);
        assert_eq!(bench.clear(&request), refused);
        assert_eq!(bench.secured(&mut session, &request), refused);
    }
}

#[test]
fn capabilities_that_one_side_lacks_are_unsupported() {
    type Lack = fn(&mut RequesterFlags);
    let lacks: [(RequestCode, Lack); 3] = [
        (RequestCode::KEY_EXCHANGE, |flags| *flags = RequesterFlags::new().with_chunk(true)),
        (RequestCode::KEY_EXCHANGE, |flags| flags.set_encrypt(false)),
        (RequestCode::CHUNK_GET, |flags| flags.set_chunk(false)),
    ];
    for (code, lack) in lacks {
        let mut bench = Bench::new(Config::default());
        lack(&mut bench.flags);
        bench.max_message_size = bench.data_transfer_size;
        bench.connect();
        let refused = [0x12, ResponseCode::ERROR.0, ErrorCode::UNSUPPORTED_REQUEST.0, code.0];
        assert_eq!(bench.clear(&bench.bare(code)), refused);
    }
    let flags = Config::default().flags.with_chal(false).with_meas(0).with_meas_fresh(false);
    let mut bench = Bench::new(Config { flags, ..Config::default() });
    bench.connect();
    for code in [RequestCode::CHALLENGE, RequestCode::GET_MEASUREMENTS] {
        let refused = [0x12, ResponseCode::ERROR.0, ErrorCode::UNSUPPORTED_REQUEST.0, code.0];
        assert_eq!(bench.clear(&bench.bare(code)), refused);
    }
}

#[test]
fn requests_of_sessions_need_one() {
    let mut bench = Bench::connected(Version::V1_2);
    for request in [
        bench.bare(RequestCode::FINISH),
        bench.bare(RequestCode::HEARTBEAT),
        bench.bare(RequestCode::KEY_UPDATE),
        bench.bare(RequestCode::END_SESSION),
        bench.vendor_request(&[0, 1, 2]),
    ] {
        assert_eq!(bench.clear(&request), bench.error(ErrorCode::SESSION_REQUIRED));
    }
}

#[test]
fn a_busy_device_answers_nothing_but_get_version() {
    let mut bench = Bench::connected(Version::V1_2);
    bench.device.busy = true;
    assert_eq!(bench.clear(&bench.get_digests()), bench.error(ErrorCode::BUSY));
    bench.device.busy = false;
    assert_eq!(bench.clear(&bench.get_digests())[1], ResponseCode::DIGESTS.0);
    bench.device.busy = true;
    assert_eq!(bench.get_version()[1], ResponseCode::VERSION.0);
}

#[test]
fn after_a_reset_everything_but_get_version_is_told_to_start_anew() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    let id = session.id();
    bench.responder.reset(&mut bench.device);
    assert_eq!(bench.device.heard.last(), Some(&Heard::Ended(id, SessionEnd::Reset)));
    let mut object = Vec::new();
    session.seal(&bench.bare(RequestCode::HEARTBEAT), &mut object).unwrap();
    assert_eq!(bench.exchange(Kind::Secured, &object), None);
    let resynch = [0x10, ResponseCode::ERROR.0, ErrorCode::REQUEST_RESYNCH.0, 0];
    assert_eq!(bench.clear(&bench.get_digests()), resynch);
    assert_eq!(bench.clear(&bench.capabilities()), resynch);
    bench.connect();
    bench.start();
}

#[test]
fn a_responder_that_never_had_a_connection_has_none_to_resynchronise() {
    let mut bench = Bench::new(Config::default());
    bench.responder.reset(&mut bench.device);
    let refused = [0x10, ResponseCode::ERROR.0, ErrorCode::UNEXPECTED_REQUEST.0, 0];
    assert_eq!(bench.clear(&bench.get_digests()), refused);
}

#[test]
fn get_version_ends_all_sessions() {
    let mut bench = Bench::connected(Version::V1_2);
    let mut session = bench.start();
    bench.get_version();
    let ended = Heard::Ended(session.id(), SessionEnd::NewConnection);
    assert_eq!(bench.device.heard.last(), Some(&ended));
    let mut object = Vec::new();
    session.seal(&bench.bare(RequestCode::HEARTBEAT), &mut object).unwrap();
    assert_eq!(bench.exchange(Kind::Secured, &object), None);
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let signer = || Box::new(EcdsaSigner::generate(AsymAlgo::EcdsaP384).unwrap());
    let identity = |slot, certificates: &[Vec<u8>]| Identity {
        slot,
        certificates: certificates.to_vec(),
        signer: signer(),
    };
    let chain = certificates(0);
    let make = |config: Config, identities| Responder::new(config, identities, Arc::new(AwsLc)).err();
    let one = || vec![identity(SlotId::ZERO, &chain)];
    let default = Config::default;
    assert_eq!(make(default(), one()), None);
    assert_eq!(make(default(), vec![]), Some(ConfigError::NoIdentity(AsymAlgo::EcdsaP384)));
    let elsewhere = vec![identity(SLOT_4, &chain)];
    assert_eq!(make(default(), elsewhere), Some(ConfigError::NoIdentity(AsymAlgo::EcdsaP384)));
    let two = vec![identity(SlotId::ZERO, &chain), identity(SlotId::ZERO, &chain)];
    let refused = ConfigError::TwoIdentities(SlotId::ZERO, AsymAlgo::EcdsaP384);
    assert_eq!(make(default(), two), Some(refused));
    let empty = vec![identity(SlotId::ZERO, &[])];
    assert_eq!(make(default(), empty), Some(ConfigError::EmptyChain(SlotId::ZERO)));
    let long = vec![identity(SlotId::ZERO, &[vec![0x30; 0x1_0000]])];
    assert_eq!(make(default(), long), Some(ConfigError::LongChain(SlotId::ZERO)));

    let flags = default().flags;
    let with = |flags| make(Config { flags, ..default() }, one());
    assert_eq!(with(flags.with_mut_auth(true)), Some(ConfigError::NotBuilt(1 << 8)));
    assert_eq!(with(flags.with_psk(1)), Some(ConfigError::NotBuilt(1 << 10)));
    assert!(matches!(with(flags.with_encrypt(false)), Some(ConfigError::Flags(_))));
    assert!(matches!(with(flags.with_meas(3)), Some(ConfigError::Flags(_))));
    assert!(matches!(with(flags.with_meas(0)), Some(ConfigError::Flags(_))));
    assert!(matches!(with(flags.with_cert(false)), Some(ConfigError::Flags(_))));
    let no_session = flags.with_key_ex(false).with_encrypt(false).with_mac(false);
    assert!(matches!(with(no_session), Some(ConfigError::Flags(_))));
    assert_eq!(with(no_session.with_hbeat(false).with_key_upd(false)), None);

    let versions = |versions| make(Config { versions, ..default() }, one());
    assert_eq!(versions(vec![]), Some(ConfigError::Versions));
    assert_eq!(versions(vec![Version::V1_1]), Some(ConfigError::Versions));
    assert_eq!(versions(vec![Version::V1_2, Version::V1_2]), Some(ConfigError::Versions));
    for config in [
        Config { hashes: vec![], ..default() },
        Config { asyms: vec![], ..default() },
        Config { dhes: vec![], ..default() },
        Config { aeads: vec![], ..default() },
        Config { secured_versions: vec![], ..default() },
    ] {
        assert_eq!(make(config, one()), Some(ConfigError::NoAlgorithm));
    }
    let sizes = |data_transfer_size, max_message_size, chunk| {
        let flags = flags.with_chunk(chunk);
        make(Config { flags, data_transfer_size, max_message_size, ..default() }, one()).is_some()
    };
    assert!(!sizes(42, 42, true) && !sizes(42, 43, true) && !sizes(42, 42, false));
    assert!(sizes(41, 42, true) && sizes(43, 42, true) && sizes(42, 43, false));
    let late = Config { ct_exponent: 32, ..default() };
    assert_eq!(make(late, one()), Some(ConfigError::CtExponent(32)));
}

#[test]
fn a_request_larger_than_one_object_may_be_is_refused() {
    let mut bench = Bench::new(Config { data_transfer_size: 200, ..Config::default() });
    bench.connect();
    let mut session = bench.start();
    let fits = bench.vendor_request(&[0; 200 - 11]);
    assert_eq!(fits.len(), 200);
    assert_eq!(bench.secured(&mut session, &fits)[1], ResponseCode::VENDOR_DEFINED.0);
    let too_large = bench.vendor_request(&[0; 201 - 11]);
    assert_eq!(bench.secured(&mut session, &too_large), bench.error(ErrorCode::REQUEST_TOO_LARGE));
    assert_eq!(bench.secured(&mut session, &fits)[1], ResponseCode::VENDOR_DEFINED.0);
    // How much of it is padding is not known in the clear.
    assert_eq!(
        bench.clear(&[&bench.get_digests()[..], &[0; 200]].concat()),
        bench.error(ErrorCode::REQUEST_TOO_LARGE)
    );
    assert_eq!(
        bench.clear(&[&bench.get_digests()[..], &[0; 196]].concat()),
        bench.error(ErrorCode::INVALID_REQUEST)
    );
}
