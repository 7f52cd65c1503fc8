use alloc::vec::Vec;

use super::dispatch::{Answer, Call, Incoming, Origin, encode};
use super::refusal::Refusal;
use super::{MeasuredValue, Measurement, Responder, Stage};
use crate::algo::{MAX_DIGEST, MeasurementHash};
use crate::crypto::Digest;
use crate::ids::SlotId;
use crate::msg::{
    ContentChange, ErrorCode, GetMeasurements, Layout, MeasurementBlock, MeasurementOperation,
    MeasurementValue, Measurements, ResponseCode, SummaryHash,
};
use crate::signing::Context;

/// Bytes of `MEASUREMENTS` besides record and signature, at most.
const FIXED: usize = 64;
/// Bytes of a block besides its value.
const BLOCK: usize = 7;

/// Whether measurements have changed since L1/L2 began.
#[derive(Debug, Default)]
pub(super) struct Watch {
    first: Option<Digest>,
    changed: bool,
}

impl Watch {
    fn see(&mut self, begins: bool, all: Digest) {
        if begins {
            *self = Self { first: Some(all), changed: false };
        } else {
            self.changed |= self.first != Some(all);
        }
    }

    const fn verdict(&self) -> ContentChange {
        if self.changed { ContentChange::Changed } else { ContentChange::Unchanged }
    }
}

impl Responder {
    /// `GET_MEASUREMENTS`: how many there are, one, or all, signed or not.
    pub(super) fn get_measurements(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let layout = self.negotiated()?.layout;
        let (asked, request) = incoming.read(|reader| GetMeasurements::read(reader, layout.version))?;
        if layout.suite.measurement_hash.is_none() {
            return Err(Refusal::unexpected());
        }
        if let Some(signature) = &asked.signature {
            if self.config.flags.meas() != 2 {
                return Err(Refusal::invalid());
            }
            self.negotiated()?.slot(signature.slot)?;
        }
        let all = Self::measure(call)?;
        let total = u8::try_from(all.len()).unwrap_or(u8::MAX);
        let wanted: Vec<&Measurement> = match asked.operation {
            MeasurementOperation::Total => Vec::new(),
            MeasurementOperation::All => all.iter().collect(),
            MeasurementOperation::Index(index) => {
                alloc::vec![all.iter().find(|one| one.index == index).ok_or(Refusal::invalid())?]
            }
        };
        let record = self.record(layout, &wanted, asked.raw)?;
        let everything = self.record(layout, &all.iter().collect::<Vec<_>>(), false)?;
        let everything = self.crypto.digest(layout.suite.hash, &everything);
        let nonce = self.nonce()?;

        let begins = self.measurement_log(call.origin).ok_or(Refusal::unexpected())?.is_empty();
        let watch = match call.origin {
            Origin::Clear => &mut self.watch,
            Origin::Session(id) => &mut self.session_mut(id).ok_or(Refusal::unexpected())?.watch,
        };
        watch.see(begins, everything);
        let verdict = watch.verdict();

        let mut response = encode(FIXED + record.len(), |writer| {
            let counts = asked.operation == MeasurementOperation::Total;
            Measurements {
                version: layout.version,
                total: if counts { total } else { 0 },
                slot: asked.signature.map_or(SlotId::ZERO, |signature| signature.slot),
                content: asked.signature.map_or(ContentChange::NotWatched, |_| verdict),
                blocks: u8::try_from(wanted.len()).unwrap_or(u8::MAX),
                record: &record,
                nonce,
                opaque: &[],
                context: asked.context,
                signature: None,
            }
            .write_unsigned(writer)
        })?;
        let signature_size = if asked.signature.is_some() { layout.signature() } else { 0 };
        self.check_size(call, response.len() + signature_size)?;
        if asked.signature.is_some() {
            call.device.shape(Stage::BeforeSignature(ResponseCode::MEASUREMENTS), &mut response);
        }

        let log = self.measurement_log(call.origin).ok_or(Refusal::unexpected())?;
        let Some(signature) = asked.signature else {
            log.append(request);
            log.append(&response);
            return Ok(response.into());
        };
        let digest = log.digest_with(&[request, &response]);
        response.extend(self.sign(signature.slot, Context::Measurements, &digest)?);
        if let Some(log) = self.measurement_log(call.origin) {
            log.clear();
        }
        Ok(response.into())
    }

    /// The measurements of the device, which has to number them as it should.
    fn measure(call: &mut Call<'_>) -> Result<Vec<Measurement>, Refusal> {
        let all = call.device.measurements();
        let numbered = all.iter().all(|one| one.index != 0 && one.index != u8::MAX)
            && all.windows(2).all(|two| matches!(two, [a, b] if a.index < b.index));
        if numbered && !all.is_empty() { Ok(all) } else { Err(Refusal::new(ErrorCode::UNSPECIFIED)) }
    }

    /// The blocks of measurements.
    fn record(&self, layout: Layout, wanted: &[&Measurement], raw: bool) -> Result<Vec<u8>, Refusal> {
        let mut record = Vec::new();
        for one in wanted {
            let digest = |bytes| match layout.suite.measurement_hash {
                Some(MeasurementHash::Hash(hash)) => self.crypto.digest(hash, bytes),
                Some(MeasurementHash::RawOnly) | None => self.crypto.digest(layout.suite.hash, bytes),
            };
            let digests = matches!(layout.suite.measurement_hash, Some(MeasurementHash::Hash(_)));
            let digest = match &one.value {
                MeasuredValue::Either(bytes) if !raw && digests => Some(digest(bytes)),
                MeasuredValue::Digest(bytes) => Some(digest(bytes)),
                MeasuredValue::Raw(_) | MeasuredValue::Either(_) => None,
            };
            let value = match &digest {
                Some(digest) if digests => MeasurementValue::Digest(digest),
                // Of what must not leave the device, where only raw values are reported.
                Some(digest) => MeasurementValue::Raw(digest),
                None => MeasurementValue::Raw(one.value.bytes()),
            };
            let block = MeasurementBlock { index: one.index, kind: one.kind, value };
            record.extend(encode(BLOCK + value.bytes().len(), |writer| block.write(writer))?);
        }
        Ok(record)
    }

    /// The digest over measurements that `CHALLENGE` and `KEY_EXCHANGE` may ask for; 0 if there are none
    /// of that kind.
    pub(super) fn summary(
        &self,
        layout: Layout,
        call: &mut Call<'_>,
        which: SummaryHash,
    ) -> Result<Option<Digest>, Refusal> {
        if which == SummaryHash::None {
            return Ok(None);
        }
        if layout.suite.measurement_hash.is_none() {
            return Err(Refusal::invalid());
        }
        let all = Self::measure(call)?;
        let wanted: Vec<&Measurement> =
            all.iter().filter(|one| which == SummaryHash::All || one.tcb).collect();
        if wanted.is_empty() {
            return Ok(Digest::new(&[0; MAX_DIGEST][..layout.digest()]));
        }
        let record = self.record(layout, &wanted, false)?;
        Ok(Some(self.crypto.digest(layout.suite.hash, &record)))
    }
}
