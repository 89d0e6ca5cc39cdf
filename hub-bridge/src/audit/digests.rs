//! The rows of an epoch against what its relay said: which there are, and whether they are the same ones.
//!
//! The rows come in the order of their sequences and are summed up between one account and the next, so that a mismatch has a
//! place. Memory is that of the accounts and of the holes, whatever the rows.

use futures_util::TryStreamExt as _;
use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;

use crate::identity::{Epoch, Sequence, SequenceRange};
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
    /// Between one account and the next, in order.
    pub blocks: Vec<Block>,
}

/// The rows after one account and up to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The last sequence of the account.
    pub through: Sequence,
    /// How many rows.
    pub count: u64,
    /// Of those rows.
    pub all: SetDigest,
    /// Of those that the newest account does not call lost.
    pub kept: SetDigest,
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
    /// What the newest account calls lost and is still ahead: the next one last.
    lost: Vec<SequenceRange>,
    /// The accounts' ends that are still ahead, in reverse.
    ahead: Vec<Sequence>,
    rows: Rows,
}

impl Reader {
    fn new(epoch: Epoch, accounts: &[Said]) -> Self {
        let newest = accounts.last();
        let lost = newest.into_iter().flat_map(|said| &said.lost);
        let mut lost: Vec<SequenceRange> = lost
            .filter_map(|absent| SequenceRange::new(absent.first, absent.last))
            .collect();
        lost.sort_by(|one, other| other.cmp(one));
        let mut ahead: Vec<Sequence> = accounts.iter().map(|said| said.through).collect();
        ahead.sort_by(|one, other| other.cmp(one));
        ahead.dedup();
        Self {
            epoch,
            lost,
            ahead,
            rows: Rows::default(),
        }
    }

    fn take(&mut self, sequence: Sequence, digest: Digest) {
        while self.ahead.last().is_some_and(|through| *through < sequence) {
            self.end_block();
        }
        match self.rows.ranges.last_mut() {
            Some(last) if last.last == sequence => {
                self.rows.twice.push(sequence);
                return;
            }
            Some(last) if last.last.next() == sequence => last.last = sequence,
            _ => self.rows.ranges.push(SequenceRange::one(sequence)),
        }
        self.rows.count += 1;
        if self.ahead.is_empty() {
            return;
        }
        if self.rows.blocks.is_empty() {
            self.begin_block();
        }
        while self.lost.pop_if(|range| range.last < sequence).is_some() {}
        let next = self.lost.last();
        let is_lost = next.is_some_and(|range| range.contains(sequence));
        if let Some(block) = self.rows.blocks.last_mut() {
            block.count += 1;
            block.all.toggle(self.epoch, sequence, digest);
            if !is_lost {
                block.kept.toggle(self.epoch, sequence, digest);
            }
        }
    }

    fn begin_block(&mut self) {
        if let Some(through) = self.ahead.last() {
            self.rows.blocks.push(Block {
                through: *through,
                count: 0,
                all: SetDigest::default(),
                kept: SetDigest::default(),
            });
        }
    }

    fn end_block(&mut self) {
        if self.rows.blocks.is_empty() {
            self.begin_block();
        }
        self.ahead.pop();
        self.begin_block();
    }

    fn finish(mut self) -> Rows {
        while !self.ahead.is_empty() {
            self.end_block();
        }
        self.rows
    }
}

/// Whether the rows up to an account are what it says; `missing` is how many of the readings in its digest are no rows.
///
/// A lost reading may have become a row before it was lost, and the digest may or may not have it: either sum proves.
pub fn proof(rows: &Rows, said: &Said, missing: u64) -> Proof {
    let blocks = rows
        .blocks
        .iter()
        .filter(|block| block.through <= said.through);
    let (mut all, mut kept) = (SetDigest::default(), SetDigest::default());
    for block in blocks {
        add(&mut all, block.all);
        add(&mut kept, block.kept);
    }
    if [all.0, kept.0].contains(&said.digest) {
        Proof::Equal
    } else if missing > 0 {
        Proof::Incomparable
    } else {
        Proof::Differs
    }
}

/// The sequences between two accounts in which the rows differ from what the relay stored, where the accounts can tell.
pub fn differing(rows: &Rows, accounts: &[Said]) -> Vec<SequenceRange> {
    let mut found = Vec::new();
    let mut before = (Sequence(0), Digest::default());
    let mut blocks = rows.blocks.iter();
    for said in accounts {
        let (mut all, mut kept) = (SetDigest::default(), SetDigest::default());
        for block in blocks.by_ref() {
            add(&mut all, block.all);
            add(&mut kept, block.kept);
            if block.through >= said.through {
                break;
            }
        }
        let mut between = SetDigest(before.1);
        add(&mut between, SetDigest(said.digest));
        if ![all, kept].contains(&between) {
            found.extend(SequenceRange::new(before.0.next(), said.through));
        }
        before = (said.through, said.digest);
    }
    found
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
        assert_eq!((rows.count, rows.blocks.len()), (40, 3));
        assert_eq!(proof(&rows, &accounts[2], 0), Proof::Equal);
        assert_eq!(differing(&rows, &accounts), []);

        let changed = good(1..=40).map(|(n, d)| (n, if n == 17 { digest(n, "x") } else { d }));
        let rows = read(&accounts, changed);
        assert_eq!(proof(&rows, &accounts[0], 0), Proof::Equal);
        assert_eq!(proof(&rows, &accounts[2], 0), Proof::Differs);
        let place = SequenceRange::new(Sequence(11), Sequence(25)).unwrap();
        assert_eq!(differing(&rows, &accounts), [place]);
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
        assert_eq!((none.count, none.blocks.len()), (0, 1));
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
}
