//! Work with a device that lasts longer than a call: what it is made of, and how far a call takes it.
//!
//! A step is one of: take an answer (at most one signature or one decryption in it), start the next
//! request, hand a message out. Between two steps an interrupt ends the call; nothing of a step is lost.
//!
//! The module has no clock. What a device asks to be asked later is asked for at once: the exchange over
//! the mailbox is what passes the time, and [`config`] bounds how often.

use std::sync::Arc;
use std::time::Duration;

use spdm::msg::{RequesterFlags, VersionNumber};
use spdm::requester::{Operation, Outcome, Progress, Requester, RequesterConfig, RestoreError};
use spdm::secured::Direction;
use spdm::x509::PresentedChain;
use tdx_abi::connect::spdm::{HBEAT_CAP, KEY_UPD_CAP, SpdmConfigInfo};
use tdx_abi::status::Status;

use super::entropy::{Entropy, SeamCrypto};
use super::evidence::EvidencePlan;
use super::keys::KeyPlan;
use super::marshal::MessagePages;
use super::refusal::Failure;
use crate::call::{Call, Exit};

/// How often a device is asked again that is busy or not ready.
const PATIENCE: u32 = 256;

/// What the module offers a device.
pub(crate) fn config(info: SpdmConfigInfo) -> RequesterConfig {
    let allowed = RequesterFlags::new()
        .with_hbeat(info.capabilities.get() & HBEAT_CAP != 0)
        .with_key_upd(info.capabilities.get() & KEY_UPD_CAP != 0);
    let config = RequesterConfig {
        busy_retries: PATIENCE,
        ready_retries: PATIENCE,
        secured_versions: vec![VersionNumber(0x1100), VersionNumber(0x1200)],
        ..RequesterConfig::default()
    };
    config.allowing(allowed)
}

/// A requester for a device that is to be judged by others: its chain has to be one, whoever has signed it.
pub(crate) fn requester(info: SpdmConfigInfo, entropy: &Arc<Entropy>) -> Requester {
    Requester::new(config(info), Arc::new(SeamCrypto(Arc::clone(entropy))), Arc::new(PresentedChain))
}

/// The requester that another instance had.
pub(crate) fn restored(
    info: SpdmConfigInfo,
    entropy: &Arc<Entropy>,
    bytes: &[u8],
) -> Result<Requester, RestoreError> {
    let crypto = Arc::new(SeamCrypto(Arc::clone(entropy)));
    Requester::restore(config(info), crypto, Arc::new(PresentedChain), bytes)
}

/// A key of the session has protected as many messages as it may.
fn keys_used_up(call: &Call<'_>, requester: &Requester) -> bool {
    let limit = call.module.rules.session_key_uses;
    let used = |direction| requester.messages_under_key(direction).is_some_and(|used| used >= limit);
    requester.keys_used_up() || Direction::ALL.into_iter().any(used)
}

/// What a leaf does with a device.
#[derive(Debug)]
pub(crate) enum Plan {
    /// One operation.
    Single(Option<Operation>),
    /// Session and evidence, or evidence anew.
    Evidence(Box<EvidencePlan>),
    /// Keys of a stream.
    Keys(Box<KeyPlan>),
}

impl Plan {
    /// What the last operation brought.
    fn take(&mut self, call: &Call<'_>, requester: &Requester, outcome: &Outcome) -> Result<(), Status> {
        match self {
            Self::Single(_) => Ok(()),
            Self::Evidence(plan) => plan.take(outcome).map_err(Failure::spdm_status),
            Self::Keys(plan) => plan.take(call, requester, outcome),
        }
    }

    /// The next operation.
    fn next(&mut self, call: &Call<'_>, requester: &Requester) -> Result<Option<Operation>, Status> {
        match self {
            Self::Single(operation) => Ok(operation.take()),
            Self::Evidence(plan) => plan.next(requester).map_err(Failure::spdm_status),
            Self::Keys(plan) => plan.next(call),
        }
    }

    fn status(&self, failure: Failure) -> Status {
        match self {
            Self::Single(_) | Self::Evidence(_) => failure.spdm_status(),
            Self::Keys(_) => failure.ide_km_status(),
        }
    }
}

/// How far work is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The next operation is to be started.
    Advance,
    /// A message is to be handed out.
    Post,
    /// The device has a message.
    Waiting,
    /// An operation is done.
    Done(Outcome),
    /// Nothing is left to be said.
    Finished,
}

/// Work under way.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) plan: Plan,
    pub(crate) phase: Phase,
}

/// Where a call ends that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// With a message of so many bytes.
    Send(u64),
    /// With an interrupt.
    Interrupted,
    /// With keys that are used up.
    Refresh,
    /// With all of it done.
    Finished,
}

/// What a call works with.
pub(crate) struct Bench<'a> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) pages: MessagePages,
    pub(crate) entropy: &'a Entropy,
    /// Keys that are used up end the call.
    pub(crate) minds_keys: bool,
}

impl Work {
    pub(crate) const fn new(plan: Plan) -> Self {
        Self { plan, phase: Phase::Advance }
    }

    /// The requester is busy with it.
    pub(crate) const fn is_in_flight(&self) -> bool {
        matches!(self.phase, Phase::Post | Phase::Waiting)
    }

    /// It was interrupted, and lasts until somebody resumes it.
    pub(crate) const fn is_interrupted(&self) -> bool {
        matches!(self.phase, Phase::Post | Phase::Done(_) | Phase::Finished)
    }

    /// Takes the work as far as it goes in this call. A status that is an error ends the work.
    pub(crate) fn run(&mut self, requester: &mut Requester, bench: &Bench<'_>) -> Result<Turn, Exit> {
        loop {
            if let Some(turn) = self.step(requester, bench)? {
                return Ok(turn);
            }
            if bench.call.hw.interrupt_pending(bench.call.lp) {
                return Ok(Turn::Interrupted);
            }
        }
    }

    /// One step; `None` if another one follows.
    fn step(&mut self, requester: &mut Requester, bench: &Bench<'_>) -> Result<Option<Turn>, Exit> {
        let call = bench.call;
        match std::mem::replace(&mut self.phase, Phase::Finished) {
            Phase::Advance => {
                if bench.minds_keys && keys_used_up(call, requester) {
                    self.phase = Phase::Advance;
                    return Ok(Some(Turn::Refresh));
                }
                if !bench.entropy.refill(call) {
                    self.phase = Phase::Advance;
                    return Ok(Some(Turn::Interrupted));
                }
                if let Some(operation) = self.plan.next(call, requester)? {
                    let started = requester.start(operation);
                    started.map_err(|error| self.plan.status(Failure::of(&error, None)))?;
                    self.phase = Phase::Post;
                }
                Ok((self.phase == Phase::Finished).then_some(Turn::Finished))
            }
            Phase::Post => {
                let too_large = self.plan.status(Failure::TOO_LARGE);
                let out = requester.transmit().ok_or(too_large)?;
                let size = bench.pages.post(call, &out).ok_or(too_large)?;
                self.phase = Phase::Waiting;
                Ok(Some(Turn::Send(size)))
            }
            Phase::Waiting => {
                // An answer may call for the next request of its operation at once.
                if !bench.entropy.refill(call) {
                    self.phase = Phase::Waiting;
                    return Ok(Some(Turn::Interrupted));
                }
                let answer = bench.pages.take(call)?.map_err(|refusal| self.plan.status(refusal.into()))?;
                let request = requester.under_way();
                let progress = requester.receive(answer.kind, &answer.payload, Duration::ZERO);
                self.phase = match progress {
                    Ok(Progress::More | Progress::RetryAfter(_)) => Phase::Post,
                    Ok(Progress::Done(outcome)) => Phase::Done(outcome),
                    Err(error) => return Err(self.plan.status(Failure::of(&error, request)).into()),
                };
                Ok(None)
            }
            Phase::Done(outcome) => {
                self.plan.take(call, requester, &outcome)?;
                self.phase = Phase::Advance;
                Ok(None)
            }
            Phase::Finished => Ok(Some(Turn::Finished)),
        }
    }
}
