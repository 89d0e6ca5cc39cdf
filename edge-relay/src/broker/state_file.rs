//! The broker's state on disk: opened whatever it is like, read, and set aside where it is damaged.
//!
//! What failure leaves behind: a damaged database is in the quarantine and an empty one in its place; one that a full
//! disk keeps from being opened stays as it is, and is read from a copy in memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::state::StateError;
use crate::durable;

/// Pieces of values (`state`) are so small that none leaves a segment of this size for an unsynced file.
const SEGMENT_BYTES: usize = 512 * 1024;
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// A file system in memory, for a moment at a start on a full disk.
const IN_MEMORY: &str = "/dev/shm";
/// How long the lock of a handle that was just dropped is waited for.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Where sled keeps the settings of a database, always the same ones here: bytes and their checksum.
const SETTINGS: &str = "conf";

/// What a database held: key and value.
pub(super) type Found = Vec<(Vec<u8>, Vec<u8>)>;

/// sled opens what is damaged with a panic, so that is caught here.
pub(super) fn open_db(dir: &Path) -> Result<sled::Db, StateError> {
    let dir = dir.to_owned();
    catch_unwind(move || {
        sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .open()
    })
    .map_err(|_| StateError::new("the database is damaged"))?
    .map_err(StateError::from)
}

pub(super) fn no_blobs(dir: &Path) -> Result<(), StateError> {
    let has_some = std::fs::read_dir(dir.join("blobs")).is_ok_and(|mut d| d.next().is_some());
    if has_some {
        return Err(StateError::new("a value went to a file that is not synced"));
    }
    Ok(())
}

/// sled gives its lock back a moment after its handle is dropped: that is no damage.
fn open_when_unlocked(dir: &Path) -> Result<sled::Db, StateError> {
    let until = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match open_db(dir) {
            Err(error)
                if error.reason.contains("could not acquire lock") && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// The database, where the disk lets it be opened, and what is in it.
pub(super) fn open_or_begin(
    dir: &Path,
    quarantine: &Path,
) -> Result<(Option<sled::Db>, Found), StateError> {
    mend_settings(dir);
    let first = open_when_unlocked(dir).and_then(|db| read_all(&db).map(|found| (db, found)));
    let error = match first {
        Ok((db, found)) => {
            sync_new(dir);
            return Ok((Some(db), found));
        }
        Err(error) => error,
    };
    if error.disk {
        tracing::warn!(%error, "the state is read from a copy; the database is opened once the disk takes it");
        return Ok((None, read_copy(dir)));
    }
    let aside = set_aside(dir, quarantine);
    tracing::error!(%error, aside = ?aside, "sessions and retained messages are lost: the state was damaged");
    match open_db(dir) {
        Ok(db) => {
            sync_new(dir);
            Ok((Some(db), Vec::new()))
        }
        Err(error) if error.disk => Ok((None, Vec::new())),
        Err(error) => Err(error),
    }
}

/// sled opens no database whose settings are damaged, and writes them anew where there are none.
fn mend_settings(dir: &Path) {
    let path = dir.join(SETTINGS);
    let Ok(bytes) = std::fs::read(&path) else {
        return;
    };
    let sound = bytes
        .split_last_chunk::<4>()
        .is_some_and(|(settings, checksum)| {
            crc32fast::hash(settings) == u32::from_le_bytes(*checksum)
        });
    if !sound {
        tracing::warn!(path = %path.display(), "damaged, written anew");
        let _ = std::fs::remove_file(&path);
    }
}

/// What is in a database that cannot be opened where it is, since sled writes when it opens: a full disk. The copy is
/// in memory, and goes again.
fn read_copy(dir: &Path) -> Found {
    let copy = Path::new(IN_MEMORY).join(format!("edge-relay-state-{}", std::process::id()));
    let found = copy_files(dir, &copy)
        .map_err(|e| StateError::new(e.to_string()))
        .and_then(|()| open_db(&copy))
        .and_then(|db| read_all(&db));
    let _ = std::fs::remove_dir_all(&copy);
    found.unwrap_or_else(|error| {
        tracing::error!(%error, "sessions and retained messages are unknown until the next start");
        Vec::new()
    })
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The names of a new database must survive a power cut too, and so must the file with its settings, which sled does not
/// sync.
fn sync_new(dir: &Path) {
    if let Err(error) = durable::sync_file(&dir.join(SETTINGS)) {
        tracing::warn!(%error, "the database's settings could not be synced");
    }
    for dir in [Some(dir), dir.parent()].into_iter().flatten() {
        if let Err(error) = durable::sync_dir(dir) {
            tracing::warn!(%error, "a directory could not be synced");
        }
    }
}

/// Moves the directory where it can be looked at; where that fails, it is removed, since a relay always starts.
fn set_aside(dir: &Path, quarantine: &Path) -> Option<PathBuf> {
    if std::fs::create_dir_all(quarantine).is_ok() {
        for number in 1..10_000 {
            let target = quarantine.join(format!("state-{number}"));
            if !target.exists() && std::fs::rename(dir, &target).is_ok() {
                return Some(target);
            }
        }
    }
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::error!(%error, "damaged state can neither be moved nor removed");
    }
    None
}

/// Puts the pieces of each value together, in order of key.
fn read_all(db: &sled::Db) -> Result<Found, StateError> {
    let read = || {
        let mut found: Found = Vec::new();
        for entry in db.iter() {
            let (piece, value) = entry?;
            let key = piece
                .get(4..piece.len().saturating_sub(2))
                .ok_or_else(|| StateError::new("a key is too short"))?;
            match found.last_mut() {
                Some((last, whole)) if last == key => whole.extend_from_slice(&value),
                _ => found.push((key.to_vec(), value.to_vec())),
            }
        }
        Ok(found)
    };
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| StateError::new("the database is damaged"))?
}
