//! Readings as they lie in a segment: many that were committed together share one value.
//!
//! The value limit is what keeps sled from moving leaves into files that it never syncs (`sled_segment.rs`). A reading
//! that is larger lies in pieces, each a value of its own; together they are the frame of that one reading.
//!
//! Texts (topics, client ids) stand once a frame, stamps relative to the frame's first: a reading of
//! 200 bytes costs about 12 bytes more.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use hub_bridge::clock::{BootId, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence};
use hub_bridge::reading::{PublishProperties, Reading};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::NewReading;
use super::envelope::{self, EnvelopeError, HEADER_BYTES, Kind};

/// No value in a segment is longer, in bytes.
pub(super) const VALUE_BYTES_MAX: usize = 13 * 1024;

/// The largest reading, payload, topic and properties together, in bytes.
pub(super) const READING_BYTES_MAX: usize = envelope::BODY_BYTES_MAX - 64 * 1024;

/// What epoch, first sequence, counts and the stamps of a frame take at most, in bytes.
const FRAME_OVERHEAD_BYTES: usize = HEADER_BYTES + 80;

/// What a reading takes at most beside texts, payload and properties, in bytes.
const READING_OVERHEAD_BYTES: usize = 56;

/// What a piece takes at most beside its data, in bytes.
const PIECE_OVERHEAD_BYTES: usize = HEADER_BYTES + 40;

/// A reading on its way into a frame.
#[derive(Debug)]
pub(super) struct Pending {
    /// As it came.
    pub(super) reading: NewReading,
    /// The reading that this one repeats.
    pub(super) repeat_of: Option<Sequence>,
}

/// One value of a segment.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// The sequence of its first reading.
    pub(super) first: u64,
    /// How many readings; 1 for a piece.
    pub(super) count: u32,
    /// Which piece, from 0; 0 for a whole frame.
    pub(super) piece: u32,
    /// The sealed record.
    pub(super) bytes: Bytes,
}

/// The key under which a frame lies in sled.
pub(super) fn key(first: u64, piece: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&first.to_be_bytes());
    key[8..].copy_from_slice(&piece.to_be_bytes());
    key
}

/// Sequence and piece of a key.
pub(super) fn key_parts(key: [u8; 12]) -> (u64, u32) {
    let mut both = [0; 16];
    both[4..].copy_from_slice(&key);
    let both = u128::from_be_bytes(both);
    #[allow(clippy::cast_possible_truncation)] // the halves of it
    ((both >> 32) as u64, both as u32)
}

/// Bytes that serde treats as bytes, not as a list of numbers.
#[derive(Debug, Clone, Copy)]
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&'a [u8]>::deserialize(deserializer).map(Raw)
    }
}

/// The first fields of [`FrameV1`].
#[derive(Debug, Deserialize)]
struct FrameHeadV1 {
    epoch: u32,
    first: u64,
    count: u32,
}

/// Frozen: a change of fields is a new version.
#[derive(Debug, Serialize, Deserialize)]
struct FrameV1<'a> {
    epoch: u32,
    first: u64,
    count: u32,
    monotonic_base_ms: u64,
    #[serde(borrow)]
    texts: Vec<&'a str>,
    origins: Vec<OriginV1>,
    readings: Vec<ReadingV1<'a>>,
}

/// What the stamps of a boot have in common while the clock is not stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct OriginV1 {
    boot: u32,
    synchronised: bool,
    wall_minus_monotonic_ms: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReadingV1<'a> {
    topic: u32,
    client_id: u32,
    origin: u32,
    monotonic_delta_ms: i64,
    /// Bits 0 and 1 the `QoS`, bit 2 retain.
    flags: u8,
    packet_id: u16,
    /// 0: none.
    repeat_of: u64,
    #[serde(borrow)]
    payload: Raw<'a>,
    properties: Option<PropertiesV1<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PropertiesV1<'a> {
    payload_format_indicator: Option<u8>,
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    #[serde(borrow)]
    correlation_data: Option<Raw<'a>>,
    user_properties: Vec<(&'a str, &'a str)>,
}

/// Frozen: a change of fields is a new version.
#[derive(Debug, Serialize, Deserialize)]
struct PieceV1<'a> {
    epoch: u32,
    sequence: u64,
    piece: u32,
    pieces: u32,
    #[serde(borrow)]
    data: Raw<'a>,
}

/// Packs `readings`, which get the sequences from `first` on, into frames.
///
/// # Errors
/// [`EnvelopeError::Body`] for a reading over [`READING_BYTES_MAX`].
pub(super) fn encode(
    epoch: Epoch,
    first: u64,
    readings: &[Pending],
    salt: u32,
) -> Result<Vec<Frame>, EnvelopeError> {
    let mut frames = Vec::new();
    let mut rest = readings;
    let mut first = first;
    while !rest.is_empty() {
        let count = fitting(rest);
        let (now, later) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        let record = encode_one(epoch, first, now, salt)?;
        let count = u32::try_from(now.len()).unwrap_or(u32::MAX);
        if record.len() <= VALUE_BYTES_MAX {
            frames.push(Frame {
                first,
                count,
                piece: 0,
                bytes: record.into(),
            });
        } else {
            cut(epoch, first, &record, salt, &mut frames)?;
        }
        first += now.len() as u64;
        rest = later;
    }
    Ok(frames)
}

/// How many of `readings` surely fit in one value; at least one.
fn fitting(readings: &[Pending]) -> usize {
    let mut texts: AHashSet<&str> = AHashSet::new();
    let mut bytes = FRAME_OVERHEAD_BYTES;
    for (i, pending) in readings.iter().enumerate() {
        let reading = &pending.reading;
        bytes += READING_OVERHEAD_BYTES + reading.payload.len();
        bytes += properties_bytes_max(reading.properties.as_deref());
        for text in [&*reading.topic, &*reading.client_id] {
            if texts.insert(text) {
                bytes += text.len() + 5;
            }
        }
        if bytes > VALUE_BYTES_MAX {
            return i.max(1);
        }
    }
    readings.len()
}

fn properties_bytes_max(properties: Option<&PublishProperties>) -> usize {
    properties.map_or(0, |p| {
        40 + p.size_bytes() + p.user_properties.len().saturating_mul(10)
    })
}

#[derive(Default)]
struct Table<'a> {
    texts: Vec<&'a str>,
    places: AHashMap<&'a str, u32>,
    origins: Vec<OriginV1>,
}

impl<'a> Table<'a> {
    fn text(&mut self, text: &'a str) -> u32 {
        let texts = &mut self.texts;
        *self.places.entry(text).or_insert_with(|| {
            texts.push(text);
            u32::try_from(texts.len() - 1).unwrap_or(u32::MAX)
        })
    }

    fn origin(&mut self, received: &ReceivedAt) -> u32 {
        let origin = OriginV1 {
            boot: received.boot.0,
            synchronised: received.quality == ClockQuality::Synchronised,
            wall_minus_monotonic_ms: received.wall.0.wrapping_sub_unsigned(received.monotonic_ms),
        };
        let place = self.origins.iter().rposition(|o| *o == origin);
        let place = place.unwrap_or_else(|| {
            self.origins.push(origin);
            self.origins.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }
}

fn encode_one(
    epoch: Epoch,
    first: u64,
    readings: &[Pending],
    salt: u32,
) -> Result<Vec<u8>, EnvelopeError> {
    let base = readings
        .first()
        .map_or(0, |p| p.reading.received.monotonic_ms);
    let mut table = Table::default();
    let packed = readings
        .iter()
        .map(|p| pack(p, base, &mut table))
        .collect::<Vec<_>>();
    let frame = FrameV1 {
        epoch: epoch.0,
        first,
        count: u32::try_from(readings.len()).unwrap_or(u32::MAX),
        monotonic_base_ms: base,
        texts: table.texts,
        origins: table.origins,
        readings: packed,
    };
    envelope::seal(Kind::Readings, salt, &frame)
}

fn pack<'a>(pending: &'a Pending, base_ms: u64, table: &mut Table<'a>) -> ReadingV1<'a> {
    let reading = &pending.reading;
    ReadingV1 {
        topic: table.text(&reading.topic),
        client_id: table.text(&reading.client_id),
        origin: table.origin(&reading.received),
        monotonic_delta_ms: reading
            .received
            .monotonic_ms
            .wrapping_sub(base_ms)
            .cast_signed(),
        flags: (reading.qos & 3) | (u8::from(reading.retain) << 2),
        packet_id: reading.packet_id,
        repeat_of: pending.repeat_of.map_or(0, |s| s.0),
        payload: Raw(&reading.payload),
        properties: reading.properties.as_deref().map(|p| PropertiesV1 {
            payload_format_indicator: p.payload_format_indicator,
            content_type: p.content_type.as_deref(),
            response_topic: p.response_topic.as_deref(),
            correlation_data: p.correlation_data.as_deref().map(Raw),
            user_properties: p
                .user_properties
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect(),
        }),
    }
}

fn cut(
    epoch: Epoch,
    sequence: u64,
    record: &[u8],
    salt: u32,
    frames: &mut Vec<Frame>,
) -> Result<(), EnvelopeError> {
    let data = record.chunks(VALUE_BYTES_MAX - PIECE_OVERHEAD_BYTES);
    let pieces = u32::try_from(data.len()).unwrap_or(u32::MAX);
    for (piece, data) in (0..).zip(data) {
        let body = PieceV1 {
            epoch: epoch.0,
            sequence,
            piece,
            pieces,
            data: Raw(data),
        };
        frames.push(Frame {
            first: sequence,
            count: 1,
            piece,
            bytes: envelope::seal(Kind::Piece, salt, &body)?.into(),
        });
    }
    Ok(())
}

/// What a sound record is, without decoding its readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Its epoch.
    pub(super) epoch: u32,
    /// The sequence of its first reading.
    pub(super) first: u64,
    /// How many readings.
    pub(super) count: u32,
    /// Which piece.
    pub(super) piece: u32,
    /// Of how many.
    pub(super) pieces: u32,
    /// The whole record, in bytes.
    pub(super) length: usize,
}

/// The head of the record at the start of `bytes`.
pub(super) fn head(bytes: &[u8], salt: u32) -> Result<Head, EnvelopeError> {
    let sealed = envelope::unseal_prefix(bytes, salt)?;
    let length = sealed.len();
    if sealed.kind == Kind::Readings as u8 {
        let head: FrameHeadV1 = envelope::body_prefix(&sealed)?;
        Ok(Head {
            epoch: head.epoch,
            first: head.first,
            count: head.count,
            piece: 0,
            pieces: 1,
            length,
        })
    } else if sealed.kind == Kind::Piece as u8 {
        let piece: PieceV1<'_> = envelope::body(&sealed)?;
        Ok(Head {
            epoch: piece.epoch,
            first: piece.sequence,
            count: 1,
            piece: piece.piece,
            pieces: piece.pieces,
            length,
        })
    } else {
        Err(EnvelopeError::Kind(sealed.kind))
    }
}

/// The readings of the values of one frame: one value, or all the pieces in order.
///
/// # Errors
/// [`EnvelopeError`] where any of them is not sound, or they do not belong together.
pub(super) fn decode(values: &[Bytes], salt: u32) -> Result<Vec<Arc<Reading>>, EnvelopeError> {
    let Some(first) = values.first() else {
        return Err(EnvelopeError::NotARecord);
    };
    if envelope::unseal_prefix(first, salt)?.kind == Kind::Readings as u8 {
        return decode_whole(first, salt);
    }
    let mut record = Vec::new();
    let mut sequence = None;
    for (expected, value) in (0..).zip(values) {
        let piece: PieceV1<'_> = envelope::open(Kind::Piece, salt, value)?;
        let all_there = piece.pieces as usize == values.len();
        if piece.piece != expected
            || !all_there
            || *sequence.get_or_insert(piece.sequence) != piece.sequence
        {
            return Err(EnvelopeError::Body("pieces do not fit together".to_owned()));
        }
        record.extend_from_slice(piece.data.0);
    }
    decode_whole(&Bytes::from(record), salt)
}

fn decode_whole(record: &Bytes, salt: u32) -> Result<Vec<Arc<Reading>>, EnvelopeError> {
    let frame: FrameV1<'_> = envelope::open(Kind::Readings, salt, record)?;
    let texts: Vec<Arc<str>> = frame.texts.iter().map(|t| Arc::from(*t)).collect();
    let broken = || EnvelopeError::Body("a place is outside of its table".to_owned());
    let text = |place: u32| texts.get(place as usize).cloned().ok_or_else(broken);
    let mut readings = Vec::with_capacity(frame.readings.len());
    for (sequence, packed) in (frame.first..).zip(&frame.readings) {
        let origin = frame
            .origins
            .get(packed.origin as usize)
            .ok_or_else(broken)?;
        let monotonic_ms = frame
            .monotonic_base_ms
            .wrapping_add_signed(packed.monotonic_delta_ms);
        readings.push(Arc::new(Reading {
            sequence: Sequence(sequence),
            topic: text(packed.topic)?,
            client_id: text(packed.client_id)?,
            payload: record.slice_ref(packed.payload.0),
            qos: packed.flags & 3,
            retain: packed.flags & 4 != 0,
            packet_id: packed.packet_id,
            received: unpack_stamp(*origin, monotonic_ms),
            properties: packed
                .properties
                .as_ref()
                .map(|p| Box::new(unpack_properties(p))),
            repeat_of: (packed.repeat_of != 0).then_some(Sequence(packed.repeat_of)),
        }));
    }
    Ok(readings)
}

fn unpack_stamp(origin: OriginV1, monotonic_ms: u64) -> ReceivedAt {
    ReceivedAt {
        wall: UnixMillis(
            origin
                .wall_minus_monotonic_ms
                .wrapping_add_unsigned(monotonic_ms),
        ),
        quality: if origin.synchronised {
            ClockQuality::Synchronised
        } else {
            ClockQuality::Unsynchronised
        },
        boot: BootId(origin.boot),
        monotonic_ms,
    }
}

fn unpack_properties(p: &PropertiesV1<'_>) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: p.payload_format_indicator,
        content_type: p.content_type.map(str::to_owned),
        response_topic: p.response_topic.map(str::to_owned),
        correlation_data: p.correlation_data.map(|d| Bytes::copy_from_slice(d.0)),
        user_properties: p
            .user_properties
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    }
}

/// The record of a reading that stands for itself, as `refused/` keeps it.
pub(super) fn encode_reading(
    epoch: Epoch,
    reading: &Reading,
    salt: u32,
) -> Result<Vec<u8>, EnvelopeError> {
    let pending = Pending {
        reading: NewReading {
            topic: reading.topic.clone(),
            client_id: reading.client_id.clone(),
            payload: reading.payload.clone(),
            qos: reading.qos,
            retain: reading.retain,
            dup: false,
            packet_id: reading.packet_id,
            received: reading.received,
            properties: reading.properties.clone(),
        },
        repeat_of: reading.repeat_of,
    };
    encode_one(epoch, reading.sequence.0, &[pending], salt)
}
