//! A listener with its store, in memory but for a temporary directory, and connections to it.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hub_bridge::backlog::{Backlog, Mark};
use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use hub_bridge::identity::{Sequence, SequenceRange};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::answers::Stored;
use crate::listener::{Listener, MqttStats, Settings, Shared, connect};
use crate::store::{self, Store};

/// After so many inputs everything begins anew: what is retained must not pile up.
const INPUTS_MAX: u32 = 1_000;
/// Longer than anything takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(20);
/// In memory where that is possible: the disk is not what is fuzzed.
const IN_MEMORY: &str = "/dev/shm";

/// Stands still until it is moved.
#[derive(Default)]
struct MovedClock(AtomicU64);

impl Clock for MovedClock {
    fn wall(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + i64::try_from(self.monotonic().as_millis()).unwrap())
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(1_000 + self.0.load(Ordering::SeqCst))
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

/// See the module.
pub(super) struct Rig {
    pub(super) shared: Arc<Shared>,
    clock: Arc<MovedClock>,
    seen: Sequence,
    dir: TempDir,
}

struct Running {
    rig: Rig,
    runtime: Runtime,
    inputs: u32,
}

thread_local! {
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

/// Runs `input` on this thread's rig, and what must hold afterwards.
pub(super) fn with_rig(input: impl AsyncFnOnce(&mut Rig)) {
    let kept = RUNNING.take().filter(|r| r.inputs < INPUTS_MAX);
    let mut running = kept.unwrap_or_else(Running::start);
    running.inputs += 1;
    let rig = &mut running.rig;
    running.runtime.block_on(async {
        tokio::time::timeout(PATIENCE, async {
            input(rig).await;
            rig.settle().await;
        })
        .await
        .expect("the server is stuck");
    });
    // Not put back after a panic: the next input gets a new one.
    RUNNING.set(Some(running));
}

impl Running {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let rig = runtime.block_on(Rig::start());
        Self {
            rig,
            runtime,
            inputs: 0,
        }
    }
}

impl Rig {
    async fn start() -> Self {
        let dir = tempfile::tempdir_in(IN_MEMORY)
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let clock = Arc::new(MovedClock::default());
        let store = Store::open(&store_settings(dir.path()), clock.clone())
            .unwrap()
            .0;
        let mut settings = Settings::new(([127, 0, 0, 1], 0).into(), dir.path());
        settings.forward = vec!["m/#".to_owned(), "+/é".to_owned()];
        settings.packet_bytes_max = 4096;
        settings.in_flight_max = 8;
        settings.topic_alias_max = 2;
        settings.sessions_max = 8;
        settings.session_subscriptions_max = 8;
        let stats = Arc::new(MqttStats::default());
        let listener = Listener::bind(settings, store, clock.clone(), stats)
            .await
            .unwrap();
        Self {
            shared: listener.shared.clone(),
            clock,
            seen: Sequence(0),
            dir,
        }
    }

    /// A connection as the acceptor would hand it on.
    pub(super) fn connect(&self) -> Wire {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let peer = ([127, 0, 0, 1], 9).into();
        let serving = connect::serve(
            self.shared.clone(),
            theirs,
            peer,
            false,
            CancellationToken::new(),
        );
        let server = tokio::spawn(serving);
        let (reader, writer) = tokio::io::split(ours);
        let output = Arc::new(Output::default());
        Wire {
            writer,
            reading: tokio::spawn(read_all(reader, output.clone())),
            output,
            server,
        }
    }

    /// The readings that were stored since the last call: topic and payload, and how often.
    pub(super) fn stored(&mut self) -> Stored {
        let store = &self.shared.store;
        let stats = store.stats();
        let mut found = Stored::new();
        let first = self.seen.next();
        while self.seen.next() < stats.next_sequence {
            let readings = store.peek(stats.epoch, self.seen.next(), 64).unwrap();
            assert!(!readings.is_empty(), "a committed reading cannot be read");
            for reading in readings {
                assert_eq!(reading.sequence, self.seen.next(), "a sequence is missing");
                self.seen = reading.sequence;
                *found
                    .entry((reading.topic.to_string(), reading.payload.to_vec()))
                    .or_insert(0) += 1;
            }
        }
        if let Some(range) = SequenceRange::new(first, self.seen) {
            store
                .confirm(stats.epoch, Mark::Forwarded, &[range])
                .unwrap();
        }
        found
    }

    /// Sessions and wills come to their end; nothing is left, and another client is served.
    async fn settle(&mut self) {
        self.clock.0.fetch_add(8 * 24 * 3600, Ordering::SeqCst);
        for _ in 0..2 {
            let due = self.shared.broker.tick();
            crate::listener::wills::publish_all(&self.shared, due).await;
            self.clock.0.fetch_add(8 * 24 * 3600, Ordering::SeqCst);
        }
        assert_eq!(
            self.shared.stats.connections.get(),
            0,
            "a connection is left"
        );
        assert_eq!(self.shared.stats.sessions.get(), 0, "a session is left");
        assert_eq!(
            self.shared.stats.subscriptions.get(),
            0,
            "a subscription is left"
        );
        self.stored();
        let mut other = self.connect();
        other.write(b"\x10\x0e\0\x04MQTT\x04\x02\0\0\0\x02ok").await;
        other.write(b"\x82\x08\0\x01\0\x03m/+\0").await;
        other.write(b"\x32\x09\0\x03m/1\0\x02on").await;
        for (what, packet) in [
            ("let in", &b"\x20\x02\0\0"[..]),
            ("subscribed", b"\x90\x03\0\x01\0"),
            ("acknowledged", b"\x40\x02\0\x02"),
            ("delivered", b"\0\x03m/1on"),
        ] {
            let told = tokio::time::timeout(PATIENCE / 4, other.until(packet)).await;
            assert!(told.is_ok(), "another client is not {what}");
        }
        other.end().await;
        let reading = ("m/1".to_owned(), b"on".to_vec());
        assert!(
            self.stored().contains_key(&reading),
            "its reading is not stored"
        );
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shared.broker.close();
        self.shared.store.close();
        let _ = std::fs::remove_dir_all(self.dir.path());
    }
}

/// What the server wrote.
#[derive(Default)]
struct Output {
    bytes: Mutex<Vec<u8>>,
    more: Notify,
}

async fn read_all(mut reader: ReadHalf<DuplexStream>, output: Arc<Output>) {
    let mut part = vec![0; 4096];
    while let Ok(count) = reader.read(&mut part).await {
        if count == 0 {
            return;
        }
        output.bytes.lock().extend(&part[..count]);
        output.more.notify_one();
    }
}

/// The client's end of a connection.
pub(super) struct Wire {
    writer: WriteHalf<DuplexStream>,
    reading: JoinHandle<()>,
    output: Arc<Output>,
    server: JoinHandle<()>,
}

impl Wire {
    /// Sends bytes and lets the server take them; a server that has ended does not.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.writer.write_all(bytes).await;
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    /// Whether the server has ended it.
    pub(super) fn is_over(&self) -> bool {
        self.server.is_finished()
    }

    /// Closes our side, and waits for the server's end: all that it wrote.
    pub(super) async fn end(mut self) -> Vec<u8> {
        let _ = self.writer.shutdown().await;
        self.cut_off().await
    }

    /// Waits until the server ends it by itself: all that it wrote.
    pub(super) async fn cut_off(self) -> Vec<u8> {
        self.server.await.expect("a connection's task panicked");
        // Held until here: half a stream that is dropped would look like our end.
        drop(self.writer);
        self.reading.await.unwrap();
        std::mem::take(&mut self.output.bytes.lock())
    }

    /// Waits until the server wrote `packet`.
    async fn until(&self, packet: &[u8]) {
        let has = || {
            self.output
                .bytes
                .lock()
                .windows(packet.len())
                .any(|found| found == packet)
        };
        while !has() {
            self.output.more.notified().await;
        }
    }
}

fn store_settings(dir: &std::path::Path) -> store::Settings {
    store::Settings {
        data_dir: dir.to_owned(),
        village: "fuzz".parse().unwrap(),
        machine_id: "machine".to_owned(),
        bytes_max: u64::MAX / 2,
        disk_free_min: 0,
        alarm_at: 0.8,
        confirm: Mark::Forwarded,
        keep_forwarded: Duration::ZERO,
        segment_bytes: 1024 * 1024,
        commit_delay: Duration::ZERO,
        queue_bytes_max: 4 * 1024 * 1024,
        hold_max: Duration::from_secs(5),
    }
}
