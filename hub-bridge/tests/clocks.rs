//! Windows never end, and never begin, by a clock that is not to be trusted.

mod support;

use std::time::Duration;

use hub_bridge::drain::{DrainCause, DrainLog, DrainOutcome};
use support::backlog::MemoryBacklog;
use support::fake_hub::{Answer, FakeHub, accept};
use support::mosquitto::free_port;
use support::village::{Village, settings};
use support::within;

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_clock_neither_begins_nor_ends_a_window() {
    let mut away = settings(free_port());
    away.drain.enabled = true;
    away.drain.time_zone = "UTC".to_owned();
    away.drain.stagger = Duration::ZERO;
    away.drain.attempt_timeout = Duration::from_secs(1);
    away.drain.attempt_wait = Duration::from_secs(1);
    let backlog = MemoryBacklog::new("bamenda-01");
    backlog.fill(1, 20, 10);
    let village = Village::start(away.clone(), backlog.clone());
    // The noon at which it starts makes up for the night before; that one is let go first.
    within(SOON, "the night before is made up for", || async {
        village.handle.status().drain
    })
    .await;
    let drain = village.handle.drain().await.unwrap();
    assert!(drain.joined());
    village.clock.trust(false);
    village.clock.move_to("2026-06-09T08:00:00Z");
    // Two attempts take more than a second: the schedule was looked at several times since.
    let record = within(SOON, "a second attempt", || async {
        Some(drain.progress()).filter(|record| record.attempts >= 2)
    })
    .await;
    assert_eq!((record.cause, record.id), (DrainCause::Missed, 1));
    let hub = FakeHub::start(
        |level, _| accept(level),
        |publish| Answer::PubAck(publish.id, 0),
    )
    .await;
    let mut here = away;
    here.hub = settings(hub.port).hub;
    village.handle.apply(here).await.unwrap();
    let ended = within(SOON, "the drain ends", || async { village.drains.last() }).await;
    assert_eq!(ended.outcome, Some(DrainOutcome::Done), "{ended:?}");

    // Nights pass by that clock, and none of them is a window.
    let id = ended.id;
    for day in 10..14 {
        village.clock.move_to(&format!("2026-06-{day}T02:30:00Z"));
        let before = village.handle.status().counters.forwarded_readings;
        backlog.fill(1, 1, 10);
        within(SOON, "time passes", || async {
            (village.handle.status().counters.forwarded_readings > before).then_some(())
        })
        .await;
    }
    assert_eq!(village.handle.status().next_drain, None);
    // Once it is trusted, the night is made up for: the drain that ran meanwhile was none of this clock's.
    assert_eq!(village.drains.last().unwrap().id, id);
    village.clock.trust(true);
    let next = within(SOON, "the window of the trusted clock", || async {
        village.drains.last().filter(|record| record.id > id)
    })
    .await;
    assert_eq!(next.cause, DrainCause::Window);
    assert!(next.clock_trusted);
    village.stop().await;
}
