//! Readings whose identity is a row already: the same again, a better time, or a conflict.

use std::collections::BTreeMap;

use tokio_postgres::Transaction;
use tokio_postgres::types::ToSql;
use tracing::error;

use super::row::{Row, clock_word};
use crate::clock::ClockQuality;
use crate::identity::{Epoch, Sequence, VillageId};

/// What came of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) conflicts: u64,
    pub(super) improved: u64,
}

/// As it is in the table.
struct Kept {
    digest: Vec<u8>,
    clock: String,
}

type Identity = (VillageId, Epoch, Sequence);

fn identity(row: &Row<'_>) -> Identity {
    let incoming = row.incoming;
    (
        incoming.village.clone(),
        incoming.epoch,
        incoming.reading.sequence,
    )
}

/// Looks each of `rows` up, keeps conflicts, improves times.
pub(super) async fn settle(
    transaction: &Transaction<'_>,
    rows: &[Row<'_>],
) -> Result<Known, tokio_postgres::Error> {
    let mut known = Known::default();
    if rows.is_empty() {
        return Ok(known);
    }
    // One look into an index for each: a plan over whole months would be a disaster, whatever the estimates say.
    transaction
        .batch_execute(
            "SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off",
        )
        .await?;
    let mut kept = look_up(transaction, rows, Look::SameTime).await?;
    let elsewhere: Vec<&Row<'_>> = rows
        .iter()
        .filter(|row| !kept.contains_key(&identity(row)))
        .collect();
    if !elsewhere.is_empty() {
        let elsewhere: Vec<Row<'_>> = elsewhere.into_iter().cloned().collect();
        kept.extend(look_up(transaction, &elsewhere, Look::AnyTime).await?);
    }
    for row in rows {
        // Not there any more: an old partition was dropped, and it stays known.
        let Some(kept) = kept.get_mut(&identity(row)) else {
            continue;
        };
        if kept.digest != row.digest.0 {
            known.conflicts += conflict(transaction, row).await?;
        } else if kept.clock == clock_word(ClockQuality::Unsynchronised)
            && row.clock == ClockQuality::Synchronised
        {
            improve(transaction, row).await?;
            clock_word(row.clock).clone_into(&mut kept.clock);
            known.improved += 1;
        }
    }
    Ok(known)
}

#[derive(Clone, Copy)]
enum Look {
    /// In the partition that the time leads to: where a reading that comes twice mostly is.
    SameTime,
    /// In all of them.
    AnyTime,
}

async fn look_up(
    transaction: &Transaction<'_>,
    rows: &[Row<'_>],
    look: Look,
) -> Result<BTreeMap<Identity, Kept>, tokio_postgres::Error> {
    let villages: Vec<&str> = rows.iter().map(|r| r.incoming.village.as_str()).collect();
    let epochs: Vec<String> = rows.iter().map(|r| r.incoming.epoch.to_string()).collect();
    let sequences: Vec<i64> = rows.iter().map(|r| r.sequence).collect();
    let times: Vec<i64> = rows.iter().map(|r| r.received_us).collect();
    let and = match look {
        Look::SameTime => {
            "AND r.received_at = 'epoch'::timestamptz + k.us * interval '1 microsecond'"
        }
        Look::AnyTime => "",
    };
    let sql = format!(
        "SELECT k.ordinal, r.digest, r.clock
         FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[]) WITH ORDINALITY
             AS k (village, epoch, sequence, us, ordinal)
         JOIN readings r ON r.village = k.village AND r.epoch = k.epoch AND r.sequence = k.sequence {and}"
    );
    let parameters: [&(dyn ToSql + Sync); 4] = [&villages, &epochs, &sequences, &times];
    let found = transaction.query(&sql, &parameters).await?;
    let mut kept = BTreeMap::new();
    for found in found {
        let ordinal = usize::try_from(found.get::<_, i64>(0)).unwrap_or_default();
        let Some(row) = ordinal.checked_sub(1).and_then(|i| rows.get(i)) else {
            continue;
        };
        let as_it_is = Kept {
            digest: found.get(1),
            clock: found.get(2),
        };
        kept.insert(identity(row), as_it_is);
    }
    Ok(kept)
}

/// Keeps it beside what is stored; 0 where the very same conflict is kept already.
pub(super) async fn conflict(
    transaction: &Transaction<'_>,
    row: &Row<'_>,
) -> Result<u64, tokio_postgres::Error> {
    let incoming = row.incoming;
    let (village, epoch) = (incoming.village.as_str(), incoming.epoch.to_string());
    let digest = row.digest.0.as_slice();
    let clock = clock_word(row.clock);
    let payload: &[u8] = &incoming.reading.payload;
    let source = incoming.source.as_str();
    let (topic, client_id): (&str, &str) = (&row.topic, &row.client_id);
    let parameters: [&(dyn ToSql + Sync); 10] = [
        &village,
        &epoch,
        &row.sequence,
        &digest,
        &topic,
        &client_id,
        &row.received_us,
        &clock,
        &payload,
        &source,
    ];
    let added = transaction
        .execute(
            "INSERT INTO conflicts (village, epoch, sequence, digest, topic, client_id, received_at, clock, payload, source)
             VALUES ($1, $2, $3, $4, $5, $6, 'epoch'::timestamptz + $7::int8 * interval '1 microsecond', $8, $9, $10)
             ON CONFLICT DO NOTHING",
            &parameters,
        )
        .await?;
    if added > 0 {
        let sequence = row.sequence;
        error!(
            village,
            epoch, sequence, "the same identity with another content: see table conflicts"
        );
    }
    Ok(added)
}

async fn improve(
    transaction: &Transaction<'_>,
    row: &Row<'_>,
) -> Result<(), tokio_postgres::Error> {
    let (village, epoch) = (
        row.incoming.village.as_str(),
        row.incoming.epoch.to_string(),
    );
    let parameters: [&(dyn ToSql + Sync); 4] = [&village, &epoch, &row.sequence, &row.received_us];
    transaction
        .execute(
            "UPDATE readings SET clock = 'synchronised',
                 received_at = 'epoch'::timestamptz + $4::int8 * interval '1 microsecond'
             WHERE village = $1 AND epoch = $2 AND sequence = $3 AND clock = 'unsynchronised'",
            &parameters,
        )
        .await?;
    Ok(())
}
