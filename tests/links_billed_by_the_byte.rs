//! `[uplink]` of a running relay: edits that count at once, what status, metrics and alarms say, and a count that survives
//! kill -9.

use std::time::Duration;

use harness::meter::Habits;
use harness::{Hub, Ledger, Meter, Relay, Subscriber, VILLAGE, within};
use serde_json::Value;

/// A relay with a trusted clock whose night is not now, after the drain of the nights that it missed.
fn relay(hub: &Hub) -> Relay {
    let mut relay = Relay::new(hub.address);
    let now = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC);
    let at = |hours: i64| {
        (&now + jiff::Span::new().hours(hours))
            .strftime("%H:%M")
            .to_string()
    };
    relay
        .set("clock.trust", "always")
        .set("drain.time_zone", "UTC")
        .set("drain.at", at(6))
        .set("drain.until", at(7));
    relay.start();
    relay.wait_status("the first drain", within(20), |status| {
        status["drain"]["last"]["outcome"].is_string()
    });
    relay
}

fn used(status: &Value) -> u64 {
    status["uplink"]["budget"]["used_bytes"]
        .as_u64()
        .unwrap_or_default()
}

#[test]
fn edits_of_the_policy_count_at_once_and_are_shown() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let mut relay = relay(&hub);
    relay.set("uplink.forward", "windows").write_config();
    let status = relay.wait_status("outside all windows", within(20), |status| {
        status["uplink"]["state"] == "waiting"
    });
    assert_eq!(status["uplink"]["limited_by"], "window");
    let opens = status["uplink"]["policy"]["window_opens"].as_str();
    assert!(opens.is_some_and(|time| time.contains('T')), "{status:#}");
    Meter::new(&ledger, "meter", Habits::new(relay.mqtt))
        .publish(100)
        .unwrap();
    let metrics = relay.get("/metrics").unwrap().1;
    for line in [
        "edge_relay_uplink_limited_by{by=\"window\"} 1",
        "edge_relay_uplink_month_bytes{direction=\"sent\"}",
        "edge_relay_uplink_state{state=\"waiting\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert_eq!(relay.backlog(), Some(100));
    // An invalid edit changes nothing.
    relay.set("uplink.monthly_budget", "plenty").write_config();
    let status = relay.wait_status("the edit is refused", within(20), |status| {
        status["config"]["last_error"].is_string()
    });
    let error = status["config"]["last_error"].as_str().unwrap_or_default();
    assert!(error.contains("uplink.monthly_budget"), "{error}");
    assert_eq!(relay.backlog(), Some(100));
    // Used up already, and still a drain that is asked for gets everything through.
    relay
        .set("uplink.forward", "always")
        .set("uplink.monthly_budget", "1 MB")
        .set("uplink.budget_alarm_at", 0.0001)
        .write_config();
    relay.wait_drained(within(20));
    let status = relay.wait_status("the alarm", within(20), |status| {
        let alarms = status["alarms"].as_array();
        alarms.is_some_and(|all| {
            all.iter()
                .any(|a| a.as_str().unwrap_or("").contains("budget"))
        })
    });
    assert_eq!(status["uplink"]["budget"]["state"], "alarm");
    ledger.settle("policy edits", within(20));
}

#[test]
fn the_count_of_the_month_survives_kill_9() {
    let ledger = Ledger::new(VILLAGE);
    let hub = Hub::start();
    let _subscriber = Subscriber::start(hub.address, &ledger);
    let mut relay = relay(&hub);
    // With a small budget the count is written down each 64 KiB.
    relay
        .set("uplink.monthly_budget", "500 MB")
        .set("uplink.at_budget", "go-on")
        .write_config();
    Meter::new(&ledger, "meter", Habits::new(relay.mqtt))
        .publish(2000)
        .unwrap();
    relay.wait_drained(within(60));
    let file = relay.data_dir().join("traffic.json");
    let kept = || {
        std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
    };
    let sum = |book: &Value| {
        let months = book["months"].as_object().into_iter().flatten();
        let bytes = |month: &Value, name| month[name].as_u64().unwrap_or_default();
        months
            .map(|(_, month)| bytes(month, "sent") + bytes(month, "received"))
            .sum::<u64>()
    };
    // Status shows what the bridge last took over from its meter.
    let status = relay.wait_status("all is counted", within(20), |status| {
        used(status) > 2000 * 100
    });
    let counted = used(&status);
    let until = std::time::Instant::now() + within(30);
    while kept().is_none_or(|book: Value| sum(&book) + 64 * 1024 < counted) {
        assert!(
            std::time::Instant::now() < until,
            "{counted} bytes were never written down"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    relay.kill();
    relay.start();
    relay.wait_status(
        "it goes on from what was written down",
        within(20),
        |status| used(status) + 64 * 1024 >= counted,
    );
}
