//! What two copies of a reading are compared by, and what a relay's account sums up.

use sha2::{Digest as _, Sha256};

use crate::identity::{Epoch, Sequence};

/// The first 16 bytes of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Digest(pub [u8; 16]);

/// The digest of a reading: SHA-256 over the topic that the meter published to, a zero byte, and the payload. In
/// PostgreSQL: `substr(sha256(convert_to(topic, 'UTF8') || '\x00'::bytea || payload), 1, 16)`.
pub fn of_reading(topic: &str, payload: &[u8]) -> Digest {
    let mut hash = Sha256::new();
    hash.update(topic.as_bytes());
    hash.update([0]);
    hash.update(payload);
    first_half(hash)
}

/// The digest of a set of readings, in any order: the exclusive or of SHA-256(epoch, big endian, 4 bytes; sequence, big
/// endian, 8 bytes; the reading's digest), cut to 16 bytes. Each reading may be added once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetDigest(pub Digest);

impl SetDigest {
    /// Adds a reading, or takes it out again.
    pub fn toggle(&mut self, epoch: Epoch, sequence: Sequence, digest: Digest) {
        let mut hash = Sha256::new();
        hash.update(epoch.0.to_be_bytes());
        hash.update(sequence.0.to_be_bytes());
        hash.update(digest.0);
        for (sum, term) in self.0.0.iter_mut().zip(first_half(hash).0) {
            *sum ^= term;
        }
    }
}

fn first_half(hash: Sha256) -> Digest {
    let mut digest = Digest::default();
    for (to, from) in digest.0.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    digest
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 32 hex digits")]
pub struct InvalidDigest;

impl std::str::FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidDigest);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| InvalidDigest)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_readings_is_nothing_to_their_sum() {
        let readings =
            [(1, "a"), (2, "b"), (3, "c")].map(|(n, t)| (Sequence(n), of_reading(t, b"x")));
        let sum = |readings: &mut dyn Iterator<Item = &(Sequence, Digest)>| {
            let mut sum = SetDigest::default();
            readings.for_each(|(sequence, digest)| sum.toggle(Epoch(7), *sequence, *digest));
            sum
        };
        let there = sum(&mut readings.iter());
        assert_eq!(there, sum(&mut readings.iter().rev()));
        assert_ne!(there, sum(&mut readings.iter().take(2)));
        let text = there.0.to_string();
        assert_eq!(text.parse(), Ok(there.0));
    }
}
