//! A slice of the fault campaign, as an ordinary test: one small case of each kind, from the seed of the test. The whole of
//! it is `just torture`; see `docs/reliability.md`.
//!
//! `RELAY_TEST_FAULT_CASES` (1) sets how many cases of each kind.

use std::process::Command;

use harness::{seed, setting};

#[test]
fn every_kind_of_fault_costs_no_acknowledged_reading() {
    let seed = seed("every_kind_of_fault_costs_no_acknowledged_reading");
    let cases = setting("RELAY_TEST_FAULT_CASES", 1);
    let mut campaign = Command::new(env!("CARGO_BIN_EXE_torture"));
    campaign.env("RELAY_TORTURE_QUICK", "1");
    // Another part of the matrix, and other bytes to be cut at, each time.
    let from = seed % 1_000;
    for (name, value) in [("--cases", cases), ("--seed", seed), ("--from", from)] {
        campaign.arg(name).arg(value.to_string());
    }
    let status = campaign.status().unwrap();
    assert!(status.success(), "{status}");
}
