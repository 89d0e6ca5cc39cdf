//! Makes sled's flush reach the disk, and proves at start that it does.
//!
//! On Linux sled 0.34.7 ends every log write with `sync_file_range`, which writes pages out but
//! neither waits for the drive's cache nor commits the file's metadata: after a power cut whole
//! databases were gone. This module defines the C symbol `sync_file_range` in our binary, in terms of
//! `fdatasync`, so that sled's own ordering of writes becomes real. The count of such calls is kept,
//! so that a commit can prove that its flush really synced (`docs/adr`).
//!
//! What failure leaves behind: a `flush` here that returns an error promises nothing about the disk,
//! and the caller must acknowledge nobody.

mod log_end;
mod one_cpu;
mod sled_pool;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use log_end::LogEnd;
pub use one_cpu::commit_on_one_cpu;
pub use sled_pool::rest_surplus_threads;

/// How often our `sync_file_range` has synced.
static SYNCS: AtomicU64 = AtomicU64::new(0);

/// Stands in for the C library's call of that name, for sled: syncs the file's data and the metadata
/// needed to read it back.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)] // the one place: it replaces a C symbol that a dependency calls
mod interpose {
    use std::sync::atomic::Ordering;

    /// See the module's doc. Returns 0, or -1 with `errno` set by `fdatasync`.
    #[unsafe(no_mangle)]
    extern "C" fn sync_file_range(
        fd: libc::c_int,
        offset: i64,
        bytes: i64,
        _flags: libc::c_uint,
    ) -> libc::c_int {
        #[cfg(test)]
        if std::env::var_os(super::tests::NO_SYNC).is_some() {
            return 0;
        }
        super::sled_pool::rest_if_asked(fd);
        super::one_cpu::writing();
        // SAFETY: fdatasync takes any integer; a wrong descriptor is an error it returns.
        let result = unsafe { libc::fdatasync(fd) };
        if result == 0 {
            super::SYNCS.fetch_add(1, Ordering::Release);
            super::log_end::synced(fd, offset.saturating_add(bytes));
        }
        result
    }
}

/// How many syncs sled has had so far; for the self-check and the metrics.
pub fn syncs_total() -> u64 {
    SYNCS.load(Ordering::Acquire)
}

/// Why something could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// sled said no: a full disk, an I/O error, a poisoned handle.
    #[error("flush failed: {0}")]
    Flush(#[from] sled::Error),
    /// The flush returned, but nothing was synced: the guard of this module is not in force.
    #[error("flush returned without a sync reaching the disk")]
    NotSynced,
    /// sled put something into a file of its own, which it never syncs.
    #[error("{0} is not empty: sled put values where they are never synced")]
    Blobs(PathBuf),
    /// A file operation failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DurableError {
    /// For `map_err`: the error with its path.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// Flushes what was written to `db`; on return it is on stable storage. `syncs_before` is
/// [`syncs_total`] as it was before the caller's first write since the last flush; `None` where nothing
/// was written.
///
/// # Errors
/// [`DurableError::Flush`] and [`DurableError::NotSynced`]; then nothing may be acknowledged.
pub fn flush(db: &sled::Db, syncs_before: Option<u64>) -> Result<(), DurableError> {
    db.flush()?;
    if cfg!(target_os = "linux") && syncs_before == Some(syncs_total()) {
        return Err(DurableError::NotSynced);
    }
    Ok(())
}

/// Syncs a file's content and metadata.
pub fn sync_file(path: &Path) -> Result<(), DurableError> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(DurableError::io(path))
}

/// Space left for ordinary users on the file system of `path`, in bytes.
#[allow(unsafe_code)] // statvfs has no safe face in the standard library
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero is a valid statvfs; the call gets a terminated path and a place to write to.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(path.as_ptr(), &raw mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        #[allow(clippy::useless_conversion)] // narrower on 32-bit machines
        Ok(u64::from(stat.f_bavail).saturating_mul(u64::from(stat.f_frsize)))
    }
}

/// Syncs a directory, so that names made or removed in it survive a power cut.
pub fn sync_dir(dir: &Path) -> Result<(), DurableError> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(DurableError::io(dir))
}

/// Makes `dir` and the directories above it that are missing, for this user only, and syncs their names: what is kept in a
/// directory whose own name a power cut takes is lost with it. The name of `dir` is synced also where it is there, since
/// the start that made it may have been killed before it could.
///
/// # Errors
/// It cannot be made. A name that cannot be synced is only logged: who starts must listen.
pub fn make_dirs(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    if !dir.is_dir() {
        if !parent.is_dir() {
            make_dirs(parent)?;
        }
        match std::fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    if let Err(error) = sync_dir(parent) {
        tracing::warn!(%error, "the name of a directory could not be synced");
    }
    Ok(())
}

/// Replaces `path` by a file with `bytes`, durably: afterwards either the old or the new content is there.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = File::create(&temporary).map_err(DurableError::io(&temporary))?;
    file.write_all(bytes)
        .map_err(DurableError::io(&temporary))?;
    file.sync_all().map_err(DurableError::io(&temporary))?;
    std::fs::rename(&temporary, path).map_err(DurableError::io(path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set in a child process of a test: the replaced symbol then does what the C library's would as far as
    /// a power cut is concerned, nothing.
    pub(super) const NO_SYNC: &str = "EDGE_RELAY_TEST_NO_SYNC";

    #[test]
    fn a_flush_is_seen_as_a_sync() {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::open(dir.path()).unwrap();
        let before = syncs_total();
        db.insert(b"k", b"v").unwrap();
        flush(&db, Some(before)).unwrap();
        assert!(syncs_total() > before);
    }

    #[test]
    #[ignore = "run as a child process by the test below"]
    fn opens_a_store() {
        use crate::store::tests::fixture;
        let dir = tempfile::tempdir().unwrap();
        let settings = fixture::settings(dir.path());
        let result = crate::store::Store::open(&settings, fixture::HandClock::new());
        match result {
            Ok(_) => println!("opened"),
            Err(error) => println!("refused: {error}"),
        }
    }

    #[test]
    fn without_the_replaced_symbol_the_store_refuses_to_open() {
        let child = |no_sync: bool| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args([
                "--exact",
                "durable::tests::opens_a_store",
                "--ignored",
                "--nocapture",
            ]);
            if no_sync {
                command.env(NO_SYNC, "1");
            }
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        assert!(child(false).contains("opened"));
        let refused = child(true);
        assert!(refused.contains("refused: self-check"), "{refused}");
    }
}
