//! `/status`: the relay as it is now. The names are an interface; see the README.

use hub_bridge::clock::{Clock, ClockQuality, UnixMillis};
use hub_bridge::drain::DrainLog;
use hub_bridge::identity::VillageId;
use serde_json::{Value, json};

use super::{Admin, alarms};
use crate::store::Stats;

/// All of it. Blocks for a moment on the store.
pub(super) fn status(admin: &Admin) -> Value {
    let stats = admin.store.stats();
    json!({
        "village_id": village(admin, &stats),
        "epoch": stats.epoch,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": admin.started.elapsed().as_secs(),
        "alarms": alarms::alarms(admin, &stats),
        "backlog": backlog(admin, &stats),
        "store": store(admin, &stats),
        "uplink": uplink(admin),
        "drain": drain(admin),
        "mqtt": mqtt(admin),
        "config": admin.live.status(),
        "clock": clock(admin),
    })
}

/// The village that new readings belong to: an edit of it waits for a restart.
fn village(admin: &Admin, stats: &Stats) -> VillageId {
    let current = stats.epochs.iter().find(|e| e.epoch == stats.epoch);
    current.map_or_else(
        || admin.live.settings().bridge.village,
        |epoch| epoch.village.clone(),
    )
}

fn backlog(admin: &Admin, stats: &Stats) -> Value {
    let clock = admin.clock.as_ref();
    let oldest_age_s = stats.oldest.as_ref().map(|received| {
        let now = clock.wall().0;
        let (at, _) = clock.best_time_of(received);
        // Of an untrusted time only what has passed since the same boot can be said.
        let monotonic = u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX);
        let age_ms = if received.boot == clock.boot() {
            monotonic.saturating_sub(received.monotonic_ms)
        } else {
            u64::try_from(now.saturating_sub(at.0)).unwrap_or(0)
        };
        seconds(age_ms)
    });
    json!({
        "readings": stats.readings,
        "bytes": stats.bytes,
        "bytes_max": stats.bytes_max,
        "oldest_age_s": oldest_age_s,
        "first_sequence": stats.first_sequence,
        "next_sequence": stats.next_sequence,
        "epochs": stats.epochs,
        "segments": stats.segments,
        "segments_forwarded": stats.segments_done,
        "refused": stats.refused,
        "lost_readings": stats.lost_readings,
        "lost": lost(stats),
    })
}

/// Every range that is known to be lost, whenever it was found.
fn lost(stats: &Stats) -> Vec<Value> {
    let ranges = stats
        .epochs
        .iter()
        .flat_map(|e| e.lost.iter().map(|range| (e.epoch, range)));
    ranges
        .map(|(epoch, range)| json!({ "epoch": epoch, "first": range.first, "last": range.last }))
        .collect()
}

fn seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}

fn store(admin: &Admin, stats: &Stats) -> Value {
    let opened = &admin.opened;
    json!({
        "health": stats.health,
        "syncs_total": stats.syncs_total,
        "opened": {
            "took_s": opened.took.as_secs_f64(),
            "closed_cleanly": opened.closed_cleanly,
            "epoch_began": opened.began,
            "salvaged": opened.salvaged,
            "quarantined": opened.quarantined,
            "lost": opened.lost,
        },
    })
}

/// What of the uplink's parts is a time.
const VILLAGE_TIMES: [(&str, &[&str]); 2] = [
    ("policy", &["window_opens", "window_closes"]),
    ("budget", &["month_ends"]),
];

fn uplink(admin: &Admin) -> Value {
    let status = admin.uplink.status();
    let hub = admin.live.settings().bridge.hub.url.to_string();
    let mut value = json!(status);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("drain");
        fields.remove("next_drain");
        let last_error = fields.remove("error").unwrap_or(Value::Null);
        fields.insert("last_error".to_owned(), last_error);
        fields.insert("hub".to_owned(), Value::from(hub));
        let zone = admin.live.settings().bridge.drain.time_zone;
        for (part, times) in VILLAGE_TIMES {
            let part = fields.get_mut(part).and_then(Value::as_object_mut);
            for (name, time) in part.into_iter().flatten() {
                if let (true, Some(at)) = (times.contains(&name.as_str()), time.as_i64()) {
                    *time = Value::from(village_time(UnixMillis(at), &zone));
                }
            }
        }
    }
    value
}

fn drain(admin: &Admin) -> Value {
    let settings = admin.live.settings().bridge.drain;
    let status = admin.uplink.status();
    let next = status
        .next_drain
        .map(|at| village_time(at, &settings.time_zone));
    json!({
        "enabled": settings.enabled,
        "at": settings.at.to_string(),
        "until": settings.until.to_string(),
        "time_zone": settings.time_zone,
        "next": next,
        "running": status.drain,
        "last": admin.drains.last(),
    })
}

/// RFC 3339 with the village's offset.
fn village_time(at: UnixMillis, time_zone: &str) -> String {
    let zoned = jiff::Timestamp::from_millisecond(at.0)
        .and_then(|time| time.in_tz(time_zone))
        .map(|zoned| zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string());
    zoned.unwrap_or_else(|_| super::backlog::in_words(at))
}

fn mqtt(admin: &Admin) -> Value {
    let stats = admin.meters.stats();
    json!({
        "connections": stats.connections.get(),
        "sessions": stats.sessions.get(),
        "subscriptions": stats.subscriptions.get(),
        "retained": stats.retained.get(),
        "publishes_received_total": stats.publishes_received_total.get(),
        "publishes_acknowledged_total": stats.publishes_acknowledged_total.get(),
        "publishes_withheld_total": stats.publishes_withheld_total.get(),
        "queued_bytes": stats.queued_bytes.get(),
        "queue_overflows_total": stats.queue_overflows_total.get(),
        "messages_expired_total": stats.messages_expired_total.get(),
        "retained_refused_total": stats.retained_refused_total.get(),
    })
}

fn clock(admin: &Admin) -> Value {
    let clock = admin.clock.as_ref();
    json!({
        "now": super::backlog::in_words(clock.wall()),
        "synchronised": clock.quality() == ClockQuality::Synchronised,
        "steps_total": clock.steps_total(),
        "known_good": clock.known_good().map(super::backlog::in_words),
    })
}
