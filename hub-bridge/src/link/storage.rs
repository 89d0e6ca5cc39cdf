//! The link's side of the backlog: reads ahead, confirms and puts aside, one job of each kind at a time.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, warn};

use super::{Cargo, Confirms, Found, Item, Link, LinkEvent};
use crate::backlog::{BacklogError, Refusal};
use crate::platform::Crashed;
use crate::ranges::Ranges;
use crate::status::LimitedBy;

/// Acknowledgements are confirmed after so long, or when so many are there, or when nothing else is to do.
pub(super) const CONFIRM_AFTER: Duration = Duration::from_millis(50);
const CONFIRM_COUNT: u64 = 500;
/// Read ahead while fewer readings wait, and fewer bytes.
const READ_AHEAD_BELOW: usize = 512;
const READ_AHEAD_BYTES: usize = 256 * 1024;
/// What a new reading has to wait for where it goes first: a second of a thin link.
const READ_AHEAD_OF_LIVE_BYTES: usize = 32 * 1024;
const STORAGE_RETRY: Duration = Duration::from_secs(1);

impl Link {
    pub(super) fn begin_read(&mut self) {
        let waits = self.waits_for_retained();
        let wanted = self.accepted
            && !self.ask_only
            && self.read_job.is_none()
            && !self.feed.exhausted
            && self.has_room_ahead()
            && !waits
            && self.now() >= self.storage_retry_at;
        if wanted {
            let feed = self.feed.for_a_read();
            let backlog = Arc::clone(&self.parts.backlog);
            let job = (self.parts.platform).offload(move || feed.read(backlog.as_ref()));
            self.read_job = Some(job);
            self.appended_in_read = false;
        }
    }

    fn has_room_ahead(&self) -> bool {
        if self.frames() {
            return self.framing.has_room(self.frame_readings());
        }
        let bytes = if self.feed.live_goes_first() {
            READ_AHEAD_OF_LIVE_BYTES
        } else {
            READ_AHEAD_BYTES
        };
        self.lanes.queued() < READ_AHEAD_BELOW && self.lanes.queued_bytes() < bytes
    }

    pub(super) fn take_read(&mut self, read: Result<Result<Found, BacklogError>, Crashed>) {
        self.read_job = None;
        let found = match read {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return self.storage_failed(&error),
            Err(error) => return self.storage_failed(&error),
        };
        self.feed.advance(&found);
        // It may have looked before that was there.
        if std::mem::take(&mut self.appended_in_read) {
            self.feed.exhausted = false;
        }
        let Found::Portion(portion) = found else {
            return;
        };
        let taken: Ranges = portion.readings.iter().map(|r| r.sequence).collect();
        self.feed
            .keep_out(portion.epoch, &taken.iter().collect::<Vec<_>>());
        if self.frames() {
            return self.gather(portion);
        }
        for reading in portion.readings {
            self.next_order += 1;
            self.lanes.push(Item {
                order: self.next_order,
                epoch: portion.epoch,
                epoch_age: portion.epoch_age,
                village: Arc::clone(&portion.village),
                cargo: Cargo::Reading(reading),
            });
        }
    }

    pub(super) fn storage_failed(&mut self, error: &dyn std::fmt::Display) {
        warn!(%error, "the backlog failed; trying again");
        self.storage_retry_at = self.now() + STORAGE_RETRY;
        self.parts
            .board
            .update(|board| board.limited_by = LimitedBy::Storage);
    }

    pub(super) fn begin_confirm(&mut self) {
        let due = self.confirms.len() >= CONFIRM_COUNT
            || self.flying.is_empty()
            || self.now().saturating_sub(self.confirm_since()) >= CONFIRM_AFTER;
        if self.confirm_job.is_some()
            || self.confirms.is_empty()
            || !due
            || self.now() < self.storage_retry_at
        {
            return;
        }
        let mut confirms = self.confirms.take();
        self.confirming = confirms.size();
        let backlog = Arc::clone(&self.parts.backlog);
        self.confirm_job = Some(self.parts.platform.offload(move || {
            let result = confirms.confirm(backlog.as_ref());
            (confirms, result)
        }));
    }

    fn confirm_since(&self) -> Duration {
        self.confirms.since().unwrap_or_default()
    }

    pub(super) async fn take_confirmed(
        &mut self,
        done: Result<(Confirms, Result<(), BacklogError>), Crashed>,
    ) {
        self.confirm_job = None;
        self.confirming = (0, 0);
        match done {
            Ok((_, Ok(()))) => {
                // The first that is confirmed in a process's life, before anything is sent, are the retained receipts.
                self.memory.awaiting.heard = true;
                self.show_unconfirmed();
                self.say(LinkEvent::Confirmed).await;
            }
            Ok((rest, Err(error))) => {
                self.confirms.put_back(rest);
                self.storage_failed(&error);
            }
            // What it held is sent again: at least once.
            Err(error) => {
                error!(%error, "a confirmation was lost; its readings go again");
                self.rewind_wanted = true;
            }
        }
        self.show_unconfirmed();
        self.tell_moved().await;
    }

    /// What is counted as forwarded and not confirmed yet: a drain that begins now still has to confirm it.
    pub(super) fn show_unconfirmed(&self) {
        let unconfirmed = self.unconfirmed();
        self.parts
            .board
            .update(|board| board.unconfirmed = unconfirmed);
    }

    pub(super) fn unconfirmed(&self) -> (u64, u64) {
        let (readings, bytes) = self.confirms.size();
        (readings + self.confirming.0, bytes + self.confirming.1)
    }

    /// At the end: nothing that was acknowledged is left unsaid, where the disk lets it.
    pub(super) async fn confirm_all(&mut self) {
        if let Some(job) = self.confirm_job.take() {
            let done = job.await;
            self.take_confirmed(done).await;
        }
        if let Some(job) = self.read_job.take() {
            let _ = job.await;
        }
        self.storage_retry_at = Duration::ZERO;
        self.flying.clear();
        self.begin_confirm();
        if let Some(job) = self.confirm_job.take() {
            let done = job.await;
            self.take_confirmed(done).await;
        }
    }

    /// Moves a reading that the hub never takes out of the way.
    pub(super) async fn put_aside(&mut self, item: &Item, reason: &str) {
        let (epoch, sequence) = item.id();
        warn!(%epoch, %sequence, reason, "the hub never takes this reading: it is put aside");
        if self.refuse(epoch, sequence, reason).await {
            self.memory.strikes.remove(&(epoch, sequence));
            self.care.passed((epoch, sequence));
        } else {
            // Still in the backlog: it is read again once everything else is through.
            self.rewind_wanted = true;
        }
    }

    pub(super) async fn refuse(
        &mut self,
        epoch: crate::identity::Epoch,
        sequence: crate::identity::Sequence,
        reason: &str,
    ) -> bool {
        let backlog = Arc::clone(&self.parts.backlog);
        let refusal = Refusal {
            reason: reason.to_owned(),
        };
        let platform = &self.parts.platform;
        let job = platform.offload(move || backlog.refuse(epoch, sequence, &refusal));
        match job.await {
            Ok(Ok(())) => {
                self.parts
                    .board
                    .update(|board| board.counters.refused_readings += 1);
                true
            }
            Ok(Err(error)) => {
                self.storage_failed(&error);
                false
            }
            Err(error) => {
                self.storage_failed(&error);
                false
            }
        }
    }
}
