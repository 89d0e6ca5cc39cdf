//! The crossing by hand: readings to a stick while the link is dead, and the hub's receipt back.
//!
//! [`Desk`] is what a running relay's admin API and, where none runs, the command line work with: it gives out files
//! of readings, one at a time, signed and encrypted (`hub_bridge::stick`), and confirms what a receipt says. It never
//! writes to the stick itself: the command line does, so that a relay that is locked into its own directories needs no
//! way out of them.
//!
//! Invariant: exporting changes no mark. Readings wait until the link carried them or the hub's receipt names them.

mod carried;
mod export;
mod receipt;

use std::path::PathBuf;
use std::sync::Arc;

use hub_bridge::backlog::BacklogError;
use hub_bridge::clock::Clock;
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::stick::{
    KeyError, PublicKey, Recipients, SigningKey, StickError, StickReceiptError,
};

use crate::store::Store;

pub use export::{Waiting, Wanted};
pub use receipt::{Confirmed, ConfirmedEpoch};

/// `[stick]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whom files are encrypted for.
    pub recipients: Recipients,
    /// Who signs receipts; none: no receipt is taken.
    pub hub_key: Option<PublicKey>,
}

/// Why a stick is not written, or a receipt not taken.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// `[stick] recipients` is empty.
    #[error(
        "stick.recipients is empty: whom the readings are encrypted for must be configured \
         (`hub-bridge import --keys` at the hub shows it)"
    )]
    NoRecipients,
    /// `[stick] hub_key` is not set.
    #[error(
        "stick.hub_key is not set: whose receipts are taken must be configured \
         (`hub-bridge import --keys` at the hub shows it)"
    )]
    NoHubKey,
    /// The village's key.
    #[error("the village's key: {0}")]
    Key(#[from] KeyError),
    /// The files.
    #[error(transparent)]
    Stick(#[from] StickError),
    /// The receipt.
    #[error(transparent)]
    Receipt(#[from] StickReceiptError),
    /// A receipt for another village.
    #[error(
        "the receipt is for village {receipt}, and epoch {epoch} is of village {here}: nothing is confirmed"
    )]
    OtherVillage {
        /// The receipt's.
        receipt: VillageId,
        /// The epoch.
        epoch: Epoch,
        /// The epoch's.
        here: VillageId,
    },
    /// A receipt of which no epoch is here.
    #[error(
        "the receipt is for village {receipt} and names no epoch of this relay ({here}): nothing is confirmed"
    )]
    NotOurs {
        /// The receipt's.
        receipt: VillageId,
        /// Ours.
        here: VillageId,
    },
    /// A receipt for readings that never were.
    #[error(
        "the receipt says that {range} of epoch {epoch} are stored, and only what is below {next} was ever \
         received here: nothing is confirmed"
    )]
    NeverAppended {
        /// The epoch.
        epoch: Epoch,
        /// What it says.
        range: SequenceRange,
        /// The sequence after the last one that exists.
        next: Sequence,
    },
    /// The store.
    #[error(transparent)]
    Backlog(#[from] BacklogError),
}

/// Where files of readings are given out and receipts are taken. Every call blocks on the disk.
pub struct Desk {
    /// The readings.
    pub store: Store,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The relay's village.
    pub village: VillageId,
    /// Where the village's key is kept.
    pub data_dir: PathBuf,
    /// `[stick]`
    pub settings: Settings,
}

/// The village's key in `data_dir`: made at its first use, for this user only.
const KEY_FILE: &str = "stick.key";

impl Desk {
    /// The key that the village signs with.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn key(&self) -> Result<SigningKey, DeskError> {
        Ok(SigningKey::open_or_make(&self.data_dir.join(KEY_FILE))?)
    }
}
