//! Whether a window is open: the nightly drain's, or one of `uplink.windows`.
//!
//! Each is a schedule of its own, so gaps and folds of daylight saving are what they are for drains. All begin with the
//! village's offset: a thousand villages do not come back at 12:00:00 either.

use super::settings::PolicySettings;
use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::VillageId;
use crate::settings::DrainSettings;
use crate::window::Schedule;

/// Whether a window is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// One is.
    Open,
    /// None is.
    Closed,
    /// Nobody can say: the clock is not to be trusted.
    Unknown,
}

/// All windows of a village.
#[derive(Debug, Clone, Default)]
pub struct Windows(Vec<Schedule>);

impl Windows {
    /// The drain's window, where there is one, and those of `policy`.
    pub fn new(policy: &PolicySettings, drain: &DrainSettings, village: &VillageId) -> Self {
        let own = policy.windows.iter().map(|span| DrainSettings {
            enabled: true,
            at: span.from,
            until: span.to,
            // Half of a short window stays.
            stagger: drain.stagger.min(span.long() / 2),
            ..drain.clone()
        });
        let all = std::iter::once(drain.clone()).chain(own);
        Self(all.filter_map(|one| Schedule::new(&one, village)).collect())
    }

    /// Whether one is open at `now`.
    pub fn opening(&self, now: UnixMillis, quality: ClockQuality) -> Opening {
        match quality {
            ClockQuality::Unsynchronised => Opening::Unknown,
            ClockQuality::Synchronised if self.closes(now).is_some() => Opening::Open,
            ClockQuality::Synchronised => Opening::Closed,
        }
    }

    /// When the last of those that are open at `now` closes; `None` where none is.
    pub fn closes(&self, now: UnixMillis) -> Option<UnixMillis> {
        let latest = self.0.iter().filter_map(|schedule| schedule.latest(now));
        latest
            .map(|window| window.end)
            .filter(|end| *end > now)
            .max()
    }

    /// When the next one opens after `now`.
    pub fn opens(&self, now: UnixMillis) -> Option<UnixMillis> {
        let next = self.0.iter().filter_map(|schedule| schedule.next(now));
        next.map(|window| window.start).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn millis(text: &str) -> UnixMillis {
        UnixMillis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn windows(spans: &[&str], enabled: bool, stagger: u64) -> Windows {
        let policy = PolicySettings {
            windows: spans.iter().map(|span| span.parse().unwrap()).collect(),
            ..PolicySettings::default()
        };
        let drain = DrainSettings {
            enabled,
            stagger: Duration::from_secs(stagger),
            ..DrainSettings::default()
        };
        Windows::new(&policy, &drain, &"bamenda-01".parse().unwrap())
    }

    fn open(windows: &Windows, at: &str) -> bool {
        windows.opening(millis(at), ClockQuality::Synchronised) == Opening::Open
    }

    #[test]
    fn the_drains_window_and_ones_own_are_open_in_village_time() {
        let windows = windows(&["12:00-13:00", "22:30-00:30"], true, 0);
        // Douala is an hour ahead of Greenwich.
        for (at, expected) in [
            ("2026-03-01T00:59:59Z", false),
            ("2026-03-01T01:00:00Z", true),
            ("2026-03-01T04:59:59Z", true),
            ("2026-03-01T05:00:00Z", false),
            ("2026-03-01T11:00:00Z", true),
            ("2026-03-01T12:00:00Z", false),
            ("2026-03-01T21:30:00Z", true),
            ("2026-03-01T23:29:00Z", true),
            ("2026-03-01T23:31:00Z", false),
        ] {
            assert_eq!(open(&windows, at), expected, "{at}");
        }
        let noon = millis("2026-03-01T11:10:00Z");
        assert_eq!(windows.closes(noon), Some(millis("2026-03-01T12:00:00Z")));
        assert_eq!(windows.opens(noon), Some(millis("2026-03-01T21:30:00Z")));
    }

    #[test]
    fn an_untrusted_clock_opens_and_closes_nothing() {
        let windows = windows(&["12:00-13:00"], true, 0);
        for at in ["2026-03-01T11:10:00Z", "2026-03-01T20:00:00Z"] {
            let opening = windows.opening(millis(at), ClockQuality::Unsynchronised);
            assert_eq!(opening, Opening::Unknown);
        }
    }

    #[test]
    fn a_short_window_keeps_half_of_itself_under_any_stagger() {
        let windows = windows(&["12:00-12:10"], false, 7200);
        assert!(open(&windows, "2026-03-01T11:05:00Z"));
        assert!(!open(&windows, "2026-03-01T11:10:00Z"));
    }

    #[test]
    fn no_drain_and_no_window_is_never_open() {
        let windows = windows(&[], false, 0);
        assert!(!open(&windows, "2026-03-01T01:30:00Z"));
        assert_eq!(windows.opens(millis("2026-03-01T01:30:00Z")), None);
    }
}
