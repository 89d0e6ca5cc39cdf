//! Reads the backlog ahead of the link, oldest epoch first, off the async threads.
//!
//! Where new readings go first (`uplink.forward = "live-first"`) there are two lanes, each in the order of its sequences:
//! *live*, from a line that is drawn when a link begins, and *backlog*, what waits below it. A cut of less than
//! [`LINE_STAYS`] does not move the line: what came meanwhile is live still. Invariant: what was given out is not read
//! again before it is given back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::backlog::{Backlog, BacklogError, EpochState, Mark, ReadLimit};
use crate::identity::{Epoch, Sequence, SequenceRange, VillageId};
use crate::ranges::Ranges;
use crate::reading::Reading;

/// How much one read asks for: beside what is in flight and what is read ahead (`storage`), this is in memory, or one
/// reading that is larger.
const READ_AT_ONCE: ReadLimit = ReadLimit {
    count: 512,
    bytes: 128 * 1024,
};
/// Of the backlog while new readings go first: what is read ahead of it, they have to wait for.
const READ_BEHIND_LIVE: ReadLimit = ReadLimit {
    count: 128,
    bytes: 16 * 1024,
};
/// How long a link may be gone before what came meanwhile counts as having waited.
const LINE_STAYS: Duration = Duration::from_secs(120);

/// Which readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedLane {
    Live,
    Backlog,
}

/// Readings of one epoch.
pub(crate) struct Portion {
    pub(crate) epoch: Epoch,
    /// How many epochs are older.
    pub(crate) epoch_age: usize,
    pub(crate) village: Arc<VillageId>,
    pub(crate) readings: Vec<Arc<Reading>>,
    pub(crate) lane: FeedLane,
    next: Sequence,
}

/// What a look into the backlog found.
pub(crate) enum Found {
    Portion(Portion),
    Nothing {
        /// There is something that the policy holds back.
        held_back: bool,
    },
}

/// Where live begins in each epoch; one that is not named is live from its start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line(HashMap<Epoch, Sequence>);

/// The line as it is remembered from link to link, and when the last link ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineKept(Option<(Line, Duration)>);

impl LineKept {
    /// The line of a link that begins.
    fn begin(&self, epochs: &[EpochState], now: Duration) -> Line {
        match &self.0 {
            Some((line, at)) if now.saturating_sub(*at) < LINE_STAYS => line.clone(),
            _ => Line(epochs.iter().map(|s| (s.epoch, s.next)).collect()),
        }
    }

    /// A link that the hub had accepted ended.
    pub(crate) fn keep(&mut self, feed: &Feed, now: Duration) {
        self.0 = feed.line.clone().map(|line| (line, now));
    }
}

/// Where the link has read to.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    mark: Mark,
    /// Of the backlog, which is everything where there is no line.
    cursors: HashMap<Epoch, Sequence>,
    live: HashMap<Epoch, Sequence>,
    /// What is under way, and what waits for its receipt: not read again while it is here.
    given: HashMap<Epoch, Ranges>,
    line: Option<Line>,
    holds_backlog: bool,
    /// There is something that the policy holds back.
    pub(crate) held_back: bool,
    /// Nothing more is there until something is appended.
    pub(crate) exhausted: bool,
    /// Counts how often something was given back; and what it was when the read under way began.
    returns: u64,
    returns_at_read: u64,
}

impl Feed {
    /// Of a link without a line. Readings that have `mark` are not read.
    pub(crate) fn new(mark: Mark) -> Self {
        Self {
            mark,
            cursors: HashMap::new(),
            live: HashMap::new(),
            given: HashMap::new(),
            line: None,
            holds_backlog: false,
            held_back: false,
            exhausted: false,
            returns: 0,
            returns_at_read: 0,
        }
    }

    /// Of a link that begins with a line.
    pub(crate) fn live_first(
        mark: Mark,
        kept: &LineKept,
        epochs: &[EpochState],
        now: Duration,
    ) -> Self {
        Self {
            line: Some(kept.begin(epochs, now)),
            ..Self::new(mark)
        }
    }

    /// Whether new readings go before what waited.
    pub(crate) fn live_goes_first(&self) -> bool {
        self.line.is_some()
    }

    /// Whether the backlog lane may be read.
    pub(crate) fn backlog_may_go(&mut self, may: bool) {
        self.holds_backlog = !may;
        self.held_back &= !may;
        self.exhausted = false;
        self.returns += 1;
    }

    /// `ranges` are not to be read until they are given back.
    pub(crate) fn keep_out(&mut self, epoch: Epoch, ranges: &[SequenceRange]) {
        let given = self.given.entry(epoch).or_default();
        for range in ranges {
            given.insert(*range);
        }
    }

    /// `ranges` are read again, where they are not confirmed.
    pub(crate) fn give_back(&mut self, epoch: Epoch, ranges: &[SequenceRange]) {
        let given = self.given.entry(epoch).or_default();
        for range in ranges {
            given.remove(*range);
        }
        let first = ranges.iter().map(|range| range.first).min();
        // Each lane looks on its own side of the line only.
        for cursors in [&mut self.cursors, &mut self.live] {
            if let (Some(first), Some(cursor)) = (first, cursors.get_mut(&epoch)) {
                *cursor = (*cursor).min(first);
            }
        }
        self.exhausted = false;
        self.returns += 1;
    }

    /// Whether new readings go before those that waited.
    pub(crate) fn has_a_live_lane(&self) -> bool {
        self.line.is_some()
    }

    /// Begin again with what is not confirmed: only while nothing of it is under way. What waits for its receipt is to be
    /// kept out again.
    pub(crate) fn rewind(&mut self) {
        if let Some(line) = &mut self.line {
            // All that was live is through, or came back: that waits with the rest.
            for (epoch, next) in self.live.drain() {
                let from = line.0.entry(epoch).or_insert(next);
                *from = (*from).max(next);
            }
        }
        self.cursors.clear();
        self.given.clear();
        self.exhausted = false;
    }

    /// What a read works on, off this thread.
    pub(crate) fn for_a_read(&mut self) -> Self {
        self.returns_at_read = self.returns;
        self.clone()
    }

    /// Takes note of what was read. A read that began before something was given back, or the policy let something else
    /// go, knows nothing of that: the next goes over the same sequences again, and leaves out what is given.
    pub(crate) fn advance(&mut self, found: &Found) {
        if self.returns != self.returns_at_read {
            return;
        }
        match found {
            Found::Portion(portion) => {
                let cursors = match portion.lane {
                    FeedLane::Live => &mut self.live,
                    FeedLane::Backlog => &mut self.cursors,
                };
                cursors.insert(portion.epoch, portion.next);
            }
            Found::Nothing { held_back } => {
                self.held_back = *held_back;
                self.exhausted = true;
            }
        }
    }

    /// The next portion. Blocks on the disk.
    pub(crate) fn read(&self, backlog: &dyn Backlog) -> Result<Found, BacklogError> {
        let epochs = backlog.epochs();
        if self.line.is_some()
            && let Some(portion) = self.read_lane(backlog, &epochs, FeedLane::Live)?
        {
            return Ok(Found::Portion(portion));
        }
        // Without a line there is no live lane, and what may not go has no link.
        if self.holds_backlog && self.line.is_some() {
            let held_back = epochs.iter().any(|state| {
                let (from, to) = self.bounds(state, FeedLane::Backlog);
                self.not_given(state.epoch, from) < to
            });
            return Ok(Found::Nothing { held_back });
        }
        let portion = self.read_lane(backlog, &epochs, FeedLane::Backlog)?;
        Ok(portion.map_or(Found::Nothing { held_back: false }, Found::Portion))
    }

    /// What is to be read of an epoch: from, and to before.
    fn bounds(&self, state: &EpochState, which: FeedLane) -> (Sequence, Sequence) {
        let live_from = self.line.as_ref().map_or(state.next, |line| {
            line.0.get(&state.epoch).copied().unwrap_or(Sequence(1))
        });
        let (cursors, from, to) = match which {
            FeedLane::Live => (&self.live, live_from, state.next),
            FeedLane::Backlog => (&self.cursors, Sequence(1), live_from.min(state.next)),
        };
        let cursor = cursors.get(&state.epoch).copied().unwrap_or(from);
        (cursor.max(from).max(state.first_unconfirmed), to)
    }

    /// The first from `from` on that was not given out.
    fn not_given(&self, epoch: Epoch, from: Sequence) -> Sequence {
        let given = self.given.get(&epoch);
        given.map_or(from, |given| given.next_missing(from))
    }

    fn read_lane(
        &self,
        backlog: &dyn Backlog,
        epochs: &[EpochState],
        lane: FeedLane,
    ) -> Result<Option<Portion>, BacklogError> {
        let limit = if lane == FeedLane::Backlog && self.line.is_some() {
            READ_BEHIND_LIVE
        } else {
            READ_AT_ONCE
        };
        let nothing = Ranges::default();
        for (epoch_age, state) in epochs.iter().enumerate() {
            let given = self.given.get(&state.epoch).unwrap_or(&nothing);
            let (from, to) = self.bounds(state, lane);
            let mut from = given.next_missing(from);
            while from < to {
                let mut batch = backlog.read(state.epoch, from, self.mark, limit)?;
                let past = batch.readings.last().map(|reading| reading.sequence.next());
                let Some(next) = batch.next.max(past) else {
                    break;
                };
                // What lies behind the line is the other lane's.
                batch
                    .readings
                    .retain(|r| r.sequence < to && !given.contains(r.sequence));
                let next = next.min(to);
                if !batch.readings.is_empty() {
                    return Ok(Some(Portion {
                        epoch: state.epoch,
                        epoch_age,
                        village: Arc::new(state.village.clone()),
                        readings: batch.readings,
                        lane,
                        next,
                    }));
                }
                if next <= from {
                    break;
                }
                from = given.next_missing(next);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Mutex;

    use tokio::sync::watch;

    use super::*;
    use crate::backlog::{ReadBatch, Refusal};
    use crate::clock::{BootId, ClockQuality, ReceivedAt, UnixMillis};

    const EPOCH: Epoch = Epoch(7);

    /// The sequences that wait, and the next one.
    struct Waiting(Mutex<(Vec<u64>, u64)>);

    impl Waiting {
        fn of(sequences: Range<u64>) -> Self {
            let next = sequences.end;
            Self(Mutex::new((sequences.collect(), next)))
        }

        fn append(&self, count: u64) {
            let mut inner = self.0.lock().unwrap();
            let next = inner.1;
            inner.0.extend(next..next + count);
            inner.1 += count;
        }

        fn confirm(&self, gone: &[u64]) {
            self.0.lock().unwrap().0.retain(|n| !gone.contains(n));
        }
    }

    impl Backlog for Waiting {
        fn epochs(&self) -> Vec<EpochState> {
            let inner = self.0.lock().unwrap();
            let first = inner.0.first().copied().unwrap_or(inner.1);
            vec![EpochState {
                epoch: EPOCH,
                village: "v".parse().unwrap(),
                first_unconfirmed: Sequence(first),
                next: Sequence(inner.1),
            }]
        }

        fn read(
            &self,
            _epoch: Epoch,
            from: Sequence,
            _mark: Mark,
            limit: ReadLimit,
        ) -> Result<ReadBatch, BacklogError> {
            let inner = self.0.lock().unwrap();
            let found = inner.0.iter().filter(|n| **n >= from.0);
            let readings: Vec<_> = found.take(limit.count).map(|n| reading(*n)).collect();
            let next = readings.last().map(|last| last.sequence.next());
            Ok(ReadBatch { readings, next })
        }

        fn confirm(
            &self,
            _epoch: Epoch,
            _mark: Mark,
            _ranges: &[SequenceRange],
        ) -> Result<(), BacklogError> {
            Ok(())
        }

        fn refuse(
            &self,
            _epoch: Epoch,
            _sequence: Sequence,
            _refusal: &Refusal,
        ) -> Result<(), BacklogError> {
            Ok(())
        }

        fn appended(&self) -> watch::Receiver<u64> {
            watch::channel(0).1
        }
    }

    fn reading(sequence: u64) -> Arc<Reading> {
        Arc::new(Reading {
            sequence: Sequence(sequence),
            topic: "t".into(),
            client_id: "m".into(),
            payload: bytes::Bytes::new(),
            qos: 1,
            retain: false,
            packet_id: 1,
            received: ReceivedAt {
                wall: UnixMillis(0),
                quality: ClockQuality::Synchronised,
                boot: BootId(1),
                monotonic_ms: 0,
            },
            properties: None,
            repeat_of: None,
        })
    }

    /// All that the feed gives until there is nothing more.
    fn read_all(feed: &mut Feed, backlog: &Waiting) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let found = feed.for_a_read().read(backlog).unwrap();
            feed.advance(&found);
            let Found::Portion(portion) = found else {
                return all;
            };
            for reading in portion.readings {
                let sequence = reading.sequence;
                feed.keep_out(EPOCH, &[SequenceRange::one(sequence)]);
                all.push(sequence.0);
            }
        }
    }

    fn live_first(backlog: &Waiting, kept: &LineKept, seconds: u64) -> Feed {
        let now = Duration::from_secs(seconds);
        Feed::live_first(Mark::Forwarded, kept, &backlog.epochs(), now)
    }

    #[test]
    fn new_readings_go_first_and_what_waited_stays_until_it_may_go() {
        let backlog = Waiting::of(1..1001);
        let mut feed = live_first(&backlog, &LineKept::default(), 0);
        feed.backlog_may_go(false);
        backlog.append(3);
        assert_eq!(read_all(&mut feed, &backlog), [1001, 1002, 1003]);
        assert!(feed.held_back);
        feed.backlog_may_go(true);
        backlog.append(1);
        let all = read_all(&mut feed, &backlog);
        assert_eq!(all.first(), Some(&1004));
        assert!(all[1..].iter().copied().eq(1..1001), "in order, each once");
        assert!(!feed.held_back);
    }

    #[test]
    fn nothing_is_read_twice_and_what_came_back_waits_with_the_rest() {
        let backlog = Waiting::of(1..11);
        let mut feed = live_first(&backlog, &LineKept::default(), 0);
        feed.backlog_may_go(false);
        backlog.append(5);
        assert_eq!(read_all(&mut feed, &backlog), [11, 12, 13, 14, 15]);
        // 13 came back: it was put aside, and that failed.
        backlog.confirm(&[11, 12, 14, 15]);
        feed.rewind();
        assert!(read_all(&mut feed, &backlog).is_empty());
        backlog.append(1);
        feed.backlog_may_go(true);
        let all = read_all(&mut feed, &backlog);
        assert_eq!(all, [16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13]);
    }

    #[test]
    fn what_is_given_back_is_read_again_in_its_lane() {
        let backlog = Waiting::of(1..11);
        let mut feed = live_first(&backlog, &LineKept::default(), 0);
        backlog.append(3);
        assert_eq!(read_all(&mut feed, &backlog).len(), 13);
        let range = |first, last| SequenceRange::new(Sequence(first), Sequence(last)).unwrap();
        feed.give_back(EPOCH, &[range(4, 5), range(12, 12)]);
        assert_eq!(read_all(&mut feed, &backlog), [12, 4, 5]);
        feed.backlog_may_go(false);
        feed.give_back(EPOCH, &[range(4, 5), range(13, 13)]);
        assert_eq!(read_all(&mut feed, &backlog), [13]);
        assert!(feed.held_back);
    }

    #[test]
    fn a_short_cut_does_not_make_a_backlog_of_what_came_meanwhile() {
        let backlog = Waiting::of(1..11);
        let first = live_first(&backlog, &LineKept::default(), 0);
        backlog.append(2);
        let mut kept = LineKept::default();
        kept.keep(&first, Duration::from_secs(100));
        let mut soon = live_first(&backlog, &kept, 100 + 119);
        soon.backlog_may_go(false);
        assert_eq!(read_all(&mut soon, &backlog), [11, 12]);
        let mut late = live_first(&backlog, &kept, 100 + 121);
        late.backlog_may_go(false);
        assert!(read_all(&mut late, &backlog).is_empty());
    }

    #[test]
    fn without_a_line_all_go_in_their_order() {
        let backlog = Waiting::of(1..600);
        let mut feed = Feed::new(Mark::Forwarded);
        let all = read_all(&mut feed, &backlog);
        assert!(all.into_iter().eq(1..600));
    }
}
