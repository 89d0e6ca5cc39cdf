//! Readings that the hub never takes: kept in `refused/`, one file each, until someone retries them.
//!
//! A retried reading waits again under its own identity; its file goes once the hub has it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hub_bridge::identity::{Epoch, VillageId};
use serde::{Deserialize, Serialize};

use super::envelope::{self, Kind, NO_SALT};
use crate::durable::{self, DurableError};

/// What is known of a refused reading without its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Why the hub did not take it.
    pub(super) reason: String,
    /// When, in ms since 1970 by the clock of that moment.
    pub(super) at_ms: i64,
    /// Whether it waits for the hub again.
    pub(super) retried: bool,
}

/// The content of a file. Frozen: a change of fields is a new version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RefusedV1 {
    pub(super) epoch: u32,
    pub(super) sequence: u64,
    pub(super) village: String,
    pub(super) salt: u32,
    pub(super) reason: String,
    pub(super) at_ms: i64,
    pub(super) retried: bool,
    /// The frame of the reading.
    pub(super) record: Bytes,
}

impl RefusedV1 {
    /// The reading's village.
    pub(super) fn village(&self) -> Option<VillageId> {
        self.village.parse().ok()
    }

    /// What is kept of it in memory.
    pub(super) fn entry(&self) -> Entry {
        Entry {
            reason: self.reason.clone(),
            at_ms: self.at_ms,
            retried: self.retried,
        }
    }
}

/// The directory `refused/`.
#[derive(Debug, Clone)]
pub(super) struct RefusedDir(PathBuf);

impl RefusedDir {
    /// In `data_dir`, made where it is missing.
    pub(super) fn open(data_dir: &Path) -> Self {
        let dir = data_dir.join("refused");
        if let Err(error) = fs::create_dir_all(&dir) {
            tracing::warn!(%error, dir = %dir.display(), "cannot make the directory");
        }
        Self(dir)
    }

    fn path(&self, epoch: Epoch, sequence: u64) -> PathBuf {
        self.0.join(format!("{epoch}-{sequence:020}"))
    }

    /// Puts a reading there, durably, or changes it.
    pub(super) fn put(&self, refused: &RefusedV1) -> Result<(), DurableError> {
        let path = self.path(Epoch(refused.epoch), refused.sequence);
        let record = envelope::seal(Kind::Refused, NO_SALT, refused)
            .map_err(|e| DurableError::io(&path)(io::Error::other(e.to_string())))?;
        durable::write_atomic(&path, &record)
    }

    /// One of them.
    pub(super) fn get(&self, epoch: Epoch, sequence: u64) -> Result<RefusedV1, String> {
        let path = self.path(epoch, sequence);
        let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        envelope::open(Kind::Refused, NO_SALT, &bytes)
            .map_err(|e| format!("{}: {e}", path.display()))
    }

    /// Takes one away, after the hub has it.
    pub(super) fn remove(&self, epoch: Epoch, sequence: u64) -> io::Result<()> {
        fs::remove_file(self.path(epoch, sequence))?;
        durable::sync_dir(&self.0).map_err(io::Error::other)
    }

    /// All that can be read; those that cannot are left where they are, with a warning.
    pub(super) fn list(&self) -> Vec<RefusedV1> {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let sound = fs::read(entry.path())
                .ok()
                .and_then(|bytes| envelope::open::<RefusedV1>(Kind::Refused, NO_SALT, &bytes).ok());
            if let Some(refused) = sound {
                found.push(refused);
            } else {
                tracing::warn!(file = %entry.path().display(), "damaged, left in place");
            }
        }
        found
    }
}
