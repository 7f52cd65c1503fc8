//! The plan that a boot runs, and the lines that it answers with.
//!
//! A plan is JSON: `{"steps":[{"step":"initialised"},{"step":"cpu-offline","cpu":1}],"end":"power-off"}`. An
//! unknown step or an unknown key is an error, so that a misspelt check is never left out in silence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the initramfs holds the plan.
pub const PLAN_PATH: &str = "/plan.json";

/// What one boot, or a boot with its restarts, has to do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// In order; a failed step does not keep the later ones from running.
    pub steps: Vec<Step>,
    /// What happens behind the last step.
    #[serde(default)]
    pub end: End,
}

/// How a run ends.
///
/// Linux disables the module (TDH.SYS.DISABLE) on the way to a power-off and to a restart alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The machine is switched off.
    #[default]
    PowerOff,
    /// The machine is restarted. With QEMU's `-no-reboot` that ends QEMU, without it the plan begins again.
    Restart,
    /// A shell on the first serial port; the machine is switched off when it ends.
    Shell,
}

/// One check, or one act with its check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// The kernel says that the module is initialized.
    Initialised {},
    /// The kernel has a TDX host driver but the module did not come up: there is a line of `virt/tdx` with this
    /// text, none that says initialized, and the `tdx_host` driver refuses to load.
    NotInitialised {
        /// A part of the kernel's reason, such as `module not loaded`.
        text: String,
    },
    /// Loads a kernel module from a file of the initramfs. `tdx-host.ko` is loaded before the first step if the
    /// initramfs has it at [`TDX_HOST_MODULE`], so that a plan needs this for others only.
    LoadModule {
        /// The file.
        path: String,
        /// Module parameters, `name=value` with blanks between.
        #[serde(default)]
        params: String,
        /// How it ends.
        #[serde(default)]
        expect: Outcome,
    },
    /// The attributes of `/sys/devices/faux/tdx_host` read as expected; the others are not looked at.
    Attributes {
        /// Attribute name to what it must be.
        expect: Attributes,
    },
    /// A runtime update through `/sys/class/firmware/tdx_module`.
    Update {
        /// A file of the initramfs.
        image: String,
        /// `done`, or the text that `error` then shows (`transferring:firmware-invalid`), or `errno:ENODEV`
        /// and the like when a file of the upload already refuses.
        expect: Outcome,
        /// What the attributes are afterwards.
        #[serde(default, skip_serializing_if = "Attributes::is_empty")]
        then: Attributes,
        /// Seconds until the upload must be idle again.
        #[serde(default = "default_time_limit")]
        time_limit: u64,
    },
    /// A cancelled upload: the kernel has nothing to cancel when idle, so that writing to `cancel` answers ENODEV,
    /// and an image that was begun and given up (`loading` = -1) leaves the upload idle and the module alone.
    GiveUpUpdate {
        /// A file of the initramfs.
        image: String,
    },
    /// The kernel still is what it was: attributes read twice give the same, those named are as expected, as many
    /// CPUs are online as are present less `offline`, P-SEAMLDR answers, and no new warning is in the log.
    Healthy {
        /// What the attributes are.
        #[serde(default, skip_serializing_if = "Attributes::is_empty")]
        expect: Attributes,
        /// CPUs that the plan has taken offline at this point.
        #[serde(default)]
        offline: u32,
    },
    /// Takes a CPU offline.
    CpuOffline {
        /// Linux's number of it. CPU 0 cannot.
        cpu: u32,
        /// How it ends.
        #[serde(default)]
        expect: Outcome,
    },
    /// Brings a CPU online.
    CpuOnline {
        /// Linux's number of it.
        cpu: u32,
        /// How it ends.
        #[serde(default)]
        expect: Outcome,
    },
    /// So many CPUs are online.
    CpuCount {
        /// How many.
        expect: u32,
    },
    /// The kernel is not tainted and its log holds no warning, bug or call trace.
    Taint {
        /// Bits of `/proc/sys/kernel/tainted` that may be set: 4096 after a module from outside the tree.
        #[serde(default)]
        allow: u64,
    },
    /// The boot code says that it randomised the kernel's address, and the symbols agree.
    Kaslr {
        /// False for a boot with `nokaslr`.
        #[serde(default = "yes")]
        expect: bool,
    },
    /// A line of the kernel log holds this text.
    DmesgHas {
        /// The text.
        text: String,
    },
    /// No line of the kernel log holds this text.
    DmesgLacks {
        /// The text.
        text: String,
    },
    /// When the first line with this text was logged: number `us`, microseconds since the kernel started.
    DmesgTime {
        /// The text.
        text: String,
    },
    /// An MSR reads the same, and this, on every online CPU.
    Msr {
        /// The MSR's number.
        msr: u32,
        /// Its value; a string of hexadecimal digits behind `0x`, because JSON's numbers end at 2^53.
        expect: Hex,
    },
    /// Loads the bench module, reads what it measured and unloads it. Numbers: `calls`, `cpus`, `nanoseconds`,
    /// `calls_per_second`, `status` (of the last call; 0 is success).
    Bench {
        /// The module's file.
        #[serde(default = "default_bench")]
        module: String,
        /// SEAMCALLs per CPU.
        #[serde(default = "default_calls")]
        calls: u64,
        /// On all CPUs at once instead of one.
        #[serde(default)]
        all_cpus: bool,
        /// Metadata field that TDH.SYS.RD reads; without it, a harmless one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        field: Option<Hex>,
        /// Another leaf (RAX) than TDH.SYS.RD.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        leaf: Option<Hex>,
        /// The completion status that the last call must have.
        #[serde(default)]
        status: Hex,
    },
    /// Looks at pages that the module reserved for itself (its PAMT) as the host sees them: ciphertext, no zeros.
    /// Numbers: `pages` looked at, `zero_lines`, `lines`.
    Ciphertext {
        /// The bench module's file.
        #[serde(default = "default_bench")]
        module: String,
    },
    /// Threads read the attributes without pause while a runtime update runs: nobody sees anything but the values
    /// before and after.
    Stress {
        /// A file of the initramfs.
        image: String,
        /// Reading threads.
        #[serde(default = "default_readers")]
        readers: u32,
        /// How the update ends.
        #[serde(default)]
        expect: Outcome,
        /// What the attributes are afterwards.
        #[serde(default, skip_serializing_if = "Attributes::is_empty")]
        then: Attributes,
        /// Seconds until the upload must be idle again.
        #[serde(default = "default_time_limit")]
        time_limit: u64,
    },
    /// Restarts the machine; the steps behind it run in the next boot, which also answers this one.
    Reboot {},
}

/// Where a `tdx-host.ko` is loaded from before the first step.
pub const TDX_HOST_MODULE: &str = "/lib/tdx-host.ko";

impl Step {
    /// Its name in a plan.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Initialised {} => "initialised",
            Self::NotInitialised { .. } => "not-initialised",
            Self::LoadModule { .. } => "load-module",
            Self::Attributes { .. } => "attributes",
            Self::Update { .. } => "update",
            Self::GiveUpUpdate { .. } => "give-up-update",
            Self::Healthy { .. } => "healthy",
            Self::CpuOffline { .. } => "cpu-offline",
            Self::CpuOnline { .. } => "cpu-online",
            Self::CpuCount { .. } => "cpu-count",
            Self::Taint { .. } => "taint",
            Self::Kaslr { .. } => "kaslr",
            Self::DmesgHas { .. } => "dmesg-has",
            Self::DmesgLacks { .. } => "dmesg-lacks",
            Self::DmesgTime { .. } => "dmesg-time",
            Self::Msr { .. } => "msr",
            Self::Bench { .. } => "bench",
            Self::Ciphertext { .. } => "ciphertext",
            Self::Stress { .. } => "stress",
            Self::Reboot {} => "reboot",
        }
    }
}

const fn default_time_limit() -> u64 {
    60
}

const fn default_calls() -> u64 {
    100_000
}

const fn default_readers() -> u32 {
    4
}

const fn yes() -> bool {
    true
}

fn default_bench() -> String {
    "/bench.ko".to_owned()
}

/// Expected attributes by file name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attributes(pub BTreeMap<String, Expected>);

impl Attributes {
    /// Nothing is expected.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: Into<String>, const N: usize> From<[(K, Expected); N]> for Attributes {
    fn from(entries: [(K, Expected); N]) -> Self {
        Self(entries.into_iter().map(|(name, expected)| (name.into(), expected)).collect())
    }
}

/// What one attribute must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Expected {
    /// It reads as this number.
    Number(u64),
    /// It reads as this text, the line's end aside. `errno:ENXIO` and the like: reading it fails so.
    Text(String),
    /// There is no such file.
    Absent(()),
}

impl From<&str> for Expected {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Expected {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

/// How an act ends: `done`, or the words of its refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Outcome {
    /// It succeeds.
    Done,
    /// It is refused: `phase:reason` of a firmware upload, or `errno:NAME` of a file or a system call.
    Refused(String),
}

impl Default for Outcome {
    /// Unless told otherwise an act must succeed.
    fn default() -> Self {
        Self::Done
    }
}

impl From<String> for Outcome {
    fn from(text: String) -> Self {
        if text == "done" { Self::Done } else { Self::Refused(text) }
    }
}

impl From<Outcome> for String {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => "done".to_owned(),
            Outcome::Refused(words) => words,
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Refused(words) => f.write_str(words),
        }
    }
}

/// A 64-bit value that JSON carries as a string: `"0x2000000001f"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hex(pub u64);

/// A string is not a hexadecimal number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotHex(String);

impl std::fmt::Display for NotHex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} is not a hexadecimal number of 64 bits behind 0x", self.0)
    }
}

impl std::error::Error for NotHex {}

impl TryFrom<String> for Hex {
    type Error = NotHex;

    fn try_from(text: String) -> Result<Self, NotHex> {
        text.strip_prefix("0x")
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or(NotHex(text))
    }
}

impl From<Hex> for String {
    fn from(value: Hex) -> Self {
        value.to_string()
    }
}

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One line on the second serial port. Lines end with `\r\n` where the terminal makes them so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A step's answer.
    Answer(Answer),
    /// The plan has ended; the machine goes down next.
    Done(Done),
}

/// What a step found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Its place in the plan, from 0.
    pub step: usize,
    /// Its name.
    pub name: String,
    /// As it should be.
    pub ok: bool,
    /// One sentence.
    pub detail: String,
    /// What was measured.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, u64>,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// True: every step has answered. False: the plan could not be read.
    pub done: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Plan {
    /// Reads a plan.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

impl Line {
    /// Reads one line; None: it is noise of the port (an empty line, firmware's greeting).
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str(line.trim()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_being_written_and_read() {
        let plan = Plan {
            steps: vec![
                Step::Initialised {},
                Step::NotInitialised { text: "module not loaded".into() },
                Step::LoadModule { path: "/a.ko".into(), params: String::new(), expect: Outcome::Done },
                Step::Attributes {
                    expect: Attributes::from([
                        ("version", Expected::from("1.5.24")),
                        ("num_remaining_updates", 15.into()),
                        ("seamldr_version", Expected::Absent(())),
                    ]),
                },
                Step::Update {
                    image: "/images/a.bin".into(),
                    expect: Outcome::Refused("transferring:firmware-invalid".into()),
                    then: Attributes::default(),
                    time_limit: 5,
                },
                Step::GiveUpUpdate { image: "/images/a.bin".into() },
                Step::Healthy { expect: Attributes::default(), offline: 1 },
                Step::CpuOffline { cpu: 1, expect: Outcome::Done },
                Step::CpuOnline { cpu: 1, expect: Outcome::Refused("errno:EIO".into()) },
                Step::CpuCount { expect: 2 },
                Step::Taint { allow: 4096 },
                Step::Kaslr { expect: true },
                Step::DmesgHas { text: "a".into() },
                Step::DmesgLacks { text: "b".into() },
                Step::DmesgTime { text: "c".into() },
                Step::Msr { msr: 0x87, expect: Hex(0x20_0000_001f) },
                Step::Bench {
                    module: "/bench.ko".into(),
                    calls: 10,
                    all_cpus: true,
                    field: Some(Hex(u64::MAX)),
                    leaf: None,
                    status: Hex(0),
                },
                Step::Ciphertext { module: "/bench.ko".into() },
                Step::Stress {
                    image: "/images/a.bin".into(),
                    readers: 4,
                    expect: Outcome::Done,
                    then: Attributes::default(),
                    time_limit: 60,
                },
                Step::Reboot {},
            ],
            end: End::Restart,
        };
        let json = serde_json::to_vec(&plan).unwrap();
        assert_eq!(Plan::parse(&json).unwrap(), plan);
        let names: Vec<String> = serde_json::from_slice::<serde_json::Value>(&json).unwrap()["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["step"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, plan.steps.iter().map(Step::name).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_left_out_takes_its_default() {
        let plan = Plan::parse(
            br#"{"steps":[{"step":"update","image":"/a","expect":"done"},{"step":"taint"},{"step":"bench"},
                {"step":"stress","image":"/a"},{"step":"kaslr"}]}"#,
        )
        .unwrap();
        assert_eq!(plan.end, End::PowerOff);
        assert_eq!(
            plan.steps,
            [
                Step::Update {
                    image: "/a".into(),
                    expect: Outcome::Done,
                    then: Attributes::default(),
                    time_limit: 60
                },
                Step::Taint { allow: 0 },
                Step::Bench {
                    module: "/bench.ko".into(),
                    calls: 100_000,
                    all_cpus: false,
                    field: None,
                    leaf: None,
                    status: Hex(0),
                },
                Step::Stress {
                    image: "/a".into(),
                    readers: 4,
                    expect: Outcome::Done,
                    then: Attributes::default(),
                    time_limit: 60
                },
                Step::Kaslr { expect: true },
            ]
        );
    }

    #[test]
    fn a_misspelt_step_or_key_is_refused() {
        for bad in [
            r#"{"steps":[{"step":"initialized"}]}"#,
            r#"{"steps":[{"step":"initialised","text":"x"}]}"#,
            r#"{"steps":[{"step":"cpu-offline","cpus":1}]}"#,
            r#"{"steps":[{"step":"cpu-offline"}]}"#,
            r#"{"steps":[{"step":"msr","msr":135,"expect":"20"}]}"#,
            r#"{"steps":[{"step":"msr","msr":135,"expect":"0x+1"}]}"#,
            r#"{"steps":[{"step":"msr","msr":135,"expect":"0x10000000000000000"}]}"#,
            r#"{"steps":[],"ends":"shell"}"#,
            r#"{"steps":[],"end":"sleep"}"#,
            r#"{"end":"shell"}"#,
        ] {
            assert!(Plan::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_expected_attribute_is_a_number_a_text_or_nothing() {
        let expect: Attributes =
            serde_json::from_str(r#"{"version":"1.5.24","num_remaining_updates":15,"seamldr_version":null}"#)
                .unwrap();
        assert_eq!(expect.0["version"], Expected::Text("1.5.24".into()));
        assert_eq!(expect.0["num_remaining_updates"], Expected::Number(15));
        assert_eq!(expect.0["seamldr_version"], Expected::Absent(()));
    }

    #[test]
    fn lines_are_told_from_the_noise_of_a_serial_port() {
        let answer = Answer {
            step: 3,
            name: "taint".into(),
            ok: true,
            detail: "the kernel is not tainted".into(),
            numbers: BTreeMap::new(),
        };
        let line = serde_json::to_string(&answer).unwrap();
        assert_eq!(Line::parse(&format!("{line}\r")), Some(Line::Answer(answer)));
        assert_eq!(Line::parse(r#"{"done":true}"#), Some(Line::Done(Done { done: true, error: None })));
        assert_eq!(
            Line::parse(r#"{"done":false,"error":"x"}"#).map(|l| matches!(l, Line::Done(d) if !d.done)),
            Some(true)
        );
        for noise in ["", "\r", "SeaBIOS (version 1.17)", "{\"step\":1", "{}"] {
            assert_eq!(Line::parse(noise), None, "{noise}");
        }
    }
}
