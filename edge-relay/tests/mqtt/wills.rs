//! Wills.

use std::time::Duration;

use crate::client::{Client, connect, expiry, text};
use crate::relay::Relay;

async fn with_will(relay: &Relay, level: u8, session: &[u8], will_properties: &[u8]) -> Client {
    connected(relay, level, "dying", session, will_properties).await
}

async fn with_will_of(relay: &Relay, id: &str, session: &[u8], will_properties: &[u8]) -> Client {
    connected(relay, 5, id, session, will_properties).await
}

async fn connected(
    relay: &Relay,
    level: u8,
    id: &str,
    session: &[u8],
    will_properties: &[u8],
) -> Client {
    let mut rest = Vec::new();
    if level == 5 {
        rest.push(will_properties.len() as u8);
        rest.extend(will_properties);
    }
    rest.extend(text("meters/dead"));
    rest.extend(text("gone"));
    let mut client = Client::open(relay.addr).await;
    client.v5 = level == 5;
    let flags = 0x2E;
    client
        .send(&connect(level, flags, 1, session, id, &rest))
        .await;
    assert_eq!(client.packet().await.1[1], 0);
    client
}

#[tokio::test]
async fn a_will_is_published_unless_the_client_says_goodbye() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 1)]).await;
    with_will(&relay, 4, &[], &[]).await.disconnect().await;
    reader.quiet().await;
    with_will(&relay, 4, &[], &[]).await.vanish();
    let got = reader.published().await;
    assert_eq!(
        (got.topic.as_str(), &got.payload[..], got.qos),
        ("meters/dead", &b"gone"[..], 1)
    );
    reader.ack(0x40, got.id).await;
    let mut client = with_will(&relay, 5, &[], &[]).await;
    client.send(&[0xE0, 1, 4]).await;
    assert_eq!(
        reader.published().await.payload,
        b"gone",
        "DISCONNECT with will"
    );
    let mut late = relay.v4("late").await;
    late.subscribe(&[("meters/#", 1)]).await;
    assert!(late.published().await.retain, "the will was to be retained");
}

#[tokio::test]
async fn a_will_is_published_for_the_silent() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    let mut client = with_will(&relay, 5, &[], &[]).await;
    client.closed(0x8D).await;
    assert_eq!(reader.published().await.payload, b"gone");
    assert_eq!(relay.stats.keep_alive_timeouts_total.get(), 1);
}

#[tokio::test]
async fn a_will_waits_for_its_delay_and_is_forgotten_when_the_client_is_back() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    let delay = [24, 0, 0, 0, 30];
    with_will(&relay, 5, &expiry(1000), &delay).await.vanish();
    relay
        .until("it is gone", |s| s.connections.get() == 1)
        .await;
    let (back, present) = Client::v5(relay.addr, "dying", false, &expiry(1000)).await;
    assert!(present);
    relay.clock.pass(Duration::from_secs(60));
    tokio::time::sleep(Duration::from_millis(1200)).await;
    reader.quiet().await;
    back.disconnect().await;

    with_will(&relay, 5, &expiry(1000), &delay).await.vanish();
    relay
        .until("it is gone", |s| s.connections.get() == 1)
        .await;
    reader.quiet().await;
    relay.clock.pass(Duration::from_secs(31));
    assert_eq!(reader.published().await.payload, b"gone");
}

#[tokio::test]
async fn a_delayed_will_is_published_when_its_session_ends() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    with_will(&relay, 5, &expiry(1000), &[24, 0, 0, 0, 200])
        .await
        .vanish();
    relay
        .until("it is gone", |s| s.connections.get() == 1)
        .await;
    let _fresh = Client::v5(relay.addr, "dying", true, &[]).await;
    assert_eq!(reader.published().await.payload, b"gone");
}

#[tokio::test]
async fn a_relay_that_stops_reports_nobody_gone_but_those_who_stay_away() {
    let relay = Relay::start().await;
    let dying = with_will(&relay, 4, &[], &[]).await;
    let delayed = with_will_of(&relay, "delayed", &expiry(1000), &[24, 0, 0, 0, 30]).await;
    delayed.vanish();
    relay
        .until("it is gone", |s| s.connections.get() == 1)
        .await;
    let dir = relay.stop().await;
    drop(dying);
    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    assert_eq!(relay.readings(), [], "no will at the stop");
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    // Also one that starts clean takes its will away; the other one stays away.
    let back = relay.v4("dying").await;
    relay.clock.pass(Duration::from_secs(301));
    assert_eq!(reader.published().await.payload, b"gone");
    reader.quiet().await;
    assert_eq!(relay.readings().len(), 1);
    back.disconnect().await;
    let dir = relay.stop().await;
    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    relay.clock.pass(Duration::from_secs(301));
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    assert!(reader.published().await.retain, "what it left before");
    reader.quiet().await;
    assert_eq!(relay.readings().len(), 1, "published once");
}
