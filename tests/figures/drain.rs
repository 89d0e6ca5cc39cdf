//! The drain of a backlog to a hub on loopback, beside the mosquitto bridge with the same backlog.

use std::time::Duration;

use anyhow::Result;
use harness::hub::Hub;
use harness::relay::Relay;

use crate::Arguments;
use crate::arrivals::Arrivals;
use crate::load::{self, Load};
use crate::pubacks::median;

const DEADLINE: Duration = Duration::from_secs(300);

/// Prints readings a second of each round, from the first arrival to the last, and the ratio of the medians.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let load = Load {
        clients: arguments.number("clients", 10)?,
        in_flight: 20,
        readings: arguments.number("readings", 100_000)?,
        payload_bytes: arguments.number("payload", 200)?,
    };
    let rounds = arguments.number("rounds", 3)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        ours.push(relay(load)?);
        theirs.push(mosquitto(load)?);
        println!(
            "round {round}: relay {:.0}/s, mosquitto bridge {:.0}/s",
            ours[round - 1],
            theirs[round - 1]
        );
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "median: relay {ours:.0}/s, mosquitto bridge {theirs:.0}/s, ratio {:.2}",
        ours / theirs
    );
    Ok(())
}

/// The relay fills while the hub is away.
fn relay(load: Load) -> Result<f64> {
    let mut hub = Hub::start();
    hub.kill();
    let mut relay = Relay::new(hub.address);
    relay.set("hub.retry_max", "1s");
    relay.start();
    load::run(relay.mqtt, load, "meter")?;
    hub.run();
    rate(&hub, load)
}

/// Likewise a mosquitto that bridges everything at QoS 1, with its limits off.
fn mosquitto(load: Load) -> Result<f64> {
    let mut hub = Hub::start();
    hub.kill();
    let village = Hub::start_with(&format!(
        "max_inflight_messages 0\nconnection hub\naddress {}\ntopic # out 1\nrestart_timeout 1 1\ntry_private true\n",
        hub.address
    ));
    load::run(village.address, load, "meter")?;
    hub.run();
    rate(&hub, load)
}

#[allow(clippy::cast_precision_loss)] // far below 2^52 readings
fn rate(hub: &Hub, load: Load) -> Result<f64> {
    let seen = Arrivals::watch(hub.address).wait(load.readings, DEADLINE)?;
    Ok(load.readings as f64 / seen.span().as_secs_f64())
}

pub(crate) fn ceiling(arguments: &Arguments) -> Result<()> {
    let load = Load {
        clients: arguments.number("clients", 10)?,
        in_flight: 20,
        readings: arguments.number("readings", 200_000)?,
        payload_bytes: arguments.number("payload", 200)?,
    };
    for round in 1..=arguments.number("rounds", 1)? {
        for subscriber in [true, false] {
            for identity in [true, false] {
                for connections in [1, 2, 4, 10] {
                    let hub = Hub::start();
                    let arrivals = subscriber.then(|| Arrivals::watch(hub.address));
                    std::thread::sleep(Duration::from_millis(100));
                    let cpu = hub.cpu();
                    let began = std::time::Instant::now();
                    crate::ceiling::run(hub.address, load, connections, identity)?;
                    let took = began.elapsed();
                    let rate = match arrivals {
                        Some(a) => {
                            load.readings as f64
                                / a.wait(load.readings, DEADLINE)?.span().as_secs_f64()
                        }
                        None => load.readings as f64 / took.as_secs_f64(),
                    };
                    let cpu = hub.cpu() - cpu;
                    println!(
                        "round {round} subscriber {subscriber} v5 {identity} connections {connections}: {rate:.0}/s, hub {:.1} us a reading",
                        cpu.as_secs_f64() * 1e6 / load.readings as f64
                    );
                }
            }
        }
    }
    Ok(())
}
