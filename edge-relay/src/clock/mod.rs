//! The gateway's clock: wall time, time since boot, and whether the first is to be trusted.
//!
//! [`SystemClock::observe`] runs every second. While the wall clock is synchronised it notes how far it is
//! from the time since boot; by that, readings that arrived earlier in the same boot, when the clock still
//! said 1970, get their right time when they are forwarded. The offsets are kept in `data_dir/boots`, so
//! that this holds for readings of earlier boots too.
//!
//! What failure leaves behind: without `boots`, readings of earlier boots stay `unsynchronised`.

mod boots;
mod kernel;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use hub_bridge::clock::{BootId, Clock, ClockQuality, ReceivedAt, UnixMillis};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use boots::Boots;
pub use kernel::Kernel;

/// Whose word counts on the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// The kernel's, which the NTP client told.
    Kernel,
    /// It is always right: a battery-backed clock that something else sets.
    Always,
    /// It is never right.
    Never,
}

/// Where times come from; a test moves them.
pub trait TimeSource: Send + Sync + 'static {
    /// The wall clock.
    fn wall(&self) -> UnixMillis;
    /// Time since boot, sleep included.
    fn monotonic(&self) -> Duration;
    /// This boot.
    fn boot(&self) -> BootId;
    /// Whether the kernel holds the wall clock for synchronised.
    fn synchronised(&self) -> bool;
}

/// 2025-01-01: a wall clock before it is wrong, whoever says otherwise.
const PLAUSIBLE_MIN: UnixMillis = UnixMillis(1_735_689_600_000);

/// A change of wall time against monotonic time that is a step and not a correction of the rate.
const STEP_MIN_MS: u64 = 1000;

/// How far the clock may drift before its offset is written again.
const OFFSET_KEEP_MS: u64 = 250;

/// How often the last known good time is written while nothing else changes.
const GOOD_TIME_EVERY_MS: i64 = 3_600_000;

/// The clock of this machine.
pub struct SystemClock<S = Kernel> {
    source: S,
    trust: Trust,
    boot: BootId,
    /// As of the last observation: asking the kernel for each reading would cost a system call.
    synchronised: AtomicBool,
    offset_ms: AtomicI64,
    steps_total: AtomicU64,
    boots: Mutex<Boots>,
}

impl SystemClock<Kernel> {
    /// The kernel's clock, with the offsets of earlier boots from `data_dir`.
    pub fn open(data_dir: &Path, trust: Trust) -> Self {
        Self::with_source(Kernel::new(), data_dir, trust)
    }
}

impl<S: TimeSource> SystemClock<S> {
    /// The same over another source of time.
    pub fn with_source(source: S, data_dir: &Path, trust: Trust) -> Self {
        let clock = Self {
            boot: source.boot(),
            source,
            trust,
            synchronised: AtomicBool::new(false),
            offset_ms: AtomicI64::new(0),
            steps_total: AtomicU64::new(0),
            boots: Mutex::new(Boots::open(data_dir)),
        };
        clock.offset_ms.store(clock.offset_now(), Ordering::Relaxed);
        clock
            .synchronised
            .store(clock.trusted_now(), Ordering::Relaxed);
        clock.learn();
        clock
    }

    /// Looks whether the clock was set or synchronised; to be called about once a second. Blocks on the disk
    /// where an offset is kept.
    pub fn observe(&self) {
        let offset = self.offset_now();
        let before = self.offset_ms.swap(offset, Ordering::Relaxed);
        if offset.abs_diff(before) >= STEP_MIN_MS {
            self.steps_total.fetch_add(1, Ordering::Relaxed);
            let by_ms = offset.saturating_sub(before);
            info!(by_ms, "the wall clock was set");
        }
        let trusted = self.trusted_now();
        if self.synchronised.swap(trusted, Ordering::Relaxed) != trusted {
            info!(synchronised = trusted, "the wall clock's quality changed");
        }
        self.learn();
    }

    /// How often the wall clock was stepped since the start.
    pub fn steps_total(&self) -> u64 {
        self.steps_total.load(Ordering::Relaxed)
    }

    /// The latest wall time that was to be trusted, in this boot or an earlier one.
    pub fn known_good(&self) -> Option<UnixMillis> {
        if self.synchronised.load(Ordering::Relaxed) {
            return Some(self.source.wall());
        }
        self.boots.lock().known_good()
    }

    fn offset_now(&self) -> i64 {
        let monotonic = i64::try_from(self.source.monotonic().as_millis()).unwrap_or(i64::MAX);
        self.source.wall().0.saturating_sub(monotonic)
    }

    fn trusted_now(&self) -> bool {
        let word = match self.trust {
            Trust::Kernel => self.source.synchronised(),
            Trust::Always => true,
            Trust::Never => false,
        };
        word && self.source.wall() >= PLAUSIBLE_MIN
    }

    fn learn(&self) {
        if !self.synchronised.load(Ordering::Relaxed) {
            return;
        }
        let offset = self.offset_ms.load(Ordering::Relaxed);
        let now = self.source.wall();
        if let Err(error) = self.boots.lock().learn(self.boot, offset, now) {
            warn!(%error, "the clock's offset could not be kept");
        }
    }
}

impl<S: TimeSource> Clock for SystemClock<S> {
    fn wall(&self) -> UnixMillis {
        self.source.wall()
    }

    fn monotonic(&self) -> Duration {
        self.source.monotonic()
    }

    fn boot(&self) -> BootId {
        self.boot
    }

    fn quality(&self) -> ClockQuality {
        if self.synchronised.load(Ordering::Relaxed) {
            ClockQuality::Synchronised
        } else {
            ClockQuality::Unsynchronised
        }
    }

    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality) {
        if received.quality == ClockQuality::Synchronised {
            return (received.wall, received.quality);
        }
        let Some(offset) = self.boots.lock().offset_of(received.boot) else {
            return (received.wall, received.quality);
        };
        let since_boot = i64::try_from(received.monotonic_ms).unwrap_or(i64::MAX);
        (
            UnixMillis(offset.saturating_add(since_boot)),
            ClockQuality::Synchronised,
        )
    }
}

#[cfg(test)]
mod tests;
