//! Readings become a frame: what they share as tables, then a column for each thing that readings have.

use std::collections::HashMap;
use std::sync::Arc;

use super::bytes::{put_bytes, put_varint, signed};
use super::column::{LEVEL, Writer, compress};
use super::shapes::{Shapes, WHOLE};
use super::tables::{Numbered, Turns, put_properties, put_texts};
use super::{
    Carried, DICTIONARIES, Frame, FrameError, MAGIC, PAYLOAD_BYTES_MAX, READINGS_MAX, SEQUENCE_MAX,
    VERSION,
};
use crate::identity::Sequence;

/// The frame as bytes. The same readings always give the same bytes, from the same version of zstd.
///
/// # Errors
/// [`FrameError::Readings`], [`FrameError::TooLarge`].
pub fn encode(frame: &Frame) -> Result<Vec<u8>, FrameError> {
    let readings = &frame.readings;
    let first = check(readings)?;
    let mut writer = Writer::default();
    put_readings(readings, &mut writer);
    let (dictionary, plan) = pack_plan(&writer.plan);
    let mut out = MAGIC.to_vec();
    out.extend([VERSION, dictionary]);
    put_bytes(&mut out, frame.village.as_str().as_bytes());
    out.extend(frame.epoch.0.to_be_bytes());
    put_varint(&mut out, first.0);
    put_varint(&mut out, readings.len() as u64);
    put_varint(&mut out, writer.plan.len() as u64);
    put_bytes(&mut out, &plan);
    out.append(&mut writer.body);
    let checksum = crc32fast::hash(&out);
    out.extend(checksum.to_le_bytes());
    Ok(out)
}

/// The first sequence, where a frame can hold `readings`.
fn check(readings: &[Carried]) -> Result<Sequence, FrameError> {
    let ascending = readings.windows(2).all(|pair| match pair {
        [before, after] => before.sequence < after.sequence,
        _ => false,
    });
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else {
        return Err(FrameError::Readings);
    };
    let counts = first.sequence.0 > 0 && last.sequence.0 <= SEQUENCE_MAX;
    if !ascending || readings.len() > READINGS_MAX || !counts {
        return Err(FrameError::Readings);
    }
    let size: usize = readings.iter().map(Carried::size_bytes).sum();
    if size > PAYLOAD_BYTES_MAX && readings.len() > 1 {
        return Err(FrameError::TooLarge(size));
    }
    Ok(first.sequence)
}

/// The shortest of: packed without a dictionary, packed with each.
fn pack_plan(plan: &[u8]) -> (u8, Vec<u8>) {
    let mut best = (0, compress(plan, LEVEL).unwrap_or_default());
    for (number, dictionary) in (1..).zip(DICTIONARIES) {
        let packed = zstd::bulk::Compressor::with_dictionary(LEVEL, dictionary)
            .and_then(|mut compressor| compressor.compress(plan));
        if let Ok(packed) = packed
            && packed.len() < best.1.len()
        {
            best = (number, packed);
        }
    }
    best
}

/// What readings share, and which of it each has.
struct Shared {
    clients: Numbered<Arc<str>>,
    topics: Numbered<Arc<str>>,
    /// Numbers of a client and a topic.
    pairs: Numbered<(usize, usize)>,
    sets: Numbered<Vec<u8>>,
    /// The series of each reading.
    series: Vec<usize>,
    /// The set of each reading that has properties.
    sets_used: Vec<i64>,
}

impl Shared {
    fn find(readings: &[Carried]) -> Self {
        let mut shared = Self {
            clients: Numbered::new(),
            topics: Numbered::new(),
            pairs: Numbered::new(),
            sets: Numbered::new(),
            series: Vec::with_capacity(readings.len()),
            sets_used: Vec::new(),
        };
        for reading in readings {
            let names = (
                shared.clients.number(&reading.client_id),
                shared.topics.number(&reading.topic),
            );
            shared.series.push(shared.pairs.number(&names));
            if let Some(properties) = &reading.properties {
                let set = shared.sets.number(&put_properties(properties));
                shared.sets_used.push(signed(set));
            }
        }
        shared
    }

    fn put_tables(&self, plan: &mut Vec<u8>) {
        put_texts(plan, &self.clients.values);
        put_texts(plan, &self.topics.values);
        put_varint(plan, self.pairs.values.len() as u64);
        for (client, topic) in &self.pairs.values {
            put_varint(plan, *client as u64);
            put_varint(plan, *topic as u64);
        }
        put_varint(plan, self.sets.values.len() as u64);
        for set in &self.sets.values {
            put_bytes(plan, set);
        }
    }
}

fn put_readings(readings: &[Carried], writer: &mut Writer) {
    let shared = Shared::find(readings);
    let series = &shared.series;
    let payloads: Vec<&[u8]> = readings.iter().map(|r| r.payload.as_ref()).collect();
    let shapes = Shapes::find(&payloads, series);
    shared.put_tables(&mut writer.plan);
    shapes.put_table(&mut writer.plan);

    writer.numbers(&gaps(readings));
    let mut turns = Turns::default();
    let codes: Vec<i64> = series.iter().map(|n| turns.code(*n)).collect();
    writer.numbers(&codes);
    writer.numbers(&shape_codes(&shapes.of_reading, series));
    let flags: Vec<i64> = readings.iter().map(|r| r.flags().into()).collect();
    writer.numbers(&flags);
    let at: Vec<i64> = readings.iter().map(|r| r.at.0).collect();
    writer.numbers(&at);
    writer.numbers(&shared.sets_used);
    let repeat = |r: &Carried| Some(r.sequence.0.wrapping_sub(r.repeat_of?.0).cast_signed());
    let repeats: Vec<i64> = readings.iter().filter_map(repeat).collect();
    writer.numbers(&repeats);
    shapes.put_columns(series, writer);
    put_whole(&payloads, &shapes.of_reading, writer);
}

/// How many sequences are left out before each reading but the first.
fn gaps(readings: &[Carried]) -> Vec<i64> {
    let gap = |pair: &[Carried]| match pair {
        [before, after] => (after.sequence.0 - before.sequence.0 - 1).cast_signed(),
        _ => 0,
    };
    readings.windows(2).map(gap).collect()
}

/// 0 for the shape that the series had last, else the shape and one.
fn shape_codes(shapes: &[usize], series: &[usize]) -> Vec<i64> {
    let mut last = HashMap::new();
    let code = |(shape, series): (&usize, &usize)| {
        let same = last.insert(*series, *shape).unwrap_or(WHOLE) == *shape;
        if same { 0 } else { signed(*shape) + 1 }
    };
    shapes.iter().zip(series).map(code).collect()
}

/// The payloads that have no shape.
fn put_whole(payloads: &[&[u8]], shapes: &[usize], writer: &mut Writer) {
    let of_shapes = payloads.iter().zip(shapes);
    let whole: Vec<&[u8]> = of_shapes
        .filter(|(_, shape)| **shape == WHOLE)
        .map(|(payload, _)| *payload)
        .collect();
    let lengths: Vec<i64> = whole.iter().map(|payload| signed(payload.len())).collect();
    writer.numbers(&lengths);
    writer.bytes(&whole.concat());
}
