//! Puts most of sled's I/O threads to rest.
//!
//! sled 0.34.7 keeps seven threads that wait for writes, and wakes *all* of them for each write (`threadpool.rs`:
//! `notify_all`). With one write a commit, six threads woke up for nothing. The number cannot be set. So, once a process: a small database is written until six of its writes
//! are in a sync that never returns, because it is ours ([`super::interpose`]). One thread is left. The broker's state,
//! which is written rarely beside the backlog, waits for it as for the disk itself.
//!
//! That is safe because no work that sled gives to these threads waits for other work of theirs, `flush_async` apart,
//! which is used nowhere; and because a thread that writes holds none of sled's locks while it syncs. (One that *waits*
//! for a flush does, and then `apply_batch` of any database waits for it: so nothing is flushed here.) sled counts a thread
//! that works as one less that waits, so with six at rest it never starts another: the queue has one thread for good.
//!
//! What failure leaves behind: threads that wake for nothing. The database's files are removed at once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many of sled's seven threads rest.
const THREADS: usize = 6;

/// Of the database: few values fill one, and a full one is written without a flush.
const SEGMENT_BYTES: usize = 4096;

/// About ten fill a segment.
const VALUE: &[u8] = &[0; 256];

/// More than are ever needed; the segments behind the sixth are synced as any other.
const VALUES_MAX: u32 = 400;

/// How long to wait until they rest; they do later if not by then.
const PATIENCE: Duration = Duration::from_millis(500);

/// Device and inode of the file whose sync never returns.
static FILE: Mutex<Option<(u64, u64)>> = Mutex::new(None);

/// Whether threads are still asked to rest.
static ASKING: AtomicBool = AtomicBool::new(false);

/// How many threads rest in a sync.
static RESTING: AtomicUsize = AtomicUsize::new(0);

/// Never returns where `file` is that one, but for the seventh thread that comes.
pub(super) fn rest_if_asked(file: libc::c_int) {
    if !ASKING.load(Ordering::Acquire) || !is_listed(file) {
        return;
    }
    let more = |resting| (resting < THREADS).then_some(resting + 1);
    if RESTING
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
        .is_err()
    {
        return;
    }
    loop {
        std::thread::park();
    }
}

#[allow(unsafe_code)] // a raw descriptor comes in from C
fn is_listed(file: libc::c_int) -> bool {
    // SAFETY: the caller of the sync has it open, and it is not kept.
    let file = unsafe { std::os::fd::BorrowedFd::borrow_raw(file) };
    let id = rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    id.is_ok_and(|id| *FILE.lock() == Some(id))
}

/// Lets the surplus threads of this process rest, the first time it is called. The database's files stay open, so they
/// lie in memory or among the temporary files, where nobody wants to unmount; `fallback` is a directory for the moment
/// where neither is to be had.
pub fn rest_surplus_threads(fallback: &Path) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let name = format!("edge-relay-rest-{}", std::process::id());
        let places = [
            Path::new("/dev/shm").join(&name),
            std::env::temp_dir().join(&name),
            fallback.to_owned(),
        ];
        let rests = places.iter().any(|scratch| {
            let _ = fs::remove_dir_all(scratch);
            let rests = rest_in(scratch);
            let _ = fs::remove_dir_all(scratch);
            rests
        });
        if !rests {
            tracing::debug!("sled's surplus threads stay awake");
        }
    });
}

fn rest_in(scratch: &Path) -> bool {
    let rests = catch_unwind(AssertUnwindSafe(|| rest_on(scratch)));
    ASKING.store(false, Ordering::Release);
    matches!(rests, Ok(Ok(true)))
}

/// Writes a new database in `dir` whose sync never returns; whether enough threads rest then.
fn rest_on(dir: &Path) -> io::Result<bool> {
    fs::create_dir_all(dir)?;
    let database = sled::Config::new()
        .path(dir)
        .cache_capacity(64 * 1024)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None)
        .open()
        .map_err(io::Error::other)?;
    database.flush().map_err(io::Error::other)?;
    let file = fs::metadata(dir.join("db"))?;
    *FILE.lock() = Some((file.dev(), file.ino()));
    ASKING.store(true, Ordering::Release);
    // Dropped, it would flush, and wait for good.
    let database: &'static sled::Db = Box::leak(Box::new(database));
    for n in 0..VALUES_MAX {
        if RESTING.load(Ordering::Acquire) == THREADS {
            break;
        }
        database
            .insert(n.to_be_bytes(), VALUE)
            .map_err(io::Error::other)?;
    }
    let until = Instant::now() + PATIENCE;
    while RESTING.load(Ordering::Acquire) < THREADS && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(RESTING.load(Ordering::Acquire) == THREADS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_rest_and_other_databases_still_sync() {
        let dir = tempfile::tempdir().unwrap();
        rest_surplus_threads(&dir.path().join("rest"));
        assert_eq!(RESTING.load(Ordering::Acquire), THREADS);
        assert!(!dir.path().join("rest").exists());
        let database = sled::open(dir.path().join("other")).unwrap();
        for n in 0..100_u8 {
            let before = super::super::syncs_total();
            database.insert([n], &[n]).unwrap();
            super::super::flush(&database, Some(before)).unwrap();
        }
        // Waits for all that hold sled's lock of the process.
        let mut batch = sled::Batch::default();
        batch.insert(b"batch", b"");
        database.apply_batch(batch).unwrap();
    }
}
