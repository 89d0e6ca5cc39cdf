//! Flow control of MQTT 5: the receive maximum, both ways.

use crate::client::{Client, expiry};
use crate::relay::Relay;

async fn subscriber(relay: &Relay, clean: bool, receive_maximum: u8) -> Client {
    let properties = [expiry(1000), vec![33, 0, receive_maximum]].concat();
    Client::v5(relay.addr, "reader", clean, &properties).await.0
}

async fn publish_qos_2(meter: &mut Client, topic: &str, id: u16) {
    meter.publish(4, topic, id, &[id as u8]).await;
    meter.expect_ack(0x50, id).await;
    meter.ack(0x62, id).await;
    meter.expect_ack(0x70, id).await;
}

#[tokio::test]
async fn no_more_is_sent_than_the_receive_maximum_until_the_last_acknowledgement() {
    let relay = Relay::start().await;
    let mut reader = subscriber(&relay, true, 2).await;
    reader.subscribe(&[("a", 2)]).await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "a", 1, &[1]).await;
    for id in 2..=4 {
        publish_qos_2(&mut meter, "a", id).await;
    }
    let first = reader.published().await;
    let second = reader.published().await;
    assert_eq!((first.qos, second.qos), (1, 2));
    reader.quiet().await;
    // A PUBREC frees no place, a PUBACK and a PUBCOMP do.
    reader.ack(0x50, second.id).await;
    reader.expect_ack(0x62, second.id).await;
    reader.quiet().await;
    reader.ack(0x70, second.id).await;
    let third = reader.published().await;
    assert_eq!(third.payload, [3]);
    reader.quiet().await;
    reader.ack(0x40, first.id).await;
    let fourth = reader.published().await;
    // A PUBREC with an error frees a place too, and its message is not sent again.
    let [high, low] = third.id.to_be_bytes();
    reader.send(&[0x50, 3, high, low, 0x80]).await;
    publish_qos_2(&mut meter, "a", 5).await;
    assert_eq!(reader.published().await.payload, [5]);
    reader.vanish();
    let mut reader = subscriber(&relay, false, 2).await;
    let again = reader.published().await;
    assert_eq!(
        (again.id, again.dup, again.payload),
        (fourth.id, true, vec![4])
    );
}

#[tokio::test]
async fn all_other_packets_flow_while_no_publish_may() {
    let relay = Relay::start().await;
    let mut reader = subscriber(&relay, true, 1).await;
    reader.subscribe(&[("a", 1)]).await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(0, "a", 1, b"1").await;
    meter.publish_acked(0, "a", 2, b"2").await;
    let held = reader.published().await;
    reader.quiet().await;
    assert_eq!(reader.subscribe(&[("b", 1)]).await, [1]);
    reader.publish_acked(0, "meters/1", 9, b"own").await;
    publish_qos_2(&mut reader, "meters/1", 10).await;
    reader.quiet().await;
    reader.ack(0x40, held.id).await;
    assert_eq!(reader.published().await.payload, b"2");
}

#[tokio::test]
async fn a_smaller_receive_maximum_holds_for_what_is_sent_again() {
    let relay = Relay::start().await;
    let mut reader = subscriber(&relay, true, 5).await;
    reader.subscribe(&[("a", 1)]).await;
    let mut meter = relay.v4("meter").await;
    for id in 1..=6 {
        meter.publish_acked(0, "a", id, &[id as u8]).await;
    }
    for _ in 1..=5 {
        reader.published().await;
    }
    reader.vanish();
    let mut reader = subscriber(&relay, false, 2).await;
    for round in [[1, 2], [3, 4], [5, 6]] {
        let mut ids = Vec::new();
        for expected in round {
            let got = reader.published().await;
            assert_eq!((got.payload, got.dup), (vec![expected], expected < 6));
            ids.push(got.id);
        }
        reader.quiet().await;
        for id in ids {
            reader.ack(0x40, id).await;
        }
    }
    reader.quiet().await;
}

#[tokio::test]
async fn qos_2_publishes_count_against_the_relays_receive_maximum_until_they_are_released() {
    let relay = Relay::start_with(|s| s.in_flight_max = 2).await;
    let mut meter = relay.v5("meter").await;
    for id in [1, 2] {
        meter.publish(4, "meters/1", id, b"x").await;
        meter.expect_ack(0x50, id).await;
    }
    meter.ack(0x62, 1).await;
    meter.expect_ack(0x70, 1).await;
    meter.publish_acked(0, "meters/1", 3, b"fits").await;
    meter.publish(4, "meters/1", 4, b"fits").await;
    meter.expect_ack(0x50, 4).await;
    meter
        .publish(12, "meters/1", 4, b"again is no other one")
        .await;
    meter.expect_ack(0x50, 4).await;
    meter.publish(2, "meters/1", 5, b"one too many").await;
    meter.closed(0x93).await;
    assert_eq!(relay.readings().len(), 4);
}
