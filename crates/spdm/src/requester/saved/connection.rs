//! What was agreed on, what is known of the device, and the session.

use core::time::Duration;

use super::{read_digest, read_list, slots_of, write_list};
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use crate::crypto::PublicKey;
use crate::ids::{SessionId, SlotId, Version};
use crate::msg::capabilities::{check_sizes, read_ct_exponent};
use crate::msg::{GetMeasurements, Layout, Measurements, ResponderFlags, SummaryHash, VersionNumber};
use crate::requester::{
    Active, Chain, Compare, Connection, MeasurementRecord, MeasurementsRequest, Peer, Requester,
    RestoreError, SessionFacts, Slots, Summary,
};
use crate::secured::{Role, Session};
use crate::wire::{DecodeError, NoSpace, Reader, Writer};

/// `MeasurementHashAlgo` of raw bit streams only.
const RAW_ONLY: u32 = 1;

impl Requester {
    pub(super) fn write_connection(
        &self,
        connection: &Connection,
        writer: &mut Writer<'_>,
    ) -> Result<(), NoSpace> {
        write_agreed(connection, writer)?;
        write_list(self.transcript.vca(), writer)?;
        writer.u8(self.slots.is_some().into())?;
        if let Some(slots) = &self.slots {
            writer.u8(slots_of(&slots.digests))?;
            slots.digests.iter().flatten().try_for_each(|digest| writer.bytes(digest))?;
        }
        writer.u8(slots_of(&self.chains))?;
        for chain in self.chains.iter().flatten() {
            write_list(&chain.bytes, writer)?;
            writer.bytes(&chain.key.point)?;
        }
        write_record(self.measurements.as_ref(), writer)?;
        write_summary(self.summary.as_ref(), writer)?;
        writer.u8(self.authenticated.into())?;
        writer.u16(self.next_session)?;
        writer.u8(self.next_handle)
    }

    pub(super) fn read_connection(&mut self, reader: &mut Reader<'_>) -> Result<Connection, RestoreError> {
        let connection = read_agreed(reader)?;
        let (hash, asym) = (connection.suite.hash, connection.suite.asym);
        self.version = connection.version;
        self.peer = Some(connection.peer);
        self.connection = Some(connection);
        self.transcript.append_vca(read_list(reader, "VCA")?);
        self.transcript.agree(&*self.crypto, hash);
        if reader.flag("Slots")? {
            let (mask, mut slots) = (reader.u8("ProvisionedSlots")?, Slots::default());
            for slot in in_mask(mask) {
                let digest = read_digest(reader, hash, "SlotDigest")?;
                if let Some(entry) = slots.digests.get_mut(slot.index()) {
                    *entry = Some(digest);
                }
            }
            self.slots = Some(slots);
        }
        for slot in in_mask(reader.u8("Chains")?) {
            let bytes = read_list(reader, "Chain")?.to_vec();
            let point = reader.take(asym.signature_size(), "LeafKey")?.to_vec();
            let digest = self.crypto.digest(hash, &bytes);
            if self.slots.is_some_and(|slots| slots.digest(slot) != Some(digest)) {
                return Err(RestoreError::Contradiction("a chain that is not the one of its slot"));
            }
            if let Some(entry) = self.chains.get_mut(slot.index()) {
                *entry = Some(Chain { bytes, digest, key: PublicKey { algo: asym, point } });
            }
        }
        self.measurements = read_record(reader, connection.layout())?;
        self.summary = read_summary(reader, hash)?;
        self.authenticated = reader.flag("Authenticated")?;
        self.next_session = match reader.u16("NextSession")? {
            0 => return Err(DecodeError::Value { field: "NextSession", value: 0 }.into()),
            next => next,
        };
        self.next_handle = reader.u8("NextHandle")?;
        Ok(connection)
    }

    pub(super) fn read_session(
        &mut self,
        connection: Connection,
        reader: &mut Reader<'_>,
    ) -> Result<(), RestoreError> {
        let slot = read_slot(reader, "SessionSlot")?;
        let secured_version = VersionNumber(reader.u16("SecuredVersion")?);
        let heartbeat = reader.u64("Heartbeat")?;
        let summary = read_summary(reader, connection.hash())?;
        let (suite, version) = (connection.suite, connection.version);
        let mut session = Session::read(reader, &self.crypto, suite, version, Role::Requester)?;
        session.set_sequence_limit(self.config.sequence_limit);
        let heartbeat = (heartbeat != 0).then_some(Duration::from_secs(heartbeat));
        let facts = SessionFacts { id: session.id(), slot, secured_version, heartbeat, summary };
        let measurements = self.transcript.session_measurements();
        let measurements = measurements.ok_or(RestoreError::Contradiction("a session without a hash"))?;
        self.session = Some(Active { session, facts, transcript: None, measurements });
        Ok(())
    }
}

pub(super) fn write_facts(facts: &SessionFacts, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    writer.u8(facts.slot.number())?;
    writer.u16(facts.secured_version.0)?;
    writer.u64(facts.heartbeat.map_or(0, |period| period.as_secs()))?;
    write_summary(facts.summary.as_ref(), writer)
}

fn write_agreed(connection: &Connection, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    let (peer, suite) = (connection.peer, connection.suite);
    writer.u8(connection.version.0)?;
    writer.u32(peer.flags.into())?;
    writer.u8(peer.ct_exponent)?;
    writer.u32(peer.data_transfer_size)?;
    writer.u32(peer.max_message_size)?;
    writer.u32(suite.hash.bit())?;
    writer.u32(suite.asym.bit())?;
    writer.u16(suite.dhe.map_or(0, DheGroup::bit))?;
    writer.u16(suite.aead.map_or(0, AeadAlgo::bit))?;
    writer.u32(match suite.measurement_hash {
        None => 0,
        Some(MeasurementHash::RawOnly) => RAW_ONLY,
        Some(MeasurementHash::Hash(hash)) => hash.measurement_bit(),
    })?;
    writer.u8(connection.measurements.into())?;
    writer.u8(connection.opaque.into())
}

fn read_agreed(reader: &mut Reader<'_>) -> Result<Connection, DecodeError> {
    let version = Version(reader.u8("Version")?);
    if !version.is_spoken() {
        return Err(DecodeError::Value { field: "Version", value: version.0.into() });
    }
    let peer = Peer {
        flags: ResponderFlags::from(reader.u32("Flags")?),
        ct_exponent: read_ct_exponent(reader)?,
        data_transfer_size: reader.u32("DataTransferSize")?,
        max_message_size: reader.u32("MaxSPDMmsgSize")?,
    };
    check_sizes(peer.data_transfer_size, peer.max_message_size, peer.flags.chunk())?;
    let suite = Suite {
        hash: one_of(reader.u32("BaseHashSel")?, "BaseHashSel", &HashAlgo::ALL, HashAlgo::bit)?,
        asym: one_of(reader.u32("BaseAsymSel")?, "BaseAsymSel", &AsymAlgo::ALL, AsymAlgo::bit)?,
        dhe: Some(one_of(reader.u16("DHE")?, "DHE", &DheGroup::ALL, DheGroup::bit)?),
        aead: Some(one_of(reader.u16("AEAD")?, "AEAD", &AeadAlgo::ALL, AeadAlgo::bit)?),
        measurement_hash: match reader.u32("MeasurementHashAlgo")? {
            0 => None,
            RAW_ONLY => Some(MeasurementHash::RawOnly),
            bit => {
                let hash = one_of(bit, "MeasurementHashAlgo", &HashAlgo::ALL, HashAlgo::measurement_bit)?;
                Some(MeasurementHash::Hash(hash))
            }
        },
    };
    let (measurements, opaque) = (reader.flag("Measurements")?, reader.flag("OpaqueDataFmt1")?);
    Ok(Connection { version, peer, suite, measurements, opaque })
}

/// The algorithm of that bit.
fn one_of<A: Copy, B: Copy + PartialEq + Into<u64>>(
    found: B,
    field: &'static str,
    all: &[A],
    bit: impl Fn(A) -> B,
) -> Result<A, DecodeError> {
    let known = all.iter().copied().find(|algo| bit(*algo) == found);
    known.ok_or(DecodeError::Value { field, value: found.into() })
}

fn in_mask(mask: u8) -> impl Iterator<Item = SlotId> {
    (0..8).filter_map(SlotId::new).filter(move |slot| mask & 1 << slot.number() != 0)
}

fn read_slot(reader: &mut Reader<'_>, field: &'static str) -> Result<SlotId, DecodeError> {
    let number = reader.u8(field)?;
    SlotId::new(number).ok_or(DecodeError::Value { field, value: number.into() })
}

fn write_summary(summary: Option<&Summary>, writer: &mut Writer<'_>) -> Result<(), NoSpace> {
    writer.u8(summary.map_or(SummaryHash::None, |summary| summary.of).code())?;
    writer.bytes(summary.map_or(&[], |summary| &summary.digest))
}

fn read_summary(reader: &mut Reader<'_>, hash: HashAlgo) -> Result<Option<Summary>, RestoreError> {
    let of = SummaryHash::from_code(reader.u8("Summary")?)?;
    if !of.is_asked() {
        return Ok(None);
    }
    Ok(Some(Summary { of, digest: read_digest(reader, hash, "Summary")? }))
}

/// A reading: its messages tell all but where they were read.
pub(super) fn write_record(
    record: Option<&MeasurementRecord>,
    writer: &mut Writer<'_>,
) -> Result<(), NoSpace> {
    let Some(record) = record else { return write_list(&[], writer) };
    write_list(&record.messages, writer)?;
    writer.u8(record.session.is_some().into())?;
    writer.u32(record.session.map_or(0, |session| session.0))
}

pub(super) fn read_record(
    reader: &mut Reader<'_>,
    layout: Layout,
) -> Result<Option<MeasurementRecord>, RestoreError> {
    let messages = read_list(reader, "Measurements")?;
    if messages.is_empty() {
        return Ok(None);
    }
    let some = reader.flag("MeasurementsSession")?;
    let id = reader.u32("MeasurementsSession")?;
    if !some && id != 0 {
        return Err(DecodeError::Reserved { field: "MeasurementsSession", value: id.into() }.into());
    }
    let mut inside = Reader::new(messages);
    let request = GetMeasurements::read(&mut inside, layout.version)?;
    let response = Measurements::read(&mut inside, &layout, request.signature.is_some())?;
    inside.finish()?;
    let (asked, session) = (asked_for(&request, Compare::Nothing), some.then_some(SessionId(id)));
    Ok(Some(MeasurementRecord::new(asked, &response, session, messages.to_vec())))
}

/// What was asked for with that request.
pub(super) fn asked_for(request: &GetMeasurements, compare: Compare) -> MeasurementsRequest {
    let signed = request.signature.as_ref().map(|signature| signature.slot);
    MeasurementsRequest { operation: request.operation, raw: request.raw, signed, compare }
}
