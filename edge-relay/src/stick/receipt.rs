//! Confirms what the hub's receipt says is in its database.

use hub_bridge::backlog::{Backlog, Mark};
use hub_bridge::identity::{Epoch, SequenceRange, VillageId};
use hub_bridge::stick::StickReceipt;
use hub_bridge::wire::receipt::Receipt;
use serde::{Deserialize, Serialize};

use super::{Desk, DeskError};
use crate::store::EpochStats;

/// What a receipt did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// The village.
    pub village: VillageId,
    /// Each epoch that the receipt speaks of.
    pub epochs: Vec<ConfirmedEpoch>,
    /// How many readings waited before.
    pub waited_before: u64,
    /// How many still wait.
    pub waiting: u64,
}

/// What it did to one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmedEpoch {
    /// The epoch.
    pub epoch: Epoch,
    /// How many readings the hub says it has.
    pub stored: u64,
    /// Whether the epoch is still kept here; one that is done with is not.
    pub here: bool,
}

impl Desk {
    /// Takes a receipt: all of it, or nothing. Durable when it returns.
    ///
    /// # Errors
    /// It is not the hub's, not for this village, or speaks of readings that never were: then nothing is confirmed.
    pub fn take_receipt(&self, text: &[u8]) -> Result<Confirmed, DeskError> {
        let hub = self.settings.hub_key.ok_or(DeskError::NoHubKey)?;
        let receipt = StickReceipt::open(text, &hub)?;
        let before = self.store.stats();
        let find = |epoch: Epoch| before.epochs.iter().find(|e| e.epoch == epoch);
        for epoch in &receipt.epochs {
            if let Some(here) = find(epoch.epoch) {
                check(epoch, here)?;
            }
        }
        let known = |r: &&Receipt| find(r.epoch).is_some();
        if receipt.village != self.village && !receipt.epochs.iter().any(|r| known(&r)) {
            return Err(DeskError::NotOurs {
                receipt: receipt.village,
                here: self.village.clone(),
            });
        }
        for epoch in receipt.epochs.iter().filter(known) {
            self.store
                .confirm(epoch.epoch, Mark::Stored, &epoch.stored)?;
        }
        self.store.sync_marks()?;
        let epochs = receipt.epochs.iter().map(|r| ConfirmedEpoch {
            epoch: r.epoch,
            stored: r.stored.iter().map(SequenceRange::count).sum(),
            here: known(&r),
        });
        Ok(Confirmed {
            village: receipt.village.clone(),
            epochs: epochs.collect(),
            waited_before: before.readings,
            waiting: self.store.stats().readings,
        })
    }
}

fn check(receipt: &Receipt, here: &EpochStats) -> Result<(), DeskError> {
    if receipt.village != here.village {
        return Err(DeskError::OtherVillage {
            receipt: receipt.village.clone(),
            epoch: receipt.epoch,
            here: here.village.clone(),
        });
    }
    let mut stored = receipt.stored.iter();
    match stored.find(|range| range.last >= here.next_sequence) {
        Some(range) => Err(DeskError::NeverAppended {
            epoch: receipt.epoch,
            range: *range,
            next: here.next_sequence,
        }),
        None => Ok(()),
    }
}
