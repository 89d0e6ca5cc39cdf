//! Reads the backlog ahead of the link, oldest epoch first, off the async threads.

use std::collections::HashMap;
use std::sync::Arc;

use crate::backlog::{Backlog, BacklogError, Mark, ReadLimit};
use crate::identity::{Epoch, Sequence, SequenceRange, VillageId};
use crate::ranges::Ranges;
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
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    mark: Mark,
    cursors: HashMap<Epoch, Sequence>,
    /// What is under way, and what waits for its receipt: not read again while it is here.
    given: HashMap<Epoch, Ranges>,
    /// Nothing more is there until something is appended.
    pub(crate) exhausted: bool,
    /// Counts how often something was given back; and what it was when the read under way began.
    returns: u64,
    returns_at_read: u64,
}

impl Feed {
    pub(crate) fn new(mark: Mark) -> Self {
        Self {
            mark,
            cursors: HashMap::new(),
            given: HashMap::new(),
            exhausted: false,
            returns: 0,
            returns_at_read: 0,
        }
    }

    /// Readings that have this mark are not read.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// `ranges` are not to be read until they are given back.
    pub(crate) fn keep_out(&mut self, epoch: Epoch, ranges: &[SequenceRange]) {
        let given = self.given.entry(epoch).or_default();
        ranges.iter().for_each(|range| given.insert(*range));
    }

    /// `ranges` are read again, where they are not confirmed.
    pub(crate) fn give_back(&mut self, epoch: Epoch, ranges: &[SequenceRange]) {
        let given = self.given.entry(epoch).or_default();
        ranges.iter().for_each(|range| given.remove(*range));
        let first = ranges.iter().map(|range| range.first).min();
        if let (Some(first), Some(cursor)) = (first, self.cursors.get_mut(&epoch)) {
            *cursor = (*cursor).min(first);
        }
        self.exhausted = false;
        self.returns += 1;
    }

    /// What a read works on, off this thread.
    pub(crate) fn for_a_read(&mut self) -> Self {
        self.returns_at_read = self.returns;
        self.clone()
    }

    /// Takes note of what was read; `None`: there is nothing more. A read that began before something was given back
    /// knows nothing of that: the next goes over the same sequences again, and leaves out what is given.
    pub(crate) fn advance(&mut self, portion: Option<&Portion>) {
        if self.returns != self.returns_at_read {
            return;
        }
        match portion {
            Some(portion) => {
                self.cursors.insert(portion.epoch, portion.next);
            }
            None => self.exhausted = true,
        }
    }

    /// The next portion. Blocks on the disk.
    pub(crate) fn read(&self, backlog: &dyn Backlog) -> Result<Option<Portion>, BacklogError> {
        let nothing = Ranges::default();
        for (epoch_age, state) in backlog.epochs().into_iter().enumerate() {
            let given = self.given.get(&state.epoch).unwrap_or(&nothing);
            let cursor = self.cursors.get(&state.epoch).copied();
            let mut from = cursor.unwrap_or(state.first_unconfirmed);
            from = given.next_missing(from.max(state.first_unconfirmed));
            while from < state.next {
                let mut batch = backlog.read(state.epoch, from, self.mark, READ_AT_ONCE)?;
                let past = batch.readings.last().map(|reading| reading.sequence.next());
                let Some(next) = batch.next.max(past) else {
                    break;
                };
                batch.readings.retain(|r| !given.contains(r.sequence));
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
                from = given.next_missing(next);
            }
        }
        Ok(None)
    }
}
