//! Gathers what the hub acknowledged and its database receipted, and confirms it a batch at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::warn;

use crate::backlog::{Backlog, BacklogError, Mark};
use crate::identity::{Epoch, SequenceRange};
use crate::ranges::Ranges;

/// Confirmed ranges that the backlog has not been told of.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    acknowledged: BTreeMap<Epoch, Ranges>,
    /// The newest receipt of each epoch, which says all that the one before said. Each is judged by itself.
    receipted: BTreeMap<Epoch, Vec<SequenceRange>>,
    /// Readings acknowledged.
    count: u64,
    since: Option<Duration>,
    bytes: u64,
}

impl Confirms {
    /// The hub's broker acknowledged a publish with `ranges`.
    pub(crate) fn add(
        &mut self,
        epoch: Epoch,
        ranges: &[SequenceRange],
        bytes: u64,
        now: Duration,
    ) {
        self.bytes += bytes;
        self.since.get_or_insert(now);
        let of_epoch = self.acknowledged.entry(epoch).or_default();
        for range in ranges {
            self.count += range.count();
            of_epoch.insert(*range);
        }
    }

    /// The hub's database has `ranges`.
    pub(crate) fn receipt(&mut self, epoch: Epoch, ranges: &[SequenceRange], now: Duration) {
        self.since.get_or_insert(now);
        self.receipted.insert(epoch, ranges.to_vec());
    }

    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// How many they are, and their size in bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.count, self.bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.acknowledged.is_empty() && self.receipted.is_empty()
    }

    /// When the first of them came.
    pub(crate) fn since(&self) -> Option<Duration> {
        self.since
    }

    /// All of it, leaving nothing.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    /// Puts back what could not be confirmed.
    pub(crate) fn put_back(&mut self, other: Self) {
        for (epoch, ranges) in other.acknowledged {
            let of_epoch = self.acknowledged.entry(epoch).or_default();
            ranges.iter().for_each(|range| of_epoch.insert(range));
        }
        for (epoch, ranges) in other.receipted {
            self.receipted.entry(epoch).or_insert(ranges);
        }
        self.count += other.count;
        self.bytes += other.bytes;
        self.since = other.since.or(self.since);
    }

    /// Tells the backlog. Blocks on the disk. What failed stays.
    pub(crate) fn confirm(&mut self, backlog: &dyn Backlog) -> Result<(), BacklogError> {
        while let Some(entry) = self.acknowledged.first_entry() {
            let ranges: Vec<SequenceRange> = entry.get().iter().collect();
            known(backlog.confirm(*entry.key(), Mark::Forwarded, &ranges))?;
            entry.remove();
        }
        self.count = 0;
        while let Some(entry) = self.receipted.first_entry() {
            let confirmed = backlog.confirm(*entry.key(), Mark::Stored, entry.get());
            if let Err(error @ BacklogError::NeverAppended { .. }) = &confirmed {
                warn!(%error, "a receipt for readings that this relay never had: two gateways with one name?");
            } else {
                known(confirmed)?;
            }
            entry.remove();
        }
        Ok(())
    }
}

/// An epoch that is gone has nothing to confirm.
fn known(confirmed: Result<(), BacklogError>) -> Result<(), BacklogError> {
    match confirmed {
        Err(BacklogError::UnknownEpoch(_)) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Sequence;

    #[test]
    fn acknowledgements_out_of_order_become_ranges() {
        let mut confirms = Confirms::default();
        for sequence in [5, 1, 2, 9, 3, 2, 10] {
            let range = SequenceRange::one(Sequence(sequence));
            confirms.add(Epoch(1), &[range], 1, Duration::ZERO);
        }
        let ranges = &confirms.acknowledged[&Epoch(1)];
        let texts: Vec<String> = ranges.iter().map(|range| range.to_string()).collect();
        assert_eq!(texts, ["1-3", "5", "9-10"]);
    }
}
