//! `GET_CAPABILITIES`: what both sides can do.

use core::ops::Range;

use super::exchange::{self, Message};
use super::{Next, Peer, Requester, RequesterError, Step};
use crate::msg::{Capabilities, GetCapabilities, ResponderFlags};

/// Size of `CAPABILITIES` in bytes.
const SIZE: usize = 20;
/// Where its flags stand. A responder of more versions than this one tells of later capabilities, too:
/// reserved bits, which are to be ignored. The transcript has them as they came.
const FLAGS: Range<usize> = 8..12;
/// `MULTI_KEY_CAP` of a responder that has several keys per algorithm and cannot do without.
const MULTI_KEY_ONLY: u8 = 1;

impl Requester {
    pub(super) fn get_capabilities(&self) -> Result<Next, RequesterError> {
        let request = GetCapabilities {
            version: self.version,
            wants_algorithms: false,
            ct_exponent: self.config.ct_exponent,
            flags: self.config.flags,
            data_transfer_size: self.config.data_transfer_size,
            max_message_size: self.config.max_message_size,
        };
        Ok(Next::Send(Step::Capabilities, exchange::bytes(|writer| request.write(writer))?))
    }

    pub(super) fn on_capabilities(
        &mut self,
        request: &[u8],
        message: &Message<'_>,
    ) -> Result<Next, RequesterError> {
        let exact = message.bytes.get(..SIZE).unwrap_or(message.bytes);
        let mut known = message.bytes.to_vec();
        if let Some(flags) = known.get_mut(FLAGS) {
            let mask = ResponderFlags::known(self.version).to_le_bytes();
            flags.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
        }
        let known = Message { bytes: &known, ..*message };
        let (response, _) = known.read(|reader| Capabilities::read(reader, self.version))?;
        let flags = response.flags;
        if flags.multi_key() == MULTI_KEY_ONLY {
            return Err(RequesterError::Capabilities("several keys per algorithm, which are not spoken"));
        }
        self.transcript.append_vca(request);
        self.transcript.append_vca(exact);
        self.peer = Some(Peer {
            flags,
            ct_exponent: response.ct_exponent,
            data_transfer_size: response.data_transfer_size,
            max_message_size: response.max_message_size,
        });
        self.negotiate_algorithms()
    }
}
