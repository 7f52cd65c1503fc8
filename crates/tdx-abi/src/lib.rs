//! What crosses the SEAMCALL, TDCALL and P-SEAMLDR boundary of Intel TDX.
//!
//! One crate of facts: leaf numbers, the registers of a call, completion status words, metadata
//! field ids and the layouts that host and module exchange through memory. Nothing here has
//! behaviour of its own, so that a host, a software module, a guest and a debugger can share it.
//!
//! Tables of numbers live in `spec/*.toml` and are turned into `src/generated/` by
//! `cargo xtask gen`. Layouts are written by hand, each beside a `const` assert of its size and
//! offsets.
//!
//! `no_std`, no `alloc`.
#![no_std]
#![deny(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless
)]

pub mod addr;
pub mod cmr;
pub mod connect;
pub mod features;
mod generated;
pub mod hpa_list;
pub mod keyid;
pub mod leaf;
pub mod metadata;
pub mod msr;
pub mod pamt;
pub mod regs;
pub mod seamldr;
pub mod status;
pub mod sysinfo;
pub mod tdmr;

pub use addr::{AddressLayout, PAGE_SIZE, PageLevel, PhysAddr, PhysRange};
pub use keyid::{KeyId, KeyIdPartitioning};
pub use regs::Registers;
