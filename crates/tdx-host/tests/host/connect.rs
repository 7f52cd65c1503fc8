//! TDX Connect as a whole: on or off, its extensions, its IOMMUs, and the way through an update.

mod extensions;
mod keyp;
mod units;
mod update;

use tdx_abi::features::Features0;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_abi::metadata::sys;
use tdx_abi::status::{OperandId, StatusCode};
use tdx_host::traits::LogLevel;
use tdx_host::{BringUpOptions, ConnectError, ConnectState, Lifecycle, addon_features};

use crate::fake::connect::CONNECT;
use crate::fake::{Bench, FEATURES, Fake};

/// The name of the reason for which Connect is off or dead.
fn reason(bench: &Bench) -> &'static str {
    bench.host.connect_state().reason().map_or("", |reason| reason.name())
}

fn errors_in_log(bench: &Bench) -> usize {
    bench.fake.state().lines.iter().filter(|(level, _)| *level == LogLevel::Error).count()
}

/// Plain TDX works: every page is accounted for, and comes back with the module's end.
fn assert_tdx_goes_on(bench: &mut Bench, what: &str) {
    assert_eq!(bench.host.lifecycle(), Lifecycle::Ready, "{what}");
    assert!(bench.host.ready().is_ok(), "{what}");
    assert_eq!(bench.fake.leaked_pages(), 0, "{what}");
    let held = bench.memory.tdmrs.pamt_bytes() + bench.memory.pool.count() as u64 * 4096;
    assert_eq!(bench.fake.free_bytes() + held, bench.free_at_start, "{what}");
    bench.host.shutdown(&*bench.fake, &mut bench.memory).unwrap();
    bench.assert_unwound(what);
}

#[test]
fn features_are_asked_for_that_are_supported_advertised_and_not_disabled() {
    let compat = Features0::UPDATE_COMPATIBILITY;
    let connect = Features0::TDX_CONNECT;
    let none = Features0::default();
    let all = connect.union(compat).union(Features0::EXT);
    // (advertised, asked for, disabled, bitmap)
    let cases = [
        (all, none, none, connect),
        (all, compat, none, connect.union(compat)),
        (all, compat, connect, compat),
        (all, Features0::EXT, none, connect),
        (none, compat, none, none),
        (compat, connect, none, none),
        (all, all, all, none),
    ];
    for (advertised, asked, disabled, bitmap) in cases {
        assert_eq!(addon_features(advertised, asked, disabled), bitmap, "{advertised} {asked} {disabled}");
    }
}

#[test]
fn connect_is_asked_for_by_default() {
    let mut bench = Bench::up(Fake::with_connect(64));
    let info = bench.host.sysinfo().unwrap();
    assert_eq!((info.pool_required_pages(), info.ext_required()), (Some(0), Some(true)));
    let sizes = info.connect_sizes().unwrap();
    assert_eq!((sizes.ide_mt, sizes.spdm_mt, sizes.iommu_mt, sizes.max_dev_info), (1, 2, 8, 16));
    assert_eq!(bench.host.connect_state(), ConnectState::Off(ConnectError::NotStarted));
    assert_eq!(bench.host.opted_in(), Features0::TDX_CONNECT);
    {
        let state = bench.fake.state();
        let config = state.calls.iter().find(|call| call.1.leaf() == SeamcallLeaf::SYS_CONFIG.0).unwrap();
        assert_eq!((config.1.version(), config.2.r9, config.2.r11), (1, 1 << 6, 0));
        assert!(state.io.extensions_run);
        let told = state.lines.iter().any(|(_, line)| line.contains("0.3 MB (64 pages)"));
        assert!(told, "{:?}", state.lines);
    }
    assert_tdx_goes_on(&mut bench, "connect");
}

#[test]
fn connect_that_is_not_wanted_or_not_possible_is_not_asked_for() {
    let no_connect: fn(&Fake) = |fake| fake.set_field(sys::TDX_FEATURES0, FEATURES.bits());
    let erratum: fn(&Fake) = |fake| fake.state().erratum = true;
    let nothing: fn(&Fake) = |_| {};
    // (what is bent, what the user disabled, reason, lines of the log)
    let cases = [
        (no_connect, Features0::default(), "connect-not-offered", 0),
        (nothing, Features0::TDX_CONNECT, "connect-disabled", 0),
        (erratum, Features0::default(), "connect-erratum", 1),
    ];
    for (bend, disabled, name, lines) in cases {
        let mut bench = Bench::new(Fake::with_connect(64));
        bend(&bench.fake);
        let report = bench.bring_up_with(&BringUpOptions { disabled, ..BringUpOptions::default() }).unwrap();
        assert_eq!((report.opted_in, report.extension_pages), (Features0::default(), 0), "{name}");
        assert_eq!((reason(&bench), errors_in_log(&bench)), (name, lines));
        for leaf in [SeamcallLeaf::EXT_MEM_ADD, SeamcallLeaf::EXT_INIT] {
            assert_eq!(bench.fake.calls_of(leaf), 0, "{name}");
        }
        let asked = bench.fake.state().calls.iter().any(|call| call.2.rdx == sys::EXT_REQUIRED.0);
        assert!(!asked, "{name}: metadata of a feature that is off");
        let refused = bench.host.connect_init(&*bench.fake, &mut bench.memory.connect);
        assert_eq!(refused.unwrap_err().name(), name);
        assert_tdx_goes_on(&mut bench, name);
    }
}

#[test]
fn a_module_that_does_not_take_the_request_of_today_is_too_old() {
    for operand in [OperandId::R11, OperandId::R9, OperandId::RAX] {
        let fake = Fake::with_connect(64);
        let word = tdx_abi::leaf::LeafWord::module(SeamcallLeaf::SYS_CONFIG, 1);
        fake.script_word(word, 0, 1, StatusCode::OPERAND_INVALID.with_operand(operand), 0);
        let mut bench = Bench::up(fake);
        assert_eq!((reason(&bench), errors_in_log(&bench)), ("connect-too-old", 2));
        let said = bench.host.connect_state().to_string();
        assert!(said.contains("too old for Connect") && said.contains("OPERAND_INVALID"), "{said}");
        assert_eq!(bench.fake.calls_of(SeamcallLeaf::EXT_MEM_ADD), 0);
        assert_tdx_goes_on(&mut bench, "too old");
    }
}

#[test]
fn metadata_that_cannot_be_is_the_end_of_connect_alone() {
    let fields = [
        (sys::MEMORY_POOL_REQUIRED_PAGES, 1 << 21),
        (sys::IDE_MT_PAGE_COUNT, 0),
        (sys::SPDM_MT_PAGE_COUNT, 513),
        (sys::IOMMU_MT_PAGE_COUNT, 511),
        (sys::SPDM_MAX_DEV_INFO_PAGES, 0),
        (sys::EXT_REQUIRED, 256),
    ];
    for (field, value) in fields {
        for missing in [false, true] {
            let fake = Fake::with_connect(64);
            if missing {
                fake.state().fields.remove(&field.0);
            } else {
                fake.set_field(field, value);
            }
            let mut bench = Bench::up(fake);
            let name = if missing { "connect-metadata-missing" } else { "connect-metadata-invalid" };
            assert_eq!((reason(&bench), errors_in_log(&bench)), (name, 1), "{field}");
            assert_eq!(bench.fake.calls_of(SeamcallLeaf::EXT_MEM_ADD), 0);
            assert_tdx_goes_on(&mut bench, name);
        }
    }
    // A module with TDX Connect and without extensions has no metadata of extensions.
    let fake = Fake::with_connect(0);
    fake.set_field(sys::TDX_FEATURES0, FEATURES.union(Features0::TDX_CONNECT).bits());
    fake.state().fields.remove(&sys::EXT_REQUIRED.0);
    fake.state().fields.remove(&sys::MEMORY_POOL_REQUIRED_PAGES.0);
    assert_eq!(reason(&Bench::up(fake)), "connect-not-started");
    assert!(CONNECT.contains(Features0::EXT));
}
