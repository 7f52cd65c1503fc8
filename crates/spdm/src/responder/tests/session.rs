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
