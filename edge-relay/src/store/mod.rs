//! The store: readings on stable storage until the hub has them.
//!
//! # On disk
//!
//! ```text
//! data_dir/
//!   lock                      held by the process that has the store; the pid in it
//!   identity                  machine, epochs, their villages and salts (checksum, JSON)
//!   marks.a  marks.b          how far each epoch has come, in turn (`marks.rs`)
//!   account                   what was stored of each epoch, with a digest of it (`account/`)
//!   reached                   the last sequence that was committed, exact after a kill (`reached.rs`)
//!   backlog/
//!     1f2e3d4c-00000000000000000001/     a segment: epoch, sequence of its first reading (`segment.rs`)
//!       db  conf  blobs/      sled, written once; db may end in zeroes (`ahead.rs`), blobs stays empty
//!       meta                  epoch, village, salt (JSON)
//!       closed                the sidecar, once it takes no more: where each frame lies
//!   refused/  refused.list    readings that the hub never takes, one file each, and which there are (`refused.rs`)
//!   quarantine/               what was damaged, kept aside (`quarantine.rs`)
//! ```
//!
//! A segment's values are frames of many readings (`frame.rs`), each in an envelope with version and
//! checksum (`envelope.rs`).
//!
//! # Invariants
//!
//! - A reading is acknowledged only after its frame was synced (`commit.rs`).
//! - Sequences of an epoch have no holes, and none leaves this box with two readings: a segment ends where the name of
//!   the next one begins, an epoch whose end is not proved is never continued (`salvage.rs`), and the bridge gets
//!   only what synced marks know of (`reached.rs`).
//! - A segment is removed only when the confirming mark has passed all of it, and after that mark was synced.
//! - sled never opens a segment that exists: reading goes through the frames in the file (`carve.rs`, `reader.rs`).
//!
//! # What a crash leaves
//!
//! A segment without a sidecar (it is read through once at the next start and given one), frames that nobody
//! acknowledged (kept: the meter sends again, and the second one is marked as a repeat), and marks that are a moment
//! old (readings are sent again under the same identities).

mod account;
mod ahead;
mod backlog;
mod carve;
mod commit;
mod envelope;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod health;
mod identity;
mod index;
mod inspect;
mod keeper;
mod kept;
mod lock;
mod marks;
mod open;
mod quarantine;
mod queue;
mod reached;
mod reader;
mod refused;
mod repeat;
mod salvage;
mod segment;
mod sequences;
mod shared;
mod sled_segment;
#[cfg(test)]
pub(crate) mod tests;

use ahash::RandomState;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hub_bridge::backlog::Mark;
use hub_bridge::clock::{Clock, ReceivedAt};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::reading::PublishProperties;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

pub use health::StoreHealth;
pub use identity::EpochReason;
pub use inspect::{EpochStats, RefusedInfo, SegmentInfo, Stats, Verified};
pub use open::{OpenError, OpenReport};

use commit::Committer;
use lock::DirLock;
use queue::Job;
use segment::{Disk, Medium};
use shared::Shared;

/// What the store is told; the quotas can change while it runs ([`Store::apply`]).
#[derive(Debug, Clone)]
pub struct Settings {
    /// `data_dir`. The store owns `backlog/`, `refused/`, `quarantine/`, `lock`, `marks`, `reached` and `identity` in it.
    pub data_dir: PathBuf,
    /// The village that new readings belong to.
    pub village: VillageId,
    /// The machine: another one than the store was made on begins a new epoch.
    pub machine_id: String,
    /// Most bytes of waiting readings; at it, nothing is acknowledged.
    pub bytes_max: u64,
    /// Free space on the disk below which nothing is acknowledged, in bytes.
    pub disk_free_min: u64,
    /// The share of `bytes_max` at which the alarm begins, 0.0 to 1.0.
    pub alarm_at: f64,
    /// Which mark trims: `Forwarded` for `hub.confirm = "puback"`, `Stored` for `"receipt"`.
    pub confirm: Mark,
    /// How long segments stay after all in them was forwarded.
    pub keep_forwarded: Duration,
    /// At what size of values a segment is closed, in bytes.
    pub segment_bytes: u64,
    /// How long a commit may wait for more readings; zero commits at once what is there.
    pub commit_delay: Duration,
    /// Most bytes of readings in memory that wait for their commit.
    pub queue_bytes_max: usize,
    /// How long readings wait in memory for a disk that fails, before they are given back.
    pub hold_max: Duration,
}

/// A reading on its way in.
#[derive(Debug, Clone)]
pub struct NewReading {
    /// Topic name as published.
    pub topic: Arc<str>,
    /// The meter's MQTT client id.
    pub client_id: Arc<str>,
    /// Byte for byte.
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The retain flag.
    pub retain: bool,
    /// The DUP flag: only then the store looks for the reading that this repeats.
    pub dup: bool,
    /// 0 for `QoS` 0 and wills.
    pub packet_id: u16,
    /// The moment of arrival.
    pub received: ReceivedAt,
    /// MQTT 5 properties that travel on.
    pub properties: Option<Box<PublishProperties>>,
}

/// Durable: these sequences were given, in the order of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The epoch.
    pub epoch: Epoch,
    /// One sequence a reading.
    pub range: SequenceRange,
}

/// A `QoS` 2 reading that was in the store at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExactlyOnce {
    /// Who published it.
    pub client_id: Arc<str>,
    /// Its packet id.
    pub packet_id: u16,
    /// The digest of its topic and payload ([`Store::content`]).
    pub content: u64,
    /// Where it is.
    pub epoch: Epoch,
    /// Where in the epoch.
    pub sequence: Sequence,
}

/// Why readings were not kept. Nothing of it may be acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// `bytes_max` or `disk_free_min` is reached.
    #[error("the backlog's quota is reached")]
    Quota,
    /// The disk failed for longer than `hold_max`.
    #[error("the disk did not take it: {0}")]
    Disk(String),
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
}

/// The store: cheap to clone. Closes when the last clone is dropped, or by [`Store::close`].
#[derive(Clone)]
pub struct Store {
    threads: Arc<Threads>,
}

/// The threads and what ends with them.
struct Threads {
    shared: Arc<Shared>,
    /// Keyed anew in each process, as that of [`repeat::Recent`].
    hasher: RandomState,
    exactly_once: Mutex<Vec<ExactlyOnce>>,
    queue_room: Arc<Semaphore>,
    queue_bytes_max: u32,
    running: Mutex<Option<Running>>,
}

struct Running {
    committer: JoinHandle<()>,
    keeper: JoinHandle<()>,
    lock: DirLock,
}

/// A place in the commit queue, held while the reading is being made.
pub struct AppendPermit {
    store: Store,
    permit: OwnedSemaphorePermit,
}

/// Resolves when the readings are on stable storage.
pub type Appended = oneshot::Receiver<Result<Committed, AppendError>>;

impl Store {
    /// Opens the store in `settings.data_dir`, or makes it. Blocks on the disk. Damage never keeps it from
    /// opening: the report says what was found.
    ///
    /// # Errors
    /// [`OpenError`]: another process has it, no permission, or the self-check failed.
    pub fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, OpenReport), OpenError> {
        Self::open_on(settings, clock, Box::new(Disk))
    }

    fn open_on(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        medium: Box<dyn Medium>,
    ) -> Result<(Self, OpenReport), OpenError> {
        let opened = open::open(settings, clock)?;
        let hasher = opened.recent.hasher();
        let committer = Committer::new(opened.shared.clone(), medium, opened.recent);
        let keeper_shared = opened.shared.clone();
        let spawn_error = |source| OpenError::Io {
            path: settings.data_dir.clone(),
            source,
        };
        let committer = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || committer.run())
            .map_err(spawn_error)?;
        let keeper = std::thread::Builder::new()
            .name("store-keeper".to_owned())
            .spawn(move || keeper::run(&keeper_shared))
            .map_err(spawn_error)?;
        opened.shared.wake_keeper();
        let queue_bytes_max = u32::try_from(settings.queue_bytes_max)
            .unwrap_or(u32::MAX)
            .max(1);
        let threads = Threads {
            shared: opened.shared,
            hasher,
            exactly_once: Mutex::new(opened.exactly_once),
            queue_room: Arc::new(Semaphore::new(queue_bytes_max as usize)),
            queue_bytes_max,
            running: Mutex::new(Some(Running {
                committer,
                keeper,
                lock: opened.lock,
            })),
        };
        let store = Self {
            threads: Arc::new(threads),
        };
        Ok((store, opened.report))
    }

    fn shared(&self) -> &Shared {
        &self.threads.shared
    }

    /// Waits until `bytes` ([`NewReading::size_bytes`]) fit in the commit queue; more than the whole queue
    /// waits until it is empty.
    ///
    /// # Errors
    /// At once, when nothing was taken for longer than `hold_max`.
    pub async fn reserve(&self, bytes: usize) -> Result<AppendPermit, AppendError> {
        let hold_max = self.shared().settings.read().hold_max;
        match self.shared().health.unwell_for(hold_max) {
            Some(StoreHealth::Full { .. }) => return Err(AppendError::Quota),
            Some(StoreHealth::Failing { error }) => return Err(AppendError::Disk(error)),
            _ => {}
        }
        let bytes = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .min(self.threads.queue_bytes_max);
        let room = self.threads.queue_room.clone();
        let permit = room
            .acquire_many_owned(bytes)
            .await
            .map_err(|_| AppendError::Closed)?;
        Ok(AppendPermit {
            store: self.clone(),
            permit,
        })
    }

    /// Takes over the settings that can change while it runs: `bytes_max`, `disk_free_min`, `alarm_at`, `confirm`,
    /// `keep_forwarded`, `segment_bytes`, `commit_delay` and `hold_max`.
    pub fn apply(&self, settings: &Settings) {
        let shared = self.shared();
        {
            let mut now = shared.settings.write();
            now.bytes_max = settings.bytes_max;
            now.disk_free_min = settings.disk_free_min;
            now.alarm_at = settings.alarm_at;
            now.confirm = settings.confirm;
            now.keep_forwarded = settings.keep_forwarded;
            now.segment_bytes = settings.segment_bytes;
            now.commit_delay = settings.commit_delay;
            now.hold_max = settings.hold_max;
        }
        for epoch in &mut shared.index.lock().epochs {
            epoch.recount_all(settings.confirm);
        }
        shared.assess();
        shared.wake_keeper();
    }

    /// The `QoS` 2 readings among the last ones that were stored before this start, in their order. Once.
    pub fn take_exactly_once(&self) -> Vec<ExactlyOnce> {
        std::mem::take(&mut self.threads.exactly_once.lock())
    }

    /// The digest of a topic and a payload, in this process.
    pub fn content(&self, topic: &str, payload: &[u8]) -> u64 {
        self.threads.hasher.hash_one((topic, payload))
    }

    /// The last reading that was committed: the current epoch, and its sequence (0: none yet).
    pub fn last(&self) -> (Epoch, u64) {
        let index = self.shared().index.lock();
        let last = index.epochs.last();
        last.map_or((Epoch(0), 0), |e| (e.epoch, e.next.saturating_sub(1)))
    }

    /// Whether readings are taken, to watch.
    pub fn health(&self) -> watch::Receiver<StoreHealth> {
        self.shared().health.subscribe()
    }

    /// Commits what waits, closes the segment, syncs the marks and gives the directory back. Blocks on the disk.
    /// Appends from now on are answered with [`AppendError::Closed`]; reading goes on to work, and confirmations
    /// are no longer written down: stop the bridge first.
    pub fn close(&self) {
        self.threads.close();
    }
}

impl Threads {
    fn close(&self) {
        let Some(running) = self.running.lock().take() else {
            return;
        };
        self.queue_room.close();
        self.shared.queue.close();
        let committed = running.committer.join().is_ok();
        self.shared.keeper.lock().closing = true;
        self.shared.keeper_wake.notify_one();
        let kept = running.keeper.join().is_ok();
        if !(committed && kept && self.shared.save_marks(true, true)) {
            tracing::error!("the store was not closed in order");
        }
        self.shared.closed.store(true, Ordering::Release);
        drop(running.lock);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.close();
    }
}

impl AppendPermit {
    /// Puts `readings` (not none) in the queue, in order; does not block.
    pub fn append(self, readings: Vec<NewReading>) -> Appended {
        let (done, appended) = oneshot::channel();
        self.store.shared().queue.push(Job {
            readings,
            done,
            permit: Some(self.permit),
            queued: Instant::now(),
        });
        appended
    }
}
