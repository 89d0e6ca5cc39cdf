//! Clocks that are stepped, start in 1970, or change to summer time at two in the morning.

use std::sync::{Arc, Mutex};

use harness::ledger::{Key, payload};
use harness::meter::Habits;
use harness::packet::Publish;
use harness::{Clock, Hub, Ledger, Meter, Proxy, Relay, Subscriber, VILLAGE};
use harness::{skip, wait_for, within};
use serde_json::Value;

/// 2026-03-28T00:59:50Z: ten seconds before two o'clock in Douala.
const BEFORE_TWO: i64 = 1_774_659_590;

/// A relay under `clock`, which it trusts.
fn village(clock: &Clock, time_zone: &str, hub: std::net::SocketAddr) -> Relay {
    let mut relay = Relay::new(hub);
    relay
        .set("drain.time_zone", time_zone)
        .set("drain.stagger", "0s");
    relay
        .set("clock.trust", "always")
        .set("hub.retry_max", "1s");
    clock.rule(&mut relay);
    relay
}

/// The last recorded drain, once it is over.
fn last_drain(relay: &Relay) -> Value {
    relay.status()["drain"]["last"].clone()
}

/// Waits for a drain that is not `before`.
fn wait_drain(relay: &Relay, before: &Value) -> Value {
    let status = relay.wait_status("a new drain is recorded", within(30), |status| {
        let last = &status["drain"]["last"];
        !last.is_null() && last != before && last["outcome"].is_string()
    });
    status["drain"]["last"].clone()
}

/// A drain of the past may be made up for at the start: it is over before the test begins.
fn settle_at_start(relay: &Relay) -> Value {
    relay.wait_status(
        "it is connected, with nothing to do",
        within(30),
        |status| status["uplink"]["state"] == "connected",
    );
    last_drain(relay)
}

fn clock_or_skip(test: &str, unix_s: i64) -> Option<Clock> {
    Clock::showing(unix_s)
        .map_err(|reason| skip(test, &reason))
        .ok()
}

#[test]
fn at_two_in_the_morning_of_the_village_the_backlog_is_drained() {
    let test = "at_two_in_the_morning_of_the_village_the_backlog_is_drained";
    let Some(clock) = clock_or_skip(test, BEFORE_TWO) else {
        return;
    };
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    let mut relay = village(&clock, "Africa/Douala", uplink.address);
    relay.start();
    let before = settle_at_start(&relay);
    uplink.cut();
    Meter::new(&ledger, "meter", Habits::new(relay.mqtt))
        .publish(100)
        .unwrap();
    clock.set(BEFORE_TWO + 11);
    relay.wait_status("the drain begins", within(20), |status| {
        status["drain"] != before && status["drain"]["running"] != Value::Null
    });
    uplink.restore();
    let drain = wait_drain(&relay, &before);
    println!("{drain:#}");
    ledger.settle(test, within(10));
}

#[test]
fn a_two_o_clock_that_summer_time_skips_is_made_up_for_and_one_that_comes_twice_runs_once() {
    let test = "a_two_o_clock_that_summer_time_skips";
    // 2026-03-29 in Berlin: after 01:59:59 comes 03:00:00, at 01:00:00Z.
    let spring = 1_774_746_000;
    let Some(clock) = clock_or_skip(test, spring - 20) else {
        return;
    };
    let hub = Hub::start();
    let mut relay = village(&clock, "Europe/Berlin", hub.address);
    relay.start();
    let before = settle_at_start(&relay);
    clock.set(spring + 5);
    let skipped = wait_drain(&relay, &before);
    println!("{skipped:#}");

    // 2026-10-25 in Berlin: 02:00:00 comes at 00:00:00Z and again at 01:00:00Z.
    let autumn = 1_792_886_400;
    relay.kill();
    clock.set(autumn - 20);
    relay.start();
    let before = settle_at_start(&relay);
    clock.set(autumn + 5);
    let first = wait_drain(&relay, &before);
    clock.set(autumn + 3600 - 5);
    clock.set(autumn + 3600 + 5);
    // The next one is a night later, whatever the clock says now.
    relay.wait_status("the next drain is tomorrow's", within(10), |status| {
        status["drain"]["next"].to_string().contains("2026-10-26")
    });
    assert_eq!(last_drain(&relay), first);
}

#[test]
fn steps_of_the_clock_lose_nothing_and_keep_the_order() {
    let test = "steps_of_the_clock_lose_nothing_and_keep_the_order";
    let Some(clock) = clock_or_skip(test, BEFORE_TWO) else {
        return;
    };
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    let mut relay = village(&clock, "Africa/Douala", uplink.address);
    relay.start();
    let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
    let day = 86_400;
    for step in [0, day, -day, 400 * day, -BEFORE_TWO, 20 * 365 * day, 0] {
        clock.set(BEFORE_TWO + step);
        uplink.cut();
        meter.publish(50).unwrap();
        uplink.restore();
        ledger.wait_at_hub(ledger.sums().acknowledged, within(20));
    }
    clock.set(BEFORE_TWO - 30 * day);
    relay.kill();
    relay.start();
    wait_for("it takes readings", within(10), || meter.publish(1).ok());
    meter.publish(50).unwrap();
    ledger.settle(test, within(20));
    ledger.check_arrival_order();
    assert_eq!(ledger.epochs().len(), 1, "a clock step is no new store");
}

#[test]
fn readings_of_1970_are_marked() {
    let test = "readings_of_1970_are_marked";
    let Some(clock) = clock_or_skip(test, 1000) else {
        return;
    };
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let arrivals: Arc<Mutex<Vec<Publish>>> = Arc::default();
    let sink = Arc::clone(&arrivals);
    let _subscriber = Subscriber::start_with(hub.address, "villages/#", move |publish| {
        sink.lock().unwrap().push(publish);
    });
    let mut relay = village(&clock, "Africa/Douala", hub.address);
    relay.set("clock.trust", "never").start();
    let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
    meter.publish(1).unwrap();
    let publish = wait_for("the reading", within(10), || arrivals.lock().unwrap().pop());
    assert_eq!(publish.user_property("clock"), Some("unsynchronised"));
    let at: i64 = publish.user_property("at").unwrap().parse().unwrap();
    assert!((1_000_000..1_200_000).contains(&at), "{at}");
    assert_eq!(
        publish.payload,
        payload(
            Key {
                meter: 0,
                number: 1
            },
            200
        )
    );
}
