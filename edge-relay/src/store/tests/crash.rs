//! Promise 1: kill -9 or a power cut at any instant loses no acknowledged reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hub_bridge::backlog::{Backlog, Mark};
use hub_bridge::identity::Sequence;

use super::fixture::*;
use crate::store::EpochReason;

#[test]
fn a_copy_of_the_directory_at_any_time_opens_with_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (store, _) = open(&settings);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writer = {
        let (store, acknowledged) = (store.clone(), acknowledged.clone());
        std::thread::spawn(move || {
            for n in (0..3000_u64).step_by(10) {
                let size = [50, 200, 20_000][usize::try_from(n).unwrap() / 10 % 3]
                    / if n.is_multiple_of(100) { 1 } else { 10 };
                fill(&store, n, n + 10, 10, size.max(20));
                acknowledged.store(n + 10, Ordering::SeqCst);
            }
        })
    };
    let mut copies = 0;
    while !writer.is_finished() {
        let before = acknowledged.load(Ordering::SeqCst);
        let copy = tempfile::tempdir().unwrap();
        snapshot(&store, copy.path());
        let mut settings = settings.clone();
        settings.data_dir = copy.path().to_owned();
        let (reopened, report) = open(&settings);
        let found = waiting_numbers(&reopened);
        // Of the commit that was on its way, which nobody was told of, any part may be there.
        let acknowledged = found.iter().copied().take_while(|n| *n < before);
        assert!(
            acknowledged.eq(0..before),
            "{before} of {found:?}: {report:?}"
        );
        assert!(found.is_sorted_by(|a, b| a < b), "{found:?}: {report:?}");
        assert!(report.lost.is_empty(), "{report:?}");
        copies += 1;
    }
    writer.join().unwrap();
    assert!(copies > 2, "only {copies} copies were made");
}

#[test]
fn after_a_kill_sequences_go_on_where_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (store, _) = open(&settings);
    fill(&store, 0, 777, 7, 200);
    let epoch = current(&store);
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, 500)])
        .unwrap();
    wait_until("the marks are written", || {
        !store.shared().index.lock().dirty
    });
    let copy = tempfile::tempdir().unwrap();
    snapshot(&store, copy.path());
    let mut settings = settings.clone();
    settings.data_dir = copy.path().to_owned();
    let (reopened, report) = open(&settings);
    assert_eq!(report.began, None, "{report:?}");
    assert!(!report.closed_cleanly);
    assert_eq!(waiting_numbers(&reopened), (500..777).collect::<Vec<_>>());
    let committed = append(&reopened, vec![reading(777, 200)]).unwrap();
    assert_eq!(
        (committed.epoch, committed.range.first),
        (epoch, Sequence(778))
    );
}

#[test]
fn a_repeat_is_known_as_one_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (store, _) = open(&settings);
    fill(&store, 0, 100, 10, 200);
    let mut again = reading(42, 200);
    again.dup = true;
    append(&store, vec![again.clone(), reading(43, 200)]).unwrap();
    let copy = tempfile::tempdir().unwrap();
    snapshot(&store, copy.path());
    let mut settings = settings.clone();
    settings.data_dir = copy.path().to_owned();
    let (reopened, _) = open(&settings);
    let mut other_payload = reading(50, 200);
    other_payload.dup = true;
    other_payload.payload = reading(51, 200).payload;
    append(&reopened, vec![again, other_payload]).unwrap();
    let all = read_all(&reopened, current(&reopened));
    let repeats: Vec<_> = all.iter().skip(100).map(|r| r.repeat_of).collect();
    // The second to last repeats the first one, not the repeat; not DUP is no repeat, nor is another payload.
    assert_eq!(
        repeats,
        [Some(Sequence(43)), None, Some(Sequence(43)), None]
    );
}

#[test]
fn another_machine_or_village_begins_a_new_epoch_and_the_old_one_keeps_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let first = settings(dir.path());
    let (store, _) = open(&first);
    fill(&store, 0, 10, 10, 50);
    let old = current(&store);
    drop(store);
    let mut moved = first.clone();
    moved.village = "garoua-02".parse().unwrap();
    let (store, report) = open(&moved);
    assert_eq!(report.began, Some(EpochReason::OtherVillage));
    fill(&store, 10, 15, 5, 50);
    drop(store);
    let mut cloned = moved.clone();
    cloned.machine_id = "another".to_owned();
    let (store, report) = open(&cloned);
    assert_eq!(report.began, Some(EpochReason::OtherMachine));
    let states = store.epochs();
    let villages: Vec<_> = states.iter().map(|e| e.village.as_str()).collect();
    assert_eq!(villages, ["bamenda-01", "garoua-02", "garoua-02"]);
    assert_eq!(states[0].epoch, old);
    assert_eq!(waiting_numbers(&store), (0..15).collect::<Vec<_>>());
}
