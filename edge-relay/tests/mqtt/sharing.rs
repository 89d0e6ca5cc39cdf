//! Shared subscriptions (MQTT 5, 4.8.2; 3.1.1 clients may use them too).

use std::time::Duration;

use crate::client::{Client, expiry};
use crate::relay::Relay;

async fn member(relay: &Relay, id: &str, clean: bool) -> Client {
    Client::v5(relay.addr, id, clean, &expiry(100)).await.0
}

#[tokio::test]
async fn each_member_gets_its_own_qos_and_its_identifier() {
    let relay = Relay::start().await;
    let mut one = relay.v5("one").await;
    let mut two = relay.v5("two").await;
    one.subscribe_with(&[("$share/g/a", 0)], &[11, 1]).await;
    two.subscribe_with(&[("$share/g/a", 2)], &[11, 2]).await;
    // Another group, and a subscription that is not shared, get all.
    let mut other = relay.v4("other").await;
    other.subscribe(&[("$share/h/+", 1), ("a", 1)]).await;
    let mut meter = relay.v4("meter").await;
    for id in 1..=2 {
        meter.publish_acked(0, "a", id, &[id as u8]).await;
    }
    let (first, second) = (one.published().await, two.published().await);
    assert_eq!((first.qos, first.properties), (0, vec![11, 1]));
    assert_eq!((second.qos, second.properties), (1, vec![11, 2]));
    for _ in 0..4 {
        let got = other.published().await;
        other.ack(0x40, got.id).await;
    }
    for client in [&mut one, &mut two, &mut other] {
        client.quiet().await;
    }
}

#[tokio::test]
async fn retained_messages_do_not_come_to_a_group() {
    let relay = Relay::start().await;
    let mut meter = relay.v5("meter").await;
    meter.publish_acked(1, "a", 1, b"kept").await;
    let mut one = relay.v5("one").await;
    assert_eq!(one.subscribe(&[("$share/g/a", 1)]).await, [1]);
    one.quiet().await;
}

#[tokio::test]
async fn what_a_member_refuses_is_given_to_nobody_else() {
    let relay = Relay::start().await;
    let mut one = member(&relay, "one", true).await;
    let mut two = member(&relay, "two", true).await;
    one.subscribe(&[("$share/g/a", 1)]).await;
    two.subscribe(&[("$share/g/a", 1)]).await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "a", 1, b"refused").await;
    let [high, low] = one.published().await.id.to_be_bytes();
    one.send(&[0x40, 3, high, low, 0x80]).await;
    one.quiet().await;
    two.quiet().await;
    one.vanish();
    let mut one = member(&relay, "one", false).await;
    one.quiet().await;
    two.quiet().await;
}

/// Four messages for "leaver", of which two were sent: one with `QoS` 1, one with `QoS` 2; and none for "stayer".
async fn half_delivered(relay: &Relay) -> Client {
    let properties = [expiry(100), vec![33, 0, 2]].concat();
    let (mut leaver, _) = Client::v5(relay.addr, "leaver", true, &properties).await;
    leaver.subscribe(&[("$share/g/a/+", 2)]).await;
    let mut meter = relay.v4("meter").await;
    for (qos, id) in [(1, 1), (2, 2), (1, 3), (2, 4)] {
        meter.publish(qos << 1, "a/b", id, &[id as u8]).await;
        let (first, _) = meter.packet().await;
        if first == 0x50 {
            meter.ack(0x62, id).await;
            meter.expect_ack(0x70, id).await;
        }
    }
    assert_eq!(leaver.published().await.payload, [1]);
    assert_eq!(leaver.published().await.payload, [2]);
    leaver.vanish();
    relay
        .until("it is gone", |s| s.connections.get() == 1)
        .await;
    let mut stayer = member(relay, "stayer", true).await;
    stayer
        .subscribe_with(&[("$share/g/a/+", 1)], &[11, 7])
        .await;
    stayer.quiet().await;
    stayer
}

async fn expect_the_rest(stayer: &mut Client) {
    // Not the second one: it has QoS 2 and was sent to the other.
    for expected in [1, 3, 4] {
        let got = stayer.published().await;
        assert_eq!((got.payload, got.qos), (vec![expected], 1));
        assert_eq!((got.properties, got.dup), (vec![11, 7], false));
        stayer.ack(0x40, got.id).await;
    }
    stayer.quiet().await;
}

#[tokio::test]
async fn what_an_ended_session_was_owed_goes_to_another_member() {
    let relay = Relay::start().await;
    let mut stayer = half_delivered(&relay).await;
    relay.clock.pass(Duration::from_secs(101));
    relay
        .until("its session is over", |s| s.sessions.get() == 1)
        .await;
    expect_the_rest(&mut stayer).await;
}

#[tokio::test]
async fn what_an_ended_session_was_owed_goes_on_also_after_a_restart() {
    let relay = Relay::start().await;
    half_delivered(&relay).await.disconnect().await;
    let dir = relay.stop().await;
    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let mut stayer = member(&relay, "stayer", false).await;
    // A clean start ends the session that was there.
    let _fresh = relay.v5("leaver").await;
    // What may have been sent before a restart counts as sent: so the last one, with QoS 2, is not handed on either.
    for expected in [1, 3] {
        let got = stayer.published().await;
        assert_eq!((got.payload, got.qos), (vec![expected], 1));
    }
    stayer.quiet().await;
}

#[tokio::test]
async fn a_qos_2_message_that_was_sent_to_a_member_is_completed_with_it() {
    let relay = Relay::start().await;
    let mut stayer = half_delivered(&relay).await;
    let mut leaver = member(&relay, "leaver", false).await;
    for expected in 1..=4u8 {
        let got = leaver.published().await;
        assert_eq!((got.payload, got.dup), (vec![expected], expected <= 2));
    }
    stayer.quiet().await;
}
