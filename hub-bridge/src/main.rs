//! The hub's side: see `hub-bridge --help`.

fn main() {}
