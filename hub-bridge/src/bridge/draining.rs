//! The drain that runs: begun by the schedule or a request, done when the hub has what waited then.
//!
//! A village's meters never pause, so "the backlog is empty" is a moment that may never come. A drain is
//! done when everything that waited when it began is confirmed; what came since is forwarded as usual.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{Instrument, info, info_span, warn};

use super::Bridge;
use crate::backlog::EpochState;
use crate::clock::{ClockQuality, UnixMillis};
use crate::drain::{AttemptStep, Attempts, DrainCause, DrainJob, DrainOutcome, DrainRecord};
use crate::identity::{Epoch, Sequence};
use crate::uplink::Event;
use crate::window::{Due, LastRun};

pub(super) struct RunningDrain {
    attempts: Attempts,
    target: Vec<(Epoch, Sequence)>,
    until: Option<UnixMillis>,
    record: watch::Sender<DrainRecord>,
    /// Readings and bytes that were forwarded and confirmed before the drain began.
    counted_before: (u64, u64),
}

impl Bridge {
    pub(super) async fn load_last_run(&mut self) {
        let log = Arc::clone(&self.drain_log);
        let last = self.blocking(move || log.last_scheduled()).await.flatten();
        self.last_run = LastRun {
            wall: last.map(|record| record.started),
            monotonic: None,
        };
    }

    /// Begins a drain, or joins the one that runs.
    pub(super) async fn request_drain(
        &mut self,
        cause: DrainCause,
        until: Option<UnixMillis>,
    ) -> DrainJob {
        if let Some(drain) = &self.drain {
            let job = DrainJob::new(drain.record.subscribe(), true);
            self.step(Event::Hurry);
            return job;
        }
        // Before the backlog is asked: what it says waits is then counted once the hub has it.
        let counted_before = self.parts.board.update(|board| {
            let (counters, (readings, bytes)) = (&board.counters, board.unconfirmed);
            (
                counters.forwarded_readings.saturating_sub(readings),
                counters.forwarded_bytes.saturating_sub(bytes),
            )
        });
        // A store that cannot say leaves the target empty: what the next drain finds is its own.
        let epochs = self.epochs().await.unwrap_or_default();
        let waiting = epochs.iter().map(waiting_in).sum();
        let clock_trusted = self.parts.clock.quality() == ClockQuality::Synchronised;
        self.drains_begun += 1;
        let record = DrainRecord {
            id: self.drains_begun,
            cause,
            started: self.parts.clock.wall(),
            clock_trusted,
            ended: None,
            attempts: 1,
            readings: 0,
            bytes: 0,
            waiting_at_start: waiting,
            outcome: None,
            error: None,
        };
        info!(drain = record.id, ?cause, waiting, "a drain begins");
        self.parts.account_calls.call();
        self.parts
            .board
            .update(|board| board.drain = Some(record.clone()));
        let (record, job) = watch::channel(record);
        self.drain = Some(RunningDrain {
            attempts: Attempts::begin(self.now()),
            target: epochs.iter().map(|s| (s.epoch, s.next)).collect(),
            until,
            record,
            counted_before,
        });
        self.drain_may_be_done().await;
        self.police();
        self.step(Event::Hurry);
        DrainJob::new(job, false)
    }

    pub(super) fn drain_moved(&mut self) {
        let now = self.now();
        if let Some(drain) = &mut self.drain {
            drain.attempts = drain.attempts.moved(now);
        }
        self.count_drained();
    }

    /// Takes over into the record what the links counted.
    fn count_drained(&self) {
        let Some(drain) = &self.drain else { return };
        self.parts.board.update(|board| {
            let counters = &board.counters;
            drain.record.send_modify(|record| {
                record.readings = counters.forwarded_readings - drain.counted_before.0;
                record.bytes = counters.forwarded_bytes - drain.counted_before.1;
            });
            board.drain = Some(drain.record.borrow().clone());
        });
    }

    /// Ends the drain if the hub has what waited when it began.
    pub(super) async fn drain_may_be_done(&mut self) {
        if self.drain.is_none() {
            return;
        }
        let Some(epochs) = self.epochs().await else {
            return;
        };
        let done = self.drain.as_ref().is_some_and(|drain| {
            epochs.iter().all(|state| {
                let target = drain.target.iter().find(|(epoch, _)| *epoch == state.epoch);
                target.is_none_or(|(_, next)| state.first_unconfirmed >= *next)
            })
        });
        if done {
            self.end_drain(DrainOutcome::Done).await;
        }
    }

    /// Looks at the schedule and at the drain's attempts.
    pub(super) async fn tick(&mut self) {
        self.begin_if_due().await;
        self.drive_attempts().await;
        // A drain may also be done because readings were put aside, or confirmed by a link that ended.
        self.drain_may_be_done().await;
        self.police();
        self.keep_usage(false).await;
    }

    async fn begin_if_due(&mut self) {
        let clock = Arc::clone(&self.parts.clock);
        let (now, uptime, quality) = (clock.wall(), clock.monotonic(), clock.quality());
        let Some(schedule) = &self.schedule else {
            return self.parts.board.update(|board| board.next_drain = None);
        };
        let trusted = quality == ClockQuality::Synchronised;
        let next = trusted.then(|| schedule.next(now)).flatten();
        self.parts
            .board
            .update(|board| board.next_drain = next.map(|window| window.start));
        let Some(due) = schedule.due(now, uptime, quality, self.last_run) else {
            return;
        };
        self.last_run.monotonic = Some(uptime);
        if trusted {
            self.last_run.wall = Some(now);
        }
        let (cause, until) = match due {
            Due::Window { end, missed: false } => (DrainCause::Window, Some(end)),
            Due::Window { end, missed: true } => (DrainCause::Missed, Some(end)),
            Due::Uptime => (DrainCause::Uptime, None),
        };
        self.request_drain(cause, until).await;
    }

    async fn drive_attempts(&mut self) {
        let now = self.now();
        let settings = Arc::clone(&self.parts.settings);
        let wall = self.parts.clock.wall();
        let trusted = self.parts.clock.quality() == ClockQuality::Synchronised;
        let dice = self.parts.platform.dice.roll();
        let Some(drain) = &mut self.drain else { return };
        if trusted && drain.until.is_some_and(|until| wall >= until) {
            return self.end_drain(DrainOutcome::WindowEnded).await;
        }
        let (attempts, step) = drain.attempts.tick(now, &settings.drain, dice);
        drain.attempts = attempts;
        let number = attempts.number(&settings.drain);
        let error = self
            .parts
            .board
            .update(|board| board.error.as_ref().map(|error| error.class));
        match step {
            AttemptStep::None => {}
            AttemptStep::Failed => {
                let id = drain.record.borrow().id;
                warn!(
                    drain = id,
                    attempt = number,
                    ?error,
                    "an attempt of the drain failed"
                );
                drain.record.send_modify(|record| {
                    record.error = error.or(Some(crate::classify::ErrorClass::Timeout));
                });
                if attempts == Attempts::Exhausted {
                    self.end_drain(DrainOutcome::Failed).await;
                }
            }
            AttemptStep::Begin => {
                drain.record.send_modify(|record| record.attempts = number);
                self.step(Event::Hurry);
            }
        }
    }

    pub(super) async fn end_drain(&mut self, outcome: DrainOutcome) {
        self.count_drained();
        let Some(drain) = self.drain.take() else {
            return;
        };
        self.parts.account_calls.call();
        let ended = self.parts.clock.wall();
        let mut record = drain.record.borrow().clone();
        record.ended = Some(ended);
        record.outcome = Some(outcome);
        let span = info_span!("drain", id = record.id, attempt = record.attempts);
        let (log, kept) = (Arc::clone(&self.drain_log), record.clone());
        self.blocking(move || log.record(&kept))
            .instrument(span)
            .await;
        info!(
            drain = record.id,
            ?outcome,
            readings = record.readings,
            bytes = record.bytes,
            attempts = record.attempts,
            "a drain ended"
        );
        self.parts.board.update(|board| board.drain = None);
        // Recorded before it is told: who waits for the end may ask for the record.
        drain.record.send_replace(record);
        let shown = self.shown();
        self.parts.board.update(|board| board.state = shown);
        self.police();
    }

    async fn epochs(&self) -> Option<Vec<EpochState>> {
        let backlog = Arc::clone(&self.parts.backlog);
        self.blocking(move || backlog.epochs()).await
    }

    /// Runs what may block on the disk off the async threads. `None` where it crashed.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match self.parts.platform.offload(work).await {
            Ok(value) => Some(value),
            Err(error) => {
                warn!(%error, "the bridge");
                None
            }
        }
    }
}

fn waiting_in(state: &EpochState) -> u64 {
    state.next.0.saturating_sub(state.first_unconfirmed.0)
}
