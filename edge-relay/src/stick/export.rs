//! Gives out what waits, one file at a time.

use hub_bridge::backlog::{Backlog, ReadBatch, ReadLimit};
use hub_bridge::identity::{Epoch, Sequence, VillageId};
use hub_bridge::stick::{Listed, Manifest, StickWriter, VERSION};
use hub_bridge::wire::frame::Frame;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::carried::carried;
use super::{Desk, DeskError};

/// A file ends with the frame that takes it past so many bytes.
const FILE_BYTES: u64 = 8 * 1024 * 1024;
/// Or with so many readings: making one takes seconds on a small machine.
const FILE_READINGS: u64 = 50_000;
/// A frame holds so many readings at most, and about so many bytes of them.
const FRAME: ReadLimit = ReadLimit {
    count: 4000,
    bytes: 2 * 1024 * 1024,
};

/// One file at a time: each takes memory of its size.
static MAKING: Mutex<()> = Mutex::new(());

/// An epoch with something to carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which.
    pub epoch: Epoch,
    /// The village its readings were received in.
    pub village: VillageId,
    /// From where on there is something to carry.
    pub first: Sequence,
    /// The sequence that its next reading gets.
    pub next: Sequence,
}

/// Which readings a file is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Of which epoch.
    pub epoch: Epoch,
    /// From which sequence on.
    pub from: Sequence,
    /// Below which.
    pub below: Sequence,
    /// Also those that the hub has already and that are still on disk.
    #[serde(default)]
    pub all: bool,
}

impl Desk {
    /// The epochs that hold something to carry, oldest first; with `all`, also what the hub has already.
    pub fn waiting(&self, all: bool) -> Vec<Waiting> {
        let mut found = Vec::new();
        if all {
            let stats = self.store.stats();
            for segment in self.store.segments() {
                let of_epoch = |e: &&crate::store::EpochStats| e.epoch == segment.epoch;
                let Some(epoch) = stats.epochs.iter().find(of_epoch) else {
                    continue;
                };
                let known = |w: &Waiting| w.epoch == segment.epoch;
                if segment.first < segment.end && !found.iter().any(known) {
                    found.push(Waiting {
                        epoch: segment.epoch,
                        village: epoch.village.clone(),
                        first: segment.first,
                        next: epoch.next_sequence,
                    });
                }
            }
            return found;
        }
        let epochs = self.store.epochs().into_iter();
        let waiting = epochs.filter(|e| e.first_unconfirmed < e.next);
        waiting
            .map(|e| Waiting {
                epoch: e.epoch,
                village: e.village,
                first: e.first_unconfirmed,
                next: e.next,
            })
            .collect()
    }

    /// The next file of what is `wanted`; `None` where nothing of it is left.
    ///
    /// # Errors
    /// No recipients are configured, the key cannot be had, or the store fails.
    pub fn file(&self, wanted: Wanted) -> Result<Option<Vec<u8>>, DeskError> {
        if self.settings.recipients.is_empty() {
            return Err(DeskError::NoRecipients);
        }
        let _one_at_a_time = MAKING.lock();
        let key = self.key()?;
        let village = self.store.village_of(wanted.epoch)?;
        let recipients = &self.settings.recipients;
        let mut file = StickWriter::new(village.clone(), wanted.epoch, recipients)?;
        let mut at = wanted.from;
        while at < wanted.below && file.size_bytes() < FILE_BYTES && file.count() < FILE_READINGS {
            let batch = self.read(wanted, at)?;
            let readings = batch.readings.iter();
            let readings = readings.take_while(|r| r.sequence < wanted.below);
            let frame = Frame {
                village: village.clone(),
                epoch: wanted.epoch,
                readings: readings.map(|r| carried(r, self.clock.as_ref())).collect(),
            };
            file.push(&frame)?;
            at = match batch.next {
                Some(next) if next > at => next,
                _ => break,
            };
        }
        if file.count() == 0 {
            return Ok(None);
        }
        let (_, bytes) = file.finish(&key)?;
        Ok(Some(bytes))
    }

    fn read(&self, wanted: Wanted, at: Sequence) -> Result<ReadBatch, DeskError> {
        let read = if wanted.all {
            self.store.read_kept(wanted.epoch, at, FRAME)
        } else {
            let mark = self.store.confirming();
            self.store.read(wanted.epoch, at, mark, FRAME)
        };
        Ok(read?)
    }

    /// The list of the files of an export, signed.
    ///
    /// # Errors
    /// The key cannot be had.
    pub fn list(&self, files: Vec<Listed>) -> Result<Vec<u8>, DeskError> {
        let now = self.clock.stamp();
        let manifest = Manifest {
            version: VERSION,
            village: self.village.clone(),
            at: now.wall,
            clock: now.quality,
            files,
        };
        Ok(manifest.seal(&self.key()?))
    }
}
