//! Platform files that are built in.

use crate::spec::{PlatformSpec, SpecError};

/// A built-in platform.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name, also in its file.
    pub name: &'static str,
    /// One line on what it is good for.
    pub description: &'static str,
    /// The file.
    pub toml: &'static str,
}

impl Preset {
    /// Reads the file.
    pub fn spec(&self) -> Result<PlatformSpec, SpecError> {
        PlatformSpec::from_toml(self.toml)
    }
}

macro_rules! presets {
    ($($name:literal: $description:literal,)*) => {
        &[$(Preset {
            name: $name,
            description: $description,
            toml: include_str!(concat!("../presets/", $name, ".toml")),
        }),*]
    };
}

/// Every preset, made-up machines first.
pub const ALL: &[Preset] = presets! {
    "tiny": "one package, two cores, 4 GiB: for tests",
    "default": "two packages of Granite Rapids, 64 GiB, a module with TDX Connect, four devices",
    "spr-2s": "two packages of Sapphire Rapids, 224 LPs, 1 TiB, partial-write erratum",
    "gnr-2s-connect": "two packages of Granite Rapids, 384 LPs, 2 TiB, 256 devices",
    "gnr-8s": "eight packages of Granite Rapids, 1,792 LPs, 24 TiB, sparse x2APIC ids",
    "sparse-x2apic": "two packages of two cores, x2APIC ids from 0 and from 1024, 4 GiB: no update without loss",
    "laptop-no-tdx": "a client CPU without TDX, 16 GiB",
    "canonical-tdx-331": "Sapphire Rapids, about 960 GiB, TDX 1.0: SYS.RD is refused",
    "canonical-tdx-135": "Emerald Rapids, 256 GiB: a TDMR runs out of reserved areas under the rules of Linux 7.3",
    "canonical-tdx-415": "Xeon 6747P: TDMR [0x40000000, 0x80000000) runs out of reserved areas under the rules of Linux 7.3",
    "canonical-tdx-83": "Sapphire Rapids, private KeyIDs [1, 128): leaf 34 answers 0xc000050500000000",
    "canonical-tdx-25": "leaf 33 answers 0xc000092100000122: TSX is off and the module is TDX 1.0",
    "canonical-tdx-161": "leaf 33 answers 0xc000090000000000: a CPUID value is not what the module wants",
    "ubuntu-256g": "256 GiB in five TDMRs: 1,050,644 KB of PAMT, as posted",
    "lkml-252g": "252 GiB in three TDMRs: 1,034,220 KB of PAMT, as posted",
    "lkml-992g": "992 GiB in six TDMRs: 4,071,192 KB of PAMT, as posted",
};

/// Names of all presets.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|preset| preset.name)
}

/// Every preset.
pub fn all() -> impl Iterator<Item = &'static Preset> {
    ALL.iter()
}

/// The preset with this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    ALL.iter().find(|preset| preset.name == name)
}
