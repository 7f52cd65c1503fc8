//! Images of the TDX module.
#![no_std]
