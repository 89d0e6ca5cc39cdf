//! Finds the reading that a DUP publish repeats: same client, packet id, topic and payload.
//!
//! Bounded: about a megabyte for the last 16,384 readings.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use ahash::RandomState;
use hub_bridge::identity::Sequence;

use super::NewReading;

/// How many readings are remembered.
pub(super) const REMEMBERED: usize = 16_384;

/// The digests of recent readings. The hash is keyed anew in each process, so that no meter can make
/// two readings look the same.
#[derive(Debug, Default)]
pub(super) struct Recent {
    hasher: RandomState,
    sequences: HashMap<u64, u64, BuildHasherDefault<Digested>>,
    order: VecDeque<(u64, u64)>,
}

/// The hash of a digest is the digest.
#[derive(Debug, Default)]
struct Digested(u64);

impl Hasher for Digested {
    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, b| hash.rotate_left(8) ^ u64::from(*b));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Recent {
    /// The hash of this process.
    pub(super) fn hasher(&self) -> RandomState {
        self.hasher.clone()
    }

    fn digest(&self, client: &str, packet_id: u16, topic: &str, payload: &[u8]) -> u64 {
        self.hasher.hash_one((client, packet_id, topic, payload))
    }

    /// Remembers a reading that is stored already.
    pub(super) fn remember(&mut self, reading: &hub_bridge::reading::Reading) {
        if reading.packet_id != 0 {
            let digest = self.digest(
                &reading.client_id,
                reading.packet_id,
                &reading.topic,
                &reading.payload,
            );
            let sequence = reading.repeat_of.unwrap_or(reading.sequence).0;
            self.insert(digest, sequence);
        }
    }

    /// Takes `reading`, which gets `sequence`, and says which one it repeats.
    pub(super) fn take(&mut self, reading: &NewReading, sequence: u64) -> Option<Sequence> {
        if reading.packet_id == 0 {
            return None;
        }
        let digest = self.digest(
            &reading.client_id,
            reading.packet_id,
            &reading.topic,
            &reading.payload,
        );
        if reading.dup
            && let Some(original) = self.sequences.get(&digest)
        {
            return Some(Sequence(*original));
        }
        self.insert(digest, sequence);
        None
    }

    fn insert(&mut self, digest: u64, sequence: u64) {
        self.sequences.insert(digest, sequence);
        self.order.push_back((digest, sequence));
        if self.order.len() > REMEMBERED
            && let Some((digest, sequence)) = self.order.pop_front()
            && self.sequences.get(&digest) == Some(&sequence)
        {
            self.sequences.remove(&digest);
        }
    }

    /// Forgets what got `sequence` or a higher one: those were not committed.
    pub(super) fn forget_from(&mut self, sequence: u64) {
        while let Some((digest, taken)) = self.order.pop_back() {
            if taken < sequence {
                self.order.push_back((digest, taken));
                break;
            }
            if self.sequences.get(&digest) == Some(&taken) {
                self.sequences.remove(&digest);
            }
        }
    }
}
