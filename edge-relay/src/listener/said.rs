//! A line of the log that a thousand clients would repeat, said at most every ten seconds.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How often it is said.
const EVERY: Duration = Duration::from_secs(10);

/// Counts what is to be said until it may be said.
#[derive(Debug, Default)]
pub(super) struct Said {
    inner: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    at: Option<Instant>,
    count: u64,
}

impl Said {
    /// Adds `count`; returns all since the last line, where it is time for one.
    pub(super) fn add(&self, count: u64, now: Instant) -> Option<u64> {
        let mut waiting = self.inner.lock();
        waiting.count += count;
        if waiting
            .at
            .is_some_and(|at| now.saturating_duration_since(at) < EVERY)
        {
            return None;
        }
        waiting.at = Some(now);
        Some(std::mem::take(&mut waiting.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_the_rest_together() {
        let said = Said::default();
        let start = Instant::now();
        assert_eq!(said.add(3, start), Some(3));
        for n in 0..100 {
            assert_eq!(said.add(1, start + EVERY * n / 101), None);
        }
        assert_eq!(said.add(1, start + EVERY), Some(101));
        assert_eq!(said.add(1, start + EVERY), None);
    }
}
