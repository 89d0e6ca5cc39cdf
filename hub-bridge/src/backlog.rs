//! What the bridge needs of a store: read on from a sequence, confirm ranges, put a reading aside.
//!
//! Two marks run over each epoch's sequences: *forwarded* (the hub's broker acknowledged) and *stored*
//! (the hub's database said so). Which of the two lets a reading be trimmed is `hub.confirm`.
//!
//! Invariant: only what was confirmed, refused or named as lost is ever trimmed. The calls block on
//! the disk: async code calls them through `spawn_blocking`.

use std::sync::Arc;

use tokio::sync::watch;

use crate::identity::{Epoch, Sequence, SequenceRange, VillageId};
use crate::reading::Reading;
use crate::wire::account::Account;

/// How far the crossing of a reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The hub's broker acknowledged it.
    Forwarded,
    /// The hub's database stored it.
    Stored,
}

/// Where one epoch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochState {
    /// The epoch.
    pub epoch: Epoch,
    /// The village its readings were received in: not always the one of today.
    pub village: VillageId,
    /// The lowest sequence that the store's confirming mark has not passed.
    pub first_unconfirmed: Sequence,
    /// The sequence that the next reading gets. Equal to `first_unconfirmed` when nothing waits.
    pub next: Sequence,
}

/// How much one read may return: at least one reading, however large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// At most so many readings.
    pub count: usize,
    /// At most so many bytes ([`Reading::size_bytes`]).
    pub bytes: usize,
}

/// What a read found.
#[derive(Debug, Clone, Default)]
pub struct ReadBatch {
    /// In order of sequence; those confirmed, refused or lost are left out.
    pub readings: Vec<Arc<Reading>>,
    /// Where to read on: past all that was looked at.
    pub next: Option<Sequence>,
}

/// Why a reading was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In words, for the operator.
    pub reason: String,
}

/// A call on the backlog failed.
#[derive(Debug, thiserror::Error)]
pub enum BacklogError {
    /// No such epoch in the store.
    #[error("epoch {0} is not in the backlog")]
    UnknownEpoch(Epoch),
    /// Something confirmed that was never given out.
    #[error("epoch {epoch}: {range} was confirmed, but only what is below {next} exists")]
    NeverAppended {
        /// The epoch.
        epoch: Epoch,
        /// What was confirmed.
        range: SequenceRange,
        /// The sequence after the last one that exists.
        next: Sequence,
    },
    /// The disk, or what is on it.
    #[error("backlog storage: {0}")]
    Storage(String),
}

/// A store of readings that wait for the hub.
pub trait Backlog: Send + Sync + 'static {
    /// All epochs that still hold something unconfirmed, oldest first, and the current one last.
    fn epochs(&self) -> Vec<EpochState>;

    /// Readings of `epoch` from `from` on that `mark` has not passed.
    fn read(
        &self,
        epoch: Epoch,
        from: Sequence,
        mark: Mark,
        limit: ReadLimit,
    ) -> Result<ReadBatch, BacklogError>;

    /// Moves `mark` over `ranges`, in any order, repeated or not. Durable soon, not at once: a crash may
    /// forget a confirmation (the reading is sent again), never invent one.
    fn confirm(
        &self,
        epoch: Epoch,
        mark: Mark,
        ranges: &[SequenceRange],
    ) -> Result<(), BacklogError>;

    /// Moves a reading that the hub never takes out of the way, durably, before it returns.
    fn refuse(
        &self,
        epoch: Epoch,
        sequence: Sequence,
        refusal: &Refusal,
    ) -> Result<(), BacklogError>;

    /// Changes whenever readings became durable or waiting ones came back (a replay).
    fn appended(&self) -> watch::Receiver<u64>;

    /// The relay's own account of each epoch, for the hub's audit; none where the store keeps none. May read through
    /// much that waits.
    fn accounts(&self) -> Vec<Account> {
        Vec::new()
    }
}
