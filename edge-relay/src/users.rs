//! Who may connect: a file of `name:argon2id-hash` lines, and the check of a password against it.
//!
//! A hash costs 8 MiB and some ten milliseconds, so only a few run at a time, off the async threads, and a
//! pair that was right is remembered by a keyed digest: a village that reconnects after a power cut does not
//! wait for a thousand hashes.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use crate::durable::{self, DurableError};

/// Memory of one hash, in KiB: two at a time must fit beside the relay on a 1 GB gateway.
const HASH_KIB: u32 = 8 * 1024;
const HASH_PASSES: u32 = 2;
/// What a hash that another program made may cost at most: a line of a text file must not take the gateway's memory.
const HASH_KIB_MAX: u32 = 64 * 1024;
const HASH_PASSES_MAX: u32 = 16;
/// Hashes at a time.
const HASHES_MAX: usize = 2;
/// Pairs remembered.
const REMEMBERED_MAX: usize = 4_096;

/// The users file could not be read, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// Reading failed.
    #[error("{path}: {source}")]
    Read {
        /// The users file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not `name:hash`.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The users file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A name that cannot be a user.
    #[error("a user name must be 1 to 256 characters without ':' and control characters")]
    Name,
    /// A password that cannot be hashed.
    #[error("the password cannot be hashed: {0}")]
    Password(String),
    /// No such user.
    #[error("there is no user {0:?}")]
    Unknown(String),
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] DurableError),
}

/// The users as a file has them: name to hash, in order of name.
type Hashes = BTreeMap<String, String>;

/// Adds a user, or gives it another password. Makes the file where it is missing, with mode 0600.
pub fn add(path: &Path, name: &str, password: &str) -> Result<(), UsersError> {
    if name.is_empty()
        || name.len() > 256
        || name.contains([':'])
        || name.contains(char::is_control)
    {
        return Err(UsersError::Name);
    }
    let mut hashes = read_or_empty(path)?;
    hashes.insert(name.to_owned(), hash(password.as_bytes())?);
    write(path, &hashes)
}

/// Removes a user.
pub fn remove(path: &Path, name: &str) -> Result<(), UsersError> {
    let mut hashes = read(path)?;
    if hashes.remove(name).is_none() {
        return Err(UsersError::Unknown(name.to_owned()));
    }
    write(path, &hashes)
}

/// The users' names, in order.
pub fn list(path: &Path) -> Result<Vec<String>, UsersError> {
    read(path).map(|hashes| hashes.into_keys().collect())
}

fn read_or_empty(path: &Path) -> Result<Hashes, UsersError> {
    match read(path) {
        Err(UsersError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(Hashes::new())
        }
        other => other,
    }
}

fn read(path: &Path) -> Result<Hashes, UsersError> {
    let text = std::fs::read_to_string(path).map_err(|source| UsersError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut hashes = Hashes::new();
    for (line, content) in (1..).zip(text.lines()) {
        if content.trim().is_empty() || content.starts_with('#') {
            continue;
        }
        let wrong = |reason| UsersError::Line {
            path: path.to_owned(),
            line,
            reason,
        };
        let (name, hash) = content
            .split_once(':')
            .ok_or_else(|| wrong("it is not NAME:HASH"))?;
        let parsed =
            PasswordHash::new(hash.trim()).map_err(|_| wrong("the hash is no PHC string"))?;
        if parsed.algorithm.as_str() != "argon2id" {
            return Err(wrong("the hash is not of argon2id"));
        }
        let affordable = Params::try_from(&parsed)
            .is_ok_and(|cost| cost.m_cost() <= HASH_KIB_MAX && cost.t_cost() <= HASH_PASSES_MAX);
        if !affordable {
            return Err(wrong(
                "the hash asks for over 64 MiB of memory or 16 passes",
            ));
        }
        if hashes
            .insert(name.to_owned(), hash.trim().to_owned())
            .is_some()
        {
            return Err(wrong("the name stands twice"));
        }
    }
    Ok(hashes)
}

fn write(path: &Path, hashes: &Hashes) -> Result<(), UsersError> {
    let mut text = String::new();
    for (name, hash) in hashes {
        text.push_str(name);
        text.push(':');
        text.push_str(hash);
        text.push('\n');
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    write_private(&temporary, text.as_bytes()).map_err(DurableError::io(&temporary))?;
    std::fs::rename(&temporary, path).map_err(DurableError::io(path))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    durable::sync_dir(parent.unwrap_or(Path::new(".")))?;
    Ok(())
}

/// Writes and syncs a new file that only the relay's user may read.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn argon2() -> Result<Argon2<'static>, UsersError> {
    let params = Params::new(HASH_KIB, HASH_PASSES, 1, None)
        .map_err(|e| UsersError::Password(e.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash(password: &[u8]) -> Result<String, UsersError> {
    let salt = SaltString::generate(&mut OsRng);
    argon2()?
        .hash_password(password, &salt)
        .map(|hash| hash.to_string())
        .map_err(|e| UsersError::Password(e.to_string()))
}

/// Checks passwords while the relay runs.
pub struct Users {
    hashes: RwLock<Arc<Hashes>>,
    remembered: Mutex<HashMap<Digest, Box<str>>>,
    keys: [RandomState; 2],
    hashing: Arc<Semaphore>,
}

/// A keyed digest of (name, password), 128 bits; the keys are drawn at start and never leave the process.
type Digest = [u64; 2];

impl Users {
    /// Reads the file; without one, there are no users.
    pub fn open(path: Option<&Path>) -> Result<Self, UsersError> {
        let users = Self {
            hashes: RwLock::default(),
            remembered: Mutex::default(),
            keys: [RandomState::new(), RandomState::new()],
            hashing: Arc::new(Semaphore::new(HASHES_MAX)),
        };
        users.reload(path)?;
        Ok(users)
    }

    /// Reads the file again; on an error the users stay as they were. A missing file is one without users, so that
    /// a relay starts before the first `user add`.
    pub fn reload(&self, path: Option<&Path>) -> Result<(), UsersError> {
        let hashes = path.map_or_else(|| Ok(Hashes::new()), read_or_empty)?;
        *self.hashes.write() = Arc::new(hashes);
        self.remembered.lock().clear();
        Ok(())
    }

    /// Whether the password is that user's. An unknown user takes as long as a wrong password.
    pub async fn verify(&self, name: &str, password: &[u8]) -> bool {
        let hashes = self.hashes.read().clone();
        let stored = hashes.get(name).cloned();
        let digest = self
            .keys
            .each_ref()
            .map(|key| key.hash_one((name, password)));
        if let Some(stored) = &stored
            && self
                .remembered
                .lock()
                .get(&digest)
                .is_some_and(|hash| **hash == **stored)
        {
            return true;
        }
        let Ok(permit) = self.hashing.clone().acquire_owned().await else {
            return false;
        };
        let password = password.to_vec();
        let of_hash = stored.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            check(of_hash.as_deref(), &password)
        });
        let right = verified.await.unwrap_or(false);
        if let (true, Some(stored)) = (right, stored) {
            let mut remembered = self.remembered.lock();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(digest, stored.into());
        }
        right
    }
}

fn check(stored: Option<&str>, password: &[u8]) -> bool {
    let Some(stored) = stored else {
        let _ = hash(password);
        return false;
    };
    PasswordHash::new(stored)
        .and_then(|hash| argon2::Argon2::default().verify_password(password, &hash))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn the_file_decides_who_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        add(&path, "meter", "s3cret").unwrap();
        add(&path, "other", "x").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!std::fs::read_to_string(&path).unwrap().contains("s3cret"));
        let users = Users::open(Some(&path)).unwrap();
        assert!(users.verify("meter", b"s3cret").await);
        assert!(users.verify("meter", b"s3cret").await, "from memory");
        assert!(!users.verify("meter", b"wrong").await);
        assert!(!users.verify("nobody", b"s3cret").await);
        add(&path, "meter", "new").unwrap();
        remove(&path, "other").unwrap();
        users.reload(Some(&path)).unwrap();
        assert!(
            !users.verify("meter", b"s3cret").await,
            "the old one is forgotten"
        );
        assert!(users.verify("meter", b"new").await);
        assert_eq!(list(&path).unwrap(), ["meter"]);
        assert!(matches!(
            remove(&path, "other"),
            Err(UsersError::Unknown(_))
        ));
    }

    #[test]
    fn a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::fs::write(&path, "# ours\n\nmeter:plain\n").unwrap();
        let error = list(&path).unwrap_err().to_string();
        assert!(error.contains("line 3"), "{error}");
        assert!(matches!(add(&path, "a:b", "x"), Err(UsersError::Name)));
    }
}
