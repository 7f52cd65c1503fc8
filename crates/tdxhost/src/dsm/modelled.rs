//! The modelled device behind the socket.

use std::time::Instant;

use spdm::Kind;
use tdx_machine::endpoint::Endpoint;

use super::listen::Dsm;
use super::record::Recorder;

/// An endpoint that lives as long as the process.
pub struct Modelled {
    endpoint: Endpoint,
    started: Instant,
}

impl Modelled {
    /// The device, powered on now.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, started: Instant::now() }
    }

    /// The device.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Dsm for Modelled {
    fn exchange(&mut self, kind: Kind, payload: &[u8], recorder: &mut Recorder) -> Option<(Kind, Vec<u8>)> {
        self.endpoint.exchange(kind, payload, self.started.elapsed(), recorder)
    }

    fn disconnected(&mut self, _: &mut Recorder) {
        self.endpoint.disconnect();
    }
}
