//! The broker's state on disk: opened whatever it is like, read, and set aside where it is damaged.
//!
//! What failure leaves behind: a damaged database is in the quarantine and an empty one in its place; one that a full
//! disk keeps from being opened stays as it is, and is read from a copy in memory. sled's small files beside the log
//! (`conf`, `snap.*`) go to the quarantine alone where they are damaged: sled makes them anew. What is lost is said
//! ([`Opened::damage`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::state::StateError;
use super::state_proof::{self, Proof, Reached};
use crate::durable;

/// Pieces of values (`state`) are so small that none leaves a segment of this size for an unsynced file.
const SEGMENT_BYTES: usize = 512 * 1024;
const CACHE_BYTES: u64 = 4 * 1024 * 1024;
/// sled's own file with what a database was made with.
const SETTINGS: &str = "conf";
/// A file system in memory, for a moment at a start on a full disk.
const IN_MEMORY: &str = "/dev/shm";
/// How long the lock of a handle that was just dropped is waited for.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a database held: key and value.
pub(super) type Found = Vec<(Vec<u8>, Vec<u8>)>;

/// A database as it was found, whatever it was like.
pub(super) struct Opened {
    /// It, where the disk lets it be opened.
    pub(super) db: Option<sled::Db>,
    /// What is in it.
    pub(super) found: Found,
    /// What must be in it after the next commit, but for what that changes.
    pub(super) proof: Proof,
    /// The file beside it.
    pub(super) reached: Reached,
    /// What was lost, in words.
    pub(super) damage: Option<String>,
}

/// All that was read of a database.
#[derive(Default)]
struct Read {
    found: Found,
    counted: Proof,
    stated: Option<Proof>,
}

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

/// Opens it, or begins an empty one where it is damaged beyond reading.
pub(super) fn open_or_begin(dir: &Path, quarantine: &Path) -> Result<Opened, StateError> {
    let (reached, known) = Reached::open(dir);
    put_unsound_aside(dir, quarantine);
    let (db, read, damage) = read_or_begin(dir, quarantine)?;
    let missing = || read.counted.missing(read.stated, known);
    let damage = damage.or_else(missing).map(|what| {
        tracing::error!(lost = what, "sessions and retained messages were damaged");
        format!("sessions and retained messages: lost to damage: {what}")
    });
    let mut proof = read.counted;
    // No number twice, or what is lost next would not be seen.
    proof.commits = read.stated.map_or(0, |proof| proof.commits).max(known);
    Ok(Opened {
        db,
        found: read.found,
        proof,
        reached,
        damage,
    })
}

/// The database, what is in it, and why it is an empty one in place of another.
fn read_or_begin(
    dir: &Path,
    quarantine: &Path,
) -> Result<(Option<sled::Db>, Read, Option<String>), StateError> {
    let first = open_when_unlocked(dir).and_then(|db| read_all(&db).map(|read| (db, read)));
    let error = match first {
        Ok((db, read)) => {
            sync_new(dir);
            return Ok((Some(db), read, None));
        }
        Err(error) => error,
    };
    if error.disk {
        tracing::warn!(%error, "the state is read from a copy; the database is opened once the disk takes it");
        let (read, damage) = match read_copy(dir) {
            Ok(read) => (read, None),
            Err(error) => (Read::default(), Some(error.reason)),
        };
        return Ok((None, read, damage));
    }
    let aside = set_aside(dir, quarantine, "state");
    tracing::error!(%error, aside = ?aside, "the state was damaged, a new one begins");
    let damage = format!("all of them ({})", error.reason);
    match open_db(dir) {
        Ok(db) => {
            sync_new(dir);
            Ok((Some(db), Read::default(), Some(damage)))
        }
        Err(error) if error.disk => Ok((None, Read::default(), Some(damage))),
        Err(error) => Err(error),
    }
}

/// What is in a database that cannot be opened where it is, since sled writes when it opens: a full disk. The copy is
/// in memory, and goes again.
fn read_copy(dir: &Path) -> Result<Read, StateError> {
    let copy = Path::new(IN_MEMORY).join(format!("edge-relay-state-{}", std::process::id()));
    let read = copy_files(dir, &copy)
        .map_err(|e| StateError::new(e.to_string()))
        .and_then(|()| open_db(&copy))
        .and_then(|db| read_all(&db));
    let _ = std::fs::remove_dir_all(&copy);
    read
}

/// sled gives up a whole database for one of these files, and can do without them: it writes `conf` again, always the
/// same, and reads the log from its beginning where there is no `snap.*`.
fn put_unsound_aside(dir: &Path, quarantine: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // What stands before the checksum of the content: nothing, or the length.
        let trailer = match name.as_str() {
            SETTINGS => 4,
            snap if snap.starts_with("snap.") => 12,
            _ => continue,
        };
        let sound = std::fs::read(entry.path()).is_ok_and(|bytes| {
            let checksum = bytes.last_chunk::<4>().map(|c| u32::from_le_bytes(*c));
            let content = bytes
                .len()
                .checked_sub(trailer)
                .and_then(|n| bytes.get(..n));
            content.is_some_and(|c| c.len() > 4 && checksum == Some(crc32fast::hash(c)))
        });
        if !sound {
            let aside = set_aside(&entry.path(), quarantine, &format!("state-{name}"));
            tracing::warn!(name, ?aside, "damaged, the database does without");
        }
    }
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

/// Moves a file or directory where it can be looked at; where that fails, it is removed, since a relay always starts.
fn set_aside(path: &Path, quarantine: &Path, name: &str) -> Option<PathBuf> {
    if std::fs::create_dir_all(quarantine).is_ok() {
        for number in 1..10_000 {
            let target = quarantine.join(format!("{name}-{number}"));
            if !target.exists() && std::fs::rename(path, &target).is_ok() {
                return Some(target);
            }
        }
    }
    // There may be no room for the quarantine: then it stays beside, where the last such one goes.
    let beside = path.with_extension("damaged");
    let _ = std::fs::remove_dir_all(&beside);
    if path.is_dir() && std::fs::rename(path, &beside).is_ok() {
        return Some(beside);
    }
    let removed = std::fs::remove_dir_all(path).or_else(|_| std::fs::remove_file(path));
    if let Err(error) = removed {
        tracing::error!(%error, "damaged state can neither be moved nor removed");
    }
    None
}

/// Puts the pieces of each value together, in order of key, and counts them.
fn read_all(db: &sled::Db) -> Result<Read, StateError> {
    let read = || {
        let mut read = Read::default();
        for entry in db.iter() {
            let (piece, value) = entry?;
            if piece == state_proof::KEY {
                read.stated = Proof::decode(&value);
                continue;
            }
            read.counted.add(&piece, &value);
            let key = piece
                .get(4..piece.len().saturating_sub(2))
                .ok_or_else(|| StateError::new("a key is too short"))?;
            match read.found.last_mut() {
                Some((last, whole)) if last == key => whole.extend_from_slice(&value),
                _ => read.found.push((key.to_vec(), value.to_vec())),
            }
        }
        Ok(read)
    };
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| StateError::new("the database is damaged"))?
}
