//! Reads the backlog ahead of the link, oldest epoch first, off the async threads.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backlog::{Backlog, BacklogError, Mark, ReadLimit};
use crate::identity::{Epoch, Sequence, VillageId};
use crate::reading::Reading;

/// How much one read asks for: beside what is in flight and what is read ahead (`storage`), this is in memory, or one
/// reading that is larger.
const READ_AT_ONCE: ReadLimit = ReadLimit {
    count: 512,
    bytes: 128 * 1024,
};

/// Readings of one epoch.
pub(crate) struct Portion {
    pub(crate) epoch: Epoch,
    /// How many epochs are older.
    pub(crate) epoch_age: usize,
    pub(crate) village: Arc<VillageId>,
    pub(crate) readings: Vec<Arc<Reading>>,
    next: Sequence,
}

/// Where the link has read to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Feed {
    cursors: HashMap<Epoch, Sequence>,
    /// Nothing more is there until something is appended.
    pub(crate) exhausted: bool,
}

impl Feed {
    /// Begin again with what is not confirmed: only while nothing of it is under way.
    pub(crate) fn rewind(&mut self) {
        self.cursors.clear();
        self.exhausted = false;
    }

    /// Takes note of what was read; `None`: there is nothing more.
    pub(crate) fn advance(&mut self, portion: Option<&Portion>) {
        match portion {
            Some(portion) => {
                self.cursors.insert(portion.epoch, portion.next);
            }
            None => self.exhausted = true,
        }
    }

    /// The next portion. Blocks on the disk.
    pub(crate) fn read(&self, backlog: &dyn Backlog) -> Result<Option<Portion>, BacklogError> {
        for (epoch_age, state) in backlog.epochs().into_iter().enumerate() {
            let cursor = self.cursors.get(&state.epoch).copied();
            let mut from = cursor.unwrap_or(state.first_unconfirmed);
            from = from.max(state.first_unconfirmed);
            while from < state.next {
                let batch = backlog.read(state.epoch, from, Mark::Forwarded, READ_AT_ONCE)?;
                let past = batch.readings.last().map(|reading| reading.sequence.next());
                let Some(next) = batch.next.max(past) else {
                    break;
                };
                if !batch.readings.is_empty() {
                    return Ok(Some(Portion {
                        epoch: state.epoch,
                        epoch_age,
                        village: Arc::new(state.village),
                        readings: batch.readings,
                        next,
                    }));
                }
                if next <= from {
                    break;
                }
                from = next;
            }
        }
        Ok(None)
    }
}
