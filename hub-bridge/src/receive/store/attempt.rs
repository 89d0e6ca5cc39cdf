//! One transaction with a batch, as a whole or not at all.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Transaction};

use super::row::Row;
use super::{
    BeforeCommit, Incoming, Progress, Store, StoreError, Stored, bury, copy, is_there_already,
    keys, known, progress,
};
use crate::hub::database::words;
use crate::identity::{Epoch, Sequence, VillageId};

/// How much is asked of the database.
#[derive(Debug, Clone)]
pub(super) enum Care {
    /// Everything.
    Bulk,
    /// A single one that was refused: without its columns.
    Stripped(String),
    /// A single one whose row is there, and `progress` does not know it.
    There,
}

impl Care {
    /// What to try next with a single reading that was refused; `None`: nothing is left.
    pub(super) fn next(&self, error: &tokio_postgres::Error) -> Option<Self> {
        match self {
            Self::Bulk | Self::Stripped(_) if is_there_already(error) => Some(Self::There),
            Self::Bulk => Some(Self::Stripped(words(error))),
            Self::Stripped(_) | Self::There => None,
        }
    }
}

/// A batch, taken apart.
struct Split<'a> {
    /// Rows to write, and where in the batch they were.
    new: Vec<Row<'a>>,
    new_at: Vec<usize>,
    /// What is in the table already.
    known: Vec<Row<'a>>,
    /// What comes twice within the batch and is not the same.
    conflicts: Vec<Row<'a>>,
    /// How many come twice within the batch.
    twice: u64,
    /// How many of those had the better time.
    improved: u64,
    added: Progress,
}

impl Store {
    /// Stores `part` in one transaction.
    pub(super) async fn attempt(
        &self,
        client: &mut Client,
        part: &[Incoming],
        care: &Care,
        before_commit: Option<&dyn BeforeCommit>,
    ) -> Result<Stored, StoreError> {
        let mut rows = Vec::with_capacity(part.len());
        let mut places = Vec::with_capacity(part.len());
        let mut dead = 0;
        for (place, incoming) in part.iter().enumerate() {
            let Some(row) = Row::new(incoming, &self.mapping) else {
                let one = std::slice::from_ref(incoming);
                bury(client, one, "a sequence that no table holds").await?;
                dead += 1;
                continue;
            };
            rows.push(match care {
                Care::Bulk | Care::There => row,
                Care::Stripped(why) => row.stripped(why),
            });
            places.push(place);
        }
        self.months.ensure(client, &rows).await?;
        let transaction = client.transaction().await?;
        let stored = progress::lock(&transaction, &keys(&rows)).await?;
        let split = split(rows, &places, stored.clone(), matches!(care, Care::There));
        if let Some(before_commit) = before_commit {
            let new: Vec<&Incoming> = split.new.iter().map(|row| row.incoming).collect();
            let taken = before_commit.take(&new).await;
            taken.map_err(StoreError::BeforeCommit)?;
        }
        let mut outcome = write(&transaction, split, stored).await?;
        transaction.commit().await?;
        outcome.dead = dead;
        Ok(outcome)
    }
}

/// Takes new from known. With `there` nothing is new: the row exists, and is only to be noted.
fn split<'a>(rows: Vec<Row<'a>>, places: &[usize], mut stored: Progress, there: bool) -> Split<'a> {
    let mut split = Split {
        new: Vec::with_capacity(rows.len()),
        new_at: Vec::with_capacity(rows.len()),
        known: Vec::new(),
        conflicts: Vec::new(),
        twice: 0,
        improved: 0,
        added: Progress::new(),
    };
    let mut here: BTreeMap<(VillageId, Epoch, Sequence), usize> = BTreeMap::new();
    for (row, place) in rows.into_iter().zip(places) {
        let sequence = row.incoming.reading.sequence;
        let key = (row.incoming.village.clone(), row.incoming.epoch);
        let identity = (key.0.clone(), key.1, sequence);
        if stored.entry(key.clone()).or_default().insert(sequence) {
            split.added.entry(key).or_default().insert(sequence);
            if there {
                split.known.push(row);
                continue;
            }
            here.insert(identity, split.new.len());
            split.new.push(row);
            split.new_at.push(*place);
            continue;
        }
        let first = here.get(&identity).copied();
        match first.and_then(|at| split.new.get_mut(at)) {
            Some(first) if first.digest == row.digest => {
                split.twice += 1;
                split.improved += u64::from(first.improve(&row));
            }
            Some(_) => split.conflicts.push(row),
            None => split.known.push(row),
        }
    }
    split
}

async fn write(
    transaction: &Transaction<'_>,
    split: Split<'_>,
    mut stored: Progress,
) -> Result<Stored, tokio_postgres::Error> {
    copy::copy_in(transaction, &split.new).await?;
    let settled = known::settle(transaction, &split.known).await?;
    let mut conflicts = settled.conflicts;
    for row in &split.conflicts {
        conflicts += known::conflict(transaction, row).await?;
    }
    progress::add(transaction, &split.added).await?;
    for (key, added) in &split.added {
        let set = stored.entry(key.clone()).or_default();
        set.merge(added);
    }
    let known = split.known.len() + split.conflicts.len();
    Ok(Stored {
        new: split.new_at,
        known: split.twice + known as u64,
        conflicts,
        improved: split.improved + settled.improved,
        dead: 0,
        progress: stored,
    })
}
