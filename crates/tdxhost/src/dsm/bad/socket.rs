//! The catalogue over the emulators' socket.

use std::net::TcpStream;
use std::time::Duration;

use spdm::Kind;
use spdm::requester::{Transport, TransportFailure};

use super::Line;
use crate::dsm::connect::{Doe, SharedRecorder};
use crate::dsm::dial::dial;
use crate::dsm::socket::{Command, Limits, Link, SocketError, Tcp};

/// A connection to a responder that is dialled again when the responder has closed it.
pub struct Redial {
    address: String,
    limits: Limits,
    recorder: SharedRecorder,
    doe: Doe<Tcp>,
}

impl Redial {
    /// Over `stream`, which leads to `address`.
    pub fn new(
        address: String,
        stream: TcpStream,
        limits: Limits,
        recorder: SharedRecorder,
    ) -> Result<Self, SocketError> {
        let doe = Doe::new(Link::new(Tcp::new(stream)?, limits), recorder.clone());
        Ok(Self { address, limits, recorder, doe })
    }

    /// We go; the responder is told so.
    pub fn end(mut self, command: Command) {
        // It may be gone already, and then there is nobody to be told.
        let _ = self.doe.command(command, &[]);
    }

    fn dial(&mut self) -> Option<()> {
        let stream = dial(&self.address, self.limits.idle).ok()?;
        let link = Link::new(Tcp::new(stream).ok()?, self.limits);
        self.doe = Doe::new(link, self.recorder.clone());
        Some(())
    }
}

impl Line for Redial {
    fn renew(&mut self) -> bool {
        self.dial().is_some()
    }

    fn transport(&mut self) -> &mut dyn Transport {
        self
    }
}

impl Transport for Redial {
    fn exchange(&mut self, kind: Kind, payload: &[u8]) -> Result<(Kind, Vec<u8>), TransportFailure> {
        self.doe.exchange(kind, payload)
    }

    fn wait(&mut self, time: Duration) {
        self.doe.wait(time);
    }

    fn now(&mut self) -> Duration {
        self.doe.now()
    }
}
