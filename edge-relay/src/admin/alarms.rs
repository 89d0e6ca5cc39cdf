//! What a person has to act on, in words.

use hub_bridge::drain::{DrainLog, DrainOutcome};
use hub_bridge::status::{LimitedBy, UplinkStatus};
use hub_bridge::traffic::budget::BudgetState;

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

/// What is left of the month's bytes.
fn budget(uplink: &UplinkStatus) -> Option<String> {
    let budget = &uplink.budget;
    let words = match budget.state {
        BudgetState::Unlimited | BudgetState::Within => return None,
        BudgetState::Alarm => "runs out",
        BudgetState::Reached if uplink.limited_by == LimitedBy::Budget => {
            "is used up, and only drains go on"
        }
        BudgetState::Reached => "is used up",
    };
    let month = budget
        .month
        .map_or_else(String::new, |m| format!(" of {m}"));
    let of = budget.budget_bytes.unwrap_or_default();
    Some(format!(
        "uplink: the budget{month} {words}: {} of uplink.monthly_budget = {of} bytes",
        budget.used_bytes
    ))
}

fn uplink(admin: &Admin, alarms: &mut Vec<String>) {
    let uplink = admin.uplink.status();
    let error = uplink.error.as_ref();
    if let Some(error) = error.filter(|error| error.class.needs_a_change()) {
        alarms.push(format!("uplink: {}: {}", error.class, error.detail));
    }
    if uplink.counters.no_subscriber > 0 {
        alarms.push(format!(
            "hub: {} readings were acknowledged with nobody subscribed to them",
            uplink.counters.no_subscriber
        ));
    }
    alarms.extend(budget(&uplink));
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

#[cfg(test)]
mod tests {
    use hub_bridge::status::BudgetStatus;

    use super::*;

    #[test]
    fn the_alarm_of_the_budget_says_what_is_left_and_what_follows() {
        let mut uplink = UplinkStatus {
            budget: BudgetStatus {
                state: BudgetState::Within,
                month: Some("2026-11".parse().unwrap()),
                budget_bytes: Some(1000),
                used_bytes: 810,
                ..BudgetStatus::default()
            },
            ..UplinkStatus::default()
        };
        assert_eq!(budget(&uplink), None);
        uplink.budget.state = BudgetState::Alarm;
        let words = budget(&uplink).unwrap();
        for part in ["2026-11", "runs out", "810", "1000"] {
            assert!(words.contains(part), "{words}");
        }
        uplink.budget.state = BudgetState::Reached;
        assert!(!budget(&uplink).unwrap().contains("drains"));
        uplink.limited_by = LimitedBy::Budget;
        assert!(budget(&uplink).unwrap().contains("only drains"));
    }
}
