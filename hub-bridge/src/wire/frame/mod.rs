//! Frames: many readings of one epoch in one message.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    #[error("a frame holds readings of one epoch, in order of sequence, none twice")]
    Readings,
}

#[derive(Serialize, Deserialize)]
struct Crude {
    village: VillageId,
    epoch: Epoch,
    readings: Vec<CrudeReading>,
}

#[derive(Serialize, Deserialize)]
struct CrudeReading(
    u64,
    String,
    String,
    Vec<u8>,
    u8,
    bool,
    i64,
    ClockQuality,
    Option<Box<PublishProperties>>,
    Option<u64>,
);

/// The frame as bytes. The same readings always give the same bytes.
///
/// # Errors
/// [`FrameError::Readings`] where there are none, or not in order.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, FrameError> {
    if frame.readings.is_empty() {
        return Err(FrameError::Readings);
    }
    let readings = frame.readings.iter().map(|r| {
        CrudeReading(
            r.sequence.0,
            r.topic.to_string(),
            r.client_id.to_string(),
            r.payload.to_vec(),
            r.qos,
            r.retain,
            r.at.0,
            r.clock,
            r.properties.clone(),
            r.repeat_of.map(|s| s.0),
        )
    });
    let crude = Crude {
        village: frame.village.clone(),
        epoch: frame.epoch,
        readings: readings.collect(),
    };
    let json = serde_json::to_vec(&crude).map_err(|_| FrameError::Readings)?;
    zstd::bulk::compress(&json, 3).map_err(|_| FrameError::Readings)
}

/// Reads a frame. Bounded in memory whatever the bytes say.
///
/// # Errors
/// Where it is none.
pub fn decode(bytes: &[u8]) -> Result<Frame, FrameError> {
    let json = zstd::bulk::decompress(bytes, 64 << 20).map_err(|_| FrameError::NotAFrame)?;
    let crude: Crude = serde_json::from_slice(&json).map_err(|_| FrameError::Checksum)?;
    let readings = crude.readings.into_iter().map(|r| Carried {
        sequence: Sequence(r.0),
        topic: r.1.into(),
        client_id: r.2.into(),
        payload: r.3.into(),
        qos: r.4,
        retain: r.5,
        at: UnixMillis(r.6),
        clock: r.7,
        properties: r.8,
        repeat_of: r.9.map(Sequence),
    });
    Ok(Frame {
        village: crude.village,
        epoch: crude.epoch,
        readings: readings.collect(),
    })
}
