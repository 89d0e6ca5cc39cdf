//! Promise 1: a meter gets its PUBACK only after the reading is on stable storage.
//!
//! `RELAY_TEST_KILLS` (20) and `RELAY_TEST_POWER_CUTS` (10) set how often.

use std::time::Duration;

use harness::ledger::{Key, payload};
use harness::meter::Habits;
use harness::packet::{self, Connect, Publish, Version, kind};
use harness::{Disk, Fleet, Hub, Ledger, Meter, Proxy, Raw, Relay, Subscriber, VILLAGE};
use harness::{seed, setting, skip, wait_for, within};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Meters of both versions with small, middling and the largest readings.
fn village(relay: &Relay, ledger: &Ledger, sizes: &[usize]) -> Vec<Meter> {
    let meters = sizes.iter().enumerate().map(|(number, size)| {
        let mut habits = Habits::new(relay.mqtt);
        habits.version = if number % 2 == 0 {
            Version::V4
        } else {
            Version::V5
        };
        habits.size = *size;
        habits.in_flight = if *size > 10_000 { 3 } else { 20 };
        habits.pause = Duration::from_millis(if *size > 10_000 { 20 } else { 2 });
        Meter::new(ledger, &format!("meter-{number}"), habits)
    });
    meters.collect()
}

/// Waits until meters saw `count` more acknowledgements.
fn wait_acknowledged(ledger: &Ledger, count: u64) {
    let aim = ledger.sums().acknowledged + count;
    wait_for(
        &format!("{count} more acknowledgements"),
        within(30),
        || (ledger.sums().acknowledged >= aim).then_some(()),
    );
}

/// Lets the fleet finish on a running relay, and checks the ledger at the hub.
fn finish(test: &str, relay: &Relay, fleet: Fleet, ledger: &Ledger) {
    for mut meter in fleet.stop() {
        meter.publish(1).expect("the relay takes what was left");
    }
    let sums = ledger.settle(test, within(120));
    assert_eq!(sums.acknowledged, sums.published);
    relay.wait_drained(within(30));
}

#[test]
fn no_acknowledged_reading_is_lost_by_kill_9() {
    let test = "no_acknowledged_reading_is_lost_by_kill_9";
    let mut random = StdRng::seed_from_u64(seed(test));
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    let mut relay = Relay::new(uplink.address);
    relay
        .set("hub.retry_max", "1s")
        .set("backlog.segment_bytes", "2 MiB");
    let fleet = Fleet::start(village(&relay, &ledger, &[200, 200, 2_000, 20_000]));
    for round in 0..setting("RELAY_TEST_KILLS", 20) {
        if round % 2 == 0 {
            uplink.cut();
        } else {
            uplink.restore();
        }
        relay.start();
        wait_acknowledged(&ledger, random.random_range(1..300));
        std::thread::sleep(Duration::from_micros(random.random_range(0..20_000)));
        relay.kill();
    }
    uplink.restore();
    relay.start();
    finish(test, &relay, fleet, &ledger);
}

#[test]
fn no_acknowledged_reading_is_lost_by_a_power_cut() {
    let test = "no_acknowledged_reading_is_lost_by_a_power_cut";
    let mut disk = match Disk::new(1024) {
        Ok(disk) => disk,
        Err(reason) => return skip(test, &reason),
    };
    let mut random = StdRng::seed_from_u64(seed(test));
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    let mut relay = Relay::new(uplink.address);
    relay.set(
        "data_dir",
        disk.mount_point().join("data").to_str().unwrap(),
    );
    relay
        .set("hub.retry_max", "1s")
        .set("backlog.segment_bytes", "8 MiB");
    relay.set("backlog.disk_free_min", "16 MiB");
    let largest = (256 << 10) - 100;
    let fleet = Fleet::start(village(&relay, &ledger, &[200, 200, 20_000, largest]));
    for round in 0..setting("RELAY_TEST_POWER_CUTS", 10) {
        if round % 2 == 0 {
            uplink.cut();
        } else {
            uplink.restore();
        }
        relay.start();
        wait_acknowledged(&ledger, random.random_range(1..200));
        disk.cut(Some(&mut relay));
    }
    uplink.restore();
    relay.start();
    finish(test, &relay, fleet, &ledger);
    relay.kill();
}

#[test]
fn sigterm_ends_with_0_and_loses_nothing() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let mut relay = Relay::new(hub.address);
    let fleet = Fleet::start(village(&relay, &ledger, &[200, 200, 2_000]));
    for _ in 0..3 {
        relay.start();
        wait_acknowledged(&ledger, 200);
        let status = relay.stop();
        assert_eq!(status.code(), Some(0), "{status}");
    }
    relay.start();
    finish("sigterm", &relay, fleet, &ledger);
}

#[test]
fn a_pubrec_means_on_disk_and_the_reading_is_stored_once() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let mut relay = Relay::new(uplink.address);
    relay.set("hub.retry_max", "1s").start();
    let key = Key {
        meter: ledger.meter("meters/two"),
        number: 1,
    };
    let bytes = payload(key, 300);
    ledger.sending(key, &bytes);
    let mut publish = Publish::new("meters/two", bytes, 77);
    publish.qos = 2;
    let mut connect = Connect::new(Version::V4, "two");
    connect.clean = false;

    let (mut raw, _, _) = Raw::connect(relay.mqtt, &connect).unwrap();
    raw.send(&publish.encode(Version::V4)).unwrap();
    assert_eq!(raw.receive_kind(kind::PUBREC).unwrap().packet_id(), 77);
    ledger.acknowledged(key);
    relay.kill();
    relay.start();

    let (mut raw, session, _) = Raw::connect(relay.mqtt, &connect).unwrap();
    assert!(session, "the session of a QoS 2 publish survives");
    publish.dup = true;
    raw.send(&publish.encode(Version::V4)).unwrap();
    assert_eq!(raw.receive_kind(kind::PUBREC).unwrap().packet_id(), 77);
    raw.send(&packet::ack(kind::PUBREL, Version::V4, 77, 0))
        .unwrap();
    assert_eq!(raw.receive_kind(kind::PUBCOMP).unwrap().packet_id(), 77);
    uplink.restore();
    let sums = ledger.settle("qos 2", within(20));
    relay.wait_drained(within(20));
    assert_eq!((sums.at_hub, sums.duplicates), (1, 0));
    let next = relay.status()["backlog"]["next_sequence"].as_u64();
    assert_eq!(next, Some(2), "one sequence was given");
}
