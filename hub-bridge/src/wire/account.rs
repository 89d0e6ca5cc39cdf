//! What a relay says of its own store at each drain, so that an audit at the hub needs no access to the village.
//!
//! Published retained, one message an epoch. `through` counts: the account speaks of the sequences 1 to `through`, each of
//! which is in the digest, or lost, or unknown. Refused ones are in the digest.

use serde::{Deserialize, Serialize};

use crate::clock::{ClockQuality, UnixMillis};
use crate::identity::{Epoch, Sequence, VillageId};

use super::digest::Digest;

/// The version that this program writes and reads.
pub const VERSION: u8 = 1;

/// A range of sequences that the hub will not get, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// The first sequence.
    pub first: Sequence,
    /// The last one.
    pub last: Sequence,
    /// In words: what damaged it, or why the hub did not take it.
    pub reason: String,
}

/// A relay's account of one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Of this protocol: [`VERSION`].
    pub version: u8,
    /// The village.
    pub village: VillageId,
    /// The epoch.
    pub epoch: Epoch,
    /// Whether the relay still writes this epoch.
    pub current: bool,
    /// The last sequence that the account speaks of; 0: none.
    pub through: Sequence,
    /// How many readings are in `digest`: `through` less the lost and the unknown ones. Refused ones were stored, and count.
    pub stored: u64,
    /// [`SetDigest`](super::digest::SetDigest) of those.
    pub digest: Digest,
    /// What damage took, in order.
    pub lost: Vec<Absent>,
    /// What the hub did not take: kept in the village, in order.
    pub refused: Vec<Absent>,
    /// What the account cannot speak of, in order, and why: the hub may have it, and it is not in `digest`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Absent>,
    /// The epoch is over, and from this sequence on nobody knows whether readings were received and lost: its end was
    /// damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail_unknown_from: Option<Sequence>,
    /// When the account was drawn up.
    pub at: UnixMillis,
    /// Whether that time is to be trusted.
    pub clock: ClockQuality,
}

/// Why bytes are not an account.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Not the JSON of an account.
    #[error("not an account: {0}")]
    Json(#[from] serde_json::Error),
    /// A later version of this protocol.
    #[error("an account of version {0}, and version {VERSION} is known here")]
    Version(u8),
}

impl Account {
    /// The message's payload.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a message's payload.
    ///
    /// # Errors
    /// Where it is none, or of a later version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, AccountError> {
        let account: Self = serde_json::from_slice(bytes)?;
        if account.version == VERSION {
            Ok(account)
        } else {
            Err(AccountError::Version(account.version))
        }
    }
}
