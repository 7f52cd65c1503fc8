//! `GET_MEASUREMENTS`: what the device runs, signed or not, and whether it stays so.

use alloc::vec::Vec;

use super::exchange::{self, Message};
use super::{
    Compare, MeasurementRecord, MeasurementsRequest, Next, Outcome, Requester, RequesterError, Step,
};
use crate::crypto::equal;
use crate::ids::SlotId;
use crate::msg::{
    ContentChange, Context, GetMeasurements, MeasurementBlock, MeasurementBlocks, MeasurementOperation,
    Measurements, RequestCode, ResponseCode, SignatureRequest,
};
use crate::signing;
use crate::transcript::Log;

/// `MEAS_CAP` of a responder that signs.
pub(super) const SIGNED: u8 = 2;

/// What `MEASUREMENTS` has to agree with.
pub(super) struct Asked {
    pub(super) request: MeasurementsRequest,
    pub(super) context: Option<Context>,
    /// Read before, to be compared with.
    pub(super) earlier: Option<MeasurementRecord>,
}

impl Requester {
    pub(super) fn get_measurements(
        &mut self,
        wanted: MeasurementsRequest,
    ) -> Result<(Step, Vec<u8>), RequesterError> {
        let connection = self.connected()?;
        if !connection.measurements {
            return Err(RequesterError::Lacking("MEAS_CAP"));
        }
        if let MeasurementOperation::Index(index @ (0 | 0xff)) = wanted.operation {
            return Err(RequesterError::MeasurementIndex(index));
        }
        if let Some(slot) = wanted.signed {
            if connection.peer.flags.meas() != SIGNED {
                return Err(RequesterError::Lacking("MEAS_CAP with signatures"));
            }
            self.chain(slot).ok_or(RequesterError::NoChain(slot))?;
        }
        let earlier = match wanted.compare {
            Compare::Nothing | Compare::Twice => None,
            Compare::Earlier => {
                let earlier = self.measurements.as_ref().filter(|record| tells_of(record, wanted));
                Some(earlier.ok_or(RequesterError::NoMeasurements)?.clone())
            }
        };
        self.read_measurements(wanted, earlier)
    }

    fn read_measurements(
        &self,
        wanted: MeasurementsRequest,
        earlier: Option<MeasurementRecord>,
    ) -> Result<(Step, Vec<u8>), RequesterError> {
        let signature = match wanted.signed {
            Some(slot) => Some(SignatureRequest { nonce: self.random()?, slot }),
            None => None,
        };
        let context = self.context()?;
        let request = GetMeasurements {
            version: self.version,
            signature,
            raw: wanted.raw,
            new: false,
            operation: wanted.operation,
            context,
        };
        let request = exchange::bytes(|writer| request.write(writer))?;
        Ok((Step::Measurements(Asked { request: wanted, context, earlier }), request))
    }

    /// The L1/L2 of where requests go now.
    fn measuring(&mut self) -> Result<&mut Log, RequesterError> {
        match &mut self.session {
            Some(active) => Ok(&mut active.measurements),
            None => self.transcript.measurements().ok_or(RequesterError::NotConnected),
        }
    }

    /// Another request than `GET_MEASUREMENTS` goes out: L1/L2 begins anew.
    pub(super) fn end_measuring(&mut self) {
        if let Ok(log) = self.measuring() {
            log.clear();
        }
    }

    pub(super) fn on_measurements(
        &mut self,
        asked: &Asked,
        request: &[u8],
        message: &Message<'_>,
    ) -> Result<Next, RequesterError> {
        let code = ResponseCode::MEASUREMENTS;
        let (connection, wanted) = (*self.connected()?, asked.request);
        let signed = wanted.signed.is_some();
        let layout = connection.layout();
        let (response, exact) = message.read(|reader| Measurements::read(reader, &layout, signed))?;
        if response.context != asked.context {
            return Err(RequesterError::Echo { found: code, field: "the context" });
        }
        connection.check_opaque(code, response.opaque)?;
        check_blocks(wanted.operation, &response)?;
        if let Some(slot) = wanted.signed {
            self.check_signed(slot, request, &response, exact)?;
        } else {
            let log = self.measuring()?;
            log.append(request);
            log.append(exact);
        }
        if response.content == ContentChange::Changed {
            return Err(RequesterError::MeasurementsChanged { index: None });
        }
        let session = self.session.as_ref().map(|active| active.facts.id);
        let record = MeasurementRecord::new(wanted, &response, session, [request, exact].concat());
        if let Some(earlier) = &asked.earlier {
            compare(earlier, &record)?;
        }
        if wanted.operation != MeasurementOperation::Total {
            self.measurements = Some(record.clone());
            self.compare_summary()?;
        }
        if wanted.compare == Compare::Twice && asked.earlier.is_none() {
            let (step, request) = self.read_measurements(wanted, Some(record))?;
            return Ok(Next::Send(step, request));
        }
        Ok(Next::Done(Outcome::Measurements(record)))
    }

    fn check_signed(
        &mut self,
        slot: SlotId,
        request: &[u8],
        response: &Measurements<'_>,
        exact: &[u8],
    ) -> Result<(), RequesterError> {
        if response.slot != slot {
            let (request, found) = (RequestCode::GET_MEASUREMENTS, response.slot.number());
            return Err(RequesterError::WrongSlot { request, asked: slot, found });
        }
        let key = self.chain(slot).ok_or(RequesterError::NoChain(slot))?.key.clone();
        let signature = response.signature.unwrap_or_default();
        let unsigned = exact.len().checked_sub(signature.len()).and_then(|size| exact.get(..size));
        let log = self.measuring()?;
        let digest = log.digest_with(&[request, unsigned.unwrap_or_default()]);
        log.clear();
        let connection = self.connected()?;
        signing::verify(
            &*self.crypto,
            &key,
            connection.hash(),
            connection.version,
            signing::Context::Measurements,
            &digest,
            signature,
        )
        .map_err(|error| super::bad_signature(ResponseCode::MEASUREMENTS, error))
    }

    /// The summary that was signed must be that of all measurements, if both are known. It is made of
    /// digests, where the device has both forms.
    pub(super) fn compare_summary(&self) -> Result<(), RequesterError> {
        let (Some(summary), Some(record)) = (&self.summary, &self.measurements) else { return Ok(()) };
        if record.raw || record.operation != MeasurementOperation::All {
            return Ok(());
        }
        let digest = self.crypto.digest(self.connected()?.hash(), &record.blocks);
        if equal(&digest, &summary.digest) { Ok(()) } else { Err(RequesterError::SummaryMismatch) }
    }
}

/// The blocks must be those that were asked for.
fn check_blocks(operation: MeasurementOperation, response: &Measurements<'_>) -> Result<(), RequesterError> {
    let wrong = |fault| Err(RequesterError::Measurements(fault));
    match operation {
        MeasurementOperation::Total if response.blocks != 0 => {
            wrong("blocks, where their number was asked for")
        }
        MeasurementOperation::All if response.blocks == 0 => wrong("no blocks"),
        MeasurementOperation::All | MeasurementOperation::Total => Ok(()),
        MeasurementOperation::Index(index) => {
            let mut indices = blocks(response.record).map(|block| block.index);
            if response.blocks != 1 || indices.next() != Some(index) {
                return wrong("another block than was asked for");
            }
            Ok(())
        }
    }
}

fn blocks(record: &[u8]) -> impl Iterator<Item = MeasurementBlock<'_>> {
    MeasurementBlocks::new(record).map_while(Result::ok)
}

/// Whether a reading has all that another one is to be compared with.
fn tells_of(earlier: &MeasurementRecord, wanted: MeasurementsRequest) -> bool {
    let all = earlier.operation == MeasurementOperation::All;
    earlier.raw == wanted.raw && (all || earlier.operation == wanted.operation)
}

/// Every block must be what it was; of all blocks, none may come or go.
fn compare(earlier: &MeasurementRecord, later: &MeasurementRecord) -> Result<(), RequesterError> {
    let changed = |index| Err(RequesterError::MeasurementsChanged { index });
    let indexed = matches!(later.operation, MeasurementOperation::Index(_));
    if !indexed && earlier.count != later.count {
        return changed(None);
    }
    for block in blocks(&later.blocks) {
        if !blocks(&earlier.blocks).any(|before| before == block) {
            return changed(Some(block.index));
        }
    }
    Ok(())
}
