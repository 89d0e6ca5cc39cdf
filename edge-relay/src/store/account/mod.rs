//! The relay's own account: what was stored of each epoch, with a digest over all of it, so that an audit at the hub
//! needs no access to the village.
//!
//! Nothing of it is on the path of a commit. Segments are read through in order, one at a time: in idle time, when the
//! bridge asks ([`Backlog::accounts`](hub_bridge::backlog::Backlog::accounts)), and at the latest before a segment is
//! removed. Each segment has a sum of its own as long as it is on disk, so that damage that is found later costs
//! counting one segment anew.
//!
//! # On disk
//!
//! `account`: the sums, checksummed, replaced as a whole when a segment was summed up. Sums only speak of sequences that
//! synced marks know of, so no power cut leaves an account that is ahead of the readings.
//!
//! What failure leaves behind: without the file, or where a segment cannot be read, the account names what it cannot speak
//! of as unknown; readings are never the worse for it.

mod file;
mod sums;
#[cfg(test)]
mod tests;

use hub_bridge::backlog::BacklogError;
use hub_bridge::identity::Epoch;
use hub_bridge::wire::account::{Absent, Account};

use super::index::{EpochIndex, Index, Phase};
use super::reader::{Found, SegmentFile, storage};
use super::segment::SegmentName;
use super::sequences::SequenceSet;
use super::shared::Shared;

pub(super) use file::AccountFile;
use sums::{EpochSumsV1, SumV1};

/// So many epochs that are over and forgotten by the store are remembered, the latest ones.
const PAST_EPOCHS_MAX: usize = 32;

/// A segment that is to be summed up.
struct Task {
    name: SegmentName,
    /// The sequence after the last one to be summed up.
    end: u64,
    salt: u32,
    live: bool,
    /// Counted so far.
    sum: SumV1,
}

impl Shared {
    /// Sums up what is not summed up yet, and says it. Blocks on the disk, for as long as reading that takes.
    pub(super) fn accounts(&self) -> Vec<Account> {
        // What came since the last sync is left out otherwise.
        self.write_marks(true);
        let mut failed = Vec::new();
        while self.account_next(true, &mut failed) {}
        let mut account = self.account.lock();
        account.write();
        let now = self.clock.stamp();
        let index = self.index.lock();
        let current = index.epochs.last().map(|e| e.epoch);
        let each = account.epochs().iter().filter_map(|sums| {
            let epoch = Epoch(sums.epoch);
            let village = sums.village.parse().ok()?;
            let refused = refused(&index, epoch);
            Some(sums.account(village, Some(epoch) == current, refused, &now))
        });
        each.collect()
    }

    /// In idle time: sums up one closed segment, where there is one.
    pub(super) fn account_in_idle_time(&self) {
        if self.account_next(false, &mut Vec::new()) {
            self.account.lock().write();
        }
    }

    /// Before a segment is removed. What cannot be read, or written down, does not keep it: the space may be needed, and
    /// the account then says that it does not know.
    pub(super) fn account_before_removal(&self, name: SegmentName) {
        let mut account = self.account.lock();
        let Some(task) = self.task(&mut account, false, |n| n == name) else {
            return;
        };
        match self.sum_up(task) {
            Ok(sum) => account.put(name.epoch, sum),
            Err(error) => {
                tracing::warn!(%error, segment = %name.dir_name(), "removed without an account of it");
            }
        }
        account.write();
    }

    /// Sums up the next segment that is not, but for `failed` ones; whether there was one.
    fn account_next(&self, with_live: bool, failed: &mut Vec<SegmentName>) -> bool {
        // Held while one segment is read: who removes one waits for that long.
        let mut account = self.account.lock();
        let Some(task) = self.task(&mut account, with_live, |name| !failed.contains(&name)) else {
            return false;
        };
        let name = task.name;
        match self.sum_up(task) {
            Ok(sum) => account.put(name.epoch, sum),
            Err(error) => {
                failed.push(name);
                tracing::warn!(%error, segment = %name.dir_name(), "not accounted for yet");
            }
        }
        true
    }

    /// Brings what is known of epochs up to date, and finds the first segment that `may` be summed up.
    fn task(
        &self,
        account: &mut AccountFile,
        with_live: bool,
        may: impl Fn(SegmentName) -> bool,
    ) -> Option<Task> {
        let current = self.index.lock().epochs.last().map(|e| e.epoch)?;
        let known_below = self.unknown_from(current);
        let index = self.index.lock();
        account.follow(&index, |epoch| {
            if epoch.epoch == current {
                epoch.next.min(known_below)
            } else {
                epoch.next
            }
        });
        index.epochs.iter().find_map(|epoch| {
            let sums = account.of(epoch.epoch)?;
            open_tasks(epoch, sums, with_live).find(|task| may(task.name))
        })
    }

    fn sum_up(&self, task: Task) -> Result<SumV1, BacklogError> {
        let Task {
            name,
            end,
            salt,
            live,
            mut sum,
        } = task;
        let mut file = if live {
            None
        } else {
            let dir = self.segment_dir(name);
            Some(SegmentFile::open(&dir, name, end, salt).map_err(storage)?)
        };
        while sum.end < end {
            let found = match &mut file {
                Some(file) => file.read(sum.end).map_err(storage)?,
                None => self.page(name.epoch, sum.end)?,
            };
            match found {
                Found::Page(page) => {
                    let below = page.iter().filter(|r| r.sequence.0 < end);
                    let before = sum.end;
                    sum.add(name.epoch, below.map(AsRef::as_ref));
                    if sum.end == before {
                        return Err(storage("a frame without what was looked for in it"));
                    }
                }
                Found::Missing(next) => sum.miss(next.min(end)),
            }
        }
        Ok(sum)
    }
}

/// The segments of an epoch that are not summed up to where they end.
fn open_tasks<'a>(
    epoch: &'a EpochIndex,
    sums: &'a EpochSumsV1,
    with_live: bool,
) -> impl Iterator<Item = Task> + 'a {
    epoch.segments.iter().filter_map(move |(first, segment)| {
        let live = segment.phase == Phase::Live;
        let end = segment.end.min(sums.next);
        if (live && !with_live) || end <= *first {
            return None;
        }
        let known = sums.of(*first);
        let usable = |sum: &&SumV1| sum.end <= segment.end && !sum.holds_lost(&epoch.lost);
        let sum = known
            .filter(usable)
            .cloned()
            .unwrap_or_else(|| SumV1::new(*first));
        let name = SegmentName {
            epoch: epoch.epoch,
            first: *first,
        };
        (sum.end < end).then_some(Task {
            name,
            end,
            salt: epoch.salt,
            live,
            sum,
        })
    })
}

/// The refused readings of an epoch, neighbours with one reason together.
fn refused(index: &Index, epoch: Epoch) -> Vec<Absent> {
    let mut all: Vec<Absent> = Vec::new();
    let own = index.refused.range((epoch, 0)..=(epoch, u64::MAX));
    for ((_, sequence), entry) in own.filter(|(_, entry)| !entry.retried) {
        let sequence = hub_bridge::identity::Sequence(*sequence);
        match all.last_mut() {
            Some(last) if last.last.next() == sequence && last.reason == entry.reason => {
                last.last = sequence;
            }
            _ => all.push(Absent {
                first: sequence,
                last: sequence,
                reason: entry.reason.clone(),
            }),
        }
    }
    all
}

impl AccountFile {
    /// Takes over what the index knows of its epochs: how far they are, what is lost, and which segments are there.
    fn follow(&mut self, index: &Index, next: impl Fn(&EpochIndex) -> u64) {
        for epoch in &index.epochs {
            let sums = self.of_mut(epoch.epoch, &epoch.village);
            sums.lost = epoch.lost.pairs().to_vec();
            sums.tail_unknown_from = epoch.tail_unknown_from;
            sums.next = next(epoch).max(sums.next);
            let lost = SequenceSet::from_pairs(&sums.lost);
            sums.settle(|first| epoch.segments.contains_key(&first), &lost);
        }
        let kept = |epoch: u32| index.epochs.iter().any(|e| e.epoch.0 == epoch);
        self.forget(kept, PAST_EPOCHS_MAX);
    }
}
