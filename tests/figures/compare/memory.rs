//! Memory and restart with a large backlog.

use std::time::Duration;

use anyhow::Result;
use harness::relay::memory_kib;

use super::report::{Part, Target, grouped};
use super::servers::{Kind, Server, available};
use crate::Arguments;
use crate::load::{self, Load};
use crate::memory::{self, Backlogged, disk_bytes};

/// The others keep what waits in memory or in one file: they get one million, and a time to take it.
const OTHERS: [Kind; 2] = [Kind::MosquittoQueue, Kind::Nats];

const OTHERS_READINGS: usize = 1_000_000;

/// The relay with `few` and `many` readings, the others with a million.
pub(crate) fn run(arguments: &Arguments) -> Result<Part> {
    let payload_bytes = arguments.number("payload", 200)?;
    let (few, many) = (
        arguments.number("few", 1_000_000)?,
        arguments.number("many", 10_000_000)?,
    );
    let drain = arguments.number("drain", 1_500_000)?;
    let relay = [
        memory::measure(few, few.min(drain), payload_bytes)?,
        memory::measure(many, many.min(drain), payload_bytes)?,
    ];
    let mut part = Part::new(
        "memory",
        &format!(
            "A backlog of readings of {payload_bytes} B: peak resident memory (`VmHWM`) while it grows (10 × 100) and from \
             the restart through a drain; kill -9 until a meter is accepted"
        ),
    );
    part.kinds(&[Kind::Relay]);
    part.kinds(&available(&OTHERS));
    part.table(
        "Backlog",
        &[
            "server",
            "readings waiting",
            "taken/s",
            "peak MiB, fill",
            "peak MiB, restart and drain",
            "drained",
            "kill -9 until it accepts, s",
            "disk bytes a reading",
        ],
    );
    for found in relay {
        row(&mut part, &found);
    }
    let limit = Duration::from_secs(arguments.number("limit", 20)? as u64);
    for kind in available(&OTHERS) {
        other(&mut part, kind, payload_bytes, limit)?;
    }
    targets(&mut part, &relay);
    Ok(part)
}

#[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
fn row(part: &mut Part, found: &Backlogged) {
    part.row(&[
        "relay".to_owned(),
        grouped(found.readings as f64),
        grouped(found.fill_rate),
        format!("{:.1}", found.fill_kib as f64 / 1024.0),
        format!("{:.1}", found.drain_kib as f64 / 1024.0),
        format!(
            "{} at {}/s",
            grouped(found.drained as f64),
            grouped(found.drain_rate)
        ),
        format!(
            "{:.3} (ready {:.3})",
            found.accepts.as_secs_f64(),
            found.ready.as_secs_f64()
        ),
        grouped(found.disk_bytes as f64 / found.readings as f64),
    ]);
}

#[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
fn other(part: &mut Part, kind: Kind, payload_bytes: usize, limit: Duration) -> Result<()> {
    let data = tempfile::tempdir()?;
    let mut server = Server::start(kind, data.path())?;
    let load = Load {
        clients: 10,
        in_flight: 100,
        readings: OTHERS_READINGS,
        payload_bytes,
    };
    let result = load::run_within(server.address, load, "meter", limit)?;
    server.save()?;
    let fill_kib = memory_kib(server.pid().as_raw().try_into()?, "VmHWM");
    let disk = disk_bytes(server.data());
    let accepts = server.kill_and_restart()?;
    let after_kib = memory_kib(server.pid().as_raw().try_into()?, "VmHWM");
    let acknowledged = result.acknowledged as f64;
    part.row(&[
        kind.name().to_owned(),
        grouped(acknowledged),
        grouped(result.rate),
        format!("{:.1}", fill_kib as f64 / 1024.0),
        format!("{:.1} (restart only)", after_kib as f64 / 1024.0),
        "not drained".to_owned(),
        format!("{:.3}", accepts.as_secs_f64()),
        grouped(disk as f64 / acknowledged),
    ]);
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
fn targets(part: &mut Part, [few, many]: &[Backlogged; 2]) {
    let mb = |found: &Backlogged| found.fill_kib.max(found.drain_kib) as f64 * 1024.0 / 1e6;
    part.target(
        Target::at_most(
            &format!(
                "peak memory, {} readings waiting",
                grouped(many.readings as f64)
            ),
            64.0,
            Some(mb(many)),
            "MB",
        )
        .note(&format!(
            "{:.1} MB with {}",
            mb(few),
            grouped(few.readings as f64)
        )),
    );
    part.target(
        Target::at_most(
            &format!(
                "restart with {} waiting, after kill -9",
                grouped(many.readings as f64)
            ),
            1.0,
            Some(many.ready.as_secs_f64()),
            "s",
        )
        .note(&format!(
            "{:.3} s with {}",
            few.ready.as_secs_f64(),
            grouped(few.readings as f64)
        )),
    );
}
