//! A frame becomes readings again. The bytes may be anybody's: what they claim is held against limits before it is believed.

use std::collections::HashMap;
use std::sync::Arc;

use super::bytes::Reader;
use super::column::Columns;
use super::shapes::{self, ReadShape, WHOLE};
use super::tables::{self, Turns};
use super::{
    Carried, DICTIONARIES, Frame, FrameError, MAGIC, PROPERTIES, QOS, READINGS_MAX, REPEAT, RETAIN,
    SEQUENCE_MAX, UNPACKED_BYTES_MAX, UNSYNCHRONISED, VERSION,
};
use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::{Epoch, Sequence};
use crate::reading::PublishProperties;

/// Reads a frame. Bounded in memory whatever the bytes say.
///
/// # Errors
/// Where it is none, or was damaged.
pub fn decode(frame: &[u8]) -> Result<Frame, FrameError> {
    decode_within(frame, UNPACKED_BYTES_MAX)
}

/// Reads a frame that may take so many bytes unpacked. Memory is a small multiple of that: a column that is being unpacked
/// is there twice.
pub(super) fn decode_within(frame: &[u8], unpacked_bytes_max: usize) -> Result<Frame, FrameError> {
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
    if !(1..=SEQUENCE_MAX).contains(&first) {
        return Err(OUT_OF_ORDER);
    }
    if count == 0 {
        return Err(FrameError::Damaged("no readings"));
    }
    let plan_len = from.size(unpacked_bytes_max)?;
    let plan = unpack_plan(dictionary, from.bytes()?, plan_len)?;
    let mut columns = Columns {
        plan: Reader(&plan),
        body: from,
        left: unpacked_bytes_max - plan_len,
    };
    columns.allow(count * size_of::<Carried>())?;
    let readings = take_readings(first, count, &mut columns)?;
    if !columns.plan.0.is_empty() || !columns.body.0.is_empty() {
        return Err(FrameError::Damaged("more or less than it says"));
    }
    Ok(Frame {
        village,
        epoch: Epoch(u32::from_be_bytes(epoch)),
        readings,
    })
}

pub(super) fn unpack_plan(
    dictionary: u8,
    packed: &[u8],
    len: usize,
) -> Result<Vec<u8>, FrameError> {
    let known = match dictionary {
        0 => Some(&[][..]),
        number => DICTIONARIES.get(usize::from(number) - 1).copied(),
    };
    let dictionary = known.ok_or(FrameError::Damaged("an unknown dictionary"))?;
    zstd::bulk::Decompressor::with_dictionary(dictionary)
        .and_then(|mut decompressor| decompressor.decompress(packed, len))
        .ok()
        .filter(|plan| plan.len() == len)
        .ok_or(FrameError::Damaged(
            "a plan that cannot be unpacked, or not to the length it says",
        ))
}

/// What the plan says that readings share.
struct Shared<'a> {
    series: Vec<Series>,
    sets: Vec<PublishProperties>,
    shapes: Vec<ReadShape<'a>>,
}

/// A client and a topic.
type Series = (Arc<str>, Arc<str>);

impl<'a> Shared<'a> {
    /// No table has more entries than the frame has readings: each is there for one of them.
    fn take(count: usize, columns: &mut Columns<'a>) -> Result<Self, FrameError> {
        let clients = tables::texts(count, &mut columns.plan)?;
        let topics = tables::texts(count, &mut columns.plan)?;
        let series = take_series(count, &clients, &topics, &mut columns.plan)?;
        let mut sets = Vec::new();
        for _ in 0..columns.plan.size(count)? {
            let set = columns.plan.bytes()?;
            sets.push(tables::properties(set, &mut |bytes| columns.allow(bytes))?);
        }
        Ok(Self {
            series,
            sets,
            shapes: shapes::table(count, columns)?,
        })
    }
}

/// What each reading has, column by column.
struct Each {
    gaps: Vec<i64>,
    series: Vec<usize>,
    flags: Vec<u8>,
    at: Vec<i64>,
    sets_used: Vec<i64>,
    repeats: Vec<i64>,
    payloads: Vec<Vec<u8>>,
}

impl Each {
    fn take(
        count: usize,
        shared: &Shared<'_>,
        columns: &mut Columns<'_>,
    ) -> Result<Self, FrameError> {
        let gaps = columns.numbers(count.saturating_sub(1))?;
        let mut turns = Turns::default();
        let codes = columns.numbers(count)?.into_iter();
        let series: Result<Vec<usize>, _> = codes
            .map(|code| turns.series(code, shared.series.len()))
            .collect();
        let series = series?;
        let shape_of = take_shapes(&columns.numbers(count)?, &series, shared.shapes.len())?;
        let flags = columns.numbers(count)?.into_iter().map(known_flags);
        let flags = flags.collect::<Result<Vec<u8>, _>>()?;
        let at = columns.numbers(count)?;
        let flagged = |flag: u8| flags.iter().filter(|f| *f & flag != 0).count();
        let sets_used = columns.numbers(flagged(PROPERTIES))?;
        let repeats = columns.numbers(flagged(REPEAT))?;
        let payloads = take_payloads(&shared.shapes, &shape_of, &series, columns)?;
        Ok(Self {
            gaps,
            series,
            flags,
            at,
            sets_used,
            repeats,
            payloads,
        })
    }
}

fn known_flags(flags: i64) -> Result<u8, FrameError> {
    let known = QOS | RETAIN | UNSYNCHRONISED | PROPERTIES | REPEAT;
    u8::try_from(flags)
        .ok()
        .filter(|flags| flags & !known == 0 && flags & QOS != 3)
        .ok_or(FrameError::Damaged("unknown flags"))
}

fn take_readings(
    first: u64,
    count: usize,
    columns: &mut Columns<'_>,
) -> Result<Vec<Carried>, FrameError> {
    let shared = Shared::take(count, columns)?;
    let each = Each::take(count, &shared, columns)?;
    let mut readings = Vec::with_capacity(count);
    let mut sequence = first;
    let mut gaps = each.gaps.into_iter();
    let (mut sets, mut repeats) = (each.sets_used.into_iter(), each.repeats.into_iter());
    let of_each = each.series.iter().zip(each.flags).zip(each.at);
    for (((series, flags), at), payload) in of_each.zip(each.payloads) {
        if !readings.is_empty() {
            sequence = step(sequence, gaps.next())?;
        }
        let (client_id, topic) = shared.series.get(*series).ok_or(INCOMPLETE)?.clone();
        let flag = |flag: u8| flags & flag != 0;
        let mut properties = None;
        if flag(PROPERTIES) {
            let set = sets.next().and_then(|n| usize::try_from(n).ok());
            let set = set.and_then(|n| shared.sets.get(n)).ok_or(INCOMPLETE)?;
            columns.allow(tables::held_bytes(set))?;
            properties = Some(Box::new(set.clone()));
        }
        let mut repeat_of = None;
        if flag(REPEAT) {
            let distance = repeats.next().ok_or(INCOMPLETE)?.cast_unsigned();
            let first = sequence.wrapping_sub(distance);
            let known = (1..=SEQUENCE_MAX).contains(&first).then_some(first);
            repeat_of = Some(Sequence(known.ok_or(OUT_OF_ORDER)?));
        }
        readings.push(Carried {
            sequence: Sequence(sequence),
            topic,
            client_id,
            payload: payload.into(),
            qos: flags & QOS,
            retain: flag(RETAIN),
            at: UnixMillis(at),
            clock: clock_quality(flag(UNSYNCHRONISED)),
            properties,
            repeat_of,
        });
    }
    Ok(readings)
}

fn clock_quality(unsynchronised: bool) -> ClockQuality {
    if unsynchronised {
        ClockQuality::Unsynchronised
    } else {
        ClockQuality::Synchronised
    }
}

const OUT_OF_ORDER: FrameError = FrameError::Damaged("sequences that no relay gives");
const INCOMPLETE: FrameError = FrameError::Damaged("a reading without all its parts");

fn step(sequence: u64, gap: Option<i64>) -> Result<u64, FrameError> {
    let gap = gap.and_then(|gap| u64::try_from(gap).ok());
    let next = gap.and_then(|gap| sequence.checked_add(gap)?.checked_add(1));
    next.filter(|next| *next <= SEQUENCE_MAX)
        .ok_or(OUT_OF_ORDER)
}

/// Client and topic of each series.
fn take_series(
    max: usize,
    clients: &[Arc<str>],
    topics: &[Arc<str>],
    plan: &mut Reader<'_>,
) -> Result<Vec<Series>, FrameError> {
    let mut series = Vec::new();
    for _ in 0..plan.size(max)? {
        let client = clients.get(plan.size(clients.len())?).ok_or(INCOMPLETE)?;
        let topic = topics.get(plan.size(topics.len())?).ok_or(INCOMPLETE)?;
        series.push((Arc::clone(client), Arc::clone(topic)));
    }
    Ok(series)
}

fn take_shapes(codes: &[i64], series: &[usize], count: usize) -> Result<Vec<usize>, FrameError> {
    let mut last = HashMap::new();
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
    shapes: &[ReadShape<'_>],
    shape_of: &[usize],
    series: &[usize],
    columns: &mut Columns<'_>,
) -> Result<Vec<Vec<u8>>, FrameError> {
    let mut payloads = vec![Vec::new(); shape_of.len()];
    // The whole ones first, then those of each shape.
    let mut members_of = vec![Vec::new(); shapes.len() + 1];
    for (reading, shape) in shape_of.iter().enumerate() {
        members_of.get_mut(*shape).ok_or(INCOMPLETE)?.push(reading);
    }
    let mut members_of = members_of.into_iter();
    let whole_ones = members_of.next().unwrap_or_default();
    for (shape, members) in shapes.iter().zip(members_of) {
        let members = shapes::by_series(members.into_iter(), series);
        shape.payloads(&members, series, columns, |member, payload| {
            if let Some(place) = payloads.get_mut(member) {
                *place = payload;
            }
        })?;
    }
    let lengths = columns.numbers(whole_ones.len())?;
    let whole = columns.bytes()?;
    let mut whole = Reader(&whole);
    for (member, len) in whole_ones.into_iter().zip(lengths) {
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
