//! The first program of a small Linux.

fn main() {}
