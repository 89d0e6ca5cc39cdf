//! Promise 4: trimmed only when the hub has it; the ring, replay, and readings that the hub never takes.

use std::time::Duration;

use hub_bridge::backlog::{Backlog, Mark, Refusal};
use hub_bridge::clock::{ClockQuality, UnixMillis};
use hub_bridge::identity::{Epoch, Sequence};

use super::fixture::*;
use crate::store::{Settings, Store};

#[test]
fn segments_go_when_all_is_confirmed_and_the_disk_is_empty_after_a_drain() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.keep_forwarded = Duration::ZERO;
    let (store, _) = open(&settings);
    fill(&store, 0, 3000, 50, 200);
    let epoch = current(&store);
    // All but one of the first segment: it stays.
    store
        .confirm(epoch, Mark::Forwarded, &[range(2, 3000)])
        .unwrap();
    wait_until("later segments are gone", || store.segments().len() <= 2);
    assert_eq!(waiting_numbers(&store), [0]);
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, 1)])
        .unwrap();
    wait_until("all segments are gone", || store.segments().is_empty());
    wait_until("their directories too", || {
        std::fs::read_dir(dir.path().join("backlog"))
            .unwrap()
            .count()
            == 0
    });
    drop(store);
    let (store, report) = open(&settings);
    assert_eq!(report.began, None, "{report:?}");
    assert_eq!(store.stats().lost_readings, 0);
    assert_eq!(
        append(&store, vec![reading(0, 50)]).unwrap().range,
        range(3001, 3001)
    );
}

#[test]
fn forwarded_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.keep_forwarded = Duration::ZERO;
    settings.confirm = Mark::Stored;
    let (store, _) = open(&settings);
    fill(&store, 0, 1000, 50, 200);
    let epoch = current(&store);
    let segments = store.segments().len();
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, 1000)])
        .unwrap();
    assert_eq!(store.stats().readings, 1000);
    assert!(waiting_numbers(&store).is_empty());
    drop(store);
    let (store, _) = open(&settings);
    assert_eq!(store.segments().len(), segments);
    store
        .confirm(epoch, Mark::Stored, &[range(1, 1000)])
        .unwrap();
    assert_eq!(store.stats().readings, 0);
    wait_until("all segments are gone", || store.segments().is_empty());
}

#[test]
fn the_ring_is_kept_by_a_trusted_clock_only() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let clock = HandClock::new();
    clock.set_quality(ClockQuality::Unsynchronised);
    let (store, _) = Store::open(&settings, clock.clone()).unwrap();
    fill(&store, 0, 1000, 50, 200);
    store
        .confirm(current(&store), Mark::Forwarded, &[range(1, 1000)])
        .unwrap();
    let kept = store.segments().len();
    let look = || {
        // Twice: the second round surely began after the call.
        for _ in 0..2 {
            store.shared().wake_keeper();
            wait_until("the keeper has looked", || {
                !store.shared().keeper.lock().asked
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    look();
    clock.advance(Duration::from_hours(365 * 24));
    look();
    assert_eq!(store.segments().len(), kept);
    clock.set_quality(ClockQuality::Synchronised);
    look();
    assert_eq!(
        store.segments().len(),
        kept,
        "the week begins when the clock is trusted"
    );
    clock.advance(Duration::from_hours(6 * 24));
    look();
    assert_eq!(store.segments().len(), kept);
    clock.advance(Duration::from_hours(2 * 24));
    look();
    wait_until("closed segments are gone", || {
        store.segments().iter().all(|s| s.state == "open")
    });
}

#[test]
fn replay_sends_yesterday_again_under_the_same_identities() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (store, _) = open(&settings);
    fill(&store, 0, 1000, 50, 200);
    let epoch = current(&store);
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, 1000)])
        .unwrap();
    let at = |n: i64| UnixMillis(1_700_000_000_000 + n);
    let mut appended = store.appended();
    appended.borrow_and_update();
    assert_eq!(store.replay(at(200), at(300)).unwrap(), 100);
    assert!(appended.has_changed().unwrap());
    assert_eq!(waiting_numbers(&store), (200..300).collect::<Vec<_>>());
    assert_eq!(read_all(&store, epoch)[0].sequence, Sequence(201));
    drop(store);
    let (store, _) = open(&settings);
    assert_eq!(waiting_numbers(&store), (200..300).collect::<Vec<_>>());
    store
        .confirm(epoch, Mark::Forwarded, &[range(201, 300)])
        .unwrap();
    assert_eq!(store.stats().readings, 0);
}

#[test]
fn a_refused_reading_is_kept_listed_and_can_be_retried() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.keep_forwarded = Duration::ZERO;
    let (store, _) = open(&settings);
    fill(&store, 0, 500, 50, 200);
    let epoch = current(&store);
    let refusal = Refusal {
        reason: "payload format invalid".to_owned(),
    };
    store.refuse(epoch, Sequence(7), &refusal).unwrap();
    assert!(store.refuse(epoch, Sequence(501), &refusal).is_err());
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, 6), range(8, 500)])
        .unwrap();
    assert_eq!(store.stats().readings, 0);
    drop(store);
    let (store, _) = open(&settings);
    wait_until("the segments are gone", || store.segments().is_empty());
    let listed = store.refused();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].sequence, listed[0].reason.as_str()),
        (Sequence(7), "payload format invalid")
    );
    assert_eq!(store.stats().refused, 1);
    assert!(store.retry(epoch, Sequence(7)).unwrap());
    assert!(!store.retry(epoch, Sequence(8)).unwrap());
    drop(store);
    let (store, _) = open(&settings);
    let back = read_all(&store, epoch);
    assert_eq!(back.len(), 1);
    assert_eq!((back[0].sequence, number_of(&back[0])), (Sequence(7), 6));
    store
        .confirm(epoch, Mark::Forwarded, &[range(7, 7)])
        .unwrap();
    assert!(store.refused().is_empty());
    assert_eq!(
        std::fs::read_dir(dir.path().join("refused"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(store.stats().lost_readings, 0);
}

#[test]
fn a_closed_store_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()));
    fill(&store, 0, 10, 10, 50);
    store.close();
    assert!(append(&store, vec![reading(10, 50)]).is_err());
    assert_eq!(waiting_numbers(&store), (0..10).collect::<Vec<_>>());
    // The directory is free for the next.
    drop(open(&settings(dir.path())));
}

/// A store of 500 readings that all have passed, the seventh since it was refused.
fn with_one_refused(settings: &Settings) -> Epoch {
    let (store, _) = open(settings);
    fill(&store, 0, 500, 50, 200);
    let epoch = current(&store);
    let refusal = Refusal {
        reason: "payload format invalid".to_owned(),
    };
    store.refuse(epoch, Sequence(7), &refusal).unwrap();
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, 6), range(8, 500)])
        .unwrap();
    epoch
}

fn only_file_in(dir: &std::path::Path) -> std::path::PathBuf {
    std::fs::read_dir(dir)
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path()
}

#[test]
fn a_refused_reading_whose_file_is_gone_waits_again_where_its_segment_has_it() {
    for missing in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let epoch = with_one_refused(&settings);
        let file = only_file_in(&dir.path().join("refused"));
        if missing {
            std::fs::remove_file(file).unwrap();
        } else {
            std::fs::write(file, "?").unwrap();
        }
        for _ in 0..2 {
            let (store, _) = open(&settings);
            let back = read_all(&store, epoch);
            assert_eq!(back.len(), 1);
            assert_eq!((back[0].sequence, number_of(&back[0])), (Sequence(7), 6));
            assert_eq!(store.stats().lost_readings, 0);
        }
    }
}

#[test]
fn a_refused_reading_that_is_nowhere_any_more_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.keep_forwarded = Duration::ZERO;
    let epoch = with_one_refused(&settings);
    let (store, _) = open(&settings);
    wait_until("the segments are gone", || store.segments().is_empty());
    drop(store);
    std::fs::remove_file(only_file_in(&dir.path().join("refused"))).unwrap();
    for _ in 0..2 {
        let (_, report) = open(&settings);
        assert_eq!(report.lost, [(epoch, range(7, 7))]);
    }
}

#[test]
fn a_sidecar_made_late_keeps_the_count_of_what_waits() {
    use hub_bridge::backlog::{Backlog, Mark};
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    {
        let (store, _) = open(&settings);
        // Large ones: the guess of half the file is far off for them.
        fill(&store, 0, 200, 1, 9_000);
        store.close();
    }
    let sidecars = || {
        let segments = std::fs::read_dir(dir.path().join("backlog")).unwrap();
        let sidecars = segments.map(|segment| segment.unwrap().path().join("closed"));
        sidecars.collect::<Vec<_>>()
    };
    let removed = sidecars();
    assert!(removed.len() > 3, "{removed:?}");
    for sidecar in &removed {
        let _ = std::fs::remove_file(sidecar);
    }
    let (store, _) = open(&settings);
    wait_until("the sidecars are there again", || {
        removed.iter().all(|sidecar| sidecar.exists())
    });
    wait_until("what waits is what was sent", || {
        let waiting = store.shared().waiting().1;
        (200 * 9_000..200 * 9_400).contains(&waiting)
    });
    let epoch = current(&store);
    for first in 1..=200 {
        store
            .confirm(epoch, Mark::Forwarded, &[range(first, first)])
            .unwrap();
        assert!(store.shared().waiting().1 < 200 * 9_400, "after {first}");
    }
    assert_eq!(store.shared().waiting().1, 0);
}
