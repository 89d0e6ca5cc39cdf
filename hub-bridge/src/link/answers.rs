//! What the hub said to a publish, and what follows from it.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{Flying, Item, Link};
use crate::classify::{ErrorClass, Failure};
use crate::connection::Verdict;
use crate::inflight::Ticket;
use crate::lanes::OfClient;
use crate::suspect::{LOSSES_MAX, Loss};

/// How long a reading that the hub did not want rests before it is tried again.
const REST: Duration = Duration::from_millis(500);
/// Refusals without a single success before a probe shows whether they are meant for the village or for the readings.
const REFUSALS_BEFORE_PROBE: u32 = 5;
/// How many readings' refusals are counted at once.
const STRIKES_KEPT: usize = 10_000;

impl Link {
    pub(super) async fn take_answers(
        &mut self,
        lane: usize,
        answers: Vec<(Ticket, Verdict)>,
    ) -> Result<(), Failure> {
        self.progress_at = self.now();
        let before = self.moved_counts;
        let mut no_subscriber = 0;
        let heard = self.hear(lane, answers, &mut no_subscriber).await;
        // Counted before it is confirmed, so that the record of a drain that ends then is whole.
        let progress_at = self.parts.clock.monotonic();
        let (readings, bytes) = self.moved_counts;
        let unconfirmed = self.unconfirmed();
        self.parts.board.update(|board| {
            board.progress_at = Some(progress_at);
            board.counters.no_subscriber += no_subscriber;
            board.counters.forwarded_readings += readings - before.0;
            board.counters.forwarded_bytes += bytes - before.1;
            board.unconfirmed = unconfirmed;
            if readings > before.0 {
                board.error = None;
            }
        });
        heard
    }

    async fn hear(
        &mut self,
        lane: usize,
        answers: Vec<(Ticket, Verdict)>,
        no_subscriber: &mut u64,
    ) -> Result<(), Failure> {
        let now = self.now();
        let mut result = Ok(());
        let mut unwanted = Vec::new();
        for (ticket, verdict) in answers {
            if self.account_answered(ticket, verdict) {
                continue;
            }
            let Some(flying) = self.flying.remove(&ticket) else {
                let words = format!("lane {lane} answered {ticket:?}, which is not in flight");
                return Err(Failure::new(ErrorClass::Protocol, words).of_no_reading());
            };
            self.answered(flying.lane, ticket);
            self.memory.pace.arrived(flying.departure, now);
            match verdict {
                Verdict::Taken => self.taken(flying),
                Verdict::NoSubscriber => {
                    *no_subscriber += 1;
                    self.taken(flying);
                }
                // Every frame goes to one topic: what the hub says of it may be meant for all.
                Verdict::Never(reason) if self.frames() => unwanted.push((flying, reason)),
                Verdict::Never(reason) => {
                    if let Some(item) = self.landed(flying) {
                        self.put_aside(&item, reason).await;
                    }
                }
                Verdict::NotNow(reason) => {
                    self.landed(flying);
                    result = Err(Failure::new(ErrorClass::Refused, reason).of_no_reading());
                }
                Verdict::Unwanted(reason) => unwanted.push((flying, reason)),
            }
        }
        // What was taken counts, whatever was said beside it; and what was not wanted is judged by all of it.
        for (flying, reason) in unwanted {
            let judged = self.unwanted(flying, reason).await;
            result = result.and(judged);
        }
        result
    }

    fn taken(&mut self, flying: Flying) {
        self.taken_here += 1;
        let (probe, bytes) = (flying.probe, flying.bytes as u64);
        if probe {
            self.care.probe_passed();
        }
        if let Some(item) = self.landed(flying) {
            let id = item.id();
            self.memory.suspects.confirmed(id);
            if !self.memory.strikes.is_empty() {
                self.memory.strikes.remove(&id);
            }
            self.care.passed(id);
            let now = self.now();
            let ranges = item.ranges();
            self.confirms.add(item.epoch, &ranges, bytes, now);
            if self.wants_receipts() {
                self.memory.awaiting.add(item.epoch, &ranges, bytes, now);
            }
            if self.frames() {
                self.larger_frames();
            }
            self.moved = true;
            self.moved_counts.0 += item.count();
            self.moved_counts.1 += bytes;
        }
    }

    fn landed(&mut self, flying: Flying) -> Option<Item> {
        let item = flying.item?;
        let client = Arc::clone(item.client());
        self.lanes.landed(flying.lane, &client);
        Some(item)
    }

    /// The hub refused a reading without saying that it is the reading's fault. It is tried again, and put
    /// aside after [`LOSSES_MAX`] refusals while others pass.
    async fn unwanted(&mut self, flying: Flying, reason: &'static str) -> Result<(), Failure> {
        self.refused_here += 1;
        let probe = flying.probe;
        if probe {
            self.memory.suspects.probe_refused();
        }
        let item = match self.landed(flying) {
            Some(item) if !probe => item,
            // Not one got through: it is meant for the village.
            _ => return Err(refused(reason)),
        };
        let id = item.id();
        if item.count() > 1 && self.taken_here > 0 {
            // One of them may be the reason: in halves, until it is alone.
            info!(epoch = %id.0, sequence = %id.1, reason, readings = item.count(), "the hub did not want a frame");
            self.smaller_frames(usize::try_from(item.count()).unwrap_or(usize::MAX));
            self.feed.give_back(item.epoch, &item.ranges());
            return Ok(());
        }
        if self.memory.strikes.len() >= STRIKES_KEPT {
            self.memory.strikes.clear();
        }
        let strikes = self.memory.strikes.entry(id).or_insert(0);
        *strikes += 1;
        let strikes = *strikes;
        if strikes >= LOSSES_MAX && self.taken_here > 0 {
            let words = format!("{reason}, {strikes} times, while others pass");
            self.put_aside(&item, &words).await;
            return Ok(());
        }
        let many = self.refused_here > REFUSALS_BEFORE_PROBE || strikes >= LOSSES_MAX;
        if self.taken_here == 0 && many {
            // Another each time: the last may be one that the hub never answers.
            let skip = self.memory.suspects.probes_lost();
            self.care.ask_for_probe(id, skip);
        }
        info!(epoch = %id.0, sequence = %id.1, reason, strikes, "the hub did not want a reading");
        self.put_off.push((self.now() + REST, item));
        Ok(())
    }

    pub(super) fn bring_back_put_off(&mut self) {
        if self.put_off.is_empty() {
            return;
        }
        let now = self.now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.put_off)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.put_off = later;
        for (_, item) in due {
            self.lanes.push(item);
        }
    }

    /// What the end of the connection says about what was in flight.
    pub(super) fn loss(&mut self) -> Option<Loss> {
        let of_account = self.account_lost();
        if self.flying.is_empty() {
            return None;
        }
        let mut lowest: Option<(u64, crate::suspect::Id)> = None;
        let mut probe_lost = false;
        let mut largest = 0;
        for flying in self.flying.values() {
            probe_lost |= flying.probe;
            let Some(item) = &flying.item else { continue };
            let to = self.memory.sent_to.entry(item.epoch).or_insert(item.last());
            *to = (*to).max(item.last());
            largest = largest.max(item.count());
            let id = item.id();
            if !flying.probe && lowest.is_none_or(|(order, _)| item.order < order) {
                lowest = Some((item.order, id));
            }
        }
        if of_account {
            // A hub that breaks the connection over an account accuses no reading.
            return None;
        }
        let alone = self.care.probe_has_passed() && self.flying.len() == 1;
        if largest > 1 && (self.taken_here == 0 || alone) {
            // The link did not last for one frame, or does for a probe and not for this frame.
            self.smaller_frames(usize::try_from(largest).unwrap_or(usize::MAX));
        }
        Some(Loss {
            lowest: lowest.map(|(_, id)| id),
            // Of a frame, nobody knows which reading it was.
            alone_after_probe: alone && largest <= 1,
            probe_lost,
        })
    }

    pub(super) async fn account_loss(&mut self, loss: Option<Loss>, failure: &Failure) {
        // A hub that took the session away, or wants nothing, says nothing about a reading; nor does one that lies.
        let session = matches!(failure.class, ErrorClass::TakenOver | ErrorClass::Auth);
        if session || !failure.accuses {
            return;
        }
        let Some(loss) = loss else { return };
        let Some((epoch, sequence)) = self.memory.suspects.lost(loss) else {
            return;
        };
        let reason = format!(
            "the connection was lost {LOSSES_MAX} times with this reading the first in flight, \
             while others pass; the last time: {failure}"
        );
        warn!(%epoch, %sequence, %failure, "the hub never takes this reading: it is put aside");
        self.refuse(epoch, sequence, &reason).await;
    }
}

fn refused(reason: &str) -> Failure {
    let class = if reason.starts_with("not authorized") {
        ErrorClass::Auth
    } else {
        ErrorClass::Refused
    };
    Failure::new(class, format!("the hub refuses every reading: {reason}"))
}
