//! `QoS` 2: once, also over reconnects and restarts.

use bytes::Bytes;
use edge_relay::store::NewReading;
use hub_bridge::clock::Clock as _;

use crate::client::{Client, expiry};
use crate::relay::Relay;

#[tokio::test]
async fn a_publish_sent_again_before_its_release_is_one() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    let mut meter = relay.v4("meter").await;
    for flags in [4, 12, 12] {
        meter.publish(flags, "meters/1", 5, b"once").await;
        meter.expect_ack(0x50, 5).await;
    }
    for _ in 0..2 {
        meter.ack(0x62, 5).await;
        meter.expect_ack(0x70, 5).await;
    }
    meter.publish(4, "meters/1", 5, b"next").await;
    meter.expect_ack(0x50, 5).await;
    assert_eq!(reader.published().await.payload, b"once");
    assert_eq!(reader.published().await.payload, b"next");
    reader.quiet().await;
    assert_eq!(relay.stats.duplicates_suppressed_total.get(), 2);
}

#[tokio::test]
async fn once_holds_over_a_restart() {
    let relay = Relay::start().await;
    let (mut meter, _) = Client::v4(relay.addr, "meter", false).await;
    meter.publish(4, "meters/1", 5, b"once").await;
    meter.expect_ack(0x50, 5).await;
    let dir = relay.stop().await;

    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    let (mut meter, present) = Client::v4(relay.addr, "meter", false).await;
    assert!(present);
    meter.publish(12, "meters/1", 5, b"once").await;
    meter.expect_ack(0x50, 5).await;
    meter.ack(0x62, 5).await;
    meter.expect_ack(0x70, 5).await;
    reader.quiet().await;
    assert_eq!(relay.stats.duplicates_suppressed_total.get(), 1);
    let dir = relay.stop().await;

    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let (mut meter, _) = Client::v4(relay.addr, "meter", false).await;
    meter.publish(12, "meters/1", 5, b"another").await;
    meter.expect_ack(0x50, 5).await;
    assert_eq!(
        relay.stats.duplicates_suppressed_total.get(),
        0,
        "it was released"
    );
}

#[tokio::test]
async fn a_release_is_repeated_to_a_subscriber_that_comes_back_even_after_a_restart() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &expiry(1000)).await;
    reader.subscribe(&[("a", 2)]).await;
    let mut meter = relay.v4("meter").await;
    meter.publish(4, "a", 1, b"x").await;
    meter.expect_ack(0x50, 1).await;
    let id = reader.published().await.id;
    reader.ack(0x50, id).await;
    reader.expect_ack(0x62, id).await;
    let dir = relay.stop().await;

    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let (mut reader, present) = Client::v5(relay.addr, "reader", false, &expiry(1000)).await;
    assert!(present);
    reader.expect_ack(0x62, id).await;
    reader.ack(0x70, id).await;
    reader.quiet().await;
    reader.disconnect().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", false, &expiry(1000)).await;
    reader.quiet().await;
}

#[tokio::test]
async fn an_unknown_packet_id_is_answered() {
    let relay = Relay::start().await;
    let mut client = relay.v5("client").await;
    client.ack(0x62, 77).await;
    assert_eq!(client.packet().await, (0x70, vec![0, 77, 0x92]));
    client.ack(0x50, 77).await;
    assert_eq!(client.packet().await, (0x62, vec![0, 77, 0x92]));
    client.ack(0x40, 77).await;
    client.ack(0x70, 77).await;
    client.quiet().await;
}

/// A reading that a kill left in the store, without its packet id in the state.
async fn left_by_a_kill(relay: &Relay, id: u16, payload: &[u8]) {
    let reading = NewReading {
        topic: "meters/1".into(),
        client_id: "meter".into(),
        payload: Bytes::copy_from_slice(payload),
        qos: 2,
        retain: false,
        dup: false,
        packet_id: id,
        received: relay.clock.stamp(),
        properties: None,
    };
    let permit = relay.store.reserve(reading.size_bytes()).await.unwrap();
    permit.append(vec![reading]).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_kill_between_the_two_commits_does_not_store_a_publish_twice() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v4(relay.addr, "reader", false).await;
    reader.subscribe(&[("meters/#", 2)]).await;
    reader.disconnect().await;
    // Released before: its packet id is free again.
    let (mut meter, _) = Client::v4(relay.addr, "meter", false).await;
    meter.publish(4, "meters/1", 4, b"same").await;
    meter.expect_ack(0x50, 4).await;
    meter.ack(0x62, 4).await;
    meter.expect_ack(0x70, 4).await;
    for (id, payload) in [(5, b"five"), (6, b"sixx"), (7, b"sevn")] {
        left_by_a_kill(&relay, id, payload).await;
    }
    let relay = Relay::start_in(relay.as_killed(), u64::MAX / 2, |_| {}).await;
    let (mut meter, present) = Client::v4(relay.addr, "meter", false).await;
    assert!(present);
    for (flags, id, payload) in [
        (12, 5, b"five"),
        // Without the flag it is one all the same; another payload, or an id that had been released, is a reading of
        // its own.
        (4, 7, b"sevn"),
        (12, 6, b"6666"),
        (12, 4, b"same"),
    ] {
        meter.publish(flags, "meters/1", id, payload).await;
        meter.expect_ack(0x50, id).await;
        meter.ack(0x62, id).await;
        meter.expect_ack(0x70, id).await;
    }
    let payloads = |relay: &Relay| {
        let readings = relay.readings().into_iter();
        readings
            .map(|(_, p)| String::from_utf8(p).unwrap())
            .collect::<Vec<_>>()
    };
    let expected = ["same", "five", "sixx", "sevn", "6666", "same"];
    assert_eq!(payloads(&relay), expected);
    // The subscriber never got "five" and "sevn", so it gets them now, once.
    let (mut reader, _) = Client::v4(relay.addr, "reader", false).await;
    for expected in ["same", "five", "sevn", "6666", "same"] {
        assert_eq!(reader.published().await.payload, expected.as_bytes());
    }
    reader.quiet().await;
    // Released: after another kill the same again is another one.
    let relay = Relay::start_in(relay.as_killed(), u64::MAX / 2, |_| {}).await;
    let (mut meter, _) = Client::v4(relay.addr, "meter", false).await;
    meter.publish(12, "meters/1", 5, b"five").await;
    meter.expect_ack(0x50, 5).await;
    assert_eq!(payloads(&relay).len(), expected.len() + 1);
}

#[tokio::test]
async fn a_new_session_has_nothing_to_do_with_readings_before_it() {
    let relay = Relay::start().await;
    left_by_a_kill(&relay, 5, b"five").await;
    let (meter, _) = Client::v4(relay.addr, "meter", false).await;
    meter.disconnect().await;
    relay
        .v4("x")
        .await
        .publish_acked(1, "local", 1, b"later")
        .await;
    let relay = Relay::start_in(relay.as_killed(), u64::MAX / 2, |_| {}).await;
    let (mut meter, present) = Client::v4(relay.addr, "meter", false).await;
    assert!(present);
    meter.publish(12, "meters/1", 5, b"five").await;
    meter.expect_ack(0x50, 5).await;
    assert_eq!(relay.readings().len(), 2);
}

#[tokio::test]
async fn what_was_sent_does_not_expire_and_goes_on_where_it_was() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &expiry(1000)).await;
    reader.subscribe(&[("a", 2)]).await;
    let mut meter = relay.v5("meter").await;
    for id in [1, 2] {
        let bytes = meter.publish_with(4, "a", id, &[2, 0, 0, 0, 10], &[id as u8]);
        meter.send(&bytes).await;
        meter.expect_ack(0x50, id).await;
    }
    let first = reader.published().await;
    let second = reader.published().await;
    reader.ack(0x50, first.id).await;
    reader.expect_ack(0x62, first.id).await;
    reader.vanish();
    relay
        .until("it is gone", |s| s.connections.get() == 1)
        .await;
    relay.clock.pass(std::time::Duration::from_secs(60));
    let (mut reader, _) = Client::v5(relay.addr, "reader", false, &expiry(1000)).await;
    // The PUBREL again and never the PUBLISH; the other one with DUP and its id.
    reader.expect_ack(0x62, first.id).await;
    let again = reader.published().await;
    assert_eq!(
        (again.id, again.dup, again.payload),
        (second.id, true, vec![2])
    );
    reader.ack(0x70, first.id).await;
    reader.ack(0x50, second.id).await;
    reader.expect_ack(0x62, second.id).await;
    reader.ack(0x70, second.id).await;
    reader.quiet().await;
}

#[tokio::test]
async fn a_publish_that_was_refused_leaves_its_packet_id_free() {
    let relay = Relay::start().await;
    let mut meter = relay.v5("meter").await;
    meter.publish(4, "$SYS/x", 5, b"x").await;
    assert_eq!(meter.packet().await, (0x50, vec![0, 5, 0x87]));
    meter.publish(4, "meters/1", 5, b"new").await;
    meter.expect_ack(0x50, 5).await;
    assert_eq!(relay.readings().len(), 1);
}
