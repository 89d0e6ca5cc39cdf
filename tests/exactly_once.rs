//! Exactly once, from the meter to the hub's database: whatever is killed on the way, every stored reading is one row.
//!
//! Receiver, PostgreSQL, the hub's broker and the relay are killed at random while meters publish. `RELAY_TEST_CHAOS_KILLS`
//! says how often (100 for the figure in `docs/reliability.md`), `RELAY_TEST_SEED` repeats a run.

use std::time::Duration;

use harness::hub_side::{self, Receiver, enter_rows, holes};
use harness::meter::Habits;
use harness::postgres::Postgres;
use harness::rabbit::Rabbit;
use harness::{Fleet, Hub, Ledger, Meter, Relay, VILLAGE, seed, setting, skip, wait_for, within};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// mosquitto's own defaults: nothing on disk, a queue of 1,000 messages, 20 in flight.
const MOSQUITTO_DEFAULTS: &str = "max_queued_messages 1000\n";

fn programs(test: &str) -> Option<Postgres> {
    if hub_side::binary().is_none() {
        skip(
            test,
            "hub-bridge is not built: cargo build -p hub-bridge --features hub",
        );
        return None;
    }
    let postgres = Postgres::start();
    if postgres.is_none() {
        skip(test, "PostgreSQL is not installed");
    }
    postgres
}

/// A relay that confirms by receipts, and does not wait long for anything.
fn relay(hub: std::net::SocketAddr, format: &str) -> Relay {
    let mut relay = Relay::new(hub);
    relay.set("hub.format", format);
    relay.set("hub.confirm", "receipt");
    relay.set("hub.receipt_timeout", "5s");
    relay.set("hub.retry_max", "1s");
    relay.set("hub.retry_max_rejected", "1s");
    relay.set("batch.linger", "200ms");
    relay.set("clock.trust", "always");
    relay.start();
    relay
}

fn meters(relay: &Relay, ledger: &Ledger, pause: Duration) -> Fleet {
    let meter = |n: usize| {
        let habits = Habits {
            pause,
            ..Habits::new(relay.mqtt)
        };
        Meter::new(ledger, &format!("meter-{n}"), habits)
    };
    Fleet::start((0..4).map(meter).collect())
}

/// Nothing waits, every acknowledged publish is a row as it was sent, every stored reading is one row.
fn settle(test: &str, relay: &Relay, postgres: &Postgres, ledger: &Ledger, receivers: &[Receiver]) {
    let waiting = || relay.status()["backlog"]["readings"].as_u64();
    let start = std::time::Instant::now();
    while waiting() != Some(0) {
        assert!(
            start.elapsed() < within(120),
            "{waiting:?} readings still wait: {}\n{}",
            relay.status()["uplink"],
            receivers
                .iter()
                .map(|r| r.log_tail(20))
                .collect::<Vec<_>>()
                .join("\n---\n"),
            waiting = waiting()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let rows = enter_rows(postgres, VILLAGE, ledger);
    let sums = ledger.settle(test, within(1));
    assert_eq!(holes(postgres), "");
    let next = relay.status()["backlog"]["next_sequence"].as_u64().unwrap();
    let highest = postgres.count("SELECT max(sequence) FROM readings");
    println!("{test}: {rows} rows, {} acknowledged", sums.acknowledged);
    assert_eq!(
        u64::try_from(highest).unwrap() + 1,
        next,
        "the last stored reading is a row"
    );
    assert_eq!(postgres.count("SELECT count(*) FROM conflicts"), 0);
    assert_eq!(postgres.count("SELECT count(*) FROM dead_letters"), 0);
}

/// The relay says its account at a drain, and the audit holds it against the rows: all of them, by count and digest.
fn audit(relay: &Relay, receiver: &Receiver, postgres: &Postgres) {
    wait_for("the account speaks of every row", within(60), || {
        assert!(relay.cli(&["drain"]).status.success());
        let beyond = "SELECT count(*) FROM readings r WHERE sequence > (SELECT max(through) FROM accounts a \
                      WHERE (a.village, a.epoch) = (r.village, r.epoch))";
        (postgres.count("SELECT count(*) FROM accounts") > 0 && postgres.count(beyond) == 0)
            .then_some(())
    });
    let audit = receiver.cli(&["audit", "--no-meters"]);
    let text = String::from_utf8_lossy(&audit.stdout).into_owned();
    println!("{text}");
    assert!(
        audit.status.success() && text.contains("equal"),
        "{:?}",
        audit.status
    );
    // One row less, and it is named.
    let last = "(SELECT max(sequence) FROM readings)";
    postgres.psql(&format!("DELETE FROM readings WHERE sequence = {last}"));
    let audit = receiver.cli(&["audit", "--no-meters"]);
    assert_eq!(audit.status.code(), Some(3));
}

#[test]
fn every_stored_reading_is_one_row_whatever_is_killed() {
    let test = "every_stored_reading_is_one_row_whatever_is_killed";
    let Some(mut postgres) = programs(test) else {
        return;
    };
    let mut random = StdRng::seed_from_u64(seed(test));
    let mut hub = Hub::start_with(MOSQUITTO_DEFAULTS);
    let mut receivers = vec![
        Receiver::start(hub.address, &postgres, ""),
        Receiver::start(hub.address, &postgres, ""),
    ];
    let mut relay = relay(hub.address, "batch");
    let ledger = Ledger::new(VILLAGE);
    let fleet = meters(&relay, &ledger, Duration::from_millis(5));
    let mut killed = [0; 4];
    for _ in 0..setting("RELAY_TEST_CHAOS_KILLS", 8) {
        std::thread::sleep(Duration::from_millis(random.random_range(50..1_500)));
        let away = Duration::from_millis(random.random_range(0..800));
        let victim = random.random_range(0..4);
        killed[victim] += 1;
        match victim {
            0 => {
                let receiver = &mut receivers[random.random_range(0..2)];
                receiver.kill();
                std::thread::sleep(away);
                receiver.run();
            }
            1 => {
                postgres.stop_immediately();
                std::thread::sleep(away);
                postgres.start_again();
            }
            2 => {
                hub.kill();
                std::thread::sleep(away);
                hub.run();
            }
            _ => {
                relay.kill();
                std::thread::sleep(away);
                relay.start();
            }
        }
    }
    println!("{test}: killed receiver, PostgreSQL, broker, relay: {killed:?} times");
    fleet.stop();
    settle(test, &relay, &postgres, &ledger, &receivers);
    audit(&relay, &receivers[0], &postgres);
}

#[test]
fn plain_readings_of_an_mqtt_5_relay_are_rows_too() {
    let test = "plain_readings_of_an_mqtt_5_relay_are_rows_too";
    let Some(postgres) = programs(test) else {
        return;
    };
    let hub = Hub::start_with(MOSQUITTO_DEFAULTS);
    let mut receivers = vec![Receiver::start(
        hub.address,
        &postgres,
        "[republish]\ntopic = \"villages/{village_id}/{topic}\"\n",
    )];
    let relay = relay(hub.address, "plain");
    let ledger = Ledger::new(VILLAGE);
    let fleet = meters(&relay, &ledger, Duration::from_millis(20));
    std::thread::sleep(Duration::from_secs(1));
    receivers[0].kill();
    std::thread::sleep(Duration::from_secs(1));
    receivers[0].run();
    fleet.stop();
    settle(test, &relay, &postgres, &ledger, &receivers);
}

#[test]
fn a_rabbitmq_node_dies_in_mid_drain() {
    let test = "a_rabbitmq_node_dies_in_mid_drain";
    let Some(postgres) = programs(test) else {
        return;
    };
    let Some(mut rabbit) = Rabbit::start(3) else {
        return;
    };
    // Relay and receiver are at different nodes, and neither dies with the third.
    let receivers = vec![Receiver::start(rabbit.mqtt(1), &postgres, "")];
    let relay = relay(rabbit.mqtt(0), "batch");
    let ledger = Ledger::new(VILLAGE);
    let fleet = meters(&relay, &ledger, Duration::from_millis(5));
    for victim in [2, 1, 0] {
        std::thread::sleep(Duration::from_secs(2));
        rabbit.kill(victim);
        std::thread::sleep(Duration::from_secs(2));
        rabbit.start_again(victim);
    }
    fleet.stop();
    settle(test, &relay, &postgres, &ledger, &receivers);
}
