//! Operations strung together: from nothing to a session.
//!
//! A [`Flow`] is as sans-IO as the [`Requester`] that it leads: it starts the next operation when one
//! is done, so that whoever moves the objects sees one long exchange.

mod evidence;

pub use evidence::{Collected, Evidence, EvidenceProfile};

use core::time::Duration;

use super::{
    ChallengeRequest, MeasurementsRequest, Operation, Outcome, Progress, Requester, RequesterError,
    SessionFacts, SessionRequest, Transport,
};
use crate::Kind;
use crate::ids::SlotId;
use crate::msg::{SessionPolicy, SummaryHash};

/// How a session is to be established.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Slots that may be used, one bit each; the lowest that holds a chain is.
    pub slots: u8,
    /// Whether the device is challenged before, and what it is to summarise.
    pub challenge: Option<SummaryHash>,
    /// Measurements that are read before the session, signed by the same slot if at all.
    pub measurements: Option<MeasurementsRequest>,
    /// Measurements that are read inside the session, signed by the same slot if at all.
    pub inside: Option<MeasurementsRequest>,
    /// What the key exchange is to summarise.
    pub summary: SummaryHash,
    /// When the device ends the session by itself.
    pub policy: SessionPolicy,
}

impl Default for Profile {
    /// Any slot, and nothing but what a session takes.
    fn default() -> Self {
        Self {
            slots: 0xff,
            challenge: None,
            measurements: None,
            inside: None,
            summary: SummaryHash::None,
            policy: SessionPolicy::default(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connect,
    Digests,
    Certificate,
    Challenge,
    Measurements,
    Session,
    Inside,
}

impl Stage {
    const fn next(self) -> Option<Self> {
        Some(match self {
            Self::Connect => Self::Digests,
            Self::Digests => Self::Certificate,
            Self::Certificate => Self::Challenge,
            Self::Challenge => Self::Measurements,
            Self::Measurements => Self::Session,
            Self::Session => Self::Inside,
            Self::Inside => return None,
        })
    }
}

/// A session being established.
#[derive(Clone, Debug)]
pub struct Flow {
    profile: Profile,
    stage: Stage,
}

impl Flow {
    /// Begins with `GET_VERSION`; [`Requester::transmit`] has the first object then.
    ///
    /// # Errors
    /// As of [`Requester::start`].
    pub fn start(profile: Profile, requester: &mut Requester) -> Result<Self, RequesterError> {
        requester.start(Operation::Connect)?;
        Ok(Self { profile, stage: Stage::Connect })
    }

    /// Takes an answer, as [`Requester::receive`] does; done when the whole flow is, with the session.
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
            Progress::Done(_) => self.go_on(requester).inspect_err(|_| requester.reset()),
            progress => Ok(progress),
        }
    }

    fn go_on(&mut self, requester: &mut Requester) -> Result<Progress, RequesterError> {
        while let Some(stage) = self.stage.next() {
            self.stage = stage;
            if let Some(operation) = self.operation(requester)? {
                requester.start(operation)?;
                return Ok(Progress::More);
            }
        }
        let facts = requester.session().ok_or(RequesterError::NoSession)?;
        Ok(Progress::Done(Outcome::Session(*facts)))
    }

    /// The lowest slot that may be used and holds a chain.
    fn slot(&self, requester: &Requester) -> Result<SlotId, RequesterError> {
        let slots = requester.slots().ok_or(RequesterError::NotConnected)?;
        lowest(slots.provisioned().filter(|slot| self.profile.slots & 1 << slot.number() != 0))
    }

    fn operation(&self, requester: &Requester) -> Result<Option<Operation>, RequesterError> {
        let signed_by = |wanted: MeasurementsRequest, slot| {
            Operation::Measurements(MeasurementsRequest { signed: wanted.signed.map(|_| slot), ..wanted })
        };
        Ok(match self.stage {
            Stage::Connect => Some(Operation::Connect),
            Stage::Digests => Some(Operation::Digests),
            Stage::Certificate => Some(Operation::Certificate(self.slot(requester)?)),
            Stage::Challenge => match self.profile.challenge {
                Some(summary) => {
                    Some(Operation::Challenge(ChallengeRequest { slot: self.slot(requester)?, summary }))
                }
                None => None,
            },
            Stage::Measurements => match self.profile.measurements {
                Some(wanted) => Some(signed_by(wanted, self.slot(requester)?)),
                None => None,
            },
            Stage::Session => Some(Operation::StartSession(SessionRequest {
                slot: self.slot(requester)?,
                summary: self.profile.summary,
                policy: self.profile.policy,
            })),
            Stage::Inside => match self.profile.inside {
                Some(wanted) => Some(signed_by(wanted, self.slot(requester)?)),
                None => None,
            },
        })
    }
}

/// The first of the slots that may be used.
fn lowest(mut slots: impl Iterator<Item = SlotId>) -> Result<SlotId, RequesterError> {
    slots.next().ok_or(RequesterError::Digests("none of the slots that may be used holds a chain"))
}

/// Establishes a session over a transport.
///
/// # Errors
/// As of [`Flow::receive`].
pub fn establish(
    requester: &mut Requester,
    profile: Profile,
    transport: &mut dyn Transport,
) -> Result<SessionFacts, RequesterError> {
    let mut flow = Flow::start(profile, requester)?;
    loop {
        let out = requester.transmit().ok_or(RequesterError::Idle)?;
        let (kind, payload) = match transport.exchange(out.kind, &out.payload) {
            Ok(answer) => answer,
            Err(failure) => return Err(requester.fail(failure)),
        };
        match flow.receive(requester, kind, &payload, transport.now())? {
            Progress::RetryAfter(time) => transport.wait(time),
            Progress::Done(Outcome::Session(facts)) => return Ok(facts),
            Progress::More | Progress::Done(_) => {}
        }
    }
}
