//! A segment while it is written: one sled database, in the way that costs sled least.
//!
//! # How sled is used, and why (sled 0.34.7, read in its source and measured)
//!
//! - `apply_batch` seals sled's buffer at once, for a manifest of 24 bytes: two writes and two syncs a commit. A
//!   commit here is plain inserts and one flush, so one write and one sync. Nothing is lost by it: frames are carved
//!   one by one whatever sled says of them, and nobody is acknowledged before the flush.
//! - A leaf that gets its 17th value is split, and one that got its 10th since it was written last is written again
//!   as a whole. With ascending keys that writes each byte about three times. So large values go in *runs*: a tree of
//!   its own for every [`RUN_VALUES`] of them, which is neither split nor rewritten. Small values
//!   ([`SMALL_BYTES_MAX`]) stay in the default tree: below a block of the disk their copies cost nothing, and a tree
//!   for every nine of them would.
//! - What exceeds a quarter of sled's own segment is put into a file that sled never syncs. A leaf holds at most
//!   [`RUN_VALUES`] × [`VALUE_BYTES_MAX`](super::frame::VALUE_BYTES_MAX), or 17 small values: less than that. Should
//!   it happen all the same, the commit fails.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::fs::Dir;

use super::ahead::Ahead;
use super::frame::{self, Frame};
use super::segment::{LiveSegment, Meta};
use crate::durable::{self, DurableError};

/// sled's own segment size.
const SLED_SEGMENT_BYTES: usize = 512 * 1024;

/// sled's page cache, in bytes: only the right-most leaf is ever used again.
const SLED_CACHE_BYTES: u64 = 1024 * 1024;

/// How many large values share a tree.
const RUN_VALUES: usize = 9;

/// The largest value of the default tree, in bytes.
const SMALL_BYTES_MAX: usize = 2 * 1024;

// A run's leaf, should sled ever write it as a whole, fits into sled's log.
const _: () = assert!(RUN_VALUES * (frame::VALUE_BYTES_MAX + 64) < SLED_SEGMENT_BYTES / 4 - 64);
const _: () = assert!(17 * (SMALL_BYTES_MAX + 64) < SLED_SEGMENT_BYTES / 4 - 64);

type Key = [u8; 12];

/// The trees of large values, by their first key.
#[derive(Default)]
struct Runs {
    trees: BTreeMap<Key, sled::Tree>,
    /// How many values the last one holds.
    filled: usize,
}

/// A segment in sled.
pub(super) struct SledSegment {
    /// There until the drop.
    db: Option<sled::Db>,
    runs: Mutex<Runs>,
    ahead: Mutex<Ahead>,
    blobs: Blobs,
}

/// The directory where sled puts what does not fit its log, and which it never syncs.
struct Blobs {
    path: PathBuf,
    open: Mutex<Dir>,
}

impl Blobs {
    fn open(path: PathBuf) -> Result<Self, DurableError> {
        let dir = fs::File::open(&path)
            .and_then(|file| Ok(Dir::new(file)?))
            .map_err(DurableError::io(&path))?;
        let open = Mutex::new(dir);
        Ok(Self { path, open })
    }

    fn must_be_empty(&self) -> Result<(), DurableError> {
        let mut dir = self.open.lock();
        dir.rewind();
        while let Some(entry) = dir.read() {
            let entry = entry.map_err(|e| DurableError::io(&self.path)(e.into()))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Err(DurableError::Blobs(self.path.clone()));
            }
        }
        Ok(())
    }
}

impl Drop for SledSegment {
    fn drop(&mut self) {
        // sled writes when it is dropped, and may panic over a disk that fails.
        let (db, runs) = (self.db.take(), std::mem::take(&mut *self.runs.lock()));
        let _ = catch_unwind(AssertUnwindSafe(|| drop((runs, db))));
    }
}

impl SledSegment {
    /// Makes it in `dir`, which must not exist, durably.
    pub(super) fn create(dir: &Path, meta: &Meta) -> Result<Self, DurableError> {
        fs::create_dir(dir).map_err(DurableError::io(dir))?;
        let text = serde_json::to_vec(meta)
            .map_err(|e| DurableError::io(dir)(io::Error::other(e.to_string())))?;
        durable::write_atomic(&dir.join(Meta::FILE), &text)?;
        let syncs = durable::syncs_total();
        let db = sled_call(|| open_sled(dir))?;
        sled_call(|| db.insert([0_u8], b"segment"))?;
        let segment = Self {
            db: Some(db),
            runs: Mutex::default(),
            ahead: Mutex::new(Ahead::of(&dir.join("db"))),
            blobs: Blobs::open(dir.join("blobs"))?,
        };
        segment.flush(syncs)?;
        for file in ["db", "conf"] {
            durable::sync_file(&dir.join(file))?;
        }
        durable::sync_dir(&segment.blobs.path)?;
        durable::sync_dir(dir)?;
        if let Some(parent) = dir.parent() {
            durable::sync_dir(parent)?;
        }
        Ok(segment)
    }

    fn db(&self) -> Result<&sled::Db, DurableError> {
        self.db.as_ref().ok_or_else(panicked)
    }

    fn insert(&self, frame: &Frame) -> sled::Result<()> {
        let Some(db) = self.db.as_ref() else {
            return Err(sled::Error::ReportableBug(
                "the segment is closed".to_owned(),
            ));
        };
        let key = frame::key(frame.first, frame.piece);
        if frame.bytes.len() <= SMALL_BYTES_MAX {
            return db.insert(key, &*frame.bytes).map(drop);
        }
        let mut runs = self.runs.lock();
        let last = runs.trees.last_key_value().map(|(_, tree)| tree.clone());
        let tree = if let Some(tree) = last.filter(|_| runs.filled < RUN_VALUES) {
            tree
        } else {
            let tree = db.open_tree(key)?;
            runs.trees.insert(key, tree.clone());
            runs.filled = 0;
            tree
        };
        tree.insert(key, &*frame.bytes)?;
        runs.filled += 1;
        Ok(())
    }

    /// The trees that may hold the value of `key`: the default one, and the run it would lie in.
    fn trees(&self, key: &Key) -> Result<impl Iterator<Item = sled::Tree>, DurableError> {
        let run = self
            .runs
            .lock()
            .trees
            .range(..=*key)
            .next_back()
            .map(|(_, t)| t.clone());
        let default: sled::Tree = (**self.db()?).clone();
        Ok(run.into_iter().chain([default]))
    }

    /// The value with the greatest key up to `key`.
    fn at_or_before(&self, key: &Key) -> Result<Option<(Key, Bytes)>, DurableError> {
        let mut found: Option<(Key, Bytes)> = None;
        for tree in self.trees(key)? {
            let entry = sled_call(|| tree.range(..=&key[..]).next_back().transpose())?;
            let Some((key, value)) = entry else { continue };
            // The first value of each segment has a shorter key: it is no frame.
            let Ok(key) = Key::try_from(&*key) else {
                continue;
            };
            if found.as_ref().is_none_or(|(best, _)| key > *best) {
                found = Some((key, Bytes::copy_from_slice(&value)));
            }
        }
        Ok(found)
    }

    fn flush(&self, syncs_before: u64) -> Result<(), DurableError> {
        let db = self.db()?;
        catch_unwind(AssertUnwindSafe(|| durable::flush(db, Some(syncs_before))))
            .unwrap_or_else(|_| Err(panicked()))?;
        self.blobs.must_be_empty()
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
        let bytes = frames.iter().map(|frame| frame.bytes.len()).sum();
        self.ahead.lock().make_room(bytes);
        let syncs = durable::syncs_total();
        sled_call(|| frames.iter().try_for_each(|frame| self.insert(frame)))?;
        self.flush(syncs)
    }

    fn values(&self, sequence: u64) -> Result<Vec<Bytes>, DurableError> {
        let Some((key, value)) = self.at_or_before(&frame::key(sequence, u32::MAX))? else {
            return Ok(Vec::new());
        };
        let (first, last_piece) = frame::key_parts(key);
        let mut pieces = vec![value];
        for piece in (0..last_piece).rev() {
            match self.at_or_before(&frame::key(first, piece))? {
                Some((key, value)) if frame::key_parts(key) == (first, piece) => pieces.push(value),
                _ => return Ok(Vec::new()),
            }
        }
        pieces.reverse();
        Ok(pieces)
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
