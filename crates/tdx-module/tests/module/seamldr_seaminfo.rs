//! SEAMLDR.SEAMINFO: the platform as MCHECK found it.

use tdx_abi::leaf::SeamldrLeaf;
use tdx_abi::status::SeamldrStatus as S;
use tdx_module::{LoaderConfig, LoaderGeneration};

use crate::common::install::leaf;
use crate::common::{Bench, CMRS, SEAMRR};

const BUFFER: u64 = 0x30_0800;
const LEN: usize = 2048;

#[test]
fn seaminfo_is_the_half_of_p_sysinfo_that_mcheck_fills() {
    for generation in LoaderGeneration::ALL {
        let loader = LoaderConfig { generation, ..LoaderConfig::default() };
        let bench = Bench::with_loader(None, loader);
        bench.hw.set(|facts| facts.mcheck(|mcheck| mcheck.without_integrity = true));
        assert_eq!(leaf(&bench, 3, SeamldrLeaf::SEAMINFO, BUFFER), S::SUCCESS);
        let mut expected = vec![0; LEN];
        let mut put = |at: usize, bytes: &[u8]| expected[at..at + bytes.len()].copy_from_slice(bytes);
        put(8, &4u32.to_le_bytes());
        put(12, &2u32.to_le_bytes());
        put(16, &0xA06D1u32.to_le_bytes());
        put(20, &0xA06D0u32.to_le_bytes());
        // The upper 2 MiB of the 128 MiB of SEAMRR.
        put(48, &(SEAMRR + 0x7E0_0000).to_le_bytes());
        put(56, &0x20_0000u64.to_le_bytes());
        put(65, &[1]);
        for (index, (base, size)) in CMRS.into_iter().enumerate() {
            put(128 + 16 * index, &base.to_le_bytes());
            put(136 + 16 * index, &size.to_le_bytes());
        }
        assert_eq!(bench.hw.bytes(BUFFER, LEN), expected, "SEAMLDR.SEAMINFO-2");
    }
}

#[test]
fn seaminfo_tells_apart_what_the_module_must_not_check() {
    for (smrr2, integrity, bytes) in [(true, false, [1, 1]), (true, true, [1, 0]), (false, true, [0, 0])] {
        let bench = Bench::with(None);
        bench.hw.set(|facts| {
            facts.mcheck(|mcheck| {
                (mcheck.smrr2_unsupported, mcheck.without_integrity) = (smrr2, !integrity);
            });
        });
        assert_eq!(leaf(&bench, 0, SeamldrLeaf::SEAMINFO, BUFFER), S::SUCCESS);
        assert_eq!(bench.hw.bytes(BUFFER + 64, 8)[..2], bytes, "SEAMLDR.SEAMINFO-2");
    }
}

#[test]
fn seaminfo_wants_a_2_kib_aligned_shared_buffer() {
    let bench = Bench::with(None);
    let before = bench.hw.facts();
    for rcx in [BUFFER + 1024, BUFFER + 8, 32 << 46 | BUFFER, 1 << 52, SEAMRR, u64::MAX] {
        assert_eq!(leaf(&bench, 0, SeamldrLeaf::SEAMINFO, rcx), S::EBADPARAM, "SEAMLDR.SEAMINFO-1: {rcx:#x}");
    }
    assert_eq!(bench.hw.facts(), before, "SEAMLDR.SEAMINFO-1: nothing was written");
    for rcx in [BUFFER, 31 << 46 | BUFFER] {
        assert_eq!(leaf(&bench, 0, SeamldrLeaf::SEAMINFO, rcx), S::SUCCESS, "SEAMLDR.SEAMINFO-1: repaired");
    }
}
