use alloc::boxed::Box;

use super::config::Identity;
use super::connection::{Negotiated, Slot, State};
use super::dispatch::{Answer, Call, Incoming, encode};
use super::refusal::Refusal;
use super::{ConfigError, Responder};
use crate::algo::{AeadAlgo, AsymAlgo, DheGroup, HashAlgo, MeasurementHash, Suite};
use crate::ids::SlotId;
use crate::msg::algorithms::{KEY_SCHEDULE_SPDM, MEASUREMENT_SPEC_DMTF};
use crate::msg::{
    AlgorithmTable, AlgorithmTables, Algorithms, ErrorCode, Layout, NegotiateAlgorithms, OtherParams,
};
use crate::x509;

/// The first of `ours` that `theirs` has.
fn select<T: Copy>(ours: &[T], theirs: impl Fn(T) -> bool) -> Option<T> {
    ours.iter().copied().find(|algorithm| theirs(*algorithm))
}

impl Responder {
    /// `NEGOTIATE_ALGORITHMS`: fixes the algorithms.
    pub(super) fn negotiate_algorithms(
        &mut self,
        call: &mut Call<'_>,
        incoming: Incoming<'_>,
    ) -> Result<Answer, Refusal> {
        let State::Capabilities(peer) = &self.state else { return Err(Refusal::unexpected()) };
        let (peer, version, config) = (*peer, peer.version, &self.config);
        let (offer, request) = incoming.read(|reader| NegotiateAlgorithms::read(reader, version))?;

        let hash = select(&config.hashes, |hash| offer.base_hash & hash.bit() != 0);
        let asym = select(&config.asyms, |asym| offer.base_asym & asym.bit() != 0);
        let (Some(hash), Some(asym)) = (hash, asym) else { return Err(Refusal::invalid()) };

        let offered = |table: Option<AlgorithmTable<'_>>| table.map_or(0, |table| table.algorithms);
        let key_ex = config.flags.key_ex();
        let dhe = select(&config.dhes, |dhe| key_ex && offered(offer.tables.dhe) & dhe.bit() != 0);
        let aead = select(&config.aeads, |aead| key_ex && offered(offer.tables.aead) & aead.bit() != 0);
        let key_schedule = if key_ex { offered(offer.tables.key_schedule) & KEY_SCHEDULE_SPDM } else { 0 };
        // Two sides that want sessions but have not the algorithms for them in common.
        if key_ex && peer.flags.key_ex() && (dhe.is_none() || aead.is_none() || key_schedule == 0) {
            return Err(Refusal::invalid());
        }

        let measured = config.flags.meas() != 0 && offer.measurement_spec & MEASUREMENT_SPEC_DMTF != 0;
        let measurement_hash = measured.then_some(config.measurement_hash);
        let opaque = offer.other_params.opaque_format_1();
        let answered = |asked: Option<AlgorithmTable<'_>>, bit| asked.map(|_| AlgorithmTable::new(bit));
        let response = encode(64, |writer| {
            Algorithms {
                version,
                measurement_spec: if measured { MEASUREMENT_SPEC_DMTF } else { 0 },
                other_params: OtherParams::new().with_opaque_format_1(opaque),
                measurement_hash: match measurement_hash {
                    None => 0,
                    Some(MeasurementHash::RawOnly) => 1,
                    Some(MeasurementHash::Hash(hash)) => hash.measurement_bit(),
                },
                base_asym: asym.bit(),
                base_hash: hash.bit(),
                mel_spec: 0,
                tables: AlgorithmTables {
                    dhe: answered(offer.tables.dhe, dhe.map_or(0, DheGroup::bit)),
                    aead: answered(offer.tables.aead, aead.map_or(0, AeadAlgo::bit)),
                    requester_asym: answered(offer.tables.requester_asym, 0),
                    key_schedule: answered(offer.tables.key_schedule, key_schedule),
                },
            }
            .write(writer)
        })?;
        self.check_size(call, response.len())?;
        let slots = self.slots(hash, asym).map_err(|_| Refusal::new(ErrorCode::UNSPECIFIED))?;

        self.remember(request, &response);
        self.transcript.agree(&*self.crypto, hash);
        let layout = Layout::new(version, Suite { hash, asym, dhe, aead, measurement_hash });
        let negotiated = Negotiated { peer, layout, opaque, slots, authenticated: false };
        self.state = State::Negotiated(Box::new(negotiated));
        Ok(response.into())
    }

    /// The slots as they are with that hash and signature algorithm.
    fn slots(&self, hash: HashAlgo, asym: AsymAlgo) -> Result<[Option<Slot>; SlotId::COUNT], ConfigError> {
        let mut slots = [const { None }; SlotId::COUNT];
        for (identity, Identity { slot, certificates, signer }) in self.identities.iter().enumerate() {
            let Some(place) = slots.get_mut(slot.index()).filter(|_| signer.algo() == asym) else { continue };
            let chain = x509::chain::build(&*self.crypto, hash, certificates)
                .map_err(|_| ConfigError::LongChain(*slot))?;
            let digest = self.crypto.digest(hash, &chain);
            *place = Some(Slot { identity, chain, digest });
        }
        Ok(slots)
    }

    /// Whether all chains can be built, whatever will be agreed on.
    pub(super) fn check_chains(&self) -> Result<(), ConfigError> {
        for hash in &self.config.hashes {
            for asym in &self.config.asyms {
                self.slots(*hash, *asym)?;
            }
        }
        Ok(())
    }
}
