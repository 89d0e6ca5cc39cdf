//! What the broker must know after a restart: sessions, what waits for them, retained messages, and the
//! packet ids of `QoS` 2 publishes. A sled database of its own, `data_dir/state`.
//!
//! One thread commits: it takes all changes that wait (of one key, the last), applies them as one batch,
//! makes them durable, and then releases those who wait for it. Values go in pieces so small that sled
//! never puts one in a file of its own, which it would not sync.
//!
//! What failure leaves behind: while the disk fails, changes stay in memory (bounded by the broker's own
//! limits) and are tried again on a reopened database; who waits longer than `hold_max` gets an error and
//! must acknowledge nobody. A damaged database is moved to the quarantine; one that lost something in silence is noticed
//! (`state_proof`), and an alarm says so.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::long_names::{of_long_name, with_short_key};
use super::state_file::{Found, Opened, no_blobs, open_db, open_or_begin};
use super::state_proof::{self, Proof, Reached};
use crate::durable;
use crate::listener::MqttStats;

/// The largest piece of a value: 16 of them, a leaf, stay under a quarter of sled's segment (`state_file`).
pub(super) const PIECE_BYTES: usize = 7 * 1024;

/// The state could not be made durable.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the broker's state could not be made durable: {reason}")]
pub struct StateError {
    pub(super) reason: String,
    /// The disk did not take a write, which says nothing about what is on it.
    pub(super) disk: bool,
}

impl StateError {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            disk: false,
        }
    }
}

impl From<sled::Error> for StateError {
    fn from(error: sled::Error) -> Self {
        let disk = matches!(&error, sled::Error::Io(e) if e.raw_os_error().is_some());
        Self {
            reason: error.to_string(),
            disk,
        }
    }
}

/// Resolves when the changes are on stable storage.
pub type Durable = oneshot::Receiver<Result<(), StateError>>;

type Changes = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// One change: a value, or none where the key is to go.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

struct Waiter {
    since: Instant,
    done: oneshot::Sender<Result<(), StateError>>,
}

#[derive(Default)]
struct Pending {
    changes: Changes,
    waiters: Vec<Waiter>,
    closed: bool,
}

struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
}

/// The database and its commit thread.
pub(super) struct State {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread needs to open the database again.
struct Commits {
    dir: PathBuf,
    db: Option<sled::Db>,
    /// Keys whose value has more than one piece.
    long: HashSet<Vec<u8>>,
    /// What the database holds.
    proof: Proof,
    reached: Reached,
    hold_max: Duration,
    stats: Arc<MqttStats>,
}

impl State {
    /// Opens the database, or begins an empty one where it is damaged beyond reading. Returns what is in it, by key.
    ///
    /// # Errors
    /// Where not even an empty database can be made.
    pub(super) fn open(
        dir: &Path,
        quarantine: &Path,
        hold_max: Duration,
        stats: Arc<MqttStats>,
    ) -> Result<(Self, Found), StateError> {
        let opened = open_or_begin(dir, quarantine)?;
        let Opened { found, damage, .. } = opened;
        if let Some(damage) = damage {
            let _ = stats.state_damage.set(damage);
        }
        let long = found
            .iter()
            .filter(|(_, value)| value.len() > PIECE_BYTES)
            .map(|(key, _)| key.clone())
            .collect();
        let found = found.into_iter().map(of_long_name).collect();
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            wake: Condvar::new(),
        });
        let commits = Commits {
            dir: dir.to_owned(),
            db: opened.db,
            long,
            proof: opened.proof,
            reached: opened.reached,
            hold_max,
            stats,
        };
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || commits.run(&of_thread))
            .map_err(|e| StateError::new(e.to_string()))?;
        let thread = Mutex::new(Some(thread));
        Ok((Self { shared, thread }, found))
    }

    /// Hands changes over; they are committed soon, in one batch with others.
    pub(super) fn submit(&self, changes: Vec<Change>) {
        if !changes.is_empty() {
            let changes = changes.into_iter().map(with_short_key);
            self.shared.pending.lock().changes.extend(changes);
            self.shared.wake.notify_one();
        }
    }

    /// Hands changes over, and tells when they, and all that was handed over before, are durable.
    pub(super) fn commit(&self, changes: Vec<Change>) -> Durable {
        let (done, durable) = oneshot::channel();
        let mut pending = self.shared.pending.lock();
        pending
            .changes
            .extend(changes.into_iter().map(with_short_key));
        pending.waiters.push(Waiter {
            since: Instant::now(),
            done,
        });
        drop(pending);
        self.shared.wake.notify_one();
        durable
    }

    /// Commits what waits, and ends the thread. Blocks on the disk.
    pub(super) fn close(&self) {
        self.shared.pending.lock().closed = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the state's commit thread panicked");
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.close();
    }
}

impl Commits {
    fn run(mut self, shared: &Shared) {
        let mut pause = Duration::from_millis(50);
        loop {
            let (changes, mut waiters, closed) = take(shared);
            let result = if changes.is_empty() {
                Ok(())
            } else {
                // sled may panic over a disk that fails.
                catch_unwind(AssertUnwindSafe(|| self.commit(&changes)))
                    .unwrap_or_else(|_| Err(StateError::new("the database panicked")))
            };
            match result {
                Ok(()) => {
                    pause = Duration::from_millis(50);
                    if !changes.is_empty() {
                        self.stats.state_commits_total.one();
                    }
                    for waiter in waiters {
                        let _ = waiter.done.send(Ok(()));
                    }
                }
                Err(error) => {
                    self.stats.state_errors_total.one();
                    tracing::warn!(%error, "the broker's state is not durable, trying again");
                    let db = self.db.take();
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(db)));
                    // Of these nobody knows how many pieces are on the disk.
                    self.long.extend(changes.keys().cloned());
                    give_up_on_old(&mut waiters, self.hold_max, &error);
                    put_back(shared, changes, waiters);
                    if closed {
                        return;
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
            if closed {
                return;
            }
        }
    }

    fn commit(&mut self, changes: &Changes) -> Result<(), StateError> {
        let db = self.db()?;
        let mut proof = self.proof;
        proof.commits += 1;
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            self.add(&db, &mut batch, &mut proof, key, value.as_deref())?;
        }
        batch.insert(state_proof::KEY, &proof.encode());
        let syncs = durable::syncs_total();
        db.apply_batch(batch)?;
        durable::flush(&db, Some(syncs)).map_err(|e| StateError::new(e.to_string()))?;
        no_blobs(&self.dir)?;
        self.proof = proof;
        if let Err(error) = self.reached.note(&proof) {
            tracing::debug!(%error, "not written: a loss of this commit alone would not be seen");
        }
        Ok(())
    }

    /// The database, opened again after a failure: nobody knows whether what failed is in it.
    fn db(&mut self) -> Result<sled::Db, StateError> {
        if let Some(db) = &self.db {
            return Ok(db.clone());
        }
        let db = open_db(&self.dir)?;
        if let Some(stated) = db.get(state_proof::KEY)?.and_then(|p| Proof::decode(&p)) {
            if stated.commits < self.proof.commits {
                let words = "commits of the broker's state were lost when its disk failed";
                let _ = self.stats.state_damage.set(words.to_owned());
            }
            let commits = stated.commits.max(self.proof.commits);
            self.proof = stated;
            self.proof.commits = commits;
        }
        Ok(self.db.insert(db).clone())
    }

    /// Replaces all pieces of `key`.
    fn add(
        &mut self,
        db: &sled::Db,
        batch: &mut sled::Batch,
        proof: &mut Proof,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), StateError> {
        let mut first = Some(piece_key(key, 0));
        if self.long.remove(key) {
            for entry in db.scan_prefix(piece_prefix(key)) {
                let (piece, old) = entry?;
                proof.remove(&piece, &old);
                batch.remove(piece);
            }
            first = None;
        }
        if let Some(first) = first
            && let Some(old) = db.get(&first)?
        {
            proof.remove(&first, &old);
            batch.remove(first);
        }
        let Some(value) = value else {
            return Ok(());
        };
        if value.len() > PIECE_BYTES {
            self.long.insert(key.to_vec());
        }
        // The first is there also where the value is empty.
        let (first, rest) = value.split_at(value.len().min(PIECE_BYTES));
        for (number, piece) in (0u16..).zip(std::iter::once(first).chain(rest.chunks(PIECE_BYTES)))
        {
            let key = piece_key(key, number);
            proof.add(&key, piece);
            batch.insert(key, piece);
        }
        Ok(())
    }
}

/// Waits for something to do.
fn take(shared: &Shared) -> (Changes, Vec<Waiter>, bool) {
    let mut pending = shared.pending.lock();
    while pending.changes.is_empty() && pending.waiters.is_empty() && !pending.closed {
        shared.wake.wait(&mut pending);
    }
    (
        std::mem::take(&mut pending.changes),
        std::mem::take(&mut pending.waiters),
        pending.closed,
    )
}

/// What came since then is newer and wins.
fn put_back(shared: &Shared, changes: Changes, mut waiters: Vec<Waiter>) {
    let mut pending = shared.pending.lock();
    for (key, value) in changes {
        pending.changes.entry(key).or_insert(value);
    }
    waiters.append(&mut pending.waiters);
    pending.waiters = waiters;
}

fn give_up_on_old(waiters: &mut Vec<Waiter>, hold_max: Duration, error: &StateError) {
    for waiter in waiters.extract_if(.., |w| w.since.elapsed() >= hold_max) {
        let _ = waiter.done.send(Err(error.clone()));
    }
}

/// `length of key | key`: so no key's pieces begin like another key's.
fn piece_prefix(key: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(key.len() + 6);
    prefix.extend(u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    prefix.extend(key);
    prefix
}

fn piece_key(key: &[u8], number: u16) -> Vec<u8> {
    let mut piece = piece_prefix(key);
    piece.extend(number.to_be_bytes());
    piece
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_long_as_they_can_be_stay_in_the_log() {
        let root = tempfile::tempdir().unwrap();
        let key = |n: u8| format!("r{n}{}", "topic".repeat(13_000)).into_bytes();
        let value = |n: u8| vec![n; 190_000];
        {
            let (state, _) = open(root.path());
            for n in 0..6 {
                let changes = vec![(key(n), Some(value(n)))];
                state.commit(changes).blocking_recv().unwrap().unwrap();
            }
            let gone = vec![(key(5), None)];
            state.commit(gone).blocking_recv().unwrap().unwrap();
        }
        let (_state, found) = open(root.path());
        assert_eq!(found.len(), 5);
        assert!((0..5).all(|n| found.get(&key(n)) == Some(&value(n))));
    }

    fn open(root: &Path) -> (State, HashMap<Vec<u8>, Vec<u8>>) {
        let (state, found, _) = open_and_say(root);
        (state, found)
    }

    /// Also what it says is lost.
    fn open_and_say(root: &Path) -> (State, HashMap<Vec<u8>, Vec<u8>>, Option<String>) {
        let counters: Arc<MqttStats> = Arc::default();
        let (state, found) = State::open(
            &root.join("state"),
            &root.join("quarantine"),
            Duration::from_secs(1),
            counters.clone(),
        )
        .unwrap();
        let damage = counters.state_damage.get().cloned();
        (state, found.into_iter().collect(), damage)
    }

    fn put(state: &State, key: &str, value: Option<Vec<u8>>) {
        let changes = vec![(key.as_bytes().to_vec(), value)];
        state.commit(changes).blocking_recv().unwrap().unwrap();
    }

    /// Records of several sizes, some of them replaced and some gone again.
    fn fill(root: &Path) {
        let (state, _) = open(root);
        for number in 0..60_usize {
            let value = vec![7; 100 + number % 3 * 9_000];
            put(&state, &number.to_string(), Some(value));
        }
        for number in 0..20_usize {
            let value = (number % 2 == 0).then(|| vec![8; number % 4 * 9_000]);
            put(&state, &number.to_string(), value);
        }
    }

    #[test]
    fn what_was_committed_is_there_again_in_any_size() {
        let root = tempfile::tempdir().unwrap();
        let large = vec![7u8; 300_000];
        {
            let (state, found) = open(root.path());
            assert!(found.is_empty());
            let changes = vec![
                (b"a".to_vec(), Some(b"1".to_vec())),
                (b"".to_vec(), Some(Vec::new())),
                (b"ab".to_vec(), Some(large.clone())),
                (b"b".to_vec(), Some(large.clone())),
            ];
            state.commit(changes).blocking_recv().unwrap().unwrap();
            let changes = vec![(b"b".to_vec(), Some(b"2".to_vec())), (b"a".to_vec(), None)];
            state.commit(changes).blocking_recv().unwrap().unwrap();
        }
        let (_state, found) = open(root.path());
        assert_eq!(found.len(), 3);
        assert_eq!(found[&Vec::new()], b"");
        assert_eq!(found[&b"ab".to_vec()], large);
        assert_eq!(found[&b"b".to_vec()], b"2");
    }

    #[test]
    fn damage_is_set_aside_and_the_relay_starts() {
        let root = tempfile::tempdir().unwrap();
        {
            let (state, _) = open(root.path());
            let value = vec![7u8; 100_000];
            let changes = vec![(b"a".to_vec(), Some(value))];
            state.commit(changes).blocking_recv().unwrap().unwrap();
        }
        let path = root.path().join("state/db");
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in &mut bytes[1_000..60_000] {
            *byte ^= 0x55;
        }
        std::fs::write(&path, bytes).unwrap();
        let (state, _) = open(root.path());
        state
            .commit(vec![(b"n".to_vec(), Some(vec![1]))])
            .blocking_recv()
            .unwrap()
            .unwrap();
    }

    #[test]
    fn nothing_is_said_to_be_lost_where_nothing_is() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path());
        let (state, found, damage) = open_and_say(root.path());
        assert_eq!((found.len(), damage), (50, None));
        put(&state, "0", None);
        drop(state);
        assert_eq!(open_and_say(root.path()).2, None);
    }

    #[test]
    fn a_database_that_lost_its_end_in_silence_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path());
        let path = root.path().join("state/db");
        let whole = std::fs::read(&path).unwrap();
        let mut silent = 0;
        for share in 1..20 {
            let root = tempfile::tempdir().unwrap();
            fill(root.path());
            let path = root.path().join("state/db");
            let kept = whole.len() * share / 20;
            std::fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(kept as u64)
                .unwrap();
            let (_state, found, damage) = open_and_say(root.path());
            silent += usize::from(found.len() < 50 && damage.is_none());
        }
        assert_eq!(silent, 0, "of 19 truncations");
    }

    #[test]
    fn a_missing_database_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path());
        std::fs::remove_dir_all(root.path().join("state")).unwrap();
        let (state, found, damage) = open_and_say(root.path());
        assert!(found.is_empty() && damage.unwrap().contains("all 80 commits"));
        put(&state, "n", Some(vec![1]));
        drop(state);
        assert_eq!(open_and_say(root.path()).2, None, "it is said once");
    }

    #[test]
    fn damage_of_the_small_files_beside_the_log_costs_nothing() {
        for prefix in ["conf", "snap."] {
            let root = tempfile::tempdir().unwrap();
            fill(root.path());
            // sled writes a snapshot when it opens.
            drop(open(root.path()));
            let mut files = std::fs::read_dir(root.path().join("state"))
                .unwrap()
                .flatten();
            let file = files.find(|f| f.file_name().to_string_lossy().starts_with(prefix));
            let path = file.expect(prefix).path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[10] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            let (_state, found, damage) = open_and_say(root.path());
            assert_eq!((found.len(), damage), (50, None), "{prefix}");
            assert_eq!(
                std::fs::read_dir(root.path().join("quarantine"))
                    .unwrap()
                    .count(),
                1
            );
        }
    }
}
