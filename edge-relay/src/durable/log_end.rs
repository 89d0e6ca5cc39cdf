//! How far sled has written in the files that are watched: known from the syncs that pass through our symbol.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// The files that are watched: one, in a relay.
static WATCHED: RwLock<Vec<Arc<Watched>>> = RwLock::new(Vec::new());

#[derive(Debug, Default)]
struct Watched {
    device: u64,
    inode: u64,
    end: AtomicU64,
}

/// Where in a file the last byte lies that sled has synced, watched until this is dropped. Zero where nothing is
/// known: a hint, on which no promise may rest.
#[derive(Debug, Default)]
pub struct LogEnd(Arc<Watched>);

impl LogEnd {
    /// Watches `file`, through whatever descriptor sled writes it.
    pub fn watch(file: &File) -> Self {
        let Ok(data) = file.metadata() else {
            return Self::default();
        };
        let watched = Arc::new(Watched {
            device: data.dev(),
            inode: data.ino(),
            end: AtomicU64::new(data.len()),
        });
        WATCHED.write().push(watched.clone());
        Self(watched)
    }

    /// From the start of the file, in bytes.
    pub fn get(&self) -> u64 {
        self.0.end.load(Ordering::Acquire)
    }
}

impl Drop for LogEnd {
    fn drop(&mut self) {
        WATCHED.write().retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

/// `fd` was synced up to `end`.
#[allow(unsafe_code)] // a raw descriptor comes in from C
pub(super) fn synced(fd: libc::c_int, end: i64) {
    let watched = WATCHED.read();
    if watched.is_empty() {
        return;
    }
    // SAFETY: sled, which calls this, has it open, and it is not kept.
    let file = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let Ok(stat) = rustix::fs::fstat(file) else {
        return;
    };
    let id = (stat.st_dev, stat.st_ino);
    if let Some(file) = watched.iter().find(|w| (w.device, w.inode) == id) {
        file.end
            .fetch_max(u64::try_from(end).unwrap_or(0), Ordering::AcqRel);
    }
}
