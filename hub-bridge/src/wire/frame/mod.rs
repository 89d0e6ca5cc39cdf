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
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod number;
mod read;
mod shapes;
mod tables;
mod write;

use std::sync::Arc;

use ::bytes::Bytes;

pub use self::read::decode;
pub use self::write::encode;

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
    #[error(
        "a frame holds 1 to {READINGS_MAX} readings, in order of sequence from 1 to {SEQUENCE_MAX}, none twice"
    )]
    Readings,
    /// They are too large together.
    #[error("the readings of a frame may take {PAYLOAD_BYTES_MAX} bytes, and these take {0}")]
    TooLarge(usize),
}

/// The most readings in one frame.
pub const READINGS_MAX: usize = 65_536;
/// The most bytes of payloads, topics, clients and properties in one frame, one reading of any size excepted.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// The highest sequence in a frame: what PostgreSQL's ranges of `bigint` can hold.
pub const SEQUENCE_MAX: u64 = i64::MAX.cast_unsigned() - 1;
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
        let properties = self.properties.as_deref().map_or(0, tables::held_bytes);
        self.payload.len() + self.topic.len() + self.client_id.len() + properties
    }
}

#[cfg(test)]
mod example;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
