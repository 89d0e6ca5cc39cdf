//! A set of sequences, kept as ranges that neither touch nor overlap.

use hub_bridge::identity::{Sequence, SequenceRange};

/// Sequences, as ranges in ascending order. Cheap where there are few ranges, however long they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SequenceSet {
    ranges: Vec<(u64, u64)>,
    count: u64,
}

impl SequenceSet {
    /// The set of these ranges, in any order; empty and reversed ones are left out.
    pub(super) fn from_pairs(pairs: &[(u64, u64)]) -> Self {
        let mut set = Self::default();
        for &(first, last) in pairs {
            if let Some(range) = SequenceRange::new(Sequence(first), Sequence(last)) {
                set.insert(range);
            }
        }
        set
    }

    /// The ranges as `(first, last)`.
    pub(super) fn pairs(&self) -> &[(u64, u64)] {
        &self.ranges
    }

    /// The ranges.
    pub(super) fn ranges(&self) -> impl Iterator<Item = SequenceRange> + '_ {
        self.ranges
            .iter()
            .filter_map(|&(a, b)| SequenceRange::new(Sequence(a), Sequence(b)))
    }

    /// How many sequences are in the set.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The first range that ends at `at` or after it.
    fn position(&self, at: u64) -> usize {
        self.ranges.partition_point(|&(_, last)| last < at)
    }

    /// Adds a range.
    pub(super) fn insert(&mut self, range: SequenceRange) {
        let (mut first, mut last) = (range.first.0, range.last.0);
        let from = self.position(first.saturating_sub(1));
        let mut to = from;
        let mut covered = 0;
        while let Some(&(a, b)) = self.ranges.get(to) {
            if a > last.saturating_add(1) {
                break;
            }
            first = first.min(a);
            last = last.max(b);
            covered += b - a + 1;
            to += 1;
        }
        self.count += (last - first + 1) - covered;
        self.ranges.splice(from..to, [(first, last)]);
    }

    /// Takes a range out.
    pub(super) fn remove(&mut self, range: SequenceRange) {
        let (first, last) = (range.first.0, range.last.0);
        let from = self.position(first);
        let mut to = from;
        let mut kept = Vec::new();
        let mut removed = 0;
        while let Some(&(a, b)) = self.ranges.get(to) {
            if a > last {
                break;
            }
            if a < first {
                kept.push((a, first - 1));
            }
            if b > last {
                kept.push((last + 1, b));
            }
            removed += b.min(last) - a.max(first) + 1;
            to += 1;
        }
        self.count -= removed;
        self.ranges.splice(from..to, kept);
    }

    /// Whether `sequence` is in the set.
    pub(super) fn contains(&self, sequence: u64) -> bool {
        self.ranges
            .get(self.position(sequence))
            .is_some_and(|&(a, _)| a <= sequence)
    }

    /// The lowest sequence from `from` on that is not in the set.
    pub(super) fn next_missing(&self, from: u64) -> u64 {
        match self.ranges.get(self.position(from)) {
            Some(&(a, b)) if a <= from => b.saturating_add(1),
            _ => from,
        }
    }

    /// How many sequences of `first..=last` are in the set.
    pub(super) fn count_in(&self, first: u64, last: u64) -> u64 {
        self.ranges
            .iter()
            .skip(self.position(first))
            .take_while(|&&(a, _)| a <= last)
            .map(|&(a, b)| b.min(last).saturating_sub(a.max(first)) + 1)
            .sum()
    }

    /// Forgets the highest ranges until at most `ranges_max` are left.
    pub(super) fn truncate(&mut self, ranges_max: usize) {
        for &(a, b) in self.ranges.get(ranges_max..).unwrap_or_default() {
            self.count -= b - a + 1;
        }
        self.ranges.truncate(ranges_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in prop::collection::vec((any::<bool>(), 1u64..60, 0u64..12), 0..60)) {
            let mut set = SequenceSet::default();
            let mut model = BTreeSet::new();
            for (insert, first, more) in steps {
                let range = SequenceRange::new(Sequence(first), Sequence(first + more)).unwrap();
                if insert { set.insert(range); } else { set.remove(range); }
                for s in first..=first + more {
                    if insert { model.insert(s); } else { model.remove(&s); }
                }
                prop_assert_eq!(set.count(), model.len() as u64);
                for s in 0..80 {
                    prop_assert_eq!(set.contains(s), model.contains(&s));
                    let missing = (s..1000).find(|n| !model.contains(n)).unwrap();
                    prop_assert_eq!(set.next_missing(s), missing);
                }
                prop_assert_eq!(set.count_in(10, 40), model.range(10..=40).count() as u64);
                for w in set.pairs().windows(2) {
                    prop_assert!(w[0].1 + 1 < w[1].0, "{:?}", set.pairs());
                }
            }
        }
    }
}
