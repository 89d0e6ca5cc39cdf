//! What one meter's readings come to in each period, and in each quarter of an hour.

use std::time::Duration;

use jiff::Timestamp;

use super::calendar::{Calendar, Period};
use super::counter::{Count, Counter, Event};
use super::interval::Intervals;
use super::place::Placed;
use super::power::Integrator;
use super::quarters::Quarters;
use super::segment::{Segment, seconds_between};

/// A counter's difference over a longer time says nothing of the highest power in it.
const PEAK_OVER_S: f64 = 3600.0;

/// What energy was summed up from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Differences of the cumulative counter.
    Counter,
    /// Power over time.
    Power,
    /// Some of each: over several periods or meters.
    Mixed,
}

impl Method {
    /// As in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Power => "power",
            Self::Mixed => "mixed",
        }
    }

    /// Of two sums together.
    #[must_use]
    pub fn and(self, other: Option<Self>) -> Self {
        match other {
            Some(other) if other != self => Self::Mixed,
            _ => self,
        }
    }
}

/// What went wrong with a counter in the range.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Oddities {
    /// It began again from zero.
    pub resets: u64,
    /// Single readings that were left out.
    pub glitches: u64,
    /// Rises that are no energy, and are in no sum.
    pub jumps: u64,
}

/// One period of one meter.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MeterPeriod {
    /// Energy in kWh; `None` where nothing says.
    pub kwh: Option<f64>,
    /// From what.
    pub method: Option<Method>,
    /// The highest power seen in a reading; where readings have none, the highest mean between two, at most an hour apart.
    pub peak_kw: Option<f64>,
    /// Readings with a time of their own in the period.
    pub readings: u64,
    /// How many there would be at the meter's typical interval; `None` where that is not known.
    pub expected: Option<f64>,
    /// Seconds that the energy speaks of.
    pub covered_s: f64,
}

impl MeterPeriod {
    /// How many of the expected readings there are: what a meter sends beyond its interval makes good no hole elsewhere.
    pub fn kept(&self) -> f64 {
        // Counts are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        self.expected
            .map_or(0.0, |expected| expected.min(self.readings as f64))
    }
}

/// One meter, all periods.
#[derive(Debug)]
pub struct MeterSums {
    /// Each period of the calendar.
    pub periods: Vec<MeterPeriod>,
    /// Its typical interval, s.
    pub interval_s: Option<f64>,
    /// Its newest reading before the end of the range.
    pub newest: Option<Timestamp>,
    /// What its counter did.
    pub oddities: Oddities,
}

/// The limits that sums go by.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// See [`Counter`].
    pub power_kw_max: f64,
    /// See [`Integrator`].
    pub power_gap_max: Duration,
    /// Nothing is expected after it.
    pub now: Timestamp,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    kwh: f64,
    seconds: f64,
}

impl Flow {
    fn add(&mut self, segment: Segment) {
        self.kwh += segment.kwh;
        self.seconds += segment.seconds();
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Gathered {
    readings: u64,
    counter: Flow,
    power: Flow,
    power_peak_kw: Option<f64>,
    counter_peak_kw: Option<f64>,
}

/// Sums up one meter, in the order of time.
pub struct MeterSum<'a> {
    calendar: &'a Calendar,
    limits: Limits,
    counter: Counter,
    integrator: Integrator,
    intervals: Intervals,
    gathered: Gather,
    first: Option<Timestamp>,
    newest: Option<Timestamp>,
}

struct Gather {
    periods: Vec<Gathered>,
    counter_quarters: Quarters,
    power_quarters: Quarters,
    oddities: Oddities,
}

impl<'a> MeterSum<'a> {
    /// Nothing yet.
    pub fn new(calendar: &'a Calendar, limits: Limits) -> Self {
        Self {
            calendar,
            limits,
            counter: Counter::new(limits.power_kw_max),
            integrator: Integrator::new(limits.power_gap_max),
            intervals: Intervals::default(),
            gathered: Gather {
                periods: vec![Gathered::default(); calendar.periods().len()],
                counter_quarters: Quarters::default(),
                power_quarters: Quarters::default(),
                oddities: Oddities::default(),
            },
            first: None,
            newest: None,
        }
    }

    /// Takes the next reading.
    pub fn push(&mut self, placed: &Placed) {
        let Self {
            calendar, gathered, ..
        } = self;
        let at = placed.at;
        self.first.get_or_insert(at);
        if at < calendar.end() {
            self.newest = Some(at);
        }
        let another = self.intervals.push(at);
        let period = calendar
            .index_of(at)
            .and_then(|index| gathered.periods.get_mut(index));
        if let Some(period) = period {
            period.readings += u64::from(another);
            let peak = placed
                .reading
                .power_kw
                .into_iter()
                .chain(period.power_peak_kw);
            period.power_peak_kw = peak.reduce(f64::max);
        }
        if let Some(kwh) = placed.reading.energy_kwh {
            let mut tell = |event| gathered.hear(calendar, event);
            self.counter.push(Count { at, kwh }, &mut tell);
        }
        if let Some(segment) = placed
            .reading
            .power_kw
            .and_then(|kw| self.integrator.push(at, kw))
        {
            for (index, part) in calendar.cut(segment) {
                if let Some(period) = gathered.periods.get_mut(index) {
                    period.power.add(part);
                }
                gathered.power_quarters.add(calendar, part);
            }
        }
    }

    /// There is no further reading; its quarters of an hour are added to `quarters`.
    pub fn finish(self, quarters: Option<&mut Quarters>) -> MeterSums {
        let Self {
            calendar,
            mut gathered,
            ..
        } = self;
        self.counter
            .finish(&mut |event| gathered.hear(calendar, event));
        let interval_s = self.intervals.typical_s();
        let periods = calendar.periods().iter().zip(&gathered.periods);
        let periods: Vec<MeterPeriod> = periods
            .map(|(period, gathered)| {
                let expected = interval_s
                    .map(|interval| awaited_s(period, self.first, self.limits.now) / interval);
                gathered.as_period(expected)
            })
            .collect();
        if let Some(quarters) = quarters {
            for (period, sums) in calendar.periods().iter().zip(&periods) {
                let own = match sums.method {
                    Some(Method::Power) => &gathered.power_quarters,
                    _ => &gathered.counter_quarters,
                };
                quarters.take_in(own, calendar, period);
            }
        }
        MeterSums {
            periods,
            interval_s,
            newest: self.newest,
            oddities: gathered.oddities,
        }
    }
}

/// For how long readings were to be expected in a period: not before a meter's first one, not after now.
fn awaited_s(period: &Period, first: Option<Timestamp>, now: Timestamp) -> f64 {
    let from = first.map_or(period.start, |first| first.max(period.start));
    seconds_between(from, period.end.min(now)).max(0.0)
}

impl Gather {
    fn hear(&mut self, calendar: &Calendar, event: Event) {
        let inside = |at| calendar.index_of(at).is_some();
        match event {
            Event::Energy(segment) => {
                let speaks_of_peak = segment.seconds() <= PEAK_OVER_S && segment.from < segment.to;
                for (index, part) in calendar.cut(segment) {
                    if let Some(period) = self.periods.get_mut(index) {
                        period.counter.add(part);
                        if speaks_of_peak {
                            let peak = period.counter_peak_kw.unwrap_or(0.0);
                            period.counter_peak_kw = Some(peak.max(segment.mean_kw()));
                        }
                    }
                    self.counter_quarters.add(calendar, part);
                }
            }
            Event::Reset { after, .. } => self.oddities.resets += u64::from(inside(after.at)),
            Event::Glitch(count) => self.oddities.glitches += u64::from(inside(count.at)),
            Event::Jump { after, .. } => self.oddities.jumps += u64::from(inside(after.at)),
        }
    }
}

impl Gathered {
    fn as_period(&self, expected: Option<f64>) -> MeterPeriod {
        let counted = self.counter.seconds > 0.0 || self.counter.kwh > 0.0;
        let (flow, method) = if counted {
            (Some(self.counter), Some(Method::Counter))
        } else if self.power.seconds > 0.0 {
            (Some(self.power), Some(Method::Power))
        } else {
            (None, None)
        };
        MeterPeriod {
            kwh: flow.map(|flow| flow.kwh),
            method,
            peak_kw: self.power_peak_kw.or(self.counter_peak_kw),
            readings: self.readings,
            // A part of an interval at an edge is no reading.
            expected: expected.map(|expected| (expected + 1e-9).floor()),
            covered_s: flow.map_or(0.0, |flow| flow.seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::calendar::By;
    use crate::report::place::Known;
    use crate::report::place::tests::reading;
    use jiff::tz::TimeZone;

    #[test]
    fn a_long_time_and_no_time_say_nothing_of_the_highest_power() {
        let day = "2026-01-01".parse().unwrap();
        let calendar = Calendar::new(day, day, By::Day, &TimeZone::UTC).unwrap();
        let limits = Limits {
            power_kw_max: 1000.0,
            power_gap_max: Duration::from_secs(3600),
            now: calendar.end(),
        };
        let mut meter = MeterSum::new(&calendar, limits);
        for (time, kwh) in [
            ("00:00", 0.0),
            ("00:15", 1.0),
            ("00:15", 1.1),
            ("05:15", 51.1),
        ] {
            let time = format!("2026-01-01T{time}:00Z");
            let mut reading = reading(1, Some(&time));
            reading.energy_kwh = Some(kwh);
            let at = time.parse().unwrap();
            meter.push(&Placed {
                at,
                known: Known::Meter,
                reading,
            });
        }
        let sums = meter.finish(None);
        assert_eq!(sums.periods[0].peak_kw, Some(4.0));
        assert!((sums.periods[0].covered_s - 5.25 * 3600.0).abs() < 1e-9);
    }
}
