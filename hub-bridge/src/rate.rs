//! A bound on the bytes that leave: a token bucket over what the meter counted.
//!
//! What is given to a connection leaves a moment later, so a publish is charged when it is given, and what the meter counts
//! beyond that (headers, TLS, keep alives, answers) when it is seen. Large publishes may put the bucket into debt, which is
//! paid before the next: the mean holds, and nothing is too large to ever leave. While the bucket is empty the link waits a
//! quarter of a second at least, so that publishes leave together and share their headers.

use std::time::Duration;

/// How much may leave at once after silence: what the rate gives in this time.
const BURST: Duration = Duration::from_secs(1);
/// The least that is worth a segment.
const BURST_BYTES_MIN: f64 = 1448.0;
/// How long an empty bucket is left alone.
pub(crate) const REST: Duration = Duration::from_millis(250);

/// The bucket of a link. Without a rate it bounds nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RateLimit {
    bytes_per_s: Option<f64>,
    tokens: f64,
    filled_at: Duration,
    /// Charged since `counted` was zero, and what the meter counted of it.
    charged: u64,
    counted_from: u64,
    rests_until: Duration,
}

impl RateLimit {
    /// Sets the rate; a new one begins with a full bucket. `sent`: what the meter has counted.
    #[allow(clippy::cast_precision_loss)] // no link has 2^53 bytes a second
    pub(crate) fn set(&mut self, bytes_per_s: Option<u64>, sent: u64, now: Duration) {
        let rate = bytes_per_s.map(|rate| rate as f64);
        if rate == self.bytes_per_s {
            return;
        }
        *self = Self {
            bytes_per_s: rate,
            tokens: rate.map_or(0.0, burst),
            filled_at: now,
            charged: 0,
            counted_from: sent,
            rests_until: now,
        };
    }

    /// The rate, where there is one.
    pub(crate) fn bytes_per_s(&self) -> Option<f64> {
        self.bytes_per_s
    }

    /// Whether something may leave now. `sent`: what the meter has counted.
    pub(crate) fn has_room(&mut self, sent: u64, now: Duration) -> bool {
        let Some(rate) = self.bytes_per_s else {
            return true;
        };
        if now < self.rests_until {
            return false;
        }
        let counted = sent.saturating_sub(self.counted_from);
        if counted > self.charged {
            self.take(counted - self.charged);
        }
        let since = now.saturating_sub(self.filled_at);
        self.filled_at = now;
        self.tokens = (self.tokens + rate * since.as_secs_f64()).min(burst(rate));
        if self.tokens <= 0.0 {
            self.rests_until = now + REST;
        }
        self.tokens > 0.0
    }

    /// A publish of `bytes` was given to a connection.
    pub(crate) fn charge(&mut self, bytes: usize) {
        if self.bytes_per_s.is_some() {
            self.take(bytes as u64);
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn take(&mut self, bytes: u64) {
        self.charged += bytes;
        self.tokens -= bytes as f64;
    }
}

fn burst(rate: f64) -> f64 {
    (rate * BURST.as_secs_f64()).max(BURST_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends publishes of `size` whenever there is room, which cost `overhead` more on the wire. Gives the bytes that left.
    fn run(rate: u64, size: usize, overhead: u64, seconds: u64) -> (u64, u64) {
        let mut limit = RateLimit::default();
        let mut sent = 5_000_000;
        limit.set(Some(rate), sent, Duration::ZERO);
        let (mut left, mut bursts) = (0, 0);
        for tick in 0..seconds * 100 {
            let now = Duration::from_millis(tick * 10);
            let mut given = 0;
            while limit.has_room(sent, now) {
                limit.charge(size);
                given += size as u64 + overhead;
            }
            bursts += u64::from(given > 0);
            left += given;
            // It leaves a moment later.
            sent += given;
        }
        (left, bursts)
    }

    #[test]
    fn the_mean_is_the_rate_headers_included() {
        for (size, overhead) in [(228, 52), (12_000, 500), (60, 60)] {
            let (left, _) = run(8000, size, overhead, 600);
            let expected = 8000 * 600;
            assert!(left <= expected + 8000 + 25_000, "{size}: {left}");
            assert!(left >= expected * 95 / 100, "{size}: {left}");
        }
    }

    #[test]
    fn publishes_leave_together() {
        let (_, bursts) = run(8000, 228, 10, 100);
        assert!(bursts <= 100 * 4 + 4, "{bursts} bursts in 100 s");
    }

    #[test]
    fn without_a_rate_nothing_is_bounded_and_a_new_rate_begins_full() {
        let mut limit = RateLimit::default();
        let now = Duration::from_secs(9);
        limit.charge(1_000_000);
        assert!(limit.has_room(0, now));
        limit.set(Some(1000), 0, now);
        assert!(limit.has_room(0, now));
        limit.charge(100_000);
        assert!(!limit.has_room(0, now + Duration::from_secs(1)));
        limit.set(None, 0, now);
        assert!(limit.has_room(0, now));
    }
}
