//! PUBACKs a second: this relay, mosquitto that is not durable, and the floor, turn about.

use std::net::SocketAddr;

use anyhow::Result;
use harness::hub::Hub;
use harness::port;
use harness::relay::Relay;

use crate::load::{self, Load, LoadResult};
use crate::{Arguments, floor};

/// Prints the rates of each round and the ratios of their medians.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let load = Load {
        clients: arguments.number("clients", 10)?,
        in_flight: arguments.number("in_flight", 20)?,
        readings: arguments.number("readings", 200_000)?,
        payload_bytes: arguments.number("payload", 200)?,
    };
    let rounds = arguments.number("rounds", 5)?;
    println!(
        "{load:?}, {rounds} rounds; data in {}",
        std::env::temp_dir().display()
    );
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for round in 1..=rounds {
        let results = [relay(load)?, mosquitto(load)?, at_floor(load)?];
        for ((name, result), rates) in ["relay", "mosquitto", "floor"]
            .iter()
            .zip(results)
            .zip(&mut rates)
        {
            println!(
                "round {round} {name:10} {:9.0}/s  p50 {:?} p99 {:?}",
                result.rate, result.p50, result.p99
            );
            rates.push(result.rate);
        }
    }
    let [relay, mosquitto, floor] = rates.map(median);
    println!(
        "median: relay {relay:.0}/s, mosquitto (not durable) {mosquitto:.0}/s, floor {floor:.0}/s"
    );
    println!(
        "relay / mosquitto: {:.2}   relay / floor: {:.2}",
        relay / mosquitto,
        relay / floor
    );
    Ok(())
}

fn relay(load: Load) -> Result<LoadResult> {
    let mut relay = Relay::new(port::free());
    relay.start();
    measure(relay.mqtt, load)
}

/// Mosquitto with its default persistence: written every half hour and at its end.
fn mosquitto(load: Load) -> Result<LoadResult> {
    let data = tempfile::tempdir()?;
    let hub = Hub::start_with(&format!(
        "persistence true\npersistence_location {}/\n",
        data.path().display()
    ));
    measure(hub.address, load)
}

fn at_floor(load: Load) -> Result<LoadResult> {
    let data = tempfile::tempdir()?;
    measure(floor::serve(&data.path().join("log"))?, load)
}

/// A short warm-up, then the load.
fn measure(server: SocketAddr, load: Load) -> Result<LoadResult> {
    load::run(
        server,
        Load {
            readings: load.clients * 100,
            ..load
        },
        "warm",
    )?;
    load::run(server, load, "meter")
}

/// The middle of the figures.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
