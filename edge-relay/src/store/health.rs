//! Whether the store takes readings.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Whether the store takes readings.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StoreHealth {
    /// It does.
    Ready,
    /// It does, and a quota is near.
    Alarm {
        /// What waits, in bytes.
        waiting_bytes: u64,
        /// The quota for that, in bytes.
        bytes_max: u64,
        /// What is free on the disk, in bytes.
        disk_free_bytes: u64,
        /// The least that must be, in bytes.
        disk_free_min: u64,
    },
    /// It does not: a quota is reached. It does again when there is room.
    Full {
        /// Which, in words.
        reason: String,
    },
    /// It does not: the disk fails. It tries again by itself.
    Failing {
        /// What the disk said.
        error: String,
    },
}

impl StoreHealth {
    /// Whether readings are acknowledged.
    pub fn takes_readings(&self) -> bool {
        matches!(self, Self::Ready | Self::Alarm { .. })
    }
}

/// The health, and since when it is bad.
#[derive(Debug)]
pub(super) struct Health {
    state: watch::Sender<StoreHealth>,
    unwell_since: Mutex<Option<Instant>>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: watch::channel(StoreHealth::Ready).0,
            unwell_since: Mutex::new(None),
        }
    }
}

impl Health {
    /// Sets it.
    pub(super) fn set(&self, health: StoreHealth) {
        self.change(health, true);
    }

    /// Sets it where readings are taken anyway: only the commit thread finds out that an unwell store is well again.
    pub(super) fn set_while_well(&self, health: StoreHealth) {
        self.change(health, false);
    }

    /// The one place where a transition is logged.
    fn change(&self, health: StoreHealth, also_unwell: bool) {
        self.state.send_if_modified(|now| {
            if *now == health || !(also_unwell || now.takes_readings()) {
                return false;
            }
            let mut since = self.unwell_since.lock();
            if health.takes_readings() {
                *since = None;
            } else if since.is_none() {
                *since = Some(Instant::now());
            }
            drop(since);
            let same_kind = std::mem::discriminant(now) == std::mem::discriminant(&health);
            match &health {
                _ if same_kind => {}
                StoreHealth::Ready => tracing::info!("the store takes readings"),
                unwell => tracing::warn!(health = ?unwell, "the store's health has changed"),
            }
            *now = health;
            true
        });
    }

    /// Whether readings are taken.
    pub(super) fn is_well(&self) -> bool {
        self.state.borrow().takes_readings()
    }

    /// How it stands, if it has been bad for longer than `patience`.
    pub(super) fn unwell_for(&self, patience: Duration) -> Option<StoreHealth> {
        let since = (*self.unwell_since.lock())?;
        (since.elapsed() >= patience).then(|| self.state.borrow().clone())
    }

    /// To watch it.
    pub(super) fn subscribe(&self) -> watch::Receiver<StoreHealth> {
        self.state.subscribe()
    }
}
