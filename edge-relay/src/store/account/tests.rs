use std::path::Path;
use std::time::Duration;

use hub_bridge::backlog::{Backlog, Mark, Refusal};
use hub_bridge::identity::{Epoch, Sequence};
use hub_bridge::wire::account::{Absent, Account};
use hub_bridge::wire::digest::{Digest, SetDigest, of_reading};
use proptest::prelude::*;

use crate::store::tests::fixture::*;
use crate::store::{Settings, Store};

/// The digest of the readings that [`fill`] appends as `numbers`, the first of which has sequence 1.
fn digest_of(epoch: Epoch, numbers: impl Iterator<Item = u64>, bytes: usize) -> Digest {
    let mut sum = SetDigest::default();
    for n in numbers {
        let reading = reading(n, bytes);
        let digest = of_reading(&reading.topic, &reading.payload);
        sum.toggle(epoch, Sequence(n + 1), digest);
    }
    sum.0
}

fn current_account(store: &Store) -> Account {
    let accounts = store.accounts();
    let all: Vec<&Account> = accounts.iter().filter(|a| a.current).collect();
    assert_eq!(all.len(), 1, "{accounts:?}");
    all[0].clone()
}

#[track_caller]
fn assert_speaks_of(account: &Account, readings: u64, bytes: usize) {
    assert_eq!(account.through.0, readings, "{account:?}");
    assert_eq!(account.stored, readings);
    assert_eq!(account.digest, digest_of(account.epoch, 0..readings, bytes));
    assert!(
        account.lost.is_empty() && account.unknown.is_empty(),
        "{account:?}"
    );
}

fn no_ring(dir: &Path) -> Settings {
    let mut settings = settings(dir);
    settings.keep_forwarded = Duration::ZERO;
    settings
}

fn count(ranges: &[Absent]) -> u64 {
    ranges.iter().map(|r| r.last.0 - r.first.0 + 1).sum()
}

#[test]
fn the_account_is_of_all_readings_also_of_those_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let settings = no_ring(dir.path());
    let (store, _) = open(&settings);
    assert_speaks_of(&current_account(&store), 0, 200);
    fill(&store, 0, 1000, 50, 200);
    assert_speaks_of(&current_account(&store), 1000, 200);
    fill(&store, 1000, 3000, 50, 200);
    let epoch = current(&store);
    // Removed before anyone asked: the keeper sums up first. Out of order, since the first one waits.
    let confirm = |a, b| {
        store
            .confirm(epoch, Mark::Forwarded, &[range(a, b)])
            .unwrap();
    };
    confirm(2, 3000);
    wait_until("later segments are gone", || store.segments().len() <= 2);
    assert_speaks_of(&current_account(&store), 3000, 200);
    confirm(1, 1);
    wait_until("all segments are gone", || store.segments().is_empty());
    assert_speaks_of(&current_account(&store), 3000, 200);
    drop(store);
    let (store, _) = open(&settings);
    assert_speaks_of(&current_account(&store), 3000, 200);
    fill(&store, 3000, 3010, 5, 200);
    assert_speaks_of(&current_account(&store), 3010, 200);
}

#[test]
fn refused_readings_are_in_the_digest_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()));
    fill(&store, 0, 20, 5, 200);
    let epoch = current(&store);
    let refusal = |reason: &str| Refusal {
        reason: reason.to_owned(),
    };
    store
        .refuse(epoch, Sequence(3), &refusal("too large"))
        .unwrap();
    store
        .refuse(epoch, Sequence(4), &refusal("too large"))
        .unwrap();
    store.refuse(epoch, Sequence(9), &refusal("quota")).unwrap();
    let account = current_account(&store);
    assert_speaks_of(&account, 20, 200);
    let named: Vec<(u64, u64, &str)> = account
        .refused
        .iter()
        .map(|r| (r.first.0, r.last.0, r.reason.as_str()))
        .collect();
    assert_eq!(named, [(3, 4, "too large"), (9, 9, "quota")]);
}

#[test]
fn without_its_file_the_account_says_what_it_cannot_speak_of() {
    let dir = tempfile::tempdir().unwrap();
    let settings = no_ring(dir.path());
    let (store, _) = open(&settings);
    fill(&store, 0, 3000, 50, 200);
    let epoch = current(&store);
    store
        .confirm(epoch, Mark::Forwarded, &[range(1, 2000)])
        .unwrap();
    let first_left = |store: &Store| store.segments().first().map_or(3001, |s| s.first.0);
    wait_until("segments are gone", || first_left(&store) > 1500);
    let first_left = first_left(&store);
    store.close();
    drop(store);
    for damage in [Some(&b"rubbish"[..]), None] {
        match damage {
            Some(bytes) => std::fs::write(dir.path().join("account"), bytes).unwrap(),
            None => std::fs::remove_file(dir.path().join("account")).unwrap(),
        }
        let (store, _) = open(&settings);
        let account = current_account(&store);
        assert_eq!(account.through.0, 3000);
        assert_eq!(account.stored, 3000 - (first_left - 1));
        assert_eq!(account.unknown.len(), 1);
        assert_eq!(count(&account.unknown), first_left - 1);
        assert!(account.lost.is_empty());
        assert_eq!(account.digest, digest_of(epoch, first_left - 1..3000, 200));
    }
}

/// Zeroes in the middle of a segment's file.
fn damage(dir: &Path, settings: &Settings, segment: usize) {
    let mut names: Vec<_> = std::fs::read_dir(settings.data_dir.join("backlog"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let path = names[segment].join("db");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle..middle + 8192].fill(0);
    std::fs::write(&path, bytes).unwrap();
    assert!(dir.exists());
}

#[test]
fn what_is_lost_before_or_after_it_was_summed_up_is_named_and_not_in_the_digest() {
    for accounted_before in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (store, _) = open(&settings);
        fill(&store, 0, 3000, 50, 200);
        let epoch = current(&store);
        if accounted_before {
            assert_speaks_of(&current_account(&store), 3000, 200);
        }
        store.close();
        drop(store);
        damage(dir.path(), &settings, 1);
        let (store, _) = open(&settings);
        // The drain finds out.
        let left = waiting_numbers(&store);
        assert!(left.len() < 3000);
        let account = current_account(&store);
        assert_eq!(account.through.0, 3000);
        assert_eq!(account.stored, left.len() as u64);
        assert_eq!(count(&account.lost), 3000 - left.len() as u64);
        assert!(account.unknown.is_empty(), "{account:?}");
        assert_eq!(account.digest, digest_of(epoch, left.into_iter(), 200));
    }
}

#[test]
fn the_account_is_never_ahead_of_marks_on_stable_storage() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(&settings(dir.path()));
    let shared = store.shared();
    let epoch = current(&store);
    for round in 0..30 {
        fill(&store, round * 200, (round + 1) * 200, 50, 200);
        while shared.account_next(true, &mut Vec::new()) {}
        let account = shared.account.lock();
        let end = account
            .of(epoch)
            .unwrap()
            .sums
            .last()
            .map_or(0, |sum| sum.end);
        assert!(end <= shared.unknown_from(epoch), "round {round}");
    }
    assert_speaks_of(&current_account(&store), 6000, 200);
}

#[test]
fn a_segment_that_is_gone_as_a_whole_is_named_and_not_in_the_digest() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let (store, _) = open(&settings);
    fill(&store, 0, 3000, 50, 200);
    let epoch = current(&store);
    assert_speaks_of(&current_account(&store), 3000, 200);
    let second = store.segments()[1].clone();
    store.close();
    drop(store);
    std::fs::remove_dir_all(&second.path).unwrap();
    let (store, _) = open(&settings);
    let left = waiting_numbers(&store);
    let gone = second.first.0 - 1..second.end.0 - 1;
    assert_eq!(left.len() as u64, 3000 - (gone.end - gone.start));
    let account = current_account(&store);
    assert_eq!(count(&account.lost), gone.end - gone.start);
    assert!(account.unknown.is_empty(), "{account:?}");
    assert_eq!(account.stored, left.len() as u64);
    assert_eq!(account.digest, digest_of(epoch, left.into_iter(), 200));
}

#[test]
fn damage_after_forwarding_leaves_the_digest_where_it_was_summed_up_and_is_unknown_else() {
    for accounted_before in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let (store, _) = open(&settings);
        fill(&store, 0, 3000, 50, 200);
        let epoch = current(&store);
        store
            .confirm(epoch, Mark::Forwarded, &[range(1, 3000)])
            .unwrap();
        if accounted_before {
            assert_speaks_of(&current_account(&store), 3000, 200);
        }
        store.close();
        drop(store);
        damage(dir.path(), &settings, 1);
        let (store, _) = open(&settings);
        let account = current_account(&store);
        if accounted_before {
            assert_speaks_of(&account, 3000, 200);
            continue;
        }
        assert!(account.lost.is_empty(), "the hub has them: {account:?}");
        assert!(count(&account.unknown) > 0);
        assert_eq!(account.stored + count(&account.unknown), 3000);
        let unknown = |n: u64| {
            let in_it = |r: &Absent| r.first.0 <= n + 1 && n < r.last.0;
            account.unknown.iter().any(in_it)
        };
        assert_eq!(
            account.digest,
            digest_of(epoch, (0..3000).filter(|n| !unknown(*n)), 200)
        );
    }
}

#[test]
fn an_epoch_that_is_over_keeps_its_account() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = no_ring(dir.path());
    let (store, _) = open(&settings);
    fill(&store, 0, 1000, 50, 200);
    let old = current(&store);
    drop(store);
    settings.village = "bamenda-02".parse().unwrap();
    let (store, _) = open(&settings);
    fill(&store, 0, 10, 5, 200);
    store
        .confirm(old, Mark::Forwarded, &[range(1, 1000)])
        .unwrap();
    wait_until("the old epoch is forgotten", || {
        store.stats().epochs.len() == 1
    });
    drop(store);
    let (store, _) = open(&settings);
    let accounts = store.accounts();
    let past = accounts.iter().find(|a| a.epoch == old).unwrap();
    assert!(!past.current);
    assert_eq!(past.village.as_str(), "bamenda-01");
    assert_speaks_of(past, 1000, 200);
    let now = current_account(&store);
    assert_eq!(now.village.as_str(), "bamenda-02");
    assert_speaks_of(&now, 10, 200);
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Confirm(u64, u64),
    Account,
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..400).prop_map(Step::Append),
        3 => (0u64..2000, 1u64..900).prop_map(|(from, more)| Step::Confirm(from, more)),
        2 => Just(Step::Account),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    /// Whatever is appended, confirmed, let go, asked, closed and killed: the account is of all readings there were.
    #[test]
    fn the_digest_is_that_of_all_readings_after_kills_restarts_and_removals(
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(&no_ring(dir.path()));
        let mut appended = 0;
        for step in steps {
            match step {
                Step::Append(count) => {
                    fill(&store, appended, appended + count, 40, 200);
                    appended += count;
                }
                Step::Confirm(from, more) => {
                    let first = (from + 1).min(appended);
                    let last = (first + more).min(appended);
                    if first >= 1 {
                        store.confirm(current(&store), Mark::Forwarded, &[range(first, last)]).unwrap();
                    }
                }
                Step::Account => {
                    let account = current_account(&store);
                    prop_assert_eq!(account.through.0, appended);
                }
                Step::Reopen => {
                    drop(store);
                    store = open(&no_ring(dir.path())).0;
                }
                Step::Kill => {
                    let copy = tempfile::tempdir().unwrap();
                    snapshot(&store, copy.path());
                    drop(store);
                    dir = copy;
                    store = open(&no_ring(dir.path())).0;
                }
            }
        }
        assert_speaks_of(&current_account(&store), appended, 200);
    }
}
