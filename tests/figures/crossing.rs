//! From the village to the hub: over loopback, over a thin link, over one that comes and goes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use harness::ledger::{Ledger, Sums};
use harness::meter::Habits;
use harness::{Hub, Meter, Proxy, Subscriber, VILLAGE, setting, wait_for, within};

use crate::contender::{Contender, mosquitto_bridge, per_second, relay};

/// Who is measured: made with the address of its hub.
type Make = fn(SocketAddr) -> Box<dyn Contender>;

const BOTH: [Make; 2] = [
    |hub| Box::new(relay(hub)),
    |hub| Box::new(mosquitto_bridge(hub)),
];

fn fill(contender: &dyn Contender, ledger: &Ledger, readings: u64) {
    let meters: Vec<_> = (0..10)
        .map(|n| {
            let mut habits = Habits::new(contender.broker());
            habits.in_flight = 50;
            let mut meter = Meter::new(ledger, &format!("meter-{n}"), habits);
            std::thread::spawn(move || meter.publish(readings / 10).unwrap())
        })
        .collect();
    for meter in meters {
        meter.join().unwrap();
    }
}

/// From the first arrival to the last one.
fn time_of_arrival(ledger: &Ledger, readings: u64, deadline: Duration) -> (Duration, Sums) {
    wait_for("a first arrival", within(90), || {
        (ledger.sums().at_hub > 0).then_some(())
    });
    let start = Instant::now();
    let already = ledger.sums().at_hub;
    ledger.wait_at_hub(readings, deadline);
    let share = readings as f64 / (readings - already).max(1) as f64;
    (start.elapsed().mul_f64(share), ledger.sums())
}

/// Over loopback to a hub without limits, ROUNDS times each in turn.
pub(crate) fn drain() {
    let readings = setting("READINGS", 100_000);
    println!(
        "{readings} readings of 200 bytes, hub: mosquitto with max_inflight_messages 0, loopback"
    );
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..setting("ROUNDS", 3) {
        for (make, times) in BOTH.iter().zip(&mut times) {
            let mut hub = Hub::start_with(
                "max_inflight_messages 0\npersistence true\npersistence_location {home}/\n",
            );
            let ledger = Ledger::new(VILLAGE);
            let _subscriber = Subscriber::start(hub.address, &ledger);
            // The hub is away while the backlog grows; its subscriber's session outlives that.
            hub.stop();
            let contender = make(hub.address);
            fill(contender.as_ref(), &ledger, readings);
            hub.run();
            let (time, sums) = time_of_arrival(&ledger, readings, within(120));
            println!(
                "{}: {} ({sums})",
                contender.name(),
                per_second(readings, time)
            );
            times.push(time.as_secs_f64());
        }
    }
    let [relay, mosquitto] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!("relay / mosquitto bridge: {:.2}", mosquitto / relay);
}

/// Through 256 kbit/s and 600 ms to a hub with mosquitto's default receive maximum of 20.
pub(crate) fn thin() {
    const BYTES_PER_S: u64 = 256_000 / 8;
    let readings = setting("READINGS", 1_500);
    println!("{readings} readings of 200 bytes through 256 kbit/s and 600 ms, receive maximum 20");
    let mut bytes_a_reading = Vec::new();
    for make in BOTH {
        let hub = Hub::start_with("");
        let ledger = Ledger::new(VILLAGE);
        let _subscriber = Subscriber::start(hub.address, &ledger);
        let uplink = Proxy::start(hub.address);
        uplink.shape(Duration::from_millis(300), BYTES_PER_S);
        uplink.cut();
        let contender = make(uplink.address);
        fill(contender.as_ref(), &ledger, readings);
        let bytes_before = uplink.bytes_to_hub();
        uplink.restore();
        wait_for("a first arrival", within(90), || {
            (ledger.sums().at_hub > 0).then_some(())
        });
        let (start, bytes_at_start) = (Instant::now(), uplink.bytes_to_hub());
        ledger.wait_at_hub(readings, within(600));
        let rate = (uplink.bytes_to_hub() - bytes_at_start) as f64 / start.elapsed().as_secs_f64();
        let each = (uplink.bytes_to_hub() - bytes_before) as f64 / readings as f64;
        println!(
            "{}: {:.1} % of the link, {each:.1} bytes up a reading, {:.1} s ({})",
            contender.name(),
            100.0 * rate / BYTES_PER_S as f64,
            start.elapsed().as_secs_f64(),
            ledger.sums()
        );
        bytes_a_reading.push(each);
    }
    println!(
        "bytes a reading, relay / mosquitto bridge: {:.2}",
        bytes_a_reading[0] / bytes_a_reading[1]
    );
}

/// Up 2 s, down 1 s, 2 Mbit/s and 200 ms.
pub(crate) fn flap() {
    let readings = setting("READINGS", 20_000);
    println!("{readings} readings of 200 bytes, link up 2 s and down 1 s, 2 Mbit/s, 200 ms");
    for make in BOTH {
        let hub = Hub::start();
        let ledger = Ledger::new(VILLAGE);
        let _subscriber = Subscriber::start(hub.address, &ledger);
        let uplink = Proxy::start(hub.address);
        uplink.shape(Duration::from_millis(100), 2_000_000 / 8);
        uplink.cut();
        let contender = make(uplink.address);
        fill(contender.as_ref(), &ledger, readings);
        uplink.restore();
        let start = Instant::now();
        let _flapping = uplink.flap(within(2), within(1));
        ledger.wait_at_hub(readings, within(300));
        let sums = ledger.sums();
        println!(
            "{}: {:.1} s, {} duplicates ({:.1} %), {} bytes up",
            contender.name(),
            start.elapsed().as_secs_f64(),
            sums.duplicates,
            100.0 * sums.duplicates as f64 / readings as f64,
            uplink.bytes_to_hub()
        );
    }
}
