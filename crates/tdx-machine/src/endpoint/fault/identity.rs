//! Faults of what a device proves itself with.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use spdm::algo::{AsymAlgo, HashAlgo};
use spdm::crypto::{CryptoError, Signer};
use spdm::signing::{Context, PREFIX_SIZE};

use super::{DeviceFault, Signed};
use crate::endpoint::{Ca, CaError, Issued, Validity};

/// A day, in seconds.
const DAY: i64 = 86_400;

/// Certifies a device, with the faults that its chain is to have.
pub(in crate::endpoint) fn certify(
    ca: &Ca,
    asym: AsymAlgo,
    serial: &str,
    validity: Validity,
    faults: &[DeviceFault],
) -> Result<Issued, CaError> {
    let has = |fault| faults.contains(&fault);
    let mut issued = if has(DeviceFault::WrongRootChain) {
        Ca::new(asym, validity)?.issue(serial, validity)?
    } else if has(DeviceFault::ExpiredChain) {
        ca.issue(serial, Validity { from: validity.from - DAY, to: validity.from })?
    } else if has(DeviceFault::NotYetValidChain) {
        ca.issue(serial, Validity { from: validity.to, to: validity.to + DAY })?
    } else {
        ca.issue(serial, validity)?
    };
    if has(DeviceFault::BadChainSignature)
        && let Some(last) = issued.chain.last_mut().and_then(|leaf| leaf.last_mut())
    {
        // The end of `s`.
        *last ^= 1;
    }
    Ok(issued)
}

/// Which signatures are to be wrong: shared between the faults and the signer that plays them.
#[derive(Clone, Debug, Default)]
pub struct SignatureFault(Arc<AtomicU8>);

const ALL: [(Signed, Context); 3] = [
    (Signed::ChallengeAuth, Context::ChallengeAuth),
    (Signed::Measurements, Context::Measurements),
    (Signed::KeyExchangeRsp, Context::KeyExchangeRsp),
];

impl SignatureFault {
    /// Takes over what `faults` say.
    pub(super) fn set(&self, faults: &[DeviceFault]) {
        let bits = ALL
            .iter()
            .zip(0..)
            .filter(|((at, _), _)| faults.contains(&DeviceFault::BadSignature { at: *at }));
        self.0.store(bits.fold(0, |bits, (_, bit)| bits | 1 << bit), Ordering::Relaxed);
    }

    fn spoils(&self, message: &[u8]) -> bool {
        let bits = self.0.load(Ordering::Relaxed);
        let prefix = message.get(..PREFIX_SIZE).unwrap_or_default();
        ALL.iter()
            .zip(0..)
            .any(|((_, context), bit)| bits & 1 << bit != 0 && prefix.ends_with(context.text().as_bytes()))
    }
}

/// A signer that signs something else when it is told to.
pub(in crate::endpoint) struct Spoilable {
    /// The device's key.
    pub(in crate::endpoint) signer: Box<dyn Signer>,
    /// When.
    pub(in crate::endpoint) fault: SignatureFault,
}

impl Signer for Spoilable {
    fn algo(&self) -> AsymAlgo {
        self.signer.algo()
    }

    fn sign(&self, hash: HashAlgo, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        if self.fault.spoils(message) {
            let other: Vec<u8> = message.iter().map(|byte| !byte).collect();
            return self.signer.sign(hash, &other);
        }
        self.signer.sign(hash, message)
    }
}
