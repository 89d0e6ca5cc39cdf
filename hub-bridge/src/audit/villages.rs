//! What the database knows of villages and epochs beside the rows.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Transaction;

use crate::identity::{Epoch, Sequence, SequenceRange};
use crate::wire::village_of;

use super::AuditError;

const EPOCHS: &str = "
SELECT village, epoch, (extract(epoch FROM greatest(p.changed_at, a.heard_at)) * 1000000)::bigint AS heard_us
FROM progress p
FULL JOIN (SELECT village, epoch, max(heard_at) AS heard_at FROM accounts GROUP BY village, epoch) a
USING (village, epoch)
ORDER BY village, epoch";

const STORED: &str = "
SELECT lower(r), upper(r) - 1 FROM progress, unnest(stored) r WHERE village = $1 AND epoch = $2 ORDER BY 1";

/// What an account speaks of and the database never stored: the sequences 1 to `through` less the stored ones.
const MISSING: &str = "
SELECT lower(r), upper(r) - 1
FROM unnest(
    int8multirange(int8range(1, $3::bigint + 1))
    - coalesce((SELECT stored FROM progress WHERE village = $1 AND epoch = $2), '{}')
) r ORDER BY 1";

const CONFLICTS: &str = "
SELECT DISTINCT sequence FROM conflicts WHERE village = $1 AND epoch = $2 ORDER BY sequence";

const DEAD_LETTERS: &str = "
SELECT topic, count(*) FROM dead_letters GROUP BY topic ORDER BY topic";

const SHARED_EPOCHS: &str = "
SELECT epoch, string_agg(DISTINCT village, ', ' ORDER BY village) FROM progress
GROUP BY epoch HAVING count(DISTINCT village) > 1";

/// An epoch that the database knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its village.
    pub village: String,
    /// The epoch.
    pub epoch: Epoch,
    /// When rows or an account of it came last.
    pub heard_at: Option<Timestamp>,
}

/// All epochs, by village.
///
/// # Errors
/// Where the database fails, or an epoch's name is none.
pub async fn epochs(transaction: &Transaction<'_>) -> Result<Vec<Known>, AuditError> {
    let rows = transaction.query(EPOCHS, &[]).await?;
    let mut epochs = Vec::with_capacity(rows.len());
    for row in rows {
        let village: String = row.try_get("village")?;
        let name: String = row.try_get("epoch")?;
        let heard: Option<i64> = row.try_get("heard_us")?;
        epochs.push(Known {
            epoch: name.parse().map_err(|_| AuditError::Epoch {
                village: village.clone(),
                epoch: name,
            })?,
            village,
            heard_at: heard.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
        });
    }
    Ok(epochs)
}

/// The sequences that the database noted as stored.
///
/// # Errors
/// Where the database fails.
pub async fn stored(
    transaction: &Transaction<'_>,
    village: &str,
    epoch: Epoch,
) -> Result<Vec<SequenceRange>, AuditError> {
    let rows = transaction
        .query(STORED, &[&village, &epoch.to_string()])
        .await?;
    ranges(&rows)
}

/// The sequences up to `through` that it did not note.
///
/// # Errors
/// Where the database fails.
pub async fn missing(
    transaction: &Transaction<'_>,
    village: &str,
    epoch: Epoch,
    through: Sequence,
) -> Result<Vec<SequenceRange>, AuditError> {
    let through = i64::try_from(through.0)
        .unwrap_or(i64::MAX)
        .min(i64::MAX - 1);
    let rows = transaction
        .query(MISSING, &[&village, &epoch.to_string(), &through])
        .await?;
    ranges(&rows)
}

/// The sequences that came with another content as well.
///
/// # Errors
/// Where the database fails.
pub async fn conflicts(
    transaction: &Transaction<'_>,
    village: &str,
    epoch: Epoch,
) -> Result<Vec<Sequence>, AuditError> {
    let rows = transaction
        .query(CONFLICTS, &[&village, &epoch.to_string()])
        .await?;
    rows.iter()
        .map(|row| Ok(sequence(row.try_get(0)?)))
        .collect()
}

/// Messages that could not be read, by village; those of no village under the empty name.
///
/// # Errors
/// Where the database fails.
pub async fn dead_letters(
    transaction: &Transaction<'_>,
) -> Result<BTreeMap<String, u64>, AuditError> {
    let mut letters = BTreeMap::new();
    for row in transaction.query(DEAD_LETTERS, &[]).await? {
        let topic: &str = row.try_get(0)?;
        let count: i64 = row.try_get(1)?;
        let village = village_of(topic).map_or(String::new(), |(id, _)| id.to_string());
        *letters.entry(village).or_default() += u64::try_from(count).unwrap_or(0);
    }
    Ok(letters)
}

/// Epochs that more than one village has: a copied card. By epoch, the villages as text.
///
/// # Errors
/// Where the database fails.
pub async fn shared_epochs(
    transaction: &Transaction<'_>,
) -> Result<BTreeMap<String, String>, AuditError> {
    let rows = transaction.query(SHARED_EPOCHS, &[]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

fn ranges(rows: &[tokio_postgres::Row]) -> Result<Vec<SequenceRange>, AuditError> {
    let mut ranges = Vec::with_capacity(rows.len());
    for row in rows {
        ranges.extend(SequenceRange::new(
            sequence(row.try_get(0)?),
            sequence(row.try_get(1)?),
        ));
    }
    Ok(ranges)
}

fn sequence(number: i64) -> Sequence {
    Sequence(u64::try_from(number).unwrap_or(0))
}
