//! What the listener and the broker count; `metrics` exports it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters and gauges of the village's MQTT side.
#[derive(Debug, Default)]
pub struct MqttStats {
    /// What the start found missing of sessions and retained messages, in words.
    pub state_damage: OnceLock<String>,
    /// Clients that are connected now.
    pub connections: Gauge,
    /// Sessions now, connected or kept.
    pub sessions: Gauge,
    /// Subscriptions now.
    pub subscriptions: Gauge,
    /// Retained messages now.
    pub retained: Gauge,
    /// Bytes of messages that wait for subscribers now.
    pub queued_bytes: Gauge,
    /// CONNECTs that were accepted.
    pub connects_total: Counter,
    /// Connections over `connections_max`, closed at once.
    pub connections_refused_total: Counter,
    /// CONNECTs without a right user and password.
    pub auth_failures_total: Counter,
    /// TLS handshakes that failed.
    pub tls_failures_total: Counter,
    /// Sockets that sent no CONNECT in time.
    pub connect_timeouts_total: Counter,
    /// Clients that were silent for longer than their keep alive allows.
    pub keep_alive_timeouts_total: Counter,
    /// Clients that took nothing for longer than `write_timeout`.
    pub write_timeouts_total: Counter,
    /// Connections closed for packets that break the standard.
    pub protocol_errors_total: Counter,
    /// Connections closed because another one came with their client id.
    pub takeovers_total: Counter,
    /// PUBLISH packets received.
    pub publishes_received_total: Counter,
    /// Their bytes: topics and payloads.
    pub publish_bytes_received_total: Counter,
    /// PUBACKs and PUBRECs of success written.
    pub publishes_acknowledged_total: Counter,
    /// Publishes that could not be kept and were not acknowledged.
    pub publishes_withheld_total: Counter,
    /// `QoS` 0 publishes that could not be kept.
    pub publishes_dropped_total: Counter,
    /// `QoS` 2 publishes that had been received before.
    pub duplicates_suppressed_total: Counter,
    /// PUBLISH packets written to local subscribers.
    pub publishes_sent_total: Counter,
    /// Messages that did not fit in a subscriber's queue.
    pub queue_overflows_total: Counter,
    /// Messages whose expiry passed before they could be delivered.
    pub messages_expired_total: Counter,
    /// Retained messages that did not fit.
    pub retained_refused_total: Counter,
    /// Commits to the state database.
    pub state_commits_total: Counter,
    /// Commits to the state database that failed.
    pub state_errors_total: Counter,
}
