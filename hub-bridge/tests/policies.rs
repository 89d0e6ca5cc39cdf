//! What `uplink.forward`, `uplink.rate_limit` and `uplink.monthly_budget` promise, over a real broker.

#![allow(
    clippy::unwrap_used,
    reason = "a double that cannot go on fails the test"
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hub_bridge::drain::{DrainCause, DrainOutcome};
use hub_bridge::settings::{AtBudget, BridgeSettings, Forward, PolicySettings};
use hub_bridge::status::{BudgetStatus, LimitedBy};
use hub_bridge::traffic::budget::BudgetState;
use hub_bridge::traffic::{Traffic, TrafficBook, Usage};
use hub_bridge::uplink::UplinkState;
use support::backlog::MemoryBacklog;
use support::mosquitto::{Got, Mosquitto, Subscriber};
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(20);

/// With a window from 15:00 to 15:10 in Douala, a night's from 02:00, and no offset. The village's clock begins at 13:00
/// there, and is moved by the tests.
fn under(port: u16, policy: &PolicySettings) -> BridgeSettings {
    let mut settings = settings(port);
    settings.drain.enabled = true;
    settings.drain.stagger = Duration::ZERO;
    settings.policy = PolicySettings {
        windows: vec!["15:00-15:10".parse().unwrap()],
        ..policy.clone()
    };
    settings
}

fn policy(forward: Forward) -> PolicySettings {
    PolicySettings {
        forward,
        ..PolicySettings::default()
    }
}

/// The drain that a village that was never there at night runs first is over.
async fn first_drain_done(village: &Village) {
    within(SOON, "the missed drain", || async {
        (!village.drains.0.lock().unwrap().is_empty()).then_some(())
    })
    .await;
}

async fn state(village: &Village, wanted: UplinkState) {
    within(SOON, wanted.as_str(), || async {
        (village.handle.status().state == wanted).then_some(())
    })
    .await;
}

/// The count, once nothing crosses any more.
async fn settled(village: &Village) -> BudgetStatus {
    within(SOON, "nothing crosses", || async {
        let before = village.handle.status().budget;
        // Longer than the bridge takes to look at its meter.
        tokio::time::sleep(Duration::from_millis(600)).await;
        (village.handle.status().budget == before).then_some(before)
    })
    .await
}

async fn arrived(hub: &Subscriber, count: usize) {
    within(SOON, "at the hub", || async {
        (hub.len() >= count).then_some(())
    })
    .await;
    assert_eq!(hub.len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_a_window_nothing_crosses_and_in_one_or_a_drain_everything() {
    let Some(hub) = Mosquitto::start("max_queued_messages 0") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let village = Village::start(under(hub.port, &policy(Forward::Windows)), backlog.clone());
    first_drain_done(&village).await;
    state(&village, UplinkState::Waiting).await;
    let before = village.handle.status().budget.used_bytes;
    backlog.fill(2, 10, 50);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = village.handle.status();
    assert_eq!(status.state, UplinkState::Waiting);
    assert_eq!(status.limited_by, LimitedBy::Window);
    assert_eq!((at_hub.len(), status.budget.used_bytes), (0, before));
    // A drain that is asked for.
    let record = village.handle.drain().await.unwrap().finished().await;
    assert_eq!(record.outcome, Some(DrainOutcome::Done));
    arrived(&at_hub, 10).await;
    state(&village, UplinkState::Waiting).await;
    // A window opens, and closes.
    backlog.fill(2, 10, 50);
    village.clock.move_to("2026-06-01T14:00:01Z");
    arrived(&at_hub, 20).await;
    state(&village, UplinkState::Connected).await;
    village.clock.move_to("2026-06-01T14:10:00Z");
    state(&village, UplinkState::Waiting).await;
    // An edit counts at once.
    backlog.fill(2, 10, 50);
    let always = under(hub.port, &policy(Forward::Always));
    village.handle.apply(always).await.unwrap();
    arrived(&at_hub, 30).await;
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_readings_go_first_and_what_waited_in_windows_only() {
    let Some(hub) = Mosquitto::start("max_queued_messages 0") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let port = hub.port;
    let village = Village::start(under(port, &policy(Forward::Windows)), backlog.clone());
    first_drain_done(&village).await;
    state(&village, UplinkState::Waiting).await;
    // They wait before the link begins.
    for n in 1..=500 {
        let payload = format!("old {n}").into_bytes();
        backlog.append_reading("meter-0", "m/0", payload, true, None);
    }
    let live_first = under(port, &policy(Forward::LiveFirst));
    village.handle.apply(live_first).await.unwrap();
    state(&village, UplinkState::Connected).await;
    for n in 1..=5 {
        let payload = format!("new {n}").into_bytes();
        backlog.append_reading("meter-0", "m/0", payload, true, None);
    }
    arrived(&at_hub, 5).await;
    within(SOON, "limited by the window", || async {
        (village.handle.status().limited_by == LimitedBy::Window).then_some(())
    })
    .await;
    assert_eq!(backlog.waiting(), 500);
    village.clock.move_to("2026-06-01T14:00:01Z");
    arrived(&at_hub, 505).await;
    let order: Vec<u64> = at_hub.got().iter().filter_map(Got::sequence).collect();
    let expected: Vec<u64> = (501..=505).chain(1..=500).collect();
    assert_eq!(order, expected, "new ones, then the rest in its order");
    // The hub still has the newest as what is retained.
    let late = Subscriber::connect(port).await;
    arrived(&late, 1).await;
    assert_eq!(late.got()[0].payload, b"new 5");
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_leaves_than_the_rate_and_a_drain_knows_none() {
    let Some(hub) = Mosquitto::start("max_queued_messages 0") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let limited = PolicySettings {
        rate_limit_bytes_per_s: Some(20_000),
        ..policy(Forward::Always)
    };
    let village = Village::start(under(hub.port, &limited), backlog.clone());
    first_drain_done(&village).await;
    // A drain first: then the link is known to be fast, and nothing but the rate bounds what leaves.
    let began = Instant::now();
    backlog.fill(5, 4000, 200);
    village.handle.drain().await.unwrap().finished().await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "80 s by the rate"
    );
    arrived(&at_hub, 4000).await;
    let before = settled(&village).await.sent_bytes;
    let began = Instant::now();
    backlog.fill(5, 400, 200);
    within(SOON, "limited by the rate", || async {
        (village.handle.status().limited_by == LimitedBy::RateLimit).then_some(())
    })
    .await;
    arrived(&at_hub, 4400).await;
    let seconds = began.elapsed().as_secs_f64();
    let sent = settled(&village).await.sent_bytes - before;
    #[allow(clippy::cast_precision_loss)]
    let rate = (sent as f64 - 20_000.0) / seconds;
    assert!(
        (15_000.0..21_000.0).contains(&rate),
        "{sent} bytes in {seconds} s"
    );
    village.stop().await;
}

#[derive(Default)]
struct Book(Mutex<Option<Usage>>);

impl TrafficBook for Book {
    fn load(&self) -> Option<Usage> {
        self.0.lock().unwrap().clone()
    }
    fn keep(&self, usage: &Usage) -> Result<(), String> {
        *self.0.lock().unwrap() = Some(usage.clone());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_used_up_leaves_drains_and_a_new_month_begins_anew() {
    let Some(hub) = Mosquitto::start("max_queued_messages 0") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let book = Arc::new(Book::default());
    // Most of it was used before this process began.
    let mut usage = Usage::default();
    let used = Traffic {
        sent: 900_000,
        received: 50_000,
        estimated: 0,
    };
    usage.count(used, Some("2026-06".parse().unwrap()));
    book.keep(&usage).unwrap();
    let budget = PolicySettings {
        monthly_budget_bytes: Some(1_000_000),
        at_budget: AtBudget::DrainOnly,
        ..policy(Forward::Always)
    };
    let settings = under(hub.port, &budget);
    let village = Village::start_with(settings, backlog.clone(), book.clone());
    first_drain_done(&village).await;
    assert_eq!(village.handle.status().budget.state, BudgetState::Alarm);
    backlog.fill(5, 2000, 200);
    within(SOON, "the budget is used up", || async {
        let status = village.handle.status();
        (status.budget.state == BudgetState::Reached && status.state == UplinkState::Waiting)
            .then_some(())
    })
    .await;
    assert_eq!(village.handle.status().limited_by, LimitedBy::Budget);
    assert!(backlog.waiting() > 0 && at_hub.len() > 0);
    // The answers to what was in flight still come.
    let before = village.handle.status().budget.used_bytes;
    let after = settled(&village).await.used_bytes;
    assert!(after - before < 50_000, "{before} {after}");
    let waits = backlog.waiting();
    assert!(waits > 0, "and stays");
    let record = village.handle.drain().await.unwrap().finished().await;
    assert_eq!(record.outcome, Some(DrainOutcome::Done));
    arrived(&at_hub, 2000).await;
    // A stop writes down what was counted, and the next start goes on from it.
    let counted = village.handle.status().budget.used_bytes;
    village.stop().await;
    assert!(book.load().unwrap().now().total() >= counted);
    let mut goes_on = under(hub.port, &policy(Forward::Always));
    goes_on.policy.monthly_budget_bytes = Some(1_000_000);
    let village = Village::start_with(goes_on, backlog.clone(), book.clone());
    first_drain_done(&village).await;
    state(&village, UplinkState::Waiting).await;
    backlog.fill(5, 10, 200);
    village.clock.move_to("2026-07-01T12:00:00Z");
    arrived(&at_hub, 2010).await;
    let status = village.handle.status();
    assert_eq!(status.budget.state, BudgetState::Within);
    assert_eq!(status.budget.month, Some("2026-07".parse().unwrap()));
    assert!(
        status
            .budget
            .months
            .values()
            .all(|bytes| *bytes > 1_000_000)
    );
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_clock_opens_no_window_and_begins_no_month() {
    let Some(hub) = Mosquitto::start("max_queued_messages 0") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let mut settings = under(hub.port, &policy(Forward::Windows));
    settings.drain.untrusted_interval = Duration::from_secs(4);
    let village = Village::start(settings, backlog.clone());
    first_drain_done(&village).await;
    state(&village, UplinkState::Waiting).await;
    let used = village.handle.status().budget.used_bytes;
    // In a window of a later month, if one believed it.
    village.clock.trust(false);
    village.clock.move_to("2027-03-01T14:05:00Z");
    backlog.fill(2, 10, 50);
    within(SOON, "no window can be told", || async {
        village
            .handle
            .status()
            .policy
            .window_open
            .is_none()
            .then_some(())
    })
    .await;
    let budget = village.handle.status().budget;
    assert_eq!(budget.month, Some("2026-06".parse().unwrap()));
    assert!(budget.used_bytes >= used);
    // By uptime all the same: nothing is held for ever.
    arrived(&at_hub, 10).await;
    within(SOON, "a drain by uptime", || async {
        let drains = village.drains.0.lock().unwrap();
        let by_uptime = drains.iter().any(|r| r.cause == DrainCause::Uptime);
        by_uptime.then_some(())
    })
    .await;
    village.clock.trust(true);
    within(SOON, "a new month", || async {
        let month = village.handle.status().budget.month;
        (month == Some("2027-03".parse().unwrap())).then_some(())
    })
    .await;
    village.stop().await;
}
