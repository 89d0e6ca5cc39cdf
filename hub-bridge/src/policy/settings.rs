//! What the policy can be told.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::{DrainSettings, SettingsProblem};
use crate::window::TimeOfDay;

/// When readings go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forward {
    /// Whenever the hub can be reached.
    #[default]
    Always,
    /// In windows and drains only.
    Windows,
    /// New readings whenever the hub can be reached, what waited before in windows and drains only.
    LiveFirst,
}

/// What follows where the month's budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtBudget {
    /// Nothing crosses any more but drains.
    #[default]
    DrainOnly,
    /// Nothing but the alarm.
    GoOn,
}

/// A part of each day, village time: `12:00-13:00`; `22:00-02:00` goes past midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DaySpan {
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends: another time than it begins.
    pub to: TimeOfDay,
}

/// Why a text is no part of a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} must be HH:MM-HH:MM, two different times")]
pub struct InvalidDaySpan(String);

impl DaySpan {
    /// How long it lasts on a day without a change to or from daylight saving.
    pub fn long(self) -> Duration {
        let minutes = |time: TimeOfDay| i32::from(time.hour()) * 60 + i32::from(time.minute());
        let minutes = (minutes(self.to) - minutes(self.from)).rem_euclid(24 * 60);
        Duration::from_secs(u64::try_from(minutes).unwrap_or(0) * 60)
    }
}

impl FromStr for DaySpan {
    type Err = InvalidDaySpan;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = text.split_once('-').and_then(|(from, to)| {
            let (from, to) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
            (from != to).then_some(Self { from, to })
        });
        span.ok_or_else(|| InvalidDaySpan(text.chars().take(40).collect()))
    }
}

impl fmt::Display for DaySpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

impl Serialize for DaySpan {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// When, how fast and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// When readings go.
    pub forward: Forward,
    /// Windows beside the one of the nightly drain.
    pub windows: Vec<DaySpan>,
    /// At most so many bytes a second leave outside windows and drains; `None`: no limit.
    pub rate_limit_bytes_per_s: Option<u64>,
    /// At most so many bytes cross in a month, both directions together; `None`: no limit.
    pub monthly_budget_bytes: Option<u64>,
    /// The share of the budget at which the alarm begins, in thousandths: 1 to 1000.
    pub budget_alarm_permille: u16,
    /// What follows where it is used up.
    pub at_budget: AtBudget,
    /// The day on which the month of the bill begins, 1 to 28.
    pub month_begins: u8,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            forward: Forward::Always,
            windows: Vec::new(),
            rate_limit_bytes_per_s: None,
            monthly_budget_bytes: None,
            budget_alarm_permille: 800,
            at_budget: AtBudget::DrainOnly,
            month_begins: 1,
        }
    }
}

/// With less, one reading of a usual size would take longer than links are patient for.
const RATE_MIN: u64 = 125;
/// A keep alive a minute uses up some 7 MB a month.
const BUDGET_MIN: u64 = 1_000_000;
/// More windows than there are hours are a slip.
const WINDOWS_MAX: usize = 24;

impl PolicySettings {
    /// Adds what is wrong to `found`.
    pub(crate) fn check(&self, drain: &DrainSettings, found: &mut Vec<SettingsProblem>) {
        let mut wrong = |key, reason: &str, allowed: &str| {
            found.push(SettingsProblem {
                key,
                reason: reason.to_owned(),
                allowed: allowed.to_owned(),
            });
        };
        let holds_back = self.forward != Forward::Always;
        if holds_back && !drain.enabled && self.windows.is_empty() {
            let reason = "there is no window: drain.enabled is false, and uplink.windows is empty";
            wrong("uplink.forward", reason, "always, or a window");
        }
        if self.windows.len() > WINDOWS_MAX {
            wrong("uplink.windows", "too many", "at most 24 windows");
        }
        if self.rate_limit_bytes_per_s.is_some_and(|r| r < RATE_MIN) {
            wrong(
                "uplink.rate_limit",
                "too little",
                "none, or 1 kbit/s or more",
            );
        }
        if self.monthly_budget_bytes.is_some_and(|b| b < BUDGET_MIN) {
            wrong(
                "uplink.monthly_budget",
                "too little",
                "none, or 1 MB or more",
            );
        }
        if !(1..=1000).contains(&self.budget_alarm_permille) {
            let allowed = "more than 0.0, at most 1.0";
            wrong("uplink.budget_alarm_at", "out of bounds", allowed);
        }
        if !(1..=28).contains(&self.month_begins) {
            let allowed = "1 to 28, a day that every month has";
            wrong("uplink.month_begins", "out of bounds", allowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_day_is_two_times() {
        for (text, hours) in [
            ("12:00-13:00", 1),
            ("22:00 - 02:00", 4),
            ("00:00-23:00", 23),
        ] {
            let span: DaySpan = text.parse().unwrap();
            assert_eq!(span.long(), Duration::from_secs(hours * 3600), "{text}");
        }
        for text in ["", "12:00", "12:00-12:00", "12-13", "12:00-25:00", "a-b"] {
            assert!(text.parse::<DaySpan>().is_err(), "{text}");
        }
    }

    fn keys(policy: &PolicySettings, drain: &DrainSettings) -> Vec<&'static str> {
        let mut found = Vec::new();
        policy.check(drain, &mut found);
        found.into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn what_would_hold_readings_for_ever_is_refused() {
        let never = DrainSettings {
            enabled: false,
            ..DrainSettings::default()
        };
        for forward in [Forward::Windows, Forward::LiveFirst] {
            let mut policy = PolicySettings {
                forward,
                ..PolicySettings::default()
            };
            assert_eq!(keys(&policy, &never), ["uplink.forward"]);
            assert!(keys(&policy, &DrainSettings::default()).is_empty());
            policy.windows = vec!["12:00-13:00".parse().unwrap()];
            assert!(keys(&policy, &never).is_empty());
        }
    }

    #[test]
    fn every_bound_is_checked() {
        let policy = PolicySettings {
            windows: vec!["12:00-13:00".parse().unwrap(); 25],
            rate_limit_bytes_per_s: Some(10),
            monthly_budget_bytes: Some(10),
            budget_alarm_permille: 0,
            month_begins: 31,
            ..PolicySettings::default()
        };
        let found = keys(&policy, &DrainSettings::default());
        assert_eq!(found.len(), 5, "{found:?}");
    }
}
