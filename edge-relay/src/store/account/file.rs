//! The file `account`.

use std::path::{Path, PathBuf};

use hub_bridge::identity::{Epoch, VillageId};
use serde::{Deserialize, Serialize};

use super::sums::{EpochSumsV1, SumV1};
use crate::durable;
use crate::store::envelope::{self, Kind, NO_SALT};

const FILE: &str = "account";

/// All of it. Frozen: a change of fields is a new version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct AccountV1 {
    /// Oldest first.
    epochs: Vec<EpochSumsV1>,
}

/// The sums, in memory and on disk.
#[derive(Debug)]
pub(in crate::store) struct AccountFile {
    path: PathBuf,
    content: AccountV1,
    /// As it is on disk.
    written: AccountV1,
}

impl AccountFile {
    /// What `data_dir` has; nothing where the file is missing or damaged.
    pub(in crate::store) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let content = match std::fs::read(&path) {
            Ok(bytes) => envelope::open(Kind::Account, NO_SALT, &bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "damaged: the account begins anew");
                AccountV1::default()
            }),
            Err(_) => AccountV1::default(),
        };
        Self {
            path,
            written: content.clone(),
            content,
        }
    }

    /// Writes it, durably, where it has changed. What fails is tried again the next time.
    pub(super) fn write(&mut self) {
        if self.content == self.written {
            return;
        }
        let sealed = envelope::seal(Kind::Account, NO_SALT, &self.content);
        let written = sealed
            .map_err(|error| error.to_string())
            .and_then(|bytes| durable::write_atomic(&self.path, &bytes).map_err(|e| e.to_string()));
        match written {
            Ok(()) => self.written = self.content.clone(),
            Err(error) => tracing::warn!(%error, "the account was not written"),
        }
    }

    /// All epochs.
    pub(super) fn epochs(&self) -> &[EpochSumsV1] {
        &self.content.epochs
    }

    /// One of them.
    pub(super) fn of(&self, epoch: Epoch) -> Option<&EpochSumsV1> {
        let mut all = self.content.epochs.iter();
        all.find(|sums| sums.epoch == epoch.0)
    }

    /// One of them, begun where it is not there.
    pub(super) fn of_mut(&mut self, epoch: Epoch, village: &VillageId) -> &mut EpochSumsV1 {
        let all = &mut self.content.epochs;
        let at = all.iter().position(|sums| sums.epoch == epoch.0);
        let at = at.unwrap_or_else(|| {
            all.push(EpochSumsV1 {
                epoch: epoch.0,
                village: village.to_string(),
                ..EpochSumsV1::default()
            });
            all.len() - 1
        });
        // It was found or made.
        #[allow(clippy::indexing_slicing)]
        &mut all[at]
    }

    /// A segment was summed up.
    pub(super) fn put(&mut self, epoch: Epoch, sum: SumV1) {
        let mut all = self.content.epochs.iter_mut();
        if let Some(sums) = all.find(|sums| sums.epoch == epoch.0) {
            sums.put(sum);
        }
    }

    /// Forgets the oldest of the epochs that are not `kept`, but for `past_max`.
    pub(super) fn forget(&mut self, kept: impl Fn(u32) -> bool, past_max: usize) {
        let past = self.content.epochs.iter().filter(|s| !kept(s.epoch));
        let mut excess = past.count().saturating_sub(past_max);
        self.content.epochs.retain(|sums| {
            let goes = excess > 0 && !kept(sums.epoch);
            excess -= usize::from(goes);
            !goes
        });
    }
}
