//! When the nightly drain is due, in village time.
//!
//! A pure function of settings, clock and the last run: nothing here waits, so tests move the time. A
//! start that a clock step or a daylight saving gap jumps over is moved to the first minute after the gap;
//! one that comes twice (a fold) runs at its first coming. A start that was missed runs once, later. Without
//! a trusted clock there is no 02:00, and the drain runs by uptime.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::VillageId;
use crate::settings::DrainSettings;

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
        let digits = |t: &str| {
            let two = t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit());
            two.then(|| t.parse::<u8>().ok()).flatten()
        };
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

/// One night's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// When the drain begins, the village's offset included.
    pub start: UnixMillis,
    /// When it is ended if it is not done.
    pub end: UnixMillis,
}

/// A drain that should run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Its window is open, or was missed: until `end` of wall time.
    Window {
        /// The wall time at which the drain is ended.
        end: UnixMillis,
        /// Whether the window it belongs to has passed already.
        missed: bool,
    },
    /// By uptime, since the clock cannot be trusted.
    Uptime,
}

/// What is remembered of the runs so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LastRun {
    /// When a scheduled drain was last begun, by a trusted clock.
    pub wall: Option<UnixMillis>,
    /// When one was last begun in this boot, in monotonic time.
    pub monotonic: Option<Duration>,
}

/// When drains begin in one village.
#[derive(Debug, Clone)]
pub struct Schedule {
    at: TimeOfDay,
    until: TimeOfDay,
    zone: TimeZone,
    offset: Duration,
    untrusted_interval: Duration,
}

/// The part of `stagger` that a village waits: always the same for the same village (FNV-1a).
pub fn stagger_of(village: &VillageId, stagger: Duration) -> Duration {
    let hash = village
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    // Similar names have similar hashes: mix them (the finaliser of SplitMix64).
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mixed = mixed ^ (mixed >> 31);
    let millis = u64::try_from(stagger.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(mixed.checked_rem(millis).unwrap_or(0))
}

impl Schedule {
    /// The schedule of `village`, or `None` where there is no nightly drain or no such time zone.
    pub fn new(settings: &DrainSettings, village: &VillageId) -> Option<Self> {
        let zone = TimeZone::get(&settings.time_zone).ok()?;
        settings.enabled.then(|| Self {
            at: settings.at,
            until: settings.until,
            zone,
            offset: stagger_of(village, settings.stagger),
            untrusted_interval: settings.untrusted_interval,
        })
    }

    /// The first window that begins after `now`.
    pub fn next(&self, now: UnixMillis) -> Option<Window> {
        (-1..=3)
            .filter_map(|day| self.window_near(now, day))
            .find(|window| window.start > now)
    }

    /// The last window that began at or before `now`.
    pub fn latest(&self, now: UnixMillis) -> Option<Window> {
        (-3..=1)
            .rev()
            .filter_map(|day| self.window_near(now, day))
            .find(|window| window.start <= now)
    }

    /// Whether a drain should begin now.
    pub fn due(
        &self,
        now: UnixMillis,
        uptime: Duration,
        quality: ClockQuality,
        last: LastRun,
    ) -> Option<Due> {
        match quality {
            ClockQuality::Unsynchronised => {
                let since = uptime.saturating_sub(last.monotonic.unwrap_or_default());
                (since >= self.untrusted_interval).then_some(Due::Uptime)
            }
            ClockQuality::Synchronised => {
                let window = self.latest(now)?;
                // A record from the future is a clock's error, not a run.
                let tomorrow = now.0.saturating_add(24 * 3600 * 1000);
                let ran = last
                    .wall
                    .is_some_and(|at| at >= window.start && at.0 <= tomorrow);
                if ran {
                    return None;
                }
                let missed = now >= window.end;
                let end = if missed {
                    let long = window.end.0.saturating_sub(window.start.0);
                    UnixMillis(now.0.saturating_add(long))
                } else {
                    window.end
                };
                Some(Due::Window { end, missed })
            }
        }
    }

    fn window_near(&self, now: UnixMillis, days: i64) -> Option<Window> {
        let today = Timestamp::from_millisecond(now.0)
            .ok()?
            .to_zoned(self.zone.clone())
            .date();
        let date = today.checked_add(days.days()).ok()?;
        let start = self.moment(date, self.at)?;
        let end_date = if self.until > self.at {
            date
        } else {
            date.tomorrow().ok()?
        };
        let end = self.moment(end_date, self.until)?;
        let offset = i64::try_from(self.offset.as_millis()).ok()?;
        let start = start.as_millisecond().saturating_add(offset);
        Some(Window {
            start: UnixMillis(start),
            // A stagger longer than the window leaves at least a minute of it.
            end: UnixMillis(end.as_millisecond().max(start.saturating_add(60_000))),
        })
    }

    fn moment(&self, date: Date, time: TimeOfDay) -> Option<Timestamp> {
        let civil = date.at(time.hour(), time.minute(), 0, 0);
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        match ambiguous.offset() {
            jiff::tz::AmbiguousOffset::Gap { before, after } => {
                // The end of the gap: the wall time with the offset before the gap is past it by what was
                // asked for past its beginning, so go back to the first moment after it.
                let past = before.to_timestamp(civil).ok()?;
                let jump = after.seconds() - before.seconds();
                let previous = past.checked_sub(i64::from(jump).seconds()).ok()?;
                let transition = self.zone.following(previous).next()?;
                Some(transition.timestamp())
            }
            _ => ambiguous.earlier().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(text: &str) -> UnixMillis {
        UnixMillis(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    fn schedule(zone: &str, stagger: u64) -> Schedule {
        let settings = DrainSettings {
            time_zone: zone.to_owned(),
            stagger: Duration::from_secs(stagger),
            ..DrainSettings::default()
        };
        Schedule::new(&settings, &"bamenda-01".parse().unwrap()).unwrap()
    }

    #[test]
    fn two_in_douala_is_one_in_greenwich() {
        let schedule = schedule("Africa/Douala", 0);
        let next = schedule.next(millis("2026-03-01T12:00:00Z")).unwrap();
        assert_eq!(next.start, millis("2026-03-02T01:00:00Z"));
        assert_eq!(next.end, millis("2026-03-02T05:00:00Z"));
        assert_eq!(schedule.latest(next.start).unwrap(), next);
    }

    #[test]
    fn a_gap_moves_the_start_to_the_first_minute_after_it() {
        // Berlin, 29 March 2026: 02:00 to 03:00 does not exist.
        let schedule = schedule("Europe/Berlin", 0);
        let next = schedule.next(millis("2026-03-28T12:00:00Z")).unwrap();
        assert_eq!(next.start, millis("2026-03-29T01:00:00Z"));
    }

    #[test]
    fn a_fold_runs_at_its_first_coming_and_once() {
        // Berlin, 25 October 2026: 02:00 comes at 00:00Z and at 01:00Z.
        let schedule = schedule("Europe/Berlin", 0);
        let next = schedule.next(millis("2026-10-24T12:00:00Z")).unwrap();
        assert_eq!(next.start, millis("2026-10-25T00:00:00Z"));
        let last = LastRun {
            wall: Some(next.start),
            monotonic: None,
        };
        let again = schedule.due(
            millis("2026-10-25T01:00:30Z"),
            Duration::ZERO,
            ClockQuality::Synchronised,
            last,
        );
        assert_eq!(again, None);
    }

    #[test]
    fn a_missed_night_runs_once_at_the_next_start() {
        let schedule = schedule("Africa/Douala", 0);
        let noon = millis("2026-03-02T11:00:00Z");
        let yesterday = LastRun {
            wall: Some(millis("2026-03-01T01:00:00Z")),
            monotonic: None,
        };
        let due = schedule.due(noon, Duration::ZERO, ClockQuality::Synchronised, yesterday);
        assert!(matches!(due, Some(Due::Window { missed: true, end }) if end > noon));
        let ran = LastRun {
            wall: Some(noon),
            monotonic: None,
        };
        let later = UnixMillis(noon.0 + 60_000);
        let due = schedule.due(later, Duration::ZERO, ClockQuality::Synchronised, ran);
        assert_eq!(due, None);
    }

    #[test]
    fn without_a_trusted_clock_the_drain_runs_by_uptime() {
        let schedule = schedule("Africa/Douala", 0);
        let in_1970 = UnixMillis(3_600_000);
        let day = Duration::from_secs(24 * 3600);
        let due = |uptime, last: Option<Duration>| {
            let last = LastRun {
                wall: None,
                monotonic: last,
            };
            schedule.due(in_1970, uptime, ClockQuality::Unsynchronised, last)
        };
        assert_eq!(due(Duration::from_secs(100), None), None);
        assert_eq!(due(day, None), Some(Due::Uptime));
        assert_eq!(due(day + day / 2, Some(day)), None);
        assert_eq!(due(day + day, Some(day)), Some(Due::Uptime));
    }

    #[test]
    fn villages_spread_over_the_stagger() {
        let stagger = Duration::from_secs(900);
        let offsets: Vec<u64> = (0..1000)
            .map(|n| stagger_of(&format!("village-{n:03}").parse().unwrap(), stagger).as_secs())
            .collect();
        for minute in 0..15 {
            let here = offsets.iter().filter(|o| **o / 60 == minute).count();
            assert!((30..=110).contains(&here), "minute {minute}: {here}");
        }
        assert!(stagger_of(&"a".parse().unwrap(), Duration::ZERO).is_zero());
    }

    proptest! {
        /// Over years and zones with and without daylight saving: windows follow each other about a day apart, and
        /// walking the time minute by minute runs each exactly once.
        #[test]
        fn windows_come_once_a_day(start in 1_600_000_000_000i64..2_000_000_000_000, zone in prop::sample::select(vec!["Africa/Douala", "Europe/Berlin", "America/Santiago", "Australia/Lord_Howe", "Africa/Casablanca"])) {
            let schedule = schedule(zone, 900);
            let mut now = UnixMillis(start);
            for _ in 0..5 {
                let next = schedule.next(now).unwrap();
                prop_assert!(next.start > now);
                prop_assert!(next.start.0 - now.0 <= 26 * 3_600_000);
                prop_assert!(next.end > next.start);
                prop_assert_eq!(schedule.latest(next.start).unwrap(), next);
                now = next.start;
            }
        }
    }
}
