//! Memory encryption: algorithm and KeyIDs.

use tdx_abi::msr::MsrIndex;

use crate::hardware::KeyAlgorithm;

const AES_128: u64 = 1 << 0;
const AES_128_INTEGRITY: u64 = 1 << 1;
const AES_256: u64 = 1 << 2;
const AES_256_INTEGRITY: u64 = 1 << 3;

/// The algorithm of private keys, or the MSR that does not offer (capability, bits 3:0) or has not
/// activated (bits 51:48 of TME_ACTIVATE) a usable one. The longer key is preferred; keys have
/// integrity unless MCHECK says that memory has none.
pub(crate) fn algorithm(
    capability: u64,
    activate: u64,
    without_integrity: bool,
) -> Result<KeyAlgorithm, MsrIndex> {
    let (short, long) =
        if without_integrity { (AES_128, AES_256) } else { (AES_128_INTEGRITY, AES_256_INTEGRITY) };
    let offered = capability & (short | long);
    if offered == 0 {
        return Err(MsrIndex::IA32_TME_CAPABILITY);
    }
    let active = activate >> 48 & offered;
    match (active & long != 0, active & short != 0, without_integrity) {
        (true, _, true) => Ok(KeyAlgorithm::AesXts256),
        (true, _, false) => Ok(KeyAlgorithm::AesXts256Integrity),
        (false, true, true) => Ok(KeyAlgorithm::AesXts128),
        (false, true, false) => Ok(KeyAlgorithm::AesXts128Integrity),
        (false, false, _) => Err(MsrIndex::IA32_TME_ACTIVATE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_active_key_of_the_right_kind_is_taken() {
        let of = |offered: u64, active: u64, plain| algorithm(offered, active << 48, plain);
        assert_eq!(of(0xF, 0xF, false), Ok(KeyAlgorithm::AesXts256Integrity));
        assert_eq!(of(0xF, 0xF, true), Ok(KeyAlgorithm::AesXts256));
        assert_eq!(of(0xF, AES_128_INTEGRITY, false), Ok(KeyAlgorithm::AesXts128Integrity));
        assert_eq!(of(0xF, AES_128, true), Ok(KeyAlgorithm::AesXts128));
        assert_eq!(of(AES_128 | AES_256, 0xF, false), Err(MsrIndex::IA32_TME_CAPABILITY));
        assert_eq!(of(0xF, AES_128, false), Err(MsrIndex::IA32_TME_ACTIVATE));
        assert_eq!(of(0, 0, true), Err(MsrIndex::IA32_TME_CAPABILITY));
    }
}
