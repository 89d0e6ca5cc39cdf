//! The damage matrix: every file of a data directory, every kind of damage.
//!
//! What must hold for each: the relay listens again within 30 s; of the waiting readings whose bytes are all there 99 % come
//! to the hub; every acknowledged reading that does not is named by a sequence range, and still is after another start; no
//! reading arrives altered; of retained messages and sessions that are gone, an alarm says so.

use std::collections::BTreeSet;
use std::path::Path;

use harness::ledger::Key;
use harness::meter::Habits;
use harness::{FakeHub, Meter, Relay, Temper, within};
use serde_json::Value;

use crate::case::Case;
use crate::damage::{DAMAGES, Damage};
use crate::village::listening;
use crate::wreck::{self, LOCAL, Wreck};

/// So many cases go once through the whole matrix; the next so many do it again, at other places of the files. No
/// multiple of a number of damages, so that each case has some of each.
const CASES_A_PASS: u64 = 11;

#[allow(clippy::unnecessary_wraps)] // other kinds may say why they cannot run
pub(crate) fn run(case: &mut Case) -> Result<(), String> {
    let cases_a_pass = CASES_A_PASS * if case.quick { 3 } else { 1 };
    let pass = case.number / cases_a_pass;
    let wreck = Wreck::make(case, pass % 2 == 1);
    let all = wreck
        .files
        .iter()
        .flat_map(|file| DAMAGES.map(|damage| (file, damage)));
    let mut failures = Vec::new();
    let mut tried = 0;
    for (place, (file, damage)) in (0..).zip(all) {
        if place % cases_a_pass == case.number % cases_a_pass {
            tried += 1;
            if let Err(failure) = survive(&wreck, case, file, damage) {
                println!("RED {failure}");
                failures.push(failure);
            }
        }
    }
    println!("{tried} damages of {} files", wreck.files.len());
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}

/// One damage. An error says what does not hold.
fn survive(wreck: &Wreck, case: &mut Case, file: &Path, damage: Damage) -> Result<(), String> {
    let ledger = wreck.ledger.fork();
    let hub = FakeHub::start(&ledger, Temper::Honest);
    let mut relay = wreck::relay(hub.address);
    wreck.copy_to(&relay);
    let Some(place) = damage.inflict(&relay.data_dir().join(file), &mut case.random) else {
        return Ok(());
    };
    let name = format!("{damage:?} in {}: {place}", file.display());
    println!("{name}");
    case.outcome.faults += 1;
    let waiting: BTreeSet<Key> = wreck.ledger.missing().into_iter().collect();
    let untouched: BTreeSet<Key> = wreck::untouched(&relay.data_dir());
    relay.write_config();
    relay.start_as_is();
    listening(&mut relay, case);
    let mut meter = Meter::new(&ledger, "after", Habits::new(relay.mqtt));
    meter
        .publish(20)
        .map_err(|e| format!("{name}: it takes no readings: {e}"))?;
    let (retained, queued) = wreck::local_messages_left(&relay);
    drain_all(&relay);
    ledger.check();

    let lost: Vec<Key> = ledger.missing();
    let status = relay.status();
    relay.kill();
    relay.start();
    relay.wait_drained(within(60));
    for status in [&status, &relay.status()] {
        let unnamed = unnamed(wreck, &lost, status);
        if !unnamed.is_empty() {
            return Err(format!(
                "{name}: {} lost without a word, such as {:?}; {}",
                unnamed.len(),
                &unnamed[..unnamed.len().min(5)],
                status["backlog"]["epochs"]
            ));
        }
    }
    let sums = ledger.sums();
    case.outcome.acknowledged += sums.acknowledged;
    case.outcome.duplicates += sums.duplicates;
    case.outcome.lost += lost.len() as u64;
    case.outcome.named += lost.len() as u64;
    judge_saved(&name, &waiting, &untouched, &lost)?;
    judge_local(&name, retained, queued, &status)?;
    judge_calm(&name, &lost, &status)
}

/// Everything to the hub, what it had refused too.
fn drain_all(relay: &Relay) {
    relay.wait_drained(within(60));
    let retried = relay.cli(&["backlog", "retry", "--all"]);
    assert!(
        retried.status.success(),
        "{}",
        String::from_utf8_lossy(&retried.stderr)
    );
    relay.wait_drained(within(60));
}

fn judge_saved(
    name: &str,
    waiting: &BTreeSet<Key>,
    untouched: &BTreeSet<Key>,
    lost: &[Key],
) -> Result<(), String> {
    let whole = waiting.intersection(untouched).count();
    let lost = lost.iter().filter(|key| untouched.contains(key)).count();
    if lost * 100 > whole {
        return Err(format!(
            "{name}: of {whole} readings that were not touched {lost} are lost"
        ));
    }
    Ok(())
}

/// What is gone of the broker's state must be said.
fn judge_local(name: &str, retained: usize, queued: usize, status: &Value) -> Result<(), String> {
    let alarms = status["alarms"].to_string();
    if (retained, queued) == (LOCAL, LOCAL) || alarms.contains("sessions and retained messages") {
        return Ok(());
    }
    Err(format!(
        "{name}: of {LOCAL} retained messages {retained} are left, of {LOCAL} for a session {queued}, without a word: {alarms}"
    ))
}

/// Where nothing is lost, nothing is named: an alarm that is often wrong is not believed when it is right.
fn judge_calm(name: &str, lost: &[Key], status: &Value) -> Result<(), String> {
    let named = &status["backlog"]["lost"];
    if lost.is_empty() && named.as_array().is_some_and(|ranges| !ranges.is_empty()) {
        return Err(format!("{name}: nothing is lost, and it names {named}"));
    }
    Ok(())
}

/// Of `lost` what `status` does not name.
fn unnamed(wreck: &Wreck, lost: &[Key], status: &Value) -> Vec<Key> {
    let named = named(status);
    let known = |key: &Key| {
        wreck.readings.iter().any(|((epoch, sequence), of)| {
            of == key
                && named
                    .iter()
                    .any(|(e, from, to)| e == epoch && (from..=to).contains(&sequence))
        })
    };
    lost.iter().filter(|key| !known(key)).copied().collect()
}

/// The ranges that are named, with their epochs.
fn named(status: &Value) -> Vec<(String, u64, u64)> {
    let ranges = status["backlog"]["lost"].as_array().into_iter().flatten();
    ranges
        .filter_map(|range| {
            let (first, last) = (range["first"].as_u64()?, range["last"].as_u64()?);
            Some((range["epoch"].as_str()?.to_owned(), first, last))
        })
        .collect()
}
