//! The fuzz function of the broker's state: whatever its records say, sessions and retained messages come back, and the
//! broker goes on.

// What breaks an invariant ends right there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;
use std::time::Duration;

use fuzz_harness::{Input, within};

use super::record::{self, Key};
use super::session::Session;
use super::{Core, topic};

const NOW: Duration = Duration::from_secs(1000);
const IN_FLIGHT_MAX: usize = 4;

/// Under a checksum that is right.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut value = vec![1];
    value.extend(crc32fast::hash(body).to_be_bytes());
    value.extend(body);
    value
}

fn key(input: &mut Input<'_>) -> Vec<u8> {
    let name = (*input.pick(&["a", "m/1", "b", "$share/g/x"])).to_owned();
    let number = u64::from(input.byte());
    let key = match input.below(8) {
        0 | 1 => Key::Session(name),
        2 | 3 => Key::Queued(name, number),
        4 => Key::Released(name, number),
        5 => Key::Received(name, input.u16()),
        6 => Key::Retained(name),
        _ if input.flag() => Key::Will(name),
        _ => return input.short().to_vec(),
    };
    key.encode()
}

pub(crate) fn broker_state(data: &[u8]) {
    let mut input = Input::new(data);
    within((8 << 20) + data.len() * 256, || {
        let mut found = Vec::new();
        while !input.is_empty() && found.len() < 20 {
            let key = key(&mut input);
            let body = input.short();
            let value = if input.byte() < 240 {
                sealed(body)
            } else {
                body.to_vec()
            };
            there_and_back(&key, &value);
            found.push((key, value));
        }
        let mut core = Core::default();
        core.restore(found, NOW, IN_FLIGHT_MAX);
        go_on(&mut core);
    });
}

fn there_and_back(key: &[u8], value: &[u8]) {
    if let Some(key) = Key::decode(key) {
        assert_eq!(Key::decode(&key.encode()), Some(key));
    }
    if let Some(delivery) = record::decode_delivery(value, NOW) {
        let mut again = record::encode_delivery(&delivery, NOW);
        assert_eq!(record::decode_delivery(&again, NOW), Some(delivery));
        let bit = key.len() * 31 % (again.len() * 8);
        again[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(record::decode_delivery(&again, NOW), None, "bit {bit}");
    }
    if let Some(message) = record::decode_message(value, NOW) {
        let again = record::encode_message(&message, NOW);
        assert_eq!(record::decode_message(&again, NOW), Some(message));
    }
    if let Some(will) = record::decode_will(value, NOW) {
        let again = record::encode_will(&will, NOW);
        assert!(record::decode_will(&again, NOW).is_some());
    }
    if let Some(mut stored) = record::decode_session(value) {
        let mut session = Session::new(Arc::from("a"), stored.expiry);
        session.set_next_number(stored.next_number);
        // Numbers begin at 1.
        stored.next_number = session.next_number();
        session.subscriptions.clone_from(&stored.subscriptions);
        let again = record::encode_session(&session);
        assert_eq!(record::decode_session(&again), Some(stored));
    }
}

/// What came back is used: each session sends what waits for it, as far as its window goes.
fn go_on(core: &mut Core) {
    for session in core.sessions.values_mut() {
        for filter in session.subscriptions.keys() {
            let _ = topic::parse_filter(filter);
        }
        let mut sent = 0;
        while session.next_to_send().is_some() {
            sent += 1;
            assert!(sent <= 64, "a session sends without end");
        }
    }
}
