//! What a person has to act on, in words.

use hub_bridge::drain::{DrainLog, DrainOutcome};

use super::Admin;
use crate::store::{Stats, StoreHealth};

/// All that is wrong now; empty when nothing is.
pub(super) fn alarms(admin: &Admin, stats: &Stats) -> Vec<String> {
    let mut alarms = admin.start_alarms.clone();
    let unwell = match &stats.health {
        StoreHealth::Ready => None,
        StoreHealth::Alarm {
            waiting_bytes,
            bytes_max,
            disk_free_bytes,
            disk_free_min,
        } => Some(format!(
            "backlog: room is running out: {waiting_bytes} bytes wait of backlog.bytes_max = {bytes_max}, \
             {disk_free_bytes} bytes of the disk are free, backlog.disk_free_min = {disk_free_min}"
        )),
        StoreHealth::Full { reason } => Some(format!("backlog: nothing is acknowledged: {reason}")),
        StoreHealth::Failing { error } => Some(format!("disk: nothing is acknowledged: {error}")),
    };
    alarms.extend(unwell);
    if stats.lost_readings > 0 {
        alarms.push(format!(
            "backlog: {} readings were lost to damage",
            stats.lost_readings
        ));
    }
    if stats.refused > 0 {
        alarms.push(format!(
            "hub: {} readings were never taken (edge-relay backlog refused)",
            stats.refused
        ));
    }
    let meters = admin.meters.stats();
    alarms.extend(meters.state_damage.get().map(|d| format!("broker: {d}")));
    uplink(admin, &mut alarms);
    let config = admin.live.status();
    if config.from_last_accepted {
        alarms.push("config: the file is invalid, the last accepted one is in force".to_owned());
    } else if config.last_error.is_some() {
        alarms.push("config: the last edit was refused".to_owned());
    }
    alarms
}

fn uplink(admin: &Admin, alarms: &mut Vec<String>) {
    let uplink = admin.uplink.status();
    if let Some(error) = uplink.error.filter(|error| error.class.needs_a_change()) {
        alarms.push(format!("uplink: {}: {}", error.class, error.detail));
    }
    if uplink.counters.no_subscriber > 0 {
        alarms.push(format!(
            "hub: {} readings were acknowledged with nobody subscribed to them",
            uplink.counters.no_subscriber
        ));
    }
    if uplink.identity == Some(false) {
        alarms.push("hub: speaks MQTT 3.1.1 only, readings carry no identity".to_owned());
    }
    if admin
        .drains
        .last()
        .is_some_and(|last| last.outcome == Some(DrainOutcome::Failed))
    {
        alarms.push("drain: the last one failed".to_owned());
    }
}
