//! Behaviour of images, on images that this project builds.

mod build;
mod container;
mod elf;
mod linux73;
mod reasons;
mod sigstruct;
mod verify;

use tdx_abi::seamldr::Version;
use tdx_image::build::{ModuleSpec, image};
use tdx_image::{HeaderVersion, Sigstruct};

/// A small module of the 1.5 line.
pub(crate) fn spec() -> ModuleSpec {
    ModuleSpec { pages: 5, ..ModuleSpec::new(Version::new(1, 5, 16), "test-profile") }
}

pub(crate) fn built(header: HeaderVersion) -> Vec<u8> {
    image(&spec(), header).expect("a good specification")
}

/// The parts of a good image.
pub(crate) fn parts() -> (Box<Sigstruct>, Vec<u8>) {
    tdx_image::build::module(&spec()).expect("a good specification")
}

/// Writes a little-endian number.
pub(crate) fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

/// Names that a table of refusals reaches, compared with all that there are.
pub(crate) fn assert_all_reached(reasons: &[tdx_image::Reason], reached: &[&'static str]) {
    for reason in reasons {
        assert!(reached.contains(&reason.name), "no test row gives {}", reason.name);
    }
}
