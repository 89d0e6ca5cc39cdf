//! The metrics and their names, all of them here, read from the components when they are asked for.

use std::fmt;

use hub_bridge::clock::{Clock, ClockQuality};
use hub_bridge::status::{LimitedBy, UplinkStatus};
use hub_bridge::uplink::UplinkState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::admin::Admin;
use crate::listener::MqttStats;
use crate::store::{Stats, StoreHealth};

/// What `/metrics` is served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One value of a metric, with its label where it has one.
type Value = (Option<(&'static str, String)>, f64);

/// A metric as it is now.
#[derive(Debug)]
struct Sample {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    values: Vec<Value>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Only grows. `_total` is put behind its name.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    fn encode(self, value: f64, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Counter => ConstCounter::new(value).encode(encoder),
            Self::Gauge => ConstGauge::new(value).encode(encoder),
        }
    }
}

/// All metrics in the `OpenMetrics` text format.
///
/// # Errors
/// Never in practice: writing to a `String` does not fail.
pub fn exposition(admin: &Admin) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("edge_relay");
    registry.register_collector(Box::new(Samples(samples(admin))));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

fn samples(admin: &Admin) -> Vec<Sample> {
    let stats = admin.store.stats();
    let mut samples = backlog(&stats);
    samples.extend(uplink(admin));
    samples.extend(mqtt(admin));
    samples.extend(process(admin));
    samples
}

/// A gauge without labels.
fn gauge(name: &'static str, help: &'static str, value: f64) -> Sample {
    Sample {
        name,
        help,
        kind: Kind::Gauge,
        values: vec![(None, value)],
    }
}

/// A counter without labels; `name` without its `_total`.
fn counter(name: &'static str, help: &'static str, value: u64) -> Sample {
    Sample {
        name,
        help,
        kind: Kind::Counter,
        values: vec![(None, float(value))],
    }
}

/// Exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn backlog(stats: &Stats) -> Vec<Sample> {
    let health = [
        ("ready", matches!(stats.health, StoreHealth::Ready)),
        ("alarm", matches!(stats.health, StoreHealth::Alarm { .. })),
        ("full", matches!(stats.health, StoreHealth::Full { .. })),
        (
            "failing",
            matches!(stats.health, StoreHealth::Failing { .. }),
        ),
    ];
    vec![
        gauge(
            "backlog_readings",
            "Readings not yet confirmed by the hub",
            float(stats.readings),
        ),
        gauge("backlog_bytes", "Their size on disk", float(stats.bytes)),
        gauge(
            "backlog_limit_bytes",
            "backlog.bytes_max",
            float(stats.bytes_max),
        ),
        gauge(
            "backlog_next_sequence",
            "The sequence that the next reading gets",
            float(stats.next_sequence.0),
        ),
        gauge(
            "backlog_segments",
            "Segments on disk",
            float(stats.segments),
        ),
        gauge(
            "backlog_refused_readings",
            "Readings that the hub never took",
            float(stats.refused),
        ),
        gauge(
            "backlog_lost_readings",
            "Readings lost to damage",
            float(stats.lost_readings),
        ),
        Sample {
            name: "store_health",
            help: "1 for the state the store is in",
            kind: Kind::Gauge,
            values: health
                .iter()
                .map(|(name, is)| (Some(("state", (*name).to_owned())), flag(*is)))
                .collect(),
        },
        counter(
            "store_syncs",
            "Syncs of the store's files",
            stats.syncs_total,
        ),
    ]
}

fn uplink(admin: &Admin) -> Vec<Sample> {
    let status = admin.uplink.status();
    let counters = &status.counters;
    let phases = UplinkState::ALL.iter().map(|state| {
        (
            Some(("state", state.as_str().to_owned())),
            flag(*state == status.state),
        )
    });
    let failures = counters
        .failures
        .iter()
        .map(|(class, count)| (Some(("class", (*class).to_owned())), float(*count)));
    let mut samples = vec![
        Sample {
            name: "uplink_state",
            help: "1 for the state the uplink is in",
            kind: Kind::Gauge,
            values: phases.collect(),
        },
        Sample {
            name: "uplink_failures",
            help: "Links that failed or broke",
            kind: Kind::Counter,
            values: failures.collect(),
        },
        counter(
            "uplink_forwarded_readings",
            "Readings that the hub acknowledged",
            counters.forwarded_readings,
        ),
        counter(
            "uplink_forwarded_bytes",
            "Their size as packets",
            counters.forwarded_bytes,
        ),
        counter(
            "uplink_resent_readings",
            "Readings sent again on a new connection",
            counters.resent_readings,
        ),
        counter(
            "uplink_no_subscriber",
            "Readings acknowledged with nobody subscribed",
            counters.no_subscriber,
        ),
        counter(
            "uplink_refused_readings",
            "Readings put aside",
            counters.refused_readings,
        ),
        counter(
            "uplink_connects",
            "Links that the hub accepted",
            counters.connects,
        ),
    ];
    samples.extend(traffic(&status));
    if let Some(age) = status.last_progress_age_s {
        samples.push(gauge(
            "uplink_last_progress_age_seconds",
            "Since the hub last acknowledged something",
            age,
        ));
    }
    if let Some(trip) = status.round_trip_s {
        samples.push(gauge(
            "uplink_round_trip_seconds",
            "The shortest round trip of late",
            trip,
        ));
    }
    samples
}

fn traffic(status: &UplinkStatus) -> Vec<Sample> {
    let budget = &status.budget;
    let direction = |name: &str| Some(("direction", name.to_owned()));
    let limited = [
        LimitedBy::Link,
        LimitedBy::ReceiveMaximum,
        LimitedBy::Storage,
        LimitedBy::Suspect,
        LimitedBy::Window,
        LimitedBy::RateLimit,
        LimitedBy::Budget,
    ];
    let mut samples = vec![
        Sample {
            name: "uplink_month_bytes",
            help: "Bytes that crossed this month, headers included",
            kind: Kind::Gauge,
            values: vec![
                (direction("sent"), float(budget.sent_bytes)),
                (direction("received"), float(budget.received_bytes)),
            ],
        },
        gauge(
            "uplink_month_estimated_bytes",
            "Of them, what is an estimate: headers, handshakes, acknowledgements",
            float(budget.estimated_bytes),
        ),
        Sample {
            name: "uplink_limited_by",
            help: "1 for what keeps readings from going faster",
            kind: Kind::Gauge,
            values: limited
                .iter()
                .map(|by| {
                    let label = ("by", by.as_str().to_owned());
                    (Some(label), flag(*by == status.limited_by))
                })
                .collect(),
        },
    ];
    if let Some(limit) = budget.budget_bytes {
        let help = "uplink.monthly_budget";
        samples.push(gauge("uplink_budget_bytes", help, float(limit)));
    }
    samples
}

/// Name, help, and how it is read.
type Exported = (&'static str, &'static str, fn(&MqttStats) -> u64);

/// Of the meters' side, what goes up and down.
const MQTT_GAUGES: [Exported; 5] = [
    ("mqtt_connections", "Clients connected", |s| {
        s.connections.get()
    }),
    ("mqtt_sessions", "Sessions, connected or kept", |s| {
        s.sessions.get()
    }),
    ("mqtt_subscriptions", "Subscriptions", |s| {
        s.subscriptions.get()
    }),
    ("mqtt_retained", "Retained messages", |s| s.retained.get()),
    (
        "mqtt_queued_bytes",
        "Messages that wait for subscribers",
        |s| s.queued_bytes.get(),
    ),
];

/// Of the meters' side, what only grows.
const MQTT_COUNTERS: [Exported; 21] = [
    ("mqtt_connects", "CONNECTs accepted", |s| {
        s.connects_total.get()
    }),
    (
        "mqtt_connections_refused",
        "Connections over mqtt.connections_max",
        |s| s.connections_refused_total.get(),
    ),
    (
        "mqtt_auth_failures",
        "CONNECTs without a right user and password",
        |s| s.auth_failures_total.get(),
    ),
    ("mqtt_tls_failures", "TLS handshakes that failed", |s| {
        s.tls_failures_total.get()
    }),
    (
        "mqtt_connect_timeouts",
        "Sockets that sent no CONNECT in time",
        |s| s.connect_timeouts_total.get(),
    ),
    (
        "mqtt_keep_alive_timeouts",
        "Clients silent for too long",
        |s| s.keep_alive_timeouts_total.get(),
    ),
    (
        "mqtt_write_timeouts",
        "Clients that took nothing for too long",
        |s| s.write_timeouts_total.get(),
    ),
    (
        "mqtt_protocol_errors",
        "Connections closed for wrong packets",
        |s| s.protocol_errors_total.get(),
    ),
    ("mqtt_takeovers", "Sessions taken over", |s| {
        s.takeovers_total.get()
    }),
    ("mqtt_publishes_received", "PUBLISH packets received", |s| {
        s.publishes_received_total.get()
    }),
    (
        "mqtt_publish_received_bytes",
        "Their topics and payloads",
        |s| s.publish_bytes_received_total.get(),
    ),
    (
        "mqtt_publishes_acknowledged",
        "PUBACKs and PUBRECs of success",
        |s| s.publishes_acknowledged_total.get(),
    ),
    (
        "mqtt_publishes_withheld",
        "Publishes not kept and not acknowledged",
        |s| s.publishes_withheld_total.get(),
    ),
    ("mqtt_publishes_dropped", "QoS 0 publishes not kept", |s| {
        s.publishes_dropped_total.get()
    }),
    (
        "mqtt_duplicates_suppressed",
        "QoS 2 publishes received before",
        |s| s.duplicates_suppressed_total.get(),
    ),
    (
        "mqtt_publishes_sent",
        "PUBLISH packets to local subscribers",
        |s| s.publishes_sent_total.get(),
    ),
    (
        "mqtt_queue_overflows",
        "Messages that did not fit in a queue",
        |s| s.queue_overflows_total.get(),
    ),
    (
        "mqtt_messages_expired",
        "Messages that expired before delivery",
        |s| s.messages_expired_total.get(),
    ),
    (
        "mqtt_retained_refused",
        "Retained messages that did not fit",
        |s| s.retained_refused_total.get(),
    ),
    (
        "mqtt_state_commits",
        "Commits of sessions and retained messages",
        |s| s.state_commits_total.get(),
    ),
    ("mqtt_state_errors", "Such commits that failed", |s| {
        s.state_errors_total.get()
    }),
];

fn mqtt(admin: &Admin) -> Vec<Sample> {
    let stats = admin.meters.stats();
    let gauges = MQTT_GAUGES.iter();
    let gauges = gauges.map(|(name, help, read)| gauge(name, help, float(read(stats))));
    let counters = MQTT_COUNTERS.iter();
    let counters = counters.map(|(name, help, read)| counter(name, help, read(stats)));
    gauges.chain(counters).collect()
}

fn process(admin: &Admin) -> Vec<Sample> {
    let config = admin.live.status();
    let synchronised = admin.clock.quality() == ClockQuality::Synchronised;
    vec![
        counter(
            "config_applied",
            "Edits of the configuration applied",
            config.applied_total,
        ),
        counter(
            "config_refused",
            "Edits of the configuration refused",
            config.refused_total,
        ),
        gauge(
            "config_restart_needed_keys",
            "Edited keys that wait for a restart",
            float(config.restart_needed.len() as u64),
        ),
        gauge(
            "config_from_last_accepted",
            "1 where the file was invalid at the start",
            flag(config.from_last_accepted),
        ),
        gauge(
            "clock_synchronised",
            "1 where the wall clock is to be trusted",
            flag(synchronised),
        ),
        counter(
            "clock_steps",
            "Steps of the wall clock",
            admin.clock.steps_total(),
        ),
        gauge(
            "uptime_seconds",
            "Since the start of the process",
            admin.started.elapsed().as_secs_f64(),
        ),
    ]
}

/// Samples that were taken, as the registry wants them.
#[derive(Debug)]
struct Samples(Vec<Sample>);

impl Collector for Samples {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for sample in &self.0 {
            let kind = match sample.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(sample.name, sample.help, None, kind)?;
            match sample.values.as_slice() {
                [(None, value)] => sample.kind.encode(*value, metric)?,
                values => {
                    for (label, value) in values {
                        let labels: Vec<_> = label.iter().cloned().collect();
                        sample.kind.encode(*value, metric.encode_family(&labels)?)?;
                    }
                }
            }
        }
        Ok(())
    }
}
