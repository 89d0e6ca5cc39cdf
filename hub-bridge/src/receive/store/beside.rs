//! What is kept beside readings: what could not be read, and what relays say of their own stores.

use serde_json::json;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, GenericClient};

use super::Incoming;
use super::row::clock_word;
use crate::wire::account::{Absent, Account};
use crate::wire::digest;
use crate::wire::frame::{self, Frame};

/// A message that could not be read, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The topic it came on.
    pub topic: String,
    /// Why it is here.
    pub reason: String,
    /// Its bytes.
    pub payload: Vec<u8>,
}

impl DeadLetter {
    /// A reading that no table takes, as a frame of one.
    pub(super) fn of_reading(incoming: &Incoming, reason: &str) -> Self {
        let frame = Frame {
            village: incoming.village.clone(),
            epoch: incoming.epoch,
            readings: vec![incoming.reading.clone()],
        };
        let identity = format!("{}/{}", incoming.epoch, incoming.reading.sequence);
        let payload = frame::encode(&frame);
        Self {
            topic: crate::wire::frames_topic(&incoming.village),
            reason: format!("reading {identity}: {reason}"),
            // One reading is always a frame.
            payload: payload.unwrap_or_else(|_| incoming.reading.payload.to_vec()),
        }
    }
}

/// Keeps a message; the same one again is counted.
///
/// # Errors
/// The database.
pub async fn keep_dead_letter(
    client: &impl GenericClient,
    letter: &DeadLetter,
) -> Result<(), Error> {
    let digest = digest::of_reading(&letter.topic, &letter.payload).0;
    let (digest, payload) = (digest.as_slice(), letter.payload.as_slice());
    let (topic, reason) = (clean(&letter.topic), clean(&letter.reason));
    let parameters: [&(dyn ToSql + Sync); 4] = [&digest, &topic, &reason, &payload];
    client
        .execute(
            "INSERT INTO dead_letters (digest, topic, reason, payload) VALUES ($1, $2, $3, $4)
             ON CONFLICT (digest) DO UPDATE SET times = dead_letters.times + 1, last_seen = now()",
            &parameters,
        )
        .await?;
    Ok(())
}

/// Keeps an account; the same epoch and `through` again replaces what was said before.
///
/// # Errors
/// The database.
pub async fn keep_account(client: &impl GenericClient, account: &Account) -> Result<(), Error> {
    let (village, epoch) = (account.village.as_str(), account.epoch.to_string());
    // Beyond what a `bigint` holds there is nothing that could be stored.
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (through, stored) = (number(account.through.0), number(account.stored));
    let digest = account.digest.0.as_slice();
    let (lost, refused) = (absent(&account.lost), absent(&account.refused));
    let unknown = absent(&account.unknown);
    let tail = account.tail_unknown_from.map(|sequence| number(sequence.0));
    let said_us = account.at.0.checked_mul(1000);
    let said_us = said_us.filter(|us| super::calendar_holds(*us)).unwrap_or(0);
    let clock = clock_word(account.clock);
    let parameters: [&(dyn ToSql + Sync); 12] = [
        &village,
        &epoch,
        &through,
        &account.current,
        &stored,
        &digest,
        &lost,
        &refused,
        &said_us,
        &clock,
        &unknown,
        &tail,
    ];
    client
        .execute(
            "INSERT INTO accounts (village, epoch, through, is_current, stored, digest, lost, refused, said_at, clock, unknown, tail_unknown_from)
             VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::jsonb,
                     'epoch'::timestamptz + $9::int8 * interval '1 microsecond', $10, $11::text::jsonb, $12)
             ON CONFLICT (village, epoch, through) DO UPDATE SET is_current = excluded.is_current,
                 stored = excluded.stored, digest = excluded.digest, lost = excluded.lost,
                 refused = excluded.refused, said_at = excluded.said_at, clock = excluded.clock, heard_at = CASE WHEN (accounts.said_at, accounts.digest) = (excluded.said_at, excluded.digest)
                                 THEN accounts.heard_at ELSE now() END,
                 unknown = excluded.unknown, tail_unknown_from = excluded.tail_unknown_from",
            &parameters,
        )
        .await?;
    Ok(())
}

fn absent(ranges: &[Absent]) -> String {
    let ranges = ranges.iter().map(
        |range| json!({"first": range.first, "last": range.last, "reason": clean(&range.reason)}),
    );
    serde_json::Value::Array(ranges.collect()).to_string()
}

/// PostgreSQL's texts hold no NUL.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
