//! The `edge-relay` binary.

fn main() {}
