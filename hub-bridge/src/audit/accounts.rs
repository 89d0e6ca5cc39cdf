//! What a relay said of an epoch, over time, and whether it contradicts itself.

use tokio_postgres::Transaction;

use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::{Epoch, Sequence, SequenceRange};
use crate::wire::account::Absent;
use crate::wire::digest::Digest;

use super::AuditError;

const ACCOUNTS: &str = "
SELECT through, is_current, stored, digest, lost::text AS lost, refused::text AS refused, unknown::text AS unknown,
       tail_unknown_from, clock,
       (extract(epoch FROM said_at) * 1000)::bigint AS said_ms, (extract(epoch FROM heard_at) * 1000)::bigint AS heard_ms
FROM accounts WHERE village = $1 AND epoch = $2 ORDER BY through, heard_at";

/// One account, as it was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The last sequence that it speaks of.
    pub through: Sequence,
    /// Whether the relay wrote the epoch then.
    pub is_current: bool,
    /// Readings in `digest`.
    pub stored: u64,
    /// Of all readings up to `through` but the lost and the unknown ones.
    pub digest: Digest,
    /// What damage took.
    pub lost: Vec<Absent>,
    /// What the hub did not take.
    pub refused: Vec<Absent>,
    /// What it cannot speak of: rows of these may be there, and it says nothing of them.
    pub unknown: Vec<Absent>,
    /// From here on nobody knows whether readings were received: the end of an epoch that is over was damaged.
    pub tail_unknown_from: Option<Sequence>,
    /// By the relay's clock.
    pub said_at: UnixMillis,
    /// Whether that clock was synchronised.
    pub clock: ClockQuality,
    /// By the hub's clock.
    pub heard_at: UnixMillis,
}

/// An account that cannot be true beside another, or in itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// A later account knows less.
    #[error("an account of {through} sequences came after one of {before}")]
    Back {
        /// Of the earlier one.
        before: Sequence,
        /// Of the later one.
        through: Sequence,
    },
    /// Stored, lost and unknown are not all there are.
    #[error(
        "an account of {through} sequences says that {stored} are stored, {lost} lost and {unknown} unknown"
    )]
    Sum {
        /// The last sequence.
        through: Sequence,
        /// Stored, it says.
        stored: u64,
        /// Lost, it says.
        lost: u64,
        /// It cannot speak of so many.
        unknown: u64,
    },
}

/// An epoch's accounts, by what they speak of; the last one speaks of the most.
///
/// # Errors
/// Where the database fails, or a row is not what a receiver writes.
pub async fn of_epoch(
    transaction: &Transaction<'_>,
    village: &str,
    epoch: Epoch,
) -> Result<Vec<Said>, AuditError> {
    let rows = transaction
        .query(ACCOUNTS, &[&village, &epoch.to_string()])
        .await?;
    rows.iter().map(|row| said(row, village, epoch)).collect()
}

fn said(row: &tokio_postgres::Row, village: &str, epoch: Epoch) -> Result<Said, AuditError> {
    let bad = |column: &'static str| AuditError::Account {
        village: village.to_owned(),
        epoch,
        column,
    };
    let count = |column: &'static str| -> Result<u64, AuditError> {
        let count: i64 = row.try_get(column)?;
        u64::try_from(count).map_err(|_| bad(column))
    };
    let ranges = |column: &'static str| -> Result<Vec<Absent>, AuditError> {
        let json: String = row.try_get(column)?;
        serde_json::from_str(&json).map_err(|_| bad(column))
    };
    let tail: Option<i64> = row.try_get("tail_unknown_from")?;
    let tail = tail.map(|from| u64::try_from(from).map_err(|_| bad("tail_unknown_from")));
    let tail = tail.transpose()?;
    let digest: &[u8] = row.try_get("digest")?;
    let clock: &str = row.try_get("clock")?;
    Ok(Said {
        through: Sequence(count("through")?),
        is_current: row.try_get("is_current")?,
        stored: count("stored")?,
        digest: Digest(digest.try_into().map_err(|_| bad("digest"))?),
        lost: ranges("lost")?,
        refused: ranges("refused")?,
        unknown: ranges("unknown")?,
        tail_unknown_from: tail.map(Sequence),
        said_at: UnixMillis(row.try_get("said_ms")?),
        clock: match clock {
            "synchronised" => ClockQuality::Synchronised,
            _ => ClockQuality::Unsynchronised,
        },
        heard_at: UnixMillis(row.try_get("heard_ms")?),
    })
}

/// What contradicts in accounts of one epoch.
pub fn contradictions(accounts: &[Said]) -> Vec<Contradiction> {
    let mut found: Vec<Contradiction> = accounts.iter().filter_map(in_itself).collect();
    let mut heard: Vec<&Said> = accounts.iter().collect();
    heard.sort_by_key(|said| said.heard_at.0);
    let mut widest: Option<&Said> = None;
    for said in heard {
        match widest {
            Some(before) if said.through < before.through => {
                if is_later(before, said) {
                    found.push(Contradiction::Back {
                        before: before.through,
                        through: said.through,
                    });
                }
            }
            _ => widest = Some(said),
        }
    }
    found
}

/// One that was only carried more slowly is no contradiction; the relay's clock says so where it can be trusted.
fn is_later(before: &Said, said: &Said) -> bool {
    let trusted = [before, said].map(|said| said.clock == ClockQuality::Synchronised);
    trusted != [true, true] || before.said_at.0 < said.said_at.0
}

fn in_itself(said: &Said) -> Option<Contradiction> {
    let (lost, unknown) = (count(&said.lost), count(&said.unknown));
    let sum = said.stored.saturating_add(lost).saturating_add(unknown);
    (sum != said.through.0).then_some(Contradiction::Sum {
        through: said.through,
        stored: said.stored,
        lost,
        unknown,
    })
}

/// As it was said: what is named twice counts twice, and does not add up.
fn count(absent: &[Absent]) -> u64 {
    absent.iter().fold(0_u64, |sum, absent| {
        let range = SequenceRange::new(absent.first, absent.last);
        sum.saturating_add(range.map_or(0, |range| range.count()))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::audit) fn account(through: u64, said: i64, heard: i64) -> Said {
        Said {
            through: Sequence(through),
            is_current: true,
            stored: through,
            digest: Digest::default(),
            lost: Vec::new(),
            refused: Vec::new(),
            unknown: Vec::new(),
            tail_unknown_from: None,
            said_at: UnixMillis(said),
            clock: ClockQuality::Synchronised,
            heard_at: UnixMillis(heard),
        }
    }

    #[test]
    fn an_account_that_knows_less_later_contradicts() {
        assert_eq!(contradictions(&[account(10, 1, 1), account(20, 2, 2)]), []);
        let back = Contradiction::Back {
            before: Sequence(20),
            through: Sequence(10),
        };
        assert_eq!(
            contradictions(&[account(10, 3, 3), account(20, 2, 2)]),
            std::slice::from_ref(&back)
        );
        let slow = [account(10, 1, 3), account(20, 2, 2)];
        assert_eq!(contradictions(&slow), [], "carried by hand, and heard late");
        let mut untrusted = slow;
        untrusted[0].clock = ClockQuality::Unsynchronised;
        assert_eq!(contradictions(&untrusted), [back]);
    }

    #[test]
    fn an_account_must_add_up() {
        let mut said = account(10, 1, 1);
        said.lost.push(Absent {
            first: Sequence(3),
            last: Sequence(4),
            reason: "damage".to_owned(),
        });
        assert!(matches!(
            contradictions(&[said.clone()])[..],
            [Contradiction::Sum { lost: 2, .. }]
        ));
        said.stored = 8;
        assert_eq!(contradictions(&[said.clone()]), []);
        said.unknown.push(Absent {
            first: Sequence(5),
            last: Sequence(5),
            reason: "let go".to_owned(),
        });
        assert!(matches!(
            contradictions(&[said.clone()])[..],
            [Contradiction::Sum { unknown: 1, .. }]
        ));
        said.stored = 7;
        assert_eq!(contradictions(&[said]), []);
    }
}
