//! What a reading is called: `(village, epoch, sequence)`.
//!
//! Invariant: within one epoch sequences count from 1 without a hole, and no sequence is ever given
//! to two readings. An epoch is a random number, drawn when a store begins.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a village, unique in the country: the first part of every reading's identity.
///
/// 1 to 64 characters of `A-Z a-z 0-9 - _ .`, so that it can stand in a topic level, a client id
/// and a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct VillageId(String);

/// Why a text is not a village id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("village id {0:?} must be 1 to 64 characters of A-Z a-z 0-9 - _ .")]
pub struct InvalidVillageId(String);

impl VillageId {
    /// The longest village id, in characters.
    pub const LEN_MAX: usize = 64;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VillageId {
    type Err = InvalidVillageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > Self::LEN_MAX || !text.chars().all(allowed) {
            return Err(InvalidVillageId(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for VillageId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for VillageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One life of a store. Written as eight hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Epoch(pub u32);

/// Why a text is not an epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("epoch {0:?} must be eight hex digits")]
pub struct InvalidEpoch(String);

impl FromStr for Epoch {
    type Err = InvalidEpoch;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The parser would take a sign for a digit.
        if text.len() == 8
            && text.bytes().all(|b| b.is_ascii_hexdigit())
            && let Ok(number) = u32::from_str_radix(text, 16)
        {
            return Ok(Self(number));
        }
        Err(InvalidEpoch(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Epoch {
    type Error = InvalidEpoch;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.to_string()
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The number of a reading within its epoch, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The first sequence of an epoch.
    pub const FIRST: Self = Self(1);

    /// The sequence after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Sequences `first..=last`, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SequenceRange {
    /// The lowest sequence in the range.
    pub first: Sequence,
    /// The highest sequence in the range, itself included.
    pub last: Sequence,
}

impl SequenceRange {
    /// The range, or `None` where `first > last`.
    pub fn new(first: Sequence, last: Sequence) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// A range of one.
    pub fn one(sequence: Sequence) -> Self {
        Self {
            first: sequence,
            last: sequence,
        }
    }

    /// How many sequences the range holds.
    pub fn count(&self) -> u64 {
        self.last.0.saturating_sub(self.first.0).saturating_add(1)
    }

    /// Whether `sequence` is in the range.
    pub fn contains(&self, sequence: Sequence) -> bool {
        self.first <= sequence && sequence <= self.last
    }
}

impl fmt::Display for SequenceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}
