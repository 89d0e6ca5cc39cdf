//! Promise 3: it always starts; what could be saved is saved, what was lost is named.

use std::path::{Path, PathBuf};

use hub_bridge::backlog::{Backlog, Mark};

use super::fixture::*;
use crate::store::{EpochReason, OpenError, Store};

/// A store with closed segments and one that a kill left open, 1..=1000, of which 1..=100 are confirmed.
fn killed_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()));
    fill(&store, 0, 1000, 20, 200);
    store
        .confirm(current(&store), Mark::Forwarded, &[range(1, 100)])
        .unwrap();
    wait_until("all is written", || {
        !store.shared().index.lock().dirty && store.segments().iter().all(|s| s.state != "closing")
    });
    let copy = tempfile::tempdir().unwrap();
    snapshot(&store, copy.path());
    copy
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(files(&entry.path()));
        } else {
            all.push(entry.path());
        }
    }
    all.sort();
    all
}

/// Whatever became of the directory: it opens, every reading that is not named as lost is there once and
/// whole, nothing is invented, and new readings get identities that were never used.
fn check(dir: &Path, what: &str) {
    let (store, report) = open(&settings(dir));
    let found = waiting_numbers(&store);
    let mut unique = found.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), found.len(), "{what}: a reading twice");
    assert!(found.iter().all(|n| *n < 1000), "{what}: invented");
    let stats = store.stats();
    let lost: u64 = stats.lost_readings;
    let mut missing = (100..1000).filter(|n| !found.contains(n)).count() as u64;
    if !report.quarantined.is_empty() {
        // Segments of which nothing is known can only be named as files.
        missing = missing.min(lost);
    }
    assert!(
        lost >= missing,
        "{what}: {missing} missing, {lost} named as lost: {report:?}"
    );
    let before: Vec<_> = store.epochs().iter().map(|e| (e.epoch, e.next)).collect();
    let committed = append(&store, vec![reading(5000, 100)]).unwrap();
    let used = before
        .iter()
        .any(|(e, next)| *e == committed.epoch && committed.range.first < *next);
    assert!(!used, "{what}: a sequence was used twice");
    let again = waiting_numbers(&store);
    assert_eq!(again.len(), found.len() + 1, "{what}");
}

#[test]
fn undamaged_nothing_is_lost() {
    let dir = killed_store();
    let (store, report) = open(&settings(dir.path()));
    assert_eq!(report.began, None, "{report:?}");
    assert_eq!(waiting_numbers(&store), (100..1000).collect::<Vec<_>>());
    assert_eq!(store.stats().lost_readings, 0);
    assert!(
        store
            .verify()
            .iter()
            .all(|v| v.missing.is_empty() && v.error.is_none())
    );
}

#[test]
fn every_file_can_be_missing_empty_cut_flipped_or_zeroed() {
    let template = killed_store();
    let all = files(template.path());
    assert!(all.len() > 15, "{all:?}");
    for file in &all {
        let name = file.strip_prefix(template.path()).unwrap();
        for how in ["missing", "empty", "half", "flip", "zero", "rubbish"] {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(template.path(), dir.path());
            let path = dir.path().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            let length = bytes.len();
            match how {
                "missing" => std::fs::remove_file(&path).unwrap(),
                "empty" => bytes.clear(),
                "half" => bytes.truncate(length / 2),
                "flip" if length > 0 => bytes[length / 3] ^= 0x10,
                "zero" => bytes[length / 4..length / 2].fill(0),
                "rubbish" => bytes.iter_mut().step_by(3).for_each(|b| *b ^= 0x5a),
                _ => {}
            }
            if how != "missing" {
                std::fs::write(&path, &bytes).unwrap();
            }
            check(dir.path(), &format!("{} {how}", name.display()));
        }
    }
}

#[test]
fn a_truncated_last_segment_begins_a_new_epoch() {
    let dir = killed_store();
    let last = files(dir.path())
        .into_iter()
        .rfind(|f| f.ends_with("db"))
        .unwrap();
    std::fs::write(&last, b"").unwrap();
    let (store, report) = open(&settings(dir.path()));
    assert_eq!(report.began, Some(EpochReason::TailUnproved), "{report:?}");
    assert!(!report.lost.is_empty());
    assert_eq!(report.quarantined.len(), 1);
    drop(store);
    // And the loss is remembered.
    let (store, report) = open(&settings(dir.path()));
    assert_eq!(report.began, None);
    assert!(!report.lost.is_empty());
    assert!(store.stats().lost_readings > 0);
}

/// The marks of 1..=10, and what a kill leaves of a store that came to 100, all in one segment, with `db` cut to
/// `kept` of its readings.
fn killed_after_old_marks(kept: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut now = settings(dir.path());
    now.segment_bytes = 16 << 20;
    let (store, _) = open(&now);
    fill(&store, 0, 10, 1, 200);
    store.shared().write_marks(true);
    let old: Vec<_> = ["marks.a", "marks.b"]
        .map(|name| (name, std::fs::read(dir.path().join(name)).unwrap()))
        .into();
    fill(&store, 10, 100, 1, 200);
    let copy = tempfile::tempdir().unwrap();
    snapshot(&store, copy.path());
    for (name, bytes) in old {
        std::fs::write(copy.path().join(name), bytes).unwrap();
    }
    let db = files(copy.path())
        .into_iter()
        .rfind(|f| f.ends_with("db"))
        .unwrap();
    let bytes = std::fs::read(&db).unwrap();
    let number = format!("{kept:020}");
    let cut = if kept == 0 {
        0
    } else {
        let payload = memchr::memmem::find(&bytes, number.as_bytes()).unwrap();
        memchr::memmem::rfind(&bytes[..payload], &crate::store::envelope::MAGIC).unwrap()
    };
    std::fs::write(&db, &bytes[..cut]).unwrap();
    copy
}

#[test]
fn after_a_kill_a_lost_end_that_the_marks_do_not_know_is_named() {
    for kept in [0, 60] {
        let dir = killed_after_old_marks(kept);
        let (store, report) = open(&settings(dir.path()));
        assert_eq!(
            report.began,
            Some(EpochReason::TailUnproved),
            "{kept}: {report:?}"
        );
        let found = waiting_numbers(&store).len() as u64;
        assert!(found <= kept, "{found} of {kept}");
        assert_eq!(store.stats().lost_readings, 100 - found, "{kept}");
    }
}

#[test]
fn an_end_that_nobody_knows_is_named_as_unknown_and_stays_so() {
    let dir = killed_after_old_marks(0);
    // As after a power cut: it was never synced.
    std::fs::remove_file(dir.path().join("reached")).unwrap();
    for _ in 0..2 {
        let (store, _) = open(&settings(dir.path()));
        let ended = &store.stats().epochs[0];
        assert_eq!(ended.tail_unknown_from.map(|s| s.0), Some(11));
        assert_eq!(ended.lost, [range(1, 10)]);
        append(&store, vec![reading(500, 50)]).unwrap();
    }
}

#[test]
fn what_the_bridge_has_seen_is_known_to_marks_on_stable_storage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()));
    for n in 0..50 {
        append(&store, vec![reading(n, 200)]).unwrap();
        let seen = read_all(&store, current(&store)).len() as u64;
        assert_eq!(seen, n + 1);
        let synced = store.shared().marks.lock().synced_next;
        assert!(synced.is_some_and(|(_, next)| next > seen), "{synced:?}");
    }
}

/// All is confirmed, so that nothing is missed; what came after the marks were written could be.
#[test]
fn a_last_segment_that_is_gone_or_shorter_than_the_marks_begins_a_new_epoch() {
    for how in ["gone", "shorter"] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(&settings(dir.path()));
        fill(&store, 0, 1010, 10, 200);
        let all = range(1, 1010);
        store
            .confirm(current(&store), Mark::Forwarded, &[all])
            .unwrap();
        wait_until("the marks are written", || {
            !store.shared().index.lock().dirty
        });
        let copy = tempfile::tempdir().unwrap();
        snapshot(&store, copy.path());
        let db = files(copy.path())
            .into_iter()
            .rfind(|f| f.ends_with("db"))
            .unwrap();
        if how == "gone" {
            std::fs::remove_dir_all(db.parent().unwrap()).unwrap();
        } else {
            let bytes = std::fs::read(&db).unwrap();
            // Sound records up to the middle of what is there, nothing behind.
            let used = bytes.iter().rposition(|b| *b != 0).unwrap();
            let magic = &crate::store::envelope::MAGIC;
            let cut = memchr::memmem::rfind(&bytes[..used / 2], magic).unwrap();
            std::fs::write(&db, &bytes[..cut]).unwrap();
        }
        let (store, report) = open(&settings(copy.path()));
        assert_eq!(
            report.began,
            Some(EpochReason::TailUnproved),
            "{how}: {report:?}"
        );
        assert_eq!(store.stats().lost_readings, 0, "{how}");
    }
}

#[test]
fn a_zeroed_block_loses_what_was_in_it_and_the_mark_passes() {
    let dir = killed_store();
    let db = files(dir.path())
        .into_iter()
        .filter(|f| f.ends_with("db"))
        .nth(1)
        .unwrap();
    let mut bytes = std::fs::read(&db).unwrap();
    // Every copy of some frames goes.
    let middle = bytes.len() / 2;
    bytes[..middle].fill(0);
    std::fs::write(&db, &bytes).unwrap();
    let (store, report) = open(&settings(dir.path()));
    assert_eq!(report.began, None, "{report:?}");
    let found = waiting_numbers(&store);
    let lost = store.stats().lost_readings;
    assert!(lost > 0);
    assert_eq!(found.len() as u64 + lost, 900);
    // A copy is kept aside at once, as it was found.
    let segment = db.parent().unwrap().file_name().unwrap().to_string_lossy();
    let copy = format!("quarantine/{segment}.0");
    wait_until("a copy is kept aside", || {
        std::fs::read(dir.path().join(&copy).join("db")).is_ok_and(|kept| kept == bytes)
    });
    let epoch = current(&store);
    let next = store.stats().next_sequence.0;
    let rest: Vec<_> = read_all(&store, epoch)
        .iter()
        .map(|r| range(r.sequence.0, r.sequence.0))
        .collect();
    store.confirm(epoch, Mark::Forwarded, &rest).unwrap();
    assert_eq!(store.stats().first_sequence.0, next);
    assert_eq!(store.stats().readings, 0);
    // And it stays when the time of the segment is over.
    let mut now = settings(dir.path());
    now.keep_forwarded = std::time::Duration::ZERO;
    store.apply(&now);
    wait_until("the damaged segment is gone", || !db.exists());
    assert!(dir.path().join(&copy).join("db").exists());
    let kept = std::fs::read_dir(dir.path().join("quarantine")).unwrap();
    assert_eq!(kept.count(), 1);
}

#[test]
fn a_payload_that_looks_like_a_frame_is_never_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()));
    fill(&store, 0, 20, 20, 200);
    let epoch = current(&store);
    // A meter that knows the format and the epoch, but not the salt.
    let forged = crate::store::frame::encode(
        epoch,
        5000,
        &[crate::store::frame::Pending {
            reading: reading(9999, 50),
            repeat_of: None,
        }],
        0,
    )
    .unwrap();
    let mut evil = reading(20, 50);
    evil.payload = forged[0].bytes.clone();
    append(&store, vec![evil]).unwrap();
    let copy = tempfile::tempdir().unwrap();
    snapshot(&store, copy.path());
    let whole = tempfile::tempdir().unwrap();
    copy_dir(copy.path(), whole.path());
    let (reopened, report) = open(&settings(whole.path()));
    assert_eq!(report.began, None, "{report:?}");
    assert_eq!(reopened.stats().next_sequence.0, 22);
    // Nor when the frame around it is damaged, so that carving comes upon it.
    let db = files(copy.path())
        .into_iter()
        .find(|f| f.ends_with("db"))
        .unwrap();
    let mut bytes = std::fs::read(&db).unwrap();
    let copies: Vec<usize> = memchr::memmem::find_iter(&bytes, &forged[0].bytes[..]).collect();
    assert!(!copies.is_empty());
    for at in copies {
        bytes[at - 3] ^= 1;
    }
    std::fs::write(&db, &bytes).unwrap();
    let (reopened, report) = open(&settings(copy.path()));
    assert_eq!(report.began, Some(EpochReason::TailUnproved), "{report:?}");
    assert!(!waiting_numbers(&reopened).contains(&9999));
}

#[test]
fn a_second_process_on_the_directory_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = open(&settings(dir.path()));
    let second = Store::open(&settings(dir.path()), HandClock::new());
    let error = second.err().unwrap();
    assert!(
        matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
}

/// What a kill in the middle of a commit leaves: frames behind a gap that nobody was told of.
#[test]
fn a_commit_that_a_kill_cut_short_is_no_loss_and_no_new_epoch() {
    use crate::store::carve::{Carved, Indexed};
    let frame = |first, count| Indexed {
        first,
        count,
        places: Vec::new(),
    };
    let carved = || Carved {
        frames: vec![frame(1, 10), frame(11, 10), frame(25, 5)],
        broken: 1,
    };
    let ends = |acknowledged_below| {
        let mut carved = carved();
        carved.leave_out_unfinished(1, acknowledged_below);
        (carved.frames.last().map(Indexed::end), carved.broken)
    };
    assert_eq!(
        ends(21),
        (Some(21), 0),
        "all that was acknowledged is there"
    );
    assert_eq!(ends(15), (Some(21), 0));
    assert_eq!(ends(22), (Some(30), 1), "one of the gap was acknowledged");
    assert_eq!(ends(30), (Some(30), 1));
}

#[test]
fn a_last_segment_that_cannot_be_opened_is_kept_aside_and_not_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()));
    fill(&store, 0, 10, 1, 200);
    let epoch = current(&store);
    snapshot(&store, copy.path());
    for file in ["marks.a", "marks.b", "reached"] {
        std::fs::remove_file(copy.path().join(file)).unwrap();
    }
    let segment = std::fs::read_dir(copy.path().join("backlog")).unwrap();
    let database = segment.last().unwrap().unwrap().path().join("db");
    std::fs::rename(&database, database.with_extension("away")).unwrap();
    // Its own target: an error, and not that it is missing.
    std::os::unix::fs::symlink(&database, &database).unwrap();
    let (store, _) = open(&settings(copy.path()));
    assert_ne!(current(&store), epoch);
    let aside = std::fs::read_dir(copy.path().join("quarantine")).unwrap();
    assert_eq!(aside.count(), 1);
}

#[test]
fn an_epoch_of_which_nothing_is_left_does_not_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let epoch = {
        let (store, _) = open(&settings(dir.path()));
        fill(&store, 0, 1, 1, 200);
        store.close();
        current(&store)
    };
    std::fs::remove_dir_all(dir.path().join("backlog")).unwrap();
    for file in ["marks.a", "marks.b", "reached"] {
        let _ = std::fs::remove_file(dir.path().join(file));
    }
    let (store, _) = open(&settings(dir.path()));
    assert_ne!(current(&store), epoch);
}
