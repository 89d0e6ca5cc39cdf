//! Ranges of sequences: what is missing of them, and who named it.

use crate::identity::{Sequence, SequenceRange};
use crate::wire::account::Absent;

/// Why sequences are no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Damage in the village took them: the relay's reason.
    Lost(String),
    /// The hub did not take them, the village keeps them: the relay's reason.
    Refused(String),
    /// The relay cannot speak of them, and says why: the hub may never have had them.
    Unknown(String),
    /// They were rows, and are not any more.
    Removed,
    /// No account spoke of them until lately: they may still come.
    Awaited,
    /// Nobody says why.
    Unexplained,
}

impl Cause {
    /// As in every output.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Lost(_) => "lost",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
            Self::Removed => "removed",
            Self::Awaited => "awaited",
            Self::Unexplained => "unexplained",
        }
    }

    /// The relay's reason.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Lost(reason) | Self::Refused(reason) | Self::Unknown(reason) => Some(reason),
            Self::Removed | Self::Awaited | Self::Unexplained => None,
        }
    }
}

/// Sequences that are no rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub range: SequenceRange,
    /// Why.
    pub cause: Cause,
}

/// Gives each part of `missing` (in order, apart) the cause that the relay named for it; what it named twice has the first of them.
pub fn explain(
    missing: &[SequenceRange],
    lost: &[Absent],
    refused: &[Absent],
    unknown: &[Absent],
) -> Vec<Missing> {
    let mut explained = Vec::new();
    let mut rest = missing.to_vec();
    for absent in lost {
        let cause = Cause::Lost(absent.reason.clone());
        take(&mut rest, absent, &cause, &mut explained);
    }
    for absent in refused {
        let cause = Cause::Refused(absent.reason.clone());
        take(&mut rest, absent, &cause, &mut explained);
    }
    for absent in unknown {
        let cause = Cause::Unknown(absent.reason.clone());
        take(&mut rest, absent, &cause, &mut explained);
    }
    explained.extend(rest.into_iter().map(|range| Missing {
        range,
        cause: Cause::Unexplained,
    }));
    explained.sort_by_key(|missing| missing.range);
    explained
}

fn take(rest: &mut Vec<SequenceRange>, absent: &Absent, cause: &Cause, into: &mut Vec<Missing>) {
    let Some(named) = SequenceRange::new(absent.first, absent.last) else {
        return;
    };
    let taken = rest.iter().filter_map(|range| common(*range, named));
    into.extend(taken.map(|range| Missing {
        range,
        cause: cause.clone(),
    }));
    *rest = subtract(rest, &[named]);
}

/// What two ranges have in common.
pub fn common(one: SequenceRange, other: SequenceRange) -> Option<SequenceRange> {
    SequenceRange::new(one.first.max(other.first), one.last.min(other.last))
}

/// `from` without `away`; both in order.
pub fn subtract(from: &[SequenceRange], away: &[SequenceRange]) -> Vec<SequenceRange> {
    let mut left = Vec::with_capacity(from.len());
    let mut away = away.iter().peekable();
    for range in from {
        let mut first = range.first;
        while away.next_if(|gone| gone.last < first).is_some() {}
        let mut ahead = away.clone();
        while let Some(gone) = ahead.next_if(|gone| gone.first <= range.last) {
            let before = Sequence(gone.first.0.saturating_sub(1));
            left.extend(SequenceRange::new(first, before));
            first = first.max(gone.last.next());
        }
        left.extend(SequenceRange::new(first, range.last));
    }
    left
}

/// How many sequences ranges hold.
pub fn count(ranges: &[SequenceRange]) -> u64 {
    ranges.iter().map(SequenceRange::count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(first: u64, last: u64) -> SequenceRange {
        SequenceRange::new(Sequence(first), Sequence(last)).unwrap()
    }

    fn absent(first: u64, last: u64, reason: &str) -> Absent {
        Absent {
            first: Sequence(first),
            last: Sequence(last),
            reason: reason.to_owned(),
        }
    }

    fn told(missing: &[Missing]) -> Vec<String> {
        let tell = |m: &Missing| format!("{} {}", m.range, m.cause.as_str());
        missing.iter().map(tell).collect()
    }

    #[test]
    fn each_part_has_the_cause_that_was_named_for_it() {
        let missing = [range(5, 10), range(20, 30)];
        let explained = explain(
            &missing,
            &[absent(8, 22, "a segment was damaged")],
            &[absent(21, 25, "too large"), absent(100, 120, "too large")],
            &[absent(25, 26, "let go")],
        );
        assert_eq!(
            told(&explained),
            [
                "5-7 unexplained",
                "8-10 lost",
                "20-22 lost",
                "23-25 refused",
                "26 unknown",
                "27-30 unexplained"
            ]
        );
        assert_eq!(
            told(&explain(&missing, &[], &[], &[])),
            ["5-10 unexplained", "20-30 unexplained"]
        );
        let backwards = [absent(30, 20, "nonsense")];
        assert_eq!(
            told(&explain(&missing[1..], &backwards, &[], &backwards)),
            ["20-30 unexplained"]
        );
    }

    fn ranges() -> impl Strategy<Value = Vec<SequenceRange>> {
        prop::collection::btree_set(1_u64..60, 0..30).prop_map(|set| of(&set))
    }

    fn of(set: &BTreeSet<u64>) -> Vec<SequenceRange> {
        let mut ranges: Vec<SequenceRange> = Vec::new();
        for sequence in set {
            match ranges.last_mut() {
                Some(last) if last.last.0 + 1 == *sequence => last.last = Sequence(*sequence),
                _ => ranges.push(range(*sequence, *sequence)),
            }
        }
        ranges
    }

    fn set(ranges: &[SequenceRange]) -> BTreeSet<u64> {
        ranges.iter().flat_map(|r| r.first.0..=r.last.0).collect()
    }

    proptest! {
        #[test]
        fn ranges_subtract_as_sets_do(one in ranges(), other in ranges()) {
            let left = subtract(&one, &other);
            let expected: BTreeSet<u64> = set(&one).difference(&set(&other)).copied().collect();
            prop_assert_eq!(set(&left), expected.clone());
            prop_assert_eq!(count(&left), expected.len() as u64);
        }
    }
}
