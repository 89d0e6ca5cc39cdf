//! Readings that the hub never takes: kept in `refused/`, one file each, until someone retries them.
//!
//! A retried reading waits again under its own identity; its file goes once the hub has it.
//!
//! The marks have passed these readings, so nothing else would miss a file that is gone. `refused.list` beside the
//! directory does: a line for each that came and each that went, synced, a checksum a line. A file is written before its
//! line, and a line taken back before its file, so that a crash between the two leaves a file too many and never one
//! too few. Made anew at each start.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
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

/// The directory `refused/`, and the list beside it.
#[derive(Debug, Clone)]
pub(super) struct RefusedDir {
    dir: PathBuf,
    list: PathBuf,
}

/// What `refused/` holds at a start.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// All that can be read.
    pub(super) sound: Vec<RefusedV1>,
    /// Epochs and sequences of those that should be there and are not, or cannot be read.
    pub(super) gone: Vec<(Epoch, u64)>,
}

impl RefusedDir {
    /// In `data_dir`, made where it is missing.
    pub(super) fn open(data_dir: &Path) -> Self {
        let dir = data_dir.join("refused");
        if let Err(error) = fs::create_dir_all(&dir) {
            tracing::warn!(%error, dir = %dir.display(), "cannot make the directory");
        }
        let list = data_dir.join("refused.list");
        Self { dir, list }
    }

    fn path(&self, epoch: Epoch, sequence: u64) -> PathBuf {
        self.dir.join(format!("{epoch}-{sequence:020}"))
    }

    /// Puts a reading there, durably, or changes it.
    pub(super) fn put(&self, refused: &RefusedV1) -> Result<(), DurableError> {
        let path = self.path(Epoch(refused.epoch), refused.sequence);
        let record = envelope::seal(Kind::Refused, NO_SALT, refused)
            .map_err(|e| DurableError::io(&path)(io::Error::other(e.to_string())))?;
        durable::write_atomic(&path, &record)?;
        self.note('+', Epoch(refused.epoch), refused.sequence)
            .map_err(DurableError::io(&self.list))
    }

    /// Adds a line to the list.
    fn note(&self, change: char, epoch: Epoch, sequence: u64) -> io::Result<()> {
        let mut list = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.list)?;
        list.write_all(line(change, epoch, sequence).as_bytes())?;
        list.sync_data()
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
        self.note('-', epoch, sequence)?;
        fs::remove_file(self.path(epoch, sequence))?;
        durable::sync_dir(&self.dir).map_err(io::Error::other)
    }

    /// All that should be there. Files that cannot be read are left where they are, with a warning.
    pub(super) fn read(&self) -> Refused {
        let mut refused = Refused::default();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let sound = fs::read(entry.path())
                .ok()
                .and_then(|bytes| envelope::open::<RefusedV1>(Kind::Refused, NO_SALT, &bytes).ok());
            if let Some(sound) = sound {
                refused.sound.push(sound);
            } else {
                tracing::warn!(file = %entry.path().display(), "damaged, left in place");
                let name = entry.file_name().to_string_lossy().into_owned();
                refused.gone.extend(parse_identity(&name, '-'));
            }
        }
        let there: BTreeSet<_> = refused
            .sound
            .iter()
            .map(|r| (r.epoch, r.sequence))
            .collect();
        let mut gone: BTreeSet<_> = refused.gone.into_iter().collect();
        gone.extend(self.listed());
        gone.retain(|(epoch, sequence)| !there.contains(&(epoch.0, *sequence)));
        refused.gone = gone.into_iter().collect();
        refused
    }

    fn listed(&self) -> BTreeSet<(Epoch, u64)> {
        let text = fs::read(&self.list).unwrap_or_default();
        let mut listed = BTreeSet::new();
        for entry in String::from_utf8_lossy(&text).lines() {
            let change = entry.chars().next().unwrap_or_default();
            let identity = entry
                .get(2..entry.len().saturating_sub(9))
                .unwrap_or_default();
            let Some((epoch, sequence)) = parse_identity(identity, '/') else {
                continue;
            };
            if format!("{entry}\n") != line(change, epoch, sequence) {
                continue;
            }
            if change == '+' {
                listed.insert((epoch, sequence));
            } else {
                listed.remove(&(epoch, sequence));
            }
        }
        listed
    }

    /// Begins the list anew, with what is there; once what is gone is known elsewhere.
    pub(super) fn list_only(&self, sound: impl Iterator<Item = (Epoch, u64)>) {
        let text: String = sound
            .map(|(epoch, sequence)| line('+', epoch, sequence))
            .collect();
        if fs::read(&self.list).unwrap_or_default() == text.as_bytes() {
            return;
        }
        if let Err(error) = durable::write_atomic(&self.list, text.as_bytes()) {
            tracing::warn!(%error, "the list of refused readings was not written");
        }
    }
}

fn line(change: char, epoch: Epoch, sequence: u64) -> String {
    let words = format!("{change} {epoch}/{sequence}");
    let checksum = crc32fast::hash(words.as_bytes());
    format!("{words} {checksum:08x}\n")
}

fn parse_identity(text: &str, between: char) -> Option<(Epoch, u64)> {
    let (epoch, sequence) = text.split_once(between)?;
    Some((epoch.parse().ok()?, sequence.parse().ok()?))
}
