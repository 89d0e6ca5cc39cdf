//! The rows of an epoch against what its relay said: which there are, and whether they are the same ones.
//!
//! The rows come in the order of their sequences and are summed up; the sum is kept wherever an account ends, or what it
//! leaves out begins or ends. So each account's own sum can be had of them, and a mismatch has a place. Memory is that of the
//! accounts and of the holes, whatever the rows.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;

use crate::identity::{Epoch, Sequence, SequenceRange};
use crate::ranges::Ranges;
use crate::wire::account::Absent;
use crate::wire::digest::{Digest, SetDigest, of_reading};

use super::AuditError;
use super::accounts::Said;

const ROWS: &str = "
SELECT sequence, digest, clock = 'unsynchronised', unmapped IS NOT NULL FROM readings WHERE village = $1 AND epoch = $2 ORDER BY sequence";
const ROWS_WHOLE: &str = "
SELECT sequence, digest, clock = 'unsynchronised', unmapped IS NOT NULL, topic, payload FROM readings WHERE village = $1 AND epoch = $2 ORDER BY sequence";

/// How far the rows are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Their digests.
    Digests,
    /// Topic and payload too: whether the digest is still theirs.
    Payloads,
}

/// What the rows are.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// How many.
    pub count: u64,
    /// Those that the relay received while its clock was not to be trusted.
    pub unsynchronised: u64,
    /// Those whose payload does not fit the mapping.
    pub unmapped: u64,
    /// Which sequences.
    pub ranges: Vec<SequenceRange>,
    /// Sequences that are there more than once.
    pub twice: Vec<Sequence>,
    /// Rows whose topic and payload have another digest than theirs; always empty without [`Depth::Payloads`].
    pub damaged: Vec<Sequence>,
    /// Where an account ends, or what it leaves out begins or ends, in order.
    pub sums: Vec<Sum>,
}

/// The rows up to a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// The last sequence.
    pub through: Sequence,
    /// Of all rows up to it.
    pub digest: SetDigest,
}

impl Rows {
    /// The digest of the rows in `sequences`, whose ends are those of sums.
    fn digest_of(&self, sequences: &Ranges) -> SetDigest {
        let mut digest = SetDigest::default();
        for range in sequences.iter() {
            add(&mut digest, self.upto(range.last));
            add(
                &mut digest,
                self.upto(Sequence(range.first.0.saturating_sub(1))),
            );
        }
        digest
    }

    fn upto(&self, through: Sequence) -> SetDigest {
        let at = self.sums.binary_search_by_key(&through, |sum| sum.through);
        let sum = at.ok().and_then(|at| self.sums.get(at));
        sum.map_or(SetDigest::default(), |sum| sum.digest)
    }
}

/// What of an account a digest proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The rows are the readings that the relay stored.
    Equal,
    /// They are as many, and not the same.
    Differs,
    /// Readings are missing that the digest has in it.
    Incomparable,
}

impl Proof {
    /// As in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Differs => "differs",
            Self::Incomparable => "incomparable",
        }
    }
}

/// Reads the rows of an epoch.
///
/// # Errors
/// Where the database fails, or a row is not what a receiver writes.
pub async fn rows(
    transaction: &Transaction<'_>,
    village: &str,
    epoch: Epoch,
    accounts: &[Said],
    depth: Depth,
) -> Result<Rows, AuditError> {
    let text = epoch.to_string();
    let parameters: [&(dyn ToSql + Sync); 2] = [&village, &text];
    let statement = match depth {
        Depth::Digests => ROWS,
        Depth::Payloads => ROWS_WHOLE,
    };
    let rows = transaction.query_raw(statement, parameters).await?;
    let mut rows = std::pin::pin!(rows);
    let mut reader = Reader::new(epoch, accounts);
    while let Some(row) = rows.try_next().await? {
        let sequence: i64 = row.try_get(0)?;
        let bad = || AuditError::Row {
            village: village.to_owned(),
            epoch,
            sequence,
        };
        let sequence = Sequence(u64::try_from(sequence).map_err(|_| bad())?);
        let digest: &[u8] = row.try_get(1)?;
        let mut digest = Digest(digest.try_into().map_err(|_| bad())?);
        if depth == Depth::Payloads {
            let own = of_reading(row.try_get(4)?, row.try_get(5)?);
            if own != digest {
                reader.rows.damaged.push(sequence);
                digest = own;
            }
        }
        reader.rows.unsynchronised += u64::from(row.try_get::<_, bool>(2)?);
        reader.rows.unmapped += u64::from(row.try_get::<_, bool>(3)?);
        reader.take(sequence, digest);
    }
    Ok(reader.finish())
}

struct Reader {
    epoch: Epoch,
    /// Where sums are kept and that is still ahead, in reverse.
    ahead: Vec<Sequence>,
    sum: SetDigest,
    rows: Rows,
}

impl Reader {
    fn new(epoch: Epoch, accounts: &[Said]) -> Self {
        let mut ends = BTreeSet::new();
        for said in accounts {
            let ranges = [spoken(said), certain(said)];
            for range in ranges.iter().flat_map(Ranges::iter) {
                ends.insert(Sequence(range.first.0.saturating_sub(1)));
                ends.insert(range.last);
            }
        }
        Self {
            epoch,
            ahead: ends.into_iter().rev().collect(),
            sum: SetDigest::default(),
            rows: Rows::default(),
        }
    }

    fn take(&mut self, sequence: Sequence, digest: Digest) {
        self.keep_sums(sequence);
        match self.rows.ranges.last_mut() {
            Some(last) if last.last == sequence => {
                self.rows.twice.push(sequence);
                return;
            }
            Some(last) if last.last.next() == sequence => last.last = sequence,
            _ => self.rows.ranges.push(SequenceRange::one(sequence)),
        }
        self.rows.count += 1;
        if !self.ahead.is_empty() {
            self.sum.toggle(self.epoch, sequence, digest);
        }
    }

    /// The sums that end before `next`.
    fn keep_sums(&mut self, next: Sequence) {
        while let Some(through) = self.ahead.pop_if(|through| *through < next) {
            let digest = self.sum;
            self.rows.sums.push(Sum { through, digest });
        }
    }

    fn finish(mut self) -> Rows {
        self.keep_sums(Sequence(u64::MAX));
        self.rows
    }
}

/// The sequences that an account speaks of.
pub fn spoken(said: &Said) -> Ranges {
    let mut spoken = Ranges::default();
    if let Some(all) = SequenceRange::new(Sequence::FIRST, said.through) {
        spoken.insert(all);
    }
    without(spoken, &said.unknown)
}

/// Those of which it says that they are in its digest.
fn certain(said: &Said) -> Ranges {
    without(spoken(said), &said.lost)
}

fn without(mut sequences: Ranges, absent: &[Absent]) -> Ranges {
    for absent in absent {
        if let Some(range) = SequenceRange::new(absent.first, absent.last) {
            sequences.remove(range);
        }
    }
    sequences
}

/// What the rows make of an account's digest. A lost reading may have become a row before it was lost, and the digest may or
/// may not have it: either sum proves.
fn sums(rows: &Rows, said: &Said) -> [SetDigest; 2] {
    [spoken(said), certain(said)].map(|sequences| rows.digest_of(&sequences))
}

/// Whether the rows up to an account are what it says; `missing` is how many of the readings in its digest are no rows.
pub fn proof(rows: &Rows, said: &Said, missing: u64) -> Proof {
    if sums(rows, said).contains(&SetDigest(said.digest)) {
        Proof::Equal
    } else if missing > 0 {
        Proof::Incomparable
    } else {
        Proof::Differs
    }
}

/// The sequences that one account speaks of and the one before does not, or the other way round, where the rows differ from
/// what the relay stored; not those of which some are `missing`, where the accounts cannot tell.
pub fn differing(rows: &Rows, accounts: &[Said], missing: &[SequenceRange]) -> Vec<SequenceRange> {
    let mut found = Vec::new();
    let mut before = (
        Ranges::default(),
        Digest::default(),
        [SetDigest::default(); 2],
    );
    for said in accounts {
        let (certain, sums) = (certain(said), sums(rows, said));
        let mut between = SetDigest(before.1);
        add(&mut between, SetDigest(said.digest));
        let proved = before.2.iter().any(|earlier| {
            sums.iter().any(|later| {
                let mut sum = *earlier;
                add(&mut sum, *later);
                sum == between
            })
        });
        if !proved {
            found.extend(place(&before.0, &certain, missing));
        }
        before = (certain, said.digest, sums);
    }
    found
}

/// From the first to the last sequence that only one of two accounts speaks of; `None` where one of them is missing.
fn place(one: &Ranges, other: &Ranges, missing: &[SequenceRange]) -> Option<SequenceRange> {
    let mut only = Ranges::default();
    for (from, away) in [(one, other), (other, one)] {
        let mut left = from.clone();
        for range in away.iter() {
            left.remove(range);
        }
        for range in left.iter() {
            only.insert(range);
        }
    }
    let mut there = only.clone();
    for range in missing {
        there.remove(*range);
    }
    if there != only {
        return None;
    }
    let mut ranges = only.iter();
    let first = ranges.next()?;
    let last = ranges.last().unwrap_or(first);
    SequenceRange::new(first.first, last.last)
}

/// Sums of sets that have nothing in common.
fn add(sum: &mut SetDigest, more: SetDigest) {
    for (to, from) in sum.0.0.iter_mut().zip(more.0.0) {
        *to ^= from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::accounts::tests::account;
    use crate::wire::account::Absent;

    const EPOCH: Epoch = Epoch(7);

    fn digest(sequence: u64, text: &str) -> Digest {
        of_reading(text, &sequence.to_be_bytes())
    }

    fn said(through: u64) -> Said {
        let mut said = account(through, 1, 1);
        let mut sum = SetDigest::default();
        (1..=through).for_each(|n| sum.toggle(EPOCH, Sequence(n), digest(n, "t")));
        said.digest = sum.0;
        said
    }

    fn read(accounts: &[Said], rows: impl IntoIterator<Item = (u64, Digest)>) -> Rows {
        let mut reader = Reader::new(EPOCH, accounts);
        for (sequence, digest) in rows {
            reader.take(Sequence(sequence), digest);
        }
        reader.finish()
    }

    fn good(range: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = (u64, Digest)> {
        range.map(|n| (n, digest(n, "t")))
    }

    #[test]
    fn the_same_rows_are_proved_and_a_changed_one_is_not() {
        let accounts = [said(10), said(25), said(30)];
        let rows = read(&accounts, good(1..=40));
        assert_eq!((rows.count, rows.sums.len()), (40, 4), "0, 10, 25, 30");
        assert_eq!(proof(&rows, &accounts[2], 0), Proof::Equal);
        assert_eq!(differing(&rows, &accounts, &[]), []);

        let changed = good(1..=40).map(|(n, d)| (n, if n == 17 { digest(n, "x") } else { d }));
        let rows = read(&accounts, changed);
        assert_eq!(proof(&rows, &accounts[0], 0), Proof::Equal);
        assert_eq!(proof(&rows, &accounts[2], 0), Proof::Differs);
        let place = SequenceRange::new(Sequence(11), Sequence(25)).unwrap();
        assert_eq!(differing(&rows, &accounts, &[]), [place]);
    }

    #[test]
    fn holes_and_doubles_are_seen() {
        let accounts = [said(10)];
        let rows = read(
            &accounts,
            good(2..=4).chain(good(4..=4)).chain(good(8..=12)),
        );
        let ranges: Vec<_> = rows.ranges.iter().map(ToString::to_string).collect();
        assert_eq!(ranges, ["2-4", "8-12"]);
        assert_eq!(rows.twice, [Sequence(4)]);
        assert_eq!(rows.count, 8);
        assert_eq!(proof(&rows, &accounts[0], 4), Proof::Incomparable);
        let none = read(&accounts, []);
        assert_eq!((none.count, none.sums.len()), (0, 2));
    }

    #[test]
    fn a_lost_reading_may_be_a_row_or_not() {
        let mut said = said(10);
        said.lost.push(Absent {
            first: Sequence(5),
            last: Sequence(5),
            reason: "damage".to_owned(),
        });
        let with = said.digest;
        let mut without = SetDigest(with);
        without.toggle(EPOCH, Sequence(5), digest(5, "t"));
        let without_row = || good(1..=10).filter(|(n, _)| *n != 5);
        for (digest, has_row, expected) in [
            (with, true, Proof::Equal),
            (without.0, true, Proof::Equal),
            (without.0, false, Proof::Equal),
            (with, false, Proof::Differs),
        ] {
            said.digest = digest;
            let accounts = [said.clone()];
            let rows = if has_row {
                read(&accounts, good(1..=10))
            } else {
                read(&accounts, without_row())
            };
            assert_eq!(proof(&rows, &accounts[0], 0), expected, "{has_row}");
        }
    }

    #[test]
    fn rows_of_what_is_unknown_are_left_out_and_all_others_count() {
        let unknown = |said: &mut Said, first, last| {
            let mut sum = SetDigest(said.digest);
            (first..=last).for_each(|n| sum.toggle(EPOCH, Sequence(n), digest(n, "t")));
            said.digest = sum.0;
            said.unknown.push(Absent {
                first: Sequence(first),
                last: Sequence(last),
                reason: "let go".to_owned(),
            });
        };
        let (mut second, mut third) = (said(25), said(30));
        unknown(&mut second, 1, 6);
        unknown(&mut third, 1, 6);
        unknown(&mut third, 12, 13);
        // The first one spoke before anything was forgotten.
        let accounts = [said(10), second, third];
        let some = good(1..=40).filter(|(n, _)| ![2, 12].contains(n));
        for rows in [read(&accounts, good(1..=40)), read(&accounts, some)] {
            assert_eq!(proof(&rows, &accounts[2], 0), Proof::Equal);
        }
        let rows = read(&accounts, good(1..=40));
        assert_eq!(differing(&rows, &accounts, &[]), []);
        let gone = SequenceRange::one(Sequence(2));
        let rows = read(&accounts, good(1..=40).filter(|(n, _)| *n != 2));
        assert_eq!(differing(&rows, &accounts, &[gone]), []);

        let changed = |changed| {
            let rows =
                good(1..=40).map(move |(n, d)| (n, if n == changed { digest(n, "x") } else { d }));
            read(&accounts, rows)
        };
        for (row, expected) in [
            (2, Proof::Equal),
            (7, Proof::Differs),
            (13, Proof::Equal),
            (14, Proof::Differs),
            (30, Proof::Differs),
            (31, Proof::Equal),
        ] {
            assert_eq!(proof(&changed(row), &accounts[2], 0), expected, "{row}");
        }
        let place = SequenceRange::new(Sequence(12), Sequence(30)).unwrap();
        assert_eq!(differing(&changed(29), &accounts, &[]), [place]);
    }
}
