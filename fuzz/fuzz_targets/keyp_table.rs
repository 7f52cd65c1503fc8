#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tdx_tests::fuzz::keyp_table(data));
