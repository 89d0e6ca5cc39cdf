//! Energy from readings of power, for meters that count nothing: the trapezoid between two readings.

use std::time::Duration;

use jiff::Timestamp;

use super::segment::{Segment, seconds_between};

/// Integrates power, in the order of time.
#[derive(Debug)]
pub struct Integrator {
    gap_max_s: f64,
    last: Option<(Timestamp, f64)>,
}

impl Integrator {
    /// Between readings that are further apart than `gap_max` nothing is known, and nothing is made up.
    pub fn new(gap_max: Duration) -> Self {
        Self {
            gap_max_s: gap_max.as_secs_f64(),
            last: None,
        }
    }

    /// Takes the next reading, in kW; the energy since the last one.
    pub fn push(&mut self, at: Timestamp, kw: f64) -> Option<Segment> {
        let (from, before) = self.last.replace((at, kw))?;
        let seconds = seconds_between(from, at);
        (0.0 < seconds && seconds <= self.gap_max_s).then(|| Segment {
            from,
            to: at,
            kwh: f64::midpoint(before, kw) * seconds / 3600.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_is_its_area_and_a_gap_is_nothing() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut power = Integrator::new(Duration::from_secs(3600));
        assert_eq!(power.push(at("2026-01-01T00:00:00Z"), 0.0), None);
        let ramp = power.push(at("2026-01-01T00:30:00Z"), 4.0).unwrap();
        assert!((ramp.kwh - 1.0).abs() < 1e-12);
        assert_eq!(power.push(at("2026-01-01T00:30:00Z"), 6.0), None);
        let next = power.push(at("2026-01-01T01:30:00Z"), 6.0).unwrap();
        assert!((next.kwh - 6.0).abs() < 1e-12);
        assert_eq!(power.push(at("2026-01-01T02:30:01Z"), 6.0), None);
    }
}
