//! The fuzz function of frames: what a village sends to the hub, right or on purpose wrong.
//!
//! Whatever the bytes, reading takes no more memory than it was given; what is read can be written, and reads as the same;
//! what a relay wrote comes back. The checksum and the compression are made to fit: behind them the parsing begins.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use fuzz_harness::{Input, within};

use super::bytes::{Reader, put_bytes, put_varint};
use super::column::compress;
use super::read::{decode_within, unpack_plan};
use super::{
    Carried, ClockQuality, Epoch, Frame, MAGIC, PAYLOAD_BYTES_MAX, PublishProperties, SEQUENCE_MAX,
    Sequence, UnixMillis, VERSION, decode, encode,
};

/// What reading may unpack here: small, so that a claim which is believed shows.
const UNPACKED: usize = 1 << 20;
/// A column is there as bytes, as differences and as values while it is being unpacked; a payload's memory doubles as it
/// grows; and the least thing beside it.
const HELD: usize = 3 * UNPACKED + (64 << 10);

pub(crate) fn uplink_frame(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => check(input.rest()),
        1 => {
            let (first, count) = (input.u64() >> (input.byte() % 64), u64::from(input.u16()));
            let len = usize::from(input.u16());
            let plan = input.take(len);
            check(&forged(first, count, plan, input.rest()));
        }
        2 => {
            let frame = written(&mut input);
            let bytes = encode(&frame).expect("readings that a relay can have");
            assert_eq!(decode(&bytes).expect("what was written"), frame);
        }
        _ => {
            let bytes = encode(&written(&mut input)).expect("readings that a relay can have");
            check(&changed(&bytes, &mut input));
        }
    }
}

/// Reads bytes from anywhere.
pub(super) fn check(bytes: &[u8]) {
    let Ok(frame) = within(HELD + bytes.len(), || decode_within(bytes, UNPACKED)) else {
        return;
    };
    let sequences = frame.readings.iter().map(|reading| reading.sequence.0);
    assert!(
        sequences
            .clone()
            .is_sorted_by(|before, after| before < after)
    );
    assert!(sequences.clone().all(|n| (1..=SEQUENCE_MAX).contains(&n)));
    assert!(frame.readings.iter().all(|reading| reading.qos < 3));
    let again = encode(&frame).expect("what was read can be written");
    assert_eq!(decode(&again).expect("what was written"), frame);
}

/// A frame with a plan and a body of one's own.
pub(super) fn forged(first: u64, count: u64, plan: &[u8], body: &[u8]) -> Vec<u8> {
    claiming(plan.len(), first, count, plan, body)
}

/// The same, with another length of its plan.
pub(super) fn claiming(len: usize, first: u64, count: u64, plan: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend([VERSION, 0]);
    put_bytes(&mut out, b"bamenda-01");
    out.extend([1, 2, 3, 4]);
    put_varint(&mut out, first);
    put_varint(&mut out, count);
    put_varint(&mut out, len as u64);
    put_bytes(&mut out, &compress(plan, 1).unwrap());
    out.extend(body);
    sealed(out)
}

fn sealed(mut out: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&out);
    out.extend(checksum.to_le_bytes());
    out
}

/// The parts of a written frame: first sequence, count, plan, body.
fn parts_of(frame: &[u8]) -> (u64, u64, Vec<u8>, Vec<u8>) {
    let mut from = Reader(&frame[5..frame.len() - 4]);
    from.bytes().unwrap();
    from.take(4).unwrap();
    let (first, count) = (from.varint().unwrap(), from.varint().unwrap());
    let plan_len = from.size(PAYLOAD_BYTES_MAX).unwrap();
    let plan = unpack_plan(frame[4], from.bytes().unwrap(), plan_len).unwrap();
    (first, count, plan, from.0.to_vec())
}

/// The plan of a written frame, unpacked.
#[cfg(test)]
pub(super) fn plan_of(frame: &[u8]) -> Vec<u8> {
    parts_of(frame).2
}

/// A written frame with some bytes of its plan or its body changed.
fn changed(frame: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let (first, count, mut plan, mut body) = parts_of(frame);
    for _ in 0..=input.byte() % 4 {
        let part = if input.flag() && !body.is_empty() {
            &mut body
        } else {
            &mut plan
        };
        let (at, byte) = (input.below(part.len()), input.byte());
        part[at] = byte;
    }
    forged(first, count, &plan, &body)
}

/// A frame that a relay could write.
fn written(input: &mut Input<'_>) -> Frame {
    let mut sequence = 0;
    let mut readings = Vec::new();
    for _ in 0..=input.byte() % 24 {
        sequence += 1 + u64::from(input.byte() / 128 * input.byte());
        readings.push(reading(sequence, input));
    }
    Frame {
        village: "bamenda-01".parse().unwrap(),
        epoch: Epoch(input.u32()),
        readings,
    }
}

fn reading(sequence: u64, input: &mut Input<'_>) -> Carried {
    let kind = input.byte();
    Carried {
        sequence: Sequence(sequence),
        topic: format!("m/{}", input.byte() % 3).into(),
        client_id: format!("c{}", input.byte() % 3).into(),
        payload: payload(input).into(),
        qos: kind % 3,
        retain: kind & 4 != 0,
        at: UnixMillis(i64::from(input.u16()) - i64::from(input.byte())),
        clock: if kind & 8 == 0 {
            ClockQuality::Synchronised
        } else {
            ClockQuality::Unsynchronised
        },
        properties: (kind & 0x30 == 0x30).then(|| Box::new(properties(input))),
        repeat_of: (kind & 0xc0 == 0xc0).then(|| Sequence(1 + u64::from(input.byte()))),
    }
}

fn payload(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() % 4 {
        0 => input.short().to_vec(),
        1 => format!("{{\"kw\":{}.{:03}}}", input.byte(), input.u16() % 1000).into_bytes(),
        2 => format!("{{\"n\":{},\"w\":-{:02}}}", input.u64(), input.byte()).into_bytes(),
        // Digits, points and signs in every order.
        _ => {
            let letter = |byte: &u8| b"0123456789..--,a"[usize::from(byte % 16)];
            input.short().iter().map(letter).collect()
        }
    }
}

fn properties(input: &mut Input<'_>) -> PublishProperties {
    let mut text = || input.flag().then(|| input.text());
    PublishProperties {
        content_type: text(),
        response_topic: text(),
        user_properties: text().map(|t| (t.clone(), t)).into_iter().collect(),
        payload_format_indicator: input.flag().then(|| input.byte()),
        correlation_data: input.flag().then(|| input.short().to_vec().into()),
    }
}
