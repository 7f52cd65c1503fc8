//! The words of Linux's firmware upload, and what they mean for a TDX module.

/// A word that `error` may end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadWord {
    /// The word.
    pub name: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// What to try.
    pub advice: &'static str,
}

/// All words of the firmware upload class.
pub const WORDS: &[UploadWord] = &[
    UploadWord {
        name: "hw-error",
        meaning: "The kernel could not reach P-SEAMLDR or the module (postings before Linux 7.3).",
        advice: "Look into the kernel log: `tdxhost explain --dmesg -`.",
    },
    UploadWord {
        name: "timeout",
        meaning: "The device did not answer in time; the TDX driver does not use the word.",
        advice: "Look into the kernel log: `tdxhost explain --dmesg -`.",
    },
    UploadWord {
        name: "user-abort",
        meaning: "Somebody wrote to cancel before the update began; nothing was touched.",
        advice: "Upload again.",
    },
    UploadWord {
        name: "device-busy",
        meaning: "CPUs are offline, or the module holds TDs in a state that an update would break (postings \
                  before Linux 7.3).",
        advice: "Take every CPU online and let TDs under construction be finished, then upload again.",
    },
    UploadWord {
        name: "invalid-file-size",
        meaning: "The file is empty or larger than 64 MiB.",
        advice: "Upload one image, whole.",
    },
    UploadWord {
        name: "read-write-error",
        meaning: "The kernel had no memory for the image (postings before Linux 7.3).",
        advice: "Free memory and upload again.",
    },
    UploadWord {
        name: "flash-wearout",
        meaning: "No update is left: the log of P-SEAMLDR is full (postings before Linux 7.3).",
        advice: "Only a platform reset empties the log.",
    },
    UploadWord {
        name: "firmware-invalid",
        meaning: "Linux 7.3 says this for every failure, from an image that it cannot parse (nothing was touched) \
                  to a module that does not start (all TDs are lost).",
        advice: "Whether the tdx_host device still shows a version, and whether num_remaining_updates is lower, \
                 tells how far it got; `tdxhost doctor --update IMAGE` lists what can be checked beforehand.",
    },
];

/// The word by its name.
pub fn find(name: &str) -> Option<&'static UploadWord> {
    WORDS.iter().find(|word| word.name == name)
}
