//! Promise 4: a reading is trimmed only when the hub has it, whatever kind of hub that is.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use harness::ledger::{Key, payload};
use harness::meter::Habits;
use harness::packet::{Connect, Publish, Value, Version, kind, property};
use harness::{FakeHub, Fleet, Hub, Ledger, Meter, Proxy, Raw, Relay, Subscriber, Temper, VILLAGE};
use harness::{seed, wait_for, within};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A relay that tries again quickly.
fn quick_relay(hub: std::net::SocketAddr) -> Relay {
    let mut relay = Relay::new(hub);
    for key in ["hub.retry_max", "hub.retry_max_rejected"] {
        relay.set(key, "1s");
    }
    relay
        .set("hub.retry_first", "50ms")
        .set("hub.progress_timeout", "2s");
    relay.set("hub.connect_timeout", "2s");
    relay
}

fn meter(relay: &Relay, ledger: &Ledger, client_id: &str) -> Meter {
    Meter::new(ledger, client_id, Habits::new(relay.mqtt))
}

/// A bad hub gets 300 readings until `seen` says that it did its worst; none may be given up. Then the hub
/// is repaired, and all are there.
fn a_bad_hub_keeps_nothing(temper: Temper, seen: impl Fn(&FakeHub) -> bool) {
    let ledger = Ledger::new(VILLAGE);
    let name = format!("{temper:?}");
    let hub = FakeHub::start(&ledger, temper);
    let mut relay = quick_relay(hub.address);
    relay.start();
    meter(&relay, &ledger, "meter").publish(300).unwrap();
    wait_for("the hub did its worst", within(60), || {
        seen(&hub).then_some(())
    });
    assert_eq!(relay.backlog(), Some(300), "{name}: readings given up");
    assert_eq!(ledger.sums().at_hub, 0);
    hub.restart(Temper::Honest);
    let sums = ledger.settle(&name, within(60));
    assert_eq!(sums.at_hub, 300);
    relay.wait_drained(within(20));
}

/// A hub that keeps everything and behaves oddly: all readings are there in the end.
fn an_odd_hub_gets_everything(temper: Temper) {
    let ledger = Ledger::new(VILLAGE);
    let name = format!("{temper:?}");
    let hub = FakeHub::start(&ledger, temper);
    let mut relay = quick_relay(hub.address);
    relay.start();
    meter(&relay, &ledger, "meter").publish(300).unwrap();
    ledger.settle(&name, within(60));
    relay.wait_drained(within(60));
}

#[test]
fn a_hub_that_acknowledges_what_was_never_sent() {
    a_bad_hub_keeps_nothing(Temper::Lies, |hub| hub.connects() >= 3);
}

#[test]
fn a_hub_that_acknowledges_other_ids_than_it_got() {
    a_bad_hub_keeps_nothing(Temper::LiesInFlight, |hub| {
        hub.connects() >= 3 && hub.publishes() > 0
    });
}

#[test]
fn a_hub_that_stalls() {
    a_bad_hub_keeps_nothing(Temper::Stalls, |hub| {
        hub.connects() >= 2 && hub.publishes() > 0
    });
}

#[test]
fn a_hub_that_never_says_connack() {
    a_bad_hub_keeps_nothing(Temper::NeverConnacks, |hub| hub.connects() >= 2);
}

#[test]
fn a_hub_that_refuses_the_connection() {
    // MQTT 5: not authorised, server busy, banned.
    for code in [0x87, 0x89, 0x8a] {
        a_bad_hub_keeps_nothing(Temper::RefusesConnect(code), |hub| hub.connects() >= 3);
    }
}

#[test]
fn a_hub_that_closes_at_connect() {
    a_bad_hub_keeps_nothing(Temper::ClosesAtConnect, |hub| hub.connects() >= 3);
}

#[test]
fn a_hub_whose_quota_is_reached_refuses_no_single_reading() {
    a_bad_hub_keeps_nothing(Temper::RefusesAll(0x97), |hub| hub.publishes() >= 2);
}

#[test]
fn a_hub_that_vanishes_between_acknowledgements() {
    an_odd_hub_gets_everything(Temper::VanishesAfter(7));
}

#[test]
fn a_hub_that_acknowledges_backwards() {
    an_odd_hub_gets_everything(Temper::AcknowledgesBackwards);
}

#[test]
fn a_hub_that_claims_a_session_and_acknowledges_from_it() {
    let ledger = Ledger::new(VILLAGE);
    let hub = FakeHub::start(&ledger, Temper::ClaimsSession);
    let mut relay = quick_relay(hub.address);
    relay.start();
    meter(&relay, &ledger, "meter").publish(300).unwrap();
    wait_for("it came to the claim", within(30), || {
        (hub.connects() >= 2).then_some(())
    });
    hub.restart(Temper::Honest);
    ledger.settle("claims a session", within(60));
    relay.wait_drained(within(20));
}

#[test]
fn a_hub_that_acknowledges_twice_confirms_no_reading_it_never_got() {
    let ledger = Ledger::new(VILLAGE);
    let hub = FakeHub::start(&ledger, Temper::AcknowledgesTwice);
    let mut relay = quick_relay(hub.address);
    relay.start();
    meter(&relay, &ledger, "meter").publish(300).unwrap();
    wait_for("it came to the second", within(30), || {
        (hub.publishes() >= 1).then_some(())
    });
    hub.restart(Temper::Honest);
    ledger.settle("acknowledges twice", within(60));
    relay.wait_drained(within(20));
}

/// One reading of 200 that the hub never takes: the others cross, it is put aside and can be retried.
fn one_reading_is_never_taken(temper: impl Fn(String) -> Temper) {
    let ledger = Ledger::new(VILLAGE);
    let hub = FakeHub::start(&ledger, Temper::ClosesAtConnect);
    let mut relay = quick_relay(hub.address);
    relay.start();
    meter(&relay, &ledger, "meter").publish(200).unwrap();
    hub.restart(temper("#0:100;".to_owned()));
    wait_for("all but one are at the hub", within(90), || {
        (ledger.sums().at_hub == 199).then_some(())
    });
    relay.wait_drained(within(60));
    assert_eq!(
        ledger.missing(),
        [Key {
            meter: 0,
            number: 100
        }]
    );
    relay.kill();
    relay.start();
    relay.wait_ready(within(10));
    let listed = relay.cli(&["backlog", "refused"]);
    assert!(listed.status.success(), "{listed:?}");
    hub.restart(Temper::Honest);
    let retried = relay.cli(&["backlog", "retry", "--all"]);
    assert!(retried.status.success(), "{retried:?}");
    ledger.settle("one never taken", within(30));
}

#[test]
fn a_reading_that_the_hub_refuses_does_not_block_the_village() {
    one_reading_is_never_taken(|mark| Temper::Refuses(mark, 0x99));
}

#[test]
fn a_reading_at_which_the_hub_closes_does_not_block_the_village() {
    one_reading_is_never_taken(Temper::ClosesAt);
}

#[test]
fn a_hub_that_speaks_3_1_1_only() {
    let ledger = Ledger::new(VILLAGE).without_identities();
    let hub = FakeHub::start(&ledger, Temper::VanishesAfter(50));
    hub.only_v4();
    let mut relay = quick_relay(hub.address);
    relay.start();
    meter(&relay, &ledger, "meter").publish(300).unwrap();
    ledger.settle("3.1.1 only", within(60));
    assert!(ledger.epochs().is_empty(), "3.1.1 carries no identity");
}

#[test]
fn a_hub_with_a_receive_maximum_of_1() {
    let ledger = Ledger::new(VILLAGE);
    let hub = FakeHub::start(&ledger, Temper::Honest);
    hub.connack_properties(vec![(property::RECEIVE_MAXIMUM, Value::Number(1))]);
    let mut relay = quick_relay(hub.address);
    relay.start();
    meter(&relay, &ledger, "meter").publish(300).unwrap();
    ledger.settle("receive maximum 1", within(60));
    ledger.check_arrival_order();
}

#[test]
fn a_hub_that_restarts_with_its_sessions() {
    let ledger = Ledger::new(VILLAGE);
    let mut hub = Hub::start_with(
        "max_inflight_messages 0\npersistence true\npersistence_location {home}/\n",
    );
    let mut relay = quick_relay(hub.address);
    relay.start();
    let subscriber = Subscriber::start(hub.address, &ledger);
    let meters = (0..3).map(|n| {
        let mut meter = meter(&relay, &ledger, &format!("meter-{n}"));
        meter.habits.pause = Duration::from_millis(2);
        meter
    });
    let fleet = Fleet::start(meters.collect());
    for _ in 0..3 {
        ledger.wait_at_hub(ledger.sums().at_hub + 200, within(30));
        hub.stop();
        let more = ledger.sums().acknowledged + 100;
        wait_for("meters go on without a hub", within(20), || {
            (ledger.sums().acknowledged >= more).then_some(())
        });
        hub.run();
    }
    fleet.stop();
    ledger.settle("hub restarts", within(60));
    relay.wait_drained(within(20));
    drop(subscriber);
}

#[test]
fn a_hub_that_restarts_without_its_sessions() {
    // Not mosquitto: it would drop what no subscriber is there for, and that is the hub's own loss.
    let ledger = Ledger::new(VILLAGE);
    let hub = FakeHub::start(&ledger, Temper::Honest);
    let mut relay = quick_relay(hub.address);
    relay.start();
    let fleet = Fleet::start(vec![
        meter(&relay, &ledger, "a"),
        meter(&relay, &ledger, "b"),
    ]);
    for _ in 0..5 {
        ledger.wait_at_hub(ledger.sums().at_hub + 200, within(30));
        hub.restart(Temper::Honest);
    }
    fleet.stop();
    ledger.settle("without sessions", within(60));
}

/// The link is cut at random bytes of either direction.
fn cuts_at_any_byte(protocol: &str) {
    let mut random = StdRng::seed_from_u64(seed("cuts_at_any_byte"));
    let mut ledger = Ledger::new(VILLAGE);
    if protocol == "3.1.1" {
        ledger = ledger.without_identities();
    }
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let mut relay = quick_relay(uplink.address);
    relay.set("hub.protocol", protocol).start();
    for n in 0..3 {
        meter(&relay, &ledger, &format!("meter-{n}"))
            .publish(1000)
            .unwrap();
    }
    for round in 0..20 {
        if round % 2 == 0 {
            uplink.cut_after_to_hub(random.random_range(0..20_000));
        } else {
            uplink.cut_after_to_relay(random.random_range(0..200));
        }
        let before = uplink.connections();
        uplink.restore();
        wait_for("a cut or the end", within(30), || {
            let over = uplink.connections() > before || ledger.sums().missing == 0;
            over.then_some(())
        });
    }
    ledger.settle(&format!("cuts, {protocol}"), within(60));
    relay.wait_drained(within(20));
    if protocol == "5" {
        ledger.check_arrival_order();
    }
}

#[test]
fn a_link_cut_at_any_byte_mqtt_5() {
    cuts_at_any_byte("5");
}

#[test]
fn a_link_cut_at_any_byte_mqtt_3_1_1() {
    cuts_at_any_byte("3.1.1");
}

#[test]
fn a_reading_travels_with_its_properties_and_its_identity_last() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let arrivals: Arc<Mutex<Vec<Publish>>> = Arc::default();
    let sink = Arc::clone(&arrivals);
    let subscriber = Subscriber::start_with(hub.address, "villages/#", move |publish| {
        sink.lock().unwrap().push(publish);
    });
    let mut relay = quick_relay(hub.address);
    relay.start();
    let bytes = payload(
        Key {
            meter: ledger.meter("zähler/五/α"),
            number: 1,
        },
        500,
    );
    let mut publish = Publish::new("zähler/五/α", bytes.clone(), 9);
    publish.retain = true;
    let pair = |name: &str, value: &str| (property::USER, Value::Pair(name.into(), value.into()));
    let own = vec![
        (property::PAYLOAD_FORMAT, Value::Number(0)),
        (
            property::CONTENT_TYPE,
            Value::Bytes(b"application/octet-stream".to_vec()),
        ),
        (
            property::RESPONSE_TOPIC,
            Value::Bytes(b"answers/here".to_vec()),
        ),
        (property::CORRELATION_DATA, Value::Bytes(vec![0, 255, 7])),
        pair("id", "the meter's own"),
        pair("unit", "Wh"),
    ];
    publish.properties.clone_from(&own);
    let connect = Connect::new(Version::V5, "meter");
    let (mut raw, _, _) = Raw::connect(relay.mqtt, &connect).unwrap();
    raw.send(&publish.encode(Version::V5)).unwrap();
    raw.receive_kind(kind::PUBACK).unwrap();

    let arrived = wait_for("the reading", within(10), || arrivals.lock().unwrap().pop());
    assert_eq!(arrived.topic, format!("villages/{VILLAGE}/zähler/五/α"));
    assert_eq!(arrived.payload, bytes);
    for property in own
        .iter()
        .filter(|(id, value)| *id != 1 || *value != Value::Number(0))
    {
        assert!(
            arrived.properties.contains(property),
            "{property:?} in {:?}",
            arrived.properties
        );
    }
    let users: Vec<&str> = arrived.properties.iter().filter_map(user_name).collect();
    assert!(
        matches!(
            users[..],
            ["id", "unit", "id", "at"] | ["id", "unit", "clock", "id", "at"]
        ),
        "{users:?}"
    );
    let at: u128 = arrived.user_property("at").unwrap().parse().unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis();
    assert!(now - 60_000 < at && at <= now, "at {at}, now {now}");

    // The retain flag travelled: a later subscriber gets it.
    drop(subscriber);
    let sink = Arc::clone(&arrivals);
    let _later = Subscriber::start_with(hub.address, "villages/#", move |publish| {
        sink.lock().unwrap().push(publish);
    });
    let retained = wait_for("the retained reading", within(10), || {
        arrivals.lock().unwrap().pop()
    });
    assert!(retained.retain);
}

fn user_name((_, value): &(u8, Value)) -> Option<&str> {
    match value {
        Value::Pair(name, _) => Some(name),
        _ => None,
    }
}
