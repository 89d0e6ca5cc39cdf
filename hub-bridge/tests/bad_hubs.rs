//! Hubs that lie, stall, refuse and close: none of them costs a reading, and none is believed.

mod support;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hub_bridge::classify::ErrorClass;
use hub_bridge::settings::{BridgeSettings, ProtocolChoice};
use hub_bridge::status::UplinkStatus;
use hub_bridge::uplink::UplinkState;
use hub_bridge::version::Version;
use support::backlog::MemoryBacklog;
use support::fake_hub::{Answer, FakeHub, Publish, accept};
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(20);

async fn fails_with(village: &Village, class: ErrorClass) -> UplinkStatus {
    within(SOON, class.as_str(), || async {
        let status = village.handle.status();
        let failed = status.counters.failures.contains_key(class.as_str());
        failed.then_some(status)
    })
    .await
}

/// Patient where the test is about something else.
fn hasty(port: u16) -> BridgeSettings {
    let mut settings = settings(port);
    settings.hub.progress_timeout = Duration::from_secs(1);
    settings.retry.max = Duration::from_secs(1);
    settings
}

fn is(publish: &Publish, payload: &[u8]) -> bool {
    publish.rest.ends_with(payload)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_acknowledges_what_it_was_never_sent_is_not_believed() {
    for level in [ProtocolChoice::V5, ProtocolChoice::V311] {
        let hub = FakeHub::start(
            |level, _| accept(level),
            |publish| Answer::PubAck(publish.id.wrapping_add(1000), 0),
        )
        .await;
        let backlog = MemoryBacklog::new("v");
        backlog.fill(2, 20, 10);
        let mut settings = hasty(hub.port);
        settings.hub.protocol = level;
        let village = Village::start(settings, backlog.clone());
        fails_with(&village, ErrorClass::Protocol).await;
        assert_eq!(backlog.confirmed(), 0);
        assert_eq!(backlog.waiting(), 20);
        village.stop().await;
        assert_eq!(backlog.confirmed(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_acknowledges_twice_is_not_believed() {
    let hub = FakeHub::start(
        |level, _| accept(level),
        |publish| {
            let [high, low] = publish.id.to_be_bytes();
            Answer::Raw(vec![0x40, 2, high, low, 0x40, 2, high, low])
        },
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(1, 1, 10);
    let village = Village::start(hasty(hub.port), backlog.clone());
    fails_with(&village, ErrorClass::Protocol).await;
    village.stop().await;
    // Nor about the first of the two: who lies in one breath is not believed in the same breath.
    assert_eq!(backlog.confirmed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_stalls_is_left() {
    let stalled = Arc::new(Mutex::new(true));
    let stall = Arc::clone(&stalled);
    let hub = FakeHub::start(
        |level, _| accept(level),
        move |publish| {
            if *stall.lock().unwrap() {
                Answer::Silence
            } else {
                Answer::PubAck(publish.id, 0)
            }
        },
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(2, 50, 10);
    let village = Village::start(hasty(hub.port), backlog.clone());
    let status = fails_with(&village, ErrorClass::Timeout).await;
    assert_eq!(backlog.confirmed(), 0);
    assert!(status.error.is_some());
    *stalled.lock().unwrap() = false;
    village.drained(SOON).await;
    assert_eq!(village.handle.status().error, None);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_out_of_order_confirm_what_they_name() {
    let held: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let hub = FakeHub::start(
        |level, _| accept(level),
        move |publish| {
            let mut held = held.lock().unwrap();
            held.push(publish.id);
            if held.len() < 5 {
                return Answer::Silence;
            }
            // The last come first.
            let acks = held.drain(..).rev().flat_map(|id| {
                let [high, low] = id.to_be_bytes();
                [0x40, 2, high, low]
            });
            Answer::Raw(acks.collect())
        },
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 1000, 10);
    let village = Village::start(hasty(hub.port), backlog.clone());
    village.drained(SOON).await;
    assert_eq!(hub.connections(), 1);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_vanishes_between_acknowledgements_gets_the_rest_again() {
    let seen: Arc<Mutex<HashSet<Vec<u8>>>> = Arc::default();
    let all = Arc::clone(&seen);
    let mut count = 0;
    let hub = FakeHub::start(
        |level, _| accept(level),
        move |publish| {
            count += 1;
            if count % 37 == 0 {
                return Answer::Close;
            }
            all.lock().unwrap().insert(publish.rest.clone());
            Answer::PubAck(publish.id, 0)
        },
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(4, 500, 10);
    let village = Village::start(hasty(hub.port), backlog.clone());
    village.drained(SOON).await;
    assert_eq!(seen.lock().unwrap().len(), 500);
    assert!(backlog.refused().is_empty());
    assert!(hub.connections() > 5);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_the_hub_refuses_for_its_own_sake_is_put_aside_and_the_rest_goes_on() {
    for reason in [0x90, 0x99, 0x87, 0x80] {
        let hub = FakeHub::start(
            |level, _| accept(level),
            move |publish| {
                let reason = if is(publish, b"bad") { reason } else { 0 };
                Answer::PubAck(publish.id, reason)
            },
        )
        .await;
        let backlog = MemoryBacklog::new("v");
        backlog.fill(2, 10, 10);
        let bad = backlog.append("meter-0", "t", b"bad".to_vec());
        backlog.fill(2, 10, 10);
        let village = Village::start(hasty(hub.port), backlog.clone());
        village.drained(SOON).await;
        let refused: Vec<u64> = backlog.refused().iter().map(|r| r.0).collect();
        assert_eq!(refused, [bad], "{reason:#x}");
        assert_eq!(backlog.confirmed(), 20);
        assert_eq!(village.handle.status().counters.refused_readings, 1);
        village.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_refuses_every_reading_costs_none() {
    for (reason, class) in [
        (0x87, ErrorClass::Auth),
        (0x80, ErrorClass::Refused),
        (0x97, ErrorClass::Refused),
    ] {
        let hub = FakeHub::start(
            |level, _| accept(level),
            move |publish| Answer::PubAck(publish.id, reason),
        )
        .await;
        let backlog = MemoryBacklog::new("v");
        backlog.fill(2, 100, 10);
        let mut settings = hasty(hub.port);
        settings.retry.max_rejected = Duration::from_secs(1);
        let village = Village::start(settings, backlog.clone());
        within(SOON, "it tries again and again", || async {
            let failures = village.handle.status().counters.failures;
            (failures.get(class.as_str()).copied() >= Some(4)).then_some(())
        })
        .await;
        assert!(backlog.refused().is_empty(), "{reason:#x}");
        assert_eq!(backlog.waiting(), 100);
        village.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_that_the_hub_denies_does_not_hold_up_the_others() {
    let hub = FakeHub::start(
        |level, _| accept(level),
        |publish| {
            let denied = publish.topic.contains("denied");
            Answer::PubAck(publish.id, if denied { 0x87 } else { 0 })
        },
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    for n in 0..8 {
        backlog.append("denied-meter", "denied", format!("{n}"));
    }
    backlog.fill(3, 30, 10);
    let village = Village::start(hasty(hub.port), backlog.clone());
    within(SOON, "the others are through", || async {
        (backlog.waiting() + backlog.refused().len() as u64 <= 8).then_some(())
    })
    .await;
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_beside_a_quota_counts() {
    let hub = FakeHub::start(
        |level, _| accept(level),
        |publish| {
            let full = publish.topic.contains("full");
            Answer::PubAck(publish.id, if full { 0x97 } else { 0 })
        },
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    backlog.append("meter-full", "full", "never now");
    backlog.fill(3, 30, 10);
    let village = Village::start(hasty(hub.port), backlog.clone());
    within(SOON, "the others are through", || async {
        (backlog.waiting() <= 1).then_some(())
    })
    .await;
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_breaks_every_connection_is_put_aside_and_the_rest_goes_on() {
    for level in [ProtocolChoice::V5, ProtocolChoice::V311] {
        let hub = FakeHub::start(
            |level, _| accept(level),
            |publish| {
                if is(publish, b"bad") {
                    Answer::Close
                } else {
                    Answer::PubAck(publish.id, 0)
                }
            },
        )
        .await;
        let backlog = MemoryBacklog::new("v");
        backlog.fill(3, 30, 10);
        let bad = backlog.append("meter-1", "t", b"bad".to_vec());
        backlog.fill(3, 30, 10);
        let mut settings = hasty(hub.port);
        settings.hub.protocol = level;
        let village = Village::start(settings, backlog.clone());
        village.drained(Duration::from_secs(60)).await;
        let refused: Vec<u64> = backlog.refused().iter().map(|r| r.0).collect();
        assert_eq!(refused, [bad]);
        assert_eq!(backlog.confirmed(), 60);
        village.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_hub_never_answers_is_put_aside_too_even_alone() {
    let hub = FakeHub::start(
        |level, _| accept(level),
        |publish| {
            if is(publish, b"bad") {
                Answer::Silence
            } else {
                Answer::PubAck(publish.id, 0)
            }
        },
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    let bad = backlog.append("meter-1", "t", b"bad".to_vec());
    let village = Village::start(hasty(hub.port), backlog.clone());
    village.drained(Duration::from_secs(60)).await;
    assert_eq!(backlog.refused()[0].0, bad);
    village.stop().await;
}

/// While meters go on, the link always moves: the one reading would hold the mark, and the disk, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_the_hub_never_answers_while_others_pass_is_put_aside_too() {
    let hub = FakeHub::start(
        |level, _| accept(level),
        |publish| {
            if is(publish, b"bad") {
                Answer::Silence
            } else {
                Answer::PubAck(publish.id, 0)
            }
        },
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    let bad = backlog.append("meter-1", "t", b"bad".to_vec());
    let village = Village::start(hasty(hub.port), backlog.clone());
    let meters = Arc::clone(&backlog);
    let meters = tokio::spawn(async move {
        loop {
            meters.append("meter-2", "t", b"good".to_vec());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    within(Duration::from_secs(60), "it is put aside", || async {
        backlog
            .refused()
            .first()
            .map(|refused| assert_eq!(refused.0, bad))
    })
    .await;
    meters.abort();
    village.drained(SOON).await;
    assert_eq!(backlog.refused().len(), 1);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_closes_on_every_publish_costs_no_reading() {
    let hub = FakeHub::start(|level, _| accept(level), |_| Answer::Close).await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 30, 10);
    let village = Village::start(hasty(hub.port), backlog.clone());
    within(Duration::from_secs(60), "many losses", || async {
        (hub.connections() > 20).then_some(())
    })
    .await;
    assert!(backlog.refused().is_empty());
    assert_eq!(backlog.waiting(), 30);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_knows_311_only_is_spoken_to_in_311_and_status_says_that_identity_is_missing() {
    // Closes on 5; answers as 3.1.1 does; says 0x84.
    let answers: [fn() -> Vec<u8>; 3] = [
        Vec::new,
        || vec![0x20, 2, 0, 1],
        || vec![0x20, 3, 0, 0x84, 0],
    ];
    for answer in answers {
        let hub = FakeHub::start(
            move |level, _| if level == 4 { accept(4) } else { answer() },
            |publish| Answer::PubAck(publish.id, 0),
        )
        .await;
        let backlog = MemoryBacklog::new("v");
        backlog.fill(3, 30, 10);
        let mut settings = hasty(hub.port);
        settings.hub.connect_timeout = Duration::from_secs(1);
        let village = Village::start(settings, backlog.clone());
        village.drained(SOON).await;
        let status = village.handle.status();
        assert_eq!(
            (status.protocol, status.identity),
            (Some(Version::V311), Some(false))
        );
        village.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_offers_5_gets_identities_even_after_two_cuts() {
    let levels: Arc<Mutex<Vec<u8>>> = Arc::default();
    let seen = Arc::clone(&levels);
    let hub = FakeHub::start(
        move |level, number| {
            seen.lock().unwrap().push(level);
            if number < 2 {
                Vec::new()
            } else {
                accept(level)
            }
        },
        |publish| Answer::PubAck(publish.id, 0),
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(3, 30, 10);
    let village = Village::start(hasty(hub.port), backlog.clone());
    village.drained(SOON).await;
    assert_eq!(village.handle.status().identity, Some(true));
    assert_eq!(*levels.lock().unwrap(), [5, 5, 4, 5]);
    village.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_says_to_a_connect_has_its_class_and_its_wait() {
    let cases: [(Vec<u8>, ErrorClass); 4] = [
        // Without properties, as mosquitto has it.
        (vec![0x20, 3, 0, 0, 0, 0xe0, 1, 0x8e], ErrorClass::TakenOver),
        (vec![0x20, 3, 0, 0x86, 0], ErrorClass::Auth),
        (vec![0x20, 3, 0, 0x85, 0], ErrorClass::Refused),
        (
            vec![0x20, 3, 0, 0, 0, 0xe0, 2, 0x8e, 0],
            ErrorClass::TakenOver,
        ),
    ];
    for (hello, class) in cases {
        let hub = FakeHub::start(move |_, _| hello.clone(), |_| Answer::Silence).await;
        let backlog = MemoryBacklog::new("v");
        backlog.fill(1, 1, 10);
        let village = Village::start(settings(hub.port), backlog);
        let status = fails_with(&village, class).await;
        assert_eq!(status.error.unwrap().class, class);
        within(SOON, "it waits", || async {
            let status = village.handle.status();
            let waits = status.state == UplinkState::BackingOff;
            (waits && status.retry_in_s.unwrap() > 0.1).then_some(())
        })
        .await;
        village.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_larger_than_the_hub_takes_is_put_aside() {
    // CONNACK with maximum packet size 1000.
    let hub = FakeHub::start(
        |_, _| vec![0x20, 8, 0, 0, 5, 0x27, 0, 0, 0x03, 0xe8],
        |publish| Answer::PubAck(publish.id, 0),
    )
    .await;
    let backlog = MemoryBacklog::new("v");
    backlog.fill(2, 10, 10);
    let large = backlog.append("m", "t", vec![1; 1000]);
    backlog.fill(2, 10, 10);
    let village = Village::start(settings(hub.port), backlog.clone());
    village.drained(SOON).await;
    assert_eq!(backlog.refused()[0].0, large);
    assert_eq!((backlog.refused().len(), backlog.confirmed()), (1, 20));
    assert_eq!(hub.connections(), 1);
    village.stop().await;
}
