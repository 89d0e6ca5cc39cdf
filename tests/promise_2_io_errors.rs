//! Promise 2 when the disk fails: I/O errors and a full disk, put into the relay's own system calls (`tests/recorder`), on each
//! kind of file in its data directory. What cannot be kept is not acknowledged, and when the errors stop the relay goes on by itself.
//! Everything is recorded, so that a power cut at any moment of it is tried as well. Needs no root.
//!
//! `RELAY_TEST_REPLAYS` (15) sets how many cuts a test.

use std::time::Duration;

use harness::meter::Habits;
use harness::packet::{Connect, Publish, Version, kind};
use harness::replay::{self, Recorded, Recording, Rule, op};
use harness::{Meter, Raw, Temper, seed, setting, wait_for, within};

const EIO: u32 = libc::EIO.cast_unsigned();
const ENOSPC: u32 = libc::ENOSPC.cast_unsigned();

/// What a failure of these operations on these files means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// No reading can be kept while it lasts.
    NoReading,
    /// Readings can be kept.
    NoMatter,
}
use Means::{NoMatter, NoReading};

/// Operations, a part of the path, with what they fail, and what that means.
const UNTIL_TOLD_OTHERWISE: [(&str, u32, &str, u32, Means); 20] = [
    (
        "writes of the open segment",
        op::WRITE,
        "/backlog/",
        EIO,
        NoReading,
    ),
    (
        "full: writes of the open segment",
        op::WRITE,
        "/backlog/",
        ENOSPC,
        NoReading,
    ),
    (
        "half writes of the open segment",
        op::WRITE,
        "/backlog/",
        replay::log::SHORT,
        NoReading,
    ),
    (
        "syncs of the open segment",
        op::SYNC,
        "/backlog/",
        EIO,
        NoReading,
    ),
    (
        "syncs and new directories",
        op::SYNC | op::MKDIR,
        "/backlog/",
        ENOSPC,
        NoReading,
    ),
    (
        "syncs and opens",
        op::SYNC | op::OPEN,
        "/backlog/",
        EIO,
        NoReading,
    ),
    (
        "syncs and renames",
        op::SYNC | op::RENAME,
        "/backlog/",
        EIO,
        NoReading,
    ),
    ("removals", op::REMOVE, "/backlog/", EIO, NoMatter),
    (
        "sidecars are not written",
        op::WRITE,
        "/closed.new",
        EIO,
        NoMatter,
    ),
    (
        "sidecars are not renamed",
        op::RENAME,
        "/closed",
        EIO,
        NoMatter,
    ),
    ("marks are not written", op::WRITE, "/marks.", EIO, NoMatter),
    ("marks are not synced", op::SYNC, "/marks.", EIO, NoMatter),
    (
        "`reached` is not written",
        op::WRITE,
        "/reached",
        EIO,
        NoMatter,
    ),
    (
        "the broker's state is not written",
        op::WRITE,
        "/state/",
        EIO,
        NoMatter,
    ),
    (
        "the broker's state is not synced",
        op::SYNC,
        "/state/",
        EIO,
        NoMatter,
    ),
    (
        "the broker's state is full",
        op::WRITE | op::OPEN,
        "/state/",
        ENOSPC,
        NoMatter,
    ),
    ("every write", op::WRITE, "", EIO, NoReading),
    (
        "every write and every new file: full",
        op::WRITE | op::MKDIR | op::RESIZE,
        "",
        ENOSPC,
        NoReading,
    ),
    ("every sync", op::SYNC, "", EIO, NoReading),
    ("everything", u32::MAX, "", EIO, NoReading),
];

fn rule(ops: u32, path: &str, action: u32) -> Rule<'_> {
    Rule {
        ops,
        path,
        action,
        skip: 0,
        times: u32::MAX,
    }
}

fn meter(recorded: &Recorded, name: &str, size: usize) -> Meter {
    let mut habits = Habits::new(recorded.relay.mqtt);
    habits.size = size;
    habits.in_flight = 4;
    Meter::new(&recorded.ledger, name, habits)
}

/// A relay whose readings wait no longer than half a second for the disk.
fn impatient() -> Recorded {
    let mut recorded = Recorded::new(true).unwrap();
    recorded.relay.set("backlog.hold_max", "500ms");
    recorded
}

/// The meter's readings are taken, however often it has to come back.
fn taken(meter: &mut Meter, what: &str) {
    meter.habits.patience = Duration::from_secs(5);
    wait_for(&format!("{what}: readings are taken"), within(30), || {
        meter.publish(20).ok()
    });
}

/// A retained message is acknowledged, or within a second not.
fn retained_is_acknowledged(recorded: &Recorded, number: u64) -> bool {
    let connect = Connect::new(Version::V4, "local");
    let Ok((mut raw, _, 0)) = Raw::connect(recorded.relay.mqtt, &connect) else {
        return false;
    };
    let mut publish = Publish::new("kept/x", number.to_string(), 1);
    publish.retain = true;
    raw.send(&publish.encode(Version::V4)).unwrap();
    let answer = raw.receive_within(Duration::from_secs(1));
    answer.is_ok_and(|packet| packet.kind() == kind::PUBACK)
}

/// Tries cuts in what was recorded, while it was well and while it was not.
fn cuts(test: &str, mut recording: Recording, seed: u64) {
    let failures: Vec<_> = (seed..seed + setting("RELAY_TEST_REPLAYS", 15))
        .filter_map(|seed| replay::one(seed, &recording).err())
        .inspect(|failure| println!("{test}: {failure}"))
        .collect();
    assert!(
        failures.is_empty(),
        "{} cuts break a promise; kept: {}",
        failures.len(),
        recording.keep().display()
    );
}

#[test]
fn what_the_disk_refuses_is_not_acknowledged_and_it_goes_on_by_itself() {
    let test = "what_the_disk_refuses_is_not_acknowledged_and_it_goes_on_by_itself";
    let seed = seed(test);
    let mut recorded = impatient();
    recorded.relay.start();
    recorded.hub.restart(Temper::ClosesAtConnect);
    let mut meter = meter(&recorded, "meter", 300);
    let mut kept = 0;
    for (what, ops, path, action, means) in UNTIL_TOLD_OTHERWISE {
        taken(&mut meter, what);
        recorded.recorder.fail(0, rule(ops, path, action));
        meter.habits.patience = Duration::from_millis(900);
        if means == NoReading {
            assert!(meter.publish(1).is_err(), "{what}: acknowledged");
            assert!(recorded.recorder.failed(0) > 0, "{what}: nothing failed");
            let status = recorded.relay.get("/readyz").map(|(code, _)| code);
            assert_eq!(status.ok(), Some(503), "{what}: ready");
        } else {
            meter
                .publish(20)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        if path == "/state/" {
            kept += 1;
            assert!(
                !retained_is_acknowledged(&recorded, kept),
                "{what}: acknowledged"
            );
        }
        recorded.recorder.heal();
        taken(&mut meter, what);
        recorded.relay.wait_ready(within(20));
        wait_for(
            &format!("{what}: local publishes are taken"),
            within(20),
            || retained_is_acknowledged(&recorded, kept).then_some(()),
        );
    }
    recorded.kill();
    recorded.relay.start();
    recorded.hub.restart(Temper::Honest);
    recorded.ledger.settle(test, within(60));
    recorded.kill();
    cuts(test, recorded.end(Vec::new()).unwrap(), seed);
}

#[test]
fn a_single_failure_costs_no_acknowledged_reading_not_even_after_a_cut() {
    let test = "a_single_failure_costs_no_acknowledged_reading_not_even_after_a_cut";
    let seed = seed(test);
    let mut recorded = impatient();
    recorded.relay.start();
    recorded.hub.restart(Temper::ClosesAtConnect);
    let mut meter = meter(&recorded, "meter", 4_000);
    let files = [
        (op::SYNC, "/backlog/"),
        (op::WRITE, "/backlog/"),
        (op::SYNC, "/marks."),
        (op::WRITE, "/marks."),
        (op::SYNC, ""),
        (op::WRITE, ""),
        (op::MKDIR, "/backlog/"),
        (op::RENAME, "/meta"),
        (op::SYNC, "/meta"),
        (op::OPEN, "/db"),
        (op::WRITE, "/conf"),
        (op::SYNC, "/blobs"),
        (op::RENAME, "/closed"),
        (op::SYNC, "/closed"),
    ];
    for (ops, path) in files {
        for (action, skip) in [(EIO, 0), (ENOSPC, 3)] {
            let once = Rule {
                times: 1,
                skip,
                ..rule(ops, path, action)
            };
            // The files of a new segment are written after the one before has failed.
            let of_a_new_one =
                ["/meta", "/db", "/conf", "/blobs"].contains(&path) || ops == op::MKDIR;
            if of_a_new_one {
                recorded.recorder.fail(
                    1,
                    Rule {
                        times: 1,
                        ..rule(op::SYNC, "/backlog/", EIO)
                    },
                );
            }
            recorded.recorder.fail(0, once);
            let what = format!("one of {ops} on {path:?}, {action}");
            taken(&mut meter, &what);
            recorded.recorder.heal();
        }
    }
    recorded.kill();
    recorded.relay.start();
    recorded.hub.restart(Temper::Honest);
    recorded.ledger.settle(test, within(60));
    recorded.kill();
    cuts(test, recorded.end(Vec::new()).unwrap(), seed);
}

#[test]
fn a_start_on_a_failing_disk_listens_and_takes_readings_when_it_is_well() {
    let test = "a_start_on_a_failing_disk_listens_and_takes_readings_when_it_is_well";
    let seed = seed(test);
    let mut recorded = impatient();
    recorded.relay.start();
    recorded.hub.restart(Temper::ClosesAtConnect);
    let mut meter = meter(&recorded, "meter", 300);
    taken(&mut meter, "before");
    for (ops, path, action) in [
        (op::WRITE, "", EIO),
        (op::WRITE, "", ENOSPC),
        (op::SYNC, "", EIO),
        (op::RENAME | op::REMOVE | op::LINK, "", EIO),
        (op::WRITE | op::SYNC, "/state/", EIO),
        (op::WRITE | op::SYNC, "/marks.", EIO),
        (op::WRITE | op::RENAME, "/identity", EIO),
    ] {
        recorded.kill();
        recorded.recorder.fail(0, rule(ops, path, action));
        recorded.relay.start_as_is();
        recorded.relay.wait_listening(within(30));
        recorded.recorder.heal();
        taken(
            &mut meter,
            &format!("started while {ops} on {path:?} failed with {action}"),
        );
    }
    recorded.hub.restart(Temper::Honest);
    recorded.ledger.settle(test, within(60));
    recorded.kill();
    cuts(test, recorded.end(Vec::new()).unwrap(), seed);
}
