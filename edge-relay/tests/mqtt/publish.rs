//! PUBLISH in, PUBLISH out.

use crate::client::Client;
use crate::relay::Relay;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_come_in_order_for_all_that_was_sent_at_once() {
    let relay = Relay::start().await;
    let mut meter = relay.v4("meter").await;
    let mut bytes = Vec::new();
    for id in 1..=500 {
        let topic = if id % 3 == 0 { "meters/a" } else { "local/a" };
        bytes.extend(meter.publish_bytes(2, topic, id, b"1"));
    }
    meter.send(&bytes).await;
    for id in 1..=500 {
        meter.expect_ack(0x40, id).await;
    }
    assert_eq!(relay.stats.publishes_received_total.get(), 500);
    assert_eq!(relay.stats.publishes_acknowledged_total.get(), 500);
}

#[tokio::test]
async fn a_subscriber_gets_the_lower_qos_and_the_bytes_as_they_were() {
    let relay = Relay::start().await;
    let mut meter = relay.v4("meter").await;
    for (v5, granted) in [(false, 0), (true, 1), (false, 2)] {
        let id = format!("reader-{granted}");
        let mut reader = if v5 {
            relay.v5(&id).await
        } else {
            relay.v4(&id).await
        };
        assert_eq!(
            reader.subscribe(&[("meters/+/é", granted)]).await,
            [granted]
        );
        for published in 0..=2u8 {
            meter
                .publish(published << 1, "meters/1/é", 9, &[0, 255, published])
                .await;
            match published {
                0 => {}
                1 => meter.expect_ack(0x40, 9).await,
                _ => {
                    meter.expect_ack(0x50, 9).await;
                    meter.ack(0x62, 9).await;
                    meter.expect_ack(0x70, 9).await;
                }
            }
            let got = reader.published().await;
            assert_eq!(got.qos, published.min(granted), "QoS is never raised");
            assert_eq!(got.payload, [0, 255, published]);
            assert!(!got.dup && !got.retain);
            match got.qos {
                0 => {}
                1 => reader.ack(0x40, got.id).await,
                _ => {
                    reader.ack(0x50, got.id).await;
                    reader.expect_ack(0x62, got.id).await;
                    reader.ack(0x70, got.id).await;
                }
            }
        }
        reader.quiet().await;
    }
}

#[tokio::test]
async fn what_is_sent_right_before_the_end_is_delivered() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("#", 0)]).await;
    for topic in ["meters/x", "local/x"] {
        let mut meter = relay.v4("meter").await;
        let mut bytes = meter.publish_bytes(0, topic, 0, b"last words");
        bytes.extend([0xE0, 0]);
        meter.send(&bytes).await;
        meter.vanish();
        assert_eq!(reader.published().await.payload, b"last words");
    }
}

#[tokio::test]
async fn acks_reach_a_client_that_closed_its_writing_side() {
    let relay = Relay::start().await;
    let mut meter = relay.v4("meter").await;
    meter.publish(2, "meters/x", 3, b"1").await;
    meter.half_close().await;
    meter.expect_ack(0x40, 3).await;
}

#[tokio::test]
async fn properties_travel_and_v4_subscribers_are_not_confused_by_them() {
    let relay = Relay::start().await;
    let mut old = relay.v4("old").await;
    let mut new = relay.v5("new").await;
    old.subscribe(&[("a", 1)]).await;
    new.subscribe(&[("a", 1)]).await;
    let mut meter = relay.v5("meter").await;
    let properties = [1, 1, 38, 0, 1, b'k', 0, 1, b'v'];
    let bytes = meter.publish_with(2, "a", 1, &properties, b"x");
    meter.send(&bytes).await;
    meter.expect_ack(0x40, 1).await;
    assert_eq!(old.published().await.payload, b"x");
    assert_eq!(new.published().await.properties, properties);
}

#[tokio::test]
async fn a_topic_alias_stands_for_its_topic() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/#", 0)]).await;
    let mut meter = relay.v5("meter").await;
    let mut bytes = meter.publish_with(0, "meters/1", 0, &[35, 0, 1], b"a");
    bytes.extend(meter.publish_with(0, "", 0, &[35, 0, 1], b"b"));
    meter.send(&bytes).await;
    for payload in [b"a", b"b"] {
        let got = reader.published().await;
        assert_eq!(
            (got.topic.as_str(), &got.payload[..]),
            ("meters/1", &payload[..])
        );
    }
    let bytes = meter.publish_with(0, "", 0, &[35, 0, 2], b"c");
    meter.send(&bytes).await;
    meter.closed(0x82).await;
    let mut meter = relay.v5("meter").await;
    let bytes = meter.publish_with(0, "a", 0, &[35, 1, 0], b"c");
    meter.send(&bytes).await;
    meter.closed(0x94).await;
}

#[tokio::test]
async fn a_message_expiry_counts_down_and_ends() {
    let relay = Relay::start().await;
    let (reader, _) = Client::v5(relay.addr, "reader", true, &crate::client::expiry(1000)).await;
    let mut reader = reader;
    reader.subscribe(&[("a", 1)]).await;
    reader.disconnect().await;
    let mut meter = relay.v5("meter").await;
    for (id, seconds) in [(1, 10u8), (2, 100)] {
        let bytes = meter.publish_with(2, "a", id, &[2, 0, 0, 0, seconds], &[seconds]);
        meter.send(&bytes).await;
        meter.expect_ack(0x40, id).await;
    }
    relay.clock.pass(std::time::Duration::from_secs(30));
    let (mut reader, present) =
        Client::v5(relay.addr, "reader", false, &crate::client::expiry(1000)).await;
    assert!(present);
    let got = reader.published().await;
    assert_eq!(
        (got.payload, got.properties),
        (vec![100], vec![2, 0, 0, 0, 70])
    );
    reader.quiet().await;
}

#[tokio::test]
async fn what_goes_to_sys_is_refused() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("$SYS/#", 0)]).await;
    let mut meter = relay.v5("meter").await;
    meter.publish(2, "$SYS/x", 1, b"x").await;
    assert_eq!(meter.packet().await, (0x40, vec![0, 1, 0x87]));
    reader.quiet().await;
}
