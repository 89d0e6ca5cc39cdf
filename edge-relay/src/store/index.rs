//! What the store knows without looking at the disk: epochs, their segments, how far each mark is, and
//! the frames that were committed last.
//!
//! Memory: some hundred bytes a segment, and a bounded number of ranges an epoch; nothing a reading.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hub_bridge::backlog::{BacklogError, Mark};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};

use super::frame::Frame;
use super::marks::{EpochMarksV1, MarksV1, RingV1};
use super::refused::Entry;
use super::segment::{LiveSegment, SegmentName};
use super::sequences::SequenceSet;

/// More ranges than this are not kept beyond a mark: the highest are forgotten, and sent again.
const RANGES_MAX: usize = 4096;

/// So many epochs of which nothing is left are remembered for what was lost of them.
const LOSSES_KEPT: usize = 16;

/// The frames committed last are kept in memory up to so many bytes, for the bridge to read.
const TAIL_BYTES_MAX: usize = 1024 * 1024;

/// Where a segment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is being written.
    Live,
    /// It takes no more; its sidecar is not yet there.
    Unsealed,
    /// Its sidecar is there.
    Closed,
}

/// Whether a segment is still needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It holds readings that are not confirmed.
    Waiting,
    /// All are confirmed, since this trusted time, where there is one yet (ms since 1970).
    Done(Option<i64>),
}

/// One segment.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// The sequence after its last reading.
    pub(super) end: u64,
    /// The size of its frames, in bytes.
    pub(super) bytes: u64,
    /// How many of its readings are not confirmed.
    pub(super) waiting: u64,
    /// Where it is in its life.
    pub(super) phase: Phase,
    /// Whether it can go.
    pub(super) need: Need,
    /// Whether something in it was found damaged: it is then kept aside instead of removed.
    pub(super) damaged: bool,
    /// Whether all was done that can be to keep a copy of a damaged one aside.
    pub(super) aside: bool,
}

/// One epoch.
#[derive(Debug, Clone)]
pub(super) struct EpochIndex {
    /// Its id.
    pub(super) epoch: Epoch,
    /// The village its readings were received in.
    pub(super) village: VillageId,
    /// Where the checksums of its frames start.
    pub(super) salt: u32,
    /// The sequence that the next reading gets.
    pub(super) next: u64,
    /// Its segments by first sequence.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// What the hub's broker has, and what was refused or lost.
    pub(super) forwarded: SequenceSet,
    /// What the hub's database has, and what was refused or lost.
    pub(super) stored: SequenceSet,
    /// What was lost.
    pub(super) lost: SequenceSet,
    /// From where on nobody knows whether readings were lost: its end could not be proved.
    pub(super) tail_unknown_from: Option<u64>,
    waiting_bytes: u64,
}

impl EpochIndex {
    /// An epoch with nothing in it.
    pub(super) fn new(epoch: Epoch, village: VillageId, salt: u32) -> Self {
        Self {
            epoch,
            village,
            salt,
            next: 1,
            segments: BTreeMap::new(),
            forwarded: SequenceSet::default(),
            stored: SequenceSet::default(),
            lost: SequenceSet::default(),
            tail_unknown_from: None,
            waiting_bytes: 0,
        }
    }

    /// What `mark` has passed.
    pub(super) fn passed(&self, mark: Mark) -> &SequenceSet {
        match mark {
            Mark::Forwarded => &self.forwarded,
            Mark::Stored => &self.stored,
        }
    }

    /// How many readings `mark` has not passed.
    pub(super) fn waiting(&self, mark: Mark) -> u64 {
        (self.next - 1).saturating_sub(self.passed(mark).count())
    }

    /// The segment that holds `sequence`.
    pub(super) fn segment_of(&self, sequence: u64) -> Option<(u64, &Segment)> {
        let (first, segment) = self.segments.range(..=sequence).next_back()?;
        (sequence < segment.end).then_some((*first, segment))
    }

    /// Counts anew what waits in the segments that `range` touches.
    pub(super) fn recount(&mut self, range: SequenceRange, confirming: Mark) {
        let from = self
            .segments
            .range(..=range.first.0)
            .next_back()
            .map_or(range.first.0, |(first, _)| *first);
        let passed = match confirming {
            Mark::Forwarded => &self.forwarded,
            Mark::Stored => &self.stored,
        };
        for (first, segment) in self.segments.range_mut(from..=range.last.0) {
            self.waiting_bytes = self
                .waiting_bytes
                .saturating_sub(waiting_bytes(*first, segment));
            let count = segment.end - first;
            let done = match segment.end.checked_sub(1) {
                Some(last) if last >= *first => passed.count_in(*first, last),
                _ => 0,
            };
            segment.waiting = count - done;
            segment.need = match (segment.waiting, segment.need) {
                (0, Need::Done(since)) => Need::Done(since),
                (0, Need::Waiting) => Need::Done(None),
                _ => Need::Waiting,
            };
            self.waiting_bytes += waiting_bytes(*first, segment);
        }
    }

    /// Counts anew everything.
    pub(super) fn recount_all(&mut self, confirming: Mark) {
        self.waiting_bytes = 0;
        for segment in self.segments.values_mut() {
            segment.waiting = 0;
        }
        let all = SequenceRange {
            first: Sequence(0),
            last: Sequence(u64::MAX),
        };
        self.recount(all, confirming);
    }

    /// A segment has its sidecar, which knows its size; before, that may have been a guess.
    pub(super) fn sealed(&mut self, first: u64, damaged: bool, bytes: u64) {
        let Some(segment) = self.segments.get_mut(&first) else {
            return;
        };
        let guessed = waiting_bytes(first, segment);
        segment.phase = Phase::Closed;
        segment.damaged |= damaged;
        segment.bytes = bytes;
        self.waiting_bytes =
            self.waiting_bytes.saturating_sub(guessed) + waiting_bytes(first, segment);
    }

    /// Takes a segment out.
    pub(super) fn remove_segment(&mut self, first: u64) {
        if let Some(segment) = self.segments.remove(&first) {
            self.waiting_bytes = self
                .waiting_bytes
                .saturating_sub(waiting_bytes(first, &segment));
        }
    }

    /// Treats `range` as passed by both marks.
    pub(super) fn pass(&mut self, range: SequenceRange) {
        self.forwarded.insert(range);
        self.stored.insert(range);
    }
}

/// The size of what waits in a segment, in bytes: its share by number.
fn waiting_bytes(first: u64, segment: &Segment) -> u64 {
    let count = u128::from((segment.end - first).max(1));
    let share = u128::from(segment.bytes) * u128::from(segment.waiting) / count;
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// Frames in memory.
#[derive(Debug, Default)]
pub(super) struct Tail {
    units: VecDeque<TailUnit>,
    bytes: usize,
}

#[derive(Debug)]
struct TailUnit {
    epoch: Epoch,
    first: u64,
    end: u64,
    values: Vec<Bytes>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, epoch: Epoch, frames: &[Frame]) {
        for frame in frames {
            let length = frame.bytes.len();
            self.bytes += length;
            match self.units.back_mut() {
                Some(unit) if frame.piece > 0 && unit.first == frame.first => {
                    unit.values.push(frame.bytes.clone());
                    unit.bytes += length;
                }
                _ => self.units.push_back(TailUnit {
                    epoch,
                    first: frame.first,
                    end: frame.first + u64::from(frame.count),
                    values: vec![frame.bytes.clone()],
                    bytes: length,
                }),
            }
        }
        while self.bytes > TAIL_BYTES_MAX {
            let Some(unit) = self.units.pop_front() else {
                break;
            };
            self.bytes -= unit.bytes;
        }
    }

    fn find(&self, epoch: Epoch, sequence: u64) -> Option<&[Bytes]> {
        let after = self.units.partition_point(|u| u.first <= sequence);
        let unit = self.units.get(after.checked_sub(1)?)?;
        (unit.epoch == epoch && sequence < unit.end).then_some(&unit.values)
    }
}

/// The segment that is being written.
#[derive(Clone)]
pub(super) struct Live {
    /// Which one.
    pub(super) name: SegmentName,
    /// It.
    pub(super) segment: Arc<dyn LiveSegment>,
}

/// From where a reading is to be had.
pub(super) enum Source {
    /// From memory.
    Values(Vec<Bytes>),
    /// From the segment that is being written.
    Live(Live),
    /// From a segment on disk, which ends before this sequence.
    Segment(SegmentName, u64),
    /// From `refused/`, where it waits for another try.
    Refused,
    /// From nowhere; the next that exists is this.
    Nowhere(u64),
}

/// All of it.
#[derive(Default)]
pub(super) struct Index {
    /// Oldest first; the last one is the current one.
    pub(super) epochs: Vec<EpochIndex>,
    /// The segment that is being written.
    pub(super) live: Option<Live>,
    /// The frames committed last.
    pub(super) tail: Tail,
    /// Readings in `refused/`.
    pub(super) refused: BTreeMap<(Epoch, u64), Entry>,
    /// Changed since the marks were written, other than by readings that came.
    pub(super) dirty: bool,
    /// Readings that came since the marks were written.
    pub(super) grown: u64,
}

impl Index {
    /// An epoch by its id.
    pub(super) fn epoch(&self, epoch: Epoch) -> Result<&EpochIndex, BacklogError> {
        let mut all = self.epochs.iter();
        all.find(|e| e.epoch == epoch)
            .ok_or(BacklogError::UnknownEpoch(epoch))
    }

    /// An epoch by its id, to change it.
    pub(super) fn epoch_mut(&mut self, epoch: Epoch) -> Result<&mut EpochIndex, BacklogError> {
        let mut all = self.epochs.iter_mut();
        all.find(|e| e.epoch == epoch)
            .ok_or(BacklogError::UnknownEpoch(epoch))
    }

    /// Forgets epochs of the past with nothing left in them, but for the newest that tell of losses; returns which
    /// are kept.
    pub(super) fn forget_empty(&mut self) -> BTreeSet<Epoch> {
        let current = self.epochs.last().map(|e| e.epoch);
        let mut kept: BTreeSet<Epoch> = self.refused.keys().map(|(e, _)| *e).collect();
        let mut losses_left = LOSSES_KEPT;
        for epoch in self.epochs.iter().rev() {
            let tells = epoch.lost.count() > 0 || epoch.tail_unknown_from.is_some();
            if Some(epoch.epoch) == current || !epoch.segments.is_empty() {
                kept.insert(epoch.epoch);
            } else if tells && losses_left > 0 {
                losses_left -= 1;
                kept.insert(epoch.epoch);
            }
        }
        self.epochs.retain(|e| kept.contains(&e.epoch));
        self.epochs.iter().map(|e| e.epoch).collect()
    }

    /// Begins to write a segment.
    pub(super) fn begin_segment(&mut self, live: Live) {
        if let Ok(epoch) = self.epoch_mut(live.name.epoch) {
            let segment = Segment {
                end: live.name.first,
                bytes: 0,
                waiting: 0,
                phase: Phase::Live,
                need: Need::Waiting,
                damaged: false,
                aside: false,
            };
            epoch.segments.insert(live.name.first, segment);
        }
        self.live = Some(live);
        self.dirty = true;
    }

    /// Ends the segment that is being written; returns it, to be dropped outside of any lock, and whether
    /// anything is in it.
    pub(super) fn end_segment(&mut self) -> Option<(Live, bool)> {
        let live = self.live.take()?;
        self.dirty = true;
        let mut holds_readings = false;
        if let Ok(epoch) = self.epoch_mut(live.name.epoch)
            && let Some(segment) = epoch.segments.get_mut(&live.name.first)
        {
            segment.phase = Phase::Unsealed;
            holds_readings = segment.end > live.name.first;
            if !holds_readings {
                epoch.remove_segment(live.name.first);
            }
        }
        Some((live, holds_readings))
    }

    /// `frames` became durable in the segment that is being written.
    pub(super) fn appended(&mut self, frames: &[Frame]) {
        let Some(name) = self.live.as_ref().map(|live| live.name) else {
            return;
        };
        let count: u64 = frames
            .iter()
            .filter(|f| f.piece == 0)
            .map(|f| u64::from(f.count))
            .sum();
        self.grown += count;
        if let Ok(epoch) = self.epoch_mut(name.epoch)
            && let Some(segment) = epoch.segments.get_mut(&name.first)
        {
            epoch.waiting_bytes = epoch
                .waiting_bytes
                .saturating_sub(waiting_bytes(name.first, segment));
            segment.end += count;
            segment.waiting += count;
            segment.bytes += frames.iter().map(|f| f.bytes.len() as u64).sum::<u64>();
            segment.need = Need::Waiting;
            epoch.waiting_bytes += waiting_bytes(name.first, segment);
            epoch.next = segment.end;
        }
        self.tail.push(name.epoch, frames);
    }

    /// Moves `mark` over `ranges` of `epoch`; returns retried readings that are through now.
    pub(super) fn confirm(
        &mut self,
        epoch: Epoch,
        mark: Mark,
        ranges: &[SequenceRange],
        confirming: Mark,
    ) -> Result<Vec<u64>, BacklogError> {
        let found = self.epoch_mut(epoch)?;
        for range in ranges {
            if range.last.0 >= found.next || range.first.0 == 0 {
                return Err(BacklogError::NeverAppended {
                    epoch,
                    range: *range,
                    next: Sequence(found.next),
                });
            }
        }
        for range in ranges {
            found.forwarded.insert(*range);
            if mark == Mark::Stored {
                found.stored.insert(*range);
            }
            found.recount(*range, confirming);
        }
        if found.forwarded.pairs().len() > RANGES_MAX || found.stored.pairs().len() > RANGES_MAX {
            self.forget_highest(epoch, confirming)?;
        }
        self.dirty = true;
        let passed = self.epoch(epoch)?.passed(confirming);
        Ok(self
            .refused
            .range((epoch, 0)..=(epoch, u64::MAX))
            .filter(|((_, s), entry)| entry.retried && passed.contains(*s))
            .map(|((_, s), _)| *s)
            .collect())
    }

    /// Forgets the highest confirmations of `epoch`; what was lost or refused stays out of the way.
    fn forget_highest(&mut self, epoch: Epoch, confirming: Mark) -> Result<(), BacklogError> {
        let all = (epoch, 0)..=(epoch, u64::MAX);
        let refused = self.refused.range(all).filter(|(_, entry)| !entry.retried);
        let refused: Vec<u64> = refused.map(|((_, s), _)| *s).collect();
        let found = self.epoch_mut(epoch)?;
        found.forwarded.truncate(RANGES_MAX);
        found.stored.truncate(RANGES_MAX);
        let lost: Vec<SequenceRange> = found.lost.ranges().collect();
        let one = |s| SequenceRange::one(Sequence(s));
        for range in lost.into_iter().chain(refused.into_iter().map(one)) {
            found.pass(range);
        }
        found.recount_all(confirming);
        Ok(())
    }

    /// From where `sequence` is to be had.
    pub(super) fn source(&self, epoch: Epoch, sequence: u64) -> Result<Source, BacklogError> {
        if let Some(values) = self.tail.find(epoch, sequence) {
            return Ok(Source::Values(values.to_vec()));
        }
        let found = self.epoch(epoch)?;
        if let Some((first, segment)) = found.segment_of(sequence) {
            let name = SegmentName { epoch, first };
            return Ok(match &self.live {
                Some(live) if live.name == name => Source::Live(live.clone()),
                _ => Source::Segment(name, segment.end),
            });
        }
        if self.refused.contains_key(&(epoch, sequence)) {
            return Ok(Source::Refused);
        }
        let next_segment = found.segments.range(sequence..).next().map(|(f, _)| *f);
        let next_refused = self
            .refused
            .range((epoch, sequence)..=(epoch, u64::MAX))
            .next()
            .map(|((_, s), _)| *s);
        let next = next_segment.into_iter().chain(next_refused).min();
        Ok(Source::Nowhere(next.unwrap_or(found.next)))
    }

    /// What waits: readings and bytes.
    pub(super) fn waiting(&self, confirming: Mark) -> (u64, u64) {
        self.epochs.iter().fold((0, 0), |(readings, bytes), e| {
            (readings + e.waiting(confirming), bytes + e.waiting_bytes)
        })
    }

    /// The marks as they go to disk.
    pub(super) fn to_marks(&self) -> MarksV1 {
        let live = self.live.as_ref().map(|live| live.name);
        let epochs = self.epochs.iter().map(|e| EpochMarksV1 {
            epoch: e.epoch.0,
            next: e.next,
            live: live.filter(|n| n.epoch == e.epoch).map_or(0, |n| n.first),
            forwarded: e.forwarded.pairs().to_vec(),
            stored: e.stored.pairs().to_vec(),
            lost: e.lost.pairs().to_vec(),
        });
        let ring = self.epochs.iter().flat_map(|e| {
            e.segments.iter().filter_map(|(first, s)| match s.need {
                Need::Done(since_ms) => Some(RingV1 {
                    epoch: e.epoch.0,
                    first: *first,
                    since_ms,
                }),
                Need::Waiting => None,
            })
        });
        MarksV1 {
            epochs: epochs.collect(),
            ring: ring.collect(),
            ..MarksV1::default()
        }
    }
}
