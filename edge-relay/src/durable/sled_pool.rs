//! Puts most of sled's I/O threads to rest.
//!
//! sled 0.34.7 keeps seven threads that wait for writes, and wakes *all* of them for each write (`threadpool.rs`:
//! `notify_all`). With one write a commit, six threads woke up for nothing: close to half of the processor time of a
//! relay under load. The number cannot be set. So, once a process: small databases are flushed whose sync never
//! returns, because it is ours ([`super::interpose`]), and each takes two threads with it, the one that syncs and the
//! one that waits for it. One thread is left. The broker's state, which
//! is written rarely beside the backlog, waits for it as for the disk itself.
//!
//! That is safe because no work that sled gives to these threads waits for other work of theirs, `flush_async` apart,
//! which is used nowhere but here. Should their queue grow, sled starts further threads, which end again.
//!
//! What failure leaves behind: threads that wake for nothing. The databases' files are removed at once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::pin;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Each rests two of sled's seven threads.
const DATABASES: usize = 3;

/// How long to wait until they rest; they do later if not by then.
const PATIENCE: Duration = Duration::from_millis(500);

/// Device and inode of the files whose sync never returns.
static FILES: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// Whether there are any.
static ANY: AtomicBool = AtomicBool::new(false);

/// How many threads rest in a sync.
static RESTING: AtomicUsize = AtomicUsize::new(0);

/// Never returns where `file` is one of those.
pub(super) fn rest_if_asked(file: libc::c_int) {
    if !ANY.load(Ordering::Acquire) || !is_listed(file) {
        return;
    }
    RESTING.fetch_add(1, Ordering::AcqRel);
    loop {
        std::thread::park();
    }
}

#[allow(unsafe_code)] // a raw descriptor comes in from C
fn is_listed(file: libc::c_int) -> bool {
    // SAFETY: the caller of the sync has it open, and it is not kept.
    let file = unsafe { std::os::fd::BorrowedFd::borrow_raw(file) };
    let id = rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    id.is_ok_and(|id| FILES.lock().contains(&id))
}

/// Lets the surplus threads of this process rest, the first time it is called. The databases' files stay open, so they
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
    let all = || (0..DATABASES).try_for_each(|n| rest_two(&scratch.join(n.to_string())));
    let asked = catch_unwind(AssertUnwindSafe(all));
    let until = Instant::now() + PATIENCE;
    while matches!(asked, Ok(Ok(()))) && RESTING.load(Ordering::Acquire) < DATABASES {
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    matches!(asked, Ok(Ok(())))
}

/// Flushes a new database in `dir` whose sync never returns.
fn rest_two(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let database = sled::Config::new()
        .path(dir)
        .cache_capacity(64 * 1024)
        .segment_size(64 * 1024)
        .flush_every_ms(None)
        .open()
        .map_err(io::Error::other)?;
    database.flush().map_err(io::Error::other)?;
    let file = fs::metadata(dir.join("db"))?;
    FILES.lock().push((file.dev(), file.ino()));
    ANY.store(true, Ordering::Release);
    database.insert(b"rest", b"").map_err(io::Error::other)?;
    // Dropped, it would wait for its flush, for good.
    let database: &'static sled::Db = Box::leak(Box::new(database));
    let flush = pin!(database.flush_async());
    // The first poll hands it to the threads; nobody waits for its end.
    let _ = flush.poll(&mut Context::from_waker(Waker::noop()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_rest_and_other_databases_still_sync() {
        let dir = tempfile::tempdir().unwrap();
        rest_surplus_threads(&dir.path().join("rest"));
        assert_eq!(RESTING.load(Ordering::Acquire), DATABASES);
        assert!(!dir.path().join("rest").exists());
        let database = sled::open(dir.path().join("other")).unwrap();
        for n in 0..100_u8 {
            let before = super::super::syncs_total();
            database.insert([n], &[n]).unwrap();
            super::super::flush(&database, Some(before)).unwrap();
        }
    }
}
