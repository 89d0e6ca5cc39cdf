//! The store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hub_bridge::clock::{Clock, ReceivedAt};
use hub_bridge::identity::{Epoch, Sequence, SequenceRange, VillageId};
use hub_bridge::reading::PublishProperties;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

/// What the store is told; the quotas can change while it runs ([`Store::apply`]).
#[derive(Debug, Clone)]
pub struct Settings {
    /// `data_dir`. The store owns `backlog/`, `refused/`, `quarantine/`, `lock`, `marks` and `identity` in it.
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

/// The store: cheap to clone.
#[derive(Clone)]
pub struct Store {
    queue: Arc<Semaphore>,
    next: Arc<std::sync::atomic::AtomicU64>,
    appended: watch::Sender<u64>,
}

/// A place in the commit queue, held while the reading is being made.
pub struct AppendPermit {
    store: Store,
    permit: OwnedSemaphorePermit,
}

/// Resolves when the readings are on stable storage.
pub type Appended = oneshot::Receiver<Result<Committed, AppendError>>;

impl Store {
    /// Opens.
    pub fn open(settings: &Settings, _clock: Arc<dyn Clock>) -> Result<Self, AppendError> {
        Ok(Self {
            queue: Arc::new(Semaphore::new(settings.queue_bytes_max)),
            next: Arc::new(1.into()),
            appended: watch::channel(0).0,
        })
    }

    /// Waits until `bytes` fit in the commit queue.
    pub async fn reserve(&self, bytes: usize) -> Result<AppendPermit, AppendError> {
        let bytes = u32::try_from(bytes).map_err(|_| AppendError::Quota)?;
        let permit = self
            .queue
            .clone()
            .acquire_many_owned(bytes)
            .await
            .map_err(|_| AppendError::Closed)?;
        Ok(AppendPermit {
            store: self.clone(),
            permit,
        })
    }
}

impl AppendPermit {
    /// Puts `readings` (not none) in the queue, in order; does not block.
    pub fn append(self, readings: Vec<NewReading>) -> Appended {
        let (done, appended) = oneshot::channel();
        let count = readings.len() as u64;
        let first = self
            .store
            .next
            .fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        if let Some(range) = SequenceRange::new(Sequence(first), Sequence(first + count - 1)) {
            let _ = done.send(Ok(Committed {
                epoch: Epoch(0),
                range,
            }));
        }
        self.store.appended.send_modify(|n| *n += count);
        drop(self.permit);
        appended
    }
}
