//! How many bytes of readings should be under way: enough to fill the link, and no more.
//!
//! What is in flight when the link is cut goes over the wire twice, and a receive maximum or a socket buffer
//! says nothing about the link. So the acknowledgements are measured as in BBR (Cardwell et al., 2016): the
//! highest rate of the last rounds times the lowest round trip is what the link holds. Starting up, twice
//! that is allowed, until three rounds bring no more rate; then a tenth more than the link holds, which
//! also finds out when the link gets faster. The estimate outlives the connection: the link is the same.

use std::collections::VecDeque;
use std::time::Duration;

const FLIGHT_START_BYTES: usize = 32 * 1024;
const FLIGHT_MIN_BYTES: usize = 4 * 1024;
const CRUISE_GAIN: f64 = 1.1;
const START_GAIN: f64 = 2.0;
/// Lets a fast link coalesce acknowledgements: so much time at full rate is always allowed on top.
const SLACK: Duration = Duration::from_millis(20);
const ROUNDS_KEPT: usize = 10;
const ROUND_TRIP_KEPT: Duration = Duration::from_secs(60);
/// While the round trip is looked at anew, which drains the link's own queue.
const REFRESH_GAIN: f64 = 0.75;

/// What a publish must remember to be measured when it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Departure {
    at: Duration,
    delivered: u64,
    delivered_at: Duration,
    starved: bool,
    bytes: usize,
}

/// The link, as the acknowledgements show it.
#[derive(Debug, Clone)]
pub struct Pace {
    in_flight: usize,
    delivered: u64,
    delivered_at: Duration,
    round_ends: u64,
    round_best: f64,
    rates: VecDeque<f64>,
    round_trip_min: Option<(Duration, Duration)>,
    refreshing_until: Option<Duration>,
    starting: bool,
    flat_rounds: u8,
    flat_at: f64,
    max_bytes: usize,
    start_bytes: usize,
}

impl Pace {
    /// Never lets more than `max_bytes` be under way.
    pub fn new(max_bytes: usize) -> Self {
        Self {
            in_flight: 0,
            delivered: 0,
            delivered_at: Duration::ZERO,
            round_ends: 0,
            round_best: 0.0,
            rates: VecDeque::new(),
            round_trip_min: None,
            refreshing_until: None,
            starting: true,
            flat_rounds: 0,
            flat_at: 0.0,
            max_bytes,
            start_bytes: FLIGHT_START_BYTES,
        }
    }

    /// Lets so many bytes leave before anything is known of the link.
    pub(crate) fn start_with(&mut self, bytes: usize) {
        self.start_bytes = bytes;
    }

    /// A new connection over the same link: nothing is under way, what was learned stays.
    pub fn reconnected(&mut self) {
        self.in_flight = 0;
        self.round_ends = self.delivered;
        self.round_best = 0.0;
        self.refreshing_until = None;
    }

    /// Whether a publish may leave now. One always may.
    pub fn has_room(&self) -> bool {
        self.in_flight == 0 || self.in_flight < self.allowed_bytes()
    }

    /// How many bytes may be under way.
    pub fn allowed_bytes(&self) -> usize {
        let (Some(rate), Some((round_trip, _))) = (self.rate(), self.round_trip_min) else {
            return self.start_bytes.min(self.max_bytes);
        };
        let gain = if self.refreshing_until.is_some() {
            REFRESH_GAIN
        } else if self.starting {
            START_GAIN
        } else {
            CRUISE_GAIN
        };
        let holds = rate * (round_trip.as_secs_f64() * gain + SLACK.as_secs_f64());
        // Casting a float saturates; a negative or huge product cannot occur within the clamp.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let holds = holds as usize;
        let floor = if self.starting {
            FLIGHT_START_BYTES
        } else {
            FLIGHT_MIN_BYTES
        };
        holds.clamp(floor.min(self.max_bytes), self.max_bytes)
    }

    /// A publish of `bytes` leaves. `starved`: there was less to send than would have been allowed.
    pub fn departed(&mut self, bytes: usize, now: Duration, starved: bool) -> Departure {
        if self.in_flight == 0 {
            self.delivered_at = now;
        }
        self.in_flight += bytes;
        Departure {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            starved,
            bytes,
        }
    }

    /// It was acknowledged.
    pub fn arrived(&mut self, departure: Departure, now: Duration) {
        self.in_flight = self.in_flight.saturating_sub(departure.bytes);
        self.delivered += departure.bytes as u64;
        self.delivered_at = now;
        let round_trip = now.saturating_sub(departure.at);
        self.note_round_trip(round_trip, now);
        let span = now.saturating_sub(departure.delivered_at).max(round_trip);
        if !span.is_zero() {
            #[allow(clippy::cast_precision_loss)]
            let moved = (self.delivered - departure.delivered) as f64;
            let rate = moved / span.as_secs_f64();
            if !departure.starved || rate > self.rate().unwrap_or(0.0) {
                self.round_best = self.round_best.max(rate);
            }
        }
        if departure.delivered >= self.round_ends {
            self.round_ends = self.delivered;
            self.end_round(departure.starved);
        }
    }

    /// The rate of the link in bytes a second, as far as known.
    pub fn rate(&self) -> Option<f64> {
        let best = self.rates.iter().copied().fold(self.round_best, f64::max);
        (best > 0.0).then_some(best)
    }

    /// The shortest round trip seen lately.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip_min.map(|(round_trip, _)| round_trip)
    }

    fn note_round_trip(&mut self, round_trip: Duration, now: Duration) {
        if self.refreshing_until.is_some_and(|until| now >= until) {
            self.refreshing_until = None;
            self.round_trip_min = Some((round_trip, now));
            return;
        }
        match self.round_trip_min {
            Some((least, _)) if round_trip <= least => {
                self.round_trip_min = Some((round_trip, now));
            }
            None => self.round_trip_min = Some((round_trip, now)),
            Some((least, since)) => {
                let stale = now.saturating_sub(since) > ROUND_TRIP_KEPT;
                if stale && self.refreshing_until.is_none() {
                    // Less under way for a while, so that the link's own queue drains and its true
                    // round trip shows again.
                    self.refreshing_until = Some(now + round_trip.max(least));
                }
            }
        }
    }

    fn end_round(&mut self, starved: bool) {
        if self.round_best <= 0.0 {
            return;
        }
        self.rates.push_back(self.round_best);
        if self.rates.len() > ROUNDS_KEPT {
            self.rates.pop_front();
        }
        self.round_best = 0.0;
        let Some(best) = self.rate() else { return };
        if !self.starting || starved {
            return;
        }
        if best > self.flat_at * 1.25 {
            self.flat_at = best;
            self.flat_rounds = 0;
        } else {
            self.flat_rounds += 1;
            self.starting = self.flat_rounds < 3;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link of `rate` bytes a second and `delay` there and back, fed with publishes of 270 bytes. Gives
    /// the bytes delivered after the first third, as a part of what the link could carry, and the most under way.
    fn run(pace: &mut Pace, rate: f64, delay: Duration, seconds: u64) -> (f64, usize) {
        let mut now = Duration::ZERO;
        let mut free_at = Duration::ZERO;
        let mut flying: VecDeque<(Duration, Departure)> = VecDeque::new();
        let (mut carried, mut most) = (0u64, 0);
        let (end, from) = (
            Duration::from_secs(seconds),
            Duration::from_secs(seconds / 3),
        );
        while now < end {
            while pace.has_room() {
                let departure = pace.departed(270, now, false);
                free_at = free_at.max(now) + Duration::from_secs_f64(270.0 / rate);
                flying.push_back((free_at + delay, departure));
            }
            if now > from {
                most = most.max(pace.in_flight);
            }
            let (at, departure) = flying.pop_front().unwrap();
            now = at;
            pace.arrived(departure, now);
            if now > from {
                carried += 270;
            }
        }
        #[allow(clippy::cast_precision_loss)]
        let part = carried as f64 / (rate * end.saturating_sub(from).as_secs_f64());
        (part, most)
    }

    #[test]
    fn a_thin_long_link_is_filled_and_not_flooded() {
        let mut pace = Pace::new(1 << 21);
        let (part, most) = run(&mut pace, 32_000.0, Duration::from_millis(600), 120);
        assert!(part > 0.97, "{part}");
        assert!(most < 2 * 19_200, "{most}");
    }

    #[test]
    fn a_fast_short_link_is_filled() {
        let mut pace = Pace::new(1 << 21);
        let (part, _) = run(&mut pace, 10_000_000.0, Duration::from_micros(100), 3);
        assert!(part > 0.97, "{part}");
    }

    #[test]
    fn a_link_that_gets_faster_is_found_out() {
        let mut pace = Pace::new(1 << 21);
        run(&mut pace, 32_000.0, Duration::from_millis(200), 30);
        pace.reconnected();
        let (part, _) = run(&mut pace, 320_000.0, Duration::from_millis(200), 30);
        assert!(part > 0.97, "{part}");
    }
}
