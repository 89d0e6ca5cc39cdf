//! The drain of a backlog to a hub on loopback, beside the mosquitto bridge with the same backlog.

use std::time::Duration;

use anyhow::Result;
use harness::hub::Hub;
use harness::relay::Relay;

use crate::arrivals::Arrivals;
use crate::load::{self, Load};
use crate::{Arguments, median};

const DEADLINE: Duration = Duration::from_secs(300);

/// Readings a second, from the first arrival to the last: medians of the rounds.
#[derive(Debug)]
pub(crate) struct Drained {
    /// This relay.
    pub(crate) relay: f64,
    /// The mosquitto bridge.
    pub(crate) bridge: f64,
}

/// Prints the medians and their ratio.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let found = measure(arguments, arguments.number("rounds", 3)?)?;
    let Drained { relay, bridge } = found;
    println!(
        "median: relay {relay:.0}/s, mosquitto bridge {bridge:.0}/s, ratio {:.2}",
        relay / bridge
    );
    Ok(())
}

/// Drains in turn, and says each round on standard error.
pub(crate) fn measure(arguments: &Arguments, rounds: usize) -> Result<Drained> {
    let load = Load {
        clients: arguments.number("clients", 10)?,
        in_flight: 20,
        readings: arguments.number("readings", 100_000)?,
        payload_bytes: arguments.number("payload", 200)?,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        ours.push(relay(load)?);
        theirs.push(mosquitto(load)?);
        eprintln!(
            "round {round}: relay {:.0}/s, mosquitto bridge {:.0}/s",
            ours[round - 1],
            theirs[round - 1]
        );
    }
    Ok(Drained {
        relay: median(ours),
        bridge: median(theirs),
    })
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
