//! Bad requesters: a catalogue of what nobody may say to a responder, tried one after another.
//!
//! Each case goes by the rules up to a point, sends its bad object there, and looks at what comes
//! back. Behind each, a connection, a session and its end have to work. Nothing here knows the
//! responder's inside: it may be any, at the other end of a [`Transport`].
//!
//! | file | what |
//! |---|---|
//! | `cases` | the catalogue |
//! | `probe` | the requester that plays it |
//! | `answer` | what came back |
//! | `report` | the table |
//! | `socket` | the same over the emulators' socket |

mod answer;
mod cases;
mod probe;
mod report;
mod socket;

pub use answer::Answer;
pub use cases::CATALOGUE;
pub use probe::{Probe, Setback, Target};
pub use report::{Report, Row};
pub use socket::Redial;

use std::fmt;
use std::sync::Arc;

use spdm::crypto::aws_lc::AwsLc;
use spdm::ide_km::KpStatus;
use spdm::msg::ErrorCode;
use spdm::requester::flows::{Profile, establish};
use spdm::requester::{Operation, Requester, RequesterConfig, RequesterError, Transport, drive};
use spdm::tdisp;
use spdm::x509::Verifier;

/// What has to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// `ERROR` with one of these codes; the first is the best.
    Error(&'static [ErrorCode]),
    /// The same of a strict responder; a reserved field, or what follows a message, may be ignored.
    MayIgnore(&'static [ErrorCode]),
    /// Nobody knows who sent it: no answer, or any `ERROR`.
    Dropped,
    /// The same of a strict responder; what follows the message may be ignored.
    DroppedOrIgnored,
    /// `ERROR`, or an answer that keeps within what there is.
    Bounded,
    /// `KP_ACK` with one of these.
    KpAck(&'static [KpStatus]),
    /// The same of a strict device; a reserved field may be ignored.
    KpAckOrIgnored(&'static [KpStatus]),
    /// `TDISP_ERROR` with one of these.
    Tdisp(&'static [tdisp::ErrorCode]),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, before: &str, items: &[&dyn fmt::Display]| {
            f.write_str(before)?;
            items.iter().enumerate().try_for_each(|(index, item)| {
                if index != 0 {
                    f.write_str(" or ")?;
                }
                write!(f, "{item}")
            })
        };
        match self {
            Self::Error(codes) => list(f, "ERROR ", &displayed(codes)),
            Self::MayIgnore(codes) => {
                list(f, "ERROR ", &displayed(codes))?;
                f.write_str(", or as if it were not there")
            }
            Self::Dropped => f.write_str("no answer, or any ERROR"),
            Self::DroppedOrIgnored => f.write_str("no answer, or any ERROR, or as if it were not there"),
            Self::Bounded => f.write_str("ERROR, or what there is"),
            Self::KpAck(statuses) => list(f, "KP_ACK ", &displayed(statuses)),
            Self::KpAckOrIgnored(statuses) => {
                list(f, "KP_ACK ", &displayed(statuses))?;
                f.write_str(", or as if it were not there")
            }
            Self::Tdisp(codes) => list(f, "TDISP_ERROR ", &displayed(codes)),
        }
    }
}

fn displayed<T: fmt::Display>(items: &[T]) -> Vec<&dyn fmt::Display> {
    items.iter().map(|item| item as &dyn fmt::Display).collect()
}

/// A case of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name on the command line.
    pub name: &'static str,
    /// What is sent, and when.
    pub sent: &'static str,
    /// What has to come back.
    pub expected: Expected,
    attack: fn(&mut Probe<'_>) -> Result<Answer, Setback>,
}

/// What is to be said of a responder in one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it has to be.
    Refused,
    /// An answer within bounds.
    Bounded,
    /// A reserved field was ignored, which is allowed.
    Ignored,
    /// Refused, in another way than is due.
    Otherwise,
    /// No answer, where an error is due.
    NoAnswer,
    /// It was accepted.
    Accepted,
    /// The answer is no message.
    Malformed,
    /// The next session does not work.
    NoNextSession(String),
    /// The case needs what the responder lacks.
    NotTried(String),
}

impl Verdict {
    /// Whether the responder must be mended.
    pub const fn is_failure(&self) -> bool {
        matches!(self, Self::Accepted | Self::Malformed | Self::NoNextSession(_))
    }

    /// A short word for programs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Bounded => "bounded",
            Self::Ignored => "ignored",
            Self::Otherwise => "refused-otherwise",
            Self::NoAnswer => "no-answer",
            Self::Accepted => "accepted",
            Self::Malformed => "malformed",
            Self::NoNextSession(_) => "no-next-session",
            Self::NotTried(_) => "not-tried",
        }
    }

    fn of(expected: Expected, answer: &Answer) -> Self {
        let due = |is_due| if is_due { Self::Refused } else { Self::Otherwise };
        match (expected, answer) {
            (_, Answer::Malformed(_) | Answer::Unreadable(_)) => Self::Malformed,
            (
                Expected::Dropped | Expected::DroppedOrIgnored,
                Answer::Silence | Answer::DoeError | Answer::Closed | Answer::Error(_),
            )
            | (Expected::Bounded, Answer::Error(_)) => Self::Refused,
            (_, Answer::Silence | Answer::DoeError | Answer::Closed) => Self::NoAnswer,
            (Expected::Error(codes) | Expected::MayIgnore(codes), Answer::Error(code)) => {
                due(codes.contains(code))
            }
            (Expected::Bounded, Answer::Granted(_)) => Self::Bounded,
            (Expected::KpAckOrIgnored(_), Answer::KpAck(KpStatus::SUCCESS)) => Self::Ignored,
            (_, Answer::Broken(_) | Answer::KpAck(KpStatus::SUCCESS)) => Self::Accepted,
            (Expected::KpAck(statuses) | Expected::KpAckOrIgnored(statuses), Answer::KpAck(status)) => {
                due(statuses.contains(status))
            }
            (Expected::Tdisp(codes), Answer::TdispError(code)) => due(codes.contains(code)),
            (_, Answer::Error(_) | Answer::KpAck(_) | Answer::TdispError(_)) => Self::Otherwise,
            (Expected::MayIgnore(_) | Expected::DroppedOrIgnored, _) => Self::Ignored,
            (_, Answer::Granted(_) | Answer::IdeKm(_) | Answer::Tdisp(_)) => Self::Accepted,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Bounded => f.write_str("kept within bounds"),
            Self::Ignored => f.write_str("ignored, which is allowed"),
            Self::Otherwise => f.write_str("refused, but not as is due"),
            Self::NoAnswer => f.write_str("no answer, where an error is due"),
            Self::Accepted => f.write_str("ACCEPTED"),
            Self::Malformed => f.write_str("ANSWERED WITH NO MESSAGE"),
            Self::NoNextSession(why) => write!(f, "NO SESSION AFTERWARDS: {why}"),
            Self::NotTried(why) => write!(f, "not tried: {why}"),
        }
    }
}

/// A transport that can begin anew when the other side has closed it.
pub trait Line: Transport {
    /// Begins anew. Whether that worked.
    fn renew(&mut self) -> bool {
        false
    }

    /// It, as a transport.
    fn transport(&mut self) -> &mut dyn Transport;
}

/// What is tried, and against whom.
#[derive(Clone)]
pub struct Plan {
    /// What the requester offers.
    pub config: RequesterConfig,
    /// Whose certificates are believed.
    pub verifier: Arc<dyn Verifier>,
    /// What the cases are about.
    pub target: Target,
}

impl Plan {
    /// A connection, a session, and its end: what has to work before and behind each case.
    ///
    /// # Errors
    /// What does not work.
    pub fn session(&self, transport: &mut dyn Transport) -> Result<(), RequesterError> {
        let mut requester = Requester::new(self.config.clone(), Arc::new(AwsLc), Arc::clone(&self.verifier));
        let slots = self.target.slot.map_or(0xff, |slot| 1 << slot.number());
        establish(&mut requester, Profile { slots, ..Profile::default() }, transport)?;
        drive(&mut requester, Operation::EndSession, transport).map(drop)
    }

    /// Tries cases, one after another. Once the responder is gone for good, there is nothing to try.
    pub fn run<'c>(&self, cases: impl IntoIterator<Item = &'c Case>, line: &mut dyn Line) -> Vec<Row> {
        let mut gone = None;
        let try_one = |case: &Case| {
            if let Some(since) = gone {
                let verdict = Verdict::NotTried(format!("the responder is gone since {since}"));
                return Row::new(case, None, verdict);
            }
            let row = self.attempt(case, line);
            if matches!(row.verdict, Verdict::NoNextSession(_)) {
                line.renew();
                if self.session(line.transport()).is_err() {
                    gone = Some(case.name);
                }
            }
            row
        };
        cases.into_iter().map(try_one).collect()
    }

    /// Tries one case.
    pub fn attempt(&self, case: &Case, line: &mut dyn Line) -> Row {
        let (config, verifier) = (self.config.clone(), Arc::clone(&self.verifier));
        let mut probe = Probe::new(line.transport(), config, verifier, self.target);
        let answered = (case.attack)(&mut probe);
        if matches!(answered, Ok(Answer::Closed)) {
            line.renew();
        }
        let mut next = self.session(line.transport());
        if let Err(RequesterError::Transport { .. }) = next
            && line.renew()
        {
            next = self.session(line.transport());
        }
        let (answer, verdict) = match answered {
            Ok(answer) => (Some(answer.to_string()), Verdict::of(case.expected, &answer)),
            Err(setback) => (None, Verdict::NotTried(setback.to_string())),
        };
        let verdict = match next {
            Err(error) if verdict != Verdict::Accepted => Verdict::NoNextSession(error.to_string()),
            _ => verdict,
        };
        Row::new(case, answer, verdict)
    }
}

/// The case of that name.
pub fn find(name: &str) -> Option<&'static Case> {
    CATALOGUE.iter().find(|case| case.name == name)
}
