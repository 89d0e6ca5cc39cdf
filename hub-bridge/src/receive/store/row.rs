//! A reading as a row that PostgreSQL takes for sure.
//!
//! Texts there hold no NUL and times have bounds: what does not fit is put into a form that does, and `unmapped` says
//! so. The payload is always whole, and the digest is of what the meter sent.

use std::borrow::Cow;

use crate::clock::{ClockQuality, UnixMillis};
use crate::hub::config::MappingSettings;
use crate::reading::PublishProperties;
use crate::receive::mapping::{self, Mapped};
use crate::wire::digest::{self, Digest};

use super::Incoming;

/// The years 1 to 9999, in microseconds since 1970.
const CALENDAR_US: std::ops::RangeInclusive<i64> =
    -62_135_596_800_000_000..=253_402_300_799_999_999;

/// Whether a time, in microseconds since 1970, is within the years 1 to 9999: what everybody's calendar holds.
pub(crate) fn calendar_holds(time_us: i64) -> bool {
    CALENDAR_US.contains(&time_us)
}

/// A row of `readings`.
#[derive(Debug, Clone)]
pub(super) struct Row<'a> {
    pub(super) incoming: &'a Incoming,
    pub(super) sequence: i64,
    pub(super) topic: Cow<'a, str>,
    pub(super) client_id: Cow<'a, str>,
    /// Microseconds since 1970.
    pub(super) received_us: i64,
    pub(super) clock: ClockQuality,
    pub(super) digest: Digest,
    pub(super) properties: Option<String>,
    pub(super) repeat_of: Option<i64>,
    pub(super) mapped: Mapped,
}

impl<'a> Row<'a> {
    /// `None` where no table holds the sequence: 0, or above what a `bigint` range can end with.
    pub(super) fn new(incoming: &'a Incoming, mapping: &MappingSettings) -> Option<Self> {
        let reading = &incoming.reading;
        let sequence = i64::try_from(reading.sequence.0).ok()?;
        if sequence == 0 || sequence == i64::MAX {
            return None;
        }
        let mut odd = Vec::new();
        let topic = without_nul(&reading.topic, "topic", &mut odd);
        let client_id = without_nul(&reading.client_id, "client id", &mut odd);
        let properties = properties(reading.properties.as_deref(), &mut odd);
        let (received_us, clock) = time(reading.at, reading.clock, &mut odd);
        let mut mapped = mapping::map(mapping, &reading.payload);
        odd.extend(mapped.unmapped.take());
        mapped.unmapped = (!odd.is_empty()).then(|| odd.join("; "));
        Some(Self {
            incoming,
            sequence,
            topic,
            client_id,
            received_us,
            clock,
            digest: digest::of_reading(&reading.topic, &reading.payload),
            properties,
            repeat_of: reading.repeat_of.and_then(|s| i64::try_from(s.0).ok()),
            mapped,
        })
    }

    /// Takes the time of a copy of this reading where that is to be trusted and this one's is not.
    pub(super) fn improve(&mut self, copy: &Self) -> bool {
        let better =
            self.clock == ClockQuality::Unsynchronised && copy.clock == ClockQuality::Synchronised;
        if better {
            self.received_us = copy.received_us;
            self.clock = copy.clock;
        }
        better
    }

    /// With nothing in it that a database could stumble over, but for the payload.
    pub(super) fn stripped(mut self, why: &str) -> Self {
        let why: String = why.chars().filter(|c| *c != '\0').take(500).collect();
        self.properties = None;
        self.mapped = Mapped {
            unmapped: Some(format!("stored without its columns: {why}")),
            ..Mapped::default()
        };
        self
    }
}

pub(super) fn clock_word(clock: ClockQuality) -> &'static str {
    match clock {
        ClockQuality::Synchronised => "synchronised",
        ClockQuality::Unsynchronised => "unsynchronised",
    }
}

fn without_nul<'a>(text: &'a str, what: &str, odd: &mut Vec<String>) -> Cow<'a, str> {
    if text.contains('\0') {
        odd.push(format!("a NUL in the {what}"));
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

fn properties(own: Option<&PublishProperties>, odd: &mut Vec<String>) -> Option<String> {
    let own = own.filter(|own| !own.is_empty())?;
    let json = serde_json::to_value(own).ok()?;
    let (json, had_nul) = replace_nul(json);
    if had_nul {
        odd.push("a NUL in the properties".to_owned());
    }
    serde_json::to_string(&json).ok()
}

fn replace_nul(mut json: serde_json::Value) -> (serde_json::Value, bool) {
    use serde_json::Value;
    let had_nul = match &mut json {
        Value::String(text) if text.contains('\0') => {
            *text = text.replace('\0', "\u{fffd}");
            true
        }
        Value::Array(items) => items.iter_mut().fold(false, |had, item| {
            let (clean, nul) = replace_nul(item.take());
            *item = clean;
            had | nul
        }),
        // The names in it are ours.
        Value::Object(fields) => fields.values_mut().fold(false, |had, field| {
            let (clean, nul) = replace_nul(field.take());
            *field = clean;
            had | nul
        }),
        _ => false,
    };
    (json, had_nul)
}

/// What no calendar holds is 1970, and not to be trusted.
fn time(at: UnixMillis, clock: ClockQuality, odd: &mut Vec<String>) -> (i64, ClockQuality) {
    let us = at.0.checked_mul(1000).filter(|us| calendar_holds(*us));
    if let Some(us) = us {
        return (us, clock);
    }
    odd.push(format!("received at {at} ms, which no calendar holds"));
    (0, ClockQuality::Unsynchronised)
}
