//! The commit thread: collects what waits, writes it, makes it durable, and only then lets go of the
//! acknowledgements.
//!
//! On an error nobody is acknowledged and the segment is given up: after a failed sync nobody knows what of
//! it is on the disk. What waits is written into a new segment, whose name says where the old one ends, so
//! that a frame which did reach the disk is never taken for another one with the same sequences. What
//! waits longer than `hold_max` is given back.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hub_bridge::identity::{Epoch, Sequence, SequenceRange};

use super::envelope::EnvelopeError;
use super::frame::{self, Pending, READING_BYTES_MAX};
use super::health::StoreHealth;
use super::index::Live;
use super::quarantine;
use super::queue::{Job, Work};
use super::repeat::Recent;
use super::segment::{Medium, Meta, SegmentName};
use super::shared::Shared;
use super::{AppendError, Committed, NewReading};
use crate::durable::{self, DurableError};

/// At most so many bytes of readings share one flush.
const COMMIT_BYTES_MAX: usize = 1024 * 1024;

/// Waits between attempts after a failure: from the first, doubled up to the last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A store that was full takes readings again only with this share of `bytes_max` free (one in so many), and with
/// [`FREE_AGAIN_BYTES_MAX`] or a segment more than the least on the disk: else it would be full again at once.
const QUOTA_FREE_AGAIN: u64 = 20;

/// See [`QUOTA_FREE_AGAIN`].
const FREE_AGAIN_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long what the disk had free is believed, less what was committed since.
pub(super) const FREE_KNOWN_FOR: Duration = Duration::from_millis(10);

/// How often an unwell store looks whether it is well again while nothing comes.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
enum CommitError {
    #[error("{0}")]
    Full(String),
    #[error(transparent)]
    Disk(#[from] DurableError),
    #[error(transparent)]
    Encode(#[from] EnvelopeError),
}

impl CommitError {
    fn to_append(&self) -> AppendError {
        match self {
            Self::Full(_) => AppendError::Quota,
            Self::Disk(e) => AppendError::Disk(e.to_string()),
            Self::Encode(e) => AppendError::Disk(e.to_string()),
        }
    }

    /// Whether the disk has no space left.
    fn is_full(&self) -> bool {
        match self {
            Self::Disk(
                DurableError::Io { source, .. } | DurableError::Flush(sled::Error::Io(source)),
            ) => source.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// The readings of some jobs in one row.
#[derive(Default)]
struct Batch {
    readings: Vec<Pending>,
    tickets: Vec<Ticket>,
    bytes: u64,
}

struct Ticket {
    count: usize,
    job: Job,
}

impl Batch {
    fn new(jobs: Vec<Job>) -> Self {
        let mut batch = Self::default();
        for mut job in jobs {
            let readings = std::mem::take(&mut job.readings);
            let too_large = readings.iter().any(|r| r.size_bytes() > READING_BYTES_MAX);
            if readings.is_empty() || too_large {
                let why = "not a reading, or one over 15 MiB".to_owned();
                let _ = job.done.send(Err(AppendError::Disk(why)));
                continue;
            }
            let size = readings.iter().map(|r| r.size_bytes() as u64).sum::<u64>();
            batch.bytes += size;
            batch.tickets.push(Ticket {
                count: readings.len(),
                job,
            });
            batch
                .readings
                .extend(readings.into_iter().map(|reading| Pending {
                    reading,
                    repeat_of: None,
                }));
        }
        batch
    }

    /// Takes out, from the front, what has waited longer than `hold_max`.
    fn give_back(&mut self, hold_max: Duration, why: &AppendError) {
        let now = Instant::now();
        let expired = |t: &Ticket| now.duration_since(t.job.queued) >= hold_max;
        while self.tickets.first().is_some_and(expired) {
            let ticket = self.tickets.remove(0);
            self.readings.drain(..ticket.count.min(self.readings.len()));
            let _ = ticket.job.done.send(Err(why.clone()));
        }
    }

    fn acknowledge(self, epoch: Epoch, first: u64) {
        let mut first = first;
        for ticket in self.tickets {
            let end = first + ticket.count as u64;
            if let Some(range) = SequenceRange::new(Sequence(first), Sequence(end - 1)) {
                let _ = ticket.job.done.send(Ok(Committed { epoch, range }));
            }
            drop(ticket.job.permit);
            first = end;
        }
    }
}

/// The thread's state.
pub(super) struct Committer {
    shared: Arc<Shared>,
    medium: Box<dyn Medium>,
    recent: Recent,
    /// Until when a probe of an unwell store waits.
    backoff: Duration,
    /// The size of the batch that did not fit, in bytes: what must fit before the store is well again.
    refused_bytes: u64,
    /// How much was free on the disk when it was asked last.
    free: Option<(Instant, u64)>,
}

impl Committer {
    /// Ready to run; `recent` knows the last readings of the current epoch.
    pub(super) fn new(shared: Arc<Shared>, medium: Box<dyn Medium>, recent: Recent) -> Self {
        Self {
            shared,
            medium,
            recent,
            backoff: BACKOFF.0,
            refused_bytes: 0,
            free: None,
        }
    }

    /// Runs until the queue is closed and empty.
    pub(super) fn run(mut self) {
        durable::commit_on_one_cpu();
        // A disk that is full at the start is known before the first reading comes.
        match self.room_for(0, true) {
            Ok(()) => self.shared.recovered(),
            Err(error) => self.failed(&error),
        }
        loop {
            let (patience, delay) = (self.patience(), self.shared.settings.read().commit_delay);
            match self.shared.queue.next(patience, delay, COMMIT_BYTES_MAX) {
                Work::Commit(jobs) => self.settle(Batch::new(jobs)),
                Work::Roll => self.roll_if_done(),
                Work::Idle => self.probe(),
                Work::Close => break,
            }
        }
        self.end_segment();
    }

    fn patience(&self) -> Duration {
        if self.shared.health.is_well() {
            Duration::from_hours(1)
        } else {
            PROBE_EVERY
        }
    }

    /// Commits `batch`, or gives it back when its time is over.
    fn settle(&mut self, mut batch: Batch) {
        self.backoff = BACKOFF.0;
        while !batch.tickets.is_empty() {
            let error = match self.commit(&mut batch) {
                Ok((epoch, first)) => {
                    let count = batch.readings.len() as u64;
                    batch.acknowledge(epoch, first);
                    self.shared.readings_came(count);
                    self.after_commit();
                    return;
                }
                Err(error) => error,
            };
            self.refused_bytes = batch.bytes;
            self.failed(&error);
            let hold_max = if self.shared.queue.is_closing() {
                Duration::ZERO
            } else {
                self.shared.settings.read().hold_max
            };
            batch.give_back(hold_max, &error.to_append());
            if !batch.tickets.is_empty() {
                self.shared.queue.pause(self.backoff);
                self.backoff = (self.backoff * 2).min(BACKOFF.1);
            }
        }
    }

    fn commit(&mut self, batch: &mut Batch) -> Result<(Epoch, u64), CommitError> {
        self.room_for(batch.bytes, !self.shared.health.is_well())?;
        let (live, first, salt) = self.live_segment()?;
        for (sequence, pending) in (first..).zip(&mut batch.readings) {
            pending.repeat_of = self.recent.take(&pending.reading, sequence);
        }
        let epoch = live.name.epoch;
        let result = frame::encode(epoch, first, &batch.readings, salt)
            .map_err(CommitError::from)
            .and_then(|frames| {
                live.segment.commit(&frames)?;
                Ok(frames)
            });
        match result {
            Ok(frames) => {
                self.shared.index.lock().appended(&frames);
                let next = first + batch.readings.len() as u64;
                self.shared.reached.lock().note(epoch, next);
                Ok((epoch, first))
            }
            Err(error) => {
                self.recent.forget_from(first);
                Err(error)
            }
        }
    }

    /// The segment to write to, the next sequence, and the salt.
    fn live_segment(&mut self) -> Result<(Live, u64, u32), CommitError> {
        let (live, record) = {
            let index = self.shared.index.lock();
            let Some(epoch) = index.epochs.last() else {
                return Err(CommitError::Full("no epoch".to_owned()));
            };
            let meta = Meta {
                epoch: epoch.epoch,
                village: epoch.village.clone(),
                salt: epoch.salt,
            };
            (index.live.clone(), (meta, epoch.next))
        };
        let (meta, next) = record;
        if let Some(live) = live {
            return Ok((live, next, meta.salt));
        }
        let name = SegmentName {
            epoch: meta.epoch,
            first: next,
        };
        let dir = self.shared.segment_dir(name);
        if dir.exists() {
            // Left by an attempt that failed: nothing in it was acknowledged.
            fs::remove_dir_all(&dir).map_err(DurableError::io(&dir))?;
        }
        let segment = self.medium.create(&dir, &meta)?;
        let live = Live {
            name,
            segment: Arc::from(segment),
        };
        self.shared.index.lock().begin_segment(live.clone());
        // So that a missing last segment is seen at the next start.
        self.shared.write_marks(true);
        Ok((live, next, meta.salt))
    }

    /// Whether `bytes` more may be kept; makes room where forwarded segments take it. `again`: whether there is so
    /// much room that a store which was full is not so again with the next batch.
    fn room_for(&mut self, bytes: u64, again: bool) -> Result<(), CommitError> {
        let (bytes_max, free_min) = {
            let settings = self.shared.settings.read();
            let room = settings.segment_bytes.min(FREE_AGAIN_BYTES_MAX);
            let room = if again { room + self.refused_bytes } else { 0 };
            (
                settings.bytes_max,
                settings.disk_free_min.saturating_add(room),
            )
        };
        let mut room = bytes;
        if again {
            let refused = self.refused_bytes.min(bytes_max / 2);
            room = room.max(refused).max(bytes_max / QUOTA_FREE_AGAIN);
        }
        let (_, waiting) = self.shared.waiting();
        if waiting.saturating_add(room) > bytes_max {
            return Err(CommitError::Full(format!(
                "{waiting} bytes wait, bytes_max is {bytes_max}"
            )));
        }
        loop {
            let free = self.free_bytes(again)?;
            if free >= free_min.saturating_add(bytes) {
                self.free = self.free.map(|(at, _)| (at, free.saturating_sub(bytes)));
                return Ok(());
            }
            self.free = None;
            if !self.shared.remove_oldest_done()
                && !quarantine::remove_oldest(&self.shared.data_dir)
            {
                return Err(CommitError::Full(format!(
                    "{free} bytes are free on the disk, {free_min} are needed"
                )));
            }
        }
    }

    /// What the disk has free; asked of it where that is not known, or not `surely` enough.
    fn free_bytes(&mut self, surely: bool) -> Result<u64, CommitError> {
        if let Some((at, free)) = self.free
            && !surely
            && at.elapsed() < FREE_KNOWN_FOR
        {
            return Ok(free);
        }
        let dir = &self.shared.backlog_dir;
        let free = self.medium.free_bytes(dir).map_err(DurableError::io(dir))?;
        self.shared.disk_free_bytes.store(free, Ordering::Relaxed);
        self.free = Some((Instant::now(), free));
        Ok(free)
    }

    fn failed(&mut self, error: &CommitError) {
        self.free = None;
        match error {
            CommitError::Full(reason) => {
                self.shared.health.set(StoreHealth::Full {
                    reason: reason.clone(),
                });
            }
            CommitError::Disk(_) | CommitError::Encode(_) => {
                self.end_segment();
                // Forwarded segments are the first to go when the disk is full.
                if !self.shared.remove_oldest_done() && error.is_full() {
                    quarantine::remove_oldest(&self.shared.data_dir);
                }
                self.shared.health.set(StoreHealth::Failing {
                    error: error.to_string(),
                });
            }
        }
    }

    fn after_commit(&mut self) {
        self.refused_bytes = 0;
        self.shared.recovered();
        let segment_bytes = self.shared.settings.read().segment_bytes;
        let full = {
            let index = self.shared.index.lock();
            let live = index.live.as_ref().map(|l| l.name.first);
            let segments = index.epochs.last().map(|e| &e.segments);
            live.and_then(|first| segments?.get(&first))
                .is_some_and(|s| s.bytes >= segment_bytes)
        };
        if full {
            self.end_segment();
        }
        self.shared.wake_keeper();
    }

    /// Closes the segment that is being written; the keeper makes its sidecar.
    fn end_segment(&mut self) {
        let ended = self.shared.index.lock().end_segment();
        if let Some((live, holds_readings)) = ended {
            let name = live.name;
            drop(live);
            if !holds_readings {
                let _ = fs::remove_dir_all(self.shared.segment_dir(name));
            }
        }
        self.shared.wake_keeper();
    }

    fn roll_if_done(&mut self) {
        if self.shared.live_is_done() {
            self.end_segment();
        }
    }

    /// Looks whether an unwell store is well again.
    fn probe(&mut self) {
        if self.shared.health.is_well() {
            return;
        }
        let result = self
            .room_for(0, true)
            .and_then(|()| self.live_segment().map(|_| ()));
        match result {
            Ok(()) => {
                self.refused_bytes = 0;
                self.shared.recovered();
            }
            Err(error) => self.failed(&error),
        }
    }
}

impl NewReading {
    /// About how many bytes the reading takes, in memory and on disk: what quotas and queues count.
    pub fn size_bytes(&self) -> usize {
        hub_bridge::reading::READING_OVERHEAD_BYTES
            + self.topic.len()
            + self.client_id.len()
            + self.payload.len()
            + self.properties.as_ref().map_or(0, |p| p.size_bytes())
    }
}
