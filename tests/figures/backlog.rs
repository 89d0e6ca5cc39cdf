//! A long outage: memory, restart and disk with a large backlog.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use harness::meter::Habits;
use harness::{Hub, Ledger, Meter, Proxy, Subscriber, VILLAGE, setting, within};

use crate::contender::{Contender, mosquitto_bridge, relay};

pub(crate) fn measure() {
    let readings = setting("READINGS", 1_000_000);
    println!("{readings} readings of 200 bytes wait");
    measure_one(readings, |hub| Box::new(relay(hub)));
    if setting("MOSQUITTO", 0) == 1 {
        measure_one(readings, |hub| Box::new(mosquitto_bridge(hub)));
    }
}

fn measure_one(readings: u64, make: fn(std::net::SocketAddr) -> Box<dyn Contender>) {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let uplink = Proxy::start(hub.address);
    uplink.cut();
    let mut contender = make(uplink.address);
    let mut habits = Habits::new(contender.broker());
    habits.in_flight = 200;
    let mut meter = Meter::new(&ledger, "meter", habits);
    let start = Instant::now();
    meter.publish(readings).unwrap();
    let name = contender.name();
    println!("{name}: filled in {:.1} s", start.elapsed().as_secs_f64());
    println!(
        "{name}: peak memory of the fill {} KiB",
        contender.peak_kib()
    );
    let full = disk_kib(&contender.data_dir());
    println!("{name}: {full} KiB on disk");

    let start = Instant::now();
    contender.kill_and_start();
    TcpStream::connect(contender.broker()).unwrap();
    println!(
        "{name}: accepts again {:.3} s after kill -9",
        start.elapsed().as_secs_f64()
    );
    meter.publish(1).unwrap();
    println!(
        "{name}: first PUBACK {:.3} s after kill -9",
        start.elapsed().as_secs_f64()
    );

    uplink.restore();
    let start = Instant::now();
    ledger.wait_at_hub(readings + 1, within(600));
    println!(
        "{name}: drained in {:.1} s ({})",
        start.elapsed().as_secs_f64(),
        ledger.sums()
    );
    println!(
        "{name}: peak memory of restart and drain {} KiB",
        contender.peak_kib()
    );
    let mut left = full;
    let deadline = Instant::now() + within(30);
    while Instant::now() < deadline && left * 20 > full {
        left = disk_kib(&contender.data_dir());
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    println!(
        "{name}: {left} KiB left on disk, {:.1} % of the peak",
        100.0 * left as f64 / full as f64
    );
}

fn disk_kib(directory: &Path) -> u64 {
    let output = Command::new("du")
        .arg("-sk")
        .arg(directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}
