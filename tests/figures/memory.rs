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

/// What a backlog costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backlogged {
    /// Readings that waited.
    pub(crate) readings: usize,
    /// Readings a second while it grew.
    pub(crate) fill_rate: f64,
    /// Peak memory while it grew, in KiB.
    pub(crate) fill_kib: u64,
    /// Bytes on the disk when it was full.
    pub(crate) disk_bytes: u64,
    /// From kill -9 until it accepts.
    pub(crate) accepts: Duration,
    /// From kill -9 until it is ready.
    pub(crate) ready: Duration,
    /// Readings drained.
    pub(crate) drained: usize,
    /// Readings a second while it drained.
    pub(crate) drain_rate: f64,
    /// Peak memory from the restart to the end of the drain, in KiB.
    pub(crate) drain_kib: u64,
    /// Bytes left on the disk, if all was drained.
    pub(crate) left_bytes: Option<u64>,
}

/// Prints the figures for `readings` waiting, of which `drain` are drained.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let readings = arguments.number("readings", 1_000_000)?;
    let drain = arguments.number("drain", readings)?;
    let found = measure(readings, drain, arguments.number("payload", 200)?)?;
    println!("{found:#?}");
    println!(
        "disk: {} bytes a reading, {:.2} % left",
        found.disk_bytes / readings as u64,
        found.left_share().unwrap_or(f64::NAN)
    );
    Ok(())
}

impl Backlogged {
    /// What is left on the disk, in percent of the peak.
    #[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
    pub(crate) fn left_share(&self) -> Option<f64> {
        Some(100.0 * self.left_bytes? as f64 / self.disk_bytes as f64)
    }
}

/// Fills while the hub is away, kills, starts again, and drains the first `drain` readings.
#[allow(clippy::cast_precision_loss)] // far below 2^52 readings
pub(crate) fn measure(readings: usize, drain: usize, payload_bytes: usize) -> Result<Backlogged> {
    let load = Load {
        clients: 10,
        in_flight: 100,
        readings,
        payload_bytes,
    };
    let mut hub = Hub::start();
    hub.kill();
    let mut relay = Relay::new(hub.address);
    relay
        .set("hub.retry_max", "1s")
        .set("backlog.bytes_max", "16 GiB")
        .set("backlog.keep_forwarded", "0s");
    relay.start();
    let result = load::run(relay.mqtt, load, "meter")?;
    let fill_kib = relay.memory_kib("VmHWM");
    let full = disk_bytes(&relay.data_dir());
    eprintln!("{readings} filled: {:.0}/s, {fill_kib} KiB", result.rate);

    relay.kill();
    let killed = Instant::now();
    relay.start_as_is();
    relay.wait_listening(Duration::from_secs(60));
    let accepts = killed.elapsed();
    relay.wait_ready(Duration::from_secs(60));
    let ready = killed.elapsed();
    eprintln!("kill -9 until it accepts {accepts:?}, is ready {ready:?}");

    hub.run();
    let seen = Arrivals::watch(hub.address).wait(drain, Duration::from_secs(600))?;
    if drain == readings {
        relay.wait_drained(Duration::from_secs(60));
    }
    let drain_kib = relay.memory_kib("VmHWM");
    eprintln!("{drain} drained in {:?}, {drain_kib} KiB", seen.span());
    Ok(Backlogged {
        readings,
        fill_rate: result.rate,
        fill_kib,
        disk_bytes: full,
        accepts,
        ready,
        drained: drain,
        drain_rate: drain as f64 / seen.span().as_secs_f64(),
        drain_kib,
        left_bytes: (drain == readings).then(|| disk_bytes(&relay.data_dir())),
    })
}

/// Bytes that the files below `dir` occupy.
pub(crate) fn disk_bytes(dir: &Path) -> u64 {
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
