//! A listener on a free port, with its store and a clock that tests move.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use edge_relay::listener::{Handle, Listener, MqttStats, Settings};
use edge_relay::store::{self, Store};
use hub_bridge::backlog::{Backlog, Mark, ReadLimit};
use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::Client;

/// Stands still unless it is moved.
#[derive(Default)]
pub(crate) struct MovedClock(AtomicU64);

impl MovedClock {
    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + self.monotonic().as_millis() as i64)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(1_000_000 + self.0.load(Ordering::SeqCst))
    }

    fn boot(&self) -> BootId {
        BootId(1)
    }

    fn quality(&self) -> ClockQuality {
        ClockQuality::Synchronised
    }

    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        (received.wall, received.quality)
    }
}

pub(crate) struct Relay {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) stats: Arc<MqttStats>,
    pub(crate) store: Store,
    pub(crate) handle: Handle,
    pub(crate) addr: SocketAddr,
    pub(crate) tls_addr: Option<SocketAddr>,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

pub(crate) fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::new(([127, 0, 0, 1], 0).into(), dir);
    settings.forward = vec!["meters/#".to_owned()];
    settings
}

impl Relay {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::start_in(dir, u64::MAX / 2, change).await
    }

    pub(crate) async fn start_in(
        dir: Arc<TempDir>,
        bytes_max: u64,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut store_settings = store_settings(dir.path());
        store_settings.bytes_max = bytes_max;
        Self::start_on(dir, store_settings, change).await
    }

    pub(crate) async fn start_on(
        dir: Arc<TempDir>,
        store_settings: store::Settings,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let clock = Arc::new(MovedClock::default());
        let of_store: Arc<dyn Clock> = clock.clone();
        let store =
            tokio::task::spawn_blocking(move || Store::open(&store_settings, of_store).unwrap().0)
                .await
                .unwrap();
        let stats = Arc::new(MqttStats::default());
        let mut settings = settings(dir.path());
        change(&mut settings);
        let listener = Listener::bind(settings, store.clone(), clock.clone(), stats.clone())
            .await
            .unwrap();
        let (addr, tls_addr) = (listener.local_addr().unwrap(), listener.tls_addr());
        let handle = listener.handle();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(listener.run(shutdown.clone()));
        Self {
            dir,
            clock,
            stats,
            store,
            handle,
            addr,
            tls_addr,
            shutdown,
            running,
        }
    }

    pub(crate) async fn v4(&self, id: &str) -> Client {
        Client::v4(self.addr, id, true).await.0
    }

    pub(crate) async fn v5(&self, id: &str) -> Client {
        Client::v5(self.addr, id, true, &[]).await.0
    }

    /// Waits until `condition`, at most five seconds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&MqttStats) -> bool) {
        for _ in 0..500 {
            if condition(&self.stats) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within five seconds: {what}: {:?}", self.stats);
    }

    /// All readings in the store, as (topic, payload).
    pub(crate) fn readings(&self) -> Vec<(String, Vec<u8>)> {
        let limit = ReadLimit {
            count: usize::MAX,
            bytes: usize::MAX,
        };
        let mut found = Vec::new();
        for state in self.store.epochs() {
            let mut from = state.first_unconfirmed;
            while from < state.next {
                let read = self
                    .store
                    .read(state.epoch, from, Mark::Forwarded, limit)
                    .unwrap();
                let pairs = read.readings.iter();
                found.extend(pairs.map(|r| (r.topic.to_string(), r.payload.to_vec())));
                match read.next {
                    Some(next) if next > from => from = next,
                    _ => break,
                }
            }
        }
        found
    }

    /// What a kill at this moment would leave on the disk. Nothing may be on its way to it.
    pub(crate) fn as_killed(&self) -> Arc<TempDir> {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), copy.path());
        Arc::new(copy)
    }

    pub(crate) fn begin_stop(&self) {
        self.shutdown.cancel();
    }

    pub(crate) async fn stop(self) -> Arc<TempDir> {
        self.shutdown.cancel();
        self.running.await.unwrap();
        let store = self.store;
        tokio::task::spawn_blocking(move || store.close())
            .await
            .unwrap();
        self.dir
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) fn store_settings(dir: &Path) -> store::Settings {
    store::Settings {
        data_dir: dir.to_owned(),
        village: "test".parse().unwrap(),
        machine_id: "machine".to_owned(),
        bytes_max: u64::MAX / 2,
        disk_free_min: 0,
        alarm_at: 0.8,
        confirm: Mark::Forwarded,
        keep_forwarded: Duration::ZERO,
        segment_bytes: 16 * 1024 * 1024,
        commit_delay: Duration::ZERO,
        queue_bytes_max: 4 * 1024 * 1024,
        hold_max: Duration::from_millis(300),
    }
}
