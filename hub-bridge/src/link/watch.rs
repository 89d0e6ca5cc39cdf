//! Whether the link moves what is in flight, or only looks as if it did.

use std::time::Duration;

use super::Link;
use crate::classify::{ErrorClass, Failure};
use crate::inflight::Ticket;

/// The slowest link on which one large reading may be told from nothing moving, in bytes a second.
const RATE_MIN: u64 = 2_000;
/// How often it is looked for a reading that was passed over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Link {
    /// Fails the link when readings are in flight and nothing moves, or everything but one.
    pub(super) fn watch(&mut self) -> Result<(), Failure> {
        if self.flying.is_empty() {
            self.overtaken = None;
            return Ok(());
        }
        let still = self.now().saturating_sub(self.progress_at);
        let patience = self.parts.settings.hub.progress_timeout;
        if still < patience {
            return self.watch_for_overtaken(patience);
        }
        let largest = self.flying.values().map(|f| f.bytes as u64).max();
        let extra = largest.unwrap_or(0).saturating_sub(8 * 1024) * 1000 / RATE_MIN;
        if still < patience + Duration::from_millis(extra) {
            return Ok(());
        }
        let words = format!(
            "{} readings in flight and no acknowledgement for {still:?}",
            self.flying.len()
        );
        Err(Failure::new(ErrorClass::Timeout, words))
    }

    /// A reading that the hub never answers, while it answers what came after it over the same connection, would hold
    /// the mark for as long as there is something else to send. The hub has got it by then, however slow the link is.
    fn watch_for_overtaken(&mut self, patience: Duration) -> Result<(), Failure> {
        let now = self.now();
        if now.saturating_sub(self.looked_at) < LOOK_EVERY {
            return Ok(());
        }
        self.looked_at = now;
        let passed_over = self.flying.iter().filter(|(ticket, flying)| {
            let to = self.answered_to.get(flying.lane);
            to.is_some_and(|to| *ticket < to)
        });
        let oldest = passed_over.map(|(ticket, _)| *ticket).min();
        let known = self.overtaken.filter(|(ticket, _)| Some(*ticket) == oldest);
        self.overtaken = known.or(oldest.map(|ticket| (ticket, now)));
        match self.overtaken {
            Some((_, since)) if now.saturating_sub(since) >= patience => {
                let words =
                    format!("later readings are acknowledged, and one is not for {patience:?}");
                Err(Failure::new(ErrorClass::Timeout, words))
            }
            _ => Ok(()),
        }
    }

    /// The hub answered the publish that went over `lane` with `ticket`.
    pub(super) fn answered(&mut self, lane: usize, ticket: Ticket) {
        if let Some(to) = self.answered_to.get_mut(lane) {
            *to = (*to).max(ticket);
        }
    }
}
