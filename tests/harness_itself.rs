//! The harness, tried against mosquitto: what it says of the relay rests on this.

use std::time::{Duration, Instant};

use harness::ledger::{Key, payload, read_tag};
use harness::meter::Habits;
use harness::packet::{Publish, Version};
use harness::{Disk, FakeHub, Fleet, Hub, Ledger, Meter, Proxy, Subscriber, Temper, skip, within};

fn subscriber_of_meters(hub: &Hub, ledger: &Ledger) -> Subscriber {
    let ledger = ledger.clone();
    Subscriber::start_with(hub.address, "meters/#", move |publish| {
        ledger.arrived(&publish);
    })
}

#[test]
fn a_meter_and_a_subscriber_agree_through_mosquitto() {
    let hub = Hub::start();
    let ledger = Ledger::with_prefix("");
    let _subscriber = subscriber_of_meters(&hub, &ledger);
    for (number, version) in [Version::V4, Version::V5].into_iter().enumerate() {
        let mut habits = Habits::new(hub.address);
        habits.version = version;
        let mut meter = Meter::new(&ledger, &format!("meter-{number}"), habits);
        meter.publish(500).unwrap();
        meter.habits.size = 100_000;
        meter.publish(10).unwrap();
    }
    let sums = ledger.settle("mosquitto", within(10));
    assert_eq!(
        (sums.acknowledged, sums.at_hub, sums.duplicates),
        (1020, 1020, 0)
    );
}

#[test]
fn the_ledger_sees_loss_change_and_a_stolen_identity() {
    let ledger = Ledger::with_prefix("v/");
    let meter = ledger.meter("meters/a");
    let key = |number| Key { meter, number };
    let reading = |number| payload(key(number), 50);
    for number in 1..=3 {
        ledger.sending(key(number), &reading(number));
        ledger.acknowledged(key(number));
    }
    let mut arrival = Publish::new("v/meters/a", reading(1), 1);
    ledger.arrived(&arrival);
    ledger.check();
    assert_eq!(ledger.sums().missing, 2);
    assert_eq!(ledger.missing(), [key(2), key(3)]);
    assert!(std::panic::catch_unwind(|| ledger.settle("loss", Duration::ZERO)).is_err());

    let identity = |text: &str| (0x26, harness::packet::Value::Pair("id".into(), text.into()));
    arrival.properties = vec![identity("0000002a/7")];
    ledger.arrived(&arrival);
    let mut other = Publish::new("v/meters/a", reading(2), 1);
    other.properties = vec![identity("0000002a/7")];
    ledger.arrived(&other);
    assert!(
        std::panic::catch_unwind(|| ledger.check()).is_err(),
        "one identity, two readings"
    );

    let changed = Ledger::with_prefix("v/");
    let meter = changed.meter("meters/a");
    changed.sending(Key { meter, number: 1 }, &reading(1));
    let mut bytes = reading(1);
    bytes[30] ^= 1;
    changed.arrived(&Publish::new("v/meters/a", bytes, 1));
    assert!(
        std::panic::catch_unwind(|| changed.check()).is_err(),
        "a changed payload"
    );
}

#[test]
fn payloads_tell_their_key() {
    let key = Key {
        meter: 17,
        number: 123_456,
    };
    for size in [1, 20, 200, 262_000] {
        let bytes = payload(key, size);
        assert_eq!(read_tag(&bytes), Some(key));
        assert!(bytes.len() == size || size < 12);
    }
    assert_eq!(read_tag(b"something else;"), None);
    assert_eq!(read_tag(b""), None);
}

#[test]
fn meters_live_through_cuts_of_the_link() {
    let hub = Hub::start();
    let proxy = Proxy::start(hub.address);
    let ledger = Ledger::with_prefix("");
    let _subscriber = subscriber_of_meters(&hub, &ledger);
    let meters = (0..3).map(|n| {
        let mut habits = Habits::new(proxy.address);
        habits.pause = Duration::from_millis(1);
        Meter::new(&ledger, &format!("meter-{n}"), habits)
    });
    let fleet = Fleet::start(meters.collect());
    for round in 1..=5 {
        ledger.wait_at_hub(ledger.sums().at_hub + 50, within(10));
        proxy.cut_after_to_hub(1234 * round);
        ledger.wait_at_hub(ledger.sums().at_hub + 50, within(10));
        proxy.cut();
        proxy.restore();
    }
    fleet.stop();
    let sums = ledger.settle("cuts", within(10));
    assert!(
        proxy.connections() > 10,
        "{} connections",
        proxy.connections()
    );
    assert_eq!(sums.acknowledged, sums.published);
}

#[test]
fn a_thin_link_is_as_slow_as_it_says() {
    let hub = Hub::start();
    let proxy = Proxy::start(hub.address);
    proxy.shape(Duration::from_millis(100), 32_000);
    let ledger = Ledger::with_prefix("");
    let mut habits = Habits::new(proxy.address);
    habits.in_flight = 1000;
    let mut meter = Meter::new(&ledger, "meter", habits);
    let start = Instant::now();
    meter.connect().unwrap();
    let round_trip = start.elapsed().as_secs_f64();
    assert!(
        (0.2..0.4).contains(&round_trip),
        "connected in {round_trip} s"
    );
    let start = Instant::now();
    meter.publish(300).unwrap();
    let rate = proxy.bytes_to_hub() as f64 / (start.elapsed().as_secs_f64() - 0.2);
    assert!((25_000.0..34_000.0).contains(&rate), "{rate} bytes/s");
}

#[test]
fn a_lying_hub_costs_readings_that_the_ledger_misses() {
    let ledger = Ledger::with_prefix("");
    let hub = FakeHub::start(&ledger, Temper::Honest);
    let mut habits = Habits::new(hub.address);
    habits.patience = Duration::from_millis(300);
    let mut meter = Meter::new(&ledger, "meter", habits);
    meter.publish(100).unwrap();
    ledger.settle("honest", within(1));
    hub.restart(Temper::VanishesAfter(10));
    // The meter may first find out that the connection of before has ended.
    let fails = |meter: &mut Meter, connects| {
        harness::wait_for("a failure on a new connection", within(10), || {
            (meter.publish(20).is_err() && hub.connects() >= connects).then_some(())
        });
    };
    fails(&mut meter, 2);
    assert!(ledger.sums().at_hub > ledger.sums().acknowledged);
    hub.restart(Temper::Stalls);
    fails(&mut meter, 3);
    hub.restart(Temper::AcknowledgesBackwards);
    harness::wait_for("acknowledgements", within(10), || meter.publish(20).ok());
    let in_flight = std::panic::catch_unwind(|| ledger.check());
    assert!(
        in_flight.is_err(),
        "acknowledgements out of order are noticed"
    );
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_no_more() {
    let mut disk = match Disk::new(64) {
        Ok(disk) => disk,
        Err(reason) => return skip("a_power_cut_keeps_what_was_synced_and_no_more", &reason),
    };
    let synced = disk.mount_point().join("synced");
    for round in 0..3_u8 {
        std::fs::write(&synced, vec![round; 10_000]).unwrap();
        std::fs::File::open(&synced).unwrap().sync_all().unwrap();
        std::fs::File::open(disk.mount_point())
            .unwrap()
            .sync_all()
            .unwrap();
        disk.cut(None);
        assert_eq!(std::fs::read(&synced).unwrap(), vec![round; 10_000]);
    }
    disk.fill(1 << 20);
    assert!(disk.free_bytes() <= 2 << 20, "{}", disk.free_bytes());
    disk.relieve();
    assert!(disk.free_bytes() > 8 << 20, "{}", disk.free_bytes());
}
