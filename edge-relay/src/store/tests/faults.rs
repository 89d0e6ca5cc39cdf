//! Promise 2: no success for a reading that is not kept.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::fixture::*;
use crate::store::{AppendError, Store, StoreHealth};

#[test]
fn a_disk_that_fails_and_recovers_costs_no_reading_and_no_sequence() {
    for writes_anyway in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::none();
        let store = open_faulty(&settings(dir.path()), &faults);
        fill(&store, 0, 50, 10, 200);
        faults.writes_anyway.store(writes_anyway, Ordering::SeqCst);
        faults.commits_left.store(0, Ordering::SeqCst);
        let waiting = {
            let store = store.clone();
            std::thread::spawn(move || append(&store, (50..60).map(|n| reading(n, 200)).collect()))
        };
        let health = store.health();
        wait_until("the store is failing", || {
            matches!(*health.borrow(), StoreHealth::Failing { .. })
        });
        assert!(!waiting.is_finished());
        assert_eq!(store.stats().next_sequence.0, 51);
        faults.commits_left.store(u64::MAX, Ordering::SeqCst);
        assert_eq!(waiting.join().unwrap().unwrap().range, range(51, 60));
        assert_eq!(waiting_numbers(&store), (0..60).collect::<Vec<_>>());
        wait_until("the store is well", || {
            *health.borrow() == StoreHealth::Ready
        });
        let copy = tempfile::tempdir().unwrap();
        snapshot(&store, copy.path());
        drop(store);
        for dir in [dir.path(), copy.path()] {
            let (store, report) = open(&settings(dir));
            assert_eq!(report.began, None, "{report:?}");
            assert_eq!(waiting_numbers(&store), (0..60).collect::<Vec<_>>());
        }
    }
}

#[test]
fn what_the_disk_never_takes_is_given_back_and_later_ones_get_its_sequences() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    let mut settings = settings(dir.path());
    settings.hold_max = Duration::from_millis(200);
    let store = open_faulty(&settings, &faults);
    fill(&store, 0, 10, 10, 200);
    faults.writes_anyway.store(true, Ordering::SeqCst);
    faults.commits_left.store(0, Ordering::SeqCst);
    let given_back = append(&store, vec![reading(666, 200)]);
    assert!(
        matches!(given_back, Err(AppendError::Disk(_))),
        "{given_back:?}"
    );
    faults.commits_left.store(u64::MAX, Ordering::SeqCst);
    let health = store.health();
    // It recovers without anyone asking.
    wait_until("the store is well", || {
        *health.borrow() == StoreHealth::Ready
    });
    fill(&store, 10, 20, 10, 200);
    assert_eq!(waiting_numbers(&store), (0..20).collect::<Vec<_>>());
    let copy = tempfile::tempdir().unwrap();
    snapshot(&store, copy.path());
    let mut settings = settings.clone();
    settings.data_dir = copy.path().to_owned();
    let (reopened, _) = open(&settings);
    assert_eq!(waiting_numbers(&reopened), (0..20).collect::<Vec<_>>());
}

#[test]
fn at_the_quota_nothing_is_acknowledged_and_nothing_evicted() {
    use hub_bridge::backlog::{Backlog, Mark};
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.bytes_max = 100_000;
    settings.hold_max = Duration::from_millis(100);
    let (store, _) = open(&settings);
    let health = store.health();
    let mut n = 0;
    let mut alarmed = false;
    let error = loop {
        match append(&store, vec![reading(n, 1000)]) {
            Ok(_) => {
                n += 1;
                assert!(n < 1000, "the quota is not kept");
            }
            Err(error) => break error,
        }
        alarmed |= matches!(*health.borrow(), StoreHealth::Alarm { .. });
    };
    assert!(matches!(error, AppendError::Quota), "{error}");
    assert!(alarmed && n > 50, "{n}");
    assert!(matches!(*health.borrow(), StoreHealth::Full { .. }));
    assert_eq!(waiting_numbers(&store), (0..n).collect::<Vec<_>>());
    store
        .confirm(current(&store), Mark::Forwarded, &[range(1, n)])
        .unwrap();
    wait_until("there is room", || health.borrow().takes_readings());
    append(&store, vec![reading(n, 1000)]).unwrap();
}

/// Once full, it does not say that it takes readings before there is room for more than one batch.
#[test]
fn a_full_store_stays_full_until_something_is_freed() {
    use hub_bridge::backlog::{Backlog, Mark};
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.bytes_max = 100_000;
    settings.hold_max = Duration::from_millis(50);
    let (store, _) = open(&settings);
    let mut n = 0;
    while append(&store, vec![reading(n, 1000)]).is_ok() {
        n += 1;
    }
    let stays_full = |store: &Store| {
        let health = store.health();
        let until = std::time::Instant::now() + Duration::from_millis(1500);
        while std::time::Instant::now() < until {
            assert!(!health.borrow().takes_readings(), "{:?}", *health.borrow());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    stays_full(&store);
    let one_percent = range(1, 1);
    let epoch = current(&store);
    store
        .confirm(epoch, Mark::Forwarded, &[one_percent])
        .unwrap();
    stays_full(&store);
    // Nor does a smaller one slip through while it says so.
    assert!(append(&store, vec![reading(n, 20)]).is_err());
    drop(store);
    let (store, _) = open(&settings);
    let health = store.health();
    wait_until("it is known to be full after a restart", || {
        !health.borrow().takes_readings()
    });
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, n / 4)])
        .unwrap();
    wait_until("there is room", || health.borrow().takes_readings());
    append(&store, vec![reading(n, 1000)]).unwrap();
}

#[test]
fn the_ring_goes_first_when_the_disk_is_nearly_full() {
    use hub_bridge::backlog::{Backlog, Mark};
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.disk_free_min = 1 << 20;
    settings.hold_max = Duration::from_millis(100);
    let faults = Faults::none();
    let store = open_faulty(&settings, &faults);
    fill(&store, 0, 2000, 50, 200);
    store
        .confirm(current(&store), Mark::Forwarded, &[range(1, 1000)])
        .unwrap();
    let before = store.stats().segments_done;
    assert!(before > 1);
    faults.free_bytes.store(1000, Ordering::SeqCst);
    std::thread::sleep(super::super::commit::FREE_KNOWN_FOR);
    let error = append(&store, vec![reading(2000, 200)]);
    assert!(matches!(error, Err(AppendError::Quota)), "{error:?}");
    assert_eq!(store.stats().segments_done, 0);
    assert_eq!(waiting_numbers(&store), (1000..2000).collect::<Vec<_>>());
    faults.free_bytes.store(u64::MAX, Ordering::SeqCst);
    let health = store.health();
    wait_until("there is room", || health.borrow().takes_readings());
    append(&store, vec![reading(2000, 200)]).unwrap();
}

/// A file system of a few megabytes, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().ok()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
            .arg(dir.path())
            .status()
            .is_ok_and(|s| s.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn on_a_disk_that_is_really_full_no_acknowledged_reading_is_lost() {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let mut settings = settings(disk.0.path());
    settings.hold_max = Duration::from_millis(300);
    settings.segment_bytes = 1 << 20;
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 3 << 20]).unwrap();
    let store = Store::open(&settings, HandClock::new()).unwrap().0;
    let mut acknowledged = 0;
    while append(
        &store,
        (acknowledged..acknowledged + 50)
            .map(|n| reading(n, 500))
            .collect(),
    )
    .is_ok()
    {
        acknowledged += 50;
        assert!(acknowledged < 100_000);
    }
    assert!(acknowledged > 500, "{acknowledged}");
    let health = store.health();
    assert!(!health.borrow().takes_readings());
    let found = waiting_numbers(&store);
    assert_eq!(found, (0..acknowledged).collect::<Vec<_>>());
    // Reading and confirming go on on a full disk, and a restart too.
    drop(store);
    let store = Store::open(&settings, HandClock::new()).unwrap().0;
    let found = waiting_numbers(&store);
    assert_eq!(
        found[..usize::try_from(acknowledged).unwrap()],
        (0..acknowledged).collect::<Vec<_>>()
    );
    std::fs::remove_file(&ballast).unwrap();
    let health = store.health();
    wait_until("there is room", || {
        append(&store, vec![reading(acknowledged, 500)]).is_ok()
    });
    // The reading is acknowledged first.
    wait_until("it says so", || health.borrow().takes_readings());
}
