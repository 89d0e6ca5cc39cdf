//! Days, weeks and months in a village's time zone, as instants.
//!
//! A day begins at its first instant there: it has 23 or 25 hours where the clocks change. Everything that is summed up
//! over time is cut at these instants, so that no energy falls between two periods or into both.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::Serialize;

use super::segment::{Segment, seconds_between};

/// The longest range of a report, in days: sums are kept in memory for each day and quarter of an hour.
pub const DAYS_MAX: i32 = 20 * 366;

/// What a row of the report covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// A day, from midnight to midnight in the village's time zone.
    #[default]
    Day,
    /// A week from Monday; the first and the last may be cut by the range.
    Week,
    /// A calendar month; the first and the last may be cut by the range.
    Month,
}

/// Why there is no such range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The end lies before the begin.
    #[error("the range ends ({to}) before it begins ({from})")]
    Backwards {
        /// The first day.
        from: Date,
        /// The last day.
        to: Date,
    },
    /// Longer than [`DAYS_MAX`].
    #[error("the range {from} to {to} is longer than {DAYS_MAX} days")]
    TooLong {
        /// The first day.
        from: Date,
        /// The last day.
        to: Date,
    },
    /// A date that has no instant: the very ends of the calendar.
    #[error("{0} is out of the calendar")]
    OutOfRange(Date),
}

/// The periods of a range, in order, without holes.
#[derive(Debug, Clone)]
pub struct Calendar {
    periods: Vec<Period>,
}

/// One period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// Its first day.
    pub first_day: Date,
    /// Its last day, itself included.
    pub last_day: Date,
    /// Its first instant.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

impl Period {
    /// How long it is: a day is 23 to 25 hours.
    pub fn seconds(&self) -> f64 {
        seconds_between(self.start, self.end)
    }
}

impl Calendar {
    /// The periods from the day `from` to the day `to`, itself included, in `zone`.
    ///
    /// # Errors
    /// [`CalendarError`].
    pub fn new(from: Date, to: Date, by: By, zone: &TimeZone) -> Result<Self, CalendarError> {
        if to < from {
            return Err(CalendarError::Backwards { from, to });
        }
        if (to - from).get_days() >= DAYS_MAX {
            return Err(CalendarError::TooLong { from, to });
        }
        let mut periods = Vec::new();
        let mut first_day = from;
        while first_day <= to {
            let next = next_begin(first_day, by)?.min(day_after(to)?);
            periods.push(Period {
                first_day,
                last_day: next
                    .yesterday()
                    .map_err(|_| CalendarError::OutOfRange(next))?,
                start: first_instant(first_day, zone)?,
                end: first_instant(next, zone)?,
            });
            first_day = next;
        }
        Ok(Self { periods })
    }

    /// The periods, in order; never empty.
    pub fn periods(&self) -> &[Period] {
        &self.periods
    }

    /// The first instant of the range.
    pub fn start(&self) -> Timestamp {
        self.periods.first().map_or(Timestamp::MIN, |p| p.start)
    }

    /// The first instant after the range.
    pub fn end(&self) -> Timestamp {
        self.periods.last().map_or(Timestamp::MIN, |p| p.end)
    }

    /// Which period an instant is in.
    pub fn index_of(&self, at: Timestamp) -> Option<usize> {
        let after = self.periods.partition_point(|period| period.end <= at);
        let period = self.periods.get(after)?;
        (period.start <= at).then_some(after)
    }

    /// The part of a segment in each period that it touches: index and segment, energy in proportion to time. One without
    /// a length belongs where it is.
    pub fn cut(&self, segment: Segment) -> impl Iterator<Item = (usize, Segment)> + '_ {
        let first = self.periods.partition_point(|p| p.end <= segment.from);
        let touched = self.periods.iter().enumerate().skip(first);
        touched
            .take_while(move |(_, p)| p.start < segment.to || segment.is_instant_in(p.start, p.end))
            .filter_map(move |(index, p)| Some((index, segment.within(p.start, p.end)?)))
    }
}

fn next_begin(day: Date, by: By) -> Result<Date, CalendarError> {
    let next = match by {
        By::Day => day.tomorrow(),
        By::Week => day.nth_weekday(1, Weekday::Monday),
        By::Month => day.first_of_month().checked_add(1.month()),
    };
    next.map_err(|_| CalendarError::OutOfRange(day))
}

fn day_after(day: Date) -> Result<Date, CalendarError> {
    day.tomorrow().map_err(|_| CalendarError::OutOfRange(day))
}

fn first_instant(day: Date, zone: &TimeZone) -> Result<Timestamp, CalendarError> {
    day.to_zoned(zone.clone())
        .map(|zoned| zoned.timestamp())
        .map_err(|_| CalendarError::OutOfRange(day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendar(from: &str, to: &str, by: By, zone: &str) -> Calendar {
        let zone = TimeZone::get(zone).unwrap();
        Calendar::new(from.parse().unwrap(), to.parse().unwrap(), by, &zone).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_day_is_23_or_25_hours_where_the_clocks_change() {
        let spring = calendar("2026-03-28", "2026-03-30", By::Day, "Europe/Berlin");
        let hours = spring.periods().iter().map(|p| p.seconds() / 3600.0);
        assert_eq!(hours.collect::<Vec<_>>(), [24.0, 23.0, 24.0]);
        let autumn = calendar("2026-10-25", "2026-10-25", By::Day, "Europe/Berlin");
        assert!((autumn.periods()[0].seconds() - 25.0 * 3600.0).abs() < 1e-9);
        assert_eq!(autumn.start(), at("2026-10-24T22:00:00Z"));
        assert_eq!(autumn.end(), at("2026-10-25T23:00:00Z"));
    }

    #[test]
    fn an_instant_is_in_one_period() {
        let days = calendar("2026-01-01", "2026-01-03", By::Day, "Africa/Douala");
        assert_eq!(days.index_of(at("2025-12-31T22:59:59Z")), None);
        assert_eq!(days.index_of(at("2025-12-31T23:00:00Z")), Some(0));
        assert_eq!(days.index_of(at("2026-01-01T22:59:59Z")), Some(0));
        assert_eq!(days.index_of(at("2026-01-01T23:00:00Z")), Some(1));
        assert_eq!(days.index_of(at("2026-01-03T23:00:00Z")), None);
    }

    #[test]
    fn weeks_begin_on_monday_and_the_range_cuts_them() {
        let weeks = calendar("2026-01-01", "2026-01-13", By::Week, "UTC");
        let days: Vec<_> = weeks
            .periods()
            .iter()
            .map(|p| format!("{} {}", p.first_day, p.last_day))
            .collect();
        assert_eq!(
            days,
            [
                "2026-01-01 2026-01-04",
                "2026-01-05 2026-01-11",
                "2026-01-12 2026-01-13"
            ]
        );
        let months = calendar("2026-01-31", "2026-03-01", By::Month, "UTC");
        let days: Vec<_> = months.periods().iter().map(|p| p.first_day).collect();
        assert_eq!(
            days.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["2026-01-31", "2026-02-01", "2026-03-01"]
        );
    }

    #[test]
    fn a_segment_over_midnight_is_cut_and_nothing_is_lost() {
        let days = calendar("2026-01-01", "2026-01-03", By::Day, "UTC");
        let segment = Segment {
            from: at("2026-01-01T18:00:00Z"),
            to: at("2026-01-03T06:00:00Z"),
            kwh: 36.0,
        };
        let parts: Vec<_> = days.cut(segment).map(|(i, part)| (i, part.kwh)).collect();
        assert_eq!(parts, [(0, 6.0), (1, 24.0), (2, 6.0)]);
        let before = Segment {
            from: at("2025-12-31T12:00:00Z"),
            to: at("2026-01-01T12:00:00Z"),
            kwh: 24.0,
        };
        let parts: Vec<_> = days.cut(before).map(|(i, part)| (i, part.kwh)).collect();
        assert_eq!(parts, [(0, 12.0)]);
        let instant = Segment {
            from: at("2026-01-02T00:00:00Z"),
            to: at("2026-01-02T00:00:00Z"),
            kwh: 1.0,
        };
        let parts: Vec<_> = days.cut(instant).map(|(i, part)| (i, part.kwh)).collect();
        assert_eq!(parts, [(1, 1.0)]);
    }

    #[test]
    fn a_range_that_is_none_is_refused() {
        let day = |text: &str| text.parse::<Date>().unwrap();
        let new = |from, to| Calendar::new(day(from), day(to), By::Day, &TimeZone::UTC);
        assert!(matches!(
            new("2026-01-02", "2026-01-01"),
            Err(CalendarError::Backwards { .. })
        ));
        assert!(matches!(
            new("1900-01-01", "2026-01-01"),
            Err(CalendarError::TooLong { .. })
        ));
        assert!(new("9999-12-30", "9999-12-31").is_err());
    }
}
