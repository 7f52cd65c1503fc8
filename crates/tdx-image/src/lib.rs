//! Images of the TDX module: the files that firmware, operating system and tools hand to P-SEAMLDR.
//!
//! An image is a container ([`Image`]) around two things: the SEAM SIGSTRUCT ([`Sigstruct`], what Intel
//! signed) and the pages of the module. Containers exist with two headers, see [`HeaderVersion`]. Every
//! image that is refused is refused with a reason of its own ([`ImageError`], [`SigstructError`],
//! `verify::VerifyError`, [`elf::RelocationError`]), and [`find_reason`] knows them all by name.
//!
//! ```
//! # use tdx_image::{HeaderVersion, Image, ImageError, encode, encoded_len};
//! fn to_0x200(file: &[u8], out: &mut [u8]) -> Result<usize, ImageError> {
//!     let image = Image::parse(file)?;
//!     encode(HeaderVersion::V0x200, image.sigstruct(), image.module(), out)
//! }
//! # assert_eq!(Image::parse(b"short").unwrap_err().name(), "image-too-short");
//! ```
//!
//! `no_std`, no `alloc`, no panic on any input. Two features need `std`: `verify` checks hashes and
//! signatures, `build` makes images that are signed with the project's test key.
#![no_std]
#![deny(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless
)]

#[cfg(feature = "verify")]
extern crate std;

#[cfg(feature = "build")]
pub mod build;
pub mod container;
pub mod cpus;
pub mod elf;
pub mod linux73;
pub mod reason;
pub mod record;
pub mod sigstruct;
#[cfg(feature = "verify")]
pub mod verify;

pub use container::{Checksum, HeaderVersion, Image, ImageError, encode, encoded_len};
pub use linux73::{Linux73Refusal, linux73};
pub use reason::{Reason, find_reason, reasons};
pub use sigstruct::{Date, Sigstruct, SigstructError, SigstructRules, Svn};
