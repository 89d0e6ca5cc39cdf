//! Energy that flowed between two instants.

use jiff::Timestamp;

/// Energy over a stretch of time, taken as flowing evenly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// The first instant.
    pub from: Timestamp,
    /// The first instant after it.
    pub to: Timestamp,
    /// Energy in kWh.
    pub kwh: f64,
}

impl Segment {
    /// How long it is.
    pub fn seconds(&self) -> f64 {
        seconds_between(self.from, self.to)
    }

    /// Its mean power in kW; infinite for energy in no time.
    pub fn mean_kw(&self) -> f64 {
        mean_kw(self.kwh, self.seconds())
    }

    /// The part in `start..end`, with energy in proportion; `None` where they do not meet.
    pub fn within(&self, start: Timestamp, end: Timestamp) -> Option<Self> {
        if self.is_instant_in(start, end) {
            return Some(*self);
        }
        let (from, to) = (self.from.max(start), self.to.min(end));
        (from < to).then(|| Self {
            from,
            to,
            kwh: self.kwh * seconds_between(from, to) / self.seconds(),
        })
    }

    /// Whether it has no length, and lies in `start..end`.
    pub fn is_instant_in(&self, start: Timestamp, end: Timestamp) -> bool {
        self.from == self.to && start <= self.from && self.from < end
    }
}

/// Seconds from one instant to another; negative where the other lies before it.
pub fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Mean power in kW of energy over a time; infinite for energy in no time, 0 for none.
pub fn mean_kw(kwh: f64, seconds: f64) -> f64 {
    if kwh == 0.0 {
        0.0
    } else if seconds <= 0.0 {
        f64::INFINITY
    } else {
        kwh * 3600.0 / seconds
    }
}
