//! Promise 7: memory does not grow with the backlog, and start-up time hardly does.
//!
//! `RELAY_TEST_BACKLOG` (100,000) is how many readings wait.

use std::time::Instant;

use harness::meter::Habits;
use harness::{Hub, Ledger, Meter, Proxy, Relay, Subscriber, VILLAGE};
use harness::{setting, wait_for, within};

#[test]
fn memory_and_start_up_do_not_grow_with_the_backlog() {
    let readings = setting("RELAY_TEST_BACKLOG", 100_000);
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let mut relay = Relay::new(uplink.address);
    relay
        .set("hub.retry_max", "1s")
        .set("backlog.segment_bytes", "2 MiB")
        .start();
    let mut habits = Habits::new(relay.mqtt);
    habits.in_flight = 200;
    let mut meter = Meter::new(&ledger, "meter", habits);
    meter.publish(readings / 5).unwrap();
    let early_kib = relay.memory_kib("VmHWM");
    meter.publish(readings - readings / 5).unwrap();
    let full_kib = relay.memory_kib("VmHWM");

    relay.kill();
    let start = Instant::now();
    relay.start();
    wait_for("a first acknowledgement", within(20), || {
        meter.publish(1).ok()
    });
    let restart = start.elapsed();
    uplink.restore();
    ledger.settle("drain", within(120));
    relay.wait_drained(within(20));
    let drained_kib = relay.memory_kib("VmHWM");

    println!(
        "{readings} readings: peak {early_kib} KiB after a fifth, {full_kib} KiB full, \
         {drained_kib} KiB drained; first acknowledgement {restart:?} after kill -9"
    );
    // Four fifths of the readings are 16 MB of payload and more: none of that may stay in memory.
    assert!(
        full_kib < early_kib + 12_000,
        "{early_kib} KiB, then {full_kib} KiB"
    );
    assert!(
        full_kib.max(drained_kib) < 80_000,
        "{full_kib} KiB, {drained_kib} KiB"
    );
    assert!(restart < within(5), "{restart:?}");
}
