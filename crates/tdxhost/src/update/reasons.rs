//! Names of what speaks against an image, beside those of the image itself and of the host's own errors.

use tdx_image::Reason;

/// Reasons of the rules and of the planner.
pub const REASONS: &[Reason] = &[
    Reason {
        name: "test-key",
        template: "the image is signed with the test key of tdxhost, which no CPU trusts",
        advice: "take an image that Intel published; test images are for software machines",
    },
    Reason {
        name: "unreadable",
        template: "the file cannot be read",
        advice: "look at its path and permissions; an image has no more than 64 MiB",
    },
    Reason {
        name: "no-way",
        template: "no image of the directory can be installed on this host",
        advice: "`tdxhost module plan` says why each is left out",
    },
    Reason {
        name: "refused",
        template: "a check failed before anything was touched",
        advice: "each failed check is named and has its own advice; --ignore NAME goes on all the same",
    },
    Reason {
        name: "upload-failed",
        template: "the upload ended before the kernel told a result",
        advice: "the message names the file and the cause; `status` and `error` of the upload directory tell \
                 how the update stands",
    },
    Reason {
        name: "version-unknown",
        template: "neither the hash, nor a record in the image, nor the file's name tells the version",
        advice: "name the file tdx_module_a.b.cc.blob",
    },
    Reason {
        name: "unknown-release",
        template: "the table of releases does not know the version, so its rules cannot be applied",
        advice: "get the newest mapping_file.json and give it with --mapping",
    },
    Reason {
        name: "version-line-differs",
        template: "the image is of another major.minor than the running module; TDs survive only within one",
        advice: "load it at boot",
    },
    Reason {
        name: "version-older",
        template: "the image is older than the running module",
        advice: "an older release is loaded at boot only",
    },
    Reason {
        name: "running-too-old",
        template: "the running module is older than the oldest one from which the release takes TDs over",
        advice: "go through a release in between: `tdxhost module plan` finds the way",
    },
    Reason {
        name: "seamldr-line-differs",
        template: "the running P-SEAMLDR is of another major.minor than any that loads the release",
        advice: "take another release; some are split by platform, such as 1.5.24 and 1.5.25",
    },
    Reason {
        name: "seamldr-too-old",
        template: "the running P-SEAMLDR is older than the release needs",
        advice: "P-SEAMLDR comes with the BIOS: update it, or take another release",
    },
    Reason {
        name: "duplicate",
        template: "another file of the directory has the same release",
        advice: "nothing is to be done",
    },
    Reason {
        name: "not-chosen",
        template: "the image fits, but another release is chosen",
        advice: "ask for it with --to",
    },
    Reason {
        name: "not-asked-for",
        template: "the image fits, but another release was asked for",
        advice: "ask for it with --to",
    },
    Reason {
        name: "not-reachable",
        template: "the image fits the machine, but the updates that are left do not lead to it",
        advice: "a platform reset empties the log of updates",
    },
    Reason {
        name: "version-differs",
        template: "the kernel reports success, but another module runs than was installed",
        advice: "firmware or another update may have been faster: look again, then at the kernel log",
    },
];

/// The reason with this name.
pub fn find(name: &str) -> Option<&'static Reason> {
    REASONS.iter().find(|reason| reason.name == name)
}
