//! What the counters of a village's meters tell of readings that never came, in the order of time.
//!
//! A counter goes on counting whether its readings arrive or not. So a hole between two readings has its energy, and a rise
//! beyond what the meter ever drew means that readings are missing where the times show none.

use std::collections::VecDeque;

use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use serde::Serialize;

use crate::report::counter::{Count, Counter, Event};
use crate::report::interval::Intervals;
use crate::report::place::{Placed, Placer};
use crate::report::segment::{Segment, seconds_between};
use crate::report::source::Readings;

/// So many findings of a village are named, those with the most energy; all are counted.
const NAMED_MAX: usize = 100;
/// A hole is longer than so many of the meter's intervals.
const HOLE_INTERVALS: f64 = 2.5;
/// Readings before a meter's interval and power are known well enough.
const LEARN: u32 = 20;
/// A counter's steps, and a peak between two readings of power, kWh.
const STEP_KWH: f64 = 0.1;

/// What a counter did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It began again from zero.
    Reset,
    /// One reading far off, and back.
    Glitch,
    /// It rose by more than the meter draws: readings are missing, or the counter was changed.
    Jump,
    /// No readings for a time.
    Gap,
}

impl Kind {
    /// As in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Glitch => "glitch",
            Self::Jump => "jump",
            Self::Gap => "gap",
        }
    }
}

/// One thing that a counter did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The meter.
    pub meter: String,
    /// What it was.
    pub kind: Kind,
    /// The reading before.
    pub from: Timestamp,
    /// The reading after.
    pub to: Timestamp,
    /// The counter's difference, kWh: what flowed unseen in a gap.
    pub kwh: f64,
}

/// What the counters of a village did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Findings {
    /// Counters that began again.
    pub resets: u64,
    /// Single readings far off.
    pub glitches: u64,
    /// Rises beyond what a meter draws.
    pub jumps: u64,
    /// Holes in time.
    pub gaps: u64,
    /// What flowed in those, kWh.
    pub gaps_kwh: f64,
    /// At most 100 of all these, the ones with the most energy.
    pub named: Vec<Finding>,
}

/// Reads the counters of a village.
///
/// # Errors
/// Where the database fails.
pub async fn find(
    mut readings: Readings,
    power_kw_max: f64,
) -> Result<Findings, tokio_postgres::Error> {
    let mut findings = Findings::default();
    let mut current: Option<(Placer, Meter)> = None;
    let mut placed: VecDeque<Placed> = VecDeque::new();
    while let Some(reading) = readings.try_next().await? {
        if current
            .as_ref()
            .is_none_or(|(_, meter)| meter.name != reading.meter)
        {
            if let Some((_, meter)) = current.take() {
                meter.finish(&mut findings);
            }
            current = Some((
                Placer::default(),
                Meter::new(reading.meter.clone(), power_kw_max),
            ));
        }
        if let Some((placer, meter)) = &mut current {
            placer.push(reading, &mut placed);
            placed
                .drain(..)
                .for_each(|placed| meter.push(&placed, &mut findings));
        }
    }
    if let Some((_, meter)) = current {
        meter.finish(&mut findings);
    }
    findings.keep_greatest();
    Ok(findings)
}

struct Meter {
    name: String,
    counter: Counter,
    usual: Usual,
}

/// What a meter usually does.
#[derive(Default)]
struct Usual {
    intervals: Intervals,
    seen: u32,
    interval_s: Option<f64>,
    power_kw: f64,
    powers: u32,
}

impl Meter {
    fn new(name: String, power_kw_max: f64) -> Self {
        Self {
            name,
            counter: Counter::new(power_kw_max),
            usual: Usual::default(),
        }
    }

    fn push(&mut self, placed: &Placed, findings: &mut Findings) {
        let Self {
            name,
            counter,
            usual,
        } = self;
        let at = placed.at;
        if let Some(kwh) = placed.reading.energy_kwh {
            let mut tell = |event| findings.hear(name, event, usual);
            counter.push(Count { at, kwh }, &mut tell);
        }
        self.usual.learn(placed);
    }

    fn finish(self, findings: &mut Findings) {
        let Self {
            name,
            counter,
            usual,
        } = self;
        counter.finish(&mut |event| findings.hear(&name, event, &usual));
    }
}

impl Usual {
    fn learn(&mut self, placed: &Placed) {
        self.intervals.push(placed.at);
        self.seen = self.seen.saturating_add(1);
        // The interval is looked for anew as the readings double, not with each.
        if self.seen >= LEARN && self.seen.is_power_of_two() || self.seen == LEARN {
            self.interval_s = self.intervals.typical_s();
        }
        if let Some(kw) = placed.reading.power_kw {
            self.power_kw = self.power_kw.max(kw.abs());
            self.powers = self.powers.saturating_add(1);
        }
    }

    fn kind_of(&self, segment: &Segment) -> Option<Kind> {
        let seconds = segment.seconds();
        let interval_s = self.interval_s?;
        if seconds > HOLE_INTERVALS * interval_s {
            return Some(Kind::Gap);
        }
        let most_kwh = 2.0 * self.power_kw * seconds / 3600.0 + STEP_KWH;
        (self.powers >= LEARN && segment.kwh > most_kwh).then_some(Kind::Jump)
    }
}

impl Findings {
    fn hear(&mut self, meter: &str, event: Event, usual: &Usual) {
        let (kind, from, to, kwh) = match event {
            Event::Energy(segment) => match usual.kind_of(&segment) {
                Some(kind) => (kind, segment.from, segment.to, segment.kwh),
                None => return,
            },
            Event::Reset { before, after } => {
                (Kind::Reset, before.at, after.at, after.kwh - before.kwh)
            }
            Event::Jump { before, after } => {
                (Kind::Jump, before.at, after.at, after.kwh - before.kwh)
            }
            Event::Glitch(count) => (Kind::Glitch, count.at, count.at, count.kwh),
        };
        match kind {
            Kind::Reset => self.resets += 1,
            Kind::Glitch => self.glitches += 1,
            Kind::Jump => self.jumps += 1,
            Kind::Gap => {
                self.gaps += 1;
                self.gaps_kwh += kwh;
            }
        }
        self.named.push(Finding {
            meter: meter.to_owned(),
            kind,
            from,
            to,
            kwh,
        });
        if self.named.len() >= 2 * NAMED_MAX {
            self.keep_greatest();
        }
    }

    fn keep_greatest(&mut self) {
        self.named
            .sort_by(|one, other| other.kwh.abs().total_cmp(&one.kwh.abs()));
        self.named.truncate(NAMED_MAX);
    }
}

/// How long a finding lasted, s.
pub fn seconds(finding: &Finding) -> f64 {
    seconds_between(finding.from, finding.to)
}
