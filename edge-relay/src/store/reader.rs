//! Reads frames back, from wherever they are, and finds out what was lost.
//!
//! Draining goes through a segment in order, so one open file and a few decoded frames are all that is
//! kept. A closed segment is read by its sidecar; where that, or a frame, is not sound, the file is carved.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hub_bridge::backlog::BacklogError;
use hub_bridge::identity::Epoch;
use hub_bridge::reading::Reading;

use super::carve::{self, Carved, Indexed};
use super::frame;
use super::segment::{SegmentName, Sidecar};

/// So many decoded frames are kept.
const PAGES_MAX: usize = 4;

/// So many segments are kept open.
const FILES_MAX: usize = 2;

/// The readings of one frame, in order.
pub(super) type Page = Arc<Vec<Arc<Reading>>>;

/// What is at a sequence.
#[derive(Debug)]
pub(super) enum Found {
    /// The frame that holds it.
    Page(Page),
    /// Nothing; the next reading of this segment, or its end, is at this sequence.
    Missing(u64),
}

/// For `map_err`.
pub(super) fn storage(error: impl std::fmt::Display) -> BacklogError {
    BacklogError::Storage(error.to_string())
}

/// Open files and decoded frames.
#[derive(Debug, Default)]
pub(super) struct Reader {
    files: VecDeque<SegmentFile>,
    pages: VecDeque<(Epoch, Page)>,
}

impl Reader {
    /// The decoded frame that holds `sequence`, where it is at hand.
    pub(super) fn cached(&self, epoch: Epoch, sequence: u64) -> Option<Page> {
        let holds = |page: &Page| {
            page.first().is_some_and(|r| r.sequence.0 <= sequence)
                && page.last().is_some_and(|r| sequence <= r.sequence.0)
        };
        let mut pages = self.pages.iter();
        pages
            .find(|(e, page)| *e == epoch && holds(page))
            .map(|(_, page)| page.clone())
    }

    /// Decodes `values` and keeps the result at hand.
    pub(super) fn decode(
        &mut self,
        epoch: Epoch,
        values: &[Bytes],
        salt: u32,
    ) -> Result<Page, BacklogError> {
        let page = Arc::new(frame::decode(values, salt).map_err(storage)?);
        self.keep(epoch, page.clone());
        Ok(page)
    }

    fn keep(&mut self, epoch: Epoch, page: Page) {
        if self.pages.len() == PAGES_MAX {
            self.pages.pop_front();
        }
        self.pages.push_back((epoch, page));
    }

    /// Reads the frame that holds `sequence` from a segment on disk, which ends before `end`.
    pub(super) fn read_segment(
        &mut self,
        dir: &Path,
        name: SegmentName,
        end: u64,
        salt: u32,
        sequence: u64,
    ) -> Result<Found, BacklogError> {
        let place = match self.files.iter().position(|f| f.name == name) {
            Some(place) => place,
            None => match SegmentFile::open(dir, name, end, salt) {
                Ok(file) => {
                    if self.files.len() == FILES_MAX {
                        self.files.pop_front();
                    }
                    self.files.push_back(file);
                    self.files.len() - 1
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing(end)),
                Err(e) => return Err(storage(e)),
            },
        };
        let Some(file) = self.files.get_mut(place) else {
            return Ok(Found::Missing(end));
        };
        let found = file.read(sequence).map_err(storage)?;
        if let Found::Page(page) = &found {
            let page = page.clone();
            self.keep(name.epoch, page);
        }
        Ok(found)
    }

    /// Lets go of a segment's file.
    pub(super) fn close(&mut self, name: SegmentName) {
        self.files.retain(|f| f.name != name);
    }
}

/// One segment on disk, open for reading.
#[derive(Debug)]
pub(super) struct SegmentFile {
    name: SegmentName,
    end: u64,
    salt: u32,
    path: PathBuf,
    file: File,
    frames: Carved,
    /// Whether `frames` is what is in the file, and not what the sidecar says.
    carved: bool,
}

impl SegmentFile {
    /// Opens the segment in `dir`.
    pub(super) fn open(dir: &Path, name: SegmentName, end: u64, salt: u32) -> io::Result<Self> {
        let path = dir.join("db");
        let file = File::open(&path)?;
        let (frames, carved) = match Sidecar::read(dir, name, salt) {
            Some(sidecar) => (
                Carved {
                    frames: sidecar.frames,
                    broken: 0,
                },
                false,
            ),
            None => (carve::carve(&path, name.epoch.0, salt)?, true),
        };
        Ok(Self {
            name,
            end,
            salt,
            path,
            file,
            frames,
            carved,
        })
    }

    fn decode(&self, frame: &Indexed) -> Option<Page> {
        let values = carve::read_values(&self.file, frame).ok()?;
        let page = frame::decode(&values, self.salt).ok()?;
        let right = page.first().is_some_and(|r| r.sequence.0 == frame.first)
            && page.len() as u64 == u64::from(frame.count);
        right.then(|| Arc::new(page))
    }

    /// The frame that holds `sequence`, or where to go on. Never takes a damaged frame for a missing one
    /// before it has looked for another copy in the whole file.
    pub(super) fn read(&mut self, sequence: u64) -> io::Result<Found> {
        loop {
            if let Some(page) = self.frames.find(sequence).and_then(|f| self.decode(f)) {
                return Ok(Found::Page(page));
            }
            if self.carved {
                break;
            }
            tracing::warn!(segment = %self.path.display(), sequence, "not where the sidecar says: carving");
            self.frames = carve::carve(&self.path, self.name.epoch.0, self.salt)?;
            self.carved = true;
        }
        let next = self.frames.next_from(sequence.saturating_add(1));
        Ok(Found::Missing(
            next.map_or(self.end, |n| n.min(self.end))
                .max(sequence.saturating_add(1)),
        ))
    }

    /// Shows each sound reading from `from` on.
    pub(super) fn for_each_from(&self, from: u64, mut show: impl FnMut(&Reading)) {
        let after = self.frames.frames.partition_point(|f| f.end() <= from);
        for frame in self.frames.frames.get(after..).unwrap_or_default() {
            if let Some(page) = self.decode(frame).filter(|_| frame.end() <= self.end) {
                page.iter().for_each(|reading| show(reading));
            }
        }
    }

    /// Looks at every frame; returns the sequences of `first..end` that cannot be read.
    pub(super) fn verify(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut missing = Vec::new();
        let mut at = self.name.first;
        while at < self.end {
            match self.read(at)? {
                Found::Page(page) => at = page.last().map_or(at, |r| r.sequence.0) + 1,
                Found::Missing(next) => {
                    missing.push((at, next - 1));
                    at = next;
                }
            }
        }
        Ok(missing)
    }
}
