//! Gathers what the hub acknowledged into ranges, and confirms them a batch at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backlog::{Backlog, BacklogError, Mark};
use crate::identity::{Epoch, Sequence, SequenceRange};

/// Acknowledged sequences that the backlog has not been told of.
#[derive(Debug, Default)]
pub(crate) struct Confirms {
    acknowledged: BTreeMap<Epoch, Vec<Sequence>>,
    count: usize,
    since: Option<Duration>,
    bytes: u64,
}

impl Confirms {
    pub(crate) fn add(&mut self, epoch: Epoch, sequence: Sequence, bytes: u64, now: Duration) {
        self.bytes += bytes;
        self.since.get_or_insert(now);
        self.acknowledged.entry(epoch).or_default().push(sequence);
        self.count += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// How many they are, and their size in bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.count as u64, self.bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
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
        for (epoch, sequences) in other.acknowledged {
            self.acknowledged
                .entry(epoch)
                .or_default()
                .extend(sequences);
        }
        self.count += other.count;
        self.bytes += other.bytes;
        self.since = other.since.or(self.since);
    }

    /// Tells the backlog. Blocks on the disk. What failed stays.
    pub(crate) fn confirm(&mut self, backlog: &dyn Backlog) -> Result<(), BacklogError> {
        while let Some(mut entry) = self.acknowledged.first_entry() {
            let epoch = *entry.key();
            let ranges = ranges(entry.get_mut());
            match backlog.confirm(epoch, Mark::Forwarded, &ranges) {
                // An epoch that is gone has nothing to confirm.
                Ok(()) | Err(BacklogError::UnknownEpoch(_)) => {}
                Err(error) => return Err(error),
            }
            self.count = self.count.saturating_sub(entry.get().len());
            entry.remove();
        }
        Ok(())
    }
}

fn ranges(sequences: &mut [Sequence]) -> Vec<SequenceRange> {
    sequences.sort_unstable();
    let mut ranges: Vec<SequenceRange> = Vec::new();
    for sequence in sequences.iter().copied() {
        match ranges.last_mut() {
            Some(range) if sequence <= range.last.next() => range.last = sequence,
            _ => ranges.push(SequenceRange::one(sequence)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_out_of_order_become_ranges() {
        let mut sequences: Vec<Sequence> = [5, 1, 2, 9, 3, 2, 10].map(Sequence).to_vec();
        let texts: Vec<String> = ranges(&mut sequences)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(texts, ["1-3", "5", "9-10"]);
    }
}
