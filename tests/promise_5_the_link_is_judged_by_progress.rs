//! Promise 5: a connection that is up and moves nothing is torn down, and a link that comes and goes is
//! used while it is there.

use std::time::{Duration, Instant};

use harness::meter::Habits;
use harness::{Hub, Ledger, Meter, Proxy, Relay, Subscriber, VILLAGE};
use harness::{wait_for, within};
use nix::sys::signal::Signal;

fn quick_relay(hub: std::net::SocketAddr) -> Relay {
    let mut relay = Relay::new(hub);
    relay
        .set("hub.retry_first", "50ms")
        .set("hub.retry_max", "1s");
    relay
        .set("hub.progress_timeout", "2s")
        .set("hub.connect_timeout", "2s");
    relay
}

#[test]
fn a_silent_link_is_torn_down() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    let mut relay = quick_relay(uplink.address);
    relay.start();
    let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
    meter.publish(100).unwrap();
    ledger.settle("before the silence", within(20));
    let before = uplink.connections();
    uplink.silence(true);
    meter.publish(100).unwrap();
    // TCP is up all the while: only the missing progress tells.
    wait_for("a new connection", within(15), || {
        (uplink.connections() > before).then_some(())
    });
    uplink.silence(false);
    ledger.settle("after the silence", within(20));
    relay.wait_drained(within(20));
}

#[test]
fn a_hub_that_hangs_is_torn_down_and_served_when_it_is_back() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let mut relay = quick_relay(hub.address);
    relay.start();
    let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
    meter.publish(10).unwrap();
    ledger.settle("before it hangs", within(20));
    hub.signal(Signal::SIGSTOP);
    meter.publish(100).unwrap();
    relay.wait_status("it is backing off", within(15), |status| {
        status["uplink"]["state"] == "backing_off"
    });
    assert_eq!(relay.backlog(), Some(100));
    hub.signal(Signal::SIGCONT);
    ledger.settle("it is back", within(20));
    relay.wait_drained(within(20));
}

#[test]
fn an_idle_connection_is_no_reason_to_tear_it_down() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    let mut relay = quick_relay(uplink.address);
    relay.set("hub.progress_timeout", "1s").start();
    let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
    meter.publish(10).unwrap();
    relay.wait_drained(within(20));
    let before = uplink.connections();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        assert_eq!(relay.status()["uplink"]["state"], "connected");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(uplink.connections(), before);
}

#[test]
fn a_link_that_is_up_2_s_and_down_1_s_is_used() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.shape(Duration::from_millis(100), 250_000);
    uplink.cut();
    let mut relay = Relay::new(uplink.address);
    relay.start();
    Meter::new(&ledger, "meter", Habits::new(relay.mqtt))
        .publish(4000)
        .unwrap();
    uplink.restore();
    let start = Instant::now();
    let flapping = uplink.flap(Duration::from_secs(2), Duration::from_secs(1));
    // 4,000 readings are about 1 MB: 4 s of a link that is always up, 6 s of this one.
    let sums = ledger.settle("up 2 s, down 1 s", within(40));
    println!(
        "{:.1} s, {} duplicates",
        start.elapsed().as_secs_f64(),
        sums.duplicates
    );
    drop(flapping);
    relay.wait_drained(within(20));
}
