//! The store as the bridge sees it.

use std::sync::Arc;

use hub_bridge::backlog::{Backlog, BacklogError, EpochState, Mark, ReadBatch, ReadLimit, Refusal};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange};
use hub_bridge::reading::Reading;
use hub_bridge::wire::account::Account;
use tokio::sync::watch;

use super::Store;
use super::frame;
use super::reader::{Found, Page, storage};
use super::refused::RefusedV1;
use super::shared::Shared;

impl Backlog for Store {
    fn epochs(&self) -> Vec<EpochState> {
        let confirming = self.shared().settings.read().confirm;
        let index = self.shared().index.lock();
        let current = index.epochs.len().saturating_sub(1);
        let mut states = Vec::new();
        for (i, epoch) in index.epochs.iter().enumerate() {
            let first_unconfirmed = epoch.passed(confirming).next_missing(1).min(epoch.next);
            if i == current || first_unconfirmed < epoch.next {
                states.push(EpochState {
                    epoch: epoch.epoch,
                    village: epoch.village.clone(),
                    first_unconfirmed: Sequence(first_unconfirmed),
                    next: Sequence(epoch.next),
                });
            }
        }
        states
    }

    fn read(
        &self,
        epoch: Epoch,
        from: Sequence,
        mark: Mark,
        limit: ReadLimit,
    ) -> Result<ReadBatch, BacklogError> {
        read(self.shared(), epoch, from, mark, limit)
    }

    fn confirm(
        &self,
        epoch: Epoch,
        mark: Mark,
        ranges: &[SequenceRange],
    ) -> Result<(), BacklogError> {
        let shared = self.shared();
        let confirming = shared.settings.read().confirm;
        let through = shared
            .index
            .lock()
            .confirm(epoch, mark, ranges, confirming)?;
        if !through.is_empty() {
            shared.write_marks(true);
            for sequence in through {
                if let Err(error) = shared.refused_dir.remove(epoch, sequence) {
                    tracing::warn!(%error, sequence, "a retried reading's file stays");
                }
                shared.index.lock().refused.remove(&(epoch, sequence));
            }
        }
        shared.marks_changed();
        Ok(())
    }

    fn refuse(
        &self,
        epoch: Epoch,
        sequence: Sequence,
        refusal: &Refusal,
    ) -> Result<(), BacklogError> {
        refuse(self.shared(), epoch, sequence, refusal)
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.shared().appended.subscribe()
    }

    fn accounts(&self) -> Vec<Account> {
        self.shared().accounts()
    }
}

/// The page that holds `sequence`, or the first one behind what is lost there.
fn next_page(
    shared: &Shared,
    epoch: Epoch,
    sequence: u64,
) -> Result<Result<Page, u64>, BacklogError> {
    match shared.page(epoch, sequence)? {
        Found::Page(page) => Ok(Ok(page)),
        Found::Missing(next) => {
            shared.lose(epoch, sequence, next)?;
            Ok(Err(next))
        }
    }
}

fn read(
    shared: &Shared,
    epoch: Epoch,
    from: Sequence,
    mark: Mark,
    limit: ReadLimit,
) -> Result<ReadBatch, BacklogError> {
    let mut batch = ReadBatch::default();
    let mut bytes = 0;
    let mut at = from.0.max(1);
    'pages: loop {
        let next = {
            let index = shared.index.lock();
            let found = index.epoch(epoch)?;
            at = found.passed(mark).next_missing(at);
            found.next
        };
        if at >= next {
            at = at.min(next).max(from.0);
            break;
        }
        let page = match next_page(shared, epoch, at)? {
            Ok(page) => page,
            Err(behind) => {
                at = behind;
                continue;
            }
        };
        for reading in wanted(shared, epoch, mark, &page, at)? {
            let size = reading.size_bytes();
            let first = batch.readings.is_empty();
            if !first && (batch.readings.len() >= limit.count || bytes + size > limit.bytes) {
                at = reading.sequence.0;
                break 'pages;
            }
            bytes += size;
            batch.readings.push(reading);
        }
        at = page.last().map_or(at, |r| r.sequence.0) + 1;
        if batch.readings.len() >= limit.count {
            break;
        }
    }
    batch.next = Some(Sequence(at));
    hold_back_unknown(shared, epoch, &mut batch)?;
    Ok(batch)
}

/// Nothing leaves this box before marks on stable storage know of its sequence: else damage could have the sequence
/// given out again (`reached.rs`). One sync for all that came since the last one.
pub(super) fn hold_back_unknown(
    shared: &Shared,
    epoch: Epoch,
    batch: &mut ReadBatch,
) -> Result<(), BacklogError> {
    let last = batch.readings.last().map_or(0, |r| r.sequence.0);
    if last < shared.unknown_from(epoch) {
        return Ok(());
    }
    shared.write_marks(true);
    let unknown_from = shared.unknown_from(epoch);
    if last < unknown_from {
        return Ok(());
    }
    batch.readings.retain(|r| r.sequence.0 < unknown_from);
    if batch.readings.is_empty() {
        return Err(storage("the marks cannot be put on stable storage"));
    }
    batch.next = Some(Sequence(unknown_from));
    Ok(())
}

/// The readings of `page` from `at` on that `mark` has not passed.
fn wanted(
    shared: &Shared,
    epoch: Epoch,
    mark: Mark,
    page: &Page,
    at: u64,
) -> Result<Vec<Arc<Reading>>, BacklogError> {
    let index = shared.index.lock();
    let found = index.epoch(epoch)?;
    let passed = found.passed(mark);
    let wanted = page.iter().filter(|r| {
        let sequence = r.sequence.0;
        // What a given-up segment holds beyond its end was never acknowledged.
        sequence >= at && sequence < found.next && !passed.contains(sequence)
    });
    Ok(wanted.cloned().collect())
}

/// One reading, passed or not; `None` where it is not there any more.
pub(super) fn one(
    shared: &Shared,
    epoch: Epoch,
    sequence: u64,
) -> Result<Option<Arc<Reading>>, BacklogError> {
    Ok(match shared.page(epoch, sequence)? {
        Found::Page(page) => page.iter().find(|r| r.sequence.0 == sequence).cloned(),
        Found::Missing(_) => None,
    })
}

fn refuse(
    shared: &Shared,
    epoch: Epoch,
    sequence: Sequence,
    refusal: &Refusal,
) -> Result<(), BacklogError> {
    let (village, salt, next) = {
        let index = shared.index.lock();
        let found = index.epoch(epoch)?;
        (found.village.clone(), found.salt, found.next)
    };
    let range = SequenceRange::one(sequence);
    if sequence.0 >= next || sequence.0 == 0 {
        return Err(BacklogError::NeverAppended {
            epoch,
            range,
            next: Sequence(next),
        });
    }
    let Some(reading) = one(shared, epoch, sequence.0)? else {
        return Err(storage(format!("{sequence} is not there to be refused")));
    };
    let record = frame::encode_reading(epoch, &reading, salt).map_err(storage)?;
    let refused = RefusedV1 {
        epoch: epoch.0,
        sequence: sequence.0,
        village: village.to_string(),
        salt,
        reason: refusal.reason.clone(),
        at_ms: shared.clock.wall().0,
        retried: false,
        record: record.into(),
    };
    shared.refused_dir.put(&refused).map_err(storage)?;
    let confirming = shared.settings.read().confirm;
    {
        let mut index = shared.index.lock();
        let entry = refused.entry();
        index.refused.insert((epoch, sequence.0), entry);
        let found = index.epoch_mut(epoch)?;
        found.pass(range);
        found.recount(range, confirming);
        index.dirty = true;
    }
    shared.marks_changed();
    Ok(())
}
