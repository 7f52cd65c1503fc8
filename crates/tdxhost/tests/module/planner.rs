//! The planner: filter first, then choose; the way; why not the others.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;

use tdx_abi::features::Features0;
use tdx_image::HeaderVersion;
use tdx_module::profile::{self, Svn};
use tdxhost::doctor::{Check, State};
use tdxhost::update::host::release_profile;
use tdxhost::update::plan::plan;
use tdxhost::update::rules::{Running, fitness, step};
use tdxhost::update::{Candidate, Goal, HostFacts, Mapping, Outcome, Plan, Policy, Refusal};

use crate::facts::{
    GRANITE_RAPIDS, SAPPHIRE_RAPIDS, SIERRA_FOREST, host, image, image_facts, of_version, unknown, v,
};

/// All published releases.
fn everything() -> Vec<Candidate> {
    Mapping::built_in().unwrap().releases.iter().map(|release| image(&release.version.to_string())).collect()
}

fn planned(host: &HostFacts, candidates: &[Candidate], goal: Goal) -> Plan {
    let running = *host.module.as_ref().unwrap();
    plan(host, running, candidates, &Mapping::built_in().unwrap(), goal, Policy::default())
}

fn way(plan: &Plan) -> Vec<String> {
    match &plan.outcome {
        Outcome::Path(steps) => steps.iter().map(|step| step.to.to_string()).collect(),
        Outcome::UpToDate(_) | Outcome::Nothing => Vec::new(),
    }
}

/// The reasons against one version, the first one first.
fn against(plan: &Plan, candidates: &[Candidate], version: &str) -> Vec<&'static str> {
    let of_version = |index: usize| candidates[index].version() == Some(v(version));
    let other = plan.others.iter().find(|other| of_version(other.candidate)).expect("not chosen");
    other.reasons.iter().map(|reason| reason.name).collect()
}

/// A table with one line: version, from which TDs are taken over, P-SEAMLDR, strict.
fn table(rows: &[(&str, &str, &str, &[&str])]) -> Mapping {
    let rows: Vec<_> = rows
        .iter()
        .map(|(version, from, seamldr, strict)| {
            serde_json::json!({
                "version": version,
                "min_module_version_for_td_preserving": from,
                "min_seamldr_versions": [seamldr],
                "strict_compat_versions": strict,
                "tdx_feature0": "0x3",
            })
        })
        .collect();
    let text = serde_json::json!({ "tdx_module_releases": rows }).to_string();
    Mapping::from_json(text.as_bytes(), Path::new("mapping_file.json")).unwrap()
}

/// Versions of 1.5 with rising SVN.
fn line(updates: &[u16]) -> Vec<Candidate> {
    updates
        .iter()
        .map(|&update| {
            let minor = u8::try_from(update).unwrap();
            of_version(&format!("1.5.{update:02}"), Svn { major: 1, minor }, &[SAPPHIRE_RAPIDS])
        })
        .collect()
}

#[test]
fn each_platform_goes_to_its_newest_release() {
    for (running, cpu, newest) in [
        ("1.5.01", SAPPHIRE_RAPIDS, "1.5.34"),
        ("1.5.28", SIERRA_FOREST, "1.5.34"),
        ("2.0.04", GRANITE_RAPIDS, "2.0.18"),
        ("2.0.14", GRANITE_RAPIDS, "2.0.18"),
    ] {
        let plan = planned(&host(running, cpu), &everything(), Goal::Newest);
        assert_eq!(way(&plan), [newest], "{running}");
        assert!(plan.is_good());
    }
}

#[test]
fn what_does_not_suit_the_cpu_is_left_out_before_anything_is_chosen() {
    // Intel's script takes 1.5.25 for the newest here, and then refuses it.
    let images = [image("1.5.24"), image("1.5.25"), image("1.5.20")];
    let plan = planned(&host("1.5.16", SAPPHIRE_RAPIDS), &images, Goal::Newest);
    assert_eq!(way(&plan), ["1.5.24"]);
    assert_eq!(against(&plan, &images, "1.5.25"), ["image-cpu-unsupported", "seamldr-line-differs"]);
    assert_eq!(against(&plan, &images, "1.5.20"), ["not-chosen"]);

    let plan = planned(&host("1.5.16", SIERRA_FOREST), &images, Goal::Newest);
    assert_eq!(way(&plan), ["1.5.25"]);
    assert_eq!(against(&plan, &images, "1.5.24"), ["image-cpu-unsupported", "seamldr-line-differs"]);
}

#[test]
fn every_image_that_is_not_chosen_has_a_reason() {
    let images = everything();
    for running in ["1.5.01", "1.5.16", "1.5.34", "2.0.02", "2.0.18"] {
        let cpu = if running.starts_with('1') { SAPPHIRE_RAPIDS } else { GRANITE_RAPIDS };
        let plan = planned(&host(running, cpu), &images, Goal::Newest);
        let taken = match &plan.outcome {
            Outcome::Path(steps) => steps.len(),
            Outcome::UpToDate(_) => 1,
            Outcome::Nothing => 0,
        };
        assert_eq!(plan.others.len(), images.len() - taken, "{running}");
        assert!(plan.others.iter().all(|other| !other.reasons.is_empty()), "{running}");
    }
}

#[test]
fn the_most_telling_reason_comes_first() {
    let images = everything();
    let plan = planned(&host("1.5.16", SAPPHIRE_RAPIDS), &images, Goal::Newest);
    assert_eq!(
        against(&plan, &images, "2.0.08"),
        ["version-line-differs", "image-cpu-unsupported", "seamldr-line-differs", "image-svn-line-differs"]
    );
    assert_eq!(against(&plan, &images, "1.5.13"), ["version-older", "image-svn-older"]);
}

#[test]
fn a_release_that_is_too_new_is_reached_over_one_in_between() {
    let mapping = table(&[
        ("1.5.10", "1.5.01", "1.5.00", &[]),
        ("1.5.20", "1.5.05", "1.5.00", &[]),
        ("1.5.30", "1.5.20", "1.5.00", &[]),
    ]);
    let mut host = host("1.5.06", SAPPHIRE_RAPIDS);
    let images = line(&[10, 20, 30]);
    let run = |host: &HostFacts, goal, images: &[Candidate]| {
        plan(host, v("1.5.06"), images, &mapping, goal, Policy::default())
    };
    let whole = run(&host, Goal::Newest, &images);
    assert_eq!(way(&whole), ["1.5.20", "1.5.30"]);
    let Outcome::Path(steps) = &whole.outcome else { panic!("{whole:?}") };
    assert_eq!((steps[1].from, steps[1].to), (v("1.5.20"), v("1.5.30")));
    assert_eq!(against(&whole, &images, "1.5.10"), ["not-chosen"]);

    // Without it, the newest that can be had is taken.
    let gap = [images[0].clone(), images[2].clone()];
    let plan = run(&host, Goal::Newest, &gap);
    assert_eq!(way(&plan), ["1.5.10"]);
    assert_eq!(against(&plan, &gap, "1.5.30"), ["running-too-old"]);

    // So it is if only one update is left.
    host.remaining_updates = Ok(1);
    let plan = run(&host, Goal::Newest, &images);
    assert_eq!(way(&plan), ["1.5.20"]);
    assert_eq!(way(&run(&host, Goal::Version(v("1.5.30")), &images)), Vec::<String>::new());
    host.remaining_updates = unknown();
    assert_eq!(way(&run(&host, Goal::Newest, &images)), ["1.5.20", "1.5.30"]);
}

#[test]
fn the_svn_of_the_step_before_counts_on_the_way() {
    let mapping = table(&[("1.5.20", "1.5.05", "1.5.00", &[]), ("1.5.30", "1.5.20", "1.5.00", &[])]);
    let mut images = line(&[20, 30]);
    // Not lower than the running module's, but lower than that of the step before.
    image_facts(&mut images[1]).svn = Svn { major: 1, minor: 10 };
    let host = host("1.5.06", SAPPHIRE_RAPIDS);
    let plan = plan(&host, v("1.5.06"), &images, &mapping, Goal::Newest, Policy::default());
    assert_eq!(way(&plan), ["1.5.20"]);
    image_facts(&mut images[1]).svn = Svn { major: 1, minor: 20 };
}

#[test]
fn the_newest_release_is_not_installed_again_unless_asked() {
    let images = [image("1.5.16"), image("1.5.13")];
    let host = host("1.5.16", SAPPHIRE_RAPIDS);
    let plan = planned(&host, &images, Goal::Newest);
    assert_eq!(plan.outcome, Outcome::UpToDate(0));
    assert!(plan.is_good());
    let again = planned(&host, &images, Goal::Version(v("1.5.16")));
    assert_eq!(way(&again), ["1.5.16"]);
    assert_eq!(against(&again, &images, "1.5.13"), ["version-older", "image-svn-older"]);
}

#[test]
fn a_version_that_is_asked_for_is_taken_or_its_reasons_are_told() {
    let images = everything();
    let host = host("1.5.06", SAPPHIRE_RAPIDS);
    let plan = planned(&host, &images, Goal::Version(v("1.5.16")));
    assert_eq!(way(&plan), ["1.5.16"]);
    assert_eq!(against(&plan, &images, "1.5.34"), ["not-asked-for"]);
    let older = planned(&host, &images, Goal::Version(v("1.5.05")));
    assert_eq!(older.outcome, Outcome::Nothing);
    assert!(!older.is_good());
    assert_eq!(against(&older, &images, "1.5.05"), ["version-older", "image-svn-older"]);
}

#[test]
fn a_release_that_the_table_does_not_know_is_shown_and_skipped() {
    let mut strange = image("1.5.34");
    strange.identity.as_mut().unwrap().version = v("1.5.40");
    let mut nameless = image("1.5.34");
    nameless.identity = None;
    let images = [strange, image("1.5.28"), nameless];
    let plan = planned(&host("1.5.16", SAPPHIRE_RAPIDS), &images, Goal::Newest);
    assert_eq!(way(&plan), ["1.5.28"]);
    assert_eq!(against(&plan, &images, "1.5.40"), ["unknown-release"]);
    let last = plan.others.last().unwrap();
    assert_eq!((last.candidate, last.reasons[0].name), (2, "version-unknown"));
}

#[test]
fn broken_files_are_told_by_their_own_reason() {
    let mut short = image("1.5.34");
    short.image = Err(Refusal::new("image-too-short", "3 bytes"));
    let mut forged = image("1.5.28");
    image_facts(&mut forged).signer = Err(Refusal::new("image-signature-wrong", "no"));
    let images = [short, forged, image("1.5.20")];
    let plan = planned(&host("1.5.16", SAPPHIRE_RAPIDS), &images, Goal::Newest);
    assert_eq!(way(&plan), ["1.5.20"]);
    assert_eq!(against(&plan, &images, "1.5.34"), ["image-too-short"]);
    assert_eq!(against(&plan, &images, "1.5.28"), ["image-signature-wrong"]);
}

#[test]
fn of_two_files_of_one_release_the_one_with_the_kernels_header_is_taken() {
    let mut old = image("1.5.34");
    image_facts(&mut old).header = HeaderVersion::V0x100;
    let images = [old.clone(), image("1.5.34")];
    let mut host = host("1.5.16", SAPPHIRE_RAPIDS);
    let taken = |host: &HostFacts, images: &[Candidate]| match planned(host, images, Goal::Newest).outcome {
        Outcome::Path(steps) => steps[0].candidate,
        other => panic!("{other:?}"),
    };
    assert_eq!(taken(&host, &images), 1);
    host.header = Some(HeaderVersion::V0x100);
    assert_eq!(taken(&host, &images), 0);
    // One that must be converted does as well.
    host.header = Some(HeaderVersion::V0x200);
    assert_eq!(taken(&host, &[old]), 0);
    let plan = planned(&host, &images, Goal::Newest);
    assert_eq!(plan.others[0].reasons[0].name, "duplicate");
}

#[test]
fn strict_compatibility_is_preferred_only_on_request_and_never_a_refusal() {
    let mapping =
        table(&[("1.5.20", "1.5.01", "1.5.00", &["1.5.06"]), ("1.5.30", "1.5.01", "1.5.00", &["1.5.20"])]);
    let host = host("1.5.06", SAPPHIRE_RAPIDS);
    let images = line(&[20, 30]);
    let run = |images: &[Candidate], prefer_strict| {
        let policy = Policy { prefer_strict, ..Policy::default() };
        let plan = plan(&host, v("1.5.06"), images, &mapping, Goal::Newest, policy);
        match &plan.outcome {
            Outcome::Path(steps) => (way(&plan), steps[0].strict),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(run(&images, false), (vec!["1.5.30".to_owned()], false));
    assert_eq!(run(&images, true), (vec!["1.5.20".to_owned()], true));
    assert_eq!(run(&images[1..], true), (vec!["1.5.30".to_owned()], false));
}

#[test]
fn a_p_seamldr_that_is_too_old_is_told_from_one_of_another_line() {
    let mapping = table(&[("1.5.20", "1.5.01", "1.5.03", &[])]);
    let images = line(&[20]);
    let mut host = host("1.5.06", SAPPHIRE_RAPIDS);
    let mut reason = |seamldr: &str| {
        host.seamldr = Ok(v(seamldr));
        let plan = plan(&host, v("1.5.06"), &images, &mapping, Goal::Newest, Policy::default());
        plan.others.first().map(|other| other.reasons[0].name)
    };
    assert_eq!(reason("1.5.02"), Some("seamldr-too-old"));
    assert_eq!(reason("1.5.03"), None);
    assert_eq!(reason("1.5.04"), None);
    assert_eq!(reason("1.4.09"), Some("seamldr-line-differs"));
    assert_eq!(reason("2.0.03"), Some("seamldr-line-differs"));
}

#[test]
fn a_full_log_or_an_offline_cpu_leaves_the_choice_but_not_the_plan_good() {
    let mut host = host("1.5.16", SAPPHIRE_RAPIDS);
    host.remaining_updates = Ok(0);
    let plan = planned(&host, &everything(), Goal::Newest);
    assert_eq!(way(&plan), ["1.5.34"]);
    assert!(!plan.is_good());
}

#[test]
fn features_come_and_go_by_the_table() {
    let host = host("1.5.16", SAPPHIRE_RAPIDS);
    let plan = planned(&host, &everything(), Goal::Version(v("1.5.20")));
    let change = plan.features.unwrap();
    assert_eq!(
        change.gained,
        Features0::from_name("DYNAMIC_PAMT")
            .unwrap()
            .union(Features0::from_name("IMPORT_PAGE_STATUS").unwrap())
    );
    assert_eq!(change.lost, Features0::EMPTY);

    // A running module that the table does not know has the features of its profile.
    let mapping = table(&[("1.5.20", "1.5.01", "1.5.00", &[])]);
    let from_profile =
        tdxhost::update::plan(&host, v("1.5.16"), &line(&[20]), &mapping, Goal::Newest, Policy::default());
    let lost = from_profile.features.unwrap().lost;
    assert_eq!(lost, release_profile(v("1.5.16")).unwrap().features0.difference(Features0::from_bits(3)));
}

#[test]
fn every_profile_of_a_published_release_is_in_the_table_with_its_features() {
    let table = Mapping::built_in().unwrap();
    for profile in profile::all().filter(|profile| !profile.synthetic && profile.version >= v("1.5.00")) {
        let release = table.find(profile.version).unwrap();
        assert_eq!(release.tdx_feature0, profile.features0, "{profile}");
    }
}

fn none_failed(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.state != State::Failed)
}

proptest! {
    #[test]
    fn a_way_is_whole_allowed_and_leads_as_far_as_any_single_step(
        running in 0_usize..20,
        chosen in proptest::collection::btree_set(0_usize..20, 0..12),
        cpu in proptest::sample::select(vec![SAPPHIRE_RAPIDS, SIERRA_FOREST, GRANITE_RAPIDS]),
        left in 0_u32..4,
        floors in proptest::collection::vec(0_usize..20, 20),
        prefer_strict: bool,
    ) {
        // The published releases, each with another oldest module that it takes TDs over from.
        let mut mapping = Mapping::built_in().unwrap();
        let versions: Vec<_> = mapping.releases.iter().map(|release| release.version).collect();
        for (release, floor) in mapping.releases.iter_mut().zip(floors) {
            let floor = versions[floor];
            if (floor.major, floor.minor) == (release.version.major, release.version.minor) {
                release.min_module_version_for_td_preserving = floor;
            }
        }
        let images: Vec<Candidate> = chosen.iter().map(|&at| image(&versions[at].to_string())).collect();
        let mut host = host(&versions[running].to_string(), cpu);
        host.remaining_updates = Ok(left);
        let policy = Policy { prefer_strict, ..Policy::default() };
        let plan = plan(&host, versions[running], &images, &mapping, Goal::Newest, policy);

        let mut at = Running { version: Ok(versions[running]), svn: host.module_svn.clone() };
        let mut taken = BTreeSet::new();
        if let Outcome::Path(steps) = &plan.outcome {
            prop_assert!(!steps.is_empty() && steps.len() <= usize::try_from(left).unwrap().max(1));
            for made in steps {
                let candidate = &images[made.candidate];
                prop_assert_eq!(at.version.as_ref().ok(), Some(&made.from));
                prop_assert!(made.to > made.from);
                prop_assert!(none_failed(&fitness(&host, candidate, &mapping, policy)));
                prop_assert!(none_failed(&step(&at, candidate, &mapping)));
                at = Running { version: Ok(made.to), svn: Ok(candidate.image.as_ref().unwrap().svn) };
                taken.insert(made.candidate);
            }
        }
        if let Outcome::UpToDate(candidate) = plan.outcome {
            prop_assert_eq!(images[candidate].version(), Some(versions[running]));
            taken.insert(candidate);
        }
        // Nothing newer was to be had in one step, unless something else was asked for.
        let end = at.version.unwrap();
        let from = Running { version: Ok(versions[running]), svn: host.module_svn.clone() };
        for candidate in &images {
            let fits = none_failed(&fitness(&host, candidate, &mapping, policy))
                && none_failed(&step(&from, candidate, &mapping));
            prop_assert!(prefer_strict || !fits || candidate.version() <= Some(end));
        }
        let told: BTreeSet<usize> = plan.others.iter().map(|other| other.candidate).collect();
        prop_assert!(told.is_disjoint(&taken));
        prop_assert_eq!(told.len() + taken.len(), images.len());
        prop_assert!(plan.others.iter().all(|other| !other.reasons.is_empty()));
    }
}
