//! The module on a fake machine: each row of each leaf, their order, and the way through.

mod bring_up;
mod common;
