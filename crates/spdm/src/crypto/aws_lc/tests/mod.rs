//! Known answers and edge cases.

mod aead;
mod agreement;
mod hash;
mod signature;

use alloc::vec::Vec;

use crate::algo::HashAlgo;

/// Bytes from hexadecimal digits; blanks between them do not count.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap()).collect();
    assert!(digits.len().is_multiple_of(2), "{text}");
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

/// Both hashes, in the order of the vectors.
const HASHES: [HashAlgo; 2] = HashAlgo::ALL;
