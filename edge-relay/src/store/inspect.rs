//! What people ask of the store: figures, segments, a look at readings, a check of everything, and
//! the ways back into the backlog (replay, retry).

use std::path::PathBuf;
use std::sync::Arc;

use hub_bridge::backlog::BacklogError;
use hub_bridge::clock::{ReceivedAt, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::reading::Reading;
use serde::Serialize;

use super::Store;
use super::backlog;
use super::health::StoreHealth;
use super::index::{Need, Phase};
use super::reader::storage;
use super::segment::SegmentName;
use super::sequences::SequenceSet;
use super::shared::Shared;
use crate::durable;

/// The store in figures.
#[derive(Debug, Clone, Serialize)]
pub struct Stats {
    /// The epoch that new readings get.
    pub epoch: Epoch,
    /// Readings that are not confirmed, of all epochs.
    pub readings: u64,
    /// Their size, in bytes of frames.
    pub bytes: u64,
    /// The quota for that, in bytes.
    pub bytes_max: u64,
    /// When the oldest of them was received.
    pub oldest: Option<ReceivedAt>,
    /// The lowest sequence of the current epoch that is not confirmed.
    pub first_sequence: Sequence,
    /// The sequence that the next reading gets.
    pub next_sequence: Sequence,
    /// Each epoch.
    pub epochs: Vec<EpochStats>,
    /// Segments on disk, those kept after forwarding included.
    pub segments: u64,
    /// Segments whose readings are all confirmed.
    pub segments_done: u64,
    /// Readings that were refused by the hub and wait for a decision.
    pub refused: u64,
    /// Readings lost to damage.
    pub lost_readings: u64,
    /// Whether readings are taken.
    pub health: StoreHealth,
    /// Syncs of sled's files since the process began.
    pub syncs_total: u64,
}

/// One epoch in figures.
#[derive(Debug, Clone, Serialize)]
pub struct EpochStats {
    /// The epoch.
    pub epoch: Epoch,
    /// Its village.
    pub village: VillageId,
    /// Readings that are not confirmed.
    pub readings: u64,
    /// The sequence that its next reading gets, or would have got.
    pub next_sequence: Sequence,
    /// Readings that the hub's broker has, refused and lost ones included.
    pub forwarded: u64,
    /// Readings that the hub's database has, refused and lost ones included.
    pub stored: u64,
    /// What was lost to damage.
    pub lost: Vec<SequenceRange>,
    /// From which sequence on nobody knows whether there were readings that were lost: the epoch is over, since its
    /// end was damaged.
    pub tail_unknown_from: Option<Sequence>,
}

/// One segment.
#[derive(Debug, Clone, Serialize)]
pub struct SegmentInfo {
    /// Its directory.
    pub path: PathBuf,
    /// Its epoch.
    pub epoch: Epoch,
    /// The sequence of its first reading.
    pub first: Sequence,
    /// The sequence after its last reading.
    pub end: Sequence,
    /// The size of its frames, in bytes.
    pub bytes: u64,
    /// How many of its readings are not confirmed.
    pub waiting: u64,
    /// `open`, `closing` or `closed`.
    pub state: &'static str,
    /// Since when all in it is confirmed (ms since 1970), where that is so and the clock was to be trusted.
    pub done_since: Option<UnixMillis>,
    /// Whether damage was found in it.
    pub damaged: bool,
}

/// A reading that the hub never took.
#[derive(Debug, Clone, Serialize)]
pub struct RefusedInfo {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its sequence.
    pub sequence: Sequence,
    /// Why.
    pub reason: String,
    /// When it was put aside.
    pub at: UnixMillis,
    /// Whether it waits for the hub again.
    pub retried: bool,
}

/// What [`Store::verify`] found in one segment.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// The segment's directory.
    pub path: PathBuf,
    /// Readings that should be there.
    pub readings: u64,
    /// Of these, what cannot be read.
    pub missing: Vec<SequenceRange>,
    /// Why it could not be checked at all.
    pub error: Option<String>,
}

impl Store {
    /// The store in figures; cheap, whatever the backlog.
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let (confirming, bytes_max) = {
            let settings = shared.settings.read();
            (settings.confirm, settings.bytes_max)
        };
        let oldest = oldest(shared);
        let index = shared.index.lock();
        let (readings, bytes) = index.waiting(confirming);
        let epochs: Vec<EpochStats> = index
            .epochs
            .iter()
            .map(|e| EpochStats {
                epoch: e.epoch,
                village: e.village.clone(),
                readings: e.waiting(confirming),
                next_sequence: Sequence(e.next),
                forwarded: e.forwarded.count(),
                stored: e.stored.count(),
                lost: e.lost.ranges().collect(),
                tail_unknown_from: e.tail_unknown_from.map(Sequence),
            })
            .collect();
        let current = index.epochs.last();
        let segments = || index.epochs.iter().flat_map(|e| e.segments.values());
        let first = current.map_or(1, |e| e.passed(confirming).next_missing(1).min(e.next));
        Stats {
            epoch: current.map_or(Epoch(0), |e| e.epoch),
            readings,
            bytes,
            bytes_max,
            oldest,
            first_sequence: Sequence(first),
            next_sequence: Sequence(current.map_or(1, |e| e.next)),
            epochs,
            segments: segments().count() as u64,
            segments_done: segments()
                .filter(|s| matches!(s.need, Need::Done(_)))
                .count() as u64,
            refused: index.refused.values().filter(|r| !r.retried).count() as u64,
            lost_readings: index.epochs.iter().map(|e| e.lost.count()).sum(),
            health: shared.health.subscribe().borrow().clone(),
            syncs_total: durable::syncs_total(),
        }
    }

    /// All segments, oldest epoch first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let shared = self.shared();
        let index = shared.index.lock();
        let all = index.epochs.iter().flat_map(|e| {
            e.segments.iter().map(|(first, s)| SegmentInfo {
                path: shared.segment_dir(SegmentName {
                    epoch: e.epoch,
                    first: *first,
                }),
                epoch: e.epoch,
                first: Sequence(*first),
                end: Sequence(s.end),
                bytes: s.bytes,
                waiting: s.waiting,
                state: match s.phase {
                    Phase::Live => "open",
                    Phase::Unsealed => "closing",
                    Phase::Closed => "closed",
                },
                done_since: match s.need {
                    Need::Done(Some(ms)) => Some(UnixMillis(ms)),
                    _ => None,
                },
                damaged: s.damaged,
            })
        });
        all.collect()
    }

    /// Up to `count` readings of `epoch` from `from` on, confirmed or not.
    pub fn peek(
        &self,
        epoch: Epoch,
        from: Sequence,
        count: usize,
    ) -> Result<Vec<Arc<Reading>>, BacklogError> {
        let shared = self.shared();
        let next = shared.index.lock().epoch(epoch)?.next;
        let mut found = Vec::new();
        let mut at = from.0.max(1);
        while at < next && found.len() < count {
            match shared.page(epoch, at)? {
                super::reader::Found::Page(page) => {
                    let more = page.iter().filter(|r| r.sequence.0 >= at).cloned();
                    found.extend(more.take(count - found.len()));
                    at = page.last().map_or(at, |r| r.sequence.0) + 1;
                }
                super::reader::Found::Missing(behind) => at = behind,
            }
        }
        Ok(found)
    }

    /// Reads every frame of every closed segment and checks it. Changes no reading and no mark; of what is damaged a
    /// copy is kept aside.
    pub fn verify(&self) -> Vec<Verified> {
        let closed: Vec<SegmentInfo> = self
            .segments()
            .into_iter()
            .filter(|s| s.state != "open")
            .collect();
        closed.into_iter().map(|s| self.verify_one(s)).collect()
    }

    fn verify_one(&self, segment: SegmentInfo) -> Verified {
        let name = SegmentName {
            epoch: segment.epoch,
            first: segment.first.0,
        };
        let (missing, error) = match self.shared().verify_segment(name) {
            Ok(missing) => (missing, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Verified {
            path: segment.path,
            readings: segment.end.0 - segment.first.0,
            missing: SequenceSet::from_pairs(&missing).ranges().collect(),
            error,
        }
    }

    /// Puts readings that were received in `from..to` and are still on disk back into the backlog, under the
    /// same identities; returns how many. Refused and lost ones stay out.
    pub fn replay(&self, from: UnixMillis, to: UnixMillis) -> Result<u64, BacklogError> {
        let shared = self.shared();
        let mut back = 0;
        for segment in self.segments() {
            let mut at = segment.first;
            while at < segment.end {
                let page = match shared.page(segment.epoch, at.0)? {
                    super::reader::Found::Page(page) => page,
                    super::reader::Found::Missing(next) => {
                        at = Sequence(next);
                        continue;
                    }
                };
                back += self.replay_page(segment.epoch, &page, from, to)?;
                at = page.last().map_or(segment.end, |r| r.sequence.next());
            }
        }
        if back > 0 {
            shared.write_marks(true);
            shared.readings_came(back);
        }
        Ok(back)
    }

    fn replay_page(
        &self,
        epoch: Epoch,
        page: &[Arc<Reading>],
        from: UnixMillis,
        to: UnixMillis,
    ) -> Result<u64, BacklogError> {
        let shared = self.shared();
        let confirming = shared.settings.read().confirm;
        let mut index = shared.index.lock();
        let mut back = 0;
        for reading in page {
            let (time, _) = shared.clock.best_time_of(&reading.received);
            let refused = index.refused.contains_key(&(epoch, reading.sequence.0));
            if time < from || time >= to || refused {
                continue;
            }
            let range = SequenceRange::one(reading.sequence);
            let found = index.epoch_mut(epoch)?;
            if found.passed(confirming).contains(reading.sequence.0) {
                back += 1;
            }
            found.forwarded.remove(range);
            found.stored.remove(range);
        }
        if let (Some(first), Some(last)) = (page.first(), page.last()) {
            let range = SequenceRange {
                first: first.sequence,
                last: last.sequence,
            };
            index.epoch_mut(epoch)?.recount(range, confirming);
        }
        index.dirty |= back > 0;
        Ok(back)
    }

    /// The readings that the hub never took.
    pub fn refused(&self) -> Vec<RefusedInfo> {
        let index = self.shared().index.lock();
        let all = index.refused.iter();
        all.map(|((epoch, sequence), entry)| RefusedInfo {
            epoch: *epoch,
            sequence: Sequence(*sequence),
            reason: entry.reason.clone(),
            at: UnixMillis(entry.at_ms),
            retried: entry.retried,
        })
        .collect()
    }

    /// Puts a refused reading back into the backlog under its own identity, durably; whether there was one.
    pub fn retry(&self, epoch: Epoch, sequence: Sequence) -> Result<bool, BacklogError> {
        let shared = self.shared();
        if !shared
            .index
            .lock()
            .refused
            .contains_key(&(epoch, sequence.0))
        {
            return Ok(false);
        }
        let mut refused = shared.refused_dir.get(epoch, sequence.0).map_err(storage)?;
        refused.retried = true;
        shared.refused_dir.put(&refused).map_err(storage)?;
        let confirming = shared.settings.read().confirm;
        {
            let mut index = shared.index.lock();
            if let Some(entry) = index.refused.get_mut(&(epoch, sequence.0)) {
                entry.retried = true;
            }
            let range = SequenceRange::one(sequence);
            let found = index.epoch_mut(epoch)?;
            found.forwarded.remove(range);
            found.stored.remove(range);
            found.recount(range, confirming);
            index.dirty = true;
        }
        shared.write_marks(true);
        shared.readings_came(1);
        Ok(true)
    }
}

/// The stamp of the oldest reading that waits.
fn oldest(shared: &Shared) -> Option<ReceivedAt> {
    let confirming = shared.settings.read().confirm;
    let (epoch, sequence) = {
        let index = shared.index.lock();
        let mut waiting = index.epochs.iter().filter(|e| e.waiting(confirming) > 0);
        let epoch = waiting.next()?;
        (epoch.epoch, epoch.passed(confirming).next_missing(1))
    };
    let reading = backlog::one(shared, epoch, sequence).ok().flatten()?;
    Some(reading.received)
}
