//! A drain: a recorded job that carries to the hub all that waited when it began.
//!
//! It has attempts, since a bad link fails often: an attempt fails when nothing moves for
//! `attempt_timeout`, the next begins after a wait, and after `attempts_max` of them the drain has failed
//! and forwarding goes on as usual. There is never more than one: a second request joins the first.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::classify::ErrorClass;
use crate::clock::UnixMillis;
use crate::settings::DrainSettings;

/// How many records a [`DrainLog`] keeps at least.
pub const RECORDS_KEPT: usize = 100;

/// Who asked for a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainCause {
    /// The nightly window.
    Window,
    /// A nightly window that was missed.
    Missed,
    /// The uptime, since the clock cannot be trusted.
    Uptime,
    /// A person or a program.
    Request,
}

impl DrainCause {
    /// Whether the schedule began it.
    pub fn is_scheduled(self) -> bool {
        self != Self::Request
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainOutcome {
    /// The hub has all that waited when the drain began.
    Done,
    /// Its attempts were used up.
    Failed,
    /// Its window ended first.
    WindowEnded,
    /// The relay was stopped.
    Stopped,
}

/// One drain, as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainRecord {
    /// Its number in this process, from 1.
    pub id: u64,
    /// Who asked for it.
    pub cause: DrainCause,
    /// When it began.
    pub started: UnixMillis,
    /// Whether the clock could be trusted then.
    pub clock_trusted: bool,
    /// When it ended; `None` while it runs.
    pub ended: Option<UnixMillis>,
    /// Attempts begun.
    pub attempts: u32,
    /// Readings that the hub acknowledged.
    pub readings: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// Readings that waited when it began.
    pub waiting_at_start: u64,
    /// How it ended; `None` while it runs.
    pub outcome: Option<DrainOutcome>,
    /// Why the last attempt that failed did so.
    pub error: Option<ErrorClass>,
}

/// Where records are kept, the last [`RECORDS_KEPT`] of them. The calls may block on the disk.
pub trait DrainLog: Send + Sync + 'static {
    /// Keeps a drain that ended.
    fn record(&self, record: &DrainRecord);

    /// The last record, of any cause.
    fn last(&self) -> Option<DrainRecord>;

    /// The last record whose cause [`is_scheduled`](DrainCause::is_scheduled) and whose clock was trusted.
    fn last_scheduled(&self) -> Option<DrainRecord>;
}

/// A drain that was asked for. Dropping it does not stop the drain.
#[derive(Debug, Clone)]
pub struct DrainJob {
    record: watch::Receiver<DrainRecord>,
    joined: bool,
}

impl DrainJob {
    pub(crate) fn new(record: watch::Receiver<DrainRecord>, joined: bool) -> Self {
        Self { record, joined }
    }

    /// Whether a drain was running already, which this request joined.
    pub fn joined(&self) -> bool {
        self.joined
    }

    /// How far it is.
    pub fn progress(&self) -> DrainRecord {
        self.record.borrow().clone()
    }

    /// Waits until it changes, and gives it.
    pub async fn changed(&mut self) -> DrainRecord {
        // An error means that the bridge is gone; what it last said still stands.
        let _ = self.record.changed().await;
        self.progress()
    }

    /// Waits until it ended. A bridge that is gone ends it as [`DrainOutcome::Stopped`].
    pub async fn finished(mut self) -> DrainRecord {
        loop {
            let mut record = self.progress();
            if record.outcome.is_some() {
                return record;
            }
            if self.record.changed().await.is_err() {
                record = self.progress();
                record.outcome = record.outcome.or(Some(DrainOutcome::Stopped));
                return record;
            }
        }
    }
}

/// The course of a drain's attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempts {
    /// The `number`-th runs; something last moved at `moved`.
    Running {
        /// From 1.
        number: u32,
        /// Monotonic time of the last progress, or of the beginning.
        moved: Duration,
    },
    /// The `number`-th failed; the next begins at `until`.
    Pausing {
        /// From 1.
        number: u32,
        /// Monotonic time.
        until: Duration,
    },
    /// All failed.
    Exhausted,
}

/// What the course of attempts asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptStep {
    /// Nothing changed.
    None,
    /// An attempt failed.
    Failed,
    /// A new attempt begins: reconnect at once.
    Begin,
}

impl Attempts {
    /// The first attempt begins.
    pub fn begin(now: Duration) -> Self {
        Self::Running {
            number: 1,
            moved: now,
        }
    }

    /// Attempts begun so far.
    pub fn number(self, settings: &DrainSettings) -> u32 {
        match self {
            Self::Running { number, .. } | Self::Pausing { number, .. } => number,
            Self::Exhausted => settings.attempts_max,
        }
    }

    /// Something moved.
    #[must_use]
    pub fn moved(self, now: Duration) -> Self {
        match self {
            Self::Running { number, .. } => Self::Running { number, moved: now },
            other => other,
        }
    }

    /// Time passed. `dice` is in `0.0..1.0`.
    #[must_use]
    pub fn tick(self, now: Duration, settings: &DrainSettings, dice: f64) -> (Self, AttemptStep) {
        match self {
            Self::Running { number, moved }
                if now.saturating_sub(moved) >= settings.attempt_timeout =>
            {
                if number >= settings.attempts_max {
                    return (Self::Exhausted, AttemptStep::Failed);
                }
                let jitter = 0.8 + 0.4 * dice.clamp(0.0, 1.0);
                let until = now + settings.attempt_wait.saturating_mul(number).mul_f64(jitter);
                (Self::Pausing { number, until }, AttemptStep::Failed)
            }
            Self::Pausing { number, until } if now >= until => (
                Self::Running {
                    number: number + 1,
                    moved: now,
                },
                AttemptStep::Begin,
            ),
            other => (other, AttemptStep::None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_attempts_fail_with_growing_waits_and_then_the_drain_has_failed() {
        let settings = DrainSettings::default();
        let mut now = Duration::ZERO;
        let mut attempts = Attempts::begin(now);
        let mut waits = Vec::new();
        for _ in 0..4 {
            now += settings.attempt_timeout;
            let (next, step) = attempts.tick(now, &settings, 0.5);
            assert_eq!(step, AttemptStep::Failed);
            let Attempts::Pausing { until, .. } = next else {
                panic!("{next:?}")
            };
            waits.push(until.saturating_sub(now).as_secs());
            assert_eq!(
                next.tick(
                    until.saturating_sub(Duration::from_millis(1)),
                    &settings,
                    0.5
                )
                .1,
                AttemptStep::None
            );
            now = until;
            let (running, step) = next.tick(now, &settings, 0.5);
            assert_eq!(step, AttemptStep::Begin);
            attempts = running;
        }
        assert_eq!(waits, [10, 20, 30, 40]);
        now += settings.attempt_timeout;
        assert_eq!(
            attempts.tick(now, &settings, 0.5),
            (Attempts::Exhausted, AttemptStep::Failed)
        );
    }

    #[test]
    fn progress_puts_the_end_of_an_attempt_off() {
        let settings = DrainSettings::default();
        let almost = settings.attempt_timeout.mul_f64(0.9);
        let attempts = Attempts::begin(Duration::ZERO).moved(almost);
        assert_eq!(
            attempts.tick(almost * 2, &settings, 0.0).1,
            AttemptStep::None
        );
    }
}
