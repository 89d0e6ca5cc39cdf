//! A store in a temporary directory, a clock that is moved, and a disk that fails on demand.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hub_bridge::backlog::{Backlog, Mark, ReadLimit};
use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange};
use hub_bridge::reading::Reading;
use parking_lot::Mutex;

use crate::durable::DurableError;
use crate::store::frame::Frame;
use crate::store::segment::{Disk, LiveSegment, Medium, Meta};
use crate::store::{AppendError, Committed, NewReading, OpenReport, Settings, Store};

/// A clock that stands still until it is moved.
pub(crate) struct HandClock {
    wall_ms: AtomicI64,
    quality: Mutex<ClockQuality>,
}

impl HandClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            wall_ms: AtomicI64::new(1_700_000_000_000),
            quality: Mutex::new(ClockQuality::Synchronised),
        })
    }

    pub(crate) fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap();
        self.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }

    pub(crate) fn set_quality(&self, quality: ClockQuality) {
        *self.quality.lock() = quality;
    }
}

impl Clock for HandClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.wall_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(100)
    }

    fn boot(&self) -> BootId {
        BootId(5)
    }

    fn quality(&self) -> ClockQuality {
        *self.quality.lock()
    }

    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        (received.wall, received.quality)
    }
}

pub(crate) fn settings(dir: &Path) -> Settings {
    Settings {
        data_dir: dir.to_owned(),
        village: "bamenda-01".parse().unwrap(),
        machine_id: "machine".to_owned(),
        bytes_max: 1 << 30,
        disk_free_min: 0,
        alarm_at: 0.8,
        confirm: Mark::Forwarded,
        keep_forwarded: Duration::from_hours(7 * 24),
        segment_bytes: 64 * 1024,
        commit_delay: Duration::ZERO,
        queue_bytes_max: 4 << 20,
        hold_max: Duration::from_secs(5),
    }
}

pub(crate) fn open(settings: &Settings) -> (Store, OpenReport) {
    Store::open(settings, HandClock::new()).unwrap()
}

/// A reading with a payload of `bytes` bytes that tells `n`.
pub(crate) fn reading(n: u64, bytes: usize) -> NewReading {
    let mut payload = format!("{n:020}").into_bytes();
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while payload.len() < bytes {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        payload.push(x.to_le_bytes()[0]);
    }
    NewReading {
        topic: format!("meter/{}/power", n % 7).into(),
        client_id: format!("meter-{}", n % 7).into(),
        payload: payload.into(),
        qos: 1,
        retain: n.is_multiple_of(5),
        dup: false,
        packet_id: (n % 60_000) as u16 + 1,
        received: ReceivedAt {
            wall: UnixMillis(1_700_000_000_000 + n.cast_signed()),
            quality: ClockQuality::Synchronised,
            boot: BootId(5),
            monotonic_ms: 1000 + n,
        },
        properties: None,
    }
}

pub(crate) fn number_of(reading: &Reading) -> u64 {
    let text = std::str::from_utf8(&reading.payload[..20]).unwrap();
    text.parse().unwrap()
}

pub(crate) fn append(store: &Store, readings: Vec<NewReading>) -> Result<Committed, AppendError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bytes = readings.iter().map(NewReading::size_bytes).sum();
        store.reserve(bytes).await?.append(readings).await.unwrap()
    })
}

/// Appends readings `from..to`, `batch` in a call, of `bytes` bytes each.
pub(crate) fn fill(store: &Store, from: u64, to: u64, batch: u64, bytes: usize) {
    let mut n = from;
    while n < to {
        let end = (n + batch).min(to);
        append(store, (n..end).map(|n| reading(n, bytes)).collect()).unwrap();
        n = end;
    }
}

pub(crate) fn current(store: &Store) -> Epoch {
    store.stats().epoch
}

pub(crate) fn read_all(store: &Store, epoch: Epoch) -> Vec<Arc<Reading>> {
    let limit = ReadLimit {
        count: 100,
        bytes: 1 << 20,
    };
    let mut all = Vec::new();
    let mut from = Sequence::FIRST;
    loop {
        let batch = store.read(epoch, from, Mark::Forwarded, limit).unwrap();
        if batch.readings.is_empty() {
            return all;
        }
        from = batch.next.unwrap();
        all.extend(batch.readings);
    }
}

/// The numbers of all readings that wait, epoch by epoch.
pub(crate) fn waiting_numbers(store: &Store) -> Vec<u64> {
    let epochs = store.epochs();
    let all = epochs.iter().flat_map(|e| read_all(store, e.epoch));
    all.map(|r| number_of(&r)).collect()
}

pub(crate) fn range(first: u64, last: u64) -> SequenceRange {
    SequenceRange::new(Sequence(first), Sequence(last)).unwrap()
}

/// As a kill would leave the directory: a copy, taken while the store runs. Commits stand still while it is
/// made, but for the one that is on its way.
pub(crate) fn snapshot(store: &Store, to: &Path) {
    let _still = store.shared().index.lock();
    copy_dir(&store.shared().data_dir, to);
}

/// Copies a directory, files before directories: what the store's own files say of the segments is never newer than
/// the segments, as it would not be at a kill.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().flatten().collect();
    entries.sort_by_key(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in entries {
        let target = to.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy_dir(&entry.path(), &target),
            // A file may be renamed away under our feet, as at a real cut.
            _ => drop(std::fs::copy(entry.path(), target)),
        }
    }
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a [`FaultyDisk`] does wrong.
#[derive(Default)]
pub(crate) struct Faults {
    /// So many commits go well before each one fails.
    pub(crate) commits_left: AtomicU64,
    /// Whether a failing commit nevertheless reaches the disk.
    pub(crate) writes_anyway: std::sync::atomic::AtomicBool,
    /// Free space that it claims.
    pub(crate) free_bytes: AtomicU64,
}

impl Faults {
    pub(crate) fn none() -> Arc<Self> {
        let faults = Self::default();
        faults.commits_left.store(u64::MAX, Ordering::SeqCst);
        faults.free_bytes.store(u64::MAX, Ordering::SeqCst);
        Arc::new(faults)
    }
}

/// The real disk, with faults on demand.
pub(crate) struct FaultyDisk {
    pub(crate) faults: Arc<Faults>,
    disk: Disk,
}

struct FaultySegment {
    faults: Arc<Faults>,
    segment: Box<dyn LiveSegment>,
}

impl Medium for FaultyDisk {
    fn create(&mut self, dir: &Path, meta: &Meta) -> Result<Box<dyn LiveSegment>, DurableError> {
        Ok(Box::new(FaultySegment {
            faults: self.faults.clone(),
            segment: self.disk.create(dir, meta)?,
        }))
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.faults.free_bytes.load(Ordering::SeqCst))
    }
}

impl LiveSegment for FaultySegment {
    fn commit(&self, frames: &[Frame]) -> Result<(), DurableError> {
        let left = self.faults.commits_left.load(Ordering::SeqCst);
        if left == 0 {
            if self.faults.writes_anyway.load(Ordering::SeqCst) {
                self.segment.commit(frames)?;
            }
            return Err(DurableError::Io {
                path: "disk".into(),
                source: io::Error::from_raw_os_error(5),
            });
        }
        if left != u64::MAX {
            self.faults.commits_left.store(left - 1, Ordering::SeqCst);
        }
        self.segment.commit(frames)
    }

    fn values(&self, sequence: u64) -> Result<Vec<Bytes>, DurableError> {
        self.segment.values(sequence)
    }
}

pub(crate) fn open_faulty(settings: &Settings, faults: &Arc<Faults>) -> Store {
    let medium = FaultyDisk {
        faults: faults.clone(),
        disk: Disk,
    };
    Store::open_on(settings, HandClock::new(), Box::new(medium))
        .unwrap()
        .0
}
