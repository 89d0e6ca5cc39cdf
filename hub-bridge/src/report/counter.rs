//! Energy from a meter's cumulative counter.
//!
//! A meter cannot know whether its readings arrive, so it counts on: the difference between any two readings is what flowed
//! between them, whatever is missing. Three things break that, and are told apart by the reading before and the one after,
//! so each reading waits for its successor:
//!
//! - **reset**: the counter starts again from zero. What it shows afterwards has flowed since.
//! - **glitch**: one reading far off, and the next one goes on where the last one was. It is left out.
//! - **jump**: a rise that no meter here can carry (`power_kw_max`), and it stays. Another meter, or another counter: not
//!   energy, and never in a total.

use jiff::Timestamp;

use super::segment::{Segment, mean_kw, seconds_between};

/// Below this a fast return from a low reading may be a reset at a small load, kW.
const QUICK_KW_MIN: f64 = 1.0;

/// A reading of the counter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Count {
    /// When.
    pub at: Timestamp,
    /// What it showed, kWh.
    pub kwh: f64,
}

/// What two readings say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// This much flowed.
    Energy(Segment),
    /// It started again from zero.
    Reset {
        /// The last reading before.
        before: Count,
        /// The first one after.
        after: Count,
    },
    /// One reading that is left out.
    Glitch(Count),
    /// A rise that is no energy; it stays.
    Jump {
        /// The last reading before.
        before: Count,
        /// The first one after.
        after: Count,
    },
}

/// Reads a counter, in the order of time.
#[derive(Debug)]
pub struct Counter {
    power_kw_max: f64,
    fastest_kw: f64,
    settled: Option<Count>,
    waiting: Option<Count>,
}

enum Judgement {
    Rise,
    Reset,
    Glitch,
    Jump,
}

impl Counter {
    /// No meter here carries more than `power_kw_max` kW.
    pub fn new(power_kw_max: f64) -> Self {
        Self {
            power_kw_max,
            fastest_kw: 0.0,
            settled: None,
            waiting: None,
        }
    }

    /// Takes the next reading, not before the last one in time.
    pub fn push(&mut self, next: Count, tell: &mut impl FnMut(Event)) {
        if let Some(waiting) = self.waiting.take() {
            self.settle(waiting, Some(next), tell);
        }
        if self.settled.is_none() {
            self.settled = Some(next);
        } else {
            self.waiting = Some(next);
        }
    }

    /// There is no further reading.
    pub fn finish(mut self, tell: &mut impl FnMut(Event)) {
        if let Some(waiting) = self.waiting.take() {
            self.settle(waiting, None, tell);
        }
    }

    fn settle(&mut self, count: Count, next: Option<Count>, tell: &mut impl FnMut(Event)) {
        let Some(before) = self.settled else { return };
        match self.judge(before, count, next) {
            Judgement::Rise => {
                let segment = Segment {
                    from: before.at,
                    to: count.at,
                    kwh: count.kwh - before.kwh,
                };
                if segment.from < segment.to {
                    self.fastest_kw = self.fastest_kw.max(segment.mean_kw());
                }
                tell(Event::Energy(segment));
            }
            Judgement::Reset => {
                tell(Event::Reset {
                    before,
                    after: count,
                });
                let segment = Segment {
                    from: before.at,
                    to: count.at,
                    kwh: count.kwh,
                };
                // Another meter with a lower count, and not this one from zero.
                if segment.mean_kw() <= self.power_kw_max {
                    tell(Event::Energy(segment));
                }
            }
            Judgement::Jump => tell(Event::Jump {
                before,
                after: count,
            }),
            Judgement::Glitch => {
                tell(Event::Glitch(count));
                return;
            }
        }
        self.settled = Some(count);
    }

    fn judge(&self, before: Count, count: Count, next: Option<Count>) -> Judgement {
        let rate =
            |from: Count, to: Count| mean_kw(to.kwh - from.kwh, seconds_between(from.at, to.at));
        if count.kwh >= before.kwh {
            if rate(before, count) <= self.power_kw_max {
                return Judgement::Rise;
            }
            return match next {
                Some(next) if before.kwh <= next.kwh && next.kwh < count.kwh => Judgement::Glitch,
                _ => Judgement::Jump,
            };
        }
        // A counter that began again needs time to come back to where it was.
        match next {
            Some(next) if next.kwh >= before.kwh && rate(count, next) > self.quick_kw() => {
                Judgement::Glitch
            }
            _ => Judgement::Reset,
        }
    }

    fn quick_kw(&self) -> f64 {
        (3.0 * self.fastest_kw)
            .max(QUICK_KW_MIN)
            .min(self.power_kw_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan as _;

    /// Readings of each quarter of an hour.
    fn read(counts: &[f64]) -> Vec<Event> {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut counter = Counter::new(1000.0);
        let mut events = Vec::new();
        for (index, kwh) in counts.iter().enumerate() {
            let minutes = i64::try_from(index).unwrap() * 15;
            let at = start.checked_add(minutes.minutes()).unwrap();
            counter.push(Count { at, kwh: *kwh }, &mut |event| events.push(event));
        }
        counter.finish(&mut |event| events.push(event));
        events
    }

    fn total(events: &[Event]) -> f64 {
        let energy = |event: &Event| match event {
            Event::Energy(segment) => segment.kwh,
            _ => 0.0,
        };
        events.iter().map(energy).sum()
    }

    fn others(events: &[Event]) -> String {
        let letter = |event: &Event| match event {
            Event::Energy(_) => None,
            Event::Reset { .. } => Some('R'),
            Event::Glitch(_) => Some('G'),
            Event::Jump { .. } => Some('J'),
        };
        events.iter().filter_map(letter).collect()
    }

    #[test]
    fn resets_glitches_and_jumps_do_not_spoil_a_total() {
        let cases: &[(&str, &[f64], f64, &str)] = &[
            ("steady", &[100.0, 100.5, 101.0, 101.5], 1.5, ""),
            ("nothing flows", &[5.0, 5.0, 5.0], 0.0, ""),
            ("reset", &[100.0, 100.5, 0.25, 0.75], 1.25, "R"),
            ("reset to zero", &[100.0, 100.5, 0.0, 0.5], 1.0, "R"),
            ("reset at the end", &[100.0, 100.5, 0.25], 0.75, "R"),
            ("reset twice", &[9.0, 0.5, 1.0, 0.5, 1.0], 2.0, "RR"),
            ("reset early", &[0.0625, 0.0, 0.125], 0.125, "R"),
            ("one zero", &[100.0, 100.5, 0.0, 101.5], 1.5, "G"),
            ("one low at the begin", &[100.0, 0.0, 101.0], 1.0, "G"),
            ("one far too high", &[100.0, 100.5, 9e9, 101.0], 1.0, "G"),
            ("another meter", &[100.0, 100.5, 9000.0, 9000.5], 1.0, "J"),
            ("another, lower", &[9000.0, 9000.5, 700.0, 700.5], 1.0, "R"),
            ("high, then reset", &[100.0, 9e9, 0.5, 1.0], 1.0, "JR"),
            ("one reading", &[5.0], 0.0, ""),
            ("none", &[], 0.0, ""),
        ];
        for (name, counts, kwh, seen) in cases {
            let events = read(counts);
            assert!((total(&events) - kwh).abs() < 1e-9, "{name}: {events:?}");
            assert_eq!(others(&events), *seen, "{name}: {events:?}");
        }
    }

    #[test]
    fn a_counter_that_came_back_in_a_month_was_reset() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut counter = Counter::new(1000.0);
        let mut events = Vec::new();
        for (time, kwh) in [
            ("2026-01-01T00:00:00Z", 10.0),
            ("2026-01-01T00:15:00Z", 0.125),
            ("2026-02-01T00:00:00Z", 12.0),
        ] {
            counter.push(Count { at: at(time), kwh }, &mut |event| events.push(event));
        }
        counter.finish(&mut |event| events.push(event));
        assert!((total(&events) - 12.0).abs() < 1e-9, "{events:?}");
        assert_eq!(others(&events), "R");
    }
}
