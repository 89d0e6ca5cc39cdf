//! Fuzz functions of everything that the store reads back from disk.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod carve;
mod data_dir;
mod files;
mod frames;

use fuzz_harness::Input;
use hub_bridge::clock::{BootId, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::reading::{PublishProperties, Reading};

use super::NewReading;
use super::envelope::{HEADER_BYTES, MAGIC, VERSION};
use super::frame::Pending;

pub(crate) use carve::carve;
pub(crate) use data_dir::data_dir;
pub(crate) use files::files;
pub(crate) use frames::frames;

/// What a parser may hold for an input of `bytes` bytes: a corrupt length must not get more.
fn enough_memory(bytes: usize) -> usize {
    (8 << 20) + bytes * 64
}

/// Any body under a checksum that is right: what a bug of this program could have written.
fn sealed(kind: u8, salt: u32, body: &[u8]) -> Vec<u8> {
    let mut record = MAGIC.to_vec();
    record.extend([VERSION, kind]);
    record.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&record[4..10]);
    hasher.update(body);
    record.extend(hasher.finalize().to_le_bytes());
    assert_eq!(record.len(), HEADER_BYTES);
    record.extend(body);
    record
}

/// Any reading that a meter could make.
fn reading(input: &mut Input<'_>) -> NewReading {
    let mut payload = input.short().to_vec();
    // Large ones, of which a frame has pieces, without needing as many bytes.
    if !payload.is_empty() && input.byte() > 230 {
        payload = payload.repeat(1 + input.below(100));
    }
    let quality = if input.flag() {
        ClockQuality::Synchronised
    } else {
        ClockQuality::Unsynchronised
    };
    NewReading {
        topic: input.text().into(),
        client_id: input.text().into(),
        payload: payload.into(),
        qos: input.below(3).to_le_bytes()[0],
        retain: input.flag(),
        dup: false,
        packet_id: input.u16(),
        received: ReceivedAt {
            wall: UnixMillis(input.u64().cast_signed()),
            quality,
            boot: BootId(input.u32()),
            monotonic_ms: input.u64(),
        },
        properties: input.flag().then(|| Box::new(properties(input))),
    }
}

fn properties(input: &mut Input<'_>) -> PublishProperties {
    PublishProperties {
        payload_format_indicator: input.flag().then(|| input.byte()),
        content_type: input.flag().then(|| input.text()),
        response_topic: input.flag().then(|| input.text()),
        correlation_data: input.flag().then(|| input.short().to_vec().into()),
        user_properties: (0..input.below(4))
            .map(|_| (input.text(), input.text()))
            .collect(),
    }
}

fn pending(input: &mut Input<'_>) -> Pending {
    Pending {
        reading: reading(input),
        repeat_of: None,
    }
}

/// Whether `read` is what was put in.
fn assert_same(read: &Reading, put: &NewReading) {
    assert_eq!(read.topic, put.topic);
    assert_eq!(read.client_id, put.client_id);
    assert_eq!(read.payload, put.payload);
    assert_eq!(
        (read.qos, read.retain, read.packet_id),
        (put.qos, put.retain, put.packet_id)
    );
    assert_eq!(read.received, put.received);
    assert_eq!(read.properties, put.properties);
}
