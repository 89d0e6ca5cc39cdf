//! The receiver's metrics and their names, all of them here.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What `/metrics` is served as.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What kind of message it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Kind {
    pub(super) kind: &'static str,
}

/// Which class an error is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Class {
    pub(super) class: &'static str,
}

/// The metrics.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) messages: Family<Kind, Counter>,
    pub(super) stored: Counter,
    pub(super) known: Counter,
    pub(super) conflicts: Counter,
    pub(super) improved: Counter,
    pub(super) dead_letters: Counter,
    pub(super) republished: Counter,
    pub(super) receipts: Counter,
    pub(super) publishes_refused: Counter,
    pub(super) batch_seconds: Histogram,
    pub(super) database_errors: Counter,
    pub(super) broker_errors: Family<Class, Counter>,
    pub(super) slots_held: Gauge,
    pub(super) sessions: Gauge,
    pub(super) last_stored: Gauge<f64, AtomicU64>,
    registry: Registry,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut metrics = Self {
            messages: Family::default(),
            stored: Counter::default(),
            known: Counter::default(),
            conflicts: Counter::default(),
            improved: Counter::default(),
            dead_letters: Counter::default(),
            republished: Counter::default(),
            receipts: Counter::default(),
            publishes_refused: Counter::default(),
            batch_seconds: Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]),
            database_errors: Counter::default(),
            broker_errors: Family::default(),
            slots_held: Gauge::default(),
            sessions: Gauge::default(),
            last_stored: Gauge::default(),
            registry: Registry::with_prefix("hub_bridge"),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let to = &mut self.registry;
        let (m, help) = (&self.messages, "Messages from the broker, by kind");
        to.register("messages", help, m.clone());
        let counters = [
            ("readings_stored", "Readings that became rows", &self.stored),
            (
                "readings_known",
                "Readings that were rows already",
                &self.known,
            ),
            (
                "conflicts",
                "The same identity with another content: an alarm",
                &self.conflicts,
            ),
            (
                "times_improved",
                "Rows that got a better time",
                &self.improved,
            ),
            (
                "dead_letters",
                "Messages and readings that no table takes",
                &self.dead_letters,
            ),
            (
                "republished",
                "Readings published again as plain ones",
                &self.republished,
            ),
            ("receipts", "Receipts published", &self.receipts),
            (
                "publishes_refused",
                "Receipts and plain readings that the broker does not take",
                &self.publishes_refused,
            ),
            (
                "database_errors",
                "Batches that had to be tried again",
                &self.database_errors,
            ),
        ];
        for (name, help, counter) in counters {
            to.register(name, help, counter.clone());
        }
        let (seconds, help) = (
            &self.batch_seconds,
            "From the first message of a batch to its commit",
        );
        to.register_with_unit("batch", help, Unit::Seconds, seconds.clone());
        let errors = self.broker_errors.clone();
        to.register(
            "broker_errors",
            "Connections to the broker that ended, by class",
            errors,
        );
        let slots = self.slots_held.clone();
        to.register(
            "slots_held",
            "Sessions that this replica holds the lock of",
            slots,
        );
        to.register(
            "sessions",
            "Sessions that are subscribed",
            self.sessions.clone(),
        );
        let at = self.last_stored.clone();
        to.register_with_unit(
            "last_stored_timestamp",
            "When a reading last became a row",
            Unit::Seconds,
            at,
        );
    }

    /// All of them, in the `OpenMetrics` text format.
    pub(super) fn exposition(&self) -> String {
        let mut out = String::new();
        // Writing to a `String` does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut out, &self.registry);
        out
    }
}
