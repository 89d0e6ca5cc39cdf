//! A PUBACK means on disk, and there is none for what is not kept.

use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, expiry};
use crate::relay::{Relay, store_settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_puback_and_no_pubrec_before_the_commit() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut slow = store_settings(dir.path());
    slow.commit_delay = Duration::from_millis(600);
    let relay = Relay::start_on(dir, slow, |_| {}).await;
    for (v5, flags, ack) in [
        (false, 2, 0x40),
        (true, 2, 0x40),
        (false, 4, 0x50),
        (true, 4, 0x50),
    ] {
        let mut meter = if v5 {
            relay.v5("meter").await
        } else {
            relay.v4("meter").await
        };
        let before = relay.readings().len();
        meter.publish(flags, "meters/1", 1, b"x").await;
        // The answer to the ping comes first, since the commit waits and the connection does not.
        meter.quiet().await;
        assert_eq!(relay.readings().len(), before);
        meter.expect_ack(ack, 1).await;
        assert_eq!(relay.readings().len(), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_quota_nothing_is_acknowledged_and_the_connection_ends() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let relay = Relay::start_in(dir, 300_000, |_| {}).await;
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for meter in 0..8u8 {
        let mut client = relay.v5("meter").await;
        for id in 1..=20u16 {
            let mut payload = vec![0; 5_000];
            payload[0] = meter;
            payload[1] = id as u8;
            client.publish(2, "meters/1", id, &payload).await;
            match client.packet().await {
                (0x40, body) => {
                    assert_eq!(body, id.to_be_bytes());
                    acknowledged.push(payload);
                }
                (0xE0, body) => {
                    assert_eq!(body, [0x97, 0]);
                    refused += 1;
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(
        refused > 0 && !acknowledged.is_empty(),
        "{refused} {}",
        acknowledged.len()
    );
    let kept: Vec<_> = relay
        .readings()
        .into_iter()
        .map(|(_, payload)| payload)
        .collect();
    for payload in &acknowledged {
        assert!(
            kept.contains(payload),
            "acknowledged and not kept: {:?}",
            &payload[..2]
        );
    }
    assert!(relay.stats.publishes_withheld_total.get() > 0);
    let mut old = relay.v4("old").await;
    old.publish(2, "meters/1", 1, &[0; 5_000]).await;
    assert_eq!(
        old.try_packet().await,
        None,
        "MQTT 3.1.1 is closed without an ack"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_state_cannot_keep_is_not_acknowledged() {
    let relay = Relay::start_with(|s| s.hold_max = Duration::from_millis(300)).await;
    let (mut reader, _) = Client::v5(relay.addr, "reader", true, &expiry(100)).await;
    reader.subscribe(&[("queued", 1)]).await;
    reader.disconnect().await;
    // A value in a file of its own would not be synced, so the state refuses to call anything durable.
    let blob = relay.dir.path().join("state/blobs/1");
    std::fs::write(&blob, b"x").unwrap();
    for (flags, topic) in [(3, "retained"), (2, "queued"), (3, "meters/retained")] {
        let mut meter = relay.v5("meter").await;
        meter.publish(flags, topic, 1, b"x").await;
        meter.closed(0x97).await;
    }
    std::fs::remove_file(&blob).unwrap();
    relay
        .v5("meter")
        .await
        .publish_acked(1, "retained", 1, b"x")
        .await;
    assert!(relay.stats.state_errors_total.get() > 0);
}

#[tokio::test]
async fn what_a_reconnect_asks_for_again_is_not_said_before_it_is_kept() {
    let relay = Relay::start_with(|s| s.hold_max = Duration::from_millis(300)).await;
    let blob = relay.dir.path().join("state/blobs/1");
    let (mut meter, _) = Client::v5(relay.addr, "meter", true, &expiry(100)).await;
    // As above: from here on nothing is durable.
    std::fs::write(&blob, b"x").unwrap();
    meter.publish(4, "local", 2, b"x").await;
    meter.closed(0x97).await;
    let (mut meter, _) = Client::v5(relay.addr, "meter", false, &expiry(100)).await;
    meter.publish(0xc, "local", 2, b"x").await;
    meter.closed(0x97).await;
    std::fs::remove_file(&blob).unwrap();
    let (mut meter, _) = Client::v5(relay.addr, "meter", false, &expiry(100)).await;
    meter.publish(0xc, "local", 2, b"x").await;
    meter.expect_ack(0x50, 2).await;
    meter.ack(0x62, 2).await;
    meter.expect_ack(0x70, 2).await;
}

#[tokio::test]
async fn readings_are_what_forward_says_with_wills_and_qos_0() {
    let relay = Relay::start_with(|s| s.forward = vec!["meters/#".into(), "+/also".into()]).await;
    let mut meter = relay.v5("meter").await;
    for (flags, topic) in [
        (2, "meters/1"),
        (2, "local/1"),
        (0, "x/also"),
        (2, "$share/meters"),
        (2, "é/also"),
    ] {
        meter.publish(flags, topic, 1, topic.as_bytes()).await;
        if flags > 0 {
            meter.expect_ack(0x40, 1).await;
        }
    }
    let topics: Vec<_> = relay
        .readings()
        .into_iter()
        .map(|(topic, _)| topic)
        .collect();
    assert_eq!(topics, ["meters/1", "x/also", "é/also"]);
}
