//! Power cuts made from a recording of what the relay writes and syncs: of what was not synced anything may be lost, kept,
//! torn or overtaken (`harness::replay`). Needs no root.

use harness::replay::{self, Plan, Recording};

use crate::case::Case;

/// Cuts of one recording, each looked at through the store's and the broker's own code.
const CUTS: u64 = 100;

/// One cut in so many is looked at by a relay that is started on it, too.
const STARTED_ONE_IN: u64 = 25;

pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let first = case.seed;
    let recording = Recording::make(&Plan::short(first), first)?;
    for seed in first..first + case.times(CUTS) {
        let outcome = replay::one(seed, &recording).unwrap_or_else(|failure| panic!("{failure}"));
        let found = &outcome.found;
        case.outcome.faults += 1;
        case.outcome.acknowledged += found.acknowledged;
        case.outcome.in_vain += found.named_lost;
        let opened_ms = u64::try_from(found.opened_in.as_millis()).unwrap();
        case.outcome.listen_ms = case.outcome.listen_ms.max(opened_ms);
        if seed % STARTED_ONE_IN == 0 {
            replay::one_started(seed, &recording).unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
    Ok(())
}
