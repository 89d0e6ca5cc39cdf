//! Energy in each quarter of an hour, so that meters can be added up before the highest is looked for.

use super::calendar::{Calendar, Period};
use super::segment::Segment;

const QUARTER_S: i64 = 15 * 60;

/// Energy in kWh of each quarter of an hour from the calendar's start; grows to the last one that has any.
#[derive(Debug, Clone, Default)]
pub struct Quarters {
    kwh: Vec<f64>,
}

impl Quarters {
    /// Adds energy that lies within the calendar.
    pub fn add(&mut self, calendar: &Calendar, segment: Segment) {
        let start = calendar.start().as_second();
        let mut rest = segment;
        loop {
            let number = (rest.from.as_second() - start).div_euclid(QUARTER_S);
            let end_s = start + (number + 1) * QUARTER_S;
            let end = jiff::Timestamp::from_second(end_s)
                .unwrap_or(rest.to)
                .max(rest.from);
            let part = rest.within(rest.from, end).unwrap_or(rest);
            self.add_to(number, part.kwh);
            if rest.to <= end || end <= rest.from {
                return;
            }
            rest = Segment {
                from: end,
                to: rest.to,
                kwh: rest.kwh - part.kwh,
            };
        }
    }

    fn add_to(&mut self, number: i64, kwh: f64) {
        let Ok(index) = usize::try_from(number) else {
            return;
        };
        if self.kwh.len() <= index {
            self.kwh.resize(index + 1, 0.0);
        }
        if let Some(quarter) = self.kwh.get_mut(index) {
            *quarter += kwh;
        }
    }

    /// Adds another's quarters of one period.
    pub fn take_in(&mut self, other: &Self, calendar: &Calendar, period: &Period) {
        let range = numbers(calendar, period);
        for (index, kwh) in other
            .kwh
            .iter()
            .enumerate()
            .take(range.end)
            .skip(range.start)
        {
            if *kwh != 0.0 {
                self.add_to(i64::try_from(index).unwrap_or(i64::MAX), *kwh);
            }
        }
    }

    /// The highest mean power of a quarter of an hour that begins in the period, kW; `None` where there is no energy.
    pub fn peak_kw(&self, calendar: &Calendar, period: &Period) -> Option<f64> {
        let range = numbers(calendar, period);
        let within = self.kwh.iter().take(range.end).skip(range.start);
        within
            .copied()
            .filter(|kwh| *kwh != 0.0)
            .reduce(f64::max)
            .map(|kwh| kwh * 4.0)
    }
}

fn numbers(calendar: &Calendar, period: &Period) -> std::ops::Range<usize> {
    let number = |at: jiff::Timestamp| {
        let seconds = at.as_second() - calendar.start().as_second();
        usize::try_from(seconds / QUARTER_S).unwrap_or(0)
    };
    number(period.start)..number(period.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::calendar::By;
    use jiff::tz::TimeZone;

    #[test]
    fn the_peak_is_that_of_the_sum() {
        let day = "2026-01-01".parse().unwrap();
        let calendar = Calendar::new(day, day, By::Day, &TimeZone::UTC).unwrap();
        let at = |text: &str| format!("2026-01-01T{text}Z").parse().unwrap();
        let mut village = Quarters::default();
        for (from, to, kwh) in [
            ("00:00:00", "00:30:00", 2.0),
            ("00:15:00", "00:45:00", 4.0),
            ("23:52:30", "23:59:59", 0.5),
        ] {
            let mut meter = Quarters::default();
            let segment = Segment {
                from: at(from),
                to: at(to),
                kwh,
            };
            meter.add(&calendar, segment);
            village.take_in(&meter, &calendar, &calendar.periods()[0]);
        }
        assert!((village.kwh.iter().sum::<f64>() - 6.5).abs() < 1e-9);
        assert_eq!(
            village.peak_kw(&calendar, &calendar.periods()[0]),
            Some(12.0)
        );
        assert_eq!(village.kwh.len(), 96);
    }
}
