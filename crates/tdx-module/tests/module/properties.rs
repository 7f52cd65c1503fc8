//! Whatever a caller passes, the module answers, and a refusal changes nothing.

use proptest::prelude::*;
use tdx_abi::Registers;
use tdx_abi::status::Status;
use tdx_module::MODELLED_LEAVES;

use crate::common::{Bench, GIB, Stage, TDMR_ARRAY, TDMR_INFO, config_regs, with_leaf};

/// Values that come near the borders that the leaves look at.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..70,
        Just(u64::MAX),
        Just(TDMR_ARRAY),
        Just(TDMR_INFO),
        (0u64..16).prop_map(|gib| gib * GIB),
        (0u32..64).prop_map(|bit| 1 << bit),
    ]
}

fn registers() -> impl Strategy<Value = Registers> {
    (word(), word(), word(), word(), word(), word()).prop_map(|(rcx, rdx, r8, r9, r10, r11)| Registers {
        rcx,
        rdx,
        r8,
        r9,
        r10,
        r11,
        ..Registers::default()
    })
}

fn stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        Just(Stage::Loaded),
        Just(Stage::Initialised),
        Just(Stage::LpsInitialised),
        Just(Stage::Configured),
        Just(Stage::Ready),
    ]
}

proptest! {
    #[test]
    fn an_error_of_any_leaf_changes_no_state(
        profile in prop_oneof![Just("1.0"), Just("1.5.01"), Just("2.0.18"), Just("connect-clock")],
        stage in stage(),
        leaf in 0..MODELLED_LEAVES.len(),
        version in 0u8..3,
        lp in 0u32..5,
        regs in registers(),
    ) {
        let bench = Bench::at(profile, stage);
        let mut before = bench.state();
        let Some(after) = bench.raw(lp, with_leaf(MODELLED_LEAVES[leaf], version, regs)) else {
            prop_assert!(lp >= 4, "only an LP that does not exist gets no answer");
            return Ok(());
        };
        if Status::from_raw(after.rax).is_error() {
            let mut state = bench.state();
            // What rows 8 to 24 of SYS.CONFIG and SYS.DISABLE keep.
            for state in [&mut before, &mut state] {
                state.key_ids.clear();
                state.disabling = false;
            }
            prop_assert_eq!(state, before);
        }
    }

    #[test]
    fn any_rax_is_answered(rax in any::<u64>(), stage in stage(), regs in registers()) {
        let bench = Bench::at("connect", stage);
        let regs = Registers { rax, ..regs };
        prop_assert!(bench.raw(2, regs).is_some());
    }

    #[test]
    fn a_tdmr_info_of_any_content_is_answered(words in prop::collection::vec(word(), 40)) {
        let bench = Bench::at("1.5.05", Stage::LpsInitialised);
        bench.hw.set(|facts| {
            for (word, value) in words.into_iter().enumerate() {
                facts.tdmr(1, word as u64, value);
            }
        });
        let regs = with_leaf(tdx_abi::leaf::SeamcallLeaf::SYS_CONFIG, 0, config_regs());
        prop_assert!(bench.raw(0, regs).is_some());
    }
}
