//! What the hub hands back: which readings of a village are in its database.

use serde::{Deserialize, Serialize};

use super::{PublicKey, RECEIPT_SUFFIX, SignedError, SigningKey, VERSION, signed};
use crate::clock::UnixMillis;
use crate::identity::VillageId;
use crate::wire::receipt::{Receipt, ReceiptError};

const KIND: &str = "receipt";

/// The receipts of a village, one an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickReceipt {
    /// The village.
    pub village: VillageId,
    /// When the hub wrote it.
    pub at: UnixMillis,
    /// What is stored, an epoch each.
    pub epochs: Vec<Receipt>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    version: u8,
    village: VillageId,
    at: UnixMillis,
    epochs: Vec<serde_json::Value>,
}

/// Why a receipt is not taken.
#[derive(Debug, thiserror::Error)]
pub enum StickReceiptError {
    /// The text, or its signature.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// What it says of an epoch.
    #[error("what the receipt says of an epoch: {0}")]
    Receipt(#[from] ReceiptError),
    /// It speaks of two villages.
    #[error("a receipt for {0} that speaks of {1}")]
    OtherVillage(VillageId, VillageId),
}

impl StickReceipt {
    /// The name its file is given.
    pub fn file_name(village: &VillageId) -> String {
        format!("{village}{RECEIPT_SUFFIX}")
    }

    /// Its file, signed by the hub.
    pub fn seal(&self, key: &SigningKey) -> Vec<u8> {
        let epochs = self.epochs.iter();
        let epochs = epochs.map(|r| serde_json::from_slice(&r.to_json()).unwrap_or_default());
        let written = Written {
            version: VERSION,
            village: self.village.clone(),
            at: self.at,
            epochs: epochs.collect(),
        };
        signed::seal(KIND, key, &written)
    }

    /// Reads a file that `hub` signed.
    ///
    /// # Errors
    /// It is none, the signature is not the hub's, or it contradicts itself.
    pub fn open(text: &[u8], hub: &PublicKey) -> Result<Self, StickReceiptError> {
        let written: Written = signed::read(KIND, text)?;
        signed::check(KIND, text, hub)?;
        if written.version != VERSION {
            return Err(SignedError::Version(KIND, written.version).into());
        }
        let mut epochs = Vec::with_capacity(written.epochs.len());
        for epoch in written.epochs {
            let receipt = Receipt::from_json(epoch.to_string().as_bytes())?;
            if receipt.village != written.village {
                return Err(StickReceiptError::OtherVillage(
                    written.village,
                    receipt.village,
                ));
            }
            epochs.push(receipt);
        }
        Ok(Self {
            village: written.village,
            at: written.at,
            epochs,
        })
    }
}
