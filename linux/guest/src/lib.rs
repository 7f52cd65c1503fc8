//! What the first program of a small Linux is asked to check, and how it answers.
//!
//! Whoever boots the kernel writes a [`plan::Plan`] as `/plan.json` into the initramfs and reads
//! [`plan::Line`]s from the second serial port. The binary of this package is the `/init` between the
//! two: it is statically linked, is process 1, and treats everything that goes wrong as a failed step.

pub mod kernel_log;
pub mod plan;
pub mod symbols;
