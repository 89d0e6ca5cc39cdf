//! Drains: recorded, joined, retried, scheduled, and settings that change while the bridge runs.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hub_bridge::bridge::ApplyError;
use hub_bridge::classify::ErrorClass;
use hub_bridge::drain::{DrainCause, DrainLog, DrainOutcome};
use hub_bridge::settings::{Confirm, ProtocolChoice};
use hub_bridge::uplink::UplinkState;
use support::backlog::MemoryBacklog;
use support::fake_hub::{Answer, FakeHub, accept};
use support::mosquitto::free_port;
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(20);

async fn willing_hub() -> FakeHub {
    FakeHub::start(
        |level, _| accept(level),
        |publish| Answer::PubAck(publish.id, 0),
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_recorded_and_a_second_request_joins_it() {
    let port = free_port();
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 300, 10);
    let village = Village::start(settings(port), backlog.clone());
    let first = village.handle.drain().await.unwrap();
    let second = village.handle.drain().await.unwrap();
    assert!(!first.joined() && second.joined());
    assert_eq!(first.progress().waiting_at_start, 300);
    drop(first);
    let hub = willing_hub().await;
    village.handle.apply(settings(hub.port)).await.unwrap();
    let record = tokio::time::timeout(SOON, second.finished()).await.unwrap();
    assert_eq!(record.outcome, Some(DrainOutcome::Done));
    assert_eq!((record.readings, record.id), (300, 1));
    assert_eq!(village.drains.last(), Some(record));
    assert_eq!(village.handle.status().drain, None);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_has_but_the_backlog_does_not_know_belongs_to_the_drain() {
    let hub = willing_hub().await;
    let backlog = MemoryBacklog::new("v");
    backlog.fail_confirms.store(true, Ordering::Relaxed);
    backlog.fill(1, 3, 10);
    let village = Village::start(settings(hub.port), backlog.clone());
    within(SOON, "acknowledged", || async {
        (village.handle.status().counters.forwarded_readings == 3).then_some(())
    })
    .await;
    let job = village.handle.drain().await.unwrap();
    backlog.fail_confirms.store(false, Ordering::Relaxed);
    let record = tokio::time::timeout(SOON, job.finished()).await.unwrap();
    assert_eq!(record.outcome, Some(DrainOutcome::Done));
    assert_eq!((record.waiting_at_start, record.readings), (3, 3));
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_asked_for_while_backing_off_connects_at_once_also_one_that_joins() {
    let known = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&known);
    let hub = FakeHub::start(
        move |level, _| {
            if told.load(Ordering::Relaxed) {
                accept(level)
            } else {
                vec![0x20, 3, 0, 0x87, 0]
            }
        },
        |publish| Answer::PubAck(publish.id, 0),
    )
    .await;
    let mut patient = settings(hub.port);
    patient.retry.first = Duration::from_secs(20);
    let backlog = MemoryBacklog::new("v");
    backlog.fill(1, 3, 10);
    let village = Village::start(patient, backlog);
    let connections = |count: usize| {
        let hub = &hub;
        async move {
            within(SOON, "so many connections", || async {
                (hub.connections() == count).then_some(())
            })
            .await;
        }
    };
    let backs_off = || async {
        within(SOON, "it backs off", || async {
            (village.handle.status().state == UplinkState::BackingOff).then_some(())
        })
        .await;
    };
    backs_off().await;
    let first = village.handle.drain().await.unwrap();
    connections(2).await;
    backs_off().await;
    known.store(true, Ordering::Relaxed);
    let second = village.handle.drain().await.unwrap();
    assert!(!first.joined() && second.joined());
    let soon = Duration::from_secs(5);
    let record = tokio::time::timeout(soon, second.finished()).await.unwrap();
    assert_eq!(record.outcome, Some(DrainOutcome::Done));
    assert_eq!((record.readings, hub.connections()), (3, 3));
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_of_an_empty_backlog_is_done_at_once() {
    let village = Village::start(settings(free_port()), MemoryBacklog::new("v"));
    let record = village.handle.drain().await.unwrap().finished().await;
    assert_eq!(record.outcome, Some(DrainOutcome::Done));
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_is_done_with_what_waited_when_it_began_however_much_follows() {
    let hub = willing_hub().await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 1000, 10);
    let village = Village::start(settings(hub.port), backlog.clone());
    let more = Arc::clone(&backlog);
    let meters = tokio::spawn(async move {
        loop {
            more.fill(3, 5, 10);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let job = village.handle.drain().await.unwrap();
    let record = tokio::time::timeout(SOON, job.finished()).await.unwrap();
    meters.abort();
    assert_eq!(record.outcome, Some(DrainOutcome::Done));
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_without_a_hub_fails_after_its_attempts_and_forwarding_goes_on() {
    let port = free_port();
    let mut hasty = settings(port);
    hasty.drain.attempt_timeout = Duration::from_secs(1);
    hasty.drain.attempt_wait = Duration::from_millis(100);
    hasty.drain.attempts_max = 3;
    hasty.retry.max = Duration::from_secs(1);
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 30, 10);
    let village = Village::start(hasty.clone(), backlog.clone());
    let job = village.handle.drain().await.unwrap();
    let record = tokio::time::timeout(SOON, job.finished()).await.unwrap();
    assert_eq!(record.outcome, Some(DrainOutcome::Failed));
    assert_eq!((record.attempts, record.readings), (3, 0));
    assert_eq!(record.error.map(ErrorClass::as_str), Some("connect"));
    let hub = willing_hub().await;
    hasty.hub.url.port = hub.port;
    village.handle.apply(hasty).await.unwrap();
    village.drained(SOON).await;
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_night_drains_and_is_not_drained_twice() {
    let hub = willing_hub().await;
    let mut nightly = settings(hub.port);
    nightly.drain.enabled = true;
    nightly.drain.stagger = Duration::ZERO;
    let village = Village::start(nightly, MemoryBacklog::new("v"));
    let runs = |count: usize| {
        let drains = Arc::clone(&village.drains);
        async move {
            within(SOON, "so many drains", || async {
                (drains.0.lock().unwrap().len() == count).then_some(())
            })
            .await;
        }
    };
    // It was off at 02:00, as far as anyone knows.
    runs(1).await;
    let next = village.handle.status().next_drain.unwrap();
    assert_eq!(next.0, 1_780_362_000_000, "2026-06-02T01:00:00Z");
    village.clock.move_to("2026-06-02T01:00:30Z");
    runs(2).await;
    village.clock.move_to("2026-06-02T00:30:00Z");
    tokio::time::sleep(Duration::from_millis(600)).await;
    village.clock.move_to("2026-06-02T01:01:00Z");
    tokio::time::sleep(Duration::from_millis(600)).await;
    let causes: Vec<DrainCause> = village
        .drains
        .0
        .lock()
        .unwrap()
        .iter()
        .map(|r| r.cause)
        .collect();
    assert_eq!(causes, [DrainCause::Missed, DrainCause::Window]);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_ends_ends_its_drain() {
    let mut nightly = settings(free_port());
    nightly.drain.enabled = true;
    nightly.drain.stagger = Duration::ZERO;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(1, 5, 10);
    let village = Village::start(nightly, backlog);
    within(SOON, "it drains", || async {
        village.handle.status().drain
    })
    .await;
    village.clock.move_to("2026-06-01T17:00:00Z");
    within(SOON, "it ended", || async {
        let record = village.drains.last()?;
        (record.outcome == Some(DrainOutcome::WindowEnded)).then_some(())
    })
    .await;
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_run_are_refused_and_the_old_ones_stay() {
    let hub = willing_hub().await;
    let backlog = MemoryBacklog::new("v");
    let village = Village::start(settings(hub.port), backlog.clone());
    let mut wrong = settings(free_port());
    wrong.hub.confirm = Confirm::Receipt;
    wrong.hub.protocol = ProtocolChoice::V311;
    wrong.drain.time_zone = "Africa/Nowhere".to_owned();
    let Err(ApplyError::Invalid(problems)) = village.handle.apply(wrong).await else {
        panic!("applied");
    };
    let keys: Vec<&str> = problems.iter().map(|p| p.key).collect();
    assert_eq!(keys, ["hub.confirm", "drain.time_zone"]);
    backlog.fill(1, 10, 10);
    village.drained(SOON).await;
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_a_drain_as_stopped() {
    let backlog = MemoryBacklog::new("v");
    backlog.fill(1, 5, 10);
    let village = Village::start(settings(free_port()), backlog);
    let job = village.handle.drain().await.unwrap();
    village.stop().await;
    assert_eq!(job.finished().await.outcome, Some(DrainOutcome::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_id_names_village_epoch_and_connection() {
    let hub = willing_hub().await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(1, 1, 10);
    let village = Village::start(settings(hub.port), backlog);
    village.drained(SOON).await;
    assert_eq!(*hub.client_ids.lock().unwrap(), ["bamenda-01-5eed0001-0"]);
    village.stop().await;
}
