//! Every rule, fulfilled, broken and unknown.

use std::collections::BTreeSet;

use tdx_image::verify::Signer;
use tdx_image::{Checksum, HeaderVersion};
use tdx_module::profile::Svn;
use tdxhost::api::HostState;
use tdxhost::doctor::{Check, State};
use tdxhost::explain::explain_error;
use tdxhost::update::candidate::Identity;
use tdxhost::update::checks::RULES;
use tdxhost::update::rules::td_builds;
use tdxhost::update::{Candidate, HostFacts, Layout, Mapping, Policy, Refusal, VersionSource, preflight};

use crate::facts::{SAPPHIRE_RAPIDS, SIERRA_FOREST, host, image, image_facts, unknown, v};

struct Case {
    host: HostFacts,
    candidate: Candidate,
    policy: Policy,
}

fn good() -> Case {
    Case { host: host("1.5.06", SAPPHIRE_RAPIDS), candidate: image("1.5.16"), policy: Policy::default() }
}

fn checks(case: &Case) -> Vec<Check> {
    preflight(&case.host, &case.candidate, &Mapping::built_in().unwrap(), case.policy)
}

/// The checks that are not as expected: id, state, reason.
fn amiss(case: &Case) -> Vec<(&'static str, State, Option<&'static str>)> {
    let checks = checks(case);
    let amiss = checks.iter().filter(|check| check.state != State::Ok);
    amiss.map(|check| (check.id, check.state, check.reason)).collect()
}

fn seen(case: &Case, id: &str) -> String {
    checks(case).into_iter().find(|check| check.id == id).unwrap().seen
}

type Change = fn(&mut Case);

#[test]
fn a_release_that_fits_passes_every_check() {
    let made: Vec<&str> = checks(&good()).iter().map(|check| check.id).collect();
    assert_eq!(made, RULES.map(|rule| rule.id), "every rule is applied, in its order");
    assert_eq!(amiss(&good()), []);
    let ids: Vec<&str> = checks(&good()).iter().map(|check| check.id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an id stands there twice");
}

#[test]
fn each_broken_rule_is_one_failed_check_with_a_name_that_can_be_explained() {
    let failing: [(&str, &str, Change); 27] = [
        ("image-signature", "image-signature-wrong", |case| {
            image_facts(&mut case.candidate).signer = Err(Refusal::new("image-signature-wrong", "x"));
        }),
        ("image-signature", "test-key", |case| {
            image_facts(&mut case.candidate).signer = Ok(Signer::TdxhostTestKey);
        }),
        ("image-production", "image-debug", |case| image_facts(&mut case.candidate).debug = true),
        ("image-cpu", "image-cpu-unsupported", |case| {
            image_facts(&mut case.candidate).cpus = vec![SIERRA_FOREST];
        }),
        ("image-cpu", "image-cpu-unsupported", |case| image_facts(&mut case.candidate).cpus.clear()),
        ("seamldr-version", "seamldr-line-differs", |case| case.host.seamldr = Ok(v("1.0.00"))),
        ("image-sigstruct", "sigstruct-exponent", |case| {
            image_facts(&mut case.candidate).fields_1_5 = Err(Refusal::new("sigstruct-exponent", "x"));
        }),
        ("image-sigstruct", "sigstruct-exponent", |case| {
            case.host.seamldr = Ok(v("2.0.00"));
            image_facts(&mut case.candidate).fields_2_0 = Err(Refusal::new("sigstruct-exponent", "x"));
        }),
        ("image-relocations", "module-relocation-target-outside", |case| {
            image_facts(&mut case.candidate).relocations =
                Err(Refusal::new("module-relocation-target-outside", "x"));
        }),
        ("module-order", "version-older", |case| {
            // The SVN must not speak as well: both are of the oldest.
            case.candidate = image("1.5.05");
            image_facts(&mut case.candidate).svn = Svn { major: 1, minor: 6 };
        }),
        ("image-svn", "image-svn-line-differs", |case| {
            image_facts(&mut case.candidate).svn = Svn { major: 2, minor: 11 };
        }),
        ("image-svn", "image-svn-line-differs", |case| {
            image_facts(&mut case.candidate).svn = Svn { major: 0, minor: 11 };
        }),
        ("image-svn", "image-svn-older", |case| {
            image_facts(&mut case.candidate).svn = Svn { major: 1, minor: 5 };
        }),
        ("seamret-vmcs", "seamret-invd-vmcs", |case| case.host.seamret_invd_vmcs = Ok(true)),
        ("module-state", "module-gone", |case| case.host.state = Some(HostState::ModuleGone)),
        ("updates-left", "update-log-full", |case| case.host.remaining_updates = Ok(0)),
        ("cpus-online", "update-cpu-offline", |case| {
            case.host.cpus_online = Ok(BTreeSet::from([0, 1, 3]));
        }),
        ("cpus-online", "update-cpu-offline", |case| {
            // A boot option left two out: online and present agree, the firmware's table does not.
            let both = BTreeSet::from([0, 1]);
            (case.host.cpus_online, case.host.cpus_present) = (Ok(both.clone()), Ok(both));
        }),
        ("x2apic-ids", "x2apic-id-too-large", |case| {
            let ids = case.host.x2apic_ids.as_mut().unwrap();
            ids.ids = BTreeSet::from([0, 1, 2, 1024]);
        }),
        ("x2apic-ids", "x2apic-id-too-large", |case| case.policy.x2apic_limit = 3),
        ("upload-idle", "update-running", |case| {
            case.host.upload.as_mut().unwrap().status = Ok("programming".to_owned());
        }),
        ("module-line", "version-line-differs", |case| {
            // A future module of another line that every other rule would let pass.
            case.candidate = image("2.0.08");
            let facts = image_facts(&mut case.candidate);
            (facts.cpus, facts.svn) = (vec![SAPPHIRE_RAPIDS], Svn { major: 1, minor: 11 });
            case.host.seamldr = Ok(v("2.0.00"));
        }),
        ("td-preserving", "running-too-old", |case| {
            case.host = host("2.0.02", SAPPHIRE_RAPIDS);
            case.host.seamldr = Ok(v("2.0.00"));
            case.candidate = image("2.0.08");
            image_facts(&mut case.candidate).cpus = vec![SAPPHIRE_RAPIDS];
        }),
        ("update-offered", "update-not-offered", |case| {
            case.host.upload = None;
        }),
        ("image-cpu", "image-cpu-unsupported", |case| {
            // The platform split of Intel's releases.
            case.candidate = image("1.5.25");
            case.host.seamldr = Ok(v("2.0.00"));
        }),
        ("seamldr-version", "seamldr-line-differs", |case| {
            case.candidate = image("1.5.25");
            case.host.cpuid_1_eax = Ok(SIERRA_FOREST);
        }),
        ("seamldr-version", "seamldr-line-differs", |case| {
            case.candidate = image("1.5.24");
            case.host.seamldr = Ok(v("2.0.05"));
        }),
    ];
    for (number, (id, reason, change)) in failing.into_iter().enumerate() {
        let mut case = good();
        change(&mut case);
        let mut found = amiss(&case);
        // Without an upload directory nobody knows what it says.
        found.retain(|&(id, state, _)| {
            !(reason == "update-not-offered" && (id, state) == ("upload-idle", State::Unknown))
        });
        assert_eq!(found, [(id, State::Failed, Some(reason))], "case {number}");
        let failed = checks(&case).into_iter().find(|check| check.id == id).unwrap();
        assert!(failed.advice.is_some_and(|advice| !advice.is_empty()), "case {number}");
        assert!(explain_error(reason).is_ok(), "{reason} is not explained");
    }
}

#[test]
fn what_is_just_inside_a_limit_passes() {
    let passing: [(&str, Change); 12] = [
        ("image-cpu", |case| case.host.cpuid_1_eax = Ok(0x806F0)),
        ("image-cpu", |case| image_facts(&mut case.candidate).cpus = vec![0x806F4]),
        ("image-production", |case| {
            image_facts(&mut case.candidate).debug = true;
            case.policy.allow_debug = true;
        }),
        ("image-signature", |case| {
            image_facts(&mut case.candidate).signer = Ok(Signer::TdxhostTestKey);
            case.host.this_machine = false;
        }),
        ("seamldr-version", |case| case.host.seamldr = Ok(v("1.5.07"))),
        ("image-svn", |case| image_facts(&mut case.candidate).svn = Svn { major: 1, minor: 6 }),
        ("module-order", |case| case.candidate = image("1.5.06")),
        ("td-preserving", |case| case.host = host("1.5.01", SAPPHIRE_RAPIDS)),
        ("updates-left", |case| case.host.remaining_updates = Ok(1)),
        ("x2apic-ids", |case| {
            let ids = case.host.x2apic_ids.as_mut().unwrap();
            ids.ids = BTreeSet::from([0, 1, 2, 1023]);
        }),
        ("x2apic-ids", |case| {
            let ids = case.host.x2apic_ids.as_mut().unwrap();
            ids.ids = BTreeSet::from([0, 1, 2, 2047]);
            case.policy.x2apic_limit = 2048;
        }),
        ("cpus-online", |case| {
            // Ids of the online ones alone say nothing of how many the platform counts.
            let ids = case.host.x2apic_ids.as_mut().unwrap();
            (ids.ids, ids.all) = ((0..8).collect(), false);
        }),
    ];
    for (number, (id, change)) in passing.into_iter().enumerate() {
        let mut case = good();
        change(&mut case);
        assert_eq!(amiss(&case), [], "case {number}: {id}");
    }
}

#[test]
fn what_was_not_looked_at_is_never_called_fulfilled() {
    let unknowns: [(&[&str], Change); 10] = [
        (&["image-cpu"], |case| case.host.cpuid_1_eax = unknown()),
        (&["seamldr-version", "image-sigstruct"], |case| case.host.seamldr = unknown()),
        (&["module-line", "module-order", "td-preserving", "module-state"], |case| {
            case.host.module = unknown();
        }),
        (&["seamret-vmcs"], |case| {
            // Kernels before 7.3 offer updates on a CPU with the erratum too.
            case.host.seamret_invd_vmcs = unknown();
            case.host.layout = Some(Layout::Posting2025_09);
        }),
        (&["image-svn"], |case| case.host.module_svn = unknown()),
        (&["updates-left"], |case| case.host.remaining_updates = unknown()),
        (&["cpus-online"], |case| case.host.cpus_present = unknown()),
        (&["x2apic-ids"], |case| case.host.x2apic_ids = unknown()),
        (&["upload-idle"], |case| case.host.upload.as_mut().unwrap().status = unknown()),
        (&["image-header"], |case| case.host.header = None),
    ];
    for (ids, change) in unknowns {
        let mut case = good();
        change(&mut case);
        let found = amiss(&case);
        assert_eq!(found.iter().map(|(id, ..)| *id).collect::<Vec<_>>(), ids);
        assert!(found.iter().all(|&(_, state, _)| state == State::Unknown), "{found:?}");
    }
}

#[test]
fn ids_of_offline_cpus_are_unknown_where_only_online_ones_tell() {
    let mut case = good();
    case.host.x2apic_ids.as_mut().unwrap().all = false;
    assert_eq!(amiss(&case), []);
    case.host.cpus_online = Ok(BTreeSet::from([0, 1, 2]));
    assert_eq!(
        amiss(&case),
        [("cpus-online", State::Failed, Some("update-cpu-offline")), ("x2apic-ids", State::Unknown, None)]
    );
    assert_eq!(seen(&case, "cpus-online"), "CPUs 3 are offline");
}

#[test]
fn linux_offers_updates_only_on_a_cpu_without_the_seamret_erratum() {
    let mut case = good();
    case.host.seamret_invd_vmcs = unknown();
    assert_eq!(amiss(&case), []);
    case.host.upload = None;
    let found: Vec<&str> = amiss(&case).iter().map(|(id, ..)| *id).collect();
    assert_eq!(found, ["update-offered", "seamret-vmcs", "upload-idle"]);
}

#[test]
fn a_module_that_an_update_left_down_may_be_updated_again() {
    let mut case = good();
    case.host.module = unknown();
    case.host.state = Some(HostState::ModuleDown);
    assert!(checks(&case).iter().all(|check| check.state != State::Failed));
    assert!(seen(&case, "module-state").starts_with("shut down by an update that failed"));
    case.host.state = Some(HostState::Failed);
    assert!(amiss(&case).contains(&("module-state", State::Failed, Some("update-not-offered"))));
}

#[test]
fn td_builds_are_warned_of_unless_module_and_host_guard_them() {
    let note = |running, this_machine| {
        let mut host = host(running, SAPPHIRE_RAPIDS);
        host.this_machine = this_machine;
        td_builds(&host)
    };
    assert!(note("1.5.16", true).unwrap().contains("1.5.16 cannot wait for them"));
    assert!(note("1.5.16", false).unwrap().contains("1.5.16 cannot wait for them"));
    assert!(note("1.5.24", true).unwrap().contains("Linux 7.3 does not ask"));
    assert_eq!(note("1.5.24", false), None);
}

#[test]
fn why_updates_are_not_offered_is_told_by_what_is_known() {
    let mut case = good();
    case.host.upload = None;
    assert_eq!(seen(&case, "update-offered"), "module 1.5.06 runs, but there is no upload directory");
    case.host.seamret_invd_vmcs = Ok(true);
    assert!(seen(&case, "update-offered").contains("SEAMRET erratum"));
    case.host.module_features = Ok(tdx_abi::features::Features0::EMPTY);
    assert!(seen(&case, "update-offered").contains("TD_PRESERVING"));
    case.host.module = unknown();
    assert_eq!(seen(&case, "update-offered"), "no upload directory; module: nobody looked");
}

#[test]
fn a_file_that_is_no_image_has_one_check_and_the_host_its_own() {
    let mut case = good();
    case.candidate.image = Err(Refusal::new("image-too-short", "3 bytes").with_advice("take it whole"));
    assert_eq!(amiss(&case), [("image", State::Failed, Some("image-too-short"))]);
    let check = checks(&case).into_iter().next().unwrap();
    assert_eq!((check.seen.as_str(), check.advice.as_deref()), ("3 bytes", Some("Take it whole.")));
    assert_eq!(checks(&case).len(), 1 + 7);
}

#[test]
fn a_release_without_facts_is_unknown_by_name() {
    let mut case = good();
    let identity = Identity { version: v("1.5.99"), source: VersionSource::Record, name_says: None };
    case.candidate.identity = Some(identity);
    assert_eq!(
        amiss(&case),
        [
            ("image-release", State::Unknown, Some("unknown-release")),
            ("seamldr-version", State::Unknown, None),
            ("td-preserving", State::Unknown, None),
        ]
    );
    case.candidate.identity = None;
    assert_eq!(amiss(&case).first(), Some(&("image-release", State::Unknown, Some("version-unknown"))));
}

#[test]
fn the_header_is_converted_where_the_kernel_takes_the_other() {
    let mut case = good();
    image_facts(&mut case.candidate).header = HeaderVersion::V0x100;
    assert_eq!(amiss(&case), []);
    assert_eq!(seen(&case, "image-header"), "0x100 in the file; 0x200 is what will be uploaded");
    case.policy.header = Some(HeaderVersion::V0x100);
    assert_eq!(seen(&case, "image-header"), "0x100, as it is");
    image_facts(&mut case.candidate).checksum = Checksum::Absent;
    assert_eq!(seen(&case, "image"), "header 0x100, without checksum");
}
