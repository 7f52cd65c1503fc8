//! A machine as a caller sees it.

mod bring_up;
mod cleanup;
mod common;
mod guest;
mod image;
mod instructions;
mod intel_images;
mod posted;
mod power;
mod units;
mod update;
