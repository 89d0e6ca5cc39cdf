//! A large backlog: peak memory at fill and drain, the time from kill -9 until it accepts again, and the disk that is
//! left after the drain.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use harness::hub::Hub;
use harness::relay::Relay;

use crate::Arguments;
use crate::arrivals::Arrivals;
use crate::load::{self, Load};

/// Prints the figures for `readings` waiting.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let load = Load {
        clients: 10,
        in_flight: 100,
        readings: arguments.number("readings", 1_000_000)?,
        payload_bytes: arguments.number("payload", 200)?,
    };
    let mut hub = Hub::start();
    hub.kill();
    let mut relay = Relay::new(hub.address);
    relay
        .set("hub.retry_max", "1s")
        .set("backlog.keep_forwarded", "0s");
    relay.start();
    let result = load::run(relay.mqtt, load, "meter")?;
    println!(
        "fill: {:.0} readings/s, peak memory {} KiB",
        result.rate,
        relay.memory_kib("VmHWM")
    );
    let full = disk_bytes(&relay.data_dir());
    println!(
        "disk when full: {full} bytes, {} a reading",
        full / load.readings as u64
    );

    relay.kill();
    let killed = Instant::now();
    relay.start_as_is();
    relay.wait_listening(Duration::from_secs(60));
    println!("kill -9 until it accepts: {:?}", killed.elapsed());
    relay.wait_ready(Duration::from_secs(60));
    println!("kill -9 until it is ready: {:?}", killed.elapsed());

    hub.run();
    let seen = Arrivals::watch(hub.address).wait(load.readings, Duration::from_secs(600))?;
    relay.wait_drained(Duration::from_secs(60));
    println!(
        "drain: {:?}, {} duplicates, peak memory {} KiB",
        seen.span(),
        seen.duplicates(),
        relay.memory_kib("VmHWM")
    );
    let left = disk_bytes(&relay.data_dir());
    #[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
    let share = 100.0 * left as f64 / full as f64;
    println!("disk left: {left} bytes, {share:.2} % of the peak");
    Ok(())
}

/// Bytes that the files below `dir` occupy.
fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
            Ok(data) => data.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
