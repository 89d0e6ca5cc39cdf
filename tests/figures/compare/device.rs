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

/// One server on a place of its own, and what it took.
#[derive(Debug)]
struct Subject {
    kind: Kind,
    options: &'static str,
    place: Place,
    slow: f64,
    fast: Option<f64>,
}

/// Measures one reading a second of all servers at once, then each at full speed.
pub(crate) fn run(arguments: &Arguments) -> Result<Part> {
    let seconds = arguments.number("seconds", 90)?;
    let payload_bytes = arguments.number("payload", 200)?;
    let kinds = available(&KINDS);
    let mut wanted: Vec<(Kind, &'static str)> = kinds.iter().map(|k| (*k, "")).collect();
    wanted.insert(1, (Kind::Relay, "lazytime"));
    let mut subjects = Vec::new();
    for (kind, options) in wanted {
        subjects.push(Subject {
            kind,
            options,
            place: Place::new(options)?,
            slow: f64::NAN,
            fast: None,
        });
    }
    one_a_second(&mut subjects, seconds, payload_bytes)?;
    let load = Load {
        clients: 10,
        in_flight: 20,
        readings: arguments.number("readings", 200_000)?,
        payload_bytes,
    };
    for subject in &mut subjects {
        subject.fast = Some(full_speed(subject, load)?);
        eprintln!(
            "{:28} {:8} {:?}",
            subject.kind.name(),
            subject.options,
            subject.fast
        );
    }
    Ok(tabulate(&subjects, &kinds, (seconds, payload_bytes)))
}

fn tabulate(
    subjects: &[Subject],
    kinds: &[Kind],
    (seconds, payload_bytes): (usize, usize),
) -> Part {
    let how = subjects.first().map_or(String::new(), |s| s.place.how());
    let mut part = Part::new(
        "device",
        &format!(
            "Bytes written to the device for a reading of {payload_bytes} B: {how}. One reading a second for {seconds} s, \
             each second in turn, all servers at once; full speed: 10 × 20, one server after the other"
        ),
    );
    part.kinds(kinds);
    part.table(
        "Bytes to the device",
        &[
            "server",
            "mount options",
            "at one a second",
            "at full speed",
        ],
    );
    for subject in subjects {
        part.row(&[
            subject.kind.name().to_owned(),
            if subject.options.is_empty() {
                "defaults"
            } else {
                subject.options
            }
            .to_owned(),
            grouped(subject.slow),
            subject.fast.map_or("not measured".to_owned(), grouped),
        ]);
    }
    let of = |kind: Kind| {
        subjects
            .iter()
            .find(|s| s.kind == kind && s.options.is_empty())
    };
    part.target(
        Target::at_most(
            "KB to the device per 200-byte reading at one a second, commit delay of at most 1 s",
            6.0,
            of(Kind::RelayDelayed).map(|s| s.slow / 1e3),
            "KB",
        )
        .note(&format!(
            "without delay {:.1} KB, floor {:.1} KB",
            of(Kind::Relay).map_or(f64::NAN, |s| s.slow / 1e3),
            of(Kind::Floor).map_or(f64::NAN, |s| s.slow / 1e3),
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

/// `seconds` readings to each, one a second; the subjects take turns within a second.
#[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
fn one_a_second(subjects: &mut [Subject], seconds: usize, payload_bytes: usize) -> Result<()> {
    let mut running = Vec::new();
    for subject in subjects.iter() {
        let server = subject.place.start(subject.kind)?;
        let mut meter = Slow::start(&server, payload_bytes)?;
        // The first reading makes files: not what a reading costs.
        meter.send()?;
        meter.wait_acknowledged();
        running.push((server, meter));
    }
    let mut before = Vec::new();
    for (subject, (server, _)) in subjects.iter().zip(&running) {
        before.push(subject.place.settled(server)?);
    }
    let step = Duration::from_secs(1) / u32::try_from(subjects.len())?;
    let mut next = Instant::now();
    for _ in 0..seconds {
        for (_, meter) in &mut running {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            meter.send()?;
            next += step;
        }
    }
    for ((subject, (server, meter)), before) in subjects.iter_mut().zip(&running).zip(before) {
        meter.wait_acknowledged();
        let written = subject.place.settled(server)? - before;
        subject.slow = written as f64 / seconds as f64;
        eprintln!(
            "{:28} {:8} {:.0} a reading",
            subject.kind.name(),
            subject.options,
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
