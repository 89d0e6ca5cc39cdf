//! Any number of replicas: the sessions are divided among them, and one that dies is stood in for.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what cannot go on fails the test"
)]

mod support;

use support::hub::frame;
use support::mosquitto::Mosquitto;
use support::postgres::Postgres;
use support::receiver::{KEEPING, Message, Receiver, counts, eventually, publish};

const ROWS: &str = "SELECT count(*) FROM readings";
const DISTINCT: &str = "SELECT count(DISTINCT (village, epoch, sequence)) FROM readings";

fn frames(from: u64, count: u64) -> Vec<Message> {
    let frame_of = |n| {
        frame(
            &format!("v-{}", n % 16),
            1,
            from + n * 10 + 1..=from + n * 10 + 10,
        )
    };
    (0..count).map(|n| Message::frame(&frame_of(n))).collect()
}

/// Two share the work, then one is killed and the other does it all, then it comes back.
async fn two_replicas(extra: &str, division: &str) {
    let Some((postgres, mosquitto)) = Postgres::start().zip(Mosquitto::start(KEEPING)) else {
        return;
    };
    let mut one = Receiver::start(&postgres, mosquitto.port, extra);
    one.ready_with(4);
    assert_eq!(one.status().unwrap()["broker"]["division"], division);
    publish(&mosquitto, frames(0, 100)).await;
    let mut two = Receiver::start(&postgres, mosquitto.port, extra);
    two.ready_with(2);
    one.ready_with(2);
    publish(&mosquitto, frames(1000, 100)).await;
    counts(&postgres, ROWS, 2000);
    for receiver in [&one, &two] {
        let stored = receiver.metric("hub_bridge_readings_stored_total");
        assert!(stored > 100.0, "{stored}: both work");
    }
    publish(&mosquitto, frames(2000, 50)).await;
    two.kill();
    publish(&mosquitto, frames(2500, 50)).await;
    one.ready_with(4);
    counts(&postgres, ROWS, 3000);
    two.start_again();
    two.ready_with(2);
    publish(&mosquitto, frames(3000, 50)).await;
    counts(&postgres, ROWS, 3500);
    assert_eq!(postgres.count(DISTINCT), 3500);
    // Nobody did the other's: what is known came again for the kill only.
    let conflicts = postgres.count("SELECT count(*) FROM conflicts");
    assert_eq!(conflicts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_by_the_brokers_shared_subscriptions() {
    two_replicas("", "shared").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_share_by_fixed_partitions_where_the_broker_cannot() {
    two_replicas("[receive]\nshared = \"never\"\n", "partitions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_the_session_and_what_waits_in_it() {
    let Some((postgres, mosquitto)) = Postgres::start().zip(Mosquitto::start(KEEPING)) else {
        return;
    };
    let extra = "[receive]\nshared = \"never\"\npartitions = 1\n";
    let mut one = Receiver::start(&postgres, mosquitto.port, extra);
    one.ready_with(1);
    let mut standby = Receiver::start(&postgres, mosquitto.port, extra);
    eventually("the standby stands by", || {
        let ready = standby.get("/readyz").is_some_and(|(ready, _)| ready);
        (ready && standby.slots_subscribed() == 0)
            .then_some(())
            .ok_or("not yet")
    });
    one.kill();
    publish(&mosquitto, frames(0, 20)).await;
    counts(&postgres, ROWS, 200);
    standby.ready_with(1);
}
