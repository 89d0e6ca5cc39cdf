//! A village around a bridge: clock, drain log, and the bridge running.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hub_bridge::bridge::{Bridge, BridgeHandle, BridgeParts, TimeFloor};
use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::drain::{DrainLog, DrainRecord};
use hub_bridge::platform::Platform;
use hub_bridge::settings::{BridgeSettings, HubUrl};
use hub_bridge::traffic::{NoBook, TrafficBook};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::backlog::MemoryBacklog;

/// A clock whose wall time is moved by the test.
pub struct TestClock {
    began: Instant,
    wall: AtomicI64,
    untrusted: AtomicBool,
}

impl TestClock {
    pub fn at(text: &str) -> Arc<Self> {
        let wall = text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        Arc::new(Self {
            began: Instant::now(),
            wall: AtomicI64::new(wall),
            untrusted: AtomicBool::new(false),
        })
    }

    pub fn move_to(&self, text: &str) {
        let wall = text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        self.wall.store(wall, Ordering::Relaxed);
    }
}

impl TestClock {
    pub fn trust(&self, trusted: bool) {
        self.untrusted.store(!trusted, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.wall.load(Ordering::Relaxed))
    }
    fn monotonic(&self) -> Duration {
        self.began.elapsed()
    }
    fn boot(&self) -> BootId {
        BootId(1)
    }
    fn quality(&self) -> ClockQuality {
        if self.untrusted.load(Ordering::Relaxed) {
            ClockQuality::Unsynchronised
        } else {
            ClockQuality::Synchronised
        }
    }
    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        (received.wall, received.quality)
    }
}

#[derive(Default)]
pub struct MemoryDrainLog(pub Mutex<Vec<DrainRecord>>);

impl DrainLog for MemoryDrainLog {
    fn record(&self, record: &DrainRecord) {
        self.0.lock().unwrap().push(record.clone());
    }
    fn last(&self) -> Option<DrainRecord> {
        self.0.lock().unwrap().last().cloned()
    }
    fn last_scheduled(&self) -> Option<DrainRecord> {
        let records = self.0.lock().unwrap();
        records
            .iter()
            .rev()
            .find(|r| r.cause.is_scheduled())
            .cloned()
    }
}

pub struct Village {
    pub backlog: Arc<MemoryBacklog>,
    pub clock: Arc<TestClock>,
    pub drains: Arc<MemoryDrainLog>,
    pub handle: BridgeHandle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

pub fn settings(port: u16) -> BridgeSettings {
    let url: HubUrl = format!("mqtt://127.0.0.1:{port}").parse().unwrap();
    let mut settings = BridgeSettings::new("bamenda-01".parse().unwrap(), url);
    // The schedule is a test's own business.
    settings.drain.enabled = false;
    settings
}

impl Village {
    pub fn start(settings: BridgeSettings, backlog: Arc<MemoryBacklog>) -> Self {
        Self::start_with(settings, backlog, Arc::new(NoBook))
    }

    pub fn start_with(
        settings: BridgeSettings,
        backlog: Arc<MemoryBacklog>,
        book: Arc<dyn TrafficBook>,
    ) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let clock = TestClock::at("2026-06-01T12:00:00Z");
        let drains = Arc::new(MemoryDrainLog::default());
        let parts = BridgeParts {
            backlog: backlog.clone(),
            clock: clock.clone(),
            drain_log: drains.clone(),
            time_floor: TimeFloor::default(),
            traffic_book: book,
            platform: Platform::default(),
        };
        let (bridge, handle) = Bridge::new(settings, parts).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(bridge.run(stop.clone()));
        Self {
            backlog,
            clock,
            drains,
            handle,
            stop,
            task,
        }
    }

    /// Waits until nothing waits for the hub.
    pub async fn drained(&self, deadline: Duration) {
        super::within(deadline, "the backlog is empty", || async {
            (self.backlog.waiting() == 0).then_some(())
        })
        .await;
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}
