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

#[tokio::test]
async fn overlapping_subscriptions_of_3_1_1_give_the_highest_qos() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    let codes = reader.subscribe(&[("a/+", 0), ("a/#", 2), ("#", 1)]).await;
    assert_eq!(codes, [0, 2, 1]);
    let mut meter = relay.v4("meter").await;
    meter.publish(4, "a/b", 1, b"x").await;
    meter.expect_ack(0x50, 1).await;
    assert_eq!(reader.published().await.qos, 2);
    reader.quiet().await;
}

#[tokio::test]
async fn a_second_subscribe_replaces_the_first_and_loses_nothing() {
    let relay = Relay::start().await;
    for v5 in [false, true] {
        let mut reader = if v5 {
            relay.v5("five").await
        } else {
            relay.v4("four").await
        };
        let mut meter = relay.v4("meter").await;
        reader.subscribe(&[("a", 2)]).await;
        meter.publish_acked(0, "a", 1, b"before").await;
        let bytes = reader.subscribe_bytes(8, &[("a", 0)], if v5 { &[11, 9] } else { &[] });
        reader.send(&bytes).await;
        let before = reader.published().await;
        assert_eq!((before.qos, before.payload), (1, b"before".to_vec()));
        assert_eq!(reader.packet().await.0, 0x90);
        meter.publish_acked(0, "a", 2, b"after").await;
        let after = reader.published().await;
        assert_eq!((after.qos, after.payload), (0, b"after".to_vec()), "once");
        assert_eq!(after.properties, if v5 { vec![11, 9] } else { vec![] });
        reader.quiet().await;
    }
}

#[tokio::test]
async fn unsubscribe_compares_letter_by_letter_and_completes_what_was_sent() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("a/+", 1), ("é", 1)]).await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "a/b", 1, b"sent").await;
    let sent = reader.published().await;
    let unsubscribe = |id: u8, filters: &[&str]| {
        let all = filters.iter().flat_map(|f| text(f));
        packet(0xA2, &[vec![0, id], all.collect()].concat())
    };
    reader
        .send(&unsubscribe(3, &["a/b", "a/#", "e\u{301}", "A/+"]))
        .await;
    assert_eq!(reader.packet().await, (0xB0, vec![0, 3]));
    meter.publish_acked(0, "a/b", 2, b"still").await;
    assert_eq!(reader.published().await.payload, b"still");
    reader.send(&unsubscribe(4, &["a/+", "é"])).await;
    assert_eq!(reader.packet().await, (0xB0, vec![0, 4]));
    for (id, topic) in [(3, "a/b"), (4, "é")] {
        meter.publish_acked(0, topic, id, b"not any more").await;
    }
    reader.quiet().await;
    reader.ack(0x40, sent.id).await;
    reader.quiet().await;
}

#[tokio::test]
async fn no_local_goes_by_the_client_id() {
    let relay = Relay::start().await;
    let (mut both, _) = Client::v5(relay.addr, "both", true, &expiry(100)).await;
    both.subscribe(&[("a", 0x05), ("b", 0x01)]).await;
    let mut meter = relay.v4("meter").await;
    both.publish_acked(0, "a", 1, b"own").await;
    // A will of an earlier connection of the same client id is its own, too.
    let rest = [vec![0], text("a"), text("will")].concat();
    let mut again = Client::open(relay.addr).await;
    again.v5 = true;
    let bytes = crate::client::connect(5, 0x04, 0, &expiry(100), "both", &rest);
    again.send(&bytes).await;
    assert_eq!(again.packet().await.1[..2], [1, 0]);
    let (mut last, present) = Client::v5(relay.addr, "both", false, &expiry(100)).await;
    assert!(present);
    again.closed(0x8E).await;
    meter.publish_acked(0, "a", 1, b"other").await;
    assert_eq!(last.published().await.payload, b"other");
    last.quiet().await;
}

#[tokio::test]
async fn retain_handling_sends_with_the_identifier_and_never_for_2() {
    let relay = Relay::start().await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(1, "a", 1, b"kept").await;
    let mut reader = relay.v5("reader").await;
    for (options, identifier, comes) in [
        (0x20, 1, false),
        (0x10, 2, false),
        (0x00, 3, true),
        (0x00, 4, true),
    ] {
        reader
            .subscribe_with(&[("a", options)], &[11, identifier])
            .await;
        if comes {
            let got = reader.published().await;
            assert_eq!((got.retain, got.properties), (true, vec![11, identifier]));
        }
        reader.quiet().await;
    }
}
