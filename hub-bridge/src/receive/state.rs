//! What the receiver is doing, for `/status` and `/readyz`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};

use super::Division;
use super::metrics::Metrics;
use crate::version::Version;

/// What is known now.
#[derive(Debug, Default)]
pub(super) struct State {
    inner: Mutex<Inner>,
    pub(super) conflicts: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    broker: Option<(Version, Division)>,
    lock: bool,
    subscribed: BTreeSet<u16>,
    database_error: Option<String>,
    last_stored_ms: Option<u64>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn broker_is(&self, version: Version, division: Division) {
        self.lock().broker = Some((version, division));
    }

    /// Whether the connection that holds the slots' locks is there.
    pub(super) fn lock_is_there(&self, there: bool) {
        let mut inner = self.lock();
        inner.lock = there;
        if there {
            inner.database_error = None;
        }
    }

    pub(super) fn session(&self, slot: u16, subscribed: bool) {
        let mut inner = self.lock();
        if subscribed {
            inner.subscribed.insert(slot);
        } else {
            inner.subscribed.remove(&slot);
        }
    }

    pub(super) fn all_down(&self) {
        self.lock().subscribed.clear();
    }

    /// What the database said to the last batch; `None`: it took it.
    pub(super) fn database_said(&self, error: Option<String>) {
        self.lock().database_error = error;
    }

    pub(super) fn stored_now(&self, gauge: &Gauge<f64, AtomicU64>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let since = since.unwrap_or_default();
        gauge.set(since.as_secs_f64());
        self.lock().last_stored_ms = u64::try_from(since.as_millis()).ok();
    }

    /// Why it is not ready; `None`: it is. A replica without a slot stands by, and is ready for that.
    pub(super) fn not_ready(&self, metrics: &Metrics) -> Option<&'static str> {
        let inner = self.lock();
        let held = usize::try_from(metrics.slots_held.get()).unwrap_or(0);
        match &*inner {
            Inner { broker: None, .. } => Some("the database or the broker was not reached yet"),
            Inner { lock: false, .. } => Some("the database is out of reach"),
            Inner {
                database_error: Some(_),
                ..
            } => Some("the database does not take readings"),
            inner if inner.subscribed.len() < held => Some("a session is not subscribed"),
            _ => None,
        }
    }

    pub(super) fn status(&self, metrics: &Metrics) -> Value {
        let not_ready = self.not_ready(metrics);
        let inner = self.lock();
        metrics
            .sessions
            .set(i64::try_from(inner.subscribed.len()).unwrap_or(i64::MAX));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "ready": not_ready.is_none(),
            "not_ready_because": not_ready,
            "broker": {
                "protocol": inner.broker.map(|(version, _)| version),
                "division": inner.broker.map(|(_, division)| match division {
                    Division::Shared => "shared",
                    Division::Partitions => "partitions",
                }),
                "slots_held": metrics.slots_held.get(),
                "slots_subscribed": inner.subscribed,
            },
            "database": { "last_error": inner.database_error },
            "readings": {
                "stored": metrics.stored.get(),
                "known": metrics.known.get(),
                "conflicts": self.conflicts.load(Ordering::Relaxed),
                "dead_letters": metrics.dead_letters.get(),
                "republished": metrics.republished.get(),
                "last_stored_ms": inner.last_stored_ms,
            },
        })
    }
}
