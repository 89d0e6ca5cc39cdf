//! A segment: one sled database that is written once, from its creation to its close, and never opened
//! by sled again.
//!
//! `backlog/<epoch>-<first sequence, 20 digits>/` holds sled's files (`db`, `conf`, `blobs/`), `meta`
//! (whose it is) and, once closed, `closed` (the sidecar: where each frame lies). What the name of the
//! next segment of the epoch says is where this one ends: frames behind that were never acknowledged.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hub_bridge::identity::{Epoch, VillageId};
use serde::{Deserialize, Serialize};

use super::carve::{Carved, Indexed};
use super::envelope::{self, Kind};
use super::frame::{self, Frame};
use crate::durable::{self, DurableError};

/// sled's own segment size: with values up to [`frame::VALUE_BYTES_MAX`], nothing leaves the log for an
/// unsynced file (measured).
const SLED_SEGMENT_BYTES: usize = 512 * 1024;

/// sled's page cache, in bytes: only the right-most leaf is ever used again.
const SLED_CACHE_BYTES: u64 = 1024 * 1024;

/// Which segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SegmentName {
    /// Its epoch.
    pub(super) epoch: Epoch,
    /// The sequence of its first reading.
    pub(super) first: u64,
}

impl SegmentName {
    /// As the directory is called.
    pub(super) fn dir_name(self) -> String {
        format!("{}-{:020}", self.epoch, self.first)
    }

    /// From a directory's name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (epoch, first) = text.split_once('-')?;
        let all_digits = first.len() == 20 && first.bytes().all(|b| b.is_ascii_digit());
        Some(Self {
            epoch: epoch.parse().ok()?,
            first: all_digits.then(|| first.parse().ok())??,
        })
    }
}

/// `meta`: whose a segment is, should all else be lost. JSON, for people.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Meta {
    /// The epoch.
    pub(super) epoch: Epoch,
    /// The village its readings were received in.
    pub(super) village: VillageId,
    /// Where the checksums of its records start.
    pub(super) salt: u32,
}

impl Meta {
    const FILE: &str = "meta";

    /// Reads it from a segment's directory.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(Self::FILE)).ok()?).ok()
    }
}

/// The sidecar of a closed segment. Frozen: a change of fields is a new version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sidecar {
    /// The epoch, as a number.
    pub(super) epoch: u32,
    /// The sequence of the first reading.
    pub(super) first: u64,
    /// The sequence after the last reading.
    pub(super) end: u64,
    /// How many readings are there: fewer than `end - first` where some were lost.
    pub(super) count: u64,
    /// The size of all frames, in bytes.
    pub(super) bytes: u64,
    /// Whether something of the segment was damaged when it was closed.
    pub(super) damaged: bool,
    /// Where each frame lies, in order.
    pub(super) frames: Vec<Indexed>,
}

impl Sidecar {
    const FILE: &str = "closed";

    /// The sidecar of a segment that holds `carved`, cut to what lies below `end`.
    pub(super) fn new(name: SegmentName, end: u64, carved: &Carved) -> Self {
        let frames: Vec<Indexed> = carved
            .frames
            .iter()
            .filter(|f| f.first >= name.first && f.end() <= end)
            .cloned()
            .collect();
        let count: u64 = frames.iter().map(|f| u64::from(f.count)).sum();
        let places = frames.iter().flat_map(|f| &f.places);
        Self {
            epoch: name.epoch.0,
            first: name.first,
            end,
            count,
            bytes: places.map(|p| u64::from(p.length)).sum(),
            damaged: count < end.saturating_sub(name.first),
            frames,
        }
    }

    /// Reads and checks it.
    pub(super) fn read(dir: &Path, name: SegmentName, salt: u32) -> Option<Self> {
        let bytes = fs::read(dir.join(Self::FILE)).ok()?;
        let sidecar: Self = envelope::open(Kind::Sidecar, salt, &bytes).ok()?;
        let right = sidecar.epoch == name.epoch.0 && sidecar.first == name.first;
        (right && sidecar.is_consistent()).then_some(sidecar)
    }

    /// Whether its frames follow each other within `first..end`: a sound checksum says that it was written so, not
    /// that what wrote it was right. What is not consistent is read from the file again.
    fn is_consistent(&self) -> bool {
        let mut at = self.first;
        let in_order = self.frames.iter().all(|frame| {
            let follows = frame.first >= at && frame.count > 0;
            at = frame.end();
            follows
        });
        in_order && at <= self.end
    }

    /// Writes it, durably.
    pub(super) fn write(&self, dir: &Path, salt: u32) -> Result<(), DurableError> {
        let path = dir.join(Self::FILE);
        let bytes = envelope::seal(Kind::Sidecar, salt, self)
            .map_err(|e| DurableError::io(&path)(io::Error::other(e.to_string())))?;
        durable::write_atomic(&path, &bytes)
    }
}

/// Where segments are made: the disk, or a double of it that fails.
pub(super) trait Medium: Send {
    /// Makes a segment, durably, in `dir`, which must not exist.
    fn create(&mut self, dir: &Path, meta: &Meta) -> Result<Box<dyn LiveSegment>, DurableError>;

    /// Space left for ordinary users where `dir` is, in bytes.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// The segment that is being written.
pub(super) trait LiveSegment: Send + Sync {
    /// Puts `frames` on stable storage, all or none.
    ///
    /// # Errors
    /// Then nothing is known of `frames`, and the segment takes no more.
    fn commit(&self, frames: &[Frame]) -> Result<(), DurableError>;

    /// The values of the frame that holds `sequence`; empty where there is none.
    fn values(&self, sequence: u64) -> Result<Vec<Bytes>, DurableError>;
}

/// The real disk.
#[derive(Debug, Default)]
pub(super) struct Disk;

impl Medium for Disk {
    fn create(&mut self, dir: &Path, meta: &Meta) -> Result<Box<dyn LiveSegment>, DurableError> {
        let segment = SledSegment::create(dir, meta)?;
        Ok(Box::new(segment))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        durable::free_bytes(dir)
    }
}

/// A segment in sled.
struct SledSegment {
    /// There until the drop.
    db: Option<sled::Db>,
    blobs: PathBuf,
}

impl Drop for SledSegment {
    fn drop(&mut self) {
        // sled writes when it is dropped, and may panic over a disk that fails.
        let db = self.db.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
    }
}

impl SledSegment {
    fn create(dir: &Path, meta: &Meta) -> Result<Self, DurableError> {
        fs::create_dir(dir).map_err(DurableError::io(dir))?;
        let text = serde_json::to_vec(meta)
            .map_err(|e| DurableError::io(dir)(io::Error::other(e.to_string())))?;
        durable::write_atomic(&dir.join(Meta::FILE), &text)?;
        let syncs = durable::syncs_total();
        let db = sled_call(|| open_sled(dir))?;
        sled_call(|| db.insert([0_u8], b"segment"))?;
        let segment = Self {
            db: Some(db),
            blobs: dir.join("blobs"),
        };
        segment.flush(syncs)?;
        for file in ["db", "conf"] {
            durable::sync_file(&dir.join(file))?;
        }
        durable::sync_dir(&segment.blobs)?;
        durable::sync_dir(dir)?;
        if let Some(parent) = dir.parent() {
            durable::sync_dir(parent)?;
        }
        Ok(segment)
    }

    fn db(&self) -> Result<&sled::Db, DurableError> {
        self.db.as_ref().ok_or_else(panicked)
    }

    fn flush(&self, syncs_before: u64) -> Result<(), DurableError> {
        let db = self.db()?;
        catch_unwind(AssertUnwindSafe(|| durable::flush(db, Some(syncs_before))))
            .unwrap_or_else(|_| Err(panicked()))?;
        let mut blobs = fs::read_dir(&self.blobs).map_err(DurableError::io(&self.blobs))?;
        match blobs.next() {
            None => Ok(()),
            Some(_) => Err(DurableError::Blobs(self.blobs.clone())),
        }
    }
}

/// Opens a new sled database in `dir` with the settings that keep every value in its log.
pub(super) fn open_sled(dir: &Path) -> sled::Result<sled::Db> {
    sled::Config::new()
        .path(dir)
        .mode(sled::Mode::HighThroughput)
        .cache_capacity(SLED_CACHE_BYTES)
        .segment_size(SLED_SEGMENT_BYTES)
        .use_compression(false)
        .flush_every_ms(None)
        .open()
}

fn panicked() -> DurableError {
    DurableError::Flush(sled::Error::ReportableBug("sled panicked".to_owned()))
}

fn sled_call<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, DurableError> {
    catch_unwind(AssertUnwindSafe(call))
        .map_err(|_| panicked())?
        .map_err(DurableError::Flush)
}

impl LiveSegment for SledSegment {
    fn commit(&self, frames: &[Frame]) -> Result<(), DurableError> {
        let syncs = durable::syncs_total();
        let mut batch = sled::Batch::default();
        for frame in frames {
            batch.insert(&frame::key(frame.first, frame.piece), &*frame.bytes);
        }
        let db = self.db()?;
        sled_call(|| db.apply_batch(batch))?;
        self.flush(syncs)
    }

    fn values(&self, sequence: u64) -> Result<Vec<Bytes>, DurableError> {
        let highest = frame::key(sequence, u32::MAX);
        let db = self.db()?;
        let found = sled_call(|| db.range(..=&highest[..]).next_back().transpose())?;
        let Some((key, value)) = found.filter(|(key, _)| key.len() == highest.len()) else {
            return Ok(Vec::new());
        };
        let last_piece = key.get(8..).is_some_and(|piece| piece != [0; 4]);
        if !last_piece {
            return Ok(vec![Bytes::copy_from_slice(&value)]);
        }
        sled_call(|| {
            db.scan_prefix(key.get(..8).unwrap_or_default())
                .map(|found| found.map(|(_, value)| Bytes::copy_from_slice(&value)))
                .collect()
        })
    }
}

/// Whether a flush of sled reaches the disk in this program: makes a small database in `dir`, flushes it
/// and takes it away again.
///
/// # Errors
/// [`DurableError::NotSynced`] where it does not; others where the disk does not take it.
pub(super) fn self_check(dir: &Path) -> Result<(), DurableError> {
    let _ = fs::remove_dir_all(dir);
    let syncs = durable::syncs_total();
    let result = sled_call(|| {
        let db = open_sled(dir)?;
        db.insert(b"probe", b"probe")?;
        Ok(db)
    })
    .and_then(|db| durable::flush(&db, Some(syncs)));
    let _ = fs::remove_dir_all(dir);
    result
}
