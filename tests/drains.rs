//! Drains: asked for over the admin API and the command line, one at a time, recorded.

use std::time::Duration;

use harness::meter::Habits;
use harness::{Hub, Ledger, Meter, Proxy, Relay, Subscriber, VILLAGE, within};

fn relay_with_backlog(uplink: &Proxy, ledger: &Ledger, readings: u64) -> Relay {
    let mut relay = Relay::new(uplink.address);
    relay
        .set("hub.retry_first", "50ms")
        .set("hub.retry_max", "1s");
    relay
        .set("hub.connect_timeout", "1s")
        .set("hub.progress_timeout", "1s");
    relay
        .set("drain.attempt_timeout", "1s")
        .set("drain.attempt_wait", "100ms");
    relay.start();
    Meter::new(ledger, "meter", Habits::new(relay.mqtt))
        .publish(readings)
        .unwrap();
    relay
}

#[test]
fn a_drain_that_is_asked_for_empties_the_backlog_and_is_recorded() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let relay = relay_with_backlog(&uplink, &ledger, 500);
    uplink.restore();
    let (code, text) = relay.post("/drain").unwrap();
    assert!((200..300).contains(&code), "{code} {text}");
    ledger.settle("drain", within(20));
    let status = relay.wait_status("the drain is recorded", within(20), |status| {
        status["drain"]["last"]["outcome"].is_string()
    });
    println!("{:#}", status["drain"]);
    assert_eq!(relay.backlog(), Some(0));
}

#[test]
fn the_command_waits_and_ends_with_0() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let relay = relay_with_backlog(&uplink, &ledger, 500);
    uplink.restore();
    let output = relay.cli(&["drain"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(relay.backlog(), Some(0));
    let url = format!("http://{}", relay.admin);
    let output = relay.cli(&["drain", "--admin", &url]);
    assert_eq!(
        output.status.code(),
        Some(0),
        "an empty backlog drains at once: {output:?}"
    );
    ledger.settle("drain command", within(10));
}

#[test]
fn a_drain_without_a_hub_fails_and_the_command_ends_with_1() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let relay = relay_with_backlog(&uplink, &ledger, 50);
    let output = relay.cli(&["drain"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(relay.backlog(), Some(50));
    uplink.restore();
    ledger.settle("forwarding goes on after a failed drain", within(20));
}

#[test]
fn ending_the_command_does_not_stop_the_drain() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let relay = relay_with_backlog(&uplink, &ledger, 500);
    let mut first = relay.command(&["drain"]).spawn().unwrap();
    relay.wait_status("a drain runs", within(10), |status| {
        status["uplink"]["state"] != "connected"
    });
    let mut second = relay.command(&["drain"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    first.kill().unwrap();
    first.wait().unwrap();
    uplink.restore();
    let status = second.wait().unwrap();
    assert_eq!(status.code(), Some(0), "the second joined the first");
    ledger.settle("joined drain", within(20));
}

#[test]
fn the_drain_command_without_a_relay_ends_with_1() {
    let relay = Relay::new(harness::port::free());
    relay.write_config();
    assert_eq!(relay.cli(&["drain"]).status.code(), Some(1));
}
