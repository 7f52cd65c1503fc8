//! A responder on a socket as the device security manager of a machine's endpoint.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Duration;

use pcie::doe::ObjectType;
use spdm::Kind;
use spdm::requester::{Transport as _, TransportFailure};
use tdx_machine::endpoint::{OutsideDsm, OutsideError};
use tdx_machine::{Machine, PlatformSpec, PowerOn, SpecError};

use super::connect::{Doe, SharedRecorder};
use super::dial;
use super::socket::{CLIENT_HELLO, Command, Limits, Link, Tcp};

/// How long a connection may take.
const DIALLING: Duration = Duration::from_secs(5);

/// Longest silence before an answer. What a stranger computes with may be slow; a host gives up by a clock of
/// its own.
const ANSWERING: Duration = Duration::from_secs(10);

/// Switches the machine of a platform on; endpoints that name a socket are answered for by whoever listens
/// there.
pub fn power_on(spec: PlatformSpec, seed: u64) -> Result<Machine, SpecError> {
    PowerOn::new(spec).seed(seed).dial(dial_dsm).switch_on()
}

/// The responder at `address`, if it takes what a device has to take.
pub fn dial_dsm(address: &str) -> Result<Box<dyn OutsideDsm>, String> {
    Ok(Box::new(SocketDsm { address: address.to_owned(), connection: Some(connect(address)?) }))
}

fn connect(address: &str) -> Result<Connection, String> {
    let stream = dial::dial(address, DIALLING).map_err(|error| error.to_string())?;
    let watched = stream.try_clone().map_err(|error| error.to_string())?;
    let stream = Tcp::new(stream).map_err(|error| error.to_string())?;
    let limits = Limits { idle: ANSWERING, ..Limits::default() };
    let mut doe = Doe::new(Link::new(stream, limits), SharedRecorder::default());
    // Each emulator greets in its own words; that one answers is what counts.
    doe.command(Command::TEST, CLIENT_HELLO).map_err(|error| error.to_string())?;
    let types = doe.discover().map_err(|error| error.to_string())?;
    let lacks = [ObjectType::SPDM, ObjectType::SECURED_SPDM].into_iter().find(|kind| !types.contains(kind));
    match lacks {
        None => Ok(Connection { doe, watched }),
        Some(kind) => Err(format!("it takes no data objects of {kind}")),
    }
}

/// A connection to a responder.
struct Connection {
    doe: Doe<Tcp>,
    /// The same socket, to see what becomes of it while nobody asks.
    watched: TcpStream,
}

impl Connection {
    /// Neither has the other side gone, nor has it said what nobody asked for: that would be taken for the answer
    /// to the next request.
    fn is_quiet(&self) -> bool {
        let quiet = self.watched.set_nonblocking(true).and_then(|()| self.watched.peek(&mut [0]));
        let blocks_again = self.watched.set_nonblocking(false).is_ok();
        blocks_again && quiet.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// A responder whose connection is made again when it is needed.
struct SocketDsm {
    address: String,
    connection: Option<Connection>,
}

impl SocketDsm {
    fn hang_up(&mut self) {
        if let Some(mut connection) = self.connection.take().filter(|connection| !connection.doe.is_lost()) {
            // We go, whatever the answer is.
            let _ = connection.doe.command(Command::CONTINUE, &[]);
        }
    }

    fn ask(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), OutsideError> {
        // Responders hang up on who is silent for long.
        self.connection.take_if(|connection| !connection.is_quiet());
        let doe = match &mut self.connection {
            Some(connection) => &mut connection.doe,
            None => &mut self.connection.insert(connect(&self.address).map_err(OutsideError::Gone)?).doe,
        };
        let answered = doe.exchange(kind, payload).map_err(|failure| match (failure, doe.take_failure()) {
            (TransportFailure::Silence, _) => OutsideError::Silent,
            (_, Some(error)) => OutsideError::Gone(error.to_string()),
            (failure, None) => OutsideError::Gone(failure.to_string()),
        });
        // An answer that comes later would be taken for the one to the next request.
        if doe.is_lost() {
            self.connection = None;
        }
        answered
    }
}

impl OutsideDsm for SocketDsm {
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), OutsideError> {
        let answered = self.ask(kind, payload);
        if let Err(error) = &answered {
            // All that a host sees of it is the error bit of a mailbox, or silence.
            eprintln!("tdxhost: {}: {error}", self.address);
        }
        answered
    }

    /// The stranger keeps its state; a new connection is as near to a reset as the protocol of the socket has.
    fn reset(&mut self) {
        self.hang_up();
    }
}

impl Drop for SocketDsm {
    fn drop(&mut self) {
        self.hang_up();
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use tdx_machine::endpoint::Endpoint;
    use tdx_machine::endpoint::devices;

    use super::*;
    use crate::dsm::listen::Server;
    use crate::dsm::modelled::Modelled;
    use crate::dsm::record::{self, Recorder};

    const GET_VERSION: [u8; 4] = [0x10, 0x84, 0, 0];

    #[test]
    fn a_responder_answers_for_the_device_also_after_a_reset_until_it_is_gone() {
        let server = Server::bind("127.0.0.1:0", Limits::default()).unwrap();
        let (address, stop) = (server.address().to_string(), server.stop_handle());
        let responder = thread::spawn(move || {
            let spec = devices::find("default").unwrap().spec().unwrap();
            let mut device = Modelled::new(Endpoint::new(&spec, 0, record::now()).unwrap());
            server.serve(&mut device, &mut Recorder::default(), &mut |_| {}).unwrap();
        });
        let mut dsm = dial_dsm(&address).unwrap();
        for _ in 0..2 {
            let (kind, answer) = dsm.exchange(Kind::Clear, &GET_VERSION).unwrap();
            assert_eq!((kind, answer.get(..2)), (Kind::Clear, Some(&[0x10, 0x04][..])));
            dsm.reset();
        }
        stop.stop();
        responder.join().unwrap();
        let Err(OutsideError::Gone(why)) = dsm.exchange(Kind::Clear, &GET_VERSION) else {
            panic!("somebody answered");
        };
        assert!(why.starts_with(&format!("cannot connect to {address}: ")), "{why}");
    }

    /// Takes one connection, answers what a client asks first, and does `then` with it.
    fn scripted(listener: &TcpListener, then: impl FnOnce(&mut Link<Tcp>)) {
        let mut link = Link::new(Tcp::new(listener.accept().unwrap().0).unwrap(), Limits::default());
        // The greeting, and discoveries of types 0, 1 and 2.
        let answers: [(Command, &[u8]); 4] = [
            (Command::TEST, b"Server Hello!\0"),
            (Command::NORMAL, &[1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 1]),
            (Command::NORMAL, &[1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 1, 2]),
            (Command::NORMAL, &[1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 2, 0]),
        ];
        for (command, answer) in answers {
            assert_eq!(link.receive().unwrap().unwrap().command, command);
            link.send(command, answer).unwrap();
        }
        then(&mut link);
    }

    /// An SPDM object of two dwords.
    fn object(second: [u8; 4]) -> Vec<u8> {
        [[1, 0, 1, 0], [3, 0, 0, 0], second].concat()
    }

    #[test]
    fn a_responder_that_hung_up_or_spoke_out_of_turn_is_dialled_anew_before_it_is_asked() {
        for spoke in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (done, is_done) = std::sync::mpsc::channel();
            let responder = thread::spawn(move || {
                scripted(&listener, |link| {
                    if spoke {
                        link.send(Command::NORMAL, &object([0x10, 0x7f, 1, 0])).unwrap();
                    }
                });
                done.send(()).unwrap();
                scripted(&listener, |link| {
                    assert_eq!(link.receive().unwrap().unwrap().payload, object(GET_VERSION));
                    link.send(Command::NORMAL, &object([0x10, 0x04, 0, 0])).unwrap();
                });
            });
            let mut dsm = dial_dsm(&address).unwrap();
            is_done.recv().unwrap();
            assert_eq!(dsm.exchange(Kind::Clear, &GET_VERSION), Ok((Kind::Clear, vec![0x10, 0x04, 0, 0])));
            drop(dsm);
            responder.join().unwrap();
        }
    }

    #[test]
    fn a_platform_whose_responder_refuses_is_refused_in_one_line_that_names_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let preset = tdx_machine::presets::find("default").unwrap();
        let named = format!("device = \"default\"\ndsm = {{ socket = \"{address}\" }}");
        let text = preset.toml.replacen("device = \"default\"", &named, 1);
        assert!(text.contains(&address));
        let error = power_on(PlatformSpec::from_toml(&text).unwrap(), 0).err().unwrap().to_string();
        assert!(error.contains(&format!("cannot connect to {address}: ")), "{error}");
        assert!(error.contains("start a responder there"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
