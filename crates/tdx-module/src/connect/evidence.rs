//! What TDH.SPDM.CONNECT does with a device: session and evidence, then, inside the session, what TDISP
//! and IDE_KM tell of it. And the recollection of TDH.SPDM.MNG, which reads what can have changed.

use pcie::FuncId;
use spdm::ide_km::{PortIndex, QueryPort};
use spdm::msg::SessionPolicy;
use spdm::requester::flows::{Evidence, EvidenceProfile};
use spdm::requester::{Operation, Outcome, Requester};
use spdm::tdisp::{InterfaceId, Progress, TdiOperation, TdiRequester};
use tdx_abi::connect::spdm::SpdmConfigInfo;

use super::refusal::Failure;

/// Where the work stands: what was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing.
    Begin,
    /// Something of the evidence.
    Evidence,
    /// GET_TDISP_VERSION.
    Versions,
    /// GET_TDISP_CAPABILITIES.
    Capabilities,
    /// QUERY.
    Query,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct EvidencePlan {
    config: SpdmConfigInfo,
    evidence: Evidence,
    recollects: bool,
    stage: Stage,
    tdisp: TdiRequester,
    /// The three answers, protocol id first.
    answers: Vec<Vec<u8>>,
}

fn profile(info: SpdmConfigInfo) -> EvidenceProfile {
    EvidenceProfile {
        slots: info.certificate_slot_mask,
        raw: info.raw_bitstream_requested != 0,
        policy: SessionPolicy::from_bits(info.session_policy),
    }
}

impl EvidencePlan {
    /// For a device that is to be connected.
    pub(crate) fn connect(info: SpdmConfigInfo, function: FuncId) -> Self {
        Self {
            config: info,
            evidence: Evidence::connecting(profile(info)),
            recollects: false,
            stage: Stage::Begin,
            tdisp: TdiRequester::new(InterfaceId(function)),
            answers: Vec::new(),
        }
    }

    /// For a device that is connected. `answers` are those of then: they do not change.
    pub(crate) fn recollect(info: SpdmConfigInfo, function: FuncId, answers: Vec<Vec<u8>>) -> Self {
        Self {
            evidence: Evidence::recollecting(profile(info)),
            recollects: true,
            answers,
            ..Self::connect(info, function)
        }
    }

    /// The same, with its request under way.
    pub(crate) fn recollecting(info: SpdmConfigInfo, function: FuncId, answers: Vec<Vec<u8>>) -> Self {
        Self { stage: Stage::Evidence, ..Self::recollect(info, function, answers) }
    }

    /// What is wanted.
    pub(crate) const fn config(&self) -> SpdmConfigInfo {
        self.config
    }

    /// What TDISP and IDE_KM have told.
    pub(crate) fn answers(&self) -> &[Vec<u8>] {
        &self.answers
    }

    pub(crate) fn take(&mut self, outcome: &Outcome) -> Result<(), Failure> {
        let Outcome::Vendor(payload) = outcome else { return Ok(()) };
        match self.stage {
            Stage::Versions | Stage::Capabilities => {
                let progress = self.tdisp.response(payload).map_err(|_| Failure::VENDOR)?;
                if !matches!(progress, Progress::Done(_)) {
                    return Err(Failure::VENDOR);
                }
            }
            Stage::Query => {
                // What the register image says is evidence. Port 0 need not be the one with the stream, and a
                // device that cannot be given keys refuses them.
                QUERY.response(payload).map_err(|_| Failure::VENDOR)?;
            }
            Stage::Begin | Stage::Evidence => return Ok(()),
        }
        self.answers.push(payload.to_vec());
        Ok(())
    }

    pub(crate) fn next(&mut self, requester: &Requester) -> Result<Option<Operation>, Failure> {
        let failed = |error| Failure::of(&error, None);
        match self.stage {
            Stage::Begin => {
                self.stage = Stage::Evidence;
                if self.recollects {
                    return self.evidence.recollection(requester).map(Some).map_err(failed);
                }
                Ok(Some(Operation::Connect))
            }
            Stage::Evidence => match self.evidence.follow(requester).map_err(failed)? {
                Some(operation) => Ok(Some(operation)),
                None if self.recollects => Ok(None),
                None => self.ask(Stage::Versions, TdiOperation::Versions),
            },
            Stage::Versions => self.ask(Stage::Capabilities, TdiOperation::Capabilities),
            Stage::Capabilities => {
                self.stage = Stage::Query;
                Ok(Some(Operation::Vendor(QUERY.request().into())))
            }
            Stage::Query => Ok(None),
        }
    }

    fn ask(&mut self, stage: Stage, operation: TdiOperation) -> Result<Option<Operation>, Failure> {
        self.stage = stage;
        self.tdisp.start(operation).map_err(|_| Failure::VENDOR)?;
        let request = self.tdisp.request().ok_or(Failure::VENDOR)?;
        Ok(Some(Operation::Vendor(request.into())))
    }
}

/// The port that the mailbox belongs to.
const QUERY: QueryPort = QueryPort { port: PortIndex(0) };
