//! Places readings without a time: evenly between the last reading before and the first one after that have one.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use super::source::Reading;

/// Readings in a row without a time that are kept in memory; what is beyond is left out, its energy not: the counter's next
/// value has it.
const WAITING_MAX: usize = 100_000;

/// A reading and when it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Placed {
    /// When.
    pub at: Timestamp,
    /// How that is known.
    pub known: Known,
    /// The reading.
    pub reading: Reading,
}

/// Where a time comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The meter's own clock.
    Meter,
    /// The relay's synchronised clock.
    Relay,
    /// Between its neighbours.
    Neighbours,
}

impl Known {
    /// As in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Meter => "meter",
            Self::Relay => "relay",
            Self::Neighbours => "neighbours",
        }
    }
}

/// Takes the readings of one meter in order.
#[derive(Debug, Default)]
pub struct Placer {
    last: Option<Timestamp>,
    waiting: Vec<Reading>,
}

impl Placer {
    /// Takes a reading, and adds what now has a time to `placed`.
    pub fn push(&mut self, reading: Reading, placed: &mut VecDeque<Placed>) {
        let Some(at) = reading.at else {
            if self.last.is_some() && self.waiting.len() < WAITING_MAX {
                self.waiting.push(reading);
            }
            return;
        };
        if let Some(last) = self.last.replace(at) {
            placed.extend(between(last, at, self.waiting.drain(..)));
        }
        let known = if reading.ts == Some(at) {
            Known::Meter
        } else {
            Known::Relay
        };
        placed.push_back(Placed { at, known, reading });
    }
}

fn between(
    last: Timestamp,
    next: Timestamp,
    waiting: impl ExactSizeIterator<Item = Reading>,
) -> impl Iterator<Item = Placed> {
    let steps = i64::try_from(waiting.len())
        .unwrap_or(i64::MAX)
        .saturating_add(1);
    let total = next.duration_since(last).as_micros();
    (1_i64..).zip(waiting).map(move |(step, reading)| {
        let micros = total.saturating_mul(i128::from(step)) / i128::from(steps);
        let after = SignedDuration::from_micros(i64::try_from(micros).unwrap_or(0));
        Placed {
            at: last.saturating_add(after).unwrap_or(last),
            known: Known::Neighbours,
            reading,
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn reading(sequence: i64, at: Option<&str>) -> Reading {
        let at = at.map(|text| text.parse().unwrap());
        Reading {
            meter: "m".to_owned(),
            topic: "t".to_owned(),
            client_id: "c".to_owned(),
            epoch: "0000abcd".to_owned(),
            sequence,
            clock: "synchronised".to_owned(),
            received_at: at,
            ts: at,
            at,
            power_kw: None,
            energy_kwh: None,
            voltage_v: None,
        }
    }

    #[test]
    fn a_reading_without_a_time_is_between_its_neighbours() {
        let mut placer = Placer::default();
        let mut out = VecDeque::new();
        for reading in [
            reading(1, None),
            reading(2, Some("2026-01-01T00:00:00Z")),
            reading(3, None),
            reading(4, None),
            reading(5, Some("2026-01-01T03:00:00Z")),
            reading(6, None),
        ] {
            placer.push(reading, &mut out);
        }
        let seen: Vec<_> = out
            .iter()
            .map(|p| format!("{} {} {}", p.reading.sequence, p.at, p.known.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                "2 2026-01-01T00:00:00Z meter",
                "3 2026-01-01T01:00:00Z neighbours",
                "4 2026-01-01T02:00:00Z neighbours",
                "5 2026-01-01T03:00:00Z meter",
            ]
        );
    }
}
