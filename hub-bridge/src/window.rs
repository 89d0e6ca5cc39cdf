//! When the nightly drain is due, in village time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A time of day in minutes, village time: `02:00`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct TimeOfDay {
    minute_of_day: u16,
}

/// Why a text is not a time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be HH:MM, 00:00 to 23:59")]
pub struct InvalidTimeOfDay(String);

impl TimeOfDay {
    /// The time, or `None` past 23:59.
    pub fn new(hour: u8, minute: u8) -> Option<Self> {
        (hour < 24 && minute < 60).then(|| Self {
            minute_of_day: u16::from(hour) * 60 + u16::from(minute),
        })
    }

    /// The hour, 0 to 23.
    pub fn hour(self) -> i8 {
        i8::try_from(self.minute_of_day / 60).unwrap_or(0)
    }

    /// The minute, 0 to 59.
    pub fn minute(self) -> i8 {
        i8::try_from(self.minute_of_day % 60).unwrap_or(0)
    }
}

impl FromStr for TimeOfDay {
    type Err = InvalidTimeOfDay;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |t: &str| (t.len() == 2).then(|| t.parse::<u8>().ok()).flatten();
        text.split_once(':')
            .and_then(|(h, m)| Self::new(digits(h)?, digits(m)?))
            .ok_or_else(|| InvalidTimeOfDay(text.chars().take(40).collect()))
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = InvalidTimeOfDay;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour(), self.minute())
    }
}
