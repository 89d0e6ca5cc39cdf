//! How often a meter sends, seen from its own readings.
//!
//! The typical interval is the lower quartile of those between its readings: it holds while up to three of four readings
//! are missing, since a hole makes an interval longer and never shorter. Intervals are kept as a histogram of about 2 %
//! steps, so memory does not grow with the readings.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::segment::seconds_between;

/// The histogram's steps in a factor of e.
const STEPS: f64 = 50.0;

/// The intervals of one meter.
#[derive(Debug, Default)]
pub struct Intervals {
    last: Option<Timestamp>,
    count: u64,
    steps: BTreeMap<i32, (u64, f64)>,
}

impl Intervals {
    /// Takes the next reading, in the order of time. `false` where it has the time of the one before.
    pub fn push(&mut self, at: Timestamp) -> bool {
        let Some(last) = self.last.replace(at) else {
            return true;
        };
        let seconds = seconds_between(last, at);
        if seconds <= 0.0 {
            return false;
        }
        // The logarithm of a positive number of seconds, times 50: within ± 2,000.
        #[allow(clippy::cast_possible_truncation)]
        let step = (seconds.ln() * STEPS).round() as i32;
        let (count, sum) = self.steps.entry(step).or_default();
        *count += 1;
        *sum += seconds;
        self.count += 1;
        true
    }

    /// The typical interval in seconds; `None` before the third reading.
    pub fn typical_s(&self) -> Option<f64> {
        if self.count < 2 {
            return None;
        }
        let mut seen = 0;
        let quartile = self.count.div_ceil(4);
        let step = self.steps.values().find(|(count, _)| {
            seen += count;
            seen >= quartile
        });
        // Counts are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        step.map(|(count, sum)| sum / *count as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan as _;

    fn intervals(seconds: impl IntoIterator<Item = i64>) -> Intervals {
        let mut at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut intervals = Intervals::default();
        intervals.push(at);
        for step in seconds {
            at = at.checked_add(step.seconds()).unwrap();
            intervals.push(at);
        }
        intervals
    }

    #[test]
    fn holes_and_jitter_do_not_hide_the_interval() {
        let close = |seconds: Vec<i64>, typical: f64| {
            let found = intervals(seconds.clone()).typical_s().unwrap();
            assert!((found / typical - 1.0).abs() < 0.02, "{found} {seconds:?}");
        };
        close(vec![900; 10], 900.0);
        close(vec![900, 2700, 1800, 900, 3600, 1800, 900, 86_400], 900.0);
        close(vec![899, 901, 900, 902, 898, 900, 899], 900.0);
        assert_eq!(intervals([900]).typical_s(), None);
        assert_eq!(intervals([]).typical_s(), None);
    }

    #[test]
    fn a_reading_of_the_same_time_is_none_more() {
        let mut intervals = intervals([60, 60]);
        let at = intervals.last.unwrap();
        assert!(!intervals.push(at));
        assert_eq!(intervals.count, 2);
    }
}
