//! PUBLISH in, PUBLISH out.

use crate::client::{Client, expiry, text};
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

/// Payload format, content type, response topic, correlation data, and user properties with a name twice.
fn all_properties() -> Vec<u8> {
    let pair = |k: &str, v: &str| [vec![38], text(k), text(v)].concat();
    [
        vec![1, 1, 3],
        text("application/json"),
        vec![8],
        text("réponse/1"),
        vec![9, 0, 3, 0, 255, 7],
        pair("z", "1"),
        pair("a", ""),
        pair("z", "0"),
    ]
    .concat()
}

#[tokio::test]
async fn properties_arrive_unaltered_and_in_order_also_from_the_disk() {
    let relay = Relay::start().await;
    let (mut absent, _) = Client::v5(relay.addr, "absent", true, &expiry(1000)).await;
    absent.subscribe(&[("a", 1)]).await;
    absent.disconnect().await;
    let mut live = relay.v5("live").await;
    live.subscribe(&[("a", 0)]).await;
    let mut meter = relay.v5("meter").await;
    let properties = all_properties();
    let bytes = meter.publish_with(3, "a", 1, &properties, "é".as_bytes());
    meter.send(&bytes).await;
    meter.expect_ack(0x40, 1).await;
    assert_eq!(live.published().await.properties, properties);
    let dir = relay.stop().await;
    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let (mut absent, _) = Client::v5(relay.addr, "absent", false, &expiry(1000)).await;
    let mut late = relay.v5("late").await;
    late.subscribe_with(&[("a", 0)], &[11, 5]).await;
    let (queued, retained) = (absent.published().await, late.published().await);
    assert_eq!(
        (queued.properties, queued.retain),
        (properties.clone(), false)
    );
    let with_id = [properties, vec![11, 5]].concat();
    assert_eq!((retained.properties, retained.retain), (with_id, true));
    assert_eq!(retained.payload, "é".as_bytes());
}

#[tokio::test]
async fn aliases_hold_for_their_connection_and_up_to_the_maximum() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &[34, 0, 10]).await;
    reader.subscribe(&[("#", 0)]).await;
    let mut meter = relay.v5("meter").await;
    for alias in [1, 32] {
        for (named, expected) in [("t/1", "t/1"), ("", "t/1"), ("t/2", "t/2"), ("", "t/2")] {
            let bytes = meter.publish_with(0, named, 0, &[35, 0, alias], b"x");
            meter.send(&bytes).await;
            let got = reader.published().await;
            assert_eq!(
                (got.topic.as_str(), got.properties),
                (expected, vec![]),
                "no alias from us"
            );
        }
    }
    let mut meter = relay.v5("meter").await;
    let bytes = meter.publish_with(0, "", 0, &[35, 0, 1], b"of another connection");
    meter.send(&bytes).await;
    meter.closed(0x82).await;
    for alias in [0, 33] {
        let mut meter = relay.v5("meter").await;
        let bytes = meter.publish_with(0, "t", 0, &[35, 0, alias], b"x");
        meter.send(&bytes).await;
        meter.closed(0x94).await;
    }
}

#[tokio::test]
async fn what_a_publish_may_not_have_closes_its_connection() {
    let relay = Relay::start().await;
    for (properties, reason) in [
        (vec![11, 5], 0x81),
        ([vec![8], text("a/#")].concat(), 0x82),
        (vec![8, 0, 1, 0xFF], 0x81),
        (vec![3, 0, 1, 0xFF], 0x81),
        (vec![1, 2], 0x82),
        (vec![38, 0, 1, b'a', 0, 1, 0xFF], 0x81),
        (vec![2, 0, 0, 0, 1, 2, 0, 0, 0, 1], 0x82),
        (vec![17, 0, 0, 0, 1], 0x81),
    ] {
        let mut meter = relay.v5("meter").await;
        let bytes = meter.publish_with(2, "meters/1", 1, &properties, b"x");
        meter.send(&bytes).await;
        meter.closed(reason).await;
    }
    assert_eq!(relay.readings(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_topic_and_qos_keeps_its_order_also_over_reconnects() {
    let relay = Relay::start().await;
    let (mut reader, _) = Client::v4(relay.addr, "reader", false).await;
    reader.subscribe(&[("#", 2)]).await;
    let mut meter = relay.v4("meter").await;
    let mut bytes = Vec::new();
    for id in 1..=120u16 {
        let topic = ["meters/a", "local/a", "meters/b"][usize::from(id % 3)];
        let qos = 1 + (id / 3 % 2) as u8;
        bytes.extend(meter.publish_bytes(qos << 1, topic, id, &id.to_be_bytes()));
    }
    meter.send(&bytes).await;
    for _ in 1..=120 {
        meter.packet().await;
    }
    let mut last = std::collections::HashMap::new();
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 120 {
        // Some of a connection is acknowledged, then it breaks.
        let mut at = 0;
        while at < 30 && seen.len() < 120 {
            let packet = reader.packet().await;
            if packet.0 == 0x62 {
                reader
                    .ack(0x70, u16::from_be_bytes([packet.1[0], packet.1[1]]))
                    .await;
                continue;
            }
            let got = crate::client::Published::of(&packet, false);
            let number = u16::from_be_bytes([got.payload[0], got.payload[1]]);
            if seen.insert(number) {
                let before = last.insert((got.topic, got.qos), number).unwrap_or(0);
                assert!(before < number, "{number} after {before}");
            } else {
                assert!(got.dup);
            }
            at += 1;
            if at <= 20 {
                reader
                    .ack(if got.qos == 1 { 0x40 } else { 0x50 }, got.id)
                    .await;
            }
        }
        reader.quiet_but(0x62).await;
        reader.vanish();
        (reader, _) = Client::v4(relay.addr, "reader", false).await;
    }
}

#[tokio::test]
async fn dup_is_not_passed_on_and_an_acknowledged_id_is_free() {
    let relay = Relay::start().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("meters/1", 1)]).await;
    let mut meter = relay.v4("meter").await;
    for flags in [8, 8, 0] {
        meter.publish_acked(flags, "meters/1", 1, b"x").await;
        let got = reader.published().await;
        assert!(!got.dup);
        reader.ack(0x40, got.id).await;
    }
    assert_eq!(relay.readings().len(), 3);
}

#[tokio::test]
async fn topics_are_taken_as_they_are_byte_for_byte() {
    let relay = Relay::start().await;
    let long = "é".repeat(32_767);
    let topics = [
        "\u{feff}",
        "\u{feff}a",
        "é",
        "e\u{301}",
        "A",
        "a",
        "a/",
        "/a",
        "a//b",
        " ",
        "电表/1",
        long.as_str(),
    ];
    let mut meter = relay.v4("meter").await;
    for (at, topic) in topics.iter().enumerate() {
        let mut reader = relay.v4(&format!("reader-{at}")).await;
        assert_eq!(reader.subscribe(&[(topic, 1)]).await, [1]);
        for (id, other) in (1..).zip(topics) {
            meter.publish_acked(0, other, id, b"x").await;
        }
        assert_eq!(reader.published().await.topic, *topic);
        reader.quiet().await;
    }
}
