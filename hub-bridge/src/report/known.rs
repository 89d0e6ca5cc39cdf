//! What the database knows beside the readings of a range: villages, sequences, meters that sent nothing.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tokio_postgres::Transaction;

use crate::identity::VillageId;

use super::rows::Sequences;

const VILLAGES: &str = "
SELECT village FROM progress UNION SELECT village FROM accounts ORDER BY village";

const SEQUENCES: &str = "
SELECT coalesce(sum(greatest(upper(p.stored) - 1, a.through, 0)), 0)::bigint,
       coalesce(sum((SELECT sum(upper(r) - lower(r)) FROM unnest(p.stored) r)), 0)::bigint
FROM (SELECT epoch, stored FROM progress WHERE village = $1) p
FULL JOIN (SELECT epoch, max(through) AS through FROM accounts WHERE village = $1 GROUP BY epoch) a USING (epoch)";

/// Steps from meter to meter along the index, without reading what lies between.
const METERS: &str = "
WITH RECURSIVE step AS (
    (SELECT meter FROM readings WHERE village = $1 AND meter IS NOT NULL ORDER BY meter LIMIT 1)
    UNION ALL
    SELECT (SELECT r.meter FROM readings r WHERE r.village = $1 AND r.meter > step.meter ORDER BY r.meter LIMIT 1)
    FROM step WHERE step.meter IS NOT NULL
)
SELECT step.meter, newest.topic, (extract(epoch FROM newest.ts) * 1000000)::bigint AS newest_us
FROM step, LATERAL (
    SELECT r.topic, r.ts FROM readings r
    WHERE r.village = $1 AND r.meter = step.meter AND r.ts < timestamptz 'epoch' + $2::bigint * interval '1 microsecond'
          AND isfinite(r.ts)
    ORDER BY r.ts DESC LIMIT 1
) newest
WHERE step.meter IS NOT NULL";

/// The villages that the database knows; only those of `wanted` where it names any.
///
/// # Errors
/// Where the database fails.
pub(super) async fn villages(
    transaction: &Transaction<'_>,
    wanted: &[VillageId],
) -> Result<Vec<String>, tokio_postgres::Error> {
    let rows = transaction.query(VILLAGES, &[]).await?;
    let mut villages = Vec::with_capacity(rows.len());
    for row in rows {
        let village: String = row.try_get(0)?;
        if wanted.is_empty() || wanted.iter().any(|id| id.as_str() == village) {
            villages.push(village);
        }
    }
    Ok(villages)
}

/// How far a village's sequences go, and how many are rows.
///
/// # Errors
/// Where the database fails.
pub(super) async fn sequences(
    transaction: &Transaction<'_>,
    village: &str,
) -> Result<Sequences, tokio_postgres::Error> {
    let row = transaction.query_one(SEQUENCES, &[&village]).await?;
    let count = |index: usize| -> Result<u64, tokio_postgres::Error> {
        let count: i64 = row.try_get(index)?;
        Ok(u64::try_from(count).unwrap_or(0))
    };
    Ok(Sequences {
        given: count(0)?,
        stored: count(1)?,
    })
}

/// A meter without a reading in the range.
#[derive(Debug)]
pub(super) struct Silent {
    /// Its name.
    pub(super) meter: String,
    /// The topic of its newest reading.
    pub(super) topic: String,
    /// That reading's time.
    pub(super) newest: Option<Timestamp>,
}

/// The mapped meters of a village that sent before `end` and are not among `seen`.
///
/// # Errors
/// Where the database fails.
pub(super) async fn silent_meters(
    transaction: &Transaction<'_>,
    village: &str,
    end: Timestamp,
    seen: &BTreeSet<String>,
) -> Result<Vec<Silent>, tokio_postgres::Error> {
    let rows = transaction
        .query(METERS, &[&village, &end.as_microsecond()])
        .await?;
    let mut silent = Vec::new();
    for row in rows {
        let meter: String = row.try_get("meter")?;
        if !seen.contains(&meter) {
            let newest: Option<i64> = row.try_get("newest_us")?;
            silent.push(Silent {
                meter,
                topic: row.try_get("topic")?,
                newest: newest.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
            });
        }
    }
    Ok(silent)
}
