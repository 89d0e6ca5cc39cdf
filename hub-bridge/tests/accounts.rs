//! The relay's own account reaches the hub, and is never in the way of readings.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hub_bridge::clock::{ClockQuality, UnixMillis};
use hub_bridge::drain::DrainOutcome;
use hub_bridge::identity::{Epoch, Sequence};
use hub_bridge::uplink::UplinkState;
use hub_bridge::wire::account::{Account, VERSION};
use hub_bridge::wire::digest::Digest;
use support::backlog::MemoryBacklog;
use support::fake_hub::{Answer, FakeHub, accept};
use support::mosquitto::{Mosquitto, Subscriber};
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(20);

fn account(epoch: u32, through: u64) -> Account {
    Account {
        version: VERSION,
        village: "bamenda-01".parse().unwrap(),
        epoch: Epoch(epoch),
        current: epoch == 2,
        through: Sequence(through),
        stored: through,
        digest: Digest([7; 16]),
        lost: Vec::new(),
        refused: Vec::new(),
        unknown: Vec::new(),
        tail_unknown_from: None,
        at: UnixMillis(5),
        clock: ClockQuality::Synchronised,
    }
}

fn said(at_hub: &Subscriber) -> Vec<(u32, u64)> {
    let got = at_hub.got().into_iter();
    got.filter(|got| got.topic.starts_with("relay/v1/bamenda-01/accounts/"))
        .map(|got| Account::from_json(&got.payload).unwrap())
        .map(|account| (account.epoch.0, account.through.0))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_is_said_at_connecting_and_at_each_drain_where_it_is_news() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let at_hub = Subscriber::connect_to(hub.port, "relay/v1/#").await;
    let backlog = MemoryBacklog::new("bamenda-01");
    backlog.fill(3, 200, 50);
    *backlog.accounts.lock().unwrap() = vec![account(1, 10), account(2, 200)];
    let village = Village::start(settings(hub.port), backlog.clone());
    within(SOON, "both epochs are said", || async {
        (said(&at_hub) == [(1, 10), (2, 200)]).then_some(())
    })
    .await;
    village.drained(SOON).await;
    assert_eq!(backlog.confirmed(), 200, "its PUBACK confirms nothing");
    // Only the one that changed, once for begin and end of the drain.
    *backlog.accounts.lock().unwrap() = vec![account(1, 10), account(2, 300)];
    let drain = village.handle.drain().await.unwrap();
    assert_eq!(drain.finished().await.outcome, Some(DrainOutcome::Done));
    within(SOON, "the news are said", || async {
        (said(&at_hub) == [(1, 10), (2, 200), (2, 300)]).then_some(())
    })
    .await;
    village.stop().await;
    // Retained: who comes later hears the last of each.
    let later = Subscriber::connect_to(hub.port, "relay/v1/#").await;
    within(SOON, "what is retained", || async {
        let mut heard = said(&later);
        heard.sort_unstable();
        (heard == [(1, 10), (2, 300)]).then_some(())
    })
    .await;
}

/// A hub that does with accounts as `on_account` says, and takes readings; how often it was offered one.
async fn hub_that(
    on_account: impl Fn(u16) -> Answer + Send + 'static,
    connack: &'static [u8],
) -> (FakeHub, Arc<AtomicUsize>) {
    let offered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&offered);
    let on_connect = move |level: u8, _| match connack {
        [] => accept(level),
        bytes => bytes.to_vec(),
    };
    let hub = FakeHub::start(on_connect, move |publish| {
        if publish.topic.contains("/accounts/") {
            count.fetch_add(1, Ordering::SeqCst);
            on_account(publish.id)
        } else {
            Answer::PubAck(publish.id, 0)
        }
    })
    .await;
    (hub, offered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_refuses_the_account_gets_the_readings_all_the_same() {
    for reason in [0x80, 0x87, 0x90, 0x97, 0x99] {
        let (hub, offered) = hub_that(move |id| Answer::PubAck(id, reason), &[]).await;
        let backlog = MemoryBacklog::new("bamenda-01");
        *backlog.accounts.lock().unwrap() = vec![account(1, 10), account(2, 200)];
        backlog.fill(3, 500, 50);
        let village = Village::start(settings(hub.port), backlog.clone());
        village.drained(SOON).await;
        within(SOON, "it was offered", || async {
            (offered.load(Ordering::SeqCst) == 1).then_some(())
        })
        .await;
        assert_eq!(
            (backlog.confirmed(), hub.connections()),
            (500, 1),
            "{reason:#x}"
        );
        assert!(backlog.refused().is_empty());
        village.stop().await;
        assert_eq!(
            offered.load(Ordering::SeqCst),
            1,
            "not until the next drain"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_breaks_off_over_the_account_is_spared_it_and_no_reading_is_blamed() {
    let (hub, offered) = hub_that(|_| Answer::Close, &[]).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    *backlog.accounts.lock().unwrap() = vec![account(2, 200)];
    backlog.fill(3, 5000, 50);
    let mut settings = settings(hub.port);
    settings.retry.max = Duration::from_secs(1);
    let village = Village::start(settings, backlog.clone());
    village.drained(SOON).await;
    assert_eq!(backlog.confirmed(), 5000);
    assert!(backlog.refused().is_empty());
    within(
        SOON,
        "five connections were lost over it, and one stays",
        || async {
            let connected = village.handle.status().state == UplinkState::Connected;
            (hub.connections() == 6 && connected).then_some(())
        },
    )
    .await;
    backlog.fill(3, 100, 50);
    let drain = village.handle.drain().await.unwrap();
    assert_eq!(drain.finished().await.outcome, Some(DrainOutcome::Done));
    assert_eq!((backlog.confirmed(), hub.connections()), (5100, 6));
    village.stop().await;
    assert_eq!(offered.load(Ordering::SeqCst), 5, "and rests for a day");
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_that_were_in_flight_when_a_hub_broke_off_over_the_account_are_not_suspected() {
    let probes = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&probes);
    let (mut readings, mut accounts) = (HashSet::new(), HashSet::new());
    let hub = FakeHub::start(
        |level, _| accept(level),
        move |publish| {
            let first_of_all = publish.topic.ends_with("t0");
            count.fetch_add(
                usize::from(publish.topic.ends_with("relay/probe")),
                Ordering::SeqCst,
            );
            if publish.topic.contains("/accounts/") {
                accounts.insert(publish.connection);
            } else if accounts.len() >= 5 && !accounts.contains(&publish.connection) {
                return Answer::PubAck(publish.id, 0);
            } else if first_of_all {
                readings.insert(publish.connection);
            }
            if readings.contains(&publish.connection) && accounts.contains(&publish.connection) {
                Answer::Close
            } else {
                Answer::Silence
            }
        },
    )
    .await;
    let backlog = MemoryBacklog::new("bamenda-01");
    *backlog.accounts.lock().unwrap() = vec![account(2, 200)];
    backlog.append("m0", "t0", b"first".to_vec());
    let mut settings = settings(hub.port);
    settings.retry.max = Duration::from_secs(1);
    let village = Village::start(settings, backlog.clone());
    village.drained(SOON).await;
    assert_eq!((backlog.confirmed(), probes.load(Ordering::SeqCst)), (1, 0));
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_takes_a_place_among_what_the_hub_lets_be_in_flight() {
    // MQTT 5, receive maximum 1; the account is never answered.
    let connack = &[0x20, 6, 0, 0, 3, 0x21, 0, 1];
    let (hub, offered) = hub_that(|_| Answer::Silence, connack).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    *backlog.accounts.lock().unwrap() = vec![account(2, 200)];
    let mut settings = settings(hub.port);
    settings.hub.connections_max = 1;
    settings.hub.progress_timeout = Duration::from_secs(1);
    settings.retry.max = Duration::from_secs(1);
    let village = Village::start(settings, backlog.clone());
    within(SOON, "it is offered", || async {
        (offered.load(Ordering::SeqCst) >= 1).then_some(())
    })
    .await;
    backlog.fill(1, 20, 50);
    within(
        SOON,
        "a connection that swallows it is given up",
        || async {
            let connections = hub.connections();
            // Nothing else may leave on the one where it is in flight.
            assert!(connections > 1 || backlog.confirmed() == 0);
            (connections > 1).then_some(())
        },
    )
    .await;
    village.drained(SOON).await;
    assert_eq!(backlog.confirmed(), 20);
    assert!(backlog.refused().is_empty());
    village.stop().await;
}
