//! `QoS` 2: once, also over reconnects and restarts.

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
