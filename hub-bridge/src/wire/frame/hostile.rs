//! Frames that were made to do harm: a few bytes that claim, or unpack to, more than a hub's memory.

use fuzz_harness::within;

use super::bytes::{put_bytes, put_varint};
use super::column::compress;
use super::fuzzing::{claiming, forged};
use super::read::decode_within;
use super::*;

/// What reading may unpack here, of a limit that is larger in earnest.
const UNPACKED: usize = 16 << 20;
/// What it may hold: columns are there twice while they are unpacked.
const HELD_MAX: usize = 3 * UNPACKED;

/// Why the frame is refused, within that memory.
fn refused(first: u64, count: u64, plan: &[u8], body: &[u8]) -> &'static str {
    let frame = forged(first, count, plan, body);
    assert!(frame.len() < 64 << 10, "{}", frame.len());
    match within(HELD_MAX, || decode_within(&frame, UNPACKED)) {
        Err(FrameError::Damaged(why)) => why,
        other => panic!("{:?}", other.map(|frame| frame.readings.len())),
    }
}

const TOO_MUCH: &str = "says that it holds more than a frame can";
const UNPACKS: &str = "a column that cannot be unpacked, or not to the length it says";
const OUT_OF_ORDER: &str = "sequences that no relay gives";
const DIGITS: &str = "numbers with more digits than any has";

/// One client, one topic, one series, no properties.
fn plan() -> Vec<u8> {
    vec![1, 1, b'c', 1, 1, b't', 1, 0, 0, 0]
}

/// The columns before the payloads, of any number of readings: no gaps, one series, `shape`, `QoS` 0, 1970.
fn columns(plan: &mut Vec<u8>, count: usize, shape: u8) {
    // No gaps.
    plan.push(0);
    // A new series; the same again; and so on, as it is expected from then on.
    let mut codes = vec![0; count];
    if let Some(second) = codes.get_mut(1) {
        *second = 2;
    }
    plan.push(1);
    place(plan, &codes);
    // The first of the series says its shape, the others have the same.
    let mut codes = vec![0; count];
    codes[0] = 2 * (shape + 1);
    plan.push(1);
    place(plan, &codes);
    // The flags, the times, no sets and no repeats.
    plan.extend([0, 0, 0, 0]);
}

/// In the plan, which is packed as a whole.
fn place(plan: &mut Vec<u8>, bytes: &[u8]) {
    plan.push(0);
    plan.extend(bytes);
}

/// So many empty entries.
fn entries(plan: &mut Vec<u8>, count: usize, entry: &[u8]) {
    put_varint(plan, count as u64);
    plan.extend(entry.repeat(count));
}

#[test]
fn tables_of_more_than_the_readings_need_are_refused() {
    const MANY: usize = 3 << 20;
    let mut names = Vec::new();
    entries(&mut names, MANY, &[0]);
    assert_eq!(refused(1, 1, &names, &[]), TOO_MUCH);
    // A set of properties, of empty user properties only.
    let mut set = vec![0];
    entries(&mut set, MANY, &[0, 0]);
    let mut sets = vec![1, 1, b'c', 1, 1, b't', 1, 0, 0, 1];
    put_bytes(&mut sets, &set);
    assert_eq!(refused(1, 1, &sets, &[]), TOO_MUCH);
    // Shapes without a number, and shapes with as many as there may be.
    let mut empty = plan();
    entries(&mut empty, MANY, &[0, 0]);
    assert_eq!(refused(1, 1, &empty, &[]), TOO_MUCH);
    let mut shape = Vec::new();
    put_varint(&mut shape, 256);
    shape.extend([0; 257]);
    shape.extend([1, 0].repeat(256));
    let mut large = plan();
    entries(&mut large, 8_192, &shape);
    assert_eq!(refused(1, 8_192, &large, &[]), TOO_MUCH);
}

#[test]
fn numbers_that_render_long_are_refused() {
    // As many digits as a byte can say, with values that cost nothing.
    for (width, scale) in [(255, 0), (1, 0x0f), (19, 0), (1, 0x0a)] {
        let mut plan = plan();
        plan.extend([1, 1, 0, 0, width, scale]);
        columns(&mut plan, 4, 1);
        plan.extend([0, 0, 0, 0]);
        assert_eq!(refused(1, 4, &plan, &[]), DIGITS);
    }
    // 8,192 payloads of 96 numbers of 18 digits.
    let mut plan = plan();
    plan.push(1);
    put_varint(&mut plan, 96);
    plan.extend([0; 97]);
    plan.extend([18, 0].repeat(96));
    columns(&mut plan, 8_192, 1);
    plan.extend([0; 96]);
    plan.extend([0, 0, 0]);
    assert_eq!(refused(1, 8_192, &plan, &[]), TOO_MUCH);
}

#[test]
fn a_column_that_unpacks_to_another_length_is_refused() {
    let body = compress(&vec![0; 1 << 20], 19).unwrap();
    let cases = [
        (0, UNPACKS),
        (1 << 10, UNPACKS),
        ((1 << 20) - 1, UNPACKS),
        ((1 << 20) + 1, UNPACKS),
        (1 << 28, TOO_MUCH),
        (1 << 40, TOO_MUCH),
    ];
    for (claimed, why) in cases {
        let mut plan = plan();
        plan.push(0);
        columns(&mut plan, 1, 0);
        // One whole payload.
        plan.push(0);
        put_varint(&mut plan, claimed);
        put_varint(&mut plan, (body.len() as u64) << 1 | 1);
        assert_eq!(refused(1, 1, &plan, &body), why);
    }
}

#[test]
fn a_plan_of_another_length_is_refused() {
    let mut plan = plan();
    plan.push(0);
    columns(&mut plan, 1, 0);
    plan.extend([0, 0, 0]);
    for len in [0, plan.len() - 1, plan.len() + 1, 1 << 20] {
        let read = decode_within(&claiming(len, 1, 1, &plan, &[]), UNPACKED);
        let why = "a plan that cannot be unpacked, or not to the length it says";
        assert_eq!(read, Err(FrameError::Damaged(why)), "{len}");
    }
}

#[test]
fn a_number_of_more_than_64_bits_is_refused() {
    // One client, and 2^64 of them.
    let mut plan = vec![0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
    plan.extend(&self::plan()[1..]);
    plan.push(0);
    columns(&mut plan, 1, 0);
    plan.extend([0, 0, 0]);
    assert_eq!(refused(1, 1, &plan, &[]), "a number of more than 64 bits");
}

#[test]
fn what_readings_share_is_counted_for_each() {
    // 2,000 readings with a set of 1,000 empty user properties.
    let mut plan = vec![1, 1, b'c', 1, 1, b't', 1, 0, 0, 1];
    let mut set = vec![0];
    entries(&mut set, 1_000, &[0, 0]);
    put_bytes(&mut plan, &set);
    plan.push(0);
    columns(&mut plan, 2_000, 0);
    // Instead of no flags, no times, no sets and no repeats.
    plan.truncate(plan.len() - 4);
    plan.push(1);
    place(&mut plan, &[32; 2_000]);
    plan.extend([0, 0, 0, 0, 0]);
    plan.push(0);
    assert_eq!(refused(1, 2_000, &plan, &[]), TOO_MUCH);
    // 8,192 payloads with a text of 8 KiB.
    let mut plan = self::plan();
    plan.extend([1, 0]);
    put_bytes(&mut plan, &[b'x'; 8 << 10]);
    columns(&mut plan, 8_192, 1);
    plan.extend([0, 0, 0]);
    assert_eq!(refused(1, 8_192, &plan, &[]), TOO_MUCH);
}

#[test]
fn sequences_that_no_database_holds_are_refused() {
    for first in [0, SEQUENCE_MAX + 1, u64::MAX] {
        let mut plan = plan();
        plan.push(0);
        columns(&mut plan, 1, 0);
        plan.extend([0, 0, 0]);
        assert_eq!(refused(first, 1, &plan, &[]), OUT_OF_ORDER);
    }
    let mut plan = plan();
    plan.push(0);
    columns(&mut plan, 2, 0);
    plan.extend([0, 0, 0]);
    assert_eq!(refused(SEQUENCE_MAX, 2, &plan, &[]), OUT_OF_ORDER);
}

#[test]
fn what_is_forged_here_is_a_frame_but_for_the_harm() {
    let mut whole = plan();
    whole.push(0);
    columns(&mut whole, 1, 0);
    whole.extend([0, 0, 0]);
    assert_eq!(
        decode(&forged(1, 1, &whole, &[])).unwrap().readings.len(),
        1
    );
    let mut shaped = plan();
    shaped.extend([1, 1, 0, 0, 18, 9]);
    columns(&mut shaped, 4, 1);
    shaped.extend([0, 0, 0, 0]);
    let frame = decode(&forged(1, 4, &shaped, &[])).unwrap();
    assert_eq!(frame.readings[3].payload, "000000000000000000.000000000");
}
