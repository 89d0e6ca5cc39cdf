//! Keeps the thread that commits and sled's thread that writes for it on one processor.
//!
//! They never work at the same time: one hands a write over and waits, the other hands the result back and waits. The
//! kernel's scheduler does not know that and wakes each on an idle processor, which has to leave its sleep first. On
//! one processor the hand-over is a change of threads.
//!
//! It is the last of the processors that this process may use, since interrupts and what starts first tend to take the
//! first. All other threads go where the scheduler puts them, so also away from there. Where a processor is taken from
//! the process, the kernel lets its threads go anywhere again.
//!
//! What failure leaves behind: threads that run where they like.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Whether a thread commits in this process.
static COMMITS: AtomicBool = AtomicBool::new(false);

thread_local! {
    static IS_THERE: Cell<bool> = const { Cell::new(false) };
}

/// Of the calling thread, which commits: it and the one that writes for it share a processor from now on.
pub fn commit_on_one_cpu() {
    COMMITS.store(true, Ordering::Release);
    writing();
}

/// The calling thread is about to sync what it wrote.
pub(super) fn writing() {
    if !COMMITS.load(Ordering::Acquire) || IS_THERE.replace(true) {
        return;
    }
    if let Some(last) = last_allowed() {
        let mut one = CpuSet::new();
        one.set(last);
        if let Err(error) = sched_setaffinity(None, &one) {
            tracing::debug!(%error, "the threads that commit run where they like");
        }
    }
}

/// `None` with a single one, or where the system does not say.
fn last_allowed() -> Option<usize> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let last = cpus.next_back()?;
    cpus.next().map(|_| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_writer_joins_the_committer() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = last_allowed();
        std::thread::spawn(commit_on_one_cpu).join().unwrap();
        let database = sled::open(dir.path()).unwrap();
        database.insert(b"k", b"v").unwrap();
        super::super::flush(&database, None).unwrap();
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let of_sled: Vec<String> = tasks
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap())
            .filter(|status| status.starts_with("Name:\tsled-io"))
            .collect();
        assert!(!of_sled.is_empty());
        if let Some(cpu) = wanted {
            let there = format!("Cpus_allowed_list:\t{cpu}\n");
            assert!(of_sled.iter().any(|status| status.contains(&there)));
        }
    }
}
