//! How long to wait before the next connection: doubling with full jitter, reset by progress.
//!
//! Full jitter (a wait between nothing and the bound) because a link that is up two seconds and down one
//! must be used, not waited out, and because villages that lost one hub must not come back as one.

use std::time::Duration;

use crate::classify::ErrorClass;
use crate::settings::RetrySettings;

/// The failures in a row, and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How many connections failed since something moved.
    pub fn failures(self) -> u32 {
        self.failures
    }

    /// Counts a failure and gives the wait. `dice` is in `0.0..1.0`. The first failure after progress
    /// is answered at once, unless someone has to change something first.
    #[must_use]
    pub fn failed(
        self,
        class: ErrorClass,
        settings: &RetrySettings,
        dice: f64,
    ) -> (Self, Duration) {
        let failures = self.failures.saturating_add(1);
        let bound = bound(failures, class, settings);
        let wait = if class.needs_a_change() {
            // Half of it at least: each TLS handshake and each takeover of a session costs.
            bound.mul_f64(0.5 + dice.clamp(0.0, 1.0) / 2.0)
        } else {
            bound.mul_f64(dice.clamp(0.0, 1.0))
        };
        (Self { failures }, wait)
    }
}

fn bound(failures: u32, class: ErrorClass, settings: &RetrySettings) -> Duration {
    let doubled = |first: Duration, times: u32, max: Duration| {
        let factor = 2u32.checked_pow(times.min(31)).unwrap_or(u32::MAX);
        first.saturating_mul(factor).min(max)
    };
    if class == ErrorClass::TakenOver {
        return doubled(
            settings.max,
            failures.saturating_sub(1),
            settings.max_rejected,
        );
    }
    if class.needs_a_change() {
        let first = settings.first.saturating_mul(5);
        return doubled(first, failures.saturating_sub(1), settings.max_rejected);
    }
    match failures {
        0 | 1 => Duration::ZERO,
        more => doubled(settings.first, more - 2, settings.max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(class: ErrorClass, dice: f64, count: usize) -> Vec<Duration> {
        let settings = RetrySettings::default();
        let mut backoff = Backoff::default();
        (0..count)
            .map(|_| {
                let (next, wait) = backoff.failed(class, &settings, dice);
                backoff = next;
                wait
            })
            .collect()
    }

    #[test]
    fn reconnecting_is_at_once_then_doubles_to_a_minute() {
        let top = waits(ErrorClass::Connect, 1.0, 12);
        let millis: Vec<u128> = top.iter().map(Duration::as_millis).collect();
        assert_eq!(millis[..5], [0, 200, 400, 800, 1600]);
        assert_eq!(millis[11], 60_000);
        assert!(
            waits(ErrorClass::Connect, 0.0, 12)
                .iter()
                .all(Duration::is_zero)
        );
    }

    #[test]
    fn what_time_does_not_cure_waits_up_to_a_quarter_of_an_hour() {
        let auth = waits(ErrorClass::Auth, 1.0, 20);
        assert_eq!(auth[0], Duration::from_secs(1));
        assert_eq!(auth[19], Duration::from_secs(900));
        assert_eq!(
            waits(ErrorClass::Auth, 0.0, 1)[0],
            Duration::from_millis(500)
        );
        assert_eq!(
            waits(ErrorClass::TakenOver, 1.0, 1)[0],
            Duration::from_secs(60)
        );
    }
}
