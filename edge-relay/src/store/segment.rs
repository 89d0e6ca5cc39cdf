//! A segment: one sled database that is written once, from its creation to its close, and never opened
//! by sled again.
//!
//! `backlog/<epoch>-<first sequence, 20 digits>/` holds sled's files (`db`, `conf`, `blobs/`), `meta`
//! (whose it is) and, once closed, `closed` (the sidecar: where each frame lies). What the name of the
//! next segment of the epoch says is where this one ends: frames behind that were never acknowledged.

use std::fs;
use std::io;
use std::path::Path;

use bytes::Bytes;
use hub_bridge::identity::{Epoch, VillageId};
use serde::{Deserialize, Serialize};

use super::carve::{Carved, Indexed};
use super::envelope::{self, Kind};
use super::frame::Frame;
use super::sled_segment::SledSegment;
use crate::durable::{self, DurableError};

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
    /// Its name.
    pub(super) const FILE: &str = "meta";

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
