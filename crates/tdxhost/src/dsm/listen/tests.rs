use std::io::{Read as _, Write as _};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::dsm::socket::{CLIENT_HELLO, HEADER_SIZE};

/// A device that answers what it was asked, bytes reversed, and counts.
#[derive(Default)]
struct Mirror {
    disconnected: usize,
    silent: bool,
}

impl Dsm for Mirror {
    fn exchange(&mut self, kind: Kind, payload: &[u8], _: &mut Recorder) -> Option<(Kind, Vec<u8>)> {
        (!self.silent).then(|| (kind, payload.iter().rev().copied().collect()))
    }

    fn disconnected(&mut self, _: &mut Recorder) {
        self.disconnected += 1;
    }
}

/// What a test sees of the server when it has ended.
struct Seen {
    end: ServeEnd,
    ends: Vec<&'static str>,
    tallies: Vec<Tally>,
    disconnected: usize,
}

struct Rig {
    address: SocketAddr,
    stop: Stop,
    seen: mpsc::Receiver<Seen>,
}

impl Rig {
    fn new(limits: Limits, mut device: Mirror) -> Self {
        let server = Server::bind("127.0.0.1:0", limits).unwrap();
        let (address, stop) = (server.address(), server.stop_handle());
        let (tell, seen) = mpsc::channel();
        thread::spawn(move || {
            let (mut ends, mut tallies) = (Vec::new(), Vec::new());
            let end = server.serve(&mut device, &mut Recorder::default(), &mut |report| {
                ends.push(report.end.name());
                tallies.push(report.tally);
            });
            let seen = Seen { end: end.unwrap(), ends, tallies, disconnected: device.disconnected };
            tell.send(seen).unwrap();
        });
        Self { address, stop, seen }
    }

    fn plain() -> Self {
        Self::new(Limits::default(), Mirror::default())
    }

    fn client(&self) -> Link<Tcp> {
        Link::new(Tcp::new(self.stream()).unwrap(), Limits::default())
    }

    fn stream(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    fn end(self) -> Seen {
        self.client().exchange(Command::SHUTDOWN, &[]).unwrap();
        self.seen.recv().unwrap()
    }
}

fn object(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut object = Vec::new();
    write_object(ObjectType::pci_sig(kind), payload, &mut object).unwrap();
    object
}

#[test]
fn commands_are_answered_as_the_emulators_do() {
    let rig = Rig::plain();
    let mut client = rig.client();
    assert_eq!(client.exchange(Command::TEST, CLIENT_HELLO).unwrap(), b"Server Hello!\0");
    assert_eq!(client.exchange(Command::ENCAP_KEY_UPDATE, &[1, 0, 0xff, 0xff]).unwrap(), b"");
    assert_eq!(
        client.exchange(Command::NORMAL, &object(1, &[1, 2, 3, 4])).unwrap(),
        object(1, &[4, 3, 2, 1])
    );
    assert_eq!(client.exchange(Command::NORMAL, &object(2, &[1, 2])).unwrap(), object(2, &[0, 0, 2, 1]));
    assert_eq!(client.exchange(Command::CONTINUE, &[]).unwrap(), b"");
    assert!(client.receive().unwrap().is_none(), "the server closes behind a continue");
    let seen = rig.end();
    assert_eq!(seen.end, ServeEnd::Shutdown);
    assert_eq!(seen.ends, ["continue", "shutdown"]);
    assert_eq!(seen.disconnected, 0);
    let expected = Tally { frames: 5, messages: 2, unanswered: 0, received: 102, sent: 98 };
    assert_eq!(seen.tallies[0], expected);
}

#[test]
fn discovery_lists_the_three_types_and_nothing_behind_them() {
    let rig = Rig::plain();
    let mut client = rig.client();
    for (index, answer) in [(0, 0x0100_0001_u32), (1, 0x0201_0001), (2, 0x0002_0001), (3, 0x00ff_ffff)] {
        let response = client.exchange(Command::NORMAL, &object(0, &[index, 0, 0, 0])).unwrap();
        assert_eq!(response, object(0, &answer.to_le_bytes()), "index {index}");
    }
    drop(client);
    assert_eq!(rig.end().tallies[0].messages, 0);
}

#[test]
fn an_unknown_command_is_answered_as_unknown_and_ends_the_connection() {
    let rig = Rig::plain();
    let mut client = rig.client();
    client.send(Command(0x8002), &[]).unwrap();
    assert_eq!(client.receive().unwrap().unwrap().command, Command::UNKNOWN);
    assert!(client.receive().unwrap().is_none());
    let seen = rig.end();
    assert_eq!(seen.ends, ["unknown-command", "shutdown"]);
    assert_eq!(seen.disconnected, 1);
}

#[test]
fn another_transport_ends_the_connection_and_the_next_one_is_served() {
    let rig = Rig::plain();
    let mut stream = rig.stream();
    stream.write_all(&[[0, 0, 0xde, 0xad], [0, 0, 0, 1], [0; 4]].concat()).unwrap();
    assert_eq!(stream.read(&mut [0; HEADER_SIZE]).unwrap(), 0, "closed without an answer");
    let mut next = rig.client();
    assert_eq!(next.exchange(Command::TEST, CLIENT_HELLO).unwrap(), SERVER_HELLO);
    drop(next);
    let seen = rig.end();
    assert_eq!(seen.ends, ["wrong-transport", "closed", "shutdown"]);
    assert_eq!(seen.disconnected, 2);
}

#[test]
fn bytes_that_are_no_data_object_end_the_connection() {
    let mut wrong_length = object(1, &[0; 4]);
    wrong_length[4] = 4;
    for (payload, end) in [
        (wrong_length, "bad-object"),
        (vec![1, 0, 1], "bad-object"),
        (object(3, &[0; 4]), "object-type"),
        (object(0, &[0; 8]), "bad-object"),
        (object(0, &[0, 0, 1, 0]), "bad-object"),
    ] {
        let rig = Rig::plain();
        let mut client = rig.client();
        client.send(Command::NORMAL, &payload).unwrap();
        assert!(client.receive().unwrap().is_none(), "{payload:02x?}");
        assert_eq!(rig.end().ends, [end, "shutdown"], "{payload:02x?}");
    }
}

#[test]
fn a_message_that_the_device_drops_is_met_with_silence_and_the_connection_goes_on() {
    let rig = Rig::new(Limits::default(), Mirror { silent: true, ..Mirror::default() });
    let mut client = rig.client();
    client.send(Command::NORMAL, &object(2, &[0; 8])).unwrap();
    assert_eq!(client.exchange(Command::TEST, CLIENT_HELLO).unwrap(), SERVER_HELLO);
    drop(client);
    let seen = rig.end();
    assert_eq!((seen.tallies[0].messages, seen.tallies[0].unanswered), (1, 1));
}

#[test]
fn a_silent_client_does_not_keep_the_next_one_waiting() {
    let limits = Limits { idle: Duration::from_millis(5), ..Limits::default() };
    let rig = Rig::new(limits, Mirror::default());
    let silent = rig.stream();
    let mut cut = rig.stream();
    cut.write_all(&[0, 0, 0]).unwrap();
    drop(cut);
    // Served only when the silent one was given up.
    let seen = rig.end();
    drop(silent);
    assert_eq!(seen.ends, ["silent", "cut", "shutdown"]);
    assert_eq!(seen.disconnected, 2);
}

#[test]
fn a_stop_ends_a_server_that_waits_for_a_connection() {
    let rig = Rig::plain();
    rig.stop.stop();
    let seen = rig.seen.recv().unwrap();
    assert_eq!(seen.end, ServeEnd::Stopped);
    assert!(seen.ends.is_empty());
}

#[test]
fn a_stop_ends_a_connection_under_way() {
    let rig = Rig::plain();
    let mut client = rig.client();
    client.exchange(Command::TEST, CLIENT_HELLO).unwrap();
    rig.stop.stop();
    let seen = rig.seen.recv().unwrap();
    assert_eq!(seen.end, ServeEnd::Stopped);
    assert_eq!(seen.ends, ["stopped"]);
    assert!(matches!(client.receive(), Ok(None)));
}

#[test]
fn an_address_that_is_taken_is_refused_with_advice() {
    let server = Server::bind("127.0.0.1:0", Limits::default()).unwrap();
    let address = server.address().to_string();
    let error = Server::bind(&address, Limits::default()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on {address}: ")), "{error}");
    assert!(error.contains("choose another port"), "{error}");
    let error = Server::bind("nowhere", Limits::default()).unwrap_err().to_string();
    assert!(error.starts_with("cannot listen on nowhere: "), "{error}");
}

#[test]
fn a_server_on_every_interface_is_stopped_through_the_loopback() {
    assert_eq!(reachable("0.0.0.0:7".parse().unwrap()), "127.0.0.1:7".parse().unwrap());
    assert_eq!(reachable("[::]:7".parse().unwrap()), "[::1]:7".parse().unwrap());
    assert_eq!(reachable("192.0.2.1:7".parse().unwrap()), "192.0.2.1:7".parse().unwrap());
}
