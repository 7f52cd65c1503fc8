//! Device files that are built in.

use super::spec::{EndpointSpec, EndpointSpecError};

/// A built-in device.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Name, also in its file.
    pub name: &'static str,
    /// The file.
    pub toml: &'static str,
}

impl BuiltIn {
    /// Reads the file.
    pub fn spec(&self) -> Result<EndpointSpec, EndpointSpecError> {
        EndpointSpec::from_toml(self.toml)
    }
}

macro_rules! devices {
    ($($name:literal),*) => {
        &[$(BuiltIn {
            name: $name,
            toml: include_str!(concat!("../../devices/", $name, ".toml")),
        }),*]
    };
}

/// Every device that is built in.
pub const ALL: &[BuiltIn] = devices!["default", "single", "plain", "validators"];

/// The device with this name.
pub fn find(name: &str) -> Option<&'static BuiltIn> {
    ALL.iter().find(|device| device.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_its_name_and_can_be_built() {
        for device in ALL {
            let spec = device.spec().unwrap();
            assert_eq!(spec.name, device.name);
            assert!(!spec.description.is_empty());
            super::super::Endpoint::new(&spec, 0, std::time::Duration::from_secs(1_800_000_000)).unwrap();
        }
    }

    #[test]
    fn the_default_file_is_the_default_device() {
        let spec = find("default").unwrap().spec().unwrap();
        let description = spec.description.clone();
        assert_eq!(spec, EndpointSpec { description, ..EndpointSpec::default() });
    }
}
