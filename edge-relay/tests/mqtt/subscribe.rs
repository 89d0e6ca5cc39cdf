//! SUBSCRIBE, UNSUBSCRIBE, and which subscription gets what.

use crate::client::{Client, expiry, packet, text};
use crate::relay::Relay;

#[tokio::test]
async fn bad_filters_are_named_one_by_one() {
    let relay = Relay::start().await;
    let mut new = relay.v5("new").await;
    assert_eq!(
        new.subscribe(&[("a/#/b", 0), ("a", 1), ("$share/g", 0)])
            .await,
        [0x8F, 1, 0x8F]
    );
    let mut old = relay.v4("old").await;
    assert_eq!(old.subscribe(&[("a+", 0), ("é/+", 2)]).await, [0x80, 2]);
}

#[tokio::test]
async fn unsubscribe_is_answered_once_for_all() {
    let relay = Relay::start().await;
    let mut reader = relay.v5("reader").await;
    reader.subscribe(&[("a", 0)]).await;
    let mut body = vec![0, 9, 0];
    body.extend(text("a"));
    body.extend(text("never"));
    reader.send(&packet(0xA2, &body)).await;
    assert_eq!(reader.packet().await, (0xB0, vec![0, 9, 0, 0, 0x11]));
    relay.v4("meter").await.publish_acked(0, "a", 1, b"x").await;
    reader.quiet().await;
}

#[tokio::test]
async fn overlapping_subscriptions_give_one_copy_with_all_identifiers() {
    let relay = Relay::start().await;
    let mut reader = relay.v5("reader").await;
    reader.subscribe_with(&[("a/#", 0)], &[11, 3]).await;
    reader.subscribe_with(&[("a/+", 1)], &[11, 4]).await;
    relay
        .v4("meter")
        .await
        .publish_acked(0, "a/b", 1, b"x")
        .await;
    let got = reader.published().await;
    assert_eq!(got.qos, 1);
    let mut ids = got.properties.clone();
    ids.sort_unstable();
    assert_eq!(ids, [3, 4, 11, 11]);
    reader.quiet().await;
}

#[tokio::test]
async fn no_local_keeps_a_client_from_hearing_itself() {
    let relay = Relay::start().await;
    let mut both = relay.v5("both").await;
    both.subscribe(&[("a", 0x05)]).await;
    both.publish_acked(0, "a", 1, b"own").await;
    both.quiet().await;
    relay
        .v4("meter")
        .await
        .publish_acked(0, "a", 1, b"other")
        .await;
    assert_eq!(both.published().await.payload, b"other");
}

#[tokio::test]
async fn a_shared_subscription_gives_each_message_to_one() {
    let relay = Relay::start().await;
    let mut one = relay.v4("one").await;
    let mut two = relay.v5("two").await;
    one.subscribe(&[("$share/g/a/#", 1)]).await;
    two.subscribe(&[("$share/g/a/#", 1)]).await;
    let mut meter = relay.v4("meter").await;
    for id in 1..=4 {
        meter.publish_acked(0, "a/b", id, &[id as u8]).await;
    }
    for expected in [1, 3] {
        assert_eq!(one.published().await.payload, [expected]);
        assert_eq!(two.published().await.payload, [expected + 1]);
    }
    one.quiet().await;
    two.quiet().await;
}

#[tokio::test]
async fn a_persistent_member_of_a_group_may_drop_with_messages_unacknowledged() {
    let relay = Relay::start().await;
    let (mut one, _) = Client::v5(relay.addr, "one", true, &expiry(100)).await;
    one.subscribe(&[("$share/g/a", 1)]).await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "a", 1, b"1").await;
    one.published().await;
    one.vanish();
    relay
        .until("it is gone", |s| s.connections.get() == 1)
        .await;
    meter.publish_acked(0, "a", 2, b"2").await;
    let (mut one, _) = Client::v5(relay.addr, "one", false, &expiry(100)).await;
    assert_eq!(one.published().await.payload, b"1");
    assert_eq!(one.published().await.payload, b"2");
}

#[tokio::test]
async fn acks_out_of_order_are_taken() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &[33, 0, 3]).await;
    reader.subscribe(&[("a", 1)]).await;
    let mut meter = relay.v4("meter").await;
    for id in 1..=9 {
        meter.publish_acked(0, "a", id, &[id as u8]).await;
    }
    let mut expected = 1;
    for _ in 0..3 {
        let mut ids = Vec::new();
        for _ in 0..3 {
            let got = reader.published().await;
            assert_eq!(got.payload, [expected]);
            expected += 1;
            ids.push(got.id);
        }
        reader.quiet().await;
        for id in ids.iter().rev() {
            reader.ack(0x40, *id).await;
        }
    }
}

#[tokio::test]
async fn a_packet_too_large_for_the_subscriber_is_left_out() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &[39, 0, 0, 0, 50]).await;
    reader.subscribe(&[("a", 1)]).await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "a", 1, &[0; 100]).await;
    meter.publish_acked(0, "a", 2, b"small").await;
    assert_eq!(reader.published().await.payload, b"small");
}
