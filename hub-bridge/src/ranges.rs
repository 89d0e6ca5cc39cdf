//! A set of sequences, kept as the ranges that it consists of.

use std::collections::BTreeMap;

use crate::identity::{Sequence, SequenceRange};

/// Sequences in ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range, whatever of it is there already.
    pub fn insert(&mut self, range: SequenceRange) {
        let (mut first, mut last) = (range.first.0, range.last.0);
        while let Some((from, to)) = self.touching(first, last) {
            self.0.remove(&from);
            first = first.min(from);
            last = last.max(to);
        }
        self.0.insert(first, last);
    }

    /// Takes a range out, whatever of it is there.
    pub fn remove(&mut self, range: SequenceRange) {
        let (first, last) = (range.first.0, range.last.0);
        while let Some((from, to)) = self.overlapping(first, last) {
            self.0.remove(&from);
            if from < first {
                self.0.insert(from, first - 1);
            }
            if to > last {
                self.0.insert(last + 1, to);
            }
        }
    }

    /// The lowest sequence from `from` on that is not in the set.
    pub fn next_missing(&self, from: Sequence) -> Sequence {
        match self.overlapping(from.0, from.0) {
            Some((_, to)) => Sequence(to.saturating_add(1)),
            None => from,
        }
    }

    /// Whether `sequence` is in the set.
    pub fn contains(&self, sequence: Sequence) -> bool {
        self.overlapping(sequence.0, sequence.0).is_some()
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = SequenceRange> {
        self.0.iter().map(|(first, last)| SequenceRange {
            first: Sequence(*first),
            last: Sequence(*last),
        })
    }

    fn overlapping(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let (from, to) = self.0.range(..=last).next_back()?;
        (*to >= first).then_some((*from, *to))
    }

    fn touching(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        self.overlapping(first.saturating_sub(1), last.saturating_add(1))
    }
}

impl FromIterator<Sequence> for Ranges {
    fn from_iter<T: IntoIterator<Item = Sequence>>(sequences: T) -> Self {
        let mut ranges = Self::default();
        let mut run: Option<SequenceRange> = None;
        for sequence in sequences {
            match &mut run {
                Some(run) if sequence == run.last.next() => run.last = sequence,
                _ => {
                    if let Some(done) = run.replace(SequenceRange::one(sequence)) {
                        ranges.insert(done);
                    }
                }
            }
        }
        if let Some(done) = run {
            ranges.insert(done);
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_would(steps in prop::collection::vec((any::<bool>(), 1_u64..60, 0_u64..9), 0..60)) {
            let (mut ranges, mut model) = (Ranges::default(), BTreeSet::new());
            for (adds, first, more) in steps {
                let range = SequenceRange::new(Sequence(first), Sequence(first + more)).unwrap();
                if adds {
                    ranges.insert(range);
                    model.extend(first..=first + more);
                } else {
                    ranges.remove(range);
                    model.retain(|n| !range.contains(Sequence(*n)));
                }
                let rebuilt: Ranges = model.iter().copied().map(Sequence).collect();
                prop_assert_eq!(&ranges, &rebuilt);
                for n in 1..70 {
                    prop_assert_eq!(ranges.contains(Sequence(n)), model.contains(&n));
                    let missing = (n..=100).find(|n| !model.contains(n)).unwrap();
                    prop_assert_eq!(ranges.next_missing(Sequence(n)), Sequence(missing));
                }
            }
        }
    }
}
