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
    "default": "two packages of Granite Rapids, 64 GiB, a module with TDX Connect",
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
