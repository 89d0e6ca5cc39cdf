//! Promise 1 by the thousand: power cuts made from a recording of what the relay wrote and synced. Every write since the last sync
//! may be lost, kept, torn or overtaken by a later one; names in directories too. Needs no root.
//!
//! `RELAY_TEST_REPLAYS` (60) sets how many cuts; from 1,000 on a busy minute is recorded, else a few seconds.
//! `RELAY_TEST_RECORDING` names a recording that was kept; with `RELAY_TEST_SEED` of a failure it is that failure again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::replay::{self, Outcome, Plan, Recording};
use harness::{seed, setting};

/// On one state of so many the real relay is started as well.
const STARTED: u64 = 20;

#[derive(Default)]
struct Sums {
    cuts: u64,
    started: u64,
    readings: u64,
    acknowledged: u64,
    local: u64,
    named_lost: u64,
    epochs: BTreeMap<String, u64>,
    slowest: Duration,
}

impl Sums {
    fn add(&mut self, outcome: &Outcome) {
        let found = &outcome.found;
        self.readings += found.waiting;
        self.acknowledged += found.acknowledged;
        self.local += found.local;
        self.named_lost += found.named_lost;
        let began = found.began.clone().unwrap_or_else(|| "goes on".to_owned());
        if found.opened_in.is_zero() {
            return; // not looked at in this process
        }
        *self.epochs.entry(began).or_default() += 1;
        self.slowest = self.slowest.max(found.opened_in);
    }
}

fn recording(cuts: u64, seed: u64) -> Recording {
    if let Some(kept) = std::env::var_os("RELAY_TEST_RECORDING") {
        return Recording::load(Path::new(&kept)).unwrap();
    }
    let plan = if cuts < 1_000 {
        Plan::short(seed)
    } else {
        Plan::minute(seed)
    };
    Recording::make(&plan, seed).unwrap()
}

#[test]
fn no_acknowledged_reading_is_lost_in_any_state_a_cut_may_leave() {
    let test = "no_acknowledged_reading_is_lost_in_any_state_a_cut_may_leave";
    let cuts = setting("RELAY_TEST_REPLAYS", 60);
    let seed = seed(test);
    let mut recording = recording(cuts, seed);
    println!(
        "{test}: {} operations, {} MiB, {} publishes and arrivals",
        recording.log.records.len(),
        recording.log.bytes.len() >> 20,
        recording.journal.len()
    );
    let start = Instant::now();
    let mut sums = Sums::default();
    let mut failures = Vec::new();
    for seed in seed..seed + cuts {
        let looked = replay::one(seed, &recording);
        let started = seed
            .is_multiple_of(STARTED)
            .then(|| replay::one_started(seed, &recording));
        sums.cuts += 1;
        sums.started += u64::from(started.is_some());
        for result in [Some(looked), started].into_iter().flatten() {
            match result {
                Ok(outcome) => sums.add(&outcome),
                Err(failure) => {
                    println!("{failure}");
                    failures.push(failure);
                }
            }
        }
        if failures.len() >= 5 {
            break;
        }
    }
    println!(
        "{test}: {} cuts, {} of them with the relay started, in {:?}: {} readings waited, {} were acknowledged, {} local; named as lost {}; epochs {:?}; slowest open {:?}",
        sums.cuts,
        sums.started,
        start.elapsed(),
        sums.readings,
        sums.acknowledged,
        sums.local,
        sums.named_lost,
        sums.epochs,
        sums.slowest
    );
    if let Some(first) = failures.first() {
        let kept = recording.keep().display().to_string();
        panic!(
            "{} of {cuts} cuts break a promise; again: RELAY_TEST_RECORDING={kept} RELAY_TEST_REPLAYS=1 \
             RELAY_TEST_SEED={} cargo test -p relay-tests --test power_cuts_replayed -- --nocapture",
            failures.len(),
            first.cut.seed
        );
    }
}
