//! The request under way, and how far its answer is.

use zeroize::Zeroizing;

use super::connection::{asked_for, read_record, write_record};
use super::{read_list, write_list};
use crate::Kind;
use crate::msg::{
    self, EndSession, GetCertificate, GetDigests, GetMeasurements, Header, Heartbeat, KeyUpdate, Layout,
    RequestCode, VendorDefined,
};
use crate::requester::certificate::Reading;
use crate::requester::exchange::{Flight, Mode};
use crate::requester::{
    Compare, Connection, Outgoing, Requester, RestoreError, Step, key_update, measurements,
};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

const WHOLE: u8 = 0;
const POLLING: u8 = 1;
const SENDING: u8 = 2;
const FETCHING: u8 = 3;

impl Flight {
    /// Whether it is a request of an established session.
    pub(super) const fn is_savable(&self) -> bool {
        matches!(
            self.step,
            Step::Digests
                | Step::Certificate(_)
                | Step::Measurements(_)
                | Step::Heartbeat
                | Step::KeyUpdate(_)
                | Step::Vendor
                | Step::EndSession
        ) && matches!(self.kind, Kind::Secured)
    }
}

pub(super) fn write(flight: Option<&Flight>, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    writer.u8(flight.is_some().into())?;
    let Some(flight) = flight else { return Ok(()) };
    write_list(&flight.request, writer)?;
    write_step(&flight.step, writer)?;
    write_mode(&flight.mode, writer)?;
    write_list(&flight.sent, writer)?;
    write_list(flight.out.as_ref().map_or(&[], |out| &out.payload), writer)?;
    writer.u32(flight.busy)?;
    writer.u32(flight.polls)
}

/// What has to be remembered besides the request itself.
fn write_step(step: &Step, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    match step {
        Step::Certificate(reading) => {
            write_list(&reading.got, writer)?;
            write_total(reading.total, writer)
        }
        Step::Measurements(asked) => {
            writer.u8(match asked.request.compare {
                Compare::Nothing => 0,
                Compare::Twice => 1,
                Compare::Earlier => 2,
            })?;
            write_record(asked.earlier.as_ref(), writer)
        }
        Step::KeyUpdate(asked) => writer.u32(asked.before),
        _ => Ok(()),
    }
}

fn write_mode(mode: &Mode, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    match mode {
        Mode::Whole => writer.u8(WHOLE),
        Mode::Polling => writer.u8(POLLING),
        Mode::Sending { handle, sequence, sent } => {
            writer.u8(SENDING)?;
            writer.u8(*handle)?;
            writer.u16(*sequence)?;
            write_size(*sent, writer)
        }
        // The least that a chunk must have follows from the request.
        Mode::Fetching { handle, sequence, total, got, least: _ } => {
            writer.u8(FETCHING)?;
            writer.u8(*handle)?;
            writer.u16(*sequence)?;
            write_total(*total, writer)?;
            write_list(got, writer)
        }
    }
}

fn write_size(size: usize, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    writer.u32(u32::try_from(size).map_err(|_| NoSpace(size))?)
}

fn read_size(reader: &mut Reader<'_>, field: &'static str) -> Result<usize, DecodeError> {
    reader.u32(field).map(|size| usize::try_from(size).unwrap_or(usize::MAX))
}

/// A size that may not be known yet; none is 0.
fn write_total(total: Option<usize>, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    write_size(total.unwrap_or(0), writer)
}

/// A size that is known once something has come, and more than that.
fn known_total(total: usize, got: usize) -> Result<Option<usize>, RestoreError> {
    match total {
        0 if got == 0 => Ok(None),
        total if got != 0 && got < total => Ok(Some(total)),
        _ => Err(RestoreError::Contradiction("a part that is not less than the whole")),
    }
}

/// How often something was tried; there is always one more time that can be counted.
fn read_tries(reader: &mut Reader<'_>, field: &'static str) -> Result<u32, DecodeError> {
    match reader.u32(field)? {
        u32::MAX => Err(DecodeError::Value { field, value: u32::MAX.into() }),
        tries => Ok(tries),
    }
}

/// The request tells what it is, and most of what its answer has to agree with.
fn read_step(request: &[u8], layout: Layout, reader: &mut Reader<'_>) -> Result<Step, RestoreError> {
    let version = layout.version;
    Ok(match RequestCode(Header::peek(request)?.code) {
        RequestCode::GET_DIGESTS => {
            msg::exact(request, |inside| GetDigests::read(inside, version))?;
            Step::Digests
        }
        RequestCode::GET_CERTIFICATE => {
            let asked = msg::exact(request, |inside| GetCertificate::read(inside, version))?;
            let got = read_list(reader, "Portions")?.to_vec();
            let total = known_total(read_size(reader, "ChainLength")?, got.len())?;
            Step::Certificate(Reading { slot: asked.slot, got, total, length: asked.length })
        }
        RequestCode::GET_MEASUREMENTS => {
            let asked = msg::exact(request, |inside| GetMeasurements::read(inside, version))?;
            let compare = match reader.u8("Compare")? {
                0 => Compare::Nothing,
                1 => Compare::Twice,
                2 => Compare::Earlier,
                other => return Err(DecodeError::Value { field: "Compare", value: other.into() }.into()),
            };
            let earlier = read_record(reader, layout)?;
            if matches!((compare, &earlier), (Compare::Nothing, Some(_)) | (Compare::Earlier, None)) {
                return Err(RestoreError::Contradiction(
                    "measurements to be compared with none, or none with some",
                ));
            }
            let request = asked_for(&asked, compare);
            Step::Measurements(measurements::Asked { request, context: asked.context, earlier })
        }
        RequestCode::HEARTBEAT => {
            msg::exact(request, |inside| Heartbeat::read(inside, version))?;
            Step::Heartbeat
        }
        RequestCode::KEY_UPDATE => {
            let asked = msg::exact(request, |inside| KeyUpdate::read(inside, version))?;
            let before = reader.u32("UpdatesBefore")?;
            Step::KeyUpdate(key_update::Asked { operation: asked.operation, tag: asked.tag, before })
        }
        RequestCode::VENDOR_DEFINED => {
            msg::exact(request, |inside| VendorDefined::read_request(inside, version))?;
            Step::Vendor
        }
        RequestCode::END_SESSION => {
            msg::exact(request, |inside| EndSession::read(inside, version))?;
            Step::EndSession
        }
        other => return Err(DecodeError::Value { field: "Request", value: other.0.into() }.into()),
    })
}

impl Requester {
    pub(super) fn read_flight(
        &self,
        connection: Connection,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Flight>, RestoreError> {
        if !reader.flag("Flight")? {
            return Ok(None);
        }
        let request = Zeroizing::new(read_list(reader, "Request")?.to_vec());
        let step = read_step(&request, connection.layout(), reader)?;
        let mode = self.read_mode(&request, reader)?;
        let sent = Zeroizing::new(read_list(reader, "Sent")?.to_vec());
        let payload = read_list(reader, "Outgoing")?.to_vec();
        let out = (!payload.is_empty()).then_some(Outgoing { kind: Kind::Secured, payload });
        let (busy, polls) = (read_tries(reader, "Busy")?, read_tries(reader, "Polls")?);
        Ok(Some(Flight { step, request, kind: Kind::Secured, mode, sent, out, busy, polls }))
    }

    fn read_mode(&self, request: &[u8], reader: &mut Reader<'_>) -> Result<Mode, RestoreError> {
        let mode = reader.u8("Mode")?;
        if mode == WHOLE {
            return Ok(Mode::Whole);
        }
        if mode == POLLING {
            return Ok(Mode::Polling);
        }
        let (handle, sequence) = (reader.u8("Handle")?, reader.u16("Sequence")?);
        match mode {
            SENDING => {
                let sent = read_size(reader, "Sent")?;
                if sent == 0 || sent > request.len() {
                    return Err(RestoreError::Contradiction("more was sent than there is"));
                }
                Ok(Mode::Sending { handle, sequence, sent })
            }
            FETCHING => {
                let total = read_size(reader, "Total")?;
                let got = read_list(reader, "Chunks")?.to_vec();
                let total = known_total(total, got.len())?;
                if total > Some(self.config.max_message_size as usize) {
                    return Err(RestoreError::Contradiction("an answer larger than the configuration takes"));
                }
                if (sequence == 0) != total.is_none() {
                    return Err(RestoreError::Contradiction("chunks without a first one"));
                }
                let least = self.least_chunk(request.len());
                Ok(Mode::Fetching { handle, sequence, total, got, least })
            }
            other => Err(DecodeError::Value { field: "Mode", value: other.into() }.into()),
        }
    }
}
