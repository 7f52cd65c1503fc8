//! A responder on a socket as the device security manager of a machine's endpoint.

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
    Ok(Box::new(SocketDsm { address: address.to_owned(), doe: Some(connect(address)?) }))
}

fn connect(address: &str) -> Result<Doe<Tcp>, String> {
    let stream = dial::dial(address, DIALLING).map_err(|error| error.to_string())?;
    let stream = Tcp::new(stream).map_err(|error| error.to_string())?;
    let limits = Limits { idle: ANSWERING, ..Limits::default() };
    let mut doe = Doe::new(Link::new(stream, limits), SharedRecorder::default());
    // Each emulator greets in its own words; that one answers is what counts.
    doe.command(Command::TEST, CLIENT_HELLO).map_err(|error| error.to_string())?;
    let types = doe.discover().map_err(|error| error.to_string())?;
    let lacks = [ObjectType::SPDM, ObjectType::SECURED_SPDM].into_iter().find(|kind| !types.contains(kind));
    match lacks {
        None => Ok(doe),
        Some(kind) => Err(format!("it takes no data objects of {kind}")),
    }
}

/// A connection that is made again when it is needed.
struct SocketDsm {
    address: String,
    doe: Option<Doe<Tcp>>,
}

impl SocketDsm {
    fn hang_up(&mut self) {
        if let Some(mut doe) = self.doe.take().filter(|doe| !doe.is_lost()) {
            // We go, whatever the answer is.
            let _ = doe.command(Command::CONTINUE, &[]);
        }
    }
}

impl OutsideDsm for SocketDsm {
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), OutsideError> {
        let doe = match &mut self.doe {
            Some(doe) => doe,
            None => self.doe.insert(connect(&self.address).map_err(OutsideError::Gone)?),
        };
        let answered = doe.exchange(kind, payload).map_err(|failure| match (failure, doe.take_failure()) {
            (TransportFailure::Silence, _) => OutsideError::Silent,
            (_, Some(error)) => OutsideError::Gone(error.to_string()),
            (failure, None) => OutsideError::Gone(failure.to_string()),
        });
        // An answer that comes later would be taken for the one to the next request.
        if doe.is_lost() {
            self.doe = None;
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
        assert!(
            error.contains(&format!("start a responder there, for instance tdxhost dsm --listen {address}"))
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}
