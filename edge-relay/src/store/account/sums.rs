//! The sums of segments, and what follows of them for an epoch. Pure: knows neither disk nor locks.

use hub_bridge::clock::ReceivedAt;
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::reading::Reading;
use hub_bridge::wire::account::{Absent, Account, VERSION};
use hub_bridge::wire::digest::{Digest, SetDigest, of_reading};
use serde::{Deserialize, Serialize};

use crate::store::sequences::SequenceSet;

/// What damage took before anyone had it.
const LOST: &str = "lost to damage of the village's disk";
/// The same, of what the hub's broker had acknowledged.
const UNREADABLE: &str = "forwarded, and damaged on the village's disk before it was accounted for";
/// What was let go while the account's file was away.
const FORGOTTEN: &str = "forwarded and let go, and the village's account of it was lost";

/// The sum of the readings `first..end`. Frozen: a change of fields is a new version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SumV1 {
    /// The first sequence.
    pub(super) first: u64,
    /// The sequence after the last one.
    pub(super) end: u64,
    /// How many readings are in the digest.
    pub(super) count: u64,
    /// Their [`SetDigest`].
    pub(super) digest: [u8; 16],
    /// What could not be read, and is not in the digest.
    pub(super) missing: Vec<(u64, u64)>,
}

impl SumV1 {
    /// Of nothing yet.
    pub(super) fn new(first: u64) -> Self {
        Self {
            first,
            end: first,
            ..Self::default()
        }
    }

    /// Adds the readings of a page, which begins at or before the sum's end.
    pub(super) fn add<'a>(&mut self, epoch: Epoch, readings: impl Iterator<Item = &'a Reading>) {
        let mut digest = SetDigest(Digest(self.digest));
        let from = self.end;
        for reading in readings.filter(|r| r.sequence.0 >= from) {
            self.miss(reading.sequence.0);
            digest.toggle(
                epoch,
                reading.sequence,
                of_reading(&reading.topic, &reading.payload),
            );
            self.count += 1;
            self.end = reading.sequence.0 + 1;
        }
        self.digest = digest.0.0;
    }

    /// What is not there up to `next`, itself left out.
    pub(super) fn miss(&mut self, next: u64) {
        if next > self.end {
            self.missing.push((self.end, next - 1));
            self.end = next;
        }
    }

    /// Takes over the sum that follows this one.
    fn merge(&mut self, next: Self) {
        self.end = next.end;
        self.count += next.count;
        for (to, from) in self.digest.iter_mut().zip(next.digest) {
            *to ^= from;
        }
        self.missing.extend(next.missing);
    }

    /// Whether something that was lost later is in the digest.
    pub(super) fn holds_lost(&self, lost: &SequenceSet) -> bool {
        let Some(end) = self.end.checked_sub(1).filter(|end| *end >= self.first) else {
            return false;
        };
        let missing = SequenceSet::from_pairs(&self.missing);
        let mut own = SequenceSet::from_pairs(&[(self.first, end)]);
        for range in missing.ranges() {
            own.remove(range);
        }
        own.ranges()
            .any(|range| lost.count_in(range.first.0, range.last.0) > 0)
    }
}

/// What is accounted for of an epoch. Frozen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochSumsV1 {
    /// The epoch.
    pub(super) epoch: u32,
    /// Its village.
    pub(super) village: String,
    /// In order of sequence; they do not overlap.
    pub(super) sums: Vec<SumV1>,
    /// What the store knows as lost.
    pub(super) lost: Vec<(u64, u64)>,
    /// From where on nobody knows whether readings were lost.
    pub(super) tail_unknown_from: Option<u64>,
    /// The sequence that the next reading gets, or would have got, as far as synced marks know of it.
    pub(super) next: u64,
}

impl EpochSumsV1 {
    /// The sum that begins at `first`.
    pub(super) fn of(&self, first: u64) -> Option<&SumV1> {
        self.sums.iter().find(|sum| sum.first == first)
    }

    /// Puts a sum in the place of the one that begins where it does.
    pub(super) fn put(&mut self, sum: SumV1) {
        self.drop_sum(sum.first);
        let at = self.sums.partition_point(|s| s.first < sum.first);
        self.sums.insert(at, sum);
    }

    /// Takes a sum out.
    pub(super) fn drop_sum(&mut self, first: u64) {
        self.sums.retain(|sum| sum.first != first);
    }

    /// The segments that are on disk begin at `there`: sums of others, which never change again, become one where they
    /// touch. One that holds what was lost cannot be corrected any more, and goes.
    pub(super) fn settle(&mut self, there: impl Fn(u64) -> bool, lost: &SequenceSet) {
        let mut settled: Vec<SumV1> = Vec::with_capacity(self.sums.len());
        let mut last_is_gone = false;
        for sum in std::mem::take(&mut self.sums) {
            let gone = !there(sum.first);
            if gone && sum.holds_lost(lost) {
                continue;
            }
            match settled.last_mut() {
                Some(before) if gone && last_is_gone && before.end == sum.first => {
                    before.merge(sum);
                }
                _ => settled.push(sum),
            }
            last_is_gone = gone;
        }
        self.sums = settled;
    }

    /// The account of this epoch.
    pub(super) fn account(
        &self,
        village: VillageId,
        current: bool,
        refused: Vec<Absent>,
        now: &ReceivedAt,
    ) -> Account {
        let through = match self.sums.last() {
            // What is committed this very moment is for the next account.
            Some(sum) if current => sum.end - 1,
            _ => self.next.saturating_sub(1),
        };
        let lost = SequenceSet::from_pairs(&self.lost);
        let (mut uncovered, mut unreadable) = (whole(through), SequenceSet::default());
        let (mut digest, mut stored) = ([0; 16], 0);
        for sum in &self.sums {
            if let Some(range) = pair(sum.first, sum.end.saturating_sub(1)) {
                uncovered.remove(range);
            }
            for range in SequenceSet::from_pairs(&sum.missing).ranges() {
                unreadable.insert(range);
            }
            stored += sum.count;
            for (to, from) in digest.iter_mut().zip(sum.digest) {
                *to ^= from;
            }
        }
        for range in lost.ranges() {
            uncovered.remove(range);
            unreadable.remove(range);
        }
        let lost = without(&whole(through), &without(&whole(through), &lost));
        let mut unknown = absent(&uncovered, FORGOTTEN);
        unknown.extend(absent(&unreadable, UNREADABLE));
        unknown.sort_by_key(|range| range.first);
        Account {
            version: VERSION,
            village,
            epoch: Epoch(self.epoch),
            current,
            through: Sequence(through),
            stored,
            digest: Digest(digest),
            lost: absent(&lost, LOST),
            refused,
            unknown,
            tail_unknown_from: self.tail_unknown_from.map(Sequence),
            at: now.wall,
            clock: now.quality,
        }
    }
}

fn whole(last: u64) -> SequenceSet {
    SequenceSet::from_pairs(&[(1, last)])
}

fn without(set: &SequenceSet, other: &SequenceSet) -> SequenceSet {
    let mut left = set.clone();
    for range in other.ranges() {
        left.remove(range);
    }
    left
}

fn pair(first: u64, last: u64) -> Option<SequenceRange> {
    SequenceRange::new(Sequence(first), Sequence(last))
}

fn absent(set: &SequenceSet, reason: &str) -> Vec<Absent> {
    let each = set.ranges().map(|range| Absent {
        first: range.first,
        last: range.last,
        reason: reason.to_owned(),
    });
    each.collect()
}
