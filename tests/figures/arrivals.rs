//! What arrives at the hub: a subscriber that counts, and knows each reading by its topic and number.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use harness::packet::{self, Connect, Packet, Publish, Version, kind};
use harness::wait::wait_for;
use std::sync::{Mutex, PoisonError};

/// The readings that came so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    unique: HashSet<u64>,
    /// Deliveries in all.
    pub(crate) deliveries: usize,
    /// The first delivery.
    pub(crate) first: Option<Instant>,
    /// The last delivery of a reading not seen before.
    pub(crate) last: Option<Instant>,
}

/// What a subscriber on a thread of its own saw, until the hub closes the connection; or what a hub that counts saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals(Arc<Mutex<Seen>>);

impl Arrivals {
    /// Connects as soon as the hub listens, and subscribes to everything at QoS 0 in the same write: before any
    /// bridge that retries can get there.
    pub(crate) fn watch(hub: SocketAddr) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let told = seen.clone();
        let mut socket = wait_for("the hub listens", Duration::from_secs(30), || {
            TcpStream::connect(hub).ok()
        });
        std::thread::spawn(move || {
            let _ = socket.set_nodelay(true);
            let mut hello = Connect::new(Version::V4, "figures").encode();
            hello.extend(packet::subscribe(Version::V4, 1, "#", 0));
            let _ = socket.write_all(&hello);
            let mut from = BufReader::with_capacity(1024 * 1024, Bulk(socket));
            while let Ok(packet) = Packet::read(&mut from) {
                if packet.kind() == kind::PUBLISH
                    && let Ok(publish) = Publish::decode(&packet, Version::V4)
                {
                    told.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .count(&publish.topic, &publish.payload);
                }
            }
        });
        Self(seen)
    }

    /// Has many counted at once.
    pub(crate) fn count_all<T>(&self, count: impl FnOnce(&mut Seen) -> T) -> T {
        count(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for `readings` different ones.
    pub(crate) fn wait(&self, readings: usize, deadline: Duration) -> Result<Seen> {
        let until = Instant::now() + deadline;
        loop {
            let seen = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone_counts();
            if seen.1 >= readings {
                return Ok(self
                    .0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone());
            }
            if Instant::now() > until {
                bail!(
                    "{} of {readings} readings at the hub after {deadline:?}",
                    seen.1
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Like [`Arrivals::wait`], and how many bytes a second `meter` counted between a quarter and three quarters of the
    /// readings: what a link carries once it is under way.
    #[allow(clippy::cast_precision_loss)] // far below 2^52 bytes
    pub(crate) fn wait_steady(
        &self,
        readings: usize,
        meter: impl Fn() -> u64,
    ) -> Result<(Seen, f64)> {
        let deadline = Duration::from_secs(600);
        self.wait(readings / 4, deadline)?;
        let (from, bytes) = (Instant::now(), meter());
        self.wait(readings * 3 / 4, deadline)?;
        let rate = (meter() - bytes) as f64 / from.elapsed().as_secs_f64();
        Ok((self.wait(readings, deadline)?, rate))
    }
}

/// How long the subscriber rests between two reads: what came meanwhile is read at once. Otherwise the hub would pay for
/// waking it with each reading, and this tool would be most of what is measured.
const REST: Duration = Duration::from_millis(1);

/// Reads in bulk.
struct Bulk(TcpStream);

impl Read for Bulk {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(REST);
        self.0.read(buffer)
    }
}

impl Seen {
    /// One arrived.
    pub(crate) fn count(&mut self, topic: &str, payload: &[u8]) {
        let mut hasher = DefaultHasher::new();
        // Bridges put prefixes before a topic; the meter's own part is the last three levels.
        for level in topic.rsplitn(4, '/').take(3) {
            level.hash(&mut hasher);
        }
        payload.get(..18).hash(&mut hasher);
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.deliveries += 1;
        if self.unique.insert(hasher.finish()) {
            self.last = Some(now);
        }
    }

    fn clone_counts(&self) -> (usize, usize) {
        (self.deliveries, self.unique.len())
    }

    /// From the first delivery to the last new one.
    pub(crate) fn span(&self) -> Duration {
        self.first
            .zip(self.last)
            .map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// Deliveries of a reading that was there already.
    pub(crate) fn duplicates(&self) -> usize {
        self.deliveries - self.unique.len()
    }
}
