//! Promise 2: on a full disk or a reached quota there is no acknowledgement, an alarm comes before, and
//! when there is space again the relay goes on without a restart.

use std::time::Duration;

use harness::meter::Habits;
use harness::packet::{Connect, Publish, Version, kind};
use harness::{Disk, Hub, Ledger, Meter, Proxy, Raw, Relay, Subscriber, VILLAGE};
use harness::{skip, wait_for, within};

/// Publishes until the relay takes no more. Readings that were not acknowledged stay with the meter.
fn publish_until_refused(meter: &mut Meter, readings_max: u64) {
    meter.habits.patience = Duration::from_secs(3);
    let start = meter.made();
    loop {
        if let Err(error) = meter.publish(50) {
            eprintln!(
                "no acknowledgement after {} readings: {error}",
                meter.made() - start
            );
            return;
        }
        assert!(
            meter.made() - start < readings_max,
            "{readings_max} readings and never full"
        );
    }
}

/// While it is full: nothing is acknowledged, however often the meters come back.
fn assert_nothing_is_acknowledged(relay: &Relay, meter: &mut Meter, ledger: &Ledger) {
    wait_for("the relay says that it is not ready", within(20), || {
        (relay.get("/readyz").ok()?.0 == 503).then_some(())
    });
    let before = ledger.sums().acknowledged;
    for _ in 0..3 {
        assert!(meter.publish(1).is_err(), "acknowledged while full");
    }
    assert_eq!(ledger.sums().acknowledged, before);
}

/// With space again: the same meter gets everything acknowledged.
fn goes_on(relay: &Relay, meter: &mut Meter) {
    relay.wait_ready(within(60));
    wait_for("the meter's readings are taken", within(60), || {
        meter.publish(1).ok()
    });
}

#[test]
fn a_full_disk_is_never_acknowledged_and_recovers() {
    let test = "a_full_disk_is_never_acknowledged_and_recovers";
    let disk = match Disk::new(128) {
        Ok(disk) => disk,
        Err(reason) => return skip(test, &reason),
    };
    for version in [Version::V4, Version::V5] {
        let ledger = Ledger::new(VILLAGE);
        let hub = Hub::start();
        let _subscriber = Subscriber::start(hub.address, &ledger);
        let uplink = Proxy::start(hub.address);
        uplink.cut();
        let mut relay = Relay::new(uplink.address);
        let data = disk.mount_point().join(format!("{version:?}"));
        relay.set("data_dir", data.to_str().unwrap());
        relay
            .set("backlog.disk_free_min", "0 B")
            .set("backlog.hold_max", "500ms");
        relay.set("hub.retry_max", "1s").start();
        let mut habits = Habits::new(relay.mqtt);
        habits.version = version;
        habits.size = 5_000;
        let mut meter = Meter::new(&ledger, "meter", habits);
        meter.publish(100).unwrap();
        for _ in 0..2 {
            disk.fill(6 << 20);
            publish_until_refused(&mut meter, 20_000);
            assert_nothing_is_acknowledged(&relay, &mut meter, &ledger);
            disk.relieve();
            goes_on(&relay, &mut meter);
        }
        // What was acknowledged lives through a restart, and all of it is at the hub in the end.
        relay.kill();
        relay.start();
        uplink.restore();
        ledger.settle(test, within(60));
        relay.stop();
        std::fs::remove_dir_all(data).unwrap();
    }
}

#[test]
fn little_disk_space_is_a_limit_before_the_disk_is_full() {
    let test = "little_disk_space_is_a_limit_before_the_disk_is_full";
    let disk = match Disk::new(128) {
        Ok(disk) => disk,
        Err(reason) => return skip(test, &reason),
    };
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let mut relay = Relay::new(hub.address);
    relay.set(
        "data_dir",
        disk.mount_point().join("data").to_str().unwrap(),
    );
    relay
        .set("backlog.disk_free_min", "32 MiB")
        .set("backlog.hold_max", "500ms")
        .start();
    let mut meter = Meter::new(&ledger, "meter", Habits::new(relay.mqtt));
    meter.publish(100).unwrap();
    disk.fill(8 << 20);
    publish_until_refused(&mut meter, 20_000);
    assert_nothing_is_acknowledged(&relay, &mut meter, &ledger);
    assert!(
        disk.free_bytes() > 4 << 20,
        "{} bytes free",
        disk.free_bytes()
    );
    disk.relieve();
    goes_on(&relay, &mut meter);
    ledger.settle(test, within(30));
    relay.kill();
}

#[test]
fn a_reached_quota_is_never_acknowledged_and_nothing_is_evicted() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let mut relay = Relay::new(uplink.address);
    relay
        .set("backlog.bytes_max", "4 MiB")
        .set("backlog.hold_max", "500ms");
    relay.set("hub.retry_max", "1s").start();
    let mut habits = Habits::new(relay.mqtt);
    habits.size = 2_000;
    let mut meter = Meter::new(&ledger, "meter", habits);
    publish_until_refused(&mut meter, 20_000);
    assert_nothing_is_acknowledged(&relay, &mut meter, &ledger);
    let kept = ledger.sums().acknowledged * 2_000;
    assert!(
        (3 << 20..5 << 20).contains(&kept),
        "{kept} bytes kept of 4 MiB"
    );

    // A limit that can never be kept open: MQTT 5 is told why, and never told to forget the reading.
    let connect = Connect::new(Version::V5, "five");
    let (mut five, _, _) = Raw::connect(relay.mqtt, &connect).unwrap();
    five.send(&Publish::new("meters/five", "x", 1).encode(Version::V5))
        .unwrap();
    let said = five.until_closed(within(10)).unwrap();
    assert!(
        said.iter().all(|packet| packet.kind() != kind::PUBACK),
        "{said:02x?}"
    );
    let last = said.last().expect("a DISCONNECT");
    assert_eq!(
        (last.kind(), last.body.first()),
        (kind::DISCONNECT, Some(&0x97)),
        "{said:02x?}"
    );

    // Still full after a restart.
    relay.kill();
    relay.start();
    assert_nothing_is_acknowledged(&relay, &mut meter, &ledger);
    uplink.restore();
    goes_on(&relay, &mut meter);
    ledger.settle("quota", within(30));
}
