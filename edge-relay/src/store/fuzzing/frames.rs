//! Frames: what went in comes out; what was damaged comes out as it was, or not at all.

use bytes::Bytes;
use fuzz_harness::{Input, within};
use hub_bridge::identity::Epoch;

use super::{assert_same, enough_memory, pending, sealed};
use crate::store::envelope::HEADER_BYTES;
use crate::store::frame::{self, Frame, Pending, VALUE_BYTES_MAX};

pub(super) const EPOCH: Epoch = Epoch(7);
pub(super) const SALT: u32 = 0x5eed_0bad;

pub(crate) fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let enough = enough_memory(data.len());
    match input.below(4) {
        0 => {
            let value = Bytes::copy_from_slice(input.rest());
            within(enough, || look_at(&[value]));
        }
        1 => {
            let kind = input.byte();
            let value = Bytes::from(sealed(kind, SALT, input.rest()));
            within(enough, || look_at(&[value]));
        }
        2 => {
            // The frame of one large reading, whose pieces are anything.
            let pieces = input.below(4);
            let values: Vec<Bytes> = (0..pieces)
                .map(|_| sealed(2, SALT, input.short()).into())
                .collect();
            within(enough, || look_at(&values));
        }
        _ => there_and_back(&mut input),
    }
}

/// Nothing is known of what comes out, but that it is consistent.
fn look_at(values: &[Bytes]) {
    let heads: Vec<_> = values.iter().map(|v| frame::head(v, SALT)).collect();
    let Ok(readings) = frame::decode(values, SALT) else {
        return;
    };
    let head = heads[0].as_ref().expect("a frame that decodes has a head");
    for (sequence, reading) in (head.first..).zip(&readings) {
        assert_eq!(reading.sequence.0, sequence);
        assert!(reading.qos <= 3);
    }
}

fn there_and_back(input: &mut Input<'_>) {
    let first = 1 + input.u64() / 2;
    let count = 1 + input.below(8);
    let put: Vec<Pending> = (0..count).map(|_| pending(input)).collect();
    let frames = frame::encode(EPOCH, first, &put, SALT).unwrap();
    let mut expected = (first..).zip(&put);
    for values in units(&frames) {
        let readings = frame::decode(&values, SALT).unwrap();
        for (read, (sequence, put)) in readings.iter().zip(expected.by_ref().take(readings.len())) {
            assert_eq!(read.sequence.0, sequence);
            assert_same(read, &put.reading);
        }
        assert!(
            frame::decode(&values, SALT + 1).is_err(),
            "under another salt"
        );
        assert!(
            frame::decode(&values[1..], SALT).is_err(),
            "without its beginning"
        );
        let damaged = damage(input, &values);
        match frame::decode(&damaged, SALT) {
            Err(_) => assert!(damaged != values, "a sound frame is refused"),
            Ok(found) => assert_eq!(found, readings, "damage made another reading"),
        }
    }
    assert!(expected.next().is_none(), "readings are missing");
}

/// The values of each frame.
pub(super) fn units(frames: &[Frame]) -> Vec<Vec<Bytes>> {
    let mut units: Vec<Vec<Bytes>> = Vec::new();
    for frame in frames {
        assert!(frame.bytes.len() <= VALUE_BYTES_MAX);
        let head = frame::head(&frame.bytes, SALT).unwrap();
        assert_eq!(
            (head.first, head.count, head.piece),
            (frame.first, frame.count, frame.piece)
        );
        match units.last_mut() {
            Some(unit) if frame.piece > 0 => unit.push(frame.bytes.clone()),
            _ => units.push(vec![frame.bytes.clone()]),
        }
    }
    units
}

/// As disks do it: some bits of one place, a row of zeroes, an end that is missing, pieces lost or mixed up. What could be
/// made to fit the checksum on purpose is no damage.
fn damage(input: &mut Input<'_>, values: &[Bytes]) -> Vec<Bytes> {
    let mut damaged = values.to_vec();
    let which = input.below(values.len());
    let mut bytes = damaged[which].to_vec();
    let at = input.below(bytes.len());
    match input.below(6) {
        0 => bytes[at] ^= input.byte(),
        1 => bytes[at..].fill(0),
        2 => bytes.truncate(at),
        3 => {
            let to = (at + 512).min(bytes.len());
            bytes[at.min(HEADER_BYTES)..to].fill(0);
        }
        4 => {
            let other = input.below(damaged.len());
            damaged.swap(which, other);
            return damaged;
        }
        _ => {
            damaged.remove(which);
            return damaged;
        }
    }
    damaged[which] = bytes.into();
    damaged
}
