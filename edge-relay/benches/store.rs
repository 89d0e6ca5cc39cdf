//! Durable appends beside an append-only file with group commit and fdatasync in the same run; then a
//! million readings: memory, start, drain, and the disk that is left.
//!
//! `cargo bench -p edge-relay --bench store`; the directory is `STORE_BENCH_DIR`, or the target directory: it must
//! be on the disk that is to be measured, not in memory. `STORE_BENCH_MILLION=0` leaves the second part out.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap
)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use edge_relay::store::{NewReading, Settings, Store};
use hub_bridge::backlog::{Backlog, Mark, ReadLimit};
use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::identity::{Sequence, SequenceRange};
use tokio::sync::oneshot;

struct StillClock;

impl Clock for StillClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(100)
    }
    fn boot(&self) -> BootId {
        BootId(5)
    }
    fn quality(&self) -> ClockQuality {
        ClockQuality::Synchronised
    }
    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        (received.wall, received.quality)
    }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        data_dir: dir.to_owned(),
        village: "bench-01".parse().unwrap(),
        machine_id: "bench".to_owned(),
        bytes_max: 16 << 30,
        disk_free_min: 0,
        alarm_at: 0.8,
        confirm: Mark::Forwarded,
        keep_forwarded: Duration::ZERO,
        segment_bytes: segment_bytes(),
        commit_delay: Duration::ZERO,
        queue_bytes_max: 4 << 20,
        hold_max: Duration::from_secs(10),
    }
}

fn segment_bytes() -> u64 {
    let mib = std::env::var("STORE_BENCH_SEGMENT_MIB").ok();
    mib.and_then(|m| m.parse::<u64>().ok()).unwrap_or(8) << 20
}

fn bench_dir() -> PathBuf {
    std::env::var_os("STORE_BENCH_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

struct Payloads {
    topics: Vec<Arc<str>>,
    clients: Vec<Arc<str>>,
    noise: Bytes,
}

impl Payloads {
    fn new() -> Self {
        let mut x = 88_172_645_463_325_252_u64;
        let noise = (0..1 << 20).map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[3]
        });
        Self {
            topics: (0..50)
                .map(|n| format!("village/meter/{n:03}/energy").into())
                .collect(),
            clients: (0..50).map(|n| format!("meter-{n:03}").into()).collect(),
            noise: noise.collect(),
        }
    }

    fn reading(&self, n: usize, bytes: usize) -> NewReading {
        let from = n * 61 % (self.noise.len() - bytes);
        NewReading {
            topic: self.topics[n % 50].clone(),
            client_id: self.clients[n % 50].clone(),
            payload: self.noise.slice(from..from + bytes),
            qos: 1,
            retain: false,
            dup: false,
            packet_id: u16::try_from(n % 60_000).unwrap() + 1,
            received: ReceivedAt {
                wall: UnixMillis(1_700_000_000_000 + n as i64),
                quality: ClockQuality::Synchronised,
                boot: BootId(5),
                monotonic_ms: n as u64,
            },
            properties: None,
        }
    }
}

/// Appends `total` readings by `writers`, each waiting for its `batch` before the next.
fn append(
    store: &Store,
    payloads: &Arc<Payloads>,
    writers: usize,
    batch: usize,
    bytes: usize,
    total: usize,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let rounds = (total / writers / batch).max(1);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (store, payloads) = (store.clone(), payloads.clone());
                tokio::spawn(async move {
                    for round in 0..rounds {
                        let from = (writer * rounds + round) * batch;
                        let readings: Vec<_> = (from..from + batch)
                            .map(|n| payloads.reading(n, bytes))
                            .collect();
                        let size = readings.iter().map(NewReading::size_bytes).sum();
                        let permit = store.reserve(size).await.unwrap();
                        permit.append(readings).await.unwrap().unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

type RawJob = (Vec<u8>, oneshot::Sender<()>);

/// The yardstick: a file, length-prefixed records, whoever waits shares one fdatasync.
fn raw(
    dir: &Path,
    payloads: &Arc<Payloads>,
    writers: usize,
    batch: usize,
    bytes: usize,
    total: usize,
) {
    let (jobs, queue) = mpsc::channel::<RawJob>();
    let mut file = File::create(dir.join("raw")).unwrap();
    let thread = std::thread::spawn(move || {
        while let Ok(first) = queue.recv() {
            let mut waiting = vec![first];
            waiting.extend(queue.try_iter());
            let block: Vec<u8> = waiting
                .iter()
                .flat_map(|(bytes, _)| bytes.iter().copied())
                .collect();
            file.write_all(&block).unwrap();
            file.sync_data().unwrap();
            for (_, done) in waiting {
                let _ = done.send(());
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let rounds = (total / writers / batch).max(1);
    runtime.block_on(async {
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (jobs, payloads) = (jobs.clone(), payloads.clone());
                tokio::spawn(async move {
                    for round in 0..rounds {
                        let from = (writer * rounds + round) * batch;
                        let mut block = Vec::with_capacity(batch * (bytes + 50));
                        for n in from..from + batch {
                            let reading = payloads.reading(n, bytes);
                            for part in [
                                reading.topic.as_bytes(),
                                reading.client_id.as_bytes(),
                                &reading.payload,
                            ] {
                                block.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
                                block.extend_from_slice(part);
                            }
                        }
                        let (done, is_done) = oneshot::channel();
                        jobs.send((block, done)).unwrap();
                        is_done.await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    drop(jobs);
    thread.join().unwrap();
}

fn rate(total: usize, work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    total as f64 / started.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn side_by_side(payloads: &Arc<Payloads>) {
    println!("writers  batch  payload    store/s      raw/s   ratio   (medians of 3, in turn)");
    for (writers, batch, bytes, total) in [
        (1, 1, 200, 400),
        (1, 10, 200, 4_000),
        (1, 100, 200, 40_000),
        (1, 1000, 200, 200_000),
        (10, 20, 200, 40_000),
        (256, 1, 200, 50_000),
        (1, 10, 20_000, 2_000),
    ] {
        let (mut stores, mut raws) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let dir = tempfile::tempdir_in(bench_dir()).unwrap();
            let (store, _) = Store::open(&settings(dir.path()), Arc::new(StillClock)).unwrap();
            append(&store, payloads, writers, batch, bytes, writers * batch);
            stores.push(rate(total, || {
                append(&store, payloads, writers, batch, bytes, total);
            }));
            drop(store);
            raws.push(rate(total, || {
                raw(dir.path(), payloads, writers, batch, bytes, total);
            }));
        }
        let (store, raw) = (median(stores), median(raws));
        println!(
            "{writers:7} {batch:6} {bytes:8} {store:10.0} {raw:10.0} {:7.2}",
            store / raw
        );
    }
}

fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

fn disk_mib(dir: &Path) -> f64 {
    let output = Command::new("du").arg("-sk").arg(dir).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace()
        .next()
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

const MILLION: usize = 1_000_000;

fn fill(dir: &Path) {
    let payloads = Arc::new(Payloads::new());
    let (store, _) = Store::open(&settings(dir), Arc::new(StillClock)).unwrap();
    let filled = rate(MILLION, || append(&store, &payloads, 10, 20, 200, MILLION));
    println!(
        "fill   {filled:8.0} readings/s, peak memory {:.1} MiB, disk {:.0} MiB",
        peak_memory_mib(),
        disk_mib(dir)
    );
    // As a kill leaves it: nothing is closed.
    std::process::exit(0);
}

fn drain(dir: &Path) {
    let started = Instant::now();
    let (store, report) = Store::open(&settings(dir), Arc::new(StillClock)).unwrap();
    println!(
        "start  {:8.1} ms after a kill with {} waiting",
        started.elapsed().as_secs_f64() * 1e3,
        report.waiting_readings
    );
    let limit = ReadLimit {
        count: 200,
        bytes: 1 << 20,
    };
    let epoch = store.stats().epoch;
    let mut drained = 0;
    let per_second = rate(MILLION, || {
        let mut from = Sequence::FIRST;
        loop {
            let batch = store.read(epoch, from, Mark::Forwarded, limit).unwrap();
            let (Some(first), Some(last)) = (batch.readings.first(), batch.readings.last()) else {
                break;
            };
            drained += batch.readings.len();
            let range = SequenceRange::new(first.sequence, last.sequence).unwrap();
            store.confirm(epoch, Mark::Forwarded, &[range]).unwrap();
            from = batch.next.unwrap();
        }
    });
    println!(
        "drain  {per_second:8.0} readings/s, {drained} readings, peak memory {:.1} MiB",
        peak_memory_mib()
    );
    store.close();
    drop(store);
    println!("left   {:8.1} MiB of disk", disk_mib(dir));
}

fn million() {
    let dir = tempfile::tempdir_in(bench_dir()).unwrap();
    println!(
        "\n1,000,000 readings of 200 B, 10 writers of 20, segments of {} MiB",
        segment_bytes() >> 20
    );
    for part in ["fill", "drain"] {
        let me = std::env::current_exe().unwrap();
        let status = Command::new(me)
            .env("STORE_BENCH_PART", part)
            .env("STORE_BENCH_PART_DIR", dir.path())
            .status();
        assert!(status.unwrap().success());
    }
}

fn criterion(payloads: &Arc<Payloads>) {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let mut group = criterion.benchmark_group("durable append");
    for (batch, bytes) in [(1, 200), (100, 200), (10, 20_000)] {
        let dir = tempfile::tempdir_in(bench_dir()).unwrap();
        let (store, _) = Store::open(&settings(dir.path()), Arc::new(StillClock)).unwrap();
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(format!("{batch} of {bytes} B"), |b| {
            b.iter(|| append(&store, payloads, 1, batch, bytes, batch));
        });
    }
    group.finish();
    criterion.final_summary();
}

fn main() {
    edge_relay::allocator::keep_small();
    let part = std::env::var("STORE_BENCH_PART").unwrap_or_default();
    let part_dir = std::env::var_os("STORE_BENCH_PART_DIR").map(PathBuf::from);
    match (part.as_str(), part_dir) {
        ("fill", Some(dir)) => return fill(&dir),
        ("drain", Some(dir)) => return drain(&dir),
        _ => {}
    }
    let payloads = Arc::new(Payloads::new());
    println!(
        "directory {}, every append synced, segments of {} MiB",
        bench_dir().display(),
        segment_bytes() >> 20
    );
    side_by_side(&payloads);
    if std::env::var("STORE_BENCH_MILLION").as_deref() != Ok("0") {
        million();
    }
    criterion(&payloads);
}
