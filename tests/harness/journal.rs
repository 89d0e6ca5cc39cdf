//! What happened when, by the machine's monotonic clock: so that a ledger can be had as it was at a moment.

use crate::ledger::{Identity, Key};

/// What can happen to a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A meter is about to send it; with the digest of its payload.
    Sent(Key, u64),
    /// Its meter saw the acknowledgement.
    Acknowledged(Key),
    /// The hub has it, and nobody was told yet.
    Arrived(Key, Option<Identity>),
}

/// Events in order, each with its time in ns.
pub type Journal = Vec<(u64, Event)>;

/// `CLOCK_MONOTONIC`, in ns: the same in every process of this machine.
pub fn now_ns() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

/// One line an event.
pub fn to_text(journal: &Journal) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for (at, event) in journal {
        let line = match event {
            Event::Sent(key, digest) => format!("sent {} {} {digest}", key.meter, key.number),
            Event::Acknowledged(key) => format!("acknowledged {} {}", key.meter, key.number),
            Event::Arrived(key, identity) => {
                let (epoch, sequence) = identity.unwrap_or_default();
                format!("arrived {} {} {epoch} {sequence}", key.meter, key.number)
            }
        };
        let _ = writeln!(text, "{at} {line}");
    }
    text
}

/// As [`to_text`] wrote it.
pub fn from_text(text: &str) -> Option<Journal> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let key = Key {
            meter: number(2)?.try_into().ok()?,
            number: number(3)?,
        };
        let event = match *words.get(1)? {
            "sent" => Event::Sent(key, number(4)?),
            "acknowledged" => Event::Acknowledged(key),
            "arrived" => {
                let identity = (u32::try_from(number(4)?).ok()?, number(5)?);
                Event::Arrived(key, (identity.1 > 0).then_some(identity))
            }
            _ => return None,
        };
        Some((number(0)?, event))
    };
    text.lines().map(line).collect()
}
