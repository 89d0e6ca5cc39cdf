//! Frames: many readings of one epoch in one message.
//!
//! ```text
//! frame     "ERF" version(1) dictionary(1) village(length, bytes) epoch(4) first(varint) count(varint)
//!           plan_raw(varint) plan_stored(varint) plan body crc32(4)
//! plan      zstd of: clients, topics, series, properties, shapes, and a description of each column
//! body      the columns that are too long for the plan, each raw or zstd, in the order of their descriptions
//! ```
//!
//! What repeats is said once (`tables`), payloads are taken apart into texts and numbers (`number`, `shapes`), and what
//! counts up becomes columns of differences (`column`). The whole specification, for who writes a receiver in another
//! language, is `docs/frame-format.md`. Invariant: payloads come back byte for byte, and reading takes bounded memory
//! whatever the bytes say.

mod bytes;
mod column;
mod number;
mod shapes;
mod tables;

use std::sync::Arc;

use ::bytes::Bytes;

use self::bytes::{Reader, put_varint};
use self::column::{Columns, LEVEL, Writer};
use self::shapes::{Shapes, WHOLE};
use self::tables::{Numbered, Turns};

use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::{Epoch, Sequence, VillageId};
use crate::reading::PublishProperties;

/// A reading as a frame carries it, with the best time that the relay knew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// Its number within the epoch.
    pub sequence: Sequence,
    /// The topic name the meter published to.
    pub topic: Arc<str>,
    /// The meter's MQTT client id.
    pub client_id: Arc<str>,
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The retain flag it goes with at the hub.
    pub retain: bool,
    /// When the relay received it.
    pub at: UnixMillis,
    /// Whether `at` is to be trusted.
    pub clock: ClockQuality,
    /// The properties of an MQTT 5 PUBLISH that travel on to the hub.
    pub properties: Option<Box<PublishProperties>>,
    /// Where this is a DUP of a reading that is stored already: that one's sequence.
    pub repeat_of: Option<Sequence>,
}

/// Readings of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The village they were received in.
    pub village: VillageId,
    /// The epoch.
    pub epoch: Epoch,
    /// At least one, in order of sequence, none twice.
    pub readings: Vec<Carried>,
}

/// Why bytes are not a frame, or readings cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not begin like a frame.
    #[error("not a frame")]
    NotAFrame,
    /// A later version.
    #[error("a frame of version {0}, and version 1 is known here")]
    Version(u8),
    /// The checksum says that bytes changed.
    #[error("the checksum does not fit")]
    Checksum,
    /// Whole, and yet not written by a relay.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// No readings, or not in order.
    #[error("a frame holds 1 to {READINGS_MAX} readings, in order of sequence, none twice")]
    Readings,
    /// They are too large together.
    #[error("the readings of a frame may take {PAYLOAD_BYTES_MAX} bytes, and these take {0}")]
    TooLarge(usize),
}

/// The most readings in one frame.
pub const READINGS_MAX: usize = 65_536;
/// The most bytes of payloads, topics, clients and properties in one frame, one reading of any size excepted.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// What reading a frame may unpack, in bytes: more than any that was written within the limits above needs.
const UNPACKED_BYTES_MAX: usize = 256 << 20;
const MAGIC: &[u8; 3] = b"ERF";
const VERSION: u8 = 1;
/// Texts that readings of mini-grids are likely to hold, for frames of few readings: a raw content dictionary.
const DICTIONARIES: [&[u8]; 1] = [include_bytes!("dictionary-1.txt")];

const QOS: u8 = 0b11;
const RETAIN: u8 = 1 << 2;
const UNSYNCHRONISED: u8 = 1 << 3;
const PROPERTIES: u8 = 1 << 4;
const REPEAT: u8 = 1 << 5;

/// The frame as bytes. The same readings always give the same bytes, from the same version of zstd.
///
/// # Errors
/// [`FrameError::Readings`], [`FrameError::TooLarge`].
pub fn encode(frame: &Frame) -> Result<Vec<u8>, FrameError> {
    let readings = &frame.readings;
    let ascending = readings.windows(2).all(|pair| match pair {
        [before, after] => before.sequence < after.sequence,
        _ => false,
    });
    let Some(first) = readings.first() else {
        return Err(FrameError::Readings);
    };
    if !ascending || readings.len() > READINGS_MAX || first.sequence.0 == 0 {
        return Err(FrameError::Readings);
    }
    let size: usize = readings.iter().map(Carried::size_bytes).sum();
    if size > PAYLOAD_BYTES_MAX && readings.len() > 1 {
        return Err(FrameError::TooLarge(size));
    }
    let mut writer = Writer::default();
    put_readings(readings, &mut writer);
    let (dictionary, plan) = pack_plan(&writer.plan);
    let village = frame.village.as_str();
    let mut out = MAGIC.to_vec();
    out.extend([VERSION, dictionary]);
    bytes::put_bytes(&mut out, village.as_bytes());
    out.extend(frame.epoch.0.to_be_bytes());
    put_varint(&mut out, first.sequence.0);
    put_varint(&mut out, readings.len() as u64);
    put_varint(&mut out, writer.plan.len() as u64);
    bytes::put_bytes(&mut out, &plan);
    out.append(&mut writer.body);
    let checksum = crc32fast::hash(&out);
    out.extend(checksum.to_le_bytes());
    Ok(out)
}

/// The shortest of: packed without a dictionary, packed with each.
fn pack_plan(plan: &[u8]) -> (u8, Vec<u8>) {
    let mut best = (0, column::compress(plan, LEVEL).unwrap_or_default());
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

fn put_readings(readings: &[Carried], writer: &mut Writer) {
    let (mut clients, mut topics) = (Numbered::new(), Numbered::new());
    let (mut all_series, mut sets) = (Numbered::new(), Numbered::new());
    let (mut series, mut sets_used) = (Vec::new(), Vec::new());
    for reading in readings {
        let names = (
            clients.number(&reading.client_id),
            topics.number(&reading.topic),
        );
        series.push(all_series.number(&names));
        if let Some(properties) = &reading.properties {
            sets_used.push(sets.number(&tables::put_properties(properties)) as i64);
        }
    }
    let payloads: Vec<&[u8]> = readings.iter().map(|r| r.payload.as_ref()).collect();
    let shapes = Shapes::find(&payloads, &series);

    let plan = &mut writer.plan;
    tables::put_texts(plan, &clients.values);
    tables::put_texts(plan, &topics.values);
    put_varint(plan, all_series.values.len() as u64);
    for (client, topic) in &all_series.values {
        put_varint(plan, *client as u64);
        put_varint(plan, *topic as u64);
    }
    put_varint(plan, sets.values.len() as u64);
    sets.values
        .iter()
        .for_each(|set| bytes::put_bytes(plan, set));
    shapes.put_table(plan);

    let gap = |pair: &[Carried]| match pair {
        [before, after] => (after.sequence.0 - before.sequence.0 - 1).cast_signed(),
        _ => 0,
    };
    let gaps: Vec<i64> = readings.windows(2).map(gap).collect();
    writer.numbers(&gaps);
    let mut turns = Turns::default();
    let codes: Vec<i64> = series.iter().map(|n| turns.code(*n)).collect();
    writer.numbers(&codes);
    writer.numbers(&shape_codes(&shapes.of_reading, &series));
    let flags: Vec<i64> = readings.iter().map(|r| r.flags().into()).collect();
    writer.numbers(&flags);
    let at: Vec<i64> = readings.iter().map(|r| r.at.0).collect();
    writer.numbers(&at);
    writer.numbers(&sets_used);
    let repeat = |r: &Carried| Some(r.sequence.0.wrapping_sub(r.repeat_of?.0).cast_signed());
    let repeats: Vec<i64> = readings.iter().filter_map(repeat).collect();
    writer.numbers(&repeats);
    shapes.put_columns(&series, writer);

    let whole = |(n, _): &(usize, &&[u8])| shapes.of_reading.get(*n) == Some(&WHOLE);
    let whole: Vec<&[u8]> = payloads
        .iter()
        .enumerate()
        .filter(whole)
        .map(|(_, p)| *p)
        .collect();
    let lengths: Vec<i64> = whole.iter().map(|payload| payload.len() as i64).collect();
    writer.numbers(&lengths);
    writer.bytes(&whole.concat());
}

/// 0 for the shape that the series had last, else the shape and one.
fn shape_codes(shapes: &[usize], series: &[usize]) -> Vec<i64> {
    let mut last = std::collections::HashMap::new();
    let code = |(shape, series): (&usize, &usize)| {
        let same = last.insert(*series, *shape).unwrap_or(WHOLE) == *shape;
        if same { 0 } else { *shape as i64 + 1 }
    };
    shapes.iter().zip(series).map(code).collect()
}

impl Carried {
    fn flags(&self) -> u8 {
        let flag = |there: bool, flag: u8| if there { flag } else { 0 };
        self.qos & QOS
            | flag(self.retain, RETAIN)
            | flag(self.clock == ClockQuality::Unsynchronised, UNSYNCHRONISED)
            | flag(self.properties.is_some(), PROPERTIES)
            | flag(self.repeat_of.is_some(), REPEAT)
    }

    /// About how many bytes it takes unpacked: what [`PAYLOAD_BYTES_MAX`] counts.
    pub fn size_bytes(&self) -> usize {
        let properties = self.properties.as_ref().map_or(0, |p| p.size_bytes());
        self.payload.len() + self.topic.len() + self.client_id.len() + properties
    }
}

/// Reads a frame. Bounded in memory whatever the bytes say.
///
/// # Errors
/// Where it is none, or was damaged.
pub fn decode(frame: &[u8]) -> Result<Frame, FrameError> {
    let mut from = Reader(frame);
    let head = from.take(MAGIC.len()).map_err(|_| FrameError::NotAFrame)?;
    if head != MAGIC {
        return Err(FrameError::NotAFrame);
    }
    let version = from.byte()?;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let (whole, checksum) = frame.split_at(frame.len().saturating_sub(4));
    if crc32fast::hash(whole).to_le_bytes() != *checksum {
        return Err(FrameError::Checksum);
    }
    from.0 = from
        .0
        .get(..from.0.len().saturating_sub(4))
        .unwrap_or_default();
    let dictionary = from.byte()?;
    let village = from.text()?.parse();
    let village = village.map_err(|_| FrameError::Damaged("a village id that none can have"))?;
    let mut epoch = [0; 4];
    epoch.copy_from_slice(from.take(4)?);
    let first = from.varint()?;
    let count = from.size(READINGS_MAX)?;
    let plan_len = from.size(UNPACKED_BYTES_MAX)?;
    let plan = unpack_plan(dictionary, from.bytes()?, plan_len)?;
    let mut columns = Columns {
        plan: Reader(&plan),
        body: from,
        left: UNPACKED_BYTES_MAX - plan_len,
    };
    let readings = take_readings(first, count, &mut columns)?;
    if readings.is_empty() || !columns.plan.0.is_empty() || !columns.body.0.is_empty() {
        return Err(FrameError::Damaged("more or less than it says"));
    }
    Ok(Frame {
        village,
        epoch: Epoch(u32::from_be_bytes(epoch)),
        readings,
    })
}

fn unpack_plan(dictionary: u8, packed: &[u8], len: usize) -> Result<Vec<u8>, FrameError> {
    let Some(number) = usize::from(dictionary).checked_sub(1) else {
        return column::decompress(packed, len);
    };
    let dictionary = DICTIONARIES
        .get(number)
        .ok_or(FrameError::Damaged("an unknown dictionary"))?;
    zstd::bulk::Decompressor::with_dictionary(dictionary)
        .and_then(|mut decompressor| decompressor.decompress(packed, len))
        .map_err(|_| FrameError::Damaged("a plan that cannot be unpacked"))
}

fn take_readings(
    first: u64,
    count: usize,
    columns: &mut Columns<'_>,
) -> Result<Vec<Carried>, FrameError> {
    let clients = tables::texts(&mut columns.plan)?;
    let topics = tables::texts(&mut columns.plan)?;
    let all_series = take_series(&clients, &topics, &mut columns.plan)?;
    let sets = columns.plan.size(columns.plan.0.len())?;
    let sets: Result<Vec<_>, _> = (0..sets)
        .map(|_| tables::properties(columns.plan.bytes()?))
        .collect();
    let sets = sets?;
    let shapes = shapes::table(&mut columns.plan)?;

    let gaps = columns.numbers(count.saturating_sub(1))?;
    let mut turns = Turns::default();
    let codes = columns.numbers(count)?.into_iter();
    let series: Result<Vec<usize>, _> = codes
        .map(|code| turns.series(code, all_series.len()))
        .collect();
    let series = series?;
    let shape_of = take_shapes(&columns.numbers(count)?, &series, shapes.len())?;
    let flags = columns.numbers(count)?;
    let at = columns.numbers(count)?;
    let flagged = |flag: u8| flags.iter().filter(|f| *f & i64::from(flag) != 0).count();
    let mut sets_used = columns.numbers(flagged(PROPERTIES))?.into_iter();
    let mut repeats = columns.numbers(flagged(REPEAT))?.into_iter();
    let mut payloads = take_payloads(&shapes, &shape_of, &series, columns)?.into_iter();

    let mut readings = Vec::with_capacity(count);
    let mut sequence = first;
    let mut gaps = gaps.into_iter();
    for ((series, flags), at) in series.iter().zip(&flags).zip(at) {
        if !readings.is_empty() {
            sequence = step(sequence, gaps.next())?;
        }
        let (client_id, topic) = all_series.get(*series).ok_or(INCOMPLETE)?.clone();
        let flags = u8::try_from(*flags).map_err(|_| FrameError::Damaged("unknown flags"))?;
        let flag = |flag: u8| flags & flag != 0;
        let mut properties = None;
        if flag(PROPERTIES) {
            let set = sets_used.next().and_then(|n| usize::try_from(n).ok());
            let set = set.and_then(|n| sets.get(n)).ok_or(INCOMPLETE)?;
            columns.allow(set.size_bytes())?;
            properties = Some(Box::new(set.clone()));
        }
        let mut repeat_of = None;
        if flag(REPEAT) {
            let distance = repeats.next().ok_or(INCOMPLETE)?.cast_unsigned();
            repeat_of = Some(Sequence(sequence.wrapping_sub(distance)));
        }
        readings.push(Carried {
            sequence: Sequence(sequence),
            topic,
            client_id,
            payload: payloads.next().ok_or(INCOMPLETE)?.into(),
            qos: flags & QOS,
            retain: flag(RETAIN),
            at: UnixMillis(at),
            clock: if flag(UNSYNCHRONISED) {
                ClockQuality::Unsynchronised
            } else {
                ClockQuality::Synchronised
            },
            properties,
            repeat_of,
        });
    }
    Ok(readings)
}

const INCOMPLETE: FrameError = FrameError::Damaged("a reading without all its parts");

fn step(sequence: u64, gap: Option<i64>) -> Result<u64, FrameError> {
    let gap = gap.and_then(|gap| u64::try_from(gap).ok());
    let next = gap.and_then(|gap| sequence.checked_add(gap)?.checked_add(1));
    next.ok_or(FrameError::Damaged("sequences out of order"))
}

/// Client and topic of each series.
fn take_series(
    clients: &[Arc<str>],
    topics: &[Arc<str>],
    plan: &mut Reader<'_>,
) -> Result<Vec<(Arc<str>, Arc<str>)>, FrameError> {
    let count = plan.size(plan.0.len())?;
    let mut series = Vec::new();
    for _ in 0..count {
        let client = clients.get(plan.size(clients.len())?).ok_or(INCOMPLETE)?;
        let topic = topics.get(plan.size(topics.len())?).ok_or(INCOMPLETE)?;
        series.push((Arc::clone(client), Arc::clone(topic)));
    }
    Ok(series)
}

fn take_shapes(codes: &[i64], series: &[usize], count: usize) -> Result<Vec<usize>, FrameError> {
    let mut last = std::collections::HashMap::new();
    let mut shapes = Vec::with_capacity(codes.len());
    for (code, series) in codes.iter().zip(series) {
        let same = last.get(series).copied().unwrap_or(WHOLE);
        let shape = match usize::try_from(*code) {
            Ok(0) => same,
            Ok(code) if code <= count + 1 => code - 1,
            _ => return Err(FrameError::Damaged("a shape that is not in the table")),
        };
        last.insert(*series, shape);
        shapes.push(shape);
    }
    Ok(shapes)
}

fn take_payloads(
    shapes: &[shapes::ReadShape<'_>],
    shape_of: &[usize],
    series: &[usize],
    columns: &mut Columns<'_>,
) -> Result<Vec<Vec<u8>>, FrameError> {
    let mut payloads = vec![Vec::new(); shape_of.len()];
    let members_of = |shape: usize| {
        let all = shape_of.iter().enumerate();
        all.filter(move |(_, of)| **of == shape).map(|(n, _)| n)
    };
    for (number, shape) in shapes.iter().enumerate() {
        let members = shapes::by_series(members_of(number + 1), series);
        shape.payloads(&members, series, columns, |member, payload| {
            if let Some(place) = payloads.get_mut(member) {
                *place = payload;
            }
        })?;
    }
    let lengths = columns.numbers(members_of(WHOLE).count())?;
    let whole = columns.bytes()?;
    let mut whole = Reader(&whole);
    for (member, len) in members_of(WHOLE).zip(lengths) {
        let len = usize::try_from(len).map_err(|_| INCOMPLETE)?;
        let bytes = whole.take(len)?.to_vec();
        if let Some(place) = payloads.get_mut(member) {
            *place = bytes;
        }
    }
    if whole.0.is_empty() {
        Ok(payloads)
    } else {
        Err(INCOMPLETE)
    }
}

#[cfg(test)]
mod tests;
