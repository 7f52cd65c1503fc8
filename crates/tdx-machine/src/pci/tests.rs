//! A machine with devices.
