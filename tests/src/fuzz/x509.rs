//! A body for certificate chains: bytes as they come, and a chain of an authority with changes.

use std::sync::OnceLock;
use std::time::Duration;

use spdm::algo::{AsymAlgo, HashAlgo};
use spdm::crypto::aws_lc::AwsLc;
use spdm::x509::chain::{MAX_CERTIFICATES, build};
use spdm::x509::{CertChain, CertModel, ChainError, TrustStore, Verifier, Wanted};
use tdx_machine::endpoint::{Ca, Validity};

use super::bytes::Choices;

const HASH: HashAlgo = HashAlgo::Sha256;
/// The authority's time, at which its certificates are valid.
const NOW: Duration = Duration::from_secs(1_800_000_000);
const WANTED: Wanted = Wanted { asym: AsymAlgo::EcdsaP256, model: CertModel::Device, now: NOW };
/// Length, reserved field and root hash.
const HEADER: usize = 4 + HASH.size();

/// Chains of one authority, their root first.
struct Known {
    trust: TrustStore,
    chains: [Vec<Vec<u8>>; 2],
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let validity = Validity::around(NOW);
        let ca = Ca::new(WANTED.asym, validity).expect("an authority can be made");
        let issue = |serial| ca.issue(serial, validity).expect("a device can be certified").chain;
        Known { trust: TrustStore::new([ca.root()]), chains: [issue("0"), issue("1")] }
    })
}

/// A chain that is no chain is refused in a line. One that is has certificates which fill it, and a
/// chain is believed only if it is one that the authority has made, with or without its root, at a time
/// when it is valid.
pub fn cert_chain(data: &[u8]) {
    judge(data, &WANTED);
    let mut choices = Choices::new(data);
    let known = known();
    let mut certificates = choices.of(&[&known.chains[0], &known.chains[1]]).clone();
    for _ in 0..choices.below(4) {
        change(&mut certificates, &mut choices);
    }
    let mut bytes = build(&AwsLc, HASH, &certificates).unwrap_or_default();
    if choices.flag()
        && let Some(root) = certificates.first()
    {
        bytes.drain(HEADER..HEADER + root.len());
        let size = u16::try_from(bytes.len()).expect("it was smaller than what fits");
        bytes[..2].copy_from_slice(&size.to_le_bytes());
    }
    if choices.flag() && !bytes.is_empty() {
        let at = choices.below(bytes.len());
        bytes[at] ^= choices.byte();
    }
    let day = 86_400 * u64::from(choices.byte());
    let now =
        choices.of(&[NOW, NOW + Duration::from_secs(20 * day), NOW.saturating_sub(Duration::from_secs(day))]);
    judge(&bytes, &Wanted { now, ..WANTED });
}

/// Changes one thing about the certificates.
fn change(certificates: &mut Vec<Vec<u8>>, choices: &mut Choices<'_>) {
    if certificates.is_empty() {
        return;
    }
    let (here, there) = (choices.below(certificates.len()), choices.below(certificates.len()));
    match choices.below(6) {
        0 => drop(certificates.remove(here)),
        1 => certificates.swap(here, there),
        2 => certificates.insert(here, certificates[there].clone()),
        3 => certificates[here].clone_from(&choices.of(&[&known().chains[0], &known().chains[1]])[there % 3]),
        4 => certificates[here].truncate(choices.below(4096)),
        _ => {
            let at = choices.below(certificates[here].len().max(1));
            if let Some(byte) = certificates[here].get_mut(at) {
                *byte = choices.byte();
            }
        }
    }
}

fn judge(bytes: &[u8], wanted: &Wanted) {
    let chain = match CertChain::parse(bytes, HASH) {
        Ok(chain) => chain,
        Err(error) => return told(&error),
    };
    let count = chain.certificates().len();
    assert!((1..=MAX_CERTIFICATES).contains(&count));
    assert_eq!(chain.certificates().concat(), bytes[HEADER..]);
    assert_eq!(Some(&chain.leaf()), chain.certificates().last());
    let known = known();
    match known.trust.verify(&chain, wanted) {
        Ok(key) => {
            let genuine =
                |made: &Vec<Vec<u8>>| [made, &made[1..]].iter().any(|made| chain.certificates() == *made);
            assert!(known.chains.iter().any(genuine), "a chain that nobody has made is believed");
            assert_eq!(key.algo, wanted.asym);
            assert!(chain.leaf().windows(key.point.len()).any(|part| part == key.point));
            let validity = Validity::around(NOW);
            let now = i64::try_from(wanted.now.as_secs()).expect("some decades");
            assert!((validity.from..=validity.to).contains(&now));
        }
        Err(error) => told(&error),
    }
    // A stranger's root is no better for standing in the chain: everything else is checked all the same.
    match TrustStore::AnyRoot.verify(&chain, wanted) {
        Ok(key) => assert_eq!(key.algo, wanted.asym),
        Err(error) => told(&error),
    }
}

fn told(error: &ChainError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}
