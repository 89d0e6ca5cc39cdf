//! The report's tables: their columns, and how figures become rows. The names are documented in
//! `docs/audit-and-report.md`, and stay.

use jiff::Timestamp;

use super::calendar::{Calendar, Period};
use super::column::Kind::{Day, Instant, Integer, Number, Text};
use super::column::{Column, Value, column};
use super::place::Placed;
use super::roles::Role;
use super::segment::seconds_between;
use super::sums::{MeterPeriod, MeterSums, Method};
use super::trend::{Trend, change_pct};
use super::village::{VillagePeriod, VillageSums};

/// A meter's period.
pub const METER_PERIODS: &[Column] = &[
    column("village", Text),
    column("meter", Text),
    column("role", Text),
    column("first_day", Day),
    column("last_day", Day),
    column("hours", Number),
    column("energy_kwh", Number),
    column("change_pct", Number),
    column("method", Text),
    column("peak_kw", Number),
    column("readings", Integer),
    column("expected", Integer),
    column("completeness_pct", Number),
    column("covered_pct", Number),
];

/// A village's period.
pub const VILLAGE_PERIODS: &[Column] = &[
    column("village", Text),
    column("first_day", Day),
    column("last_day", Day),
    column("hours", Number),
    column("generation_kwh", Number),
    column("consumption_kwh", Number),
    column("generation_change_pct", Number),
    column("consumption_change_pct", Number),
    column("generation_peak_kw", Number),
    column("consumption_peak_kw", Number),
    column("method", Text),
    column("meters", Integer),
    column("readings", Integer),
    column("expected", Integer),
    column("completeness_pct", Number),
];

/// A meter over the whole range.
pub const METERS: &[Column] = &[
    column("village", Text),
    column("meter", Text),
    column("role", Text),
    column("topic", Text),
    column("energy_kwh", Number),
    column("method", Text),
    column("trend_kwh", Number),
    column("trend_pct", Number),
    column("peak_kw", Number),
    column("readings", Integer),
    column("expected", Integer),
    column("completeness_pct", Number),
    column("interval_s", Number),
    column("newest_at", Instant),
    column("age_s", Number),
    column("resets", Integer),
    column("glitches", Integer),
    column("jumps", Integer),
];

/// A village over the whole range.
pub const VILLAGES: &[Column] = &[
    column("village", Text),
    column("time_zone", Text),
    column("generation_kwh", Number),
    column("consumption_kwh", Number),
    column("generation_trend_kwh", Number),
    column("generation_trend_pct", Number),
    column("consumption_trend_kwh", Number),
    column("consumption_trend_pct", Number),
    column("generation_peak_kw", Number),
    column("consumption_peak_kw", Number),
    column("meters", Integer),
    column("meters_silent", Integer),
    column("readings", Integer),
    column("expected", Integer),
    column("completeness_pct", Number),
    column("sequences", Integer),
    column("sequences_stored", Integer),
    column("sequences_pct", Number),
    column("newest_at", Instant),
    column("age_s", Number),
];

/// A reading, as it is for those who train models.
pub const READINGS: &[Column] = &[
    column("village", Text),
    column("meter", Text),
    column("role", Text),
    column("at", Instant),
    column("at_from", Text),
    column("power_kw", Number),
    column("energy_kwh", Number),
    column("voltage_v", Number),
    column("ts", Instant),
    column("received_at", Instant),
    column("clock", Text),
    column("epoch", Text),
    column("sequence", Integer),
    column("topic", Text),
    column("client_id", Text),
];

/// Who a meter's rows are of.
#[derive(Debug, Clone)]
pub struct MeterName {
    /// The village.
    pub village: String,
    /// The meter.
    pub meter: String,
    /// The topic of its first reading in the range.
    pub topic: String,
    /// Its role.
    pub role: Role,
}

/// What an age is counted to, and what a trend is taken over.
#[derive(Debug, Clone, Copy)]
pub struct AsOf<'a> {
    /// The periods.
    pub calendar: &'a Calendar,
    /// Now, or the end of the range if that is earlier.
    pub until: Timestamp,
}

impl AsOf<'_> {
    fn age_s(&self, newest: Option<Timestamp>) -> Value {
        Value::number(newest.map(|newest| seconds_between(newest, self.until).max(0.0)))
    }

    /// Figures of the periods that are over: what has only begun would pull a trend down.
    fn over<T>(&self, figures: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        let periods = self.calendar.periods().iter();
        let whole = periods
            .zip(figures)
            .filter(|(period, _)| period.end <= self.until);
        whole.map(|(_, figure)| figure)
    }
}

/// A row of [`METER_PERIODS`] for each period.
pub fn meter_periods<'a>(
    name: &'a MeterName,
    sums: &'a MeterSums,
    calendar: &'a Calendar,
) -> impl Iterator<Item = Vec<Value>> + 'a {
    let before = std::iter::once(None).chain(sums.periods.iter().map(|period| period.kwh));
    let periods = calendar.periods().iter().zip(&sums.periods).zip(before);
    periods.map(|((period, own), before)| {
        let [first_day, last_day, hours] = span(period);
        vec![
            Value::text(&name.village),
            Value::text(&name.meter),
            Value::text(name.role.as_str()),
            first_day,
            last_day,
            hours,
            Value::number(own.kwh),
            Value::number(change_pct(before, own.kwh)),
            method(own.method),
            Value::number(own.peak_kw),
            Value::count(own.readings),
            whole(own.expected),
            Value::number(completeness_pct(own.kept(), own.expected)),
            Value::number(own.covered_s / period.seconds() * 100.0),
        ]
    })
}

/// A row of [`VILLAGE_PERIODS`] for each period.
pub fn village_periods<'a>(
    village: &'a str,
    sums: &'a VillageSums,
    calendar: &'a Calendar,
) -> impl Iterator<Item = Vec<Value>> + 'a {
    let before = std::iter::once(None).chain(sums.periods.iter().map(Some));
    let periods = calendar.periods().iter().zip(&sums.periods).zip(before);
    periods.map(move |((period, own), before)| {
        let [first_day, last_day, hours] = span(period);
        let change = |of: fn(&VillagePeriod) -> Option<f64>| {
            Value::number(change_pct(before.and_then(of), of(own)))
        };
        vec![
            Value::text(village),
            first_day,
            last_day,
            hours,
            Value::number(own.generation_kwh),
            Value::number(own.consumption_kwh),
            change(|p| p.generation_kwh),
            change(|p| p.consumption_kwh),
            Value::number(sums.generation_quarters.peak_kw(calendar, period)),
            Value::number(sums.consumption_quarters.peak_kw(calendar, period)),
            method(own.method),
            Value::count(own.meters),
            Value::count(own.readings),
            whole(own.expected),
            Value::number(completeness_pct(own.kept, own.expected)),
        ]
    })
}

/// A row of [`METERS`].
pub fn meter(name: &MeterName, sums: &MeterSums, as_of: AsOf<'_>) -> Vec<Value> {
    let periods = &sums.periods;
    let trend = Trend::of(as_of.over(periods.iter().map(|period| period.kwh)));
    let readings = periods.iter().map(|period| period.readings).sum();
    let expected = sum(periods.iter().map(|period| period.expected));
    let kept = periods.iter().map(MeterPeriod::kept).sum();
    let methods = periods.iter().filter_map(|period| period.method);
    vec![
        Value::text(&name.village),
        Value::text(&name.meter),
        Value::text(name.role.as_str()),
        Value::text(&name.topic),
        Value::number(sum(periods.iter().map(|period| period.kwh))),
        method(methods.reduce(|one, other| one.and(Some(other)))),
        Value::number(trend.map(|trend| trend.slope)),
        Value::number(trend.and_then(|trend| trend.slope_pct())),
        Value::number(
            periods
                .iter()
                .filter_map(|period| period.peak_kw)
                .reduce(f64::max),
        ),
        Value::count(readings),
        whole(expected),
        Value::number(completeness_pct(kept, expected)),
        Value::number(sums.interval_s),
        sums.newest.into(),
        as_of.age_s(sums.newest),
        Value::count(sums.oddities.resets),
        Value::count(sums.oddities.glitches),
        Value::count(sums.oddities.jumps),
    ]
}

/// How many sequences there are of a village, and how many are rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sequences {
    /// Given out in the village, as far as is known here, all epochs.
    pub given: u64,
    /// Stored.
    pub stored: u64,
}

/// A row of [`VILLAGES`].
pub fn village(
    village: &str,
    zone: &str,
    sums: &VillageSums,
    sequences: Sequences,
    as_of: AsOf<'_>,
) -> Vec<Value> {
    let periods = &sums.periods;
    let trend = |of: fn(&VillagePeriod) -> Option<f64>| {
        let trend = Trend::of(as_of.over(periods.iter().map(of)));
        let pct = trend.and_then(|trend| trend.slope_pct());
        [
            Value::number(trend.map(|trend| trend.slope)),
            Value::number(pct),
        ]
    };
    let peak = |quarters: &super::quarters::Quarters| {
        let peaks = as_of.calendar.periods().iter();
        let peaks = peaks.filter_map(|period| quarters.peak_kw(as_of.calendar, period));
        Value::number(peaks.reduce(f64::max))
    };
    let [generation_trend, generation_pct] = trend(|period| period.generation_kwh);
    let [consumption_trend, consumption_pct] = trend(|period| period.consumption_kwh);
    let readings = periods.iter().map(|period| period.readings).sum();
    let expected = sum(periods.iter().map(|period| period.expected));
    let kept = periods.iter().map(|period| period.kept).sum();
    vec![
        Value::text(village),
        Value::text(zone),
        Value::number(sum(periods.iter().map(|period| period.generation_kwh))),
        Value::number(sum(periods.iter().map(|period| period.consumption_kwh))),
        generation_trend,
        generation_pct,
        consumption_trend,
        consumption_pct,
        peak(&sums.generation_quarters),
        peak(&sums.consumption_quarters),
        Value::count(sums.meters),
        Value::count(sums.meters_silent),
        Value::count(readings),
        whole(expected),
        Value::number(completeness_pct(kept, expected)),
        Value::count(sequences.given),
        Value::count(sequences.stored),
        Value::number(completeness_pct(
            float(sequences.stored),
            Some(float(sequences.given)),
        )),
        sums.newest.into(),
        as_of.age_s(sums.newest),
    ]
}

/// A row of [`READINGS`].
pub fn reading(village: &str, role: Role, placed: Placed) -> Vec<Value> {
    let reading = placed.reading;
    vec![
        Value::text(village),
        Value::Text(reading.meter),
        Value::text(role.as_str()),
        Value::Instant(placed.at),
        Value::text(placed.known.as_str()),
        Value::number(reading.power_kw),
        Value::number(reading.energy_kwh),
        Value::number(reading.voltage_v),
        reading.ts.into(),
        reading.received_at.into(),
        Value::Text(reading.clock),
        Value::Text(reading.epoch),
        Value::Integer(reading.sequence),
        Value::Text(reading.topic),
        Value::Text(reading.client_id),
    ]
}

fn span(period: &Period) -> [Value; 3] {
    [
        Value::Day(period.first_day),
        Value::Day(period.last_day),
        Value::number(period.seconds() / 3600.0),
    ]
}

fn method(method: Option<Method>) -> Value {
    method.map(|method| method.as_str().to_owned()).into()
}

/// The sum of what is known; `None` where nothing is.
fn sum(figures: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    figures.flatten().reduce(|one, other| one + other)
}

fn completeness_pct(kept: f64, expected: Option<f64>) -> Option<f64> {
    let expected = expected.filter(|expected| *expected > 0.0)?;
    Some(kept / expected * 100.0)
}

// Counts are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn float(count: u64) -> f64 {
    count as f64
}

// Whole already, and far below 2^52.
#[allow(clippy::cast_possible_truncation)]
fn whole(number: Option<f64>) -> Value {
    number.map_or(Value::Nothing, |number| Value::Integer(number as i64))
}
