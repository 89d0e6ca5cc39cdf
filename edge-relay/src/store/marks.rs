//! How far each epoch has come, on disk: two slots, `marks.a` and `marks.b`, written in turn.
//!
//! A write without sync survives a kill; every second or so one is synced (every half
//! minute while only few readings come: `keeper.rs`). The slot that was synced last
//! is left alone until the other one is synced, so that a power cut during a write leaves a whole one. The
//! slots are made at full size at once, so that a full disk does not stop them.
//!
//! What a crash leaves behind: marks that are a moment old. Readings are then sent again, under the same
//! identities. Marks that are *ahead* of the readings prove that readings are missing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::envelope::{self, Kind, NO_SALT};
use crate::durable;

/// The size a slot is made with, in bytes; more is written where it must.
const SLOT_BYTES: usize = 128 * 1024;

/// Everything that the marks say. Frozen: a change of fields is a new version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MarksV1 {
    /// Counts the writes: the higher one is the newer one.
    pub(super) generation: u64,
    /// Whether the store was closed after this, with nothing on its way.
    pub(super) clean: bool,
    /// One entry an epoch.
    pub(super) epochs: Vec<EpochMarksV1>,
    /// Segments all of whose readings are confirmed, and since when (ms since 1970, by a trusted clock).
    pub(super) ring: Vec<RingV1>,
}

/// The marks of one epoch. Frozen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochMarksV1 {
    /// The epoch as a number.
    pub(super) epoch: u32,
    /// The sequence that the next reading gets, as of this write.
    pub(super) next: u64,
    /// The first sequence of the segment that is being written; 0: none.
    pub(super) live: u64,
    /// Ranges that the hub's broker has.
    pub(super) forwarded: Vec<(u64, u64)>,
    /// Ranges that the hub's database has.
    pub(super) stored: Vec<(u64, u64)>,
    /// Ranges that were lost to damage.
    pub(super) lost: Vec<(u64, u64)>,
}

/// A segment in the ring. Frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RingV1 {
    /// Its epoch.
    pub(super) epoch: u32,
    /// Its first sequence.
    pub(super) first: u64,
    /// Since when it is done; `None` until the clock can be trusted.
    pub(super) since_ms: Option<i64>,
}

/// The two slots.
#[derive(Debug)]
pub(super) struct MarksFile {
    dir: PathBuf,
    slots: [Option<File>; 2],
    /// The slot that is written now; the other one is on stable storage.
    current: usize,
    generation: u64,
}

/// What the slots said at start.
#[derive(Debug)]
pub(super) enum Found {
    /// There are none: a new store.
    Nothing,
    /// There are slots, and none of them can be read.
    Unreadable,
    /// The newer of the sound slots.
    Marks(MarksV1),
}

impl MarksFile {
    const NAMES: [&str; 2] = ["marks.a", "marks.b"];

    /// Opens the slots in `dir`, or makes them.
    pub(super) fn open(dir: &Path) -> (Self, Found) {
        let mut newest: Option<(usize, MarksV1)> = None;
        let mut any = false;
        for (i, name) in Self::NAMES.iter().enumerate() {
            let Ok(bytes) = std::fs::read(dir.join(name)) else {
                continue;
            };
            any |= bytes.iter().any(|b| *b != 0);
            let Ok(sealed) = envelope::unseal_prefix(&bytes, NO_SALT) else {
                continue;
            };
            let Ok(marks) = envelope::open::<MarksV1>(Kind::Marks, NO_SALT, &bytes) else {
                tracing::warn!(version = sealed.version, "marks of another version");
                continue;
            };
            if newest
                .as_ref()
                .is_none_or(|(_, n)| n.generation < marks.generation)
            {
                newest = Some((i, marks));
            }
        }
        let mut file = Self {
            dir: dir.to_owned(),
            slots: [None, None],
            // What was read may not be on stable storage: `sync` is called before anything relies on it.
            current: newest.as_ref().map_or(0, |(i, _)| *i),
            generation: newest.as_ref().map_or(0, |(_, m)| m.generation),
        };
        for slot in 0..2 {
            if let Err(error) = file.slot(slot) {
                tracing::warn!(%error, "a slot of the marks cannot be opened yet");
            }
        }
        let found = match newest {
            Some((_, marks)) => Found::Marks(marks),
            None if any => Found::Unreadable,
            None => Found::Nothing,
        };
        (file, found)
    }

    fn slot(&mut self, slot: usize) -> io::Result<&File> {
        let place = self
            .slots
            .get_mut(slot)
            .ok_or_else(|| io::Error::other("no such slot"))?;
        if place.is_none() {
            let name = Self::NAMES.get(slot).copied().unwrap_or_default();
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.dir.join(name))?;
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            if length < SLOT_BYTES {
                file.write_all_at(&vec![0; SLOT_BYTES - length], length as u64)?;
                file.sync_all()?;
                let _ = durable::sync_dir(&self.dir);
            }
            *place = Some(file);
        }
        place
            .as_ref()
            .ok_or_else(|| io::Error::other("no such slot"))
    }

    /// Writes `marks`; they survive a kill, not yet a power cut.
    pub(super) fn write(&mut self, mut marks: MarksV1) -> io::Result<()> {
        self.generation += 1;
        marks.generation = self.generation;
        let record = envelope::seal(Kind::Marks, NO_SALT, &marks)
            .map_err(|e| io::Error::other(e.to_string()))?;
        self.slot(self.current)?.write_all_at(&record, 0)
    }

    /// Puts what was written last on stable storage.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.slot(self.current)?.sync_data()?;
        self.current = 1 - self.current;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(next: u64) -> MarksV1 {
        MarksV1 {
            epochs: vec![EpochMarksV1 {
                epoch: 7,
                next,
                forwarded: vec![(1, next - 1)],
                ..EpochMarksV1::default()
            }],
            ..MarksV1::default()
        }
    }

    fn next(found: Found) -> Option<u64> {
        match found {
            Found::Marks(m) => Some(m.epochs[0].next),
            _ => None,
        }
    }

    #[test]
    fn a_write_torn_by_a_power_cut_leaves_what_was_synced() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, found) = MarksFile::open(dir.path());
        assert!(matches!(found, Found::Nothing));
        file.write(marks(10)).unwrap();
        file.sync().unwrap();
        file.write(marks(20)).unwrap();
        file.write(marks(30)).unwrap();
        drop(file);
        assert_eq!(next(MarksFile::open(dir.path()).1), Some(30));
        for torn in MarksFile::NAMES {
            let path = dir.path().join(torn);
            let whole = std::fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            bytes[12] ^= 0x40;
            std::fs::write(&path, &bytes).unwrap();
            let left = next(MarksFile::open(dir.path()).1);
            std::fs::write(&path, &whole).unwrap();
            assert!(left == Some(10) || left == Some(30), "{left:?}");
        }
    }

    #[test]
    fn both_slots_damaged_is_not_a_new_store() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, _) = MarksFile::open(dir.path());
        file.write(marks(10)).unwrap();
        drop(file);
        for name in MarksFile::NAMES {
            std::fs::write(dir.path().join(name), b"rubbish").unwrap();
        }
        assert!(matches!(MarksFile::open(dir.path()).1, Found::Unreadable));
    }
}
