//! A client that misbehaves costs itself, never the broker.

use std::time::Duration;

use harness::meter::Habits;
use harness::packet::{self, Connect, Publish, Version, kind};
use harness::{Fleet, Hub, Ledger, Meter, Raw, Relay, Subscriber, VILLAGE};
use harness::{seed, setting, within};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Bytes that no client may send as its first packet.
fn bad_beginnings() -> Vec<(&'static str, Vec<u8>)> {
    let connect = |change: fn(&mut Vec<u8>)| {
        let mut bytes = Connect::new(Version::V4, "x").encode();
        change(&mut bytes);
        bytes
    };
    vec![
        (
            "not a CONNECT",
            Publish::new("a", "x", 1).encode(Version::V4),
        ),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        (
            "remaining length of five bytes",
            vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x01],
        ),
        (
            "remaining length larger than any packet",
            vec![0x10, 0xff, 0xff, 0xff, 0x7f],
        ),
        ("wrong protocol name", connect(|b| b[4] = b'X')),
        ("reserved connect flag", connect(|b| b[9] |= 1)),
        ("will QoS 3", connect(|b| b[9] |= 0x1c)),
        ("password without user", connect(|b| b[9] |= 0x40)),
        ("reserved type 0", vec![0, 0]),
        ("AUTH in 3.1.1", vec![0xf0, 0]),
        (
            "a broker's CONNACK",
            packet::connack(Version::V4, false, 0, &[]),
        ),
    ]
}

/// Bytes that a connected client may not send.
fn bad_sequels(version: Version) -> Vec<(&'static str, Vec<u8>)> {
    let publish = |topic: &str| Publish::new(topic, "x", 5).encode(version);
    let mut qos_3 = publish("a");
    qos_3[0] |= 0x06;
    let mut no_topic_end = publish("abc");
    no_topic_end[2] = 0xff;
    let mut not_utf_8 = publish("abc");
    not_utf_8[5] = 0xff;
    vec![
        ("second CONNECT", Connect::new(version, "y").encode()),
        ("wildcard in a topic", publish("a/+/b")),
        ("hash in a topic", publish("a/#")),
        ("NUL in a topic", publish("a\0b")),
        ("empty topic", publish("")),
        ("QoS 3", qos_3),
        ("topic longer than the packet", no_topic_end),
        ("topic that is not UTF-8", not_utf_8),
        ("packet id 0", Publish::new("a", "x", 0).encode(version)),
        (
            "a broker's CONNACK",
            packet::connack(version, false, 0, &[]),
        ),
        ("a broker's SUBACK", vec![0x90, 3, 0, 1, 0]),
        ("a broker's PINGRESP", vec![0xd0, 0]),
        ("SUBSCRIBE without a filter", vec![0x82, 2, 0, 1]),
        (
            "SUBSCRIBE with wrong flags",
            vec![0x80, 6, 0, 1, 0, 1, b'a', 0],
        ),
        ("empty PUBLISH", vec![0x32, 0]),
        ("reserved type 0", vec![0, 0]),
        ("PUBACK without an id", vec![0x40, 0]),
        (
            "too large",
            Publish::new("a", vec![0; 300 << 10], 5).encode(version),
        ),
    ]
}

/// Meters that must not notice anything.
fn bystanders(relay: &Relay, ledger: &Ledger) -> Fleet {
    let meters = [Version::V4, Version::V5].map(|version| {
        let mut habits = Habits::new(relay.mqtt);
        habits.version = version;
        habits.pause = Duration::from_millis(5);
        // An acknowledgement late by this counts as a broker that was hurt.
        habits.patience = Duration::from_secs(5);
        Meter::new(ledger, &format!("bystander-{version:?}"), habits)
    });
    Fleet::start(meters.into())
}

/// Runs `attack` beside bystanders: the process stays, and the ledger holds.
fn while_others_publish(test: &str, attack: impl FnOnce(&Relay, &Ledger)) {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let mut relay = Relay::new(hub.address);
    relay
        .set("mqtt.connect_timeout", "2s")
        .set("mqtt.forward", vec!["meters/#"])
        .start();
    let pid = relay.pid();
    let fleet = bystanders(&relay, &ledger);
    attack(&relay, &ledger);
    assert!(relay.exited().is_none(), "the relay ended");
    assert_eq!(relay.pid(), pid);
    for mut meter in fleet.stop() {
        meter.publish(50).expect("a bystander is served");
    }
    ledger.settle(test, within(30));
}

#[test]
fn wrong_packets_close_their_own_connection_only() {
    while_others_publish("wrong packets", |relay, _| {
        for (name, bytes) in bad_beginnings() {
            let mut raw = Raw::open(relay.mqtt).unwrap();
            let _ = raw.send(&bytes);
            let said = raw.until_closed(within(5));
            let said = said.unwrap_or_else(|error| panic!("{name}: {error}"));
            let welcome = said
                .iter()
                .any(|p| p.kind() == kind::CONNACK && p.body[1] == 0);
            assert!(!welcome, "{name}: {said:?}");
        }
        for version in [Version::V4, Version::V5] {
            for (name, bytes) in bad_sequels(version) {
                let connect = Connect::new(version, "bad");
                let (mut raw, _, code) = Raw::connect(relay.mqtt, &connect).unwrap();
                assert_eq!(code, 0);
                let _ = raw.send(&bytes);
                let said = raw.until_closed(within(5));
                let said = said.unwrap_or_else(|error| panic!("{version:?} {name}: {error}"));
                assert!(
                    said.iter()
                        .all(|p| p.kind() == kind::DISCONNECT && p.body[0] >= 0x80),
                    "{version:?} {name}: {said:02x?}"
                );
                assert_eq!(said.len(), usize::from(version == Version::V5), "{name}");
            }
        }
    });
}

#[test]
fn noise_and_mutated_packets_cost_the_broker_nothing() {
    let mut random = StdRng::seed_from_u64(seed("noise"));
    let count = setting("RELAY_TEST_NOISE", 500);
    while_others_publish("noise", |relay, _| {
        for round in 0..count {
            let version = if random.random() {
                Version::V4
            } else {
                Version::V5
            };
            let mut bytes = Connect::new(version, &format!("noise-{}", round % 3)).encode();
            let sequels = bad_sequels(version);
            for _ in 0..random.random_range(0..4) {
                let good = packet::subscribe(version, 3, "local/+/#", 1);
                let bad = &sequels.choose(&mut random).unwrap().1;
                bytes.extend(if random.random() { &good } else { bad });
            }
            for _ in 0..random.random_range(0..4) {
                let place = random.random_range(0..bytes.len());
                bytes[place] = random.random();
            }
            bytes.truncate(random.random_range(1..=bytes.len().min(2000)));
            let mut raw = Raw::open(relay.mqtt).expect("the listener lives");
            let _ = raw.send(&bytes);
            if round % 4 == 0 {
                let _ = raw.receive_within(Duration::from_millis(20));
            }
        }
    });
}

#[test]
fn silent_clients_and_connection_storms_do_not_lock_others_out() {
    while_others_publish("storm", |relay, _| {
        let silent: Vec<Raw> = (0..100).map(|_| Raw::open(relay.mqtt).unwrap()).collect();
        for round in 0..300 {
            // CONNECT and gone, again and again with the same few ids: takeovers of dead connections.
            let mut raw = Raw::open(relay.mqtt).unwrap();
            let connect = Connect::new(Version::V4, &format!("storm-{}", round % 5));
            let _ = raw.send(&connect.encode());
        }
        for mut raw in silent {
            raw.until_closed(within(10))
                .expect("a client that never connects is closed");
        }
    });
}

#[test]
fn a_subscriber_that_never_reads_does_not_stop_the_meters() {
    while_others_publish("slow reader", |relay, ledger| {
        let connect = Connect::new(Version::V4, "slow");
        let (mut raw, _, _) = Raw::connect(relay.mqtt, &connect).unwrap();
        raw.send(&packet::subscribe(Version::V4, 1, "#", 1))
            .unwrap();
        raw.receive_kind(kind::SUBACK).unwrap();
        let mut habits = Habits::new(relay.mqtt);
        habits.size = 20_000;
        habits.patience = Duration::from_secs(10);
        let mut meter = Meter::new(ledger, "loud", habits);
        meter
            .publish(1000)
            .expect("20 MB pass a subscriber that reads nothing");
    });
}
