//! Any number of replicas: the sessions are divided among them, and one that dies is stood in for.
mod support;
#[test]
fn x() {}
