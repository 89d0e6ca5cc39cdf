//! The clock as a seam: gateways start in 1970 or with yesterday's time, and tests move it.
//!
//! A reading is stamped with wall time, boot and monotonic time. Once the wall clock is synchronised,
//! the earlier readings of the same boot can be corrected by the monotonic time that has passed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z; may be before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which boot of the gateway a monotonic time belongs to: a hash of the kernel's boot id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootId(pub u32);

/// Whether a wall time can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockQuality {
    /// The kernel says that the clock is synchronised.
    Synchronised,
    /// It is not, however plausible it looks.
    Unsynchronised,
}

/// When the relay received a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReceivedAt {
    /// The wall clock at that moment.
    pub wall: UnixMillis,
    /// Whether that wall clock was to be trusted.
    pub quality: ClockQuality,
    /// The boot that `monotonic_ms` counts in.
    pub boot: BootId,
    /// Milliseconds since that boot.
    pub monotonic_ms: u64,
}

/// Time, as everything but the kernel sees it.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock now.
    fn wall(&self) -> UnixMillis;

    /// Time since boot. Never goes back, goes on while the machine sleeps.
    fn monotonic(&self) -> Duration;

    /// This boot.
    fn boot(&self) -> BootId;

    /// Whether the wall clock is to be trusted now.
    fn quality(&self) -> ClockQuality;

    /// The best known wall time of `received`: corrected where its boot's offset is known.
    fn best_time_of(&self, received: &ReceivedAt) -> (UnixMillis, ClockQuality);

    /// A stamp for a reading that arrives now.
    fn stamp(&self) -> ReceivedAt {
        ReceivedAt {
            wall: self.wall(),
            quality: self.quality(),
            boot: self.boot(),
            monotonic_ms: u64::try_from(self.monotonic().as_millis()).unwrap_or(u64::MAX),
        }
    }
}
