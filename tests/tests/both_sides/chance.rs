//! Interrupts, entropy failures and BUSY from one seed.

use tdx_abi::leaf::SeamcallLeaf;
use tdx_machine::PlatformSpec;
use tdx_machine::spec::ChaosSpec;
use tdx_platform::HostOptions;

use crate::{host_on, module, preset};

/// Far more goes wrong than on any real machine. Ten tries for entropy are enough in all but one of
/// 10^13 calls.
fn troubled(name: &str) -> PlatformSpec {
    let chaos = ChaosSpec { interrupt: 300_000, no_entropy: 50_000, busy: 300_000, write_back_within: 4 };
    PlatformSpec { chaos, ..preset(name) }
}

#[test]
fn bring_up_and_shutdown_survive_any_seed() {
    for name in ["tiny", "default"] {
        let calm = host_on(crate::quiet(name), 0, HostOptions::default()).bring_up(&()).unwrap();
        let mut repeated = 0;
        for seed in 0..50 {
            let host = host_on(troubled(name), seed, HostOptions::default());
            let report = host.bring_up(&()).unwrap_or_else(|error| panic!("{name}, seed {seed}: {error}"));
            assert_eq!(report, calm, "{name}, seed {seed}: chance shows in nothing but repeated calls");
            let calls = module(&host).calls_of(SeamcallLeaf::SYS_TDMR_INIT);
            assert!(calls >= report.tdmr_init_calls);
            repeated += calls - report.tdmr_init_calls;
            host.shutdown().unwrap_or_else(|error| panic!("{name}, seed {seed}: {error}"));
            assert_eq!(host.platform().page_accounts().leaked, 0, "{name}, seed {seed}");
        }
        assert!(repeated > 1000, "{name}: BUSY was met {repeated} times only");
    }
}

#[test]
fn the_same_seed_makes_the_same_calls_and_another_seed_others() {
    let calls = |seed| {
        let host = host_on(troubled("default"), seed, HostOptions::default());
        host.bring_up(&()).unwrap();
        (module(&host), host.platform().machine().log(), host.platform().log_lines())
    };
    assert_eq!(calls(7), calls(7));
    assert_ne!(calls(7).0.calls, calls(8).0.calls);
}
