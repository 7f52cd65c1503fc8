//! What needs both sides of the SEAMCALL boundary: fuzz bodies, and helpers of tests and benches.

pub mod fuzz;
