//! Everything that a device can show of itself, for others to judge, and a session with it.

use alloc::vec::Vec;
use core::time::Duration;

use crate::Kind;
use crate::ids::SlotId;
use crate::msg::{MeasurementOperation, SessionPolicy, SummaryHash};
use crate::requester::measurements::SIGNED;
use crate::requester::{
    ChallengeRequest, Compare, MeasurementsRequest, Operation, Outcome, Progress, Requester, RequesterError,
    SessionRequest,
};

/// What is collected, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvidenceProfile {
    /// Slots whose chains are read, one bit each, as far as they hold any. The lowest signs.
    pub slots: u8,
    /// Raw bit streams instead of digests, where the device has them.
    pub raw: bool,
    /// When the device ends the session by itself.
    pub policy: SessionPolicy,
}

impl Default for EvidenceProfile {
    /// Every slot, and digests.
    fn default() -> Self {
        Self { slots: 0xff, raw: false, policy: SessionPolicy::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connect,
    Digests,
    Certificate(SlotId),
    Proof,
    Session,
    Recollect,
}

/// Evidence being collected: connection, chains of all slots of a mask, signed measurements, session. A
/// device that does not sign measurements is challenged instead, if it can be; one that cannot proves
/// its key by the session alone.
///
/// Like [`super::Flow`] sans-IO. What there is in the end, [`Requester::evidence`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    profile: EvidenceProfile,
    stage: Stage,
}

impl Evidence {
    /// Begins with `GET_VERSION`; [`Requester::transmit`] has the first object then. Done with
    /// [`Outcome::Session`].
    ///
    /// # Errors
    /// As of [`Requester::start`].
    pub fn start(profile: EvidenceProfile, requester: &mut Requester) -> Result<Self, RequesterError> {
        requester.start(Operation::Connect)?;
        Ok(Self { profile, stage: Stage::Connect })
    }

    /// Reads afresh what can change, inside the session: signed measurements; of a device that has none,
    /// the digests of its chains, which must be what they were. Done with [`Outcome::Measurements`] or
    /// [`Outcome::Digests`].
    ///
    /// # Errors
    /// [`RequesterError::NoSession`] without a session, and those of [`Requester::start`].
    pub fn recollect(profile: EvidenceProfile, requester: &mut Requester) -> Result<Self, RequesterError> {
        let evidence = Self::recollecting(profile);
        requester.start(evidence.recollection(requester)?)?;
        Ok(evidence)
    }

    /// The operation that a [`Self::recollect`] begins with, for who starts operations itself.
    ///
    /// # Errors
    /// [`RequesterError::NoSession`] without a session.
    pub fn recollection(&self, requester: &Requester) -> Result<Operation, RequesterError> {
        let slot = requester.session().ok_or(RequesterError::NoSession)?.slot;
        Ok(self.measurements(requester, slot)?.unwrap_or(Operation::Digests))
    }

    /// Evidence whose [`Operation::Connect`] is under way, for who starts operations itself.
    pub const fn connecting(profile: EvidenceProfile) -> Self {
        Self { profile, stage: Stage::Connect }
    }

    /// A [`Self::recollect`] that is under way already, in a requester that was restored.
    pub const fn recollecting(profile: EvidenceProfile) -> Self {
        Self { profile, stage: Stage::Recollect }
    }

    /// Takes an answer, as [`Requester::receive`] does; done when everything is.
    ///
    /// # Errors
    /// As of [`Requester::receive`] and [`Requester::start`]. The connection is forgotten.
    pub fn receive(
        &mut self,
        requester: &mut Requester,
        kind: Kind,
        payload: &[u8],
        now: Duration,
    ) -> Result<Progress, RequesterError> {
        match requester.receive(kind, payload, now)? {
            Progress::Done(outcome) => self.go_on(requester, outcome).inspect_err(|_| requester.reset()),
            progress => Ok(progress),
        }
    }

    fn go_on(&mut self, requester: &mut Requester, outcome: Outcome) -> Result<Progress, RequesterError> {
        let Some(operation) = self.follow(requester)? else { return Ok(Progress::Done(outcome)) };
        requester.start(operation)?;
        Ok(Progress::More)
    }

    /// The operation that follows the one that is done; `None` behind the last one. [`Self::receive`]
    /// starts it at once; who has something else to do in between starts it when it likes.
    ///
    /// # Errors
    /// [`RequesterError::Digests`] if no slot can be used.
    pub fn follow(&mut self, requester: &Requester) -> Result<Option<Operation>, RequesterError> {
        let Some((stage, operation)) = self.next(requester)? else { return Ok(None) };
        self.stage = stage;
        Ok(Some(operation))
    }

    /// What follows on the stage that is done.
    fn next(self, requester: &Requester) -> Result<Option<(Stage, Operation)>, RequesterError> {
        let read = |slot| (Stage::Certificate(slot), Operation::Certificate(slot));
        Ok(Some(match self.stage {
            Stage::Connect => (Stage::Digests, Operation::Digests),
            Stage::Digests => read(self.signer(requester)?),
            Stage::Certificate(done) => {
                let next = self.slots(requester)?.find(|slot| *slot > done);
                match (next, self.proof(requester)?) {
                    (Some(slot), _) => read(slot),
                    (None, Some(proof)) => (Stage::Proof, proof),
                    (None, None) => self.session(requester)?,
                }
            }
            Stage::Proof => self.session(requester)?,
            Stage::Session | Stage::Recollect => return Ok(None),
        }))
    }

    /// The slots that are read.
    fn slots(self, requester: &Requester) -> Result<impl Iterator<Item = SlotId>, RequesterError> {
        let slots = requester.slots().ok_or(RequesterError::NotConnected)?;
        Ok(slots.provisioned().filter(move |slot| self.profile.slots & 1 << slot.number() != 0))
    }

    /// The slot whose key signs.
    fn signer(self, requester: &Requester) -> Result<SlotId, RequesterError> {
        super::lowest(self.slots(requester)?)
    }

    /// What proves the device and what it runs, before there is a session.
    fn proof(self, requester: &Requester) -> Result<Option<Operation>, RequesterError> {
        let (connection, slot) = (requester.connected()?, self.signer(requester)?);
        if let Some(measurements) = self.measurements(requester, slot)? {
            return Ok(Some(measurements));
        }
        // One that measures without signing can still sign the summary.
        let summary = if connection.measurements { SummaryHash::All } else { SummaryHash::None };
        let challenge = Operation::Challenge(ChallengeRequest { slot, summary });
        Ok(connection.peer.flags.chal().then_some(challenge))
    }

    /// All measurements, signed; `None` of a device that does not sign any.
    fn measurements(self, requester: &Requester, slot: SlotId) -> Result<Option<Operation>, RequesterError> {
        let connection = requester.connected()?;
        let signs = connection.measurements && connection.peer.flags.meas() == SIGNED;
        Ok(signs.then_some(Operation::Measurements(MeasurementsRequest {
            operation: MeasurementOperation::All,
            raw: self.profile.raw,
            signed: Some(slot),
            compare: Compare::Nothing,
        })))
    }

    fn session(self, requester: &Requester) -> Result<(Stage, Operation), RequesterError> {
        let (slot, policy) = (self.signer(requester)?, self.profile.policy);
        let request = SessionRequest { slot, summary: SummaryHash::None, policy };
        Ok((Stage::Session, Operation::StartSession(request)))
    }
}

/// What a device has shown, as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected<'a> {
    /// VCA: `GET_VERSION` … `ALGORITHMS`. Every signature covers it.
    pub negotiation: &'a [u8],
    /// The chains that were read, with their headers.
    pub chains: Vec<(SlotId, &'a [u8])>,
    /// `GET_MEASUREMENTS` and `MEASUREMENTS` of the last signed reading, its signature at the end. With
    /// VCA before it, and without the signature, it is what was signed (L1/L2).
    pub measurements: Option<&'a [u8]>,
}

impl Requester {
    /// What the device has shown.
    pub fn evidence(&self) -> Collected<'_> {
        let slots = (0..8).filter_map(SlotId::new);
        let signed = self.measurements().filter(|record| record.signed.is_some());
        Collected {
            negotiation: self.negotiation(),
            chains: slots.filter_map(|slot| Some((slot, &self.chain(slot)?.bytes[..]))).collect(),
            measurements: signed.map(|record| &record.messages[..]),
        }
    }
}
