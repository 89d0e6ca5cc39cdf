//! Sessions: kept, resumed, taken over, ended.

use std::time::Duration;

use crate::client::{Client, connect, expiry};
use crate::relay::Relay;

#[tokio::test]
async fn an_absent_subscriber_gets_what_it_missed_also_after_a_restart() {
    let relay = Relay::start().await;
    let (mut reader, present) = Client::v4(relay.addr, "reader", false).await;
    assert!(!present);
    reader.subscribe(&[("meters/#", 1), ("local/#", 2)]).await;
    reader.disconnect().await;
    let mut meter = relay.v4("meter").await;
    let large = vec![7; 200_000];
    for id in 1..=20 {
        meter.publish_acked(0, "meters/1", id, &[id as u8]).await;
    }
    meter.publish_acked(0, "local/1", 21, &large).await;
    meter.publish(0, "local/1", 0, b"QoS 0 is not kept").await;
    meter.quiet().await;
    let dir = relay.stop().await;

    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let (mut reader, present) = Client::v4(relay.addr, "reader", false).await;
    assert!(present);
    for number in 1..=20u8 {
        let got = reader.published().await;
        assert_eq!((got.payload, got.qos), (vec![number], 1));
        reader.ack(0x40, got.id).await;
    }
    let got = reader.published().await;
    assert!(got.payload == large && got.qos == 1);
    reader.ack(0x40, got.id).await;
    reader.quiet().await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "local/2", 1, b"live").await;
    assert_eq!(
        reader.published().await.payload,
        b"live",
        "the subscription is there too"
    );
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_with_dup_and_its_id() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v4(relay.addr, "reader", false).await;
    reader.subscribe(&[("a", 1)]).await;
    let mut meter = relay.v4("meter").await;
    for id in 1..=3 {
        meter.publish_acked(0, "a", id, &[id as u8]).await;
    }
    let ids = [
        reader.published().await.id,
        reader.published().await.id,
        reader.published().await.id,
    ];
    reader.ack(0x40, ids[1]).await;
    reader.quiet().await;
    reader.vanish();
    let (mut reader, present) = Client::v4(relay.addr, "reader", false).await;
    assert!(present);
    for (payload, id) in [(1, ids[0]), (3, ids[2])] {
        let got = reader.published().await;
        assert_eq!((got.payload, got.id, got.dup), (vec![payload], id, true));
        reader.ack(0x40, id).await;
    }
    reader.quiet().await;
}

#[tokio::test]
async fn a_clean_session_leaves_nothing() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v4(relay.addr, "reader", false).await;
    reader.subscribe(&[("a", 1)]).await;
    reader.disconnect().await;
    let (reader, present) = Client::v4(relay.addr, "reader", true).await;
    assert!(!present);
    reader.disconnect().await;
    let (mut reader, present) = Client::v4(relay.addr, "reader", false).await;
    assert!(!present);
    relay.v4("meter").await.publish_acked(0, "a", 1, b"x").await;
    reader.quiet().await;
}

#[tokio::test]
async fn a_second_connection_takes_the_session_and_the_first_is_told() {
    let relay = Relay::start().await;
    let (mut first, _) = Client::v5(relay.addr, "one", true, &expiry(100)).await;
    first.subscribe(&[("a", 1)]).await;
    let (mut second, present) = Client::v5(relay.addr, "one", false, &expiry(100)).await;
    assert!(present);
    first.closed(0x8E).await;
    relay.v4("meter").await.publish_acked(0, "a", 1, b"x").await;
    assert_eq!(second.published().await.payload, b"x");
    assert_eq!(relay.stats.takeovers_total.get(), 1);
}

#[tokio::test]
async fn a_session_ends_after_its_expiry() {
    let relay = Relay::start().await;
    for (id, seconds) in [("shorter", 58), ("reader", 60)] {
        let (mut reader, _) = Client::v5(relay.addr, id, true, &expiry(seconds)).await;
        reader.subscribe(&[("a", 1)]).await;
        reader.disconnect().await;
    }
    relay.clock.pass(Duration::from_secs(59));
    // That the shorter one is gone shows that the relay has looked at its clock.
    relay
        .until("the shorter one is gone", |s| s.sessions.get() == 1)
        .await;
    relay.clock.pass(Duration::from_secs(2));
    relay
        .until("the session is gone", |s| s.sessions.get() == 0)
        .await;
    let (_, present) = Client::v5(relay.addr, "reader", false, &expiry(60)).await;
    assert!(!present);
}

#[tokio::test]
async fn a_session_expiry_can_change_with_the_disconnect() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &expiry(60)).await;
    reader.send(&[0xE0, 7, 0, 5, 17, 0, 0, 0, 0]).await;
    reader.closed(0).await;
    let (mut reader, present) = Client::v5(relay.addr, "reader", false, &[]).await;
    assert!(!present);
    reader.send(&[0xE0, 7, 0, 5, 17, 0, 0, 0, 9]).await;
    reader.closed(0x82).await;
}

#[tokio::test]
async fn client_ids_are_given_where_none_is_needed_and_asked_for_where_one_is() {
    let relay = Relay::start().await;
    let (first, _) = Client::v4(relay.addr, "", true).await;
    let (second, _) = Client::v4(relay.addr, "", true).await;
    let mut client = Client::open(relay.addr).await;
    client.send(&connect(4, 0, 0, &[], "", &[])).await;
    assert_eq!(client.packet().await, (0x20, vec![0, 2]));
    assert_eq!(client.try_packet().await, None);
    let mut client = Client::open(relay.addr).await;
    client.send(&connect(5, 2, 0, &[], "", &[])).await;
    let (_, body) = client.packet().await;
    let at = body.windows(5).position(|w| w == b"auto-");
    assert!(
        at.is_some_and(|at| body[at - 3] == 18),
        "an assigned client identifier: {body:?}"
    );
    drop((first, second));
}

#[tokio::test]
async fn the_relay_says_goodbye_when_it_stops_and_acknowledges_what_it_has() {
    let relay = Relay::start().await;
    let mut meter = relay.v5("meter").await;
    meter.publish_acked(0, "meters/1", 1, b"x").await;
    relay.begin_stop();
    meter.closed(0x8B).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_session_that_ends_with_its_connection_is_not_taken_over() {
    let relay = Relay::start().await;
    let mut first = relay.v4("one").await;
    first.subscribe(&[("a", 1)]).await;
    let (mut second, present) = Client::v4(relay.addr, "one", false).await;
    assert!(!present, "a clean session of 3.1.1 is never used again");
    first.closed(0).await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "a", 1, b"x").await;
    second.quiet().await;
    let (mut first, _) = Client::v5(relay.addr, "two", true, &[]).await;
    first.subscribe(&[("a", 1)]).await;
    let (mut second, present) = Client::v5(relay.addr, "two", false, &expiry(60)).await;
    assert!(!present, "nor one of 5 without a session expiry");
    first.closed(0x8E).await;
    meter.publish_acked(0, "a", 2, b"x").await;
    second.quiet().await;
}

#[tokio::test]
async fn a_session_lasts_as_long_as_its_connection_and_is_over_on_time() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &expiry(60)).await;
    reader.subscribe(&[("a", 1)]).await;
    relay.clock.pass(Duration::from_secs(600));
    relay.v4("meter").await.publish_acked(0, "a", 1, b"x").await;
    let got = reader.published().await;
    assert_eq!(got.payload, b"x");
    reader.ack(0x40, got.id).await;
    reader.quiet().await;
    reader.vanish();
    relay
        .until("it is gone", |s| s.connections.get() == 0)
        .await;
    relay.clock.pass(Duration::from_secs(59));
    let (reader, present) = Client::v5(relay.addr, "reader", false, &expiry(60)).await;
    assert!(present);
    reader.disconnect().await;
    relay
        .until("it is gone", |s| s.connections.get() == 0)
        .await;
    relay.clock.pass(Duration::from_secs(60));
    let (_reader, present) = Client::v5(relay.addr, "reader", false, &expiry(60)).await;
    assert!(!present, "also where nobody has looked at the clock yet");
}

#[tokio::test]
async fn each_version_resumes_the_session_of_the_other() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v4(relay.addr, "reader", false).await;
    reader.subscribe(&[("a", 1)]).await;
    reader.disconnect().await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "a", 1, b"1").await;
    let (mut reader, present) = Client::v5(relay.addr, "reader", false, &expiry(60)).await;
    assert!(present);
    assert_eq!(reader.published().await.payload, b"1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_waits_until_what_the_first_connection_read_is_through() {
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let mut slow = crate::relay::store_settings(dir.path());
    slow.commit_delay = Duration::from_millis(500);
    let relay = Relay::start_on(dir, slow, |_| {}).await;
    let (mut first, _) = Client::v4(relay.addr, "meter", false).await;
    first.publish(4, "meters/1", 5, b"once").await;
    first.publish(2, "meters/1", 6, b"before").await;
    // Its answer shows that both were read; their commit is still on its way.
    first.quiet().await;
    let (mut second, present) = Client::v4(relay.addr, "meter", false).await;
    assert!(present);
    second.publish(12, "meters/1", 5, b"once").await;
    second.publish(2, "meters/1", 7, b"after").await;
    second.expect_ack(0x50, 5).await;
    second.expect_ack(0x40, 7).await;
    let payloads: Vec<_> = relay.readings().into_iter().map(|(_, p)| p).collect();
    assert_eq!(payloads, [&b"once"[..], b"before", b"after"]);
    assert_eq!(relay.stats.duplicates_suppressed_total.get(), 1);
}

#[tokio::test]
async fn a_session_expiry_of_the_disconnect_can_be_longer_too() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &expiry(60)).await;
    reader.subscribe(&[("a", 1)]).await;
    reader.send(&[0xE0, 7, 0, 5, 17, 0, 0, 1, 0]).await;
    reader.closed(0).await;
    relay.clock.pass(Duration::from_secs(200));
    let (_reader, present) = Client::v5(relay.addr, "reader", false, &expiry(60)).await;
    assert!(present);
}
