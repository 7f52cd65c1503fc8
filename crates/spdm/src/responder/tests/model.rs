//! Requests in random order, each sound by itself: what is accepted is what a model of the order says.

use proptest::prelude::*;

use super::*;

/// What the requester sends.
#[derive(Clone, Copy, Debug)]
enum Step {
    GetVersion,
    Capabilities,
    /// A second, different set of capabilities.
    OtherCapabilities,
    Algorithms,
    Digests,
    Certificate,
    Challenge,
    Measurements,
    KeyExchange,
    Finish,
    WrongFinish,
    Heartbeat,
    UpdateKey,
    VerifyNewKey,
    Vendor,
    EndSession,
    Psk,
    Encapsulated,
}

/// How it is sent: in the clear, or in the n-th session that was ever opened.
#[derive(Clone, Copy, Debug)]
enum Way {
    Clear,
    Session(usize),
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        1 => Just(GetVersion),
        2 => Just(Capabilities),
        1 => Just(OtherCapabilities),
        2 => Just(Algorithms),
        2 => Just(Digests),
        1 => Just(Certificate),
        1 => Just(Challenge),
        1 => Just(Measurements),
        6 => Just(KeyExchange),
        8 => Just(Finish),
        1 => Just(WrongFinish),
        3 => Just(Heartbeat),
        3 => Just(UpdateKey),
        3 => Just(VerifyNewKey),
        3 => Just(Vendor),
        1 => Just(EndSession),
        1 => Just(Psk),
        1 => Just(Encapsulated),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![2 => Just(Way::Clear), 5 => (0..3_usize).prop_map(Way::Session)]
}

/// How far the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Nothing,
    Version,
    Capabilities,
    Algorithms,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Handshake,
    Data,
    /// The new key is in use but was not verified.
    Unverified,
    Over,
}

struct Model {
    reached: Reached,
    /// The last request of VCA, as long as nothing followed it.
    last: Option<Vec<u8>>,
    sessions: Vec<(Life, Talk)>,
}

impl Model {
    fn live(&self) -> usize {
        self.sessions.iter().filter(|(life, _)| *life != Life::Over).count()
    }

    /// Whether a request is to be accepted.
    fn accepts(&self, step: Step, way: Way, request: &[u8]) -> bool {
        let life = match way {
            Way::Session(index) => Some(self.sessions[index].0),
            Way::Clear => None,
        };
        let open = self.reached == Reached::Algorithms;
        match life {
            None => match step {
                Step::GetVersion => true,
                Step::Capabilities | Step::OtherCapabilities => {
                    self.reached == Reached::Version || self.repeats(request)
                }
                Step::Algorithms => self.reached == Reached::Capabilities || self.repeats(request),
                Step::Digests | Step::Certificate | Step::Measurements | Step::Challenge => open,
                Step::KeyExchange => open && self.live() < 4,
                _ => false,
            },
            Some(Life::Handshake) => matches!(step, Step::Finish),
            Some(Life::Data) => matches!(
                step,
                Step::Digests
                    | Step::Certificate
                    | Step::Measurements
                    | Step::Heartbeat
                    | Step::UpdateKey
                    | Step::Vendor
                    | Step::EndSession
            ),
            Some(Life::Unverified) => matches!(step, Step::VerifyNewKey),
            Some(Life::Over) => false,
        }
    }

    fn repeats(&self, request: &[u8]) -> bool {
        self.last.as_deref() == Some(request)
    }
}

impl Bench {
    fn request(&self, step: Step, talk: Option<&Talk>) -> Vec<u8> {
        let in_handshake = talk.filter(|talk| talk.session.phase() == Phase::Handshake);
        let no_finish = || [&self.bare(RequestCode::FINISH)[..], &[0; 48]].concat();
        match step {
            Step::GetVersion => vec![0x10, RequestCode::GET_VERSION.0, 0, 0],
            Step::Capabilities => self.capabilities(),
            Step::OtherCapabilities => {
                let mut request = self.capabilities();
                request[5] += 1;
                request
            }
            Step::Algorithms => self.algorithms(),
            Step::Digests => self.get_digests(),
            Step::Certificate => self.get_certificate(SLOT_4, 0, 0x40),
            Step::Challenge => self.challenge(SlotId::ZERO, SummaryHash::None),
            Step::Measurements => self.get_measurements(MeasurementOperation::All, None),
            Step::KeyExchange => self.key_exchange_request(SlotId::ZERO, SummaryHash::None, &[0; 96]),
            Step::Finish => in_handshake.map_or_else(no_finish, |talk| self.finish_request(talk)),
            Step::WrongFinish => no_finish(),
            Step::Heartbeat => self.bare(RequestCode::HEARTBEAT),
            Step::UpdateKey => vec![self.version.0, RequestCode::KEY_UPDATE.0, 1, 0x77],
            Step::VerifyNewKey => vec![self.version.0, RequestCode::KEY_UPDATE.0, 3, 0x78],
            Step::Vendor => self.vendor_request(&[1, 2, 3]),
            Step::EndSession => self.bare(RequestCode::END_SESSION),
            Step::Psk => self.bare(RequestCode::PSK_EXCHANGE),
            Step::Encapsulated => self.bare(RequestCode::GET_ENCAPSULATED_REQUEST),
        }
    }
}

fn run(version: Version, steps: &[(Step, Way)]) -> Result<(), TestCaseError> {
    let mut bench = Bench::new(Config::default());
    bench.version = version;
    let mut model = Model { reached: Reached::Nothing, last: None, sessions: Vec::new() };
    for &(step, way) in steps {
        // A session that there is not yet is the clear.
        let way = match way {
            Way::Session(index) if !model.sessions.is_empty() => Way::Session(index % model.sessions.len()),
            _ => Way::Clear,
        };
        if let (Step::KeyExchange, Way::Clear) = (step, way)
            && model.accepts(step, way, &[])
        {
            let talk = bench.key_exchange(SlotId::ZERO, SummaryHash::None);
            model.sessions.push((Life::Handshake, talk));
            model.last = None;
            continue;
        }
        let talk = match way {
            Way::Session(index) => Some(&model.sessions[index].1),
            Way::Clear => None,
        };
        let request = bench.request(step, talk);
        let accepted = model.accepts(step, way, &request);
        let response = match way {
            Way::Clear => bench.clear(&request),
            Way::Session(index) => {
                let (life, talk) = &mut model.sessions[index];
                if *life == Life::Over {
                    let mut object = Vec::new();
                    if talk.session.seal(&request, &mut object).is_ok() {
                        prop_assert_eq!(bench.exchange(Kind::Secured, &object), None);
                    }
                    continue;
                }
                bench.secured(&mut talk.session, &request)
            }
        };
        let granted = response[1] == request[1] & 0x7f;
        prop_assert_eq!(granted, accepted, "{:?} {:?}: {:02x?}", step, way, response);
        prop_assert!(granted || response[1] == ResponseCode::ERROR.0);
        advance(&mut bench, &mut model, step, way, &request, &response, granted);
        let lives: Vec<Life> =
            model.sessions.iter().map(|(life, _)| *life).filter(|life| *life != Life::Over).collect();
        let phases: Vec<Phase> = bench.responder.sessions().map(|info| info.phase).collect();
        let expected: Vec<Phase> = lives
            .iter()
            .map(|life| if *life == Life::Handshake { Phase::Handshake } else { Phase::Data })
            .collect();
        prop_assert_eq!(phases, expected);
    }
    Ok(())
}

/// What a response means to the model and to the requester's sessions.
fn advance(
    bench: &mut Bench,
    model: &mut Model,
    step: Step,
    way: Way,
    request: &[u8],
    response: &[u8],
    granted: bool,
) {
    if let Way::Session(index) = way {
        let (life, talk) = &mut model.sessions[index];
        match (step, granted) {
            (Step::Finish, true) => {
                let th2 = talk.transcript.digest_with(&[request, response]);
                talk.session.enter_data(&th2).unwrap();
                *life = Life::Data;
            }
            (Step::Finish | Step::WrongFinish, false) if *life == Life::Handshake => *life = Life::Over,
            (Step::UpdateKey, true) => {
                talk.session.prepare_update(Direction::Request).unwrap();
                *life = Life::Unverified;
            }
            (Step::VerifyNewKey, true) => *life = Life::Data,
            (Step::EndSession, true) => *life = Life::Over,
            _ => {}
        }
    }
    if !granted {
        return;
    }
    let repeated = model.repeats(request);
    match (step, way) {
        (Step::GetVersion, Way::Clear) => {
            model.reached = Reached::Version;
            model.last = None;
            model.sessions.iter_mut().for_each(|(life, _)| *life = Life::Over);
            bench.transcript.reset();
        }
        (Step::Capabilities | Step::OtherCapabilities, Way::Clear) if !repeated => {
            model.reached = Reached::Capabilities;
            model.last = Some(request.to_vec());
        }
        (Step::Algorithms, Way::Clear) if !repeated => {
            model.reached = Reached::Algorithms;
            model.last = Some(request.to_vec());
        }
        _ if repeated => return,
        _ => model.last = None,
    }
    if matches!(step, Step::GetVersion | Step::Capabilities | Step::OtherCapabilities | Step::Algorithms) {
        bench.transcript.append_vca(request);
        bench.transcript.append_vca(response);
        if matches!(step, Step::Algorithms) {
            let crypto = Arc::clone(&bench.crypto);
            bench.transcript.agree(&*crypto, HashAlgo::Sha384);
        }
    }
}

/// A connection, as an honest requester makes it, so that random steps get behind it more often.
fn connection() -> Vec<(Step, Way)> {
    [Step::GetVersion, Step::Capabilities, Step::Algorithms].map(|step| (step, Way::Clear)).to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn requests_in_any_order_are_accepted_only_in_their_turn(
        newer in any::<bool>(),
        connect in any::<bool>(),
        steps in prop::collection::vec((step(), way()), 1..60),
    ) {
        let version = if newer { Version::V1_3 } else { Version::V1_2 };
        let before = if connect { connection() } else { Vec::new() };
        run(version, &[before, steps].concat())?;
    }

    #[test]
    fn no_bytes_whatsoever_upset_a_responder(
        objects in prop::collection::vec(
            (any::<bool>(), prop::collection::vec(any::<u8>(), 0..64), 0..0x100_u16), 0..20),
    ) {
        let mut bench = Bench::connected(Version::V1_2);
        let mut session = bench.start();
        for (inside, mut bytes, code) in objects {
            // Half of the headers are of requests that there are.
            if code < 0x80 && bytes.len() >= 2 {
                bytes[0] = 0x12;
                bytes[1] |= 0x80;
            }
            if inside && bench.responder.sessions().count() == 1 {
                let mut object = Vec::new();
                session.seal(&bytes, &mut object).unwrap();
                let reply = bench.exchange(Kind::Secured, &object).unwrap();
                prop_assert_eq!(reply.kind, Kind::Secured);
                if session.open(&reply.payload).is_err() {
                    break;
                }
            } else {
                let reply = bench.exchange(Kind::Clear, &bytes).unwrap();
                prop_assert!(reply.payload.len() >= 4);
            }
        }
    }
}
