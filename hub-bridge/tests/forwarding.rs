//! What waits in the village reaches a real hub, as it was sent, once the hub can be reached.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use hub_bridge::reading::PublishProperties;
use hub_bridge::uplink::UplinkState;
use support::backlog::MemoryBacklog;
use support::mosquitto::{Mosquitto, Subscriber};
use support::thin_link::ThinLink;
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_arrives_as_it_was_sent() {
    let Some(hub) = Mosquitto::start("max_inflight_messages 0\nmax_queued_messages 0") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let mut sent = HashMap::new();
    for n in 0..2000u64 {
        let payload: Vec<u8> = (0..n % 300)
            .map(|b| u8::try_from((b * n) % 256).unwrap())
            .collect();
        let topic = format!("compteur/été-{}", n % 7);
        let sequence = backlog.append(&format!("m{}", n % 7), &topic, payload.clone());
        sent.insert(sequence, (format!("villages/bamenda-01/{topic}"), payload));
    }
    let village = Village::start(settings(hub.port), backlog);
    village.drained(SOON).await;
    within(SOON, "all at the hub", || async {
        (at_hub.len() >= 2000).then_some(())
    })
    .await;
    let mut last: HashMap<String, u64> = HashMap::new();
    for got in at_hub.got() {
        let sequence = got.sequence().unwrap();
        let (topic, payload) = sent
            .remove(&sequence)
            .expect("once, and only what was sent");
        assert_eq!((&got.topic, &got.payload), (&topic, &payload));
        let before = last.insert(topic, sequence).unwrap_or(0);
        assert!(before < sequence, "the order of a meter is kept");
        let at = got.properties.user_properties.last().unwrap();
        assert_eq!(
            at,
            &("at".to_owned(), (1_780_000_000_000 + sequence).to_string())
        );
    }
    assert!(sent.is_empty());
    let status = within(SOON, "idle", || async {
        let status = village.handle.status();
        (status.state == UplinkState::Connected).then_some(status)
    })
    .await;
    assert_eq!(status.identity, Some(true));
    assert_eq!(status.counters.forwarded_readings, 2000);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_meters_properties_and_retain_travel_along() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let backlog = MemoryBacklog::new("bamenda-01");
    let own = PublishProperties {
        payload_format_indicator: Some(1),
        content_type: Some("text/plain".to_owned()),
        response_topic: Some("answer".to_owned()),
        correlation_data: Some(vec![1, 2, 3].into()),
        user_properties: vec![("unit".to_owned(), "kWh".to_owned())],
    };
    backlog.append_reading("m", "t", b"12".to_vec(), true, Some(own));
    let village = Village::start(settings(hub.port), backlog);
    village.drained(SOON).await;
    let at_hub = Subscriber::connect(hub.port).await;
    within(SOON, "the retained reading", || async {
        (at_hub.len() == 1).then_some(())
    })
    .await;
    let got = &at_hub.got()[0];
    assert!(got.retain);
    let properties = &got.properties;
    assert_eq!(properties.content_type.as_deref(), Some("text/plain"));
    assert_eq!(properties.response_topic.as_deref(), Some("answer"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&[1, 2, 3][..]));
    let names: Vec<&str> = properties
        .user_properties
        .iter()
        .map(|p| p.0.as_str())
        .collect();
    assert_eq!(names, ["unit", "id", "at"]);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_comes_and_goes_loses_nothing() {
    let Some(hub) = Mosquitto::start("max_queued_messages 0\nmax_inflight_messages 0") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let link = ThinLink::start(hub.port, 8_000_000.0, Duration::from_millis(10)).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    backlog.fill(5, 500, 100);
    let village = Village::start(settings(link.port), backlog.clone());
    for round in 0..6u64 {
        backlog.fill(5, 2000, 100);
        let some = (round + 1) * 1000;
        within(SOON, "some arrive", || async {
            (backlog.confirmed() >= some).then_some(())
        })
        .await;
        link.set_up(false);
        tokio::time::sleep(Duration::from_millis(100)).await;
        link.set_up(true);
    }
    village.drained(SOON).await;
    within(SOON, "every one at the hub", || async {
        (at_hub.counts().len() == 12_500).then_some(())
    })
    .await;
    assert_eq!(village.backlog.confirmed(), 12_500);
    assert!(village.handle.status().counters.resent_readings > 0);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_back_is_sent_again_without_retain() {
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let at_hub = Subscriber::connect(hub.port).await;
    let backlog = MemoryBacklog::new("bamenda-01");
    let first = backlog.append_reading("m", "t", b"old".to_vec(), true, None);
    let old = backlog.get(first).unwrap();
    backlog.append_reading("m", "t", b"new".to_vec(), true, None);
    let village = Village::start(settings(hub.port), backlog.clone());
    village.drained(SOON).await;
    backlog.bring_back(old);
    village.drained(SOON).await;
    within(SOON, "three publishes", || async {
        (at_hub.len() == 3).then_some(())
    })
    .await;
    assert_eq!(at_hub.got()[2].payload, b"old");
    let later = Subscriber::connect(hub.port).await;
    within(SOON, "the retained one", || async {
        (later.len() == 1).then_some(())
    })
    .await;
    assert_eq!(later.got()[0].payload, b"new");
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_for_a_while_is_asked_again() {
    use std::sync::atomic::Ordering;
    let Some(hub) = Mosquitto::start("") else {
        return;
    };
    let backlog = MemoryBacklog::new("bamenda-01");
    backlog.fill(3, 200, 50);
    backlog.fail_reads.store(true, Ordering::Relaxed);
    let village = Village::start(settings(hub.port), backlog.clone());
    within(SOON, "it says what limits it", || async {
        (village.handle.status().limited_by.as_str() == "storage").then_some(())
    })
    .await;
    backlog.fail_confirms.store(true, Ordering::Relaxed);
    backlog.fail_reads.store(false, Ordering::Relaxed);
    within(SOON, "acknowledged", || async {
        (village.handle.status().counters.forwarded_readings == 200).then_some(())
    })
    .await;
    assert_eq!(backlog.confirmed(), 0);
    backlog.fail_confirms.store(false, Ordering::Relaxed);
    village.drained(SOON).await;
    assert_eq!(backlog.confirmed(), 200);
    village.stop().await;
}
