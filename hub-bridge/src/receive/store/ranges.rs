//! Sets of sequences, as PostgreSQL's `int8multirange` writes them: `{[1,6),[8,9)}`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::identity::{Sequence, SequenceRange};

/// Sequences, kept as ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    /// Whether `sequence` is in the set.
    pub fn contains(&self, sequence: Sequence) -> bool {
        let below = self.0.range(..=sequence.0).next_back();
        below.is_some_and(|(_, last)| sequence.0 <= *last)
    }

    /// Adds `sequence`; false where it was there.
    pub fn insert(&mut self, sequence: Sequence) -> bool {
        let n = sequence.0;
        if self.contains(sequence) {
            return false;
        }
        let mut range = (n, n);
        let below = self.0.range(..n).next_back().map(|(f, l)| (*f, *l));
        if let Some((first, last)) = below
            && last.checked_add(1) == Some(n)
        {
            range.0 = first;
        }
        if let Some(last) = n.checked_add(1).and_then(|next| self.0.remove(&next)) {
            range.1 = last;
        }
        self.0.insert(range.0, range.1);
        true
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (first, last) in &other.0 {
            self.insert_range(*first, *last);
        }
    }

    fn insert_range(&mut self, first: u64, last: u64) {
        let (mut low, mut high) = (first, last);
        // What overlaps or touches from below, then from above.
        while let Some((f, l)) = self
            .0
            .range(..=high.saturating_add(1))
            .next_back()
            .map(|(f, l)| (*f, *l))
            .filter(|(_, l)| l.saturating_add(1) >= low)
        {
            low = low.min(f);
            high = high.max(l);
            self.0.remove(&f);
        }
        self.0.insert(low, high);
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in order, apart from each other.
    pub fn ranges(&self) -> Vec<SequenceRange> {
        self.0
            .iter()
            .filter_map(|(first, last)| SequenceRange::new(Sequence(*first), Sequence(*last)))
            .collect()
    }

    /// As PostgreSQL reads it.
    pub fn to_multirange(&self) -> String {
        let mut text = String::from("{");
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // Writing to a `String` does not fail.
            let _ = write!(text, "{comma}[{first},{last}]");
        }
        text.push('}');
        text
    }

    /// What PostgreSQL writes; `None` where it is not of sequences.
    pub fn from_multirange(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('{')?.strip_suffix('}')?;
        let mut set = BTreeMap::new();
        if inner.is_empty() {
            return Some(Self(set));
        }
        for range in inner.strip_prefix('[')?.strip_suffix(')')?.split("),[") {
            let (first, after) = range.split_once(',')?;
            let last = after.parse::<u64>().ok()?.checked_sub(1)?;
            set.insert(first.parse().ok()?, last);
        }
        Some(Self(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn postgres_writes_and_it_is_read() {
        let set = RangeSet::from_multirange("{[1,6),[8,9)}").unwrap();
        let texts: Vec<String> = set.ranges().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["1-5", "8"]);
        assert_eq!(set.to_multirange(), "{[1,5],[8,8]}");
        assert!(RangeSet::from_multirange("{}").unwrap().is_empty());
        for wrong in ["", "{", "{[1,)}", "{(,5)}", "{[a,b)}", "[1,2)"] {
            assert_eq!(RangeSet::from_multirange(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_union_is_one(a in proptest::collection::vec(0_u64..40, 0..30), b in proptest::collection::vec(0_u64..40, 0..30)) {
            let of = |numbers: &[u64]| {
                let mut set = RangeSet::default();
                for n in numbers {
                    set.insert(Sequence(*n));
                }
                set
            };
            let mut union = of(&a);
            union.merge(&of(&b));
            prop_assert_eq!(union, of(&[a, b].concat()));
        }

        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(0_u64..40, 0..60)) {
            let mut model = std::collections::BTreeSet::new();
            let mut set = RangeSet::default();
            for n in numbers {
                prop_assert_eq!(set.insert(Sequence(n)), model.insert(n));
            }
            for n in 0..41 {
                prop_assert_eq!(set.contains(Sequence(n)), model.contains(&n));
            }
            let ranges = set.ranges();
            prop_assert!(ranges.windows(2).all(|w| w[0].last.0 + 1 < w[1].first.0));
        }
    }
}
