//! Tests that need both sides of the SEAMCALL boundary.
