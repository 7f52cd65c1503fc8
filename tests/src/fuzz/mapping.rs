//! A body for Intel's mapping file and the choice that is made from it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tdx_abi::features::Features0;
use tdx_abi::seamldr::Version;
use tdx_image::HeaderVersion;
use tdx_image::build::{self, ModuleSpec};
use tdx_module::profile::Svn;
use tdxhost::update::host::{UploadState, X2ApicIds};
use tdxhost::update::{Candidate, Goal, HostFacts, Mapping, Outcome, Policy, plan};

/// What runs in these plans.
const RUNNING: Version = Version::new(1, 5, 6);

/// Images of releases that mapping files speak of.
fn candidates() -> &'static [Candidate] {
    static CANDIDATES: OnceLock<Vec<Candidate>> = OnceLock::new();
    CANDIDATES.get_or_init(|| {
        let versions = [(1, 5, 5), (1, 5, 6), (1, 5, 13), (1, 5, 24), (2, 0, 8)];
        let image = |(major, minor, update)| {
            let spec = ModuleSpec { pages: 5, ..ModuleSpec::new(Version::new(major, minor, update), "") };
            let bytes = build::image(&spec, HeaderVersion::V0x200).expect("a sound description");
            Candidate::of_bytes(Path::new("image.bin"), &bytes)
        };
        versions.into_iter().map(image).collect()
    })
}

fn facts() -> HostFacts {
    HostFacts {
        module: Ok(RUNNING),
        module_svn: Ok(Svn { major: 1, minor: 6 }),
        module_features: Ok(Features0::EMPTY),
        seamldr: Ok(Version::new(1, 5, 0)),
        remaining_updates: Ok(5),
        cpus_online: Ok(BTreeSet::from([0, 1])),
        cpus_present: Ok(BTreeSet::from([0, 1])),
        cpuid_1_eax: Ok(0x806F8),
        x2apic_ids: Ok(X2ApicIds { ids: BTreeSet::from([0, 1]), all: true, source: "a test" }),
        seamret_invd_vmcs: Ok(false),
        state: None,
        upload: Some(UploadState { directory: PathBuf::from("tdx_module"), status: Ok("idle".to_owned()) }),
        layout: None,
        header: Some(HeaderVersion::V0x200),
        this_machine: false,
    }
}

/// A mapping file: refused in one line, or kept whole and fit to choose from.
pub fn mapping_file(data: &[u8]) {
    let mapping = match Mapping::from_json(data, Path::new("mapping_file.json")) {
        Ok(mapping) => mapping,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
            return;
        }
    };
    let versions: BTreeSet<Version> = mapping.releases.iter().map(|release| release.version).collect();
    assert_eq!(versions.len(), mapping.releases.len(), "each release once");
    for release in &mapping.releases {
        assert_eq!(mapping.find(release.version), Some(release));
        assert!(serde_json::to_value(release).is_ok_and(|value| value.is_object()));
    }
    assert!(mapping.differences(&mapping).is_empty());
    for goal in [Goal::Newest, Goal::Version(Version::new(1, 5, 24))] {
        let plan = plan(&facts(), RUNNING, candidates(), &mapping, goal, Policy::default());
        let mut at = RUNNING;
        let steps = if let Outcome::Path(steps) = &plan.outcome { &steps[..] } else { &[] };
        for step in steps {
            assert_eq!((step.from, candidates()[step.candidate].version()), (at, Some(step.to)));
            assert!(step.to >= step.from && step.to.major == RUNNING.major, "{:?}", plan.outcome);
            assert!(versions.contains(&step.to), "a release that the file does not know was chosen");
            at = step.to;
        }
        assert!(plan.others.iter().all(|other| !other.reasons.is_empty()), "each image has its reason");
    }
}
