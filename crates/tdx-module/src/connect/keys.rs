//! Keys of a stream: what TDH.IDE.STREAM.KM tells the device and the root port, and in which order.
//!
//! | operation | device | root port |
//! |---|---|---|
//! | SETUP, REFRESH | KEY_PROG of three received and three sent sub-streams | each key and IV into its slot when it is acknowledged; then the set is primed |
//! | | K_SET_GO of what it receives | sends with the set |
//! | | K_SET_GO of what it sends | SETUP: key unit and port enable the stream, the keys must be ready |
//! | STOP | | key unit and port disable the stream |
//! | | K_SET_STOP of the set in use | |
//!
//! A key lives here from the draw to its acknowledgement. SETUP takes set 0, a refresh the set that is not
//! in use; both receive until the other end has changed over, so that nothing is lost on the way.

use std::sync::Arc;

use spdm::algo::HashAlgo;
use spdm::crypto::Crypto;
use spdm::crypto::aws_lc::AwsLc;
use spdm::ide_km::{
    IdeKey, Ifv, KGoStopAck, KSetGo, KSetStop, KeyProg, KeySelector, KeySet, KeySlot, KpAck, KpStatus,
    Message, PROTOCOL, PortIndex, StreamId, Target,
};
use spdm::requester::{Operation, Outcome, Requester};
use spdm::wire::Writer;
use tdx_abi::connect::ids::KmOperation;
use tdx_abi::status::{Status, StatusCode};
use zeroize::Zeroizing;

use super::refusal::Failure;
use super::stream::{Stream, StreamHardware, StreamState};
use crate::call::Call;

/// Messages for one set in each of the two rounds.
const ROUND: u8 = 6;
/// Those of them for what the device receives.
const RECEIVED: u8 = 3;
/// How often a root port is asked whether the keys are ready.
const POLLS: usize = 64;
/// Words of entropy of a key.
const KEY_WORDS: usize = 4;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct KeyPlan {
    stream: Arc<Stream>,
    pub(crate) operation: KmOperation,
    pub(crate) set: KeySet,
    /// Messages that were acknowledged.
    pub(crate) step: u8,
    /// The key that is on its way.
    pub(crate) key: Option<IdeKey>,
}

/// The root port does not answer as it did when the stream was made.
const NOT_READY: Status = StatusCode::IDE_STREAM_IDEKM_KEYS_NOT_READY.plain();
const WRONG_ANSWER: Failure = Failure::VENDOR;

impl KeyPlan {
    pub(crate) fn new(stream: Arc<Stream>, operation: KmOperation) -> Self {
        let set = match operation {
            KmOperation::SETUP => KeySet::K0,
            KmOperation::REFRESH => stream.set().other(),
            _ => stream.set(),
        };
        Self { stream, operation, set, step: 0, key: None }
    }

    /// One that another instance began.
    pub(crate) const fn restored(
        stream: Arc<Stream>,
        operation: KmOperation,
        set: KeySet,
        step: u8,
        key: Option<IdeKey>,
    ) -> Self {
        Self { stream, operation, set, step, key }
    }

    /// What the root port does before the first message.
    pub(crate) fn begin(&self, call: &Call<'_>) -> Result<(), Status> {
        let hardware = self.hardware(call)?;
        if self.operation == KmOperation::STOP {
            hardware.disable();
        } else {
            hardware.keys.assign(self.set);
        }
        Ok(())
    }

    fn hardware<'a>(&self, call: &Call<'a>) -> Result<StreamHardware<'a>, Status> {
        StreamHardware::of(call, &self.stream.facts).ok().flatten().ok_or(NOT_READY)
    }

    fn slot(&self) -> Option<KeySlot> {
        KeySlot::of_set(self.set).get(usize::from(self.step % ROUND)).copied()
    }

    fn target(&self, slot: KeySlot) -> Target {
        let stream = StreamId(self.stream.facts.key.id);
        Target { stream, key: KeySelector::from(slot), port: PortIndex(0) }
    }

    pub(crate) fn next(&mut self, call: &Call<'_>) -> Result<Option<Operation>, Status> {
        let Some(slot) = self.slot() else { return Ok(None) };
        let target = self.target(slot);
        let message = match (self.operation, self.step / ROUND) {
            (KmOperation::STOP, 0) => Message::KSetStop(KSetStop { target }),
            (KmOperation::SETUP | KmOperation::REFRESH, 0) => {
                let key = match self.key.take() {
                    Some(key) => key,
                    None => draw(call, target)?,
                };
                self.key = Some(key.clone());
                Message::KeyProg(KeyProg { target, key, ifv: Ifv::INITIAL })
            }
            (KmOperation::SETUP | KmOperation::REFRESH, 1) => Message::KSetGo(KSetGo { target }),
            _ => return Ok(None),
        };
        let mut buffer = Zeroizing::new([0; 1 + KeyProg::SIZE]);
        let mut writer = Writer::new(&mut *buffer);
        let written = writer.u8(PROTOCOL).and_then(|()| message.write(&mut writer));
        // The largest message is the one that the buffer has the size of.
        written.map_err(|_| Failure::TOO_LARGE.ide_km_status())?;
        Ok(Some(Operation::Vendor(writer.finish().to_vec().into())))
    }

    pub(crate) fn take(
        &mut self,
        call: &Call<'_>,
        requester: &Requester,
        outcome: &Outcome,
    ) -> Result<(), Status> {
        debug_assert!(requester.under_way().is_none());
        let Outcome::Vendor(payload) = outcome else { return Err(WRONG_ANSWER.ide_km_status()) };
        let slot = self.slot().ok_or(NOT_READY)?;
        let programs = self.operation != KmOperation::STOP && self.step < ROUND;
        self.acknowledged(payload, slot, programs).ok_or(WRONG_ANSWER.ide_km_status())?;
        let hardware = self.hardware(call)?;
        if programs {
            let key = self.key.take().ok_or(NOT_READY)?;
            hardware.keys.set_key(slot.at_the_other_end(), &key);
        }
        match (self.operation, self.step.saturating_add(1)) {
            (KmOperation::SETUP, ROUND) => hardware.keys.prime(self.set),
            (KmOperation::REFRESH, ROUND) => {
                hardware.keys.prime(self.set);
                self.check_ready(&hardware)?;
            }
            (KmOperation::SETUP | KmOperation::REFRESH, step) if step == ROUND + RECEIVED => {
                hardware.keys.select(self.set);
            }
            (KmOperation::SETUP, step) if step == 2 * ROUND => {
                hardware.enable();
                self.check_ready(&hardware)?;
                // The key unit finds the port by the stream id, which a host may have written elsewhere too.
                if !(0..POLLS).any(|_| hardware.port.is_secure(hardware.block)) {
                    return Err(NOT_READY);
                }
            }
            _ => {}
        }
        self.step = self.step.saturating_add(1);
        Ok(())
    }

    fn acknowledged(&self, payload: &[u8], slot: KeySlot, programs: bool) -> Option<()> {
        let expected = self.target(slot);
        let message = payload.split_first().filter(|(protocol, _)| **protocol == PROTOCOL)?.1;
        let echoed = match Message::read(message).ok()? {
            Message::KpAck(KpAck { target, status: KpStatus::SUCCESS }) if programs => target,
            Message::KGoStopAck(KGoStopAck { target }) if !programs => target,
            _ => return None,
        };
        (echoed == expected).then_some(())
    }

    fn check_ready(&self, hardware: &StreamHardware<'_>) -> Result<(), Status> {
        if (0..POLLS).any(|_| hardware.keys.is_ready(self.set)) { Ok(()) } else { Err(NOT_READY) }
    }

    /// All of it is done.
    pub(crate) fn finish(&self) {
        if self.operation == KmOperation::STOP {
            return self.stream.set_state(StreamState::Configured);
        }
        self.stream.use_set(self.set);
        self.stream.set_torn(false);
        self.stream.set_state(StreamState::Secure);
    }

    /// It ended before its end. A stream that was being set up or stopped has no keys; one that was being
    /// refreshed keeps its set, unless one end may have changed over.
    pub(crate) fn abort(&self, call: &Call<'_>) {
        match self.operation {
            KmOperation::SETUP => {
                if let Ok(hardware) = self.hardware(call) {
                    hardware.disable();
                }
            }
            KmOperation::STOP => self.stream.set_state(StreamState::Configured),
            KmOperation::REFRESH if self.step >= ROUND => self.stream.set_torn(true),
            _ => {}
        }
    }
}

/// A key from fresh entropy of the hardware, expanded for its slot.
fn draw(call: &Call<'_>, target: Target) -> Result<IdeKey, Status> {
    let no_entropy = StatusCode::IDE_STREAM_IDEKM_NO_ENTROPY.plain();
    let mut entropy = Zeroizing::new([0; IdeKey::SIZE]);
    let (words, _) = entropy.as_chunks_mut::<{ IdeKey::SIZE / KEY_WORDS }>();
    for word in words {
        *word = call.hw.random(call.lp).ok_or(no_entropy)?.to_le_bytes();
    }
    let mut key = Zeroizing::new([0; IdeKey::SIZE]);
    let info = [b'I', b'D', b'E', target.stream.0, target.key.0];
    // One block of HKDF-Expand: HMAC-SHA256 of the label.
    AwsLc.hkdf_expand(HashAlgo::Sha256, &*entropy, &info, &mut *key).map_err(|_| no_entropy)?;
    Ok(IdeKey::new(*key))
}
