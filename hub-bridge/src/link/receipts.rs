//! With `hub.confirm = "receipt"`: what the hub's broker took and its database has not receipted yet.
//!
//! A broker's PUBACK says little of a subscriber that is away. So what was forwarded waits here for its receipt, also from link
//! to link, and is sent again when none comes in time; each time the wait doubles, for the bytes are paid for. So that a
//! hub whose receiver is down costs little, only so much goes ahead of the receipts.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tracing::{debug, warn};

use super::{Link, LinkEvent};
use crate::identity::{Epoch, Sequence, SequenceRange};
use crate::ranges::Ranges;
use crate::settings::Confirm;
use crate::wire::receipt::Receipt;

/// Publishes that wait for their receipt: fewer than a broker with defaults queues for a subscriber that is slow or away
/// (mosquitto: `max_queued_messages 1000`).
const AWAITED_MAX: usize = 800;
/// And their bytes: at least so many, else what the link carries in [`AHEAD`].
const AWAITED_BYTES_MIN: u64 = 512 * 1024;
const AHEAD: Duration = Duration::from_secs(30);
/// The longest wait for a receipt is so many times the first.
const PATIENCE_MAX: u32 = 64;
/// So long at least and at most is waited for the retained receipts before the first readings of a process are sent.
const RETAINED_MIN: Duration = Duration::from_millis(100);
const RETAINED_WITHIN: Duration = Duration::from_secs(2);

struct Awaited {
    epoch: Epoch,
    ranges: Ranges,
    bytes: u64,
    since: Duration,
}

/// What waits for receipts.
#[derive(Default)]
pub(crate) struct Awaiting {
    publishes: VecDeque<Awaited>,
    bytes: u64,
    /// Times that a receipt did not come, in a row.
    missed: u32,
    /// Times that it did not come for the publish that begins with this sequence: one that the hub's database never takes
    /// must not go again and again beside others that it takes.
    tries: BTreeMap<(Epoch, Sequence), u32>,
    /// Since when there is no link.
    down_at: Option<Duration>,
    /// The retained receipts came in this process's life, or were waited for.
    pub(super) heard: bool,
}

impl Awaited {
    fn name(&self) -> (Epoch, Sequence) {
        let first = self.ranges.iter().next();
        (self.epoch, first.map_or(Sequence(0), |range| range.first))
    }
}

fn doubled(times: u32) -> u32 {
    2_u32.saturating_pow(times).min(PATIENCE_MAX)
}

impl Awaiting {
    pub(super) fn add(
        &mut self,
        epoch: Epoch,
        ranges: &[SequenceRange],
        bytes: u64,
        now: Duration,
    ) {
        let mut of_publish = Ranges::default();
        for range in ranges {
            of_publish.insert(*range);
        }
        self.bytes += bytes;
        self.publishes.push_back(Awaited {
            epoch,
            ranges: of_publish,
            bytes,
            since: now,
        });
    }

    /// Takes out what is stored; whether anything was.
    pub(super) fn stored(&mut self, epoch: Epoch, stored: &[SequenceRange]) -> bool {
        let before = self.publishes.len();
        for awaited in self.publishes.iter_mut().filter(|a| a.epoch == epoch) {
            for range in stored {
                awaited.ranges.remove(*range);
            }
        }
        let bytes = &mut self.bytes;
        self.publishes.retain(|awaited| {
            let waits = !awaited.ranges.is_empty();
            if !waits {
                *bytes = bytes.saturating_sub(awaited.bytes);
            }
            waits
        });
        let is_stored = |sequence| stored.iter().any(|range| range.contains(sequence));
        self.tries
            .retain(|(of, sequence), _| *of != epoch || !is_stored(*sequence));
        let progress = self.publishes.len() < before;
        if progress {
            self.missed = 0;
        }
        progress
    }

    /// What has waited for longer than `first`, doubled with each miss in a row.
    pub(super) fn overdue(&mut self, first: Duration, now: Duration) -> Vec<(Epoch, Ranges)> {
        let patience = first * doubled(self.missed);
        let mut overdue = Vec::new();
        let (tries, bytes, missed) = (&mut self.tries, &mut self.bytes, self.missed);
        self.publishes.retain(|awaited| {
            // Once a receipt did not come, one publish asks whether the receiver is back: all of them are paid for.
            if missed > 0 && !overdue.is_empty() {
                return true;
            }
            let name = awaited.name();
            let own = tries.get(&name).map_or(0, |tries| doubled(*tries));
            let waits = now.saturating_sub(awaited.since) < patience.max(first * own);
            if !waits {
                *tries.entry(name).or_insert(0) += 1;
                *bytes = bytes.saturating_sub(awaited.bytes);
                overdue.push((awaited.epoch, awaited.ranges.clone()));
            }
            waits
        });
        if !overdue.is_empty() {
            self.missed = self.missed.saturating_add(1);
        }
        overdue
    }

    /// A new link: no receipt could come while there was none.
    pub(super) fn reconnected(&mut self, now: Duration) {
        let Some(down) = self.down_at.take() else {
            return;
        };
        for awaited in &mut self.publishes {
            awaited.since += now.saturating_sub(down);
        }
        // What is new on a new link may be the receiver.
        self.missed = self.missed.min(1);
    }

    /// The link ended: no receipt can come.
    pub(super) fn disconnected(&mut self, now: Duration) {
        self.down_at.get_or_insert(now);
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (Epoch, Vec<SequenceRange>)> {
        self.publishes
            .iter()
            .map(|a| (a.epoch, a.ranges.iter().collect()))
    }

    /// Whether nothing more may leave beside `flying` publishes that are not acknowledged yet.
    fn is_full(&self, rate: Option<f64>, flying: usize) -> bool {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a cast saturates
        let ahead = rate.map_or(0, |rate| (rate * AHEAD.as_secs_f64()) as u64);
        self.publishes.len() + flying >= AWAITED_MAX || self.bytes >= ahead.max(AWAITED_BYTES_MIN)
    }
}

impl Link {
    pub(super) fn wants_receipts(&self) -> bool {
        self.parts.settings.hub.confirm == Confirm::Receipt
    }

    /// Whether so much waits for receipts that nothing more may leave.
    pub(super) fn receipts_hold_up(&self) -> bool {
        self.wants_receipts()
            && self
                .memory
                .awaiting
                .is_full(self.memory.pace.rate(), self.flying.len())
    }

    /// Whether the retained receipts may still come that tell what not to send: they are there a round trip after
    /// SUBSCRIBE, and connecting took two.
    pub(super) fn waits_for_retained(&mut self) -> bool {
        if !self.wants_receipts() || self.memory.awaiting.heard {
            return false;
        }
        let Some(up_at) = self.up_at else { return true };
        let long = self.connected_in.unwrap_or_default();
        let long = long.clamp(RETAINED_MIN, RETAINED_WITHIN);
        let waits = self.now().saturating_sub(up_at) < long;
        self.memory.awaiting.heard = !waits;
        waits
    }

    /// What waits for a receipt is not read again.
    pub(super) fn keep_awaited_out(&mut self) {
        for (epoch, ranges) in self.memory.awaiting.each() {
            self.feed.keep_out(epoch, &ranges);
        }
    }

    /// A message on one of the topics that were subscribed to.
    pub(super) async fn take_message(&mut self, topic: &str, payload: &[u8]) {
        let receipt = match Receipt::from_json(payload) {
            Ok(receipt) => receipt,
            Err(error) => return warn!(topic, %error, "a receipt that cannot be read"),
        };
        if topic != crate::wire::receipts_topic(&receipt.village, receipt.epoch) {
            return warn!(topic, village = %receipt.village, "a receipt of another village or epoch than its topic's");
        }
        debug!(epoch = %receipt.epoch, ranges = receipt.stored.len(), "a receipt");
        let now = self.now();
        self.confirms.receipt(receipt.epoch, &receipt.stored, now);
        if self.memory.awaiting.stored(receipt.epoch, &receipt.stored) {
            self.say(LinkEvent::Moved).await;
        }
    }

    /// Sends again what was not receipted in time.
    pub(super) fn send_overdue(&mut self) {
        if !self.wants_receipts() {
            return;
        }
        let now = self.now();
        let timeout = self.parts.settings.hub.receipt_timeout;
        for (epoch, ranges) in self.memory.awaiting.overdue(timeout, now) {
            let ranges: Vec<SequenceRange> = ranges.iter().collect();
            let readings: u64 = ranges.iter().map(SequenceRange::count).sum();
            warn!(%epoch, readings, "no receipt in time: sending again");
            self.parts
                .board
                .update(|board| board.counters.resent_readings += readings);
            self.feed.give_back(epoch, &ranges);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> SequenceRange {
        SequenceRange::new(Sequence(first), Sequence(last)).unwrap()
    }

    #[test]
    fn one_that_is_never_receipted_goes_ever_more_seldom_beside_others_that_are() {
        let second = Duration::from_secs(1);
        let (mut awaiting, mut sent, mut now) = (Awaiting::default(), 0, Duration::ZERO);
        awaiting.add(Epoch(1), &[range(1, 1)], 100, now);
        for next in 2..1_000 {
            awaiting.add(Epoch(1), &[range(next, next)], 100, now);
            now += second;
            awaiting.stored(Epoch(1), &[range(2, next)]);
            for (epoch, ranges) in awaiting.overdue(second, now) {
                sent += 1;
                awaiting.add(epoch, &ranges.iter().collect::<Vec<_>>(), 100, now);
            }
        }
        assert!((10..25).contains(&sent), "{sent}");
    }

    #[test]
    fn what_is_not_receipted_in_time_goes_again_and_each_time_later() {
        let second = Duration::from_secs(1);
        let mut awaiting = Awaiting::default();
        awaiting.add(Epoch(1), &[range(1, 10)], 100, Duration::ZERO);
        awaiting.add(Epoch(1), &[range(11, 20)], 100, second);
        assert!(awaiting.stored(Epoch(1), &[range(1, 10)]));
        assert!(awaiting.overdue(second, second).is_empty());
        let overdue = awaiting.overdue(second, 2 * second);
        assert_eq!(overdue[0].1.iter().collect::<Vec<_>>(), [range(11, 20)]);
        awaiting.add(Epoch(1), &[range(11, 20)], 100, 2 * second);
        assert!(awaiting.overdue(second, 3 * second).is_empty());
        assert_eq!(awaiting.overdue(second, 4 * second).len(), 1);
        assert!(awaiting.publishes.is_empty() && awaiting.bytes == 0);
    }
}
