//! `NEGOTIATE_ALGORITHMS`: exactly one of everything that is offered.

use super::exchange::{self, Message};
use super::{Connection, Next, Outcome, Requester, RequesterConfig, RequesterError, Step};
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use crate::ids::Version;
use crate::msg::algorithms::{ExtendedAlgorithms, KEY_SCHEDULE_SPDM, MEASUREMENT_SPEC_DMTF};
use crate::msg::{AlgorithmTable, AlgorithmTables, Algorithms, NegotiateAlgorithms, OtherParams};

/// `MeasurementHashAlgo` of a responder that reports raw bit streams only.
const RAW_ONLY: u32 = 1;

fn offer(config: &RequesterConfig, version: Version) -> NegotiateAlgorithms<'static> {
    let dhe = config.dhes.iter().fold(0, |bits, group| bits | group.bit());
    let aead = config.aeads.iter().fold(0, |bits, cipher| bits | cipher.bit());
    let table = |algorithms| config.flags.key_ex().then_some(AlgorithmTable::new(algorithms));
    NegotiateAlgorithms {
        version,
        measurement_spec: MEASUREMENT_SPEC_DMTF,
        other_params: OtherParams::new().with_opaque_format_1(true),
        base_asym: config.asyms.iter().fold(0, |bits, asym| bits | asym.bit()),
        base_hash: config.hashes.iter().fold(0, |bits, hash| bits | hash.bit()),
        mel_spec: 0,
        extended_asym: ExtendedAlgorithms::default(),
        extended_hash: ExtendedAlgorithms::default(),
        tables: AlgorithmTables {
            dhe: table(dhe),
            aead: table(aead),
            requester_asym: None,
            key_schedule: table(KEY_SCHEDULE_SPDM),
        },
    }
}

/// The one of `all` that was selected, if it was offered and is the only one.
fn select<A: Copy>(
    field: &'static str,
    selected: u32,
    offered: u32,
    all: &[A],
    bit: impl Fn(A) -> u32,
) -> Result<A, RequesterError> {
    let chosen = all.iter().copied().find(|algo| bit(*algo) == selected && offered & selected != 0);
    chosen.ok_or(RequesterError::Selection { field, selected, offered })
}

/// Nothing but one of the offered bits, or none.
fn at_most_offered(field: &'static str, selected: u32, offered: u32) -> Result<(), RequesterError> {
    if selected & !offered != 0 || selected.count_ones() > 1 {
        return Err(RequesterError::Selection { field, selected, offered });
    }
    Ok(())
}

fn bits(table: Option<AlgorithmTable<'_>>) -> u32 {
    table.map_or(0, |table| table.algorithms.into())
}

impl Requester {
    pub(super) fn negotiate_algorithms(&self) -> Result<Next, RequesterError> {
        let offer = offer(&self.config, self.version);
        Ok(Next::Send(Step::Algorithms, exchange::bytes(|writer| offer.write(writer))?))
    }

    pub(super) fn on_algorithms(
        &mut self,
        request: &[u8],
        message: &Message<'_>,
    ) -> Result<Next, RequesterError> {
        let peer = self.peer.ok_or(RequesterError::NotConnected)?;
        let offer = offer(&self.config, self.version);
        let (chosen, exact) = message.read(|reader| Algorithms::read(reader, self.version))?;
        let has_measurements = peer.flags.meas() != 0;

        let other = (u8::from(chosen.other_params), u8::from(offer.other_params));
        at_most_offered("OtherParamsSelection", other.0.into(), other.1.into())?;
        at_most_offered("MELspecificationSel", chosen.mel_spec.into(), 0)?;
        at_most_offered("ReqBaseAsymAlg", bits(chosen.tables.requester_asym), 0)?;
        let spec = if has_measurements { MEASUREMENT_SPEC_DMTF } else { 0 };
        if chosen.measurement_spec != spec {
            return Err(RequesterError::Selection {
                field: "MeasurementSpecificationSel",
                selected: chosen.measurement_spec.into(),
                offered: spec.into(),
            });
        }
        if has_measurements != (chosen.measurement_hash != 0) {
            let (field, selected) = ("MeasurementHashAlgo", chosen.measurement_hash);
            return Err(RequesterError::Selection { field, selected, offered: u32::from(spec) });
        }

        let hash = select("BaseHashSel", chosen.base_hash, offer.base_hash, &HashAlgo::ALL, HashAlgo::bit)?;
        let asym = select("BaseAsymSel", chosen.base_asym, offer.base_asym, &AsymAlgo::ALL, AsymAlgo::bit)?;
        let (dhe, aead) = self.session_algorithms(&offer.tables, &chosen.tables)?;
        let suite = Suite {
            hash,
            asym,
            dhe,
            aead,
            // Its digests are compared, never made here: one of another hash is none to us.
            measurement_hash: match chosen.measurement_hash {
                RAW_ONLY => Some(MeasurementHash::RawOnly),
                bit => HashAlgo::ALL
                    .into_iter()
                    .find(|hash| hash.measurement_bit() == bit)
                    .map(MeasurementHash::Hash),
            },
        };
        self.transcript.append_vca(request);
        self.transcript.append_vca(exact);
        self.transcript.agree(&*self.crypto, hash);
        let connection = Connection {
            version: self.version,
            peer,
            suite,
            measurements: has_measurements,
            opaque: chosen.other_params.opaque_format_1(),
        };
        self.connection = Some(connection);
        Ok(Next::Done(Outcome::Connected(connection)))
    }

    /// Group and cipher: both if sessions are possible, which wants the key schedule, too.
    fn session_algorithms(
        &self,
        offer: &AlgorithmTables<'_>,
        chosen: &AlgorithmTables<'_>,
    ) -> Result<(Option<DheGroup>, Option<AeadAlgo>), RequesterError> {
        let groups = (bits(chosen.dhe), bits(offer.dhe));
        let ciphers = (bits(chosen.aead), bits(offer.aead));
        let schedules = (bits(chosen.key_schedule), bits(offer.key_schedule));
        if !self.can_exchange_keys() {
            at_most_offered("DHE", groups.0, groups.1)?;
            at_most_offered("AEADCipherSuite", ciphers.0, ciphers.1)?;
            at_most_offered("KeySchedule", schedules.0, schedules.1)?;
            return Ok((None, None));
        }
        let dhe = select("DHE", groups.0, groups.1, &DheGroup::ALL, |group| group.bit().into())?;
        let aead =
            select("AEADCipherSuite", ciphers.0, ciphers.1, &AeadAlgo::ALL, |cipher| cipher.bit().into())?;
        if schedules.0 != schedules.1 {
            let (field, selected, offered) = ("KeySchedule", schedules.0, schedules.1);
            return Err(RequesterError::Selection { field, selected, offered });
        }
        Ok((Some(dhe), Some(aead)))
    }

    /// Whether both sides can open sessions that encrypt and authenticate.
    pub(super) fn can_exchange_keys(&self) -> bool {
        let ours = self.config.flags;
        self.peer.is_some_and(|peer| {
            let theirs = peer.flags;
            ours.key_ex() && theirs.key_ex() && theirs.encrypt() && theirs.mac()
        })
    }
}
