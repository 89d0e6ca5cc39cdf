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
    // That another client's will comes shows that the relay has looked at its clock.
    with_will_of(&relay, "other", &expiry(1000), &delay)
        .await
        .vanish();
    relay
        .until("the other is gone", |s| s.connections.get() == 2)
        .await;
    relay.clock.pass(Duration::from_secs(60));
    assert_eq!(reader.published().await.payload, b"gone");
    reader.quiet().await;
    back.disconnect().await;
    relay
        .until("it is gone", |s| s.connections.get() == 1)
        .await;

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

#[tokio::test]
async fn the_will_of_a_connected_client_survives_a_kill_of_the_relay() {
    let relay = Relay::start().await;
    let _dying = with_will(&relay, 4, &[], &[]).await;
    let _back = with_will_of(&relay, "back", &expiry(1000), &[]).await;
    with_will_of(&relay, "polite", &[], &[])
        .await
        .disconnect()
        .await;
    // Its end is on disk when something later is.
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(1, "local", 1, b"later").await;
    let dir = relay.as_killed();

    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 1)]).await;
    let _back = relay.v5("back").await;
    reader.quiet().await;
    relay.clock.pass(Duration::from_secs(301));
    let got = reader.published().await;
    assert_eq!((got.payload, got.qos), (b"gone".to_vec(), 1));
    reader.ack(0x40, got.id).await;
    reader.quiet().await;
    assert_eq!(
        relay.readings().len(),
        1,
        "only of the one that stayed away"
    );
    // Published once: it is not there after another kill.
    meter = relay.v4("meter").await;
    meter.publish_acked(1, "local", 1, b"later").await;
    let relay = Relay::start_in(relay.as_killed(), u64::MAX / 2, |_| {}).await;
    relay.clock.pass(Duration::from_secs(301));
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    assert!(reader.published().await.retain, "what it left before");
    reader.quiet().await;
    assert_eq!(relay.readings().len(), 1);
}

#[tokio::test]
async fn a_will_keeps_its_flags_and_properties() {
    let relay = Relay::start().await;
    let mut reader = relay.v5("reader").await;
    reader.subscribe(&[("meters/#", 2)]).await;
    let pair = |k: &str, v: &str| [vec![38], text(k), text(v)].concat();
    let carried = [
        vec![1, 1, 3],
        text("json"),
        pair("z", "1"),
        pair("a", "2"),
        pair("z", "3"),
    ]
    .concat();
    for (flags, qos, retain) in [(0x06, 0, false), (0x16, 2, false), (0x2E, 1, true)] {
        let mut rest = vec![carried.len() as u8 + 5];
        rest.extend([2, 0, 0, 0, 60]);
        rest.extend(&carried);
        rest.extend(text("meters/will"));
        rest.extend(text(&format!("{flags}")));
        let mut client = Client::open(relay.addr).await;
        client.send(&connect(5, flags, 0, &[], "w", &rest)).await;
        assert_eq!(client.packet().await.1[1], 0);
        client.vanish();
        let got = reader.published().await;
        assert_eq!((got.qos, got.retain), (qos, false));
        assert_eq!(got.payload, format!("{flags}").into_bytes());
        assert_eq!(got.properties[..5], [2, 0, 0, 0, 60]);
        assert_eq!(got.properties[5..], carried);
        if qos == 2 {
            reader.ack(0x50, got.id).await;
            reader.expect_ack(0x62, got.id).await;
        }
        let mut late = relay.v4("late").await;
        late.subscribe(&[("meters/will", 0)]).await;
        if retain {
            assert!(late.published().await.retain);
        }
        late.quiet().await;
    }
}

#[tokio::test]
async fn a_takeover_publishes_the_will_of_the_first_connection() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    for level in [4, 5] {
        let mut first = with_will(&relay, level, &[], &[]).await;
        let second = with_will(&relay, level, &[], &[]).await;
        first.closed(if level == 5 { 0x8E } else { 0 }).await;
        assert_eq!(reader.published().await.payload, b"gone");
        reader.quiet().await;
        // The will of the second one is its own.
        second.vanish();
        assert_eq!(reader.published().await.payload, b"gone");
    }
}
