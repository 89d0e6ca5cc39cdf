//! The hub's word that readings are in its database: which sequences of an epoch are rows.
//!
//! Published retained, one message an epoch, so that a relay that was away for weeks gets the newest at once. The ranges
//! are all that is stored, not what is new: a receipt that is lost is made good by the next.

use serde::{Deserialize, Serialize};

use crate::identity::{Epoch, Sequence, SequenceRange, VillageId};

/// The version that this program writes and reads.
const VERSION: u8 = 1;
/// A receipt names at most so many ranges: where there are more, the lowest half and the highest half of that.
pub const RANGES_MAX: usize = 2_000;

/// What is stored of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The village.
    pub village: VillageId,
    /// The epoch.
    pub epoch: Epoch,
    /// Its stored sequences: in order, apart from each other, at most [`RANGES_MAX`].
    pub stored: Vec<SequenceRange>,
}

/// Why bytes are not a receipt.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Not the JSON of a receipt.
    #[error("not a receipt: {0}")]
    Json(#[from] serde_json::Error),
    /// A later version of this protocol.
    #[error("a receipt of version {0}, and version {VERSION} is known here")]
    Version(u8),
    /// A range that ends before it begins, begins at 0, or overlaps the one before.
    #[error("ranges that are none: {0} to {1}")]
    Range(u64, u64),
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u8,
    village: VillageId,
    epoch: Epoch,
    stored: Vec<(u64, u64)>,
}

impl Receipt {
    /// The message's payload.
    pub fn to_json(&self) -> Vec<u8> {
        let ranges = self.stored.iter().take(RANGES_MAX);
        let written = Written {
            version: VERSION,
            village: self.village.clone(),
            epoch: self.epoch,
            stored: ranges.map(|r| (r.first.0, r.last.0)).collect(),
        };
        // Strings and numbers always have a JSON form.
        serde_json::to_vec(&written).unwrap_or_default()
    }

    /// Reads a message's payload. Whether village and epoch are those of the topic is for the caller to see.
    ///
    /// # Errors
    /// Where it is none, or of a later version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let written: Written = serde_json::from_slice(bytes)?;
        if written.version != VERSION {
            return Err(ReceiptError::Version(written.version));
        }
        let mut stored: Vec<SequenceRange> = Vec::with_capacity(written.stored.len());
        for (first, last) in written.stored {
            let after = stored.last().map_or(0, |range| range.last.0);
            let range = SequenceRange::new(Sequence(first), Sequence(last));
            let range = range.filter(|_| first > after);
            stored.push(range.ok_or(ReceiptError::Range(first, last))?);
        }
        Ok(Self {
            village: written.village,
            epoch: written.epoch,
            stored,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_goes_there_and_back_and_a_wrong_one_is_refused() {
        let receipt = Receipt {
            village: "bamenda-01".parse().unwrap(),
            epoch: Epoch(0xabcd),
            stored: vec![
                SequenceRange::new(Sequence(1), Sequence(5000)).unwrap(),
                SequenceRange::one(Sequence(5003)),
            ],
        };
        let json = receipt.to_json();
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            r#"{"version":1,"village":"bamenda-01","epoch":"0000abcd","stored":[[1,5000],[5003,5003]]}"#
        );
        assert_eq!(Receipt::from_json(&json).unwrap(), receipt);
        for wrong in [
            r#"{"version":1,"village":"b","epoch":"0000abcd","stored":[[5,4]]}"#,
            r#"{"version":1,"village":"b","epoch":"0000abcd","stored":[[1,4],[4,5]]}"#,
            r#"{"version":1,"village":"b","epoch":"0000abcd","stored":[[0,4]]}"#,
            r#"{"version":2,"village":"b","epoch":"0000abcd","stored":[]}"#,
            "{}",
            "",
        ] {
            assert!(Receipt::from_json(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
