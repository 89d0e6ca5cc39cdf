//! Bytes written to the block device for a reading, at one reading a second and at full speed: what an SD card wears by.
//!
//! Each server has an ext4 of its own on a loop device, and the kernel's count of sectors written there is taken before
//! the load and after it, when all that waited was written back. Without root the server's `write_bytes`
//! (`/proc/<pid>/io`) is all there is: what it gave to the page cache, without journal and metadata; the table says so.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use harness::wait::wait_for;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::machine;
use super::report::{Part, Target, grouped};
use super::servers::{Kind, Server, available};
use super::volume::Volume;
use crate::Arguments;
use crate::load::{self, Load, Template};

const KINDS: [Kind; 6] = [
    Kind::Relay,
    Kind::RelayDelayed,
    Kind::Mosquitto,
    Kind::MosquittoAutosave,
    Kind::Nats,
    Kind::Floor,
];

/// What is measured. `commit=60`: the file system writes changed times of files each minute, not each 5 s; what is
/// synced does not wait for it.
const SUBJECTS: [(Kind, Arrivals, &str); 11] = [
    (Kind::Relay, Arrivals::Even, ""),
    (Kind::Relay, Arrivals::TenMeters, ""),
    (Kind::RelayDelayed, Arrivals::Even, ""),
    (Kind::RelayDelayed, Arrivals::TenMeters, ""),
    (Kind::Relay, Arrivals::Even, "commit=60"),
    (Kind::RelayDelayed, Arrivals::TenMeters, "commit=60"),
    (Kind::Mosquitto, Arrivals::Even, ""),
    (Kind::MosquittoAutosave, Arrivals::Even, ""),
    (Kind::Nats, Arrivals::Even, ""),
    (Kind::Floor, Arrivals::Even, ""),
    (Kind::Floor, Arrivals::Even, "commit=60"),
];

/// Bytes of each volume, in MiB; they are sparse.
const VOLUME_MIB: u64 = 2_048;

/// Where a server's data lie, and how what it writes is counted.
#[derive(Debug)]
enum Place {
    Volume(Volume),
    Plain(TempDir),
}

impl Place {
    fn new(options: &str) -> Result<Self> {
        match Volume::new(VOLUME_MIB, options) {
            Ok(volume) => Ok(Self::Volume(volume)),
            Err(error) => {
                eprintln!("no loop device, /proc/<pid>/io instead: {error:#}");
                Ok(Self::Plain(tempfile::tempdir()?))
            }
        }
    }

    fn start(&self, kind: Kind) -> Result<Server> {
        match self {
            Self::Volume(volume) => {
                let data = volume.path().join("data");
                std::fs::create_dir_all(&data)?;
                Server::start(kind, &data)
            }
            Self::Plain(dir) => Server::start(kind, dir.path()),
        }
    }

    /// Bytes written so far, all that waits included.
    fn settled(&self, server: &Server) -> Result<u64> {
        match self {
            Self::Volume(volume) => volume.settle(),
            Self::Plain(_) => {
                let io = std::fs::read_to_string(format!("/proc/{}/io", server.pid()))?;
                let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
                Ok(line.context("no write_bytes")?.trim().parse()?)
            }
        }
    }

    fn how(&self) -> String {
        match self {
            Self::Volume(volume) => format!(
                "sectors written at a loop device of each server's own (`/sys/block/loopN/stat`), {}, `commit` 5 s; the \
                 count ends after `syncfs`, so that journal and delayed write-back are in it",
                machine::file_system(&volume.path())
            ),
            Self::Plain(_) => "NO ROOT: `write_bytes` of the server (`/proc/<pid>/io`), without journal and metadata; \
                               not what the device writes"
                .to_owned(),
        }
    }
}

/// How one reading a second comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrivals {
    /// From one meter, each second.
    Even,
    /// From ten meters, each every ten seconds, each since a moment of its own.
    TenMeters,
}

impl Arrivals {
    fn name(self) -> &'static str {
        match self {
            Self::Even => "one meter, each second",
            Self::TenMeters => "ten meters, each every 10 s",
        }
    }

    /// When the readings come, from the start, in order.
    #[allow(clippy::cast_precision_loss)] // far below 2^52 seconds
    fn times(self, seconds: usize, seed: u64) -> Vec<Duration> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut times: Vec<f64> = match self {
            Self::Even => (0..seconds).map(|n| n as f64).collect(),
            Self::TenMeters => {
                let starts: Vec<f64> = (0..10).map(|_| random.random_range(0.0..10.0)).collect();
                let rounds = (0..seconds / 10).map(|n| n as f64 * 10.0);
                rounds
                    .flat_map(|round| starts.iter().map(move |s| s + round))
                    .collect()
            }
        };
        times.sort_by(f64::total_cmp);
        times.into_iter().map(Duration::from_secs_f64).collect()
    }
}

/// One server on a place of its own, and what it took.
#[derive(Debug)]
struct Subject {
    kind: Kind,
    arrivals: Arrivals,
    options: &'static str,
    place: Place,
    slow: f64,
    fast: Option<f64>,
}

impl Subject {
    fn options_named(&self) -> &'static str {
        if self.options.is_empty() {
            "defaults"
        } else {
            self.options
        }
    }
}

/// Measures one reading a second of all servers at once, then each at full speed.
pub(crate) fn run(arguments: &Arguments) -> Result<Part> {
    let seconds = arguments.number("seconds", 120)?;
    let seed = arguments.number("seed", 7)? as u64;
    let payload_bytes = arguments.number("payload", 200)?;
    let kinds = available(&KINDS, arguments);
    let mut subjects = Vec::new();
    for (kind, arrivals, options) in SUBJECTS {
        if !kinds.contains(&kind) {
            continue;
        }
        subjects.push(Subject {
            kind,
            arrivals,
            options,
            place: Place::new(options)?,
            slow: f64::NAN,
            fast: None,
        });
    }
    one_a_second(&mut subjects, seconds, payload_bytes, seed)?;
    let load = Load {
        clients: 10,
        in_flight: 20,
        readings: arguments.number("readings", 200_000)?,
        payload_bytes,
    };
    // At full speed nothing is gained by waiting, and the meters are others.
    for subject in subjects.iter_mut().filter(|s| s.arrivals == Arrivals::Even) {
        subject.fast = Some(full_speed(subject, load)?);
        eprintln!("{:24} full speed {:?}", subject.kind.name(), subject.fast);
    }
    let how = format!(
        "Bytes written to the device for a reading of {payload_bytes} B: {}. One reading a second for {seconds} s, all \
         servers at once, seed {seed}; full speed: 10 × 20, one server after the other",
        subjects.first().map_or(String::new(), |s| s.place.how())
    );
    Ok(tabulate(&subjects, &kinds, &how))
}

fn tabulate(subjects: &[Subject], kinds: &[Kind], how: &str) -> Part {
    let mut part = Part::new("device", how);
    part.kinds(kinds);
    part.table(
        "Bytes to the device, a reading",
        &[
            "server",
            "one a second comes from",
            "mount options",
            "at one a second",
            "at full speed",
        ],
    );
    for subject in subjects {
        part.row(&[
            subject.kind.name().to_owned(),
            subject.arrivals.name().to_owned(),
            subject.options_named().to_owned(),
            grouped(subject.slow),
            subject.fast.map_or(String::new(), grouped),
        ]);
    }
    let slow = |kind, arrivals| {
        subjects
            .iter()
            .find(|s| (s.kind, s.arrivals, s.options) == (kind, arrivals, ""))
            .map(|s| s.slow / 1e3)
    };
    let ours = slow(Kind::RelayDelayed, Arrivals::TenMeters);
    let shown = |kind, arrivals| slow(kind, arrivals).unwrap_or(f64::NAN);
    part.target(
        Target::at_most(
            "KB to the device per 200-byte reading, ten meters with one reading a second in all, commit delay 1 s",
            6.0,
            ours,
            "KB",
        )
        .note(&format!(
            "one meter {:.1}; without delay {:.1}, one meter {:.1}; floor {:.1}",
            shown(Kind::RelayDelayed, Arrivals::Even),
            shown(Kind::Relay, Arrivals::TenMeters),
            shown(Kind::Relay, Arrivals::Even),
            shown(Kind::Floor, Arrivals::Even),
        )),
    );
    part
}

/// A meter that sends when it is told, and counts what is acknowledged.
struct Slow {
    socket: TcpStream,
    template: Template,
    sent: usize,
    acknowledged: Arc<AtomicUsize>,
}

impl Slow {
    fn start(server: &Server, payload_bytes: usize) -> Result<Self> {
        let socket = load::connect(server.address, "slow", true)?;
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (mut from, count) = (socket.try_clone()?, acknowledged.clone());
        from.set_read_timeout(None)?;
        std::thread::spawn(move || {
            let mut puback = [0_u8; 4];
            while from.read_exact(&mut puback).is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(Self {
            socket,
            template: Template::new("meters/slow/energy", payload_bytes),
            sent: 0,
            acknowledged,
        })
    }

    fn send(&mut self) -> Result<()> {
        let mut packet = Vec::new();
        let id = u16::try_from(self.sent % 65_000 + 1)?;
        self.template.append(&mut packet, id, self.sent);
        self.sent += 1;
        Ok(self.socket.write_all(&packet)?)
    }

    fn wait_acknowledged(&self) {
        wait_for("every PUBACK", Duration::from_secs(10), || {
            (self.acknowledged.load(Ordering::SeqCst) >= self.sent).then_some(())
        });
    }
}

/// One reading a second to each, for `seconds`, all at once.
#[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
fn one_a_second(
    subjects: &mut [Subject],
    seconds: usize,
    payload_bytes: usize,
    seed: u64,
) -> Result<()> {
    let mut running = Vec::new();
    let mut plan = Vec::new();
    for (n, subject) in subjects.iter().enumerate() {
        let server = subject.place.start(subject.kind)?;
        let mut meter = Slow::start(&server, payload_bytes)?;
        // The first reading makes files: not what a reading costs.
        meter.send()?;
        meter.wait_acknowledged();
        running.push((server, meter));
        let times = subject.arrivals.times(seconds, seed);
        plan.extend(times.into_iter().map(|at| (at, n)));
    }
    // What the start wrote is written back now, and what it changed in memory by the next commit of the journal.
    std::thread::sleep(Duration::from_secs(6));
    let mut before = Vec::new();
    for (subject, (server, _)) in subjects.iter().zip(&running) {
        before.push(subject.place.settled(server)?);
    }
    plan.sort();
    let start = Instant::now();
    for (at, n) in plan {
        std::thread::sleep((start + at).saturating_duration_since(Instant::now()));
        running.get_mut(n).context("no such meter")?.1.send()?;
    }
    for ((subject, (server, meter)), before) in subjects.iter_mut().zip(&running).zip(before) {
        meter.wait_acknowledged();
        let written = subject.place.settled(server)? - before;
        // The first one was before.
        subject.slow = written as f64 / (meter.sent - 1) as f64;
        eprintln!(
            "{:24} {:10} {:28} {:.0} a reading",
            subject.kind.name(),
            subject.options_named(),
            subject.arrivals.name(),
            subject.slow
        );
    }
    Ok(())
}

/// The same place, a fresh directory.
#[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
fn full_speed(subject: &mut Subject, load: Load) -> Result<f64> {
    let place = Place::new(subject.options)?;
    let server = place.start(subject.kind)?;
    let before = place.settled(&server)?;
    let result = load::run_within(server.address, load, "meter", Duration::from_secs(6))?;
    let written = place.settled(&server)? - before;
    drop(server);
    subject.place = place;
    Ok(written as f64 / result.acknowledged as f64)
}
