//! `edge-relay demo` does what the README says: its last line counts, and its exit status follows.

use std::process::Command;

#[test]
fn the_demo_ends_with_nothing_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_edge-relay"))
        .args(["demo", "--seconds", "12", "--meters", "10"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    // 10 meters, an inverter and a battery monitor, 288 readings each.
    let last = text.lines().last().unwrap_or_default();
    let start = "demo: acknowledged 3456, at the hub 3456, missing 0, duplicates ";
    assert!(last.starts_with(start), "{last}");
    assert!(text.contains("--- kill -9"), "{text}");
    assert!(text.contains("--- the drain has done its work"), "{text}");
}
