//! Platform files from real machines.
