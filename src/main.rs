//! The `warptune` binary.

fn main() {}
