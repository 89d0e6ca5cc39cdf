//! Which sequences are rows: read under a lock that makes "once" hold, and written in the same transaction.

use std::collections::BTreeMap;

use tokio_postgres::{GenericClient, Transaction};

use super::ranges::RangeSet;
use crate::identity::{Epoch, VillageId};

/// What is stored, by village and epoch.
pub type Progress = BTreeMap<(VillageId, Epoch), RangeSet>;

/// Locks the rows of `keys`, making those that are not there, and gives what is stored.
///
/// Always in the order of the keys, which both statements keep: two receivers never wait for each other in a circle.
pub(super) async fn lock(
    transaction: &Transaction<'_>,
    keys: &[(VillageId, Epoch)],
) -> Result<Progress, tokio_postgres::Error> {
    let (villages, epochs) = columns(keys);
    transaction
        .execute(
            "INSERT INTO progress (village, epoch) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING",
            &[&villages, &epochs],
        )
        .await?;
    let sql = "SELECT village, epoch, stored::text FROM progress
               WHERE (village, epoch) IN (SELECT * FROM unnest($1::text[], $2::text[]))
               ORDER BY village COLLATE \"C\", epoch COLLATE \"C\" FOR UPDATE";
    let rows = transaction.query(sql, &[&villages, &epochs]).await?;
    Ok(parsed(&rows))
}

/// Adds `added` to what is stored.
pub(super) async fn add(
    transaction: &Transaction<'_>,
    added: &Progress,
) -> Result<(), tokio_postgres::Error> {
    let added: Vec<_> = added.iter().filter(|(_, set)| !set.is_empty()).collect();
    if added.is_empty() {
        return Ok(());
    }
    let keys: Vec<_> = added.iter().map(|(key, _)| (*key).clone()).collect();
    let (villages, epochs) = columns(&keys);
    let ranges: Vec<String> = added.iter().map(|(_, set)| set.to_multirange()).collect();
    transaction
        .execute(
            "UPDATE progress p SET stored = p.stored + u.added::int8multirange, changed_at = now()
             FROM unnest($1::text[], $2::text[], $3::text[]) AS u (village, epoch, added)
             WHERE p.village = u.village AND p.epoch = u.epoch",
            &[&villages, &epochs, &ranges],
        )
        .await?;
    Ok(())
}

/// What is stored of `keys` now, without a lock.
///
/// # Errors
/// The database.
pub async fn read(
    client: &impl GenericClient,
    keys: &[(VillageId, Epoch)],
) -> Result<Progress, tokio_postgres::Error> {
    let (villages, epochs) = columns(keys);
    let sql = "SELECT village, epoch, stored::text FROM progress
               WHERE (village, epoch) IN (SELECT * FROM unnest($1::text[], $2::text[]))";
    let rows = client.query(sql, &[&villages, &epochs]).await?;
    Ok(parsed(&rows))
}

fn columns(keys: &[(VillageId, Epoch)]) -> (Vec<&str>, Vec<String>) {
    let villages = keys.iter().map(|(village, _)| village.as_str()).collect();
    let epochs = keys.iter().map(|(_, epoch)| epoch.to_string()).collect();
    (villages, epochs)
}

fn parsed(rows: &[tokio_postgres::Row]) -> Progress {
    let parse = |row: &tokio_postgres::Row| {
        let village: &str = row.get(0);
        let epoch: &str = row.get(1);
        let stored = RangeSet::from_multirange(row.get(2))?;
        Some(((village.parse().ok()?, epoch.parse().ok()?), stored))
    };
    rows.iter().filter_map(parse).collect()
}
