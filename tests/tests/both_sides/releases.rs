//! Modules of every release on a machine that fits them, and what a host opts into.

use std::collections::BTreeSet;

use tdx_abi::features::Features0;
use tdx_abi::leaf::SeamcallLeaf;
use tdx_host::traits::LogLevel;
use tdx_host::{BringUpReport, Lifecycle};
use tdx_machine::presets;
use tdx_module::profile::{self, Generation};
use tdx_platform::{HostOptions, TdxHost};

use crate::{ending, host_on, module, quiet};

fn host_with(profile: &str, options: HostOptions) -> TdxHost {
    let mut spec = quiet("tiny");
    profile.clone_into(&mut spec.module.profile);
    host_on(spec, 0, options)
}

fn up(profile: &str, opt_in: Features0) -> (TdxHost, BringUpReport) {
    let host = host_with(profile, HostOptions { opt_in, ..HostOptions::default() });
    let report = host.bring_up(&()).unwrap_or_else(|error| panic!("{profile}: {error}"));
    (host, report)
}

#[test]
fn every_release_comes_up_or_ends_in_its_named_error() {
    let mut endings = Vec::new();
    for profile in profile::all() {
        let host = host_with(profile.name, HostOptions::default());
        let result = host.bring_up(&());
        let expected = match profile {
            old if old.generation == Generation::V1_0 => "module-too-old",
            old if !old.features0.contains(Features0::NO_RBP_MOD) => "no-rbp-mod",
            _ => "ready",
        };
        assert_eq!(ending(&result), expected, "{profile}: {result:?}");
        endings.push(expected);
        let Ok(report) = result else {
            assert!(host.device().is_none());
            continue;
        };
        assert_eq!(report.version, profile.version);
        let version = host.device().unwrap().read("version").unwrap();
        assert_eq!(version, format!("{}\n", profile.version), "{profile}");
        let modelled = host.sysinfo().unwrap().features0();
        assert!(profile.features0.contains(modelled), "{profile} reports {modelled}");
    }
    assert_eq!(endings.len(), 24);
    assert!(endings.iter().filter(|ending| **ending == "ready").count() >= 18, "{endings:?}");
}

#[test]
fn update_attributes_are_there_where_the_release_can_be_updated_at_runtime() {
    for profile in profile::all().filter(|one| one.features0.contains(Features0::NO_RBP_MOD)) {
        let (host, _) = up(profile.name, Features0::default());
        let names: Vec<_> = host.device().unwrap().attributes().map(|attribute| attribute.name).collect();
        let wanted: &[&str] = if profile.features0.contains(Features0::TD_PRESERVING) {
            &["version", "seamldr_version", "num_remaining_updates"]
        } else {
            &["version"]
        };
        assert_eq!(names, wanted, "{profile}");
    }
}

#[test]
fn connect_is_on_unless_it_is_disabled() {
    let (connect, none) = (Features0::TDX_CONNECT, Features0::default());
    // (asked for, disabled, on)
    for (opt_in, disabled, on) in [
        (none, none, connect),
        (connect, none, connect),
        (connect.union(Features0::EXT), none, connect),
        (none, connect, none),
        (Features0::EXT, connect, none),
        // The module does not offer it.
        (Features0::DYNAMIC_PAMT, connect, none),
    ] {
        let host = host_with("connect", HostOptions { opt_in, disabled, ..HostOptions::default() });
        let report = host.bring_up(&()).unwrap();
        assert_eq!((report.opted_in, report.opt_in_refused), (on, none), "{opt_in} {disabled}");
        assert_eq!(module(&host).opted_in, on, "{opt_in} {disabled}");
        assert_eq!(module(&host).calls_of(SeamcallLeaf::SYS_CONFIG), 1, "{opt_in} {disabled}");
    }
}

#[test]
fn on_every_preset_connect_works_or_says_loudly_why_not_and_plain_tdx_goes_on() {
    let mut endings = BTreeSet::new();
    for preset in presets::all() {
        for profile in [None, Some("connect"), Some("connect-clock")] {
            let mut spec = quiet(preset.name);
            spec.module.profile = profile.map_or(spec.module.profile, str::to_owned);
            let what = format!("{} with {}", preset.name, spec.module.profile);
            let host = host_on(spec, 0, HostOptions::default());
            let bytes: u64 = host.platform().memory().iter().map(|(range, _)| range.size()).sum();
            // Larger machines take long.
            if bytes > 1 << 40 || host.bring_up(&()).is_err() {
                continue;
            }
            let lines = host.platform().log_lines();
            let loud: Vec<_> = lines.iter().filter(|line| line.level == LogLevel::Error).collect();
            let state = host.connect_status();
            let reason = state.reason().map(|reason| reason.name());
            let expected = reason.is_some_and(|name| name != "connect-not-offered");
            let told = state.reason().is_some_and(|reason| {
                loud.iter().any(|line| line.text == format!("TDX Connect is off: {reason}"))
            });
            assert_eq!((told, !loud.is_empty()), (expected, expected), "{what}: {state}, {loud:?}");
            assert_eq!(host.tsm().is_some(), state.is_on(), "{what}");
            assert_eq!(
                (host.status().lifecycle, host.device().is_some()),
                (Lifecycle::Ready, true),
                "{what}"
            );
            host.shutdown().unwrap();
            assert_eq!(host.platform().page_accounts().leaked, 0, "{what}");
            endings.insert(reason.unwrap_or("on"));
        }
    }
    let expected = ["connect-erratum", "connect-no-units", "connect-not-offered", "connect-too-old", "on"];
    assert_eq!(endings.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_module_without_connect_is_not_asked_for_it() {
    for profile in ["1.5.06", "1.5.34", "2.0.18"] {
        let (host, report) = up(profile, Features0::TDX_CONNECT);
        assert_eq!(report.opted_in, Features0::default());
        assert_eq!(module(&host).calls_of(SeamcallLeaf::SYS_CONFIG), 1, "{profile}");
    }
}

#[test]
fn a_module_that_wants_a_clock_comes_up_without_the_feature_and_says_so() {
    let disabled = HostOptions { disabled: Features0::TDX_CONNECT, ..HostOptions::default() };
    let plain = host_with("connect-clock", disabled);
    let report = plain.bring_up(&()).unwrap();
    assert_eq!(module(&plain).calls_of(SeamcallLeaf::SYS_CONFIG), 1);
    assert!(report.opt_in_refused.is_empty());
    assert!(plain.platform().log_lines().iter().all(|line| line.level != LogLevel::Error));

    let (host, report) = up("connect-clock", Features0::TDX_CONNECT);
    assert_eq!((report.opted_in, report.opt_in_refused), (Features0::default(), Features0::TDX_CONNECT));
    let module = module(&host);
    assert_eq!(module.calls_of(SeamcallLeaf::SYS_CONFIG), 2, "version 1, then version 0");
    assert_eq!((module.opted_in, host.status().lifecycle), (Features0::default(), Lifecycle::Ready));
    assert_eq!(module.global_key, host.status().global_keyid, "the KeyID is the same");
    let loud: Vec<_> =
        host.platform().log_lines().into_iter().filter(|line| line.level == LogLevel::Error).collect();
    assert_eq!(loud.len(), 2, "{loud:?}");
    assert!(loud[0].text.contains("TDX_CONNECT"), "{loud:?}");
    assert!(loud[1].text.contains("too old for Connect"), "{loud:?}");
}

#[test]
fn real_features_are_reported_where_the_platform_file_asks_for_them() {
    let features = |real| {
        let mut spec = quiet("tiny");
        "2.0.08".clone_into(&mut spec.module.profile);
        spec.module.real_features = real;
        let host = host_on(spec, 0, HostOptions::default());
        host.bring_up(&()).unwrap();
        host.sysinfo().unwrap().features0()
    };
    let release = profile::find("2.0.08").unwrap().features0;
    assert_eq!(features(true), release);
    assert!(release.contains(features(false)) && release != features(false));
}
