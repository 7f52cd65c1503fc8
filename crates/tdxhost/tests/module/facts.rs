//! Hosts and images as plain facts, for the rules and the planner.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tdx_abi::seamldr::Version;
use tdx_image::verify::Signer;
use tdx_image::{Checksum, HeaderVersion};
use tdx_module::profile::{self, Svn};
use tdxhost::update::candidate::Identity;
use tdxhost::update::host::{UploadState, X2ApicIds};
use tdxhost::update::version::version;
use tdxhost::update::{Candidate, HostFacts, ImageFacts, Layout, Unknown, VersionSource};

pub(crate) const SAPPHIRE_RAPIDS: u32 = 0x806F8;
pub(crate) const SIERRA_FOREST: u32 = 0xA06F3;
pub(crate) const GRANITE_RAPIDS: u32 = 0xA06D1;

pub(crate) fn v(text: &str) -> Version {
    version(text).unwrap()
}

pub(crate) fn unknown<T>() -> Result<T, Unknown> {
    Err(Unknown("nobody looked".to_owned()))
}

/// A machine with everything known and right: four CPUs, Linux 7.3.
pub(crate) fn host(running: &str, cpu: u32) -> HostFacts {
    let profile = profile::find(running).unwrap();
    let cpus: BTreeSet<u32> = (0..4).collect();
    HostFacts {
        module: Ok(profile.version),
        module_svn: Ok(profile.svn),
        module_features: Ok(profile.features0),
        seamldr: Ok(v(if cpu == SAPPHIRE_RAPIDS { "1.5.00" } else { "2.0.00" })),
        remaining_updates: Ok(10),
        cpus_online: Ok(cpus.clone()),
        cpus_present: Ok(cpus.clone()),
        cpuid_1_eax: Ok(cpu),
        x2apic_ids: Ok(X2ApicIds { ids: cpus, all: true, source: "the firmware's MADT" }),
        seamret_invd_vmcs: Ok(false),
        state: None,
        upload: Some(UploadState {
            directory: PathBuf::from("/sys/class/firmware/tdx_module"),
            status: Ok("idle".to_owned()),
        }),
        layout: Some(Layout::Linux7_3),
        header: Some(HeaderVersion::V0x200),
        this_machine: true,
    }
}

/// The image of a published release, as Intel would have it.
pub(crate) fn image(release: &str) -> Candidate {
    let profile = profile::find(release).unwrap();
    of_version(release, profile.svn, profile.cpus)
}

/// An image of any version.
pub(crate) fn of_version(version: &str, svn: Svn, cpus: &[u32]) -> Candidate {
    Candidate {
        file: PathBuf::from(format!("tdx_module_{version}.blob")),
        image: Ok(ImageFacts {
            header: HeaderVersion::V0x200,
            checksum: Checksum::Good,
            svn,
            debug: false,
            cpus: cpus.to_vec(),
            signer: Ok(Signer::Intel),
            fields_1_5: Ok(()),
            fields_2_0: Ok(()),
            relocations: Ok(()),
        }),
        identity: Some(Identity { version: v(version), source: VersionSource::Seamhash, name_says: None }),
    }
}

pub(crate) fn image_facts(candidate: &mut Candidate) -> &mut ImageFacts {
    candidate.image.as_mut().unwrap()
}
