//! The state machine against a table, over any sequence of requests and events.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Lock,
    Start {
        right: bool,
    },
    Report,
    Stop,
    State,
    BusMaster,
    StreamLost,
    SessionEnds,
    Reset,
    /// Of the other interface.
    Other,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Lock),
        4 => any::<bool>().prop_map(|right| Step::Start { right }),
        2 => Just(Step::Report),
        2 => Just(Step::Stop),
        1 => Just(Step::State),
        1 => Just(Step::BusMaster),
        1 => Just(Step::StreamLost),
        1 => Just(Step::SessionEnds),
        1 => Just(Step::Reset),
        1 => Just(Step::Other),
    ]
}

proptest! {
    #[test]
    fn states_follow_the_table(steps in prop::collection::vec(step(), 0..40)) {
        let mut device = Device::default();
        let mut state = TdiState::UNLOCKED;
        let mut nonce = Nonce::new([0; 32]);
        for step in steps {
            let error = Err(ErrorCode::INVALID_INTERFACE_STATE);
            match step {
                Step::Lock => {
                    let result = device.ask_in(SESSION, PF, Body::Lock(lock()));
                    match Message::read(&result).unwrap().body {
                        Body::Locked(response) => {
                            prop_assert_eq!(state, TdiState::UNLOCKED);
                            prop_assert_ne!(&response.nonce, &nonce, "a nonce comes once");
                            nonce = response.nonce;
                            state = TdiState::LOCKED;
                        }
                        body => {
                            prop_assert_ne!(state, TdiState::UNLOCKED, "{:?}", body);
                        }
                    }
                }
                Step::Start { right } => {
                    let nonce = if right { nonce.clone() } else { Nonce::new([0xff; 32]) };
                    let expected = match (state, right) {
                        (TdiState::LOCKED, true) => Ok(MessageType::START_INTERFACE_RESPONSE),
                        (TdiState::LOCKED, false) => Err(ErrorCode::INVALID_NONCE),
                        _ => error,
                    };
                    prop_assert_eq!(device.result(start(&nonce)), expected);
                    if expected.is_ok() {
                        state = TdiState::RUN;
                    }
                }
                Step::Report => {
                    let locked = matches!(state, TdiState::LOCKED | TdiState::RUN);
                    let expected = if locked { Ok(MessageType::DEVICE_INTERFACE_REPORT) } else { error };
                    prop_assert_eq!(device.result(get_report(0, 100)), expected);
                }
                Step::Stop => {
                    prop_assert_eq!(device.result(Body::Stop), Ok(MessageType::STOP_INTERFACE_RESPONSE));
                    state = TdiState::UNLOCKED;
                }
                Step::State => {
                    let answer = device.ask_in(SESSION, PF, Body::GetState);
                    prop_assert_eq!(answer.last(), Some(&state.0));
                }
                Step::BusMaster => device.event(TdiEvent::BusMasterCleared(PF)),
                Step::StreamLost => device.event(TdiEvent::StreamLost(STREAM)),
                Step::SessionEnds => device.event(TdiEvent::SessionEnded(SESSION)),
                Step::Reset => device.event(TdiEvent::ConventionalReset),
                Step::Other => {
                    device.result_in(SESSION, VF, Body::Lock(lock())).ok();
                    device.result_in(SESSION, VF, Body::Stop).unwrap();
                }
            }
            if matches!(step, Step::BusMaster | Step::StreamLost | Step::SessionEnds)
                && matches!(state, TdiState::LOCKED | TdiState::RUN)
            {
                state = TdiState::ERROR;
            }
            if matches!(step, Step::Reset) {
                state = TdiState::UNLOCKED;
            }
            prop_assert_eq!(device.state(), state, "after {:?}", step);
            let bound = matches!(state, TdiState::LOCKED | TdiState::RUN);
            prop_assert_eq!(device.set.binding(PF).is_some(), bound);
        }
        // What the device around it was told adds up.
        let mut told = TdiState::UNLOCKED;
        for &(_, from, to) in device.platform.entered.iter().filter(|entered| entered.0 == PF) {
            prop_assert_eq!(from, told);
            told = to;
        }
        prop_assert_eq!(told, state);
    }

    #[test]
    fn any_bytes_get_a_message_or_a_reason(mut bytes in prop::collection::vec(any::<u8>(), 0..80), right in any::<bool>()) {
        // Most bytes would not get past the header.
        if let [protocol, version, _, _, _, interface @ ..] = &mut bytes[..] && right {
            (*protocol, *version) = (PROTOCOL, TDISP_1_0);
            interface.iter_mut().zip([0x3b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).for_each(|(byte, id)| *byte = id);
        }
        let mut device = Device::default();
        device.run();
        if let Ok(answer) = device.ask_bytes(SESSION, &bytes) {
            prop_assert_eq!(answer[0], PROTOCOL);
            let body = Message::read(&answer[1..]).unwrap().body;
            prop_assert!(!body.message_type().is_request());
        }
    }

    #[test]
    fn a_message_reads_as_it_was_written(code in prop::sample::select(MessageType::ALL), body in prop::collection::vec(any::<u8>(), 0..40)) {
        let header = [0x10, code.0, 0, 0, 0x00, 0x3b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let bytes = [&header[..], &body].concat();
        if let Ok(message) = Message::read(&bytes) {
            prop_assert_eq!(&payload(message.interface, message.body.clone())[1..], &bytes[..]);
        }
    }

    #[test]
    fn a_report_reads_as_it_was_written(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(report) = Report::parse(&bytes) {
            prop_assert_eq!(report.to_bytes().unwrap(), bytes);
        }
    }

    #[test]
    fn any_report_can_be_read_back(
        info in 0..0x20_u16,
        pages in prop::collection::vec((any::<u32>(), 1..u32::MAX, 0..0x10_u16, any::<u16>()), 0..8),
        device_specific in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let ranges = pages.into_iter().map(|(page, pages, attributes, id)| MmioRange {
            first_page: u64::from(page) * MmioRange::PAGE,
            pages,
            attributes: RangeAttributes(attributes),
            id,
        });
        let report = Report { info: InterfaceInfo(info), ranges: ranges.collect(), device_specific, ..Report::default() };
        prop_assert_eq!(Report::parse(&report.to_bytes().unwrap()), Ok(report));
    }
}
