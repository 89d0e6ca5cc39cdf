//! Bad links: the thin one (256 kbit/s, 600 ms there and back) and the one that comes and goes, each with the relay and
//! with the mosquitto bridge behind the same proxy.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use harness::VILLAGE;
use harness::hub::Hub;
use harness::proxy::Proxy;
use harness::relay::Relay;

use crate::Arguments;
use crate::arrivals::{Arrivals, Seen};
use crate::load::{self, Load};

/// Who brings the readings over the link.
enum Village {
    Relay(Box<Relay>),
    Mosquitto(Hub),
}

impl Village {
    /// A relay whose clock is synchronised, as a village's is most of the time: otherwise each reading says so, in 24
    /// bytes more.
    fn relay(uplink: SocketAddr) -> Self {
        let mut relay = Relay::new(uplink);
        relay.set("clock.trust", "always");
        relay.start();
        Self::Relay(Box::new(relay))
    }

    /// A mosquitto that bridges everything at QoS 1, to the same topics as the relay; no limit on its queue, 20 in
    /// flight as its default is.
    fn mosquitto(uplink: SocketAddr) -> Self {
        Self::Mosquitto(Hub::start_with(&format!(
            "connection hub\naddress {uplink}\ntopic # out 1 \"\" villages/{VILLAGE}/\nrestart_timeout 1 1\ntry_private true\n"
        )))
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Relay(relay) => relay.mqtt,
            Self::Mosquitto(broker) => broker.address,
        }
    }
}

fn load(arguments: &Arguments, readings: usize) -> Result<Load> {
    Ok(Load {
        clients: arguments.number("clients", 10)?,
        in_flight: 20,
        readings: arguments.number("readings", readings)?,
        payload_bytes: arguments.number("payload", 200)?,
    })
}

/// The thin link, with a backlog that is there before the link is.
#[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
pub(crate) fn thin(arguments: &Arguments) -> Result<()> {
    let load = load(arguments, 4_000)?;
    let bytes_per_s = arguments.number("kbit_per_s", 256)? as u64 * 1_000 / 8;
    let one_way = Duration::from_millis(arguments.number("round_trip_ms", 600)? as u64 / 2);
    let mut per_reading = Vec::new();
    for (name, village) in [
        ("relay", Village::relay as fn(SocketAddr) -> Village),
        ("mosquitto bridge", Village::mosquitto),
    ] {
        let hub = Hub::start_with("");
        let link = Proxy::start(hub.address);
        link.shape(one_way, bytes_per_s);
        link.cut();
        let village = village(link.address);
        load::run(village.address(), load, "meter")?;
        let arrivals = Arrivals::watch(hub.address);
        link.restore();
        let (seen, steady) = arrivals.wait_steady(load.readings, || link.bytes_to_hub())?;
        let up = link.bytes_to_hub() as f64 / load.readings as f64;
        per_reading.push(up);
        println!(
            "{name:16} {:6.1} readings/s, {up:.1} bytes up a reading, {} bytes down in all, {} connections, {} duplicates; \
             in the middle half {:.1} % of what the link can carry",
            load.readings as f64 / seen.span().as_secs_f64(),
            link.bytes_to_relay(),
            link.connections(),
            seen.duplicates(),
            100.0 * steady / bytes_per_s as f64,
        );
    }
    if let [ours, theirs] = per_reading[..] {
        println!(
            "bytes up a reading, relay / mosquitto bridge: {:.2}",
            ours / theirs
        );
    }
    Ok(())
}

/// A link that is up 2 s and down 1 s.
#[allow(clippy::cast_precision_loss)] // far below 2^52 readings
pub(crate) fn flapping(arguments: &Arguments) -> Result<()> {
    let load = load(arguments, 20_000)?;
    let bytes_per_s = arguments.number("kbit_per_s", 2_000)? as u64 * 1_000 / 8;
    let one_way = Duration::from_millis(arguments.number("round_trip_ms", 200)? as u64 / 2);
    let up = Duration::from_millis(arguments.number("up_ms", 2_000)? as u64);
    let down = Duration::from_millis(arguments.number("down_ms", 1_000)? as u64);
    for (name, village) in [
        ("relay", Village::relay as fn(SocketAddr) -> Village),
        ("mosquitto bridge", Village::mosquitto),
    ] {
        let hub = Hub::start();
        let link = Proxy::start(hub.address);
        link.shape(one_way, bytes_per_s);
        link.cut();
        let village = village(link.address);
        load::run(village.address(), load, "meter")?;
        let arrivals = Arrivals::watch(hub.address);
        let flapping = link.flap(up, down);
        let seen: Seen = arrivals.wait(load.readings, Duration::from_secs(300))?;
        drop(flapping);
        println!(
            "{name:16} {:5.1} s, {} duplicates on the wire ({:.1} %), {:.1} bytes up a reading, {} connections",
            seen.span().as_secs_f64(),
            seen.duplicates(),
            100.0 * seen.duplicates() as f64 / load.readings as f64,
            link.bytes_to_hub() as f64 / load.readings as f64,
            link.connections(),
        );
    }
    Ok(())
}
