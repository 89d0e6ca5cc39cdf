//! The month of the bill, in the village's time.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{ToSpan, Zoned};
use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;

/// A month by the one in which it begins: `2026-11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Month {
    year: i16,
    month: i8,
}

/// A text is no month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a month is YYYY-MM")]
pub struct InvalidMonth;

impl Month {
    /// The month that `at` is in, where months begin on the day `begins` (1 to 28).
    pub fn of(at: UnixMillis, zone: &TimeZone, begins: u8) -> Option<Self> {
        let here = Timestamp::from_millisecond(at.0).ok()?;
        let date = here.to_zoned(zone.clone()).date();
        let first = if date.day() >= i8::try_from(begins).ok()? {
            date
        } else {
            date.checked_sub(1.month()).ok()?
        };
        Some(Self {
            year: first.year(),
            month: first.month(),
        })
    }

    /// When it ends, which is when the next begins.
    pub fn ends(self, zone: &TimeZone, begins: u8) -> Option<UnixMillis> {
        let first = Date::new(self.year, self.month, i8::try_from(begins).ok()?).ok()?;
        let next: Zoned = first
            .checked_add(1.month())
            .ok()?
            .to_zoned(zone.clone())
            .ok()?;
        Some(UnixMillis(next.timestamp().as_millisecond()))
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.year, self.month)
    }
}

impl From<Month> for String {
    fn from(month: Month) -> Self {
        month.to_string()
    }
}

impl FromStr for Month {
    type Err = InvalidMonth;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (year, month) = text.split_once('-').ok_or(InvalidMonth)?;
        let year = year.parse().map_err(|_| InvalidMonth)?;
        let month = month.parse().map_err(|_| InvalidMonth)?;
        Date::new(year, month, 1).map_err(|_| InvalidMonth)?;
        Ok(Self { year, month })
    }
}

impl TryFrom<String> for Month {
    type Error = InvalidMonth;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn month(at: &str, zone: &str, begins: u8) -> String {
        let at = UnixMillis(at.parse::<Timestamp>().unwrap().as_millisecond());
        let zone = TimeZone::get(zone).unwrap();
        Month::of(at, &zone, begins).unwrap().to_string()
    }

    #[test]
    fn a_month_begins_at_midnight_in_the_village() {
        assert_eq!(month("2026-10-31T22:59:59Z", "Africa/Douala", 1), "2026-10");
        assert_eq!(month("2026-10-31T23:00:00Z", "Africa/Douala", 1), "2026-11");
    }

    #[test]
    fn the_bill_may_begin_on_another_day() {
        assert_eq!(
            month("2026-11-14T12:00:00Z", "Africa/Douala", 15),
            "2026-10"
        );
        assert_eq!(
            month("2026-11-15T12:00:00Z", "Africa/Douala", 15),
            "2026-11"
        );
        assert_eq!(
            month("2026-01-03T12:00:00Z", "Africa/Douala", 28),
            "2025-12"
        );
        assert_eq!(
            month("2026-03-30T12:00:00Z", "Africa/Douala", 28),
            "2026-03"
        );
    }

    #[test]
    fn a_month_ends_where_the_next_begins() {
        let zone = TimeZone::get("Africa/Douala").unwrap();
        let ends = "2025-12".parse::<Month>().unwrap().ends(&zone, 15).unwrap();
        assert_eq!(Month::of(ends, &zone, 15).unwrap().to_string(), "2026-01");
        let before = UnixMillis(ends.0 - 1);
        assert_eq!(Month::of(before, &zone, 15).unwrap().to_string(), "2025-12");
        assert!("2026-13".parse::<Month>().is_err());
    }
}
