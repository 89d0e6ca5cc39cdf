//! Retained messages.

use crate::client::Client;
use crate::relay::Relay;

#[tokio::test]
async fn the_last_one_is_kept_also_over_a_restart_and_an_empty_one_removes_it() {
    let relay = Relay::start().await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(1, "meters/1", 1, b"old").await;
    meter.publish_acked(1, "meters/1", 2, b"new").await;
    meter
        .publish_acked(1, "local/1", 3, &vec![9; 100_000])
        .await;
    meter.publish_acked(0, "meters/1", 4, b"").await;
    let dir = relay.stop().await;

    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let mut meter = relay.v4("meter").await;
    let mut reader = relay.v4("reader").await;
    for _ in 0..2 {
        reader.subscribe(&[("meters/+", 1)]).await;
        let got = reader.published().await;
        assert!(got.retain && got.qos == 1, "at every subscribe");
        assert_eq!(
            got.payload, b"new",
            "an empty publish without retain removes nothing"
        );
        reader.ack(0x40, got.id).await;
    }
    reader.subscribe(&[("local/1", 0)]).await;
    assert_eq!(reader.published().await.payload.len(), 100_000);
    meter.publish_acked(1, "meters/1", 5, b"").await;
    let got = reader.published().await;
    assert!(
        !got.retain && got.payload.is_empty(),
        "live subscribers see the removal"
    );
    let mut late = relay.v4("late").await;
    late.subscribe(&[("meters/#", 1)]).await;
    late.quiet().await;
}

#[tokio::test]
async fn retain_handling_and_retain_as_published() {
    let relay = Relay::start().await;
    let mut meter = relay.v5("meter").await;
    meter.publish_acked(1, "a", 1, b"kept").await;
    let mut reader = relay.v5("reader").await;
    reader.subscribe(&[("a", 0x20)]).await;
    reader.quiet().await;
    reader.subscribe(&[("a", 0x10)]).await;
    reader.quiet().await;
    reader.subscribe(&[("+", 0x10)]).await;
    assert!(
        reader.published().await.retain,
        "a new one, with handling 1"
    );
    let (mut flagged, _) = Client::v5(relay.addr, "flagged", true, &[]).await;
    flagged.subscribe(&[("a", 0x28)]).await;
    meter.publish_acked(1, "a", 2, b"live").await;
    assert!(!reader.published().await.retain);
    assert!(flagged.published().await.retain);
}

#[tokio::test]
async fn retained_messages_expire_and_are_bounded() {
    let relay = Relay::start_with(|s| s.retained_max = 2).await;
    let mut meter = relay.v5("meter").await;
    let bytes = meter.publish_with(3, "a", 1, &[2, 0, 0, 0, 5], b"short");
    meter.send(&bytes).await;
    meter.expect_ack(0x40, 1).await;
    meter.publish_acked(1, "b", 2, b"x").await;
    meter.publish_acked(1, "c", 3, b"does not fit").await;
    assert_eq!(relay.stats.retained_refused_total.get(), 1);
    relay.clock.pass(std::time::Duration::from_secs(6));
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("#", 0)]).await;
    assert_eq!(reader.published().await.topic, "b");
    reader.quiet().await;
}

#[tokio::test]
async fn the_last_one_counts_whatever_its_qos_and_goes_out_with_the_lower_one() {
    let relay = Relay::start().await;
    let (mut meter, _) = Client::v4(relay.addr, "meter", false).await;
    meter.publish(5, "a", 1, b"two").await;
    meter.expect_ack(0x50, 1).await;
    for granted in 0..=2 {
        let mut reader = relay.v4(&format!("r{granted}")).await;
        reader.subscribe(&[("a", granted)]).await;
        let got = reader.published().await;
        assert_eq!((got.qos, got.retain, got.dup), (granted, true, false));
    }
    meter.publish(1, "a", 0, b"zero").await;
    meter.quiet().await;
    // It belongs to the topic, not to the session that left it.
    meter.disconnect().await;
    relay.v4("meter").await.disconnect().await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("a", 2)]).await;
    let got = reader.published().await;
    assert_eq!((got.qos, got.payload), (0, b"zero".to_vec()));
    reader.quiet().await;
}

#[tokio::test]
async fn one_that_does_not_fit_does_not_leave_an_older_one_in_its_place() {
    let relay = Relay::start_with(|s| s.retained_bytes_max = 1_000).await;
    let mut meter = relay.v4("meter").await;
    meter.publish_acked(1, "a", 1, b"old").await;
    meter.publish_acked(1, "a", 2, &[0; 2_000]).await;
    assert_eq!(relay.stats.retained_refused_total.get(), 1);
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("a", 1)]).await;
    reader.quiet().await;
    let dir = relay.stop().await;
    let relay = Relay::start_in(dir, u64::MAX / 2, |_| {}).await;
    let mut reader = relay.v4("reader").await;
    reader.subscribe(&[("a", 1)]).await;
    reader.quiet().await;
}
