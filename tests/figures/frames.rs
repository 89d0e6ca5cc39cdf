//! Frames over a thin link, beside the mosquitto bridge behind the same proxy: readings of the real sample as JSON of about
//! 200 bytes, from a backlog that is there before the link is.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use harness::VILLAGE;
use harness::hub::Hub;
use harness::proxy::Proxy;
use harness::relay::Relay;
use harness::sample::{self, Sampled};
use harness::wait::wait_for;

use crate::Arguments;
use crate::arrivals::Arrivals;

/// A mosquitto with nothing set that it has a default for.
const DEFAULTS: &str = "\nmax_queued_messages 1000\n";

/// What one side of a comparison did.
struct Carried {
    readings: usize,
    seconds: f64,
    bytes_up: f64,
}

impl Carried {
    #[allow(clippy::cast_precision_loss)] // far below 2^52 readings
    fn rate(&self) -> f64 {
        self.readings as f64 / self.seconds
    }

    #[allow(clippy::cast_precision_loss)]
    fn show(&self, name: &str) {
        println!(
            "{name:20} {:6} readings in {:6.1} s: {:7.1} a second, {:6.2} bytes up each",
            self.readings,
            self.seconds,
            self.rate(),
            self.bytes_up / self.readings as f64
        );
    }
}

struct Link {
    one_way: Duration,
    bytes_per_s: u64,
}

/// `figures frames part=thin|fast|day`
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let thin = Link {
        one_way: Duration::from_millis(300),
        bytes_per_s: 32_000,
    };
    let fast = Link {
        bytes_per_s: 100_000_000,
        ..thin
    };
    let part = arguments.text("part");
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    if wanted("thin") {
        println!("256 kbit/s, 600 ms there and back:");
        let readings = fleet(arguments.number("meters", 16)?, 2_880, 1)?;
        compare(&thin, &readings, arguments.number("bridged", 4_000)?)?;
    }
    if wanted("fast") {
        println!("600 ms there and back, no limit on the rate, a hub with mosquitto's defaults:");
        let readings = fleet(10, 2_000, 1)?;
        compare(&fast, &readings, arguments.number("bridged", 20_000)?)?;
    }
    if wanted("day") {
        println!(
            "a day of 500 meters, one reading each 15 minutes, through 256 kbit/s and 600 ms:"
        );
        let readings = fleet(500, 96, 15)?;
        println!(
            "{} bytes of payload each",
            readings.last().map_or(0, |r| r.payload.len())
        );
        relay(&thin, &readings)?.show("relay, frames");
    }
    Ok(())
}

fn fleet(meters: usize, steps: usize, every: usize) -> Result<Vec<Sampled>> {
    sample::fleet(meters, steps, every).context("the sample is not there")
}

fn compare(link: &Link, readings: &[Sampled], bridged: usize) -> Result<()> {
    let ours = relay(link, readings)?;
    ours.show("relay, frames");
    let bridged = readings.get(..bridged).unwrap_or(readings);
    let theirs = bridge(link, bridged)?;
    theirs.show("mosquitto bridge");
    println!(
        "readings a second, relay / mosquitto bridge: {:.1}",
        ours.rate() / theirs.rate()
    );
    Ok(())
}

/// From the moment when the link is there to the moment when the relay has nothing left to send.
fn relay(link: &Link, readings: &[Sampled]) -> Result<Carried> {
    let hub = Hub::start_with(DEFAULTS);
    let proxy = Proxy::start(hub.address);
    proxy.shape(link.one_way, link.bytes_per_s);
    proxy.cut();
    let mut relay = Relay::new(proxy.address);
    relay.set("hub.format", "batch");
    relay.set("clock.trust", "always");
    relay.start();
    sample::publish(relay.mqtt, readings)?;
    let status = relay.status();
    let waiting = status["backlog"]["readings"].as_u64();
    if waiting != Some(readings.len() as u64) {
        bail!("{waiting:?} of {} readings wait", readings.len());
    }
    let before = proxy.bytes_to_hub();
    proxy.restore();
    let from = Instant::now();
    wait_for("the backlog is empty", Duration::from_secs(900), || {
        (relay.status()["backlog"]["readings"].as_u64() == Some(0)).then_some(())
    });
    Ok(carried(readings.len(), from, proxy.bytes_to_hub() - before))
}

/// Likewise for a mosquitto with a bridge as it is by default, which tries to connect each second, to the last arrival at
/// the hub.
fn bridge(link: &Link, readings: &[Sampled]) -> Result<Carried> {
    let hub = Hub::start_with(DEFAULTS);
    let proxy = Proxy::start(hub.address);
    proxy.shape(link.one_way, link.bytes_per_s);
    proxy.cut();
    let uplink: SocketAddr = proxy.address;
    let village = Hub::start_with(&format!(
        "connection hub\naddress {uplink}\ntopic # out 1 \"\" villages/{VILLAGE}/\nrestart_timeout 1 1\ntry_private true\n"
    ));
    sample::publish(village.address, readings)?;
    let arrivals = Arrivals::watch(hub.address);
    let before = proxy.bytes_to_hub();
    proxy.restore();
    let from = Instant::now();
    arrivals.wait(readings.len(), Duration::from_secs(1_800))?;
    Ok(carried(readings.len(), from, proxy.bytes_to_hub() - before))
}

#[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
fn carried(readings: usize, from: Instant, bytes_up: u64) -> Carried {
    Carried {
        readings,
        seconds: from.elapsed().as_secs_f64(),
        bytes_up: bytes_up as f64,
    }
}
