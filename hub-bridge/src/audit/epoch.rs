//! One epoch of one village: what its relay said, what the database noted, and what is there.

use jiff::Timestamp;
use serde::Serialize;
use tokio_postgres::Transaction;

use crate::identity::{Epoch, Sequence, SequenceRange};
use crate::ranges::Ranges;
use crate::wire::digest::Digest;

use super::AuditError;
use super::accounts::{self, Said};
use super::digests::{self, Depth, Proof, Rows};
use super::ranges::{Cause, Missing, common, count, explain, subtract};
use super::verdict::{Evidence, Verdict};
use super::villages::{self, Known};

/// So many ranges of a kind are named; all are counted.
pub const NAMED_MAX: usize = 1_000;

/// What an audit goes by.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// How far the rows are looked into.
    pub depth: Depth,
    /// What no account before this time spoke of is awaited, and not yet missing.
    pub spoken_before: Timestamp,
    /// Rows that were removed were removed on purpose.
    pub allow_removed: bool,
}

/// What is to be said of an epoch.
#[derive(Debug, Clone, Serialize)]
pub struct EpochAudit {
    /// The epoch.
    pub epoch: Epoch,
    /// The word on it.
    pub verdict: Verdict,
    /// The newest account; `None`: the relay never gave one.
    pub account: Option<AccountSaid>,
    /// Rows.
    pub rows: u64,
    /// Rows beyond the account: they came after it.
    pub rows_beyond: u64,
    /// Readings that are no rows, up to the account (without one: up to the last row); none of which it cannot speak.
    pub missing: u64,
    /// Of those, the ones without a reason.
    pub unexplained: u64,
    /// Sequences that the newest account cannot speak of: not proved, and not expected.
    pub unknown: u64,
    /// Of those, the ones that are no rows.
    pub unknown_missing: u64,
    /// What is no row, and why: the first 1,000 ranges, those included that the account cannot speak of.
    pub missing_ranges: Vec<MissingRange>,
    /// `equal`, `differs`, or `incomparable` where readings are missing that the account's digest has; `None` without one.
    pub digest: Option<&'static str>,
    /// Where rows and accounts differ, between one account and the next; at most 1,000.
    pub differs_in: Vec<SequenceRange>,
    /// What cannot all be true, in words; at most 1,000.
    pub contradictions: Vec<String>,
    /// Identities that came with another content too.
    pub conflicts: u64,
    /// Rows that the relay received while its clock was not to be trusted.
    pub unsynchronised: u64,
    /// Rows whose payload does not fit the mapping.
    pub unmapped: u64,
    /// When rows or an account came last.
    pub heard_at: Option<Timestamp>,
}

/// The newest account.
#[derive(Debug, Clone, Serialize)]
pub struct AccountSaid {
    /// The last sequence that it speaks of.
    pub through: Sequence,
    /// How many of those the relay stored.
    pub stored: u64,
    /// Of those.
    pub digest: Digest,
    /// Whether the relay wrote the epoch then.
    pub current: bool,
    /// When, by the relay's clock.
    pub said_at: Option<Timestamp>,
    /// The end of the epoch was damaged: nobody knows whether readings were received from here on.
    pub tail_unknown_from: Option<Sequence>,
    /// How many accounts of the epoch there are.
    pub accounts: usize,
}

/// Sequences that are no rows.
#[derive(Debug, Clone, Serialize)]
pub struct MissingRange {
    /// The first one.
    pub first: Sequence,
    /// The last one.
    pub last: Sequence,
    /// `lost`, `refused`, `unknown`, `removed`, `awaited` or `unexplained`.
    pub cause: &'static str,
    /// The relay's reason.
    pub reason: Option<String>,
}

impl From<&Missing> for MissingRange {
    fn from(missing: &Missing) -> Self {
        Self {
            first: missing.range.first,
            last: missing.range.last,
            cause: missing.cause.as_str(),
            reason: missing.cause.reason().map(str::to_owned),
        }
    }
}

/// Looks at an epoch.
///
/// # Errors
/// Where the database fails, or holds what a receiver never writes.
pub async fn audit(
    transaction: &Transaction<'_>,
    known: &Known,
    rules: Rules,
) -> Result<EpochAudit, AuditError> {
    let (village, epoch) = (known.village.as_str(), known.epoch);
    let accounts = accounts::of_epoch(transaction, village, epoch).await?;
    let stored = villages::stored(transaction, village, epoch).await?;
    let through = accounts.last().map(|said| said.through);
    let spoken = through.or(stored.last().map(|range| range.last));
    let spoken = spoken.unwrap_or(Sequence(0));
    let never = villages::missing(transaction, village, epoch, spoken).await?;
    let rows = digests::rows(transaction, village, epoch, &accounts, rules.depth).await?;
    let conflicts = villages::conflicts(transaction, village, epoch).await?;
    let found = Found {
        missing: missing(&never, &stored, &rows, &accounts, rules),
        strays: subtract(&rows.ranges, &stored),
        accounts: &accounts,
        conflicts: &conflicts,
        rows: &rows,
    };
    Ok(found.tell(known, rules))
}

/// Rows that the database noted and that are gone, beside the ones that never came.
fn missing(
    never: &[SequenceRange],
    stored: &[SequenceRange],
    rows: &Rows,
    accounts: &[Said],
    rules: Rules,
) -> Vec<Missing> {
    // A stray row is there, whatever was noted.
    let never = subtract(never, &rows.ranges);
    let explained = match accounts.last() {
        Some(said) => explain(&never, &said.lost, &said.refused, &said.unknown),
        None => explain(&never, &[], &[], &[]),
    };
    let mut missing = await_late(explained, accounts, rules);
    missing.extend(
        subtract(stored, &rows.ranges)
            .into_iter()
            .map(|range| Missing {
                range,
                cause: Cause::Removed,
            }),
    );
    missing.sort_by_key(|missing| missing.range);
    missing
}

fn await_late(missing: Vec<Missing>, accounts: &[Said], rules: Rules) -> Vec<Missing> {
    let before = rules.spoken_before.as_millisecond();
    let spoken = accounts.iter().filter(|said| said.heard_at.0 <= before);
    let spoken = spoken.map(|said| said.through).max();
    let late = SequenceRange::new(spoken.unwrap_or(Sequence(0)).next(), Sequence(u64::MAX));
    let (Some(late), false) = (late, accounts.is_empty()) else {
        return missing;
    };
    let mut parts = Vec::with_capacity(missing.len());
    for one in missing {
        if one.cause != Cause::Unexplained {
            parts.push(one);
            continue;
        }
        let awaited = common(one.range, late);
        let due = subtract(&[one.range], &[late]).into_iter();
        parts.extend(due.map(|range| Missing {
            range,
            cause: Cause::Unexplained,
        }));
        parts.extend(awaited.map(|range| Missing {
            range,
            cause: Cause::Awaited,
        }));
    }
    parts
}

struct Found<'a> {
    missing: Vec<Missing>,
    strays: Vec<SequenceRange>,
    accounts: &'a [Said],
    conflicts: &'a [Sequence],
    rows: &'a Rows,
}

impl Found<'_> {
    fn tell(&self, known: &Known, rules: Rules) -> EpochAudit {
        let newest = self.accounts.last();
        let proof = newest.map(|said| digests::proof(self.rows, said, self.absent(said)));
        let contradictions = self.contradictions(proof);
        let unexplained = self.count(|cause| match cause {
            Cause::Unexplained => true,
            Cause::Removed => !rules.allow_removed,
            Cause::Lost(_) | Cause::Refused(_) | Cause::Unknown(_) | Cause::Awaited => false,
        });
        let missing = self.count(|cause| !matches!(cause, Cause::Unknown(_)));
        let unknown = newest.map_or(0, unknown);
        let evidence = Evidence {
            proof,
            contradictions: contradictions.len(),
            unexplained,
            explained: missing - unexplained,
            unspoken: unknown > 0 || newest.is_some_and(|said| said.tail_unknown_from.is_some()),
        };
        let differs_in = match proof {
            None | Some(Proof::Equal) => Vec::new(),
            Some(Proof::Differs | Proof::Incomparable) => self.differing(),
        };
        EpochAudit {
            epoch: known.epoch,
            verdict: evidence.verdict(),
            account: newest.map(|said| AccountSaid {
                through: said.through,
                stored: said.stored,
                digest: said.digest,
                current: said.is_current,
                said_at: Timestamp::from_millisecond(said.said_at.0).ok(),
                tail_unknown_from: said.tail_unknown_from,
                accounts: self.accounts.len(),
            }),
            rows: self.rows.count,
            rows_beyond: newest.map_or(0, |said| self.beyond(said.through)),
            missing,
            unexplained,
            unknown,
            unknown_missing: self.count(|cause| matches!(cause, Cause::Unknown(_))),
            missing_ranges: self
                .missing
                .iter()
                .take(NAMED_MAX)
                .map(Into::into)
                .collect(),
            digest: proof.map(Proof::as_str),
            differs_in,
            contradictions: contradictions.into_iter().take(NAMED_MAX).collect(),
            conflicts: u64::try_from(self.conflicts.len()).unwrap_or(u64::MAX),
            unsynchronised: self.rows.unsynchronised,
            unmapped: self.rows.unmapped,
            heard_at: known.heard_at,
        }
    }

    fn count(&self, counts: impl Fn(&Cause) -> bool) -> u64 {
        let counted = self.missing.iter().filter(|missing| counts(&missing.cause));
        counted.map(|missing| missing.range.count()).sum()
    }

    /// How many readings are in an account's digest and are no rows.
    fn absent(&self, said: &Said) -> u64 {
        let spoken: Vec<SequenceRange> = digests::spoken(said).iter().collect();
        let named = |m: &&Missing| matches!(m.cause, Cause::Lost(_) | Cause::Unknown(_));
        let in_digest = self.missing.iter().filter(|missing| !named(missing));
        let in_digest: Vec<SequenceRange> = in_digest.map(|missing| missing.range).collect();
        count(&in_digest) - count(&subtract(&in_digest, &spoken))
    }

    /// Where rows and accounts differ; not where readings are only missing.
    fn differing(&self) -> Vec<SequenceRange> {
        let missing: Vec<SequenceRange> = self.missing.iter().map(|m| m.range).collect();
        let differing = digests::differing(self.rows, self.accounts, &missing);
        differing.into_iter().take(NAMED_MAX).collect()
    }

    fn beyond(&self, through: Sequence) -> u64 {
        let upto = SequenceRange::new(Sequence::FIRST, through);
        let upto: Vec<SequenceRange> = upto.into_iter().collect();
        count(&subtract(&self.rows.ranges, &upto))
    }

    fn contradictions(&self, proof: Option<Proof>) -> Vec<String> {
        let said = accounts::contradictions(self.accounts);
        let mut found: Vec<String> = said.iter().map(ToString::to_string).collect();
        if proof == Some(Proof::Differs) {
            found.push(
                "the rows are not the readings that the relay stored: another digest".to_owned(),
            );
        } else if proof == Some(Proof::Incomparable) {
            let differing = self.differing();
            found.extend(differing.iter().map(|range| {
                format!("rows {range} are not the readings that the relay stored: another digest")
            }));
        }
        let strays = self.strays.iter().take(NAMED_MAX);
        found.extend(strays.map(|range| format!("rows {range} were never noted as stored")));
        let twice = self.rows.twice.iter().take(NAMED_MAX);
        found.extend(twice.map(|sequence| format!("{sequence} is more than one row")));
        let damaged = self.rows.damaged.iter().take(NAMED_MAX);
        found.extend(damaged.map(|sequence| {
            format!("row {sequence} has a topic and payload of another digest than its own")
        }));
        // Where the digest is proved, the row is the true one, and what came beside it is settled.
        let proved = match (proof, self.accounts.last()) {
            (Some(Proof::Equal), Some(said)) => digests::spoken(said),
            _ => Ranges::default(),
        };
        let open = self.conflicts.iter().filter(|s| !proved.contains(**s));
        found.extend(open.map(|sequence| format!("{sequence} came with two contents")));
        found
    }
}

/// How many of an account's sequences it cannot speak of.
fn unknown(said: &Said) -> u64 {
    let spoken: u64 = digests::spoken(said)
        .iter()
        .map(|range| range.count())
        .sum();
    said.through.0.saturating_sub(spoken)
}
