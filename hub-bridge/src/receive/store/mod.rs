//! Readings into PostgreSQL, each once, whatever comes twice, at the same time, or damaged.
//!
//! One transaction a batch: the `progress` rows of its epochs are locked, what is new is split from what is known, new
//! rows go in by binary `COPY`, known ones are compared, `progress` is written. Invariant: a sequence is in `progress`
//! exactly if its row was written by a committed transaction. A failure leaves nothing behind.
//!
//! One bad reading never fails its batch: a batch that the database refuses for its data is halved until the one is
//! found; that is stored without its columns, or, where even that is refused, kept in `dead_letters` as a frame of one.

mod attempt;
mod beside;
mod copy;
mod known;
mod months;
mod progress;
mod ranges;
mod row;

use std::collections::BTreeSet;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

pub use beside::{DeadLetter, keep_account, keep_dead_letter};
pub use progress::{Progress, read as read_progress};
pub use ranges::RangeSet;
pub(crate) use row::calendar_holds;

use crate::hub::config::MappingSettings;
use crate::hub::database::words;
use crate::identity::{Epoch, VillageId};
use crate::wire::frame::Carried;

use attempt::Care;

/// A reading on its way into the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The village.
    pub village: VillageId,
    /// The epoch.
    pub epoch: Epoch,
    /// The reading.
    pub reading: Carried,
    /// How it came.
    pub source: Source,
}

/// How a reading came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In a frame.
    Frame,
    /// As a publish of its own.
    Plain,
    /// By hand.
    Import,
}

impl Source {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Plain => "plain",
            Self::Import => "import",
        }
    }
}

/// What came of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// Which of the batch are rows now and were none before: indices, in order.
    pub new: Vec<usize>,
    /// How many were rows already, or came twice in the batch; conflicts among them.
    pub known: u64,
    /// How many conflicts were kept that were not before.
    pub conflicts: u64,
    /// How many rows have a better time now.
    pub improved: u64,
    /// How many no table takes: in `dead_letters`, and not in `progress`.
    pub dead: u64,
    /// What is stored now of every epoch in the batch.
    pub progress: Progress,
}

/// Why a batch is not stored. Nothing of the failed part is.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database, or the way to it. Trying again, over a new connection, is right.
    #[error("{}", words(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// What has to happen before the commit did not.
    #[error("before the commit: {0}")]
    BeforeCommit(String),
}

/// What has to happen to new readings before they are committed: a second sink that must have them too.
pub trait BeforeCommit: Sync {
    /// Called within the transaction, with the new ones. May be called again for the same, where the commit failed.
    fn take<'a>(
        &'a self,
        new: &'a [&'a Incoming],
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;
}

/// No second sink: what stands in its place in a build without one.
#[derive(Debug)]
pub enum NoSink {}

impl BeforeCommit for NoSink {
    fn take<'a>(
        &'a self,
        _new: &'a [&'a Incoming],
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>> {
        match *self {}
    }
}

/// Stores readings. Cheap to share; holds no connection.
#[derive(Debug, Default)]
pub struct Store {
    mapping: MappingSettings,
    months: months::Months,
}

impl Store {
    /// One that extracts what `mapping` says.
    pub fn new(mapping: MappingSettings) -> Self {
        Self {
            mapping,
            months: months::Months::default(),
        }
    }

    /// Stores a batch, of any villages and epochs in any order; what is stored already is compared and counted. When
    /// it returns `Ok`, everything in it is committed: as a row, a known row, a conflict or a dead letter.
    ///
    /// The client must be in no transaction. Batches of some thousand readings are right; each part that the database
    /// takes is a transaction of its own where it refuses the whole.
    ///
    /// # Errors
    /// Where the database is out of reach or does not want now. Parts may be committed; storing again is harmless.
    pub async fn store_batch(
        &self,
        client: &mut Client,
        batch: &[Incoming],
    ) -> Result<Stored, StoreError> {
        self.store_batch_with(client, batch, None).await
    }

    /// The same, with something that has to happen to the new ones before the commit.
    ///
    /// # Errors
    /// As above, and where that failed.
    pub async fn store_batch_with(
        &self,
        client: &mut Client,
        batch: &[Incoming],
        before_commit: Option<&dyn BeforeCommit>,
    ) -> Result<Stored, StoreError> {
        let mut stored = Stored::default();
        let mut parts = vec![(0..batch.len(), Care::Bulk)];
        while let Some((range, care)) = parts.pop() {
            let Some(part) = batch.get(range.clone()).filter(|part| !part.is_empty()) else {
                continue;
            };
            match self.attempt(client, part, &care, before_commit).await {
                Ok(outcome) => stored.add(range.start, outcome),
                Err(StoreError::Postgres(error))
                    if is_of_the_data(&error) || (range.len() > 1 && took_too_long(&error)) =>
                {
                    let middle = range.start + range.len() / 2;
                    if range.len() > 1 {
                        // In order: the first half is next.
                        parts.push((middle..range.end, Care::Bulk));
                        parts.push((range.start..middle, Care::Bulk));
                    } else if let Some(care) = care.next(&error) {
                        parts.push((range, care));
                    } else {
                        bury(client, part, &words(&error)).await?;
                        stored.dead += 1;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(stored)
    }
}

impl Stored {
    fn add(&mut self, offset: usize, part: Self) {
        self.new.extend(part.new.iter().map(|index| offset + index));
        self.known += part.known;
        self.conflicts += part.conflicts;
        self.improved += part.improved;
        self.dead += part.dead;
        self.progress.extend(part.progress);
    }
}

/// Half of it may take half as long.
fn took_too_long(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::QUERY_CANCELED)
}

/// Whether the rows are to blame, and not the server's state: `data exception`, `integrity constraint violation`,
/// `program limit exceeded`, and what a trigger raises.
fn is_of_the_data(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        let code = code.code();
        code.starts_with("22")
            || code.starts_with("23")
            || code.starts_with("54")
            || code == "P0001"
    })
}

/// Whether a row of this identity is in a partition, and `progress` does not know it.
fn is_there_already(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// What no table takes, as a frame of one: it can be imported once the table takes it.
async fn bury(client: &Client, part: &[Incoming], reason: &str) -> Result<(), StoreError> {
    for incoming in part {
        keep_dead_letter(client, &DeadLetter::of_reading(incoming, reason)).await?;
    }
    Ok(())
}

/// By village and epoch, in the order of both.
fn keys(rows: &[row::Row<'_>]) -> Vec<(VillageId, Epoch)> {
    let keys = rows
        .iter()
        .map(|row| (row.incoming.village.clone(), row.incoming.epoch));
    keys.collect::<BTreeSet<_>>().into_iter().collect()
}
