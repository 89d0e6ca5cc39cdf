//! Reading for those who carry readings by hand: also what the hub has already, as long as it is on disk.

use std::path::PathBuf;

use hub_bridge::backlog::{BacklogError, Mark, ReadBatch, ReadLimit};
use hub_bridge::identity::{Epoch, Sequence, VillageId};

use super::Store;
use super::backlog::hold_back_unknown;
use super::reader::{Found, storage};

impl Store {
    /// The mark that lets a reading be trimmed.
    pub fn confirming(&self) -> Mark {
        self.shared().settings.read().confirm
    }

    /// The village of new readings.
    pub fn village(&self) -> VillageId {
        self.shared().settings.read().village.clone()
    }

    /// Where all of it lies.
    pub fn data_dir(&self) -> PathBuf {
        self.shared().data_dir.clone()
    }

    /// The village that an epoch's readings were received in.
    pub fn village_of(&self, epoch: Epoch) -> Result<VillageId, BacklogError> {
        let index = self.shared().index.lock();
        Ok(index.epoch(epoch)?.village.clone())
    }

    /// As [`hub_bridge::backlog::Backlog::read`], whatever the marks have passed. Names nothing as lost.
    pub fn read_kept(
        &self,
        epoch: Epoch,
        from: Sequence,
        limit: ReadLimit,
    ) -> Result<ReadBatch, BacklogError> {
        let shared = self.shared();
        let next = shared.index.lock().epoch(epoch)?.next;
        let mut batch = ReadBatch::default();
        let (mut bytes, mut at) = (0, from.0.max(1));
        'pages: while at < next {
            let page = match shared.page(epoch, at)? {
                Found::Page(page) => page,
                Found::Missing(behind) => {
                    at = behind;
                    continue;
                }
            };
            let begin = at;
            let wanted = |s: u64| s >= begin && s < next;
            for reading in page.iter().filter(|r| wanted(r.sequence.0)) {
                let size = reading.size_bytes();
                let full = batch.readings.len() >= limit.count || bytes + size > limit.bytes;
                if full && !batch.readings.is_empty() {
                    at = reading.sequence.0;
                    break 'pages;
                }
                bytes += size;
                batch.readings.push(reading.clone());
            }
            at = page.last().map_or(at, |r| r.sequence.0) + 1;
        }
        batch.next = Some(Sequence(at));
        hold_back_unknown(shared, epoch, &mut batch)?;
        Ok(batch)
    }

    /// Puts what was confirmed on stable storage now.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync_marks(&self) -> Result<(), BacklogError> {
        if self.shared().save_marks(true, false) {
            Ok(())
        } else {
            Err(storage("the marks cannot be put on stable storage"))
        }
    }
}
